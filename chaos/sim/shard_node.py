"""Nodes and clusters of the simulator whose groups are shards: the production machine, watched.

Each of the first groups is a keyspace of its own and its only shard. `cluster.groups` follows the
truth: a group is added when the first replica of it was born, and taken away when the first node
has seen it absorbed; both happen only once the entry is committed.

Every node does what kv does for it in production: it joins a group that it is a member of and does
not have (it was behind when the parent was split), forgets one that it was removed from, and erases
what it still has of one that is over. And leaders tell those who were away when they were removed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, cast

from chaos.checkers.shard_events import ShardEvents
from chaos.sim.bank import ACCOUNTS
from chaos.sim.cluster import Cluster
from chaos.sim.machine import AppliedRecord
from chaos.sim.node import SimNode
from chaos.sim.settings import DrawnSettings, SimConfig
from chaos.sim.world import NodeScheduler
from raftgroups.commands import stamp
from raftgroups.dedupe import Dedupe
from raftgroups.group import Group
from raftgroups.host import GroupHost
from raftgroups.levels import FEATURE_LEVEL
from raftgroups.machine import ShardMachine
from raftgroups.machine_api import StateMachine
from raftgroups.machine_parts import ShardPlace
from raftgroups.results import Result
from raftgroups.status import Role
from raftgroups.transport import Link, NodeId
from storage.latest import Latest
from storage.mvcc import Divided
from storage.mvcc_records import KeyValue, event_of

SHARD_CANARIES: Final = frozenset({"dedupe-not-inherited", "absorb-unchecked"})
"""Bugs of shards that are put back here and in the planner, not in raftgroups."""
TIDY_S: Final = 0.5
DISMISS_S: Final = 1.0
BORN_FROM: Final = 100
"""Shards and segments made by splits have numbers from here on."""

Applied = Callable[[int, int, bytes, Result], None]
Piece = tuple[bytes, bytes | None, int]
"""From start to end, a segment."""


class SimShard(ShardMachine):
    """Tells what it applies; and forgets remembered answers at a split, if that canary sings."""

    forgetful = False
    on_applied: Applied | None = None
    _at = (-1, 0)

    def apply_each(self, index: int, payloads: Sequence[bytes]) -> list[Result]:
        results = super().apply_each(index, payloads)
        for payload, result in zip(payloads, results, strict=True):
            before, place = self._at
            self._at = (index, place + 1 if index == before else 0)
            if self.on_applied is not None:
                self.on_applied(*self._at, payload, result)
        return results

    def born(self, right: Divided, ttls: int) -> None:
        dedupe = self.dedupe
        if self.forgetful:
            self.dedupe = Dedupe(self.shard.state.shard)
        super().born(right, ttls)
        self.dedupe = dedupe


class ShardNode(SimNode):
    cluster: ShardCluster

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.installed_level = self.level = FEATURE_LEVEL
        self.removals_are_tidied_here = True
        self._forgetting: set[int] = set()

    def shard(self, group_id: int) -> SimShard | None:
        """A replica that has a state."""
        group = None if self.host is None else self.host.groups.get(group_id)
        if group is None or not group.readable or group.replica.waiting:
            return None
        return cast(SimShard, group.machine)

    def stamped(self, group_id: int, payload: bytes) -> bytes:
        """With the clock of the shard, which nobody else moves here."""
        return stamp(payload, int(self.world.now * 1000), 0)

    def _make_machine(self, group_id: int) -> StateMachine:
        place = ShardPlace.stored(group_id)
        if group_id in self.to_form:
            place = self._first_place(group_id)
        machine = self._new_machine(place)
        machine.forgetful = "dedupe-not-inherited" in self.cluster.config.canaries
        last_index = machine.shard.state.applied_index

        def applied(index: int, position: int, payload: bytes, result: Result) -> None:
            nonlocal last_index
            record = AppliedRecord(
                group_id, index, position, payload, 1, cast(Any, result), b"", None
            )
            self.observer.applied(self, record, last_index)
            last_index = index

        machine.on_applied = applied
        self._listen(machine)
        return machine

    def _new_machine(self, place: ShardPlace) -> SimShard:
        return SimShard(Latest(self.engine, self.clock), place)

    def _listen(self, machine: SimShard) -> None:
        def told(revision: int, bodies: Sequence[bytes]) -> None:
            for body in bodies:
                self._changed(machine, event_of(body).kv)

        machine.observer = told

    def _changed(self, machine: SimShard, kv: KeyValue) -> None:
        keyspace, events = machine.shard.state.keyspace, self.cluster.events
        found = events.applied(self.label, keyspace, kv.key, kv.mod_revision, kv.value)
        self.observer.report(found)

    def _first_place(self, group_id: int) -> ShardPlace:
        return ShardPlace(group_id, group_id, group_id, group_id)

    def _assembled(self, host: GroupHost, link: Link, scheduler: NodeScheduler) -> None:
        self._forgetting.clear()
        host.roster.on_birth = self._born
        host.roster.on_end = self._ended
        host.on_unknown_group = self._unknown
        self.world.after(TIDY_S, self._tidy, owner=self.process)

    def _born(self, group: Group) -> None:
        self.world.trace(f"{self.label} g{group.group_id} is born")
        self.cluster.born(group.group_id)

    def _ended(self, group_id: int) -> None:
        self.world.trace(f"{self.label} g{group_id} ends")
        self.to_join.pop(group_id, None)
        self.cluster.ended(group_id)

    def _unknown(self, group_id: int, peer: NodeId) -> None:
        known = group_id in self.cluster.groups and group_id not in self._forgetting
        if known and self.label in self.cluster.members(group_id):
            self.world.trace(f"{self.label} g{group_id} is not here")
            self._join(group_id)

    def _tidy(self) -> None:
        """Forget what this node was removed from, and what nobody has any more."""
        assert self.host is not None
        for group_id, group in list(self.groups()):
            if group.role is Role.REMOVED and self.removals_are_tidied_here:
                self.forget(group_id)
            elif self._is_over(group_id) and not self.host.awaited(group_id):
                self.world.trace(f"{self.label} g{group_id} is over")
                self.to_join.pop(group_id, None)
                self.host.retire(group_id, _nothing)
        self.world.after(TIDY_S, self._tidy, owner=self.process)

    def _is_over(self, group_id: int) -> bool:
        return group_id in self.cluster.gone

    def forget(self, group_id: int) -> None:
        assert self.host is not None
        self.world.trace(f"{self.label} g{group_id} is forgotten")
        self.to_join.pop(group_id, None)
        self.to_form = {each: v for each, v in self.to_form.items() if each != group_id}
        self._forgetting.add(group_id)

        def done() -> None:
            self._forgetting.discard(group_id)
            if group_id in self.to_join:
                self._join(group_id)

        self.host.forget(group_id, done)

    def join(self, group_id: int) -> bool:
        group = None if self.host is None else self.host.groups.get(group_id)
        if group is not None and group.role is Role.REMOVED:
            self.forget(group_id)
        super().join(group_id)
        group = None if self.host is None else self.host.groups.get(group_id)
        return group is not None and group.blank

    def _join(self, group_id: int) -> None:
        if group_id not in self._forgetting:
            super()._join(group_id)


class ShardCluster(Cluster):
    def __init__(self, config: SimConfig, drawn: DrawnSettings, **options: Any) -> None:
        self.events = ShardEvents(ACCOUNTS)
        self.gone: set[int] = set()
        super().__init__(config, drawn, **options)
        self.keyspaces = list(self.groups)
        self.first_pieces: dict[int, list[Piece]] = {
            keyspace: [(b"", None, keyspace)] for keyspace in self.keyspaces
        }
        self._numbers = BORN_FROM
        self.world.after(DISMISS_S, self._dismiss)

    def _make_node(self, *args: Any) -> ShardNode:
        node = ShardNode(*args)
        node.cluster = self
        return node

    @property
    def shard_nodes(self) -> list[ShardNode]:
        return cast(list[ShardNode], self.nodes)

    def number(self) -> int:
        """What the meta group gives out; never the same twice."""
        self._numbers += 1
        return self._numbers

    def born(self, group_id: int) -> None:
        if group_id not in self.groups and group_id not in self.gone:
            self.groups.append(group_id)
            self.served.add(group_id)
            self.admin.born(group_id)

    def ended(self, group_id: int) -> None:
        self.gone.add(group_id)
        if group_id in self.groups:
            self.groups.remove(group_id)
            self.admin.ended(group_id)

    def _dismiss(self) -> None:
        """Have those told that were away when they were removed, and never ask."""
        for group_id in self.groups:
            found = self.admin.leader(group_id)
            if found is None:
                continue
            members = self.members(group_id)
            for node in self.shard_nodes:
                group = None if node.host is None else node.host.groups.get(group_id)
                if group is not None and not group.blank and node.label not in members:
                    found[1].dismiss(node.node_id)
        self.world.after(DISMISS_S, self._dismiss)

    def places(self, keyspace: int, key: bytes) -> list[tuple[int, int]]:
        """(epoch, group) of every replica that says it holds the key."""
        found = set()
        for node in self.shard_nodes:
            for group_id, _ in node.groups():
                shard = node.shard(group_id)
                if shard is None or shard.shard.state.keyspace != keyspace or shard.frozen:
                    continue
                place = shard.view.place
                if key >= place.start and (place.end is None or key < place.end):
                    found.add((place.epoch, group_id))
        return sorted(found)


def _nothing() -> None:
    pass
