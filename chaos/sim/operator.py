"""An operator of simulated clusters whose replicas the planner moves (chaos/sim/placement.py,
chaos/sim/governed.py).

It joins, drains and removes nodes, kills one for good, takes a disk away, asks for moves, changes
the number of copies: whatever the dice say, every now and then, while faults strike. A disk is lost
only when everything is whole, or data would be lost that no protocol can save.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace as with_fields

from kv.placement.observed import MOVE, MOVING
from raftgroups.meta.commands import (
    AlterKeyspace,
    BeginOperation,
    MetaCommand,
    PutNode,
    RemoveNode,
    SetNodeState,
)
from raftgroups.meta.records import (
    DEFAULT_KEYSPACE_ID,
    NodeState,
    OperationRecord,
    ShardState,
)
from raftgroups.meta.view import MetaView

if TYPE_CHECKING:
    from chaos.sim.placed_node import PlacedCluster, PlacedNode

OPERATE_EVERY_S: Final = 1.0


class Operator:
    """Somebody with a list of things to do, one every now and then."""

    def __init__(self, cluster: PlacedCluster) -> None:
        self.cluster = cluster
        self.world = cluster.world
        self.rng: random.Random = cluster.world.rng("operator")
        self.done: dict[str, int] = {}
        self.stopped = False

    def start(self) -> None:
        self.world.after(self.rng.expovariate(1.0 / OPERATE_EVERY_S), self._act)

    def _act(self) -> None:
        if not self.stopped:
            self.act()
            self.start()

    def act(self) -> None:
        planner = self.cluster.planner()
        if planner is not None and planner.view.version:
            usual = [self._join, self._drain, self._undrain, self._remove, self._move, self._copies]
            losses = [self._die, self._lose_disk]
            # Losses are rarely bearable, so they are tried more often.
            self.rng.choice([*usual, *losses, *losses, *losses])(planner)

    def _propose(self, planner: PlacedNode, what: str, command: MetaCommand) -> None:
        self.world.trace(f"operator: {what}")
        self.done[what] = self.done.get(what, 0) + 1
        planner.propose(command)

    def _known(self, planner: PlacedNode, state: NodeState) -> list[PlacedNode]:
        return [
            node
            for node in self.cluster.placed
            if (record := planner.view.nodes.get(node.node_id)) is not None
            and record.state is state
        ]

    def _copies_wanted(self, view: MetaView) -> int:
        return view.keyspaces[DEFAULT_KEYSPACE_ID].options.replication

    def _join(self, planner: PlacedNode) -> None:
        strangers = [
            n for n in self.cluster.placed if n.node_id not in planner.view.nodes and n.running
        ]
        if strangers:
            self._propose(planner, "join", PutNode(self.rng.choice(strangers).record()))

    def _drain(self, planner: PlacedNode) -> None:
        active = self._known(planner, NodeState.ACTIVE)
        if len(active) > self._copies_wanted(planner.view):
            node = self.rng.choice(active).node_id
            self._propose(planner, "drain", SetNodeState(node, NodeState.DRAINING))

    def _undrain(self, planner: PlacedNode) -> None:
        for node in self._known(planner, NodeState.DRAINING):
            self._propose(planner, "undrain", SetNodeState(node.node_id, NodeState.ACTIVE))
            return

    def _remove(self, planner: PlacedNode) -> None:
        for state in (NodeState.DRAINING, NodeState.DEAD):
            for node in self._known(planner, state):
                self._propose(planner, "remove", RemoveNode(node.node_id))
                return

    def _move(self, planner: PlacedNode) -> None:
        view = planner.view
        shard = view.shards.get(self.rng.choice(self.cluster.groups))
        if shard is None or view.operation_of(shard.shard) is not None:
            return  # it is being divided
        targets = [
            n.node_id
            for n in self._known(planner, NodeState.ACTIVE)
            if n.node_id not in shard.replicas
        ]
        if targets and shard.replicas and shard.state is ShardState.ACTIVE:
            wish = OperationRecord(
                0,
                MOVE,
                MOVING,
                (shard.shard,),
                source=self.rng.choice(shard.replicas),
                target=self.rng.choice(targets),
            )
            self._propose(planner, "move", BeginOperation(wish, (shard.epoch,)))

    def _copies(self, planner: PlacedNode) -> None:
        known = planner.view.keyspaces[DEFAULT_KEYSPACE_ID]
        wanted = with_fields(known.options, replication=self.rng.choice((3, 3, 5)))
        if wanted != known.options:
            self._propose(planner, "copies", AlterKeyspace(known.name, known.options, wanted))

    # --- losses --------------------------------------------------------------------------------

    def _bearable(self, planner: PlacedNode) -> bool:
        """Nothing is lost or being moved, everybody is up: one disk may go."""
        mover = planner.mover
        assert mover is not None
        if mover.plan is None or not mover.plan.settled or mover.seen is None:
            return False
        if mover.plan.short or not all(node.running for node in self.cluster.placed):
            return False
        for group in mover.seen.groups:
            if not group.settled or len(group.voters) < 3 or group.learners:
                return False
            views = self.cluster.views(group.group)
            labels = {self.cluster.network.label(n) for n in group.voters}
            agreed = {views[n].voters for n in labels if n in views}
            if len(agreed) != 1 or not labels <= set(views):
                return False
        return True

    def _die(self, planner: PlacedNode) -> None:
        active = self._known(planner, NodeState.ACTIVE)
        if len(active) > self._copies_wanted(planner.view) and self._bearable(planner):
            node = self.rng.choice([n for n in active if n is not planner])
            self._propose(planner, "die", SetNodeState(node.node_id, NodeState.DEAD))
            node.lost = True
            node.crash(power=True)

    def _lose_disk(self, planner: PlacedNode) -> None:
        active = self._known(planner, NodeState.ACTIVE)
        if active and self._bearable(planner):
            node = self.rng.choice(active)
            self.done["lose disk"] = self.done.get("lose disk", 0) + 1
            node.replace_disk([])
