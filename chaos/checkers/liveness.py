"""Liveness: once faults have stopped, every group has one leader that all follow, and all replicas
reach the same point, within a bound, and the highest feature level that they support. A breach is
called stuck, not wrong. Pure."""

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
    feature_level: int = 1

    def __str__(self) -> str:
        return (
            f"{self.role} term {self.term} leader {self.leader} commit {self.commit_index} "
            f"applied {self.applied_index} last {self.last_index} level {self.feature_level} "
            f"voters {','.join(self.voters)}"
        )


def unconverged(
    replicas: Mapping[str, ReplicaView], required: Sequence[str], level: int = 1
) -> str | None:
    """None if the group is whole: the required nodes (those that a leader counts as voters or
    learners, if it names any) agree on one leader and have applied all that it committed, and the
    group has reached the feature level that they support."""
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
    if view.feature_level < level:
        return f"it is at feature level {view.feature_level} and all members support {level}"
    return None


def check_liveness(
    group: int,
    replicas: Mapping[str, ReplicaView],
    required: Sequence[str],
    waited_s: float,
    level: int = 1,
) -> list[Violation]:
    reason = unconverged(replicas, required, level)
    if reason is None:
        return []
    return [
        Violation(
            "liveness",
            f"group {group} has not recovered {waited_s:g} s after the last fault: {reason}",
            tuple(f"{node}: {replicas[node]}" for node in sorted(replicas)),
        )
    ]
