"""The groups of a node, as it serves them: their machines, births and ends, and whose they are.

    make_machine      a group is formed, joined, divided off or found on the disk: its host asks
    serve             a StrongShard over it, known to its keyspace, once it can be
    leave             its keyspace is dropped, its replica removed, its shard absorbed
    lead, evaluate    for other nodes: propose what only a leader may, read what only a replica can

Which groups are to be here is not decided here: that follows from the map (kv/meta/keeper.py), and
from splits and merges as their entries are applied. Group 0 is the meta group's, not a shard's.

Invariant: a shard is in `shards` exactly as long as its keyspace knows it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from kv.errors import KeyspaceNotFoundError
from kv.handing_over import hand_over_all
from kv.strong.frames import Question
from kv.strong.keyspace import Keyspace
from kv.strong.machine import ServedMachine
from kv.strong.places import read_place
from kv.strong.questions import evaluate
from kv.strong.shard import StrongShard
from raftgroups.group import tell_each
from raftgroups.machine_api import StateMachine
from raftgroups.machine_parts import ShardPlace
from raftgroups.meta.machine import META_GROUP, MetaMachine
from raftgroups.meta.records import DEFAULT_KEYSPACE_ID, FIRST_SHARD, KeyspaceRecord
from raftgroups.outcomes import DoneEach, ProposeResult, Refused
from raftgroups.transport import NodeId
from storage.latest import Latest

if TYPE_CHECKING:
    from kv.metrics.metrics import Proposals
    from kv.node import Node

FIRST_GROUP: Final = FIRST_SHARD
"""The group of the first shard of the keyspace `default`."""
FIRST_PLACE: Final = ShardPlace(group=FIRST_GROUP, shard=1, keyspace=1, segment=1)
"""Where group 1 of a directory belongs that holds no record of it: one from before there was a meta
group."""

RECENT_BYTES: Final = 32 * 1024 * 1024
"""Of the records read or written lately that stay in memory, of all shards here together, where
each gets more than the least."""
RECENT_LEAST_BYTES: Final = 128 * 1024
RECENT_MOST_BYTES: Final = 5 * 1024 * 1024
"""Of a generation of one shard; there are two."""


def recent_share(shards: int) -> int:
    """The generation of each of so many."""
    share = RECENT_BYTES // (2 * max(shards, 1))
    return max(RECENT_LEAST_BYTES, min(RECENT_MOST_BYTES, share))


class Serving:
    """For the node's loop only. Made before the host and the forwarder, which call back here."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.machines: dict[int, ServedMachine] = {}
        self._meta_machine: MetaMachine | None = None
        self.shards: dict[int, StrongShard] = {}
        """Served here, by group."""
        self.keyspaces: dict[int, Keyspace] = {}
        self._tries: Proposals | None = None
        self._on_overload: Callable[[], None] | None = None
        self._has_begun = asyncio.Event()

    def make_machine(self, group_id: int) -> StateMachine:
        """For the host."""
        node = self._node
        latest = Latest(node.engine, node.clock)
        if group_id == META_GROUP:
            self._meta_machine = MetaMachine(latest, latest.renew)
            return self._meta_machine
        place = read_place(node.engine, group_id)
        if place is None:
            assert group_id == FIRST_GROUP, f"nothing says where group {group_id} belongs"
            place = FIRST_PLACE
        machine = ServedMachine(latest, place)
        self.machines[group_id] = machine
        return machine

    def host_meta(self) -> None:
        """Group 0 has a replica here."""
        assert self._meta_machine is not None
        self._node.meta.host(self._node.host.group(META_GROUP), self._meta_machine)

    def learn_from_removed_meta(self) -> None:
        """The replica of group 0 was removed, or is of a directory that was restored: what it knew
        is the oldest map that is right to begin with, until this node is admitted again."""
        assert self._meta_machine is not None
        self._node.meta.learn(self._meta_machine.view)

    # --- births and ends --------------------------------------------------------------------

    def serve(self, group_id: int) -> None:
        node = self._node
        shard = StrongShard(
            node.host.group(group_id),
            self.machines[group_id],
            node.forwarder,
            scheduler=node.loop,
            clock=node.clock,
            gate=node.gate,
            settings=node.settings.shard,
            meter=node.division.attendant.meter(group_id),
        )
        shard.tries, shard.waiting.on_overload = self._tries, self._on_overload
        self.shards[group_id] = shard
        self._share_memory()
        node.host.wake(group_id)
        self.keyspace(shard.machine.place.keyspace).served(shard)
        self.note_begun()

    def leave(self, group_id: int) -> None:
        """Its keyspace is dropped, or its replica was removed."""
        shard = self.shards.pop(group_id, None)
        if shard is not None:
            self.keyspace(shard.machine.place.keyspace).left(shard)
            shard.leave("this shard is not served here any more")
            shard.machine.remember(RECENT_LEAST_BYTES)
            self._share_memory()

    def _share_memory(self) -> None:
        share = recent_share(len(self.shards))
        for shard in self.shards.values():
            shard.machine.remember(share)

    def unknown(self, group: int, peer: NodeId) -> None:
        """A peer speaks of a group that is not here. If the map places a replica here, and no shard
        here still holds its keys (which it would divide off by itself), its split was passed over
        by a snapshot: join it."""
        node = self._node
        shard = node.meta.map.view.shards.get(group)
        if shard is None or node.node_id not in shard.replicas or shard.founders:
            return
        if any(each.holds(shard.keyspace, shard.start) for each in self.shards.values()):
            return
        node.loop.call_soon(node.keeper.join, shard)

    async def begun(self) -> None:
        """Returns once the map is known, and the shards that it places here are here."""
        await self._has_begun.wait()

    def note_begun(self) -> None:
        """The map has changed, or what is here."""
        node = self._node
        if not node.meta.map.known:
            return
        own = node.node_id
        due = (s for s in node.meta.map.view.shards_on(own) if s.shard != META_GROUP)
        waiting = [
            shard.shard
            for shard in due
            if shard.shard not in self.shards
            and (
                node.keeper.is_due(shard.shard)
                or (own in dict(shard.founders) and own not in shard.formed)
            )
        ]
        if not waiting:
            self._has_begun.set()

    # --- who is asked -----------------------------------------------------------------------

    def keyspace(self, keyspace: int) -> Keyspace:
        """By id, whether or not the map knows it yet."""
        found = self.keyspaces.get(keyspace)
        if found is None:
            node = self._node
            found = self.keyspaces[keyspace] = Keyspace(
                keyspace,
                meta=node.meta,
                forwarder=node.forwarder,
                scheduler=node.loop,
                clock=node.clock,
                tasks=node.tasks,
                gate=node.gate,
                settings=node.settings.shard,
            )
        return found

    def record_named(self, name: str) -> KeyspaceRecord:
        """Raises KeyspaceNotFoundError."""
        record = self._node.meta.map.view.keyspace_named(name)
        if record is None:
            raise KeyspaceNotFoundError(
                f"there is no keyspace {name[:64]!a}; GET /api/v1/admin/keyspaces lists them"
            )
        return record

    @property
    def default(self) -> Keyspace:
        """The keyspace `default`."""
        return self.keyspace(DEFAULT_KEYSPACE_ID)

    @property
    def first(self) -> StrongShard:
        """The first shard of the keyspace `default`, if it is served here."""
        return self.shards[FIRST_GROUP]

    def leader_of(self, group: int) -> NodeId | None:
        found = self._node.host.groups.get(group)
        return None if found is None else found.leader

    @property
    def led(self) -> bool:
        """Every shard here has a leader, wherever, and can be read."""
        return all(
            shard.group.readable and shard.group.formed and shard.group.leader is not None
            for shard in self.shards.values()
        )

    # --- for other nodes --------------------------------------------------------------------

    def lead(self, group_id: int, payload: bytes, done: Callable[[ProposeResult], None]) -> None:
        """What somebody else asks for: proposed if this node leads the group, else Refused."""
        self.lead_each(group_id, (payload,), (done,), tell_each)

    def lead_each(
        self, group_id: int, payloads: Sequence[bytes], askers: Sequence[Any], done: DoneEach
    ) -> None:
        """The same for all that a peer asks for at once."""
        node = self._node
        if group_id == META_GROUP and not node.draining:
            node.meta.lead_each(payloads, askers, done)
            return
        shard = self.shards.get(group_id)
        if shard is None or node.draining:
            refused = Refused("this node does not serve that group now")
            node.loop.call_soon(done, askers, refused)
        else:
            shard.lead_each(payloads, askers, done)

    def evaluate(self, question: Question, done: Callable[[ProposeResult], None]) -> None:
        """A read of a node that has no replica of the shard."""
        node = self._node
        shard = None if node.draining else self.shards.get(question.group)
        evaluate(shard, question, done, node.loop)

    # --- all of them ------------------------------------------------------------------------

    def observe(self, tries: Proposals, on_overload: Callable[[], None]) -> None:
        """For metrics, of the shards that are here and those to come."""
        self._tries, self._on_overload = tries, on_overload
        for shard in self.shards.values():
            shard.tries, shard.waiting.on_overload = tries, on_overload

    async def hand_over_all(self) -> None:
        await hand_over_all(shard.group for shard in self.shards.values())

    def drain(self, why: str) -> None:
        for shard in self.shards.values():
            shard.drain(why)

    def stop(self) -> None:
        for shard in self.shards.values():
            shard.stop()
