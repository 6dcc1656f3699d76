"""Simulated nodes that know the map of the cluster, from their replica of group 0 or told, and
clusters of them.

Who hosts no replica of group 0 is told the map by those who do; that is all that is made up here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final, cast

from msgspec.structs import replace as with_fields

from chaos.sim.cluster import Cluster
from chaos.sim.node import SimNode
from chaos.sim.settings import DrawnSettings, SimConfig, draw
from chaos.sim.simulation import POLL_S
from chaos.sim.world import NodeScheduler, World
from kv.cluster.mail import Mail
from raftgroups.group import Group
from raftgroups.host import GroupHost
from raftgroups.machine_api import StateMachine
from raftgroups.meta.commands import Bootstrap, MetaCommand, NewShard, encode
from raftgroups.meta.machine import META_GROUP, MetaMachine
from raftgroups.meta.records import KeyspaceOptions, NodeRecord, NodeState
from raftgroups.meta.view import MetaView, decode_view, encode_view
from raftgroups.outcomes import Applied, ProposeResult
from raftgroups.results import Failure
from raftgroups.transport import Link, NodeId
from storage.latest import Latest

MAP: Final = "sim-map"
MAP_ENTRY_BYTES: Final = 64 * 1024
"""Commands of the meta group are larger than the registers' smallest limits."""
BEGIN_S: Final = 60.0
"""There is a map by then."""

Bounds = tuple[bytes, bytes | None]


class MapNode(SimNode):
    """`view` is what it knows of the map, `mail` its post to the other nodes."""

    view = MetaView()
    mail: Mail

    def _assembled(self, host: GroupHost, link: Link, scheduler: NodeScheduler) -> None:
        super()._assembled(host, link, scheduler)
        self.view = MetaView()
        self.mail = Mail(link, cast(asyncio.AbstractEventLoop, None))  # it asks nobody
        self.mail.on(MAP, self._told)
        link.on_peer_change(self._met)

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
        if self.view.version:
            self.mail.tell(peer, MAP, encode_view(self.view))

    def _met(self, peer: NodeId, connected: bool) -> None:
        if connected:
            self._tell(peer)

    def _told(self, peer: NodeId, body: bytes) -> None:
        self.learn(decode_view(body))

    def record(self) -> NodeRecord:
        return NodeRecord(
            self.node_id, self.incarnation, self.label, ("sim", 1), state=NodeState.JOINING
        )


class MapCluster(Cluster):
    """Its founders form group 0, too."""

    def __init__(self, config: SimConfig, drawn: DrawnSettings, **options: Any) -> None:
        super().__init__(config, drawn, **options)
        founders = [node.node_id for node in self.founders]
        for node in self.founders:
            node.to_form = {META_GROUP: founders, **node.to_form}

    @property
    def map_nodes(self) -> Sequence[MapNode]:
        return cast(list[MapNode], self.nodes)

    @property
    def founders(self) -> Sequence[MapNode]:
        return self.map_nodes[: self.config.nodes]

    def planner(self) -> MapNode | None:
        """Whoever leads group 0 and runs; of two the one of the higher term."""
        leading = [node for node in self.map_nodes if node.leads and not node.frozen]
        return max(leading, key=lambda n: n.meta_group.term if n.meta_group else 0, default=None)

    def first_ranges(self) -> list[Bounds]:
        """Of the first shards, by group."""
        raise NotImplementedError

    def begin(self) -> None:
        """Make the first map: all founders are active, and each shard is on all of them."""
        begun: list[ProposeResult] = []
        world = self.world
        while world.now < BEGIN_S and not world.stop_reason:
            if any(node.view.version for node in self.map_nodes):
                break
            planner = self.planner()
            if planner is not None and planner.meta_group is not None:
                command = encode(self._bootstrap(), b"begin".ljust(16, b"\0"))
                planner.meta_group.propose(command, begun.append)
            world.run(world.now + POLL_S)

    def _bootstrap(self) -> Bootstrap:
        founders = self.founders
        bound = tuple((node.node_id, node.incarnation) for node in founders)
        return Bootstrap(
            tuple(with_fields(node.record(), state=NodeState.ACTIVE) for node in founders),
            tuple(node.node_id for node in founders),
            KeyspaceOptions(),
            tuple(NewShard(start, end, bound) for start, end in self.first_ranges()),
            formed=True,
        )


def draw_with_map(config: SimConfig) -> DrawnSettings:
    """As `draw`; entries have room for commands of the map, and storms wait until there is one."""
    drawn = draw(config, World(config.seed).rng("settings"))
    drawn.born_in_storm = False
    room = max(drawn.host.entry_max_bytes, MAP_ENTRY_BYTES)
    drawn.host = replace(drawn.host, entry_max_bytes=room)
    return drawn
