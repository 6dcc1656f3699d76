"""Liveness: once faults have stopped, every group has one leader that all follow, and all replicas
reach the same point, within a bound. A breach is called stuck, not wrong. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from chaos.checkers.violation import Violation


@dataclass(frozen=True, slots=True)
class ReplicaView:
    """What one replica says of itself."""

    role: str
    term: int
    leader: str | None
    commit_index: int
    applied_index: int
    last_index: int
    voters: tuple[str, ...]

    def __str__(self) -> str:
        return (
            f"{self.role} term {self.term} leader {self.leader} commit {self.commit_index} "
            f"applied {self.applied_index} last {self.last_index} voters {','.join(self.voters)}"
        )


def unconverged(replicas: Mapping[str, ReplicaView], required: Sequence[str]) -> str | None:
    """None if the group is whole: the required nodes (those that a leader counts as voters or
    learners, if it names any) agree on one leader and have applied all that it committed."""
    leaders = [node for node in sorted(replicas) if replicas[node].role == "leader"]
    if not leaders:
        return "it has no leader"
    leader = max(leaders, key=lambda node: replicas[node].term)
    view = replicas[leader]
    for node in required:
        replica = replicas.get(node)
        if replica is None:
            return f"{node} has no replica of it"
        if replica.leader != leader:
            return f"{node} follows {replica.leader}, not {leader}"
        if replica.applied_index < view.commit_index:
            return f"{node} applied {replica.applied_index} of {view.commit_index}"
    if view.commit_index < view.last_index:
        return f"{leader} committed {view.commit_index} of {view.last_index}"
    return None


def check_liveness(
    group: int,
    replicas: Mapping[str, ReplicaView],
    required: Sequence[str],
    waited_s: float,
) -> list[Violation]:
    reason = unconverged(replicas, required)
    if reason is None:
        return []
    return [
        Violation(
            "liveness",
            f"group {group} has not recovered {waited_s:g} s after the last fault: {reason}",
            tuple(f"{node}: {replicas[node]}" for node in sorted(replicas)),
        )
    ]
