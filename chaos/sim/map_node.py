"""A simulated node that knows the map of the cluster: from its replica of group 0, or told.

Who hosts no replica of group 0 is told the map by those who do; that is all that is made up here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, TypeVar, cast

from msgspec.structs import replace as with_fields

from chaos.sim.node import SimNode
from kv.cluster.mail import Mail
from raftgroups.group import Group
from raftgroups.machine_api import StateMachine
from raftgroups.meta.commands import Bootstrap, MetaCommand, NewShard, encode
from raftgroups.meta.machine import META_GROUP, MetaMachine
from raftgroups.meta.records import KeyspaceOptions, NodeRecord, NodeState
from raftgroups.meta.view import MetaView, decode_view, encode_view, even_ranges
from raftgroups.outcomes import Applied, ProposeResult
from raftgroups.results import Failure
from raftgroups.transport import Link, NodeId
from storage.latest import Latest

MAP: Final = "sim-map"


Node = TypeVar("Node", bound="MapNode")


class MapNode(SimNode):
    """`view` is what it knows of the map. A subclass calls `keep_map` when it is assembled."""

    view = MetaView()
    _mail: Mail | None = None

    def keep_map(self, link: Link) -> Mail:
        self.view = MetaView()
        self._mail = Mail(link, cast(asyncio.AbstractEventLoop, None))  # it asks nobody
        self._mail.on(MAP, self._told)
        link.on_peer_change(self._met)
        return self._mail

    # --- kv.placement.mover.Meta, kv.division.divider.Meta -------------------------------------

    @property
    def meta_group(self) -> Group | None:
        return None if self.host is None else self.host.groups.get(META_GROUP)

    @property
    def leads(self) -> bool:
        group = self.meta_group
        return group is not None and group.settled

    def propose(self, command: MetaCommand, done: Callable[[bool], None] | None = None) -> None:
        """`done`: whether it surely was applied."""
        group = self.meta_group
        assert group is not None, "only a leader of the meta group proposes"
        self.world.trace(f"{self.label} proposes {command}")

        def answered(result: ProposeResult) -> None:
            self.world.trace(f"{self.label} was answered {result}")
            if done is not None:
                done(isinstance(result, Applied) and not isinstance(result.result, Failure))

        group.propose(encode(command, wall_ms=int(self.clock.wall() * 1000)), answered)

    # --- the map -------------------------------------------------------------------------------

    def _make_machine(self, group_id: int) -> StateMachine:
        if group_id != META_GROUP:
            return super()._make_machine(group_id)
        latest = Latest(self.engine, self.clock)
        machine = MetaMachine(latest, latest.renew)
        machine.observer = self._applied
        self.learn(machine.view)
        return machine

    def learn(self, view: MetaView) -> bool:
        newer = view.version > self.view.version
        if newer:
            self.view = view
        return newer

    def _applied(self, view: MetaView) -> None:
        if self.learn(view):
            for peer in self.peers:
                self._tell(peer)

    def _tell(self, peer: NodeId) -> None:
        if self._mail is not None and self.view.version:
            self._mail.tell(peer, MAP, encode_view(self.view))

    def _met(self, peer: NodeId, connected: bool) -> None:
        if connected:
            self._tell(peer)

    def _told(self, peer: NodeId, body: bytes) -> None:
        self.learn(decode_view(body))

    def record(self) -> NodeRecord:
        return NodeRecord(
            self.node_id, self.incarnation, self.label, ("sim", 1), state=NodeState.JOINING
        )


def planner_of(nodes: Sequence[Node]) -> Node | None:
    """Whoever leads group 0 and runs; of two the one of the higher term."""
    leading = [node for node in nodes if node.leads and not node.frozen]
    return max(leading, key=lambda n: n.meta_group.term if n.meta_group else 0, default=None)


def bootstrap_of(founders: Sequence[MapNode], shards: int) -> Bootstrap:
    """The first map: all founders are active, and each shard is on all of them."""
    bound = tuple((node.node_id, node.incarnation) for node in founders)
    return Bootstrap(
        tuple(with_fields(node.record(), state=NodeState.ACTIVE) for node in founders),
        tuple(node.node_id for node in founders),
        KeyspaceOptions(),
        tuple(NewShard(start, end, bound) for start, end in even_ranges(shards)),
        formed=True,
    )
