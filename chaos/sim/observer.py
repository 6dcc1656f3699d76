"""Sees everything that replicas do and asks the checkers about it, as it happens.

It stands outside the cluster: it never changes what happens, except that the first violation stops
the run. Applications are judged one by one; leaderships after every turn of a node; whole logs now
and then, and at the end.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from chaos.checkers.applied_once import check_application
from chaos.checkers.election_safety import ElectionSafety
from chaos.checkers.feature_levels import FeatureLevels, check_command
from chaos.checkers.leader_completeness import LeaderCompleteness
from chaos.checkers.log_matching import Entry, check_logs
from chaos.checkers.state_machine_safety import StateMachineSafety
from chaos.checkers.violation import Violation
from chaos.sim.machine import AppliedRecord
from chaos.sim.world import World
from raftgroups.group import Group
from raftgroups.status import Role
from storage.committer import Need
from storage.engine import Batch

if TYPE_CHECKING:
    from chaos.sim.node import SimNode


TAIL_ENTRIES: Final = 300
"""What is compared during a run; at its end, the whole logs are."""


@dataclass(slots=True)
class Observer:
    world: World
    violations: list[Violation] = field(default_factory=list)
    leaderships: int = 0
    applications: int = 0
    elections: ElectionSafety = field(default_factory=ElectionSafety)
    completeness: LeaderCompleteness = field(default_factory=LeaderCompleteness)
    machines: StateMachineSafety = field(default_factory=StateMachineSafety)
    levels: FeatureLevels = field(default_factory=FeatureLevels)
    _led: dict[tuple[str, int], int] = field(default_factory=dict)
    """(node's life, group) -> the last term that it was seen to lead."""

    def report(self, found: Iterable[Violation]) -> None:
        for violation in found:
            self.violations.append(violation)
            self.world.trace(f"VIOLATION {violation}")
            self.world.stop("violation")

    def applied(self, node: SimNode, record: AppliedRecord, last_index: int) -> None:
        self.applications += 1
        label, group, index = node.label, record.group_id, record.index
        self.world.trace(f"{label} g{group} applied {index} {record.chain.hex()[:8]}")
        self.report(check_application(group, label, index, last_index, record.repeated_at))
        self.report(check_command(group, label, index, record.level, node.level))
        self.report(
            self.machines.observe(
                group,
                label,
                (index, record.position),
                record.payload,
                repr(record.answer),
                record.chain,
            )
        )
        self.completeness.applied(group, index, record.payload)

    def turn(self, node: SimNode) -> None:
        """Called after the host's part of every turn of a node."""
        assert node.host is not None, "a turn of a living process"
        groups = node.host.groups
        leading = [number for number, group in groups.items() if group.role is Role.LEADER]
        for group_id in sorted(leading):
            self._leads(node, group_id, groups[group_id])

    def _leads(self, node: SimNode, group_id: int, group: Group) -> None:
        term = group.term
        key = (node.boot_id, group_id)
        if self._led.get(key) == term:
            return
        self._led[key] = term
        self.leaderships += 1
        self.world.trace(f"{node.label} g{group_id} leads term {term}")
        self.report(self.elections.observe(group_id, term, node.label))
        log = read_log(group)
        first_index = log[0].index if log else group.status().last_index + 1
        self.report(self.completeness.leads(group_id, node.label, term, first_index, log))

    def compare_logs(self, nodes: Sequence[SimNode], tail: int | None = TAIL_ENTRIES) -> None:
        """Log matching over all replicas that live now; and the levels they tell."""
        groups: dict[int, dict[str, list[Entry]]] = {}
        supported = {node.node_id: node.level for node in nodes}
        for node in nodes:
            for group_id, group in node.groups():
                if group.replica.waiting:
                    self.levels.begins_anew(group_id, node.boot_id)
                    continue
                level = group.feature_level
                members = {str(voter): supported[voter] for voter in group.status().voters}
                self.report(self.levels.observe(group_id, node.boot_id, level, members))
                if group.role is not Role.REMOVED:
                    groups.setdefault(group_id, {})[node.label] = read_log(group, tail)
        for group_id in sorted(groups):
            self.report(check_logs(group_id, groups[group_id]))


def read_log(group: Group, tail: int | None = TAIL_ENTRIES) -> list[Entry]:
    """The last entries of a replica's log, or all that it holds."""
    status = group.status()
    first = status.first_index
    if tail is not None:
        first = max(first, status.last_index - tail + 1)
    return [
        Entry(record.number, record.term, record.payload)
        for record in group.log(first, status.last_index)
    ]


class TurnWatcher:
    """A participant that only looks: registered after the host, it sees each turn's outcome."""

    def __init__(self, observer: Observer, node: SimNode) -> None:
        self._observer = observer
        self._node = node

    def begin_turn(self) -> Need:
        self._observer.turn(self._node)
        return Need.NOTHING

    def prepare(self, batch: Batch) -> None:
        pass

    def after_commit(self) -> None:
        pass

    def stalled(self, seconds: float) -> None:
        self._observer.world.trace(f"{self._node.label} stalled {seconds:.3f} s in a sync")
