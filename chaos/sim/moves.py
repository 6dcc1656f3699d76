"""Replicas that move while their shards split and merge: production planner, mover, attendants.

`--faults splits,merges,moves` comes here. What in production is the meta group stands outside, as
if nothing ever happened to it: it knows every node and shard, obeys the rules of the map
(raftgroups/meta/rules.py), and says who plans; now and then that is somebody else. All else goes
over the links of the simulated nodes: reports, invitations, orders, dismissals.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, cast

from chaos.sim.shard_node import ShardCluster, ShardNode
from chaos.sim.world import NodeScheduler
from kv.cluster.mail import Mail
from kv.placement.attendant import Attendant
from kv.placement.mover import Mover, MoverSettings
from kv.placement.observed import MOVE, MOVING
from kv.placement.plan import Limits, Step
from raftgroups.host import GroupHost
from raftgroups.meta.commands import BeginOperation, MetaCommand, SetNodeState
from raftgroups.meta.records import (
    KeyspaceOptions,
    KeyspaceRecord,
    NodeRecord,
    NodeState,
    OperationRecord,
    ShardRecord,
)
from raftgroups.meta.refusals import MetaRefusedError
from raftgroups.meta.rules import execute
from raftgroups.meta.view import MetaView
from raftgroups.transport import Link

if TYPE_CHECKING:
    from collections.abc import Mapping

MOVES: Final = "moves"
LOOK_S: Final = 0.2
TERM_S: Final = 6.0
"""So long one node plans, about."""
BEGIN_S: Final = 1.0
"""Every node has drawn the number of its disk by then."""


class MovingNode(ShardNode):
    """A node with an attendant and a mover."""

    cluster: MovingCluster

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.mover: Mover | None = None
        self.removals_are_tidied_here = False  # the attendant does it, by the map

    def _assembled(self, host: GroupHost, link: Link, scheduler: NodeScheduler) -> None:
        super()._assembled(host, link, scheduler)
        mail = Mail(link, cast(asyncio.AbstractEventLoop, None))  # it asks nobody
        attendant = Attendant(
            host=host,
            notes=mail,
            replicas=self,
            view=lambda: self.view,
            full=lambda: False,
            scheduler=scheduler,
            clock=self.clock,
        )
        self.mover = Mover(
            node_id=self.node_id,
            meta=self,
            notes=mail,
            attendant=attendant,
            scheduler=scheduler,
            clock=self.clock,
            settings=MoverSettings(Limits(streams=2, streams_a_node=2)),
        )
        self.mover.on_step = self._stepped
        attendant.start()
        self.mover.start()

    def _stepped(self, step: Step) -> None:
        self.cluster.admin.done[f"step {step.kind}"] += 1
        self.world.trace(f"{self.label} orders {step.kind} g{step.group} {step.node} {step.why}")

    # --- kv.placement.mover.Meta ---------------------------------------------------------------

    @property
    def leads(self) -> bool:
        return self.cluster.map.planner is self

    @property
    def view(self) -> MetaView:
        return self.cluster.map.view

    def propose(self, command: MetaCommand) -> None:
        self.cluster.map.execute(command)

    # --- kv.placement.attendant.Replicas -------------------------------------------------------

    def admit(self, shard: ShardRecord) -> None:
        self._join(shard.shard)

    def release(self, group: int) -> None:
        self.forget(group)

    def size_of(self, group: int) -> tuple[int, int]:
        return (0, 0)


class Map:
    """Invariant: its shards are the cluster's groups, as of the last look."""

    def __init__(self, cluster: MovingCluster, rng: random.Random) -> None:
        self.cluster = cluster
        self.world = cluster.world
        self.rng = rng
        self.view = MetaView()
        self.planner: MovingNode | None = None
        self._until = 0.0
        self.world.after(BEGIN_S, self._look)

    def execute(self, command: MetaCommand) -> None:
        with suppress(MetaRefusedError):
            self.view, _ = execute(self.view, command, 0)
            self.world.trace(f"map: {command}")

    def _look(self) -> None:
        nodes = [node for node in self.cluster.moving_nodes if node.running and not node.frozen]
        if self.planner not in nodes or self.world.now >= self._until:
            self.planner = self.rng.choice(nodes) if nodes else None
            self._until = self.world.now + self.rng.expovariate(1.0 / TERM_S)
        shards = self._shards()
        if not self.view.version:
            self.view = self._begin(shards)
        elif shards.keys() != self.view.shards.keys():
            version = self.view.version + 1
            self.view = replace(self.view, version=version, shards=shards, _tables={})
        self.world.after(LOOK_S, self._look)

    def _begin(self, shards: Mapping[int, ShardRecord]) -> MetaView:
        nodes = {
            str(node.node_id): NodeRecord(
                node.node_id, node.incarnation, node.label, ("sim", 1), state=NodeState.ACTIVE
            )
            for node in self.cluster.nodes
        }
        options = KeyspaceOptions(replication=self.cluster.config.nodes)
        keyspaces = {
            number: KeyspaceRecord(number, f"k{number}", options=options)
            for number in self.cluster.keyspaces
        }
        return MetaView(1, nodes, keyspaces, shards)

    def _shards(self) -> dict[int, ShardRecord]:
        """A shard that has just been born is on its parent's nodes, as far as is known."""
        found: dict[int, ShardRecord] = {}
        for group in self.cluster.groups:
            known = self.view.shards.get(group)
            if known is None:
                leader = self.cluster.admin.leader(group)
                if leader is None:
                    continue
                status = leader[1].status()
                shard = cast(ShardNode, leader[0]).shard(group)
                if shard is None:
                    continue
                place, keyspace = shard.view.place, shard.shard.state.keyspace
                replicas = tuple(str(voter) for voter in status.voters)
                known = ShardRecord(group, keyspace, place.start, place.end, 1, replicas=replicas)
            found[group] = known
        return found

    # --- an operator ---------------------------------------------------------------------------

    def operate(self) -> None:
        """Ask for a move, or drain a node, or take that back."""
        if not self.view.version:
            return
        draining = [n for n in self.view.nodes.values() if n.state is NodeState.DRAINING]
        if draining and self.rng.random() < 0.7:
            self._count("undrain", SetNodeState(draining[0].node, NodeState.ACTIVE))
        elif not draining and self.rng.random() < 0.3:
            victim = self.rng.choice(sorted(self.view.nodes))
            self._count("drain", SetNodeState(victim, NodeState.DRAINING))
        else:
            self._move()

    def _move(self) -> None:
        shard = self.view.shards.get(self.rng.choice(self.cluster.groups))
        if shard is None or not shard.replicas:
            return
        targets = sorted(self.view.nodes.keys() - set(shard.replicas))
        if targets:
            source, target = self.rng.choice(sorted(shard.replicas)), self.rng.choice(targets)
            wish = OperationRecord(0, MOVE, MOVING, (shard.shard,), source=source, target=target)
            self._count("move", BeginOperation(wish, (shard.epoch,)))

    def _count(self, what: str, command: MetaCommand) -> None:
        self.cluster.admin.done[what] += 1
        self.execute(command)

    def settle(self) -> None:
        """The calm: nobody is drained any more."""
        for node in self.view.nodes.values():
            if node.state is NodeState.DRAINING:
                self.execute(SetNodeState(node.node, NodeState.ACTIVE))

    def busy(self) -> str | None:
        mover = None if self.planner is None else self.planner.mover
        if mover is None or mover.plan is None:
            return "nobody plans where replicas live"
        return None if mover.plan.settled else f"replicas are on their way: {mover.plan}"


class MovingCluster(ShardCluster):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.map = Map(self, self.world.rng("map"))

    def _make_node(self, *args: Any) -> MovingNode:
        node = MovingNode(*args)
        node.cluster = self
        return node

    @property
    def moving_nodes(self) -> list[MovingNode]:
        return cast(list[MovingNode], self.nodes)

    def _dismiss(self) -> None:
        """The planner does."""
