"""An operator of simulated clusters whose replicas the planner moves (chaos/sim/placement.py,
chaos/sim/governed.py).

Whatever the dice say of what is possible, every now and then, while faults strike:

    moves     a replica is moved, the number of copies changed, a disk taken away
    joins     a machine joins; one that was put out comes back empty, as another node
    drains    a node is drained, or is so no longer, or is removed once it has nothing left
    deaths    a machine dies for good. Where silent nodes are declared dead (`dead_after_s`), nobody
              tells the cluster; else the operator does, and it comes back in the calm all the same

A disk or a machine is lost only when everything is whole, or data would be lost that no protocol
can save.
"""

from __future__ import annotations

import random
from collections.abc import Callable
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
MOVES: Final = "moves"
JOINS: Final = "joins"
DRAINS: Final = "drains"
DEATHS: Final = "deaths"
KINDS: Final = (MOVES, JOINS, DRAINS, DEATHS)
COPIES: Final = 3
LOOK_S: Final = 0.1
PATIENCE_S: Final = 8.0
NOTICED_S: Final = 3.0


class Operator:
    """Somebody with a list of things to do, one every now and then."""

    def __init__(self, cluster: PlacedCluster) -> None:
        self.cluster = cluster
        self.world = cluster.world
        self.rng: random.Random = cluster.world.rng("operator")
        self.done: dict[str, int] = {}
        self.stopped = False
        self._waits = False
        """For a moment in which a loss is bearable."""
        self._settling_at = 0.0
        """When something was last done in the calm."""
        self._acts: dict[str, tuple[Callable[[PlacedNode], bool], ...]] = {
            MOVES: (self._move, self._copies, self._lose_disk),
            JOINS: (self._join,),
            DRAINS: (self._drain, self._undrain, self._remove),
            DEATHS: (self._die,),
        }
        """Each answers whether it was possible."""

    def start(self) -> None:
        self.world.after(self.rng.expovariate(1.0 / OPERATE_EVERY_S), self._act)

    def _act(self) -> None:
        if not self.stopped:
            self.act()
            self.start()

    def act(self, *kinds: str) -> None:
        """One thing that is possible, of these kinds or any."""
        planner = self.cluster.planner()
        if planner is None or not planner.view.version:
            return
        acts = [act for kind in kinds or KINDS for act in self._acts[kind]]
        self.rng.shuffle(acts)
        any(act(planner) for act in acts)

    def settle(self) -> None:
        """In the calm: copies as at first, and so many nodes that they have room."""
        planner = self.cluster.planner()
        if planner is None or not planner.view.version:
            return
        did = self._alter_copies(planner, COPIES)
        if len(self._there(planner)) < COPIES:
            did |= any(act(planner) for act in (self._undrain, self._join, self._remove))
        if did:
            self._settling_at = self.world.now

    def busy(self) -> str | None:
        """In the calm: whether the planner may not have looked yet at what was done last."""
        recent = self.world.now < self._settling_at + NOTICED_S
        return "the operator has just done something" if recent else None

    def _propose(self, planner: PlacedNode, what: str, command: MetaCommand) -> bool:
        self._note(what)
        planner.propose(command)
        return True

    def _note(self, what: str) -> None:
        self.world.trace(f"operator: {what}")
        self.done[what] = self.done.get(what, 0) + 1

    def _known(self, planner: PlacedNode, state: NodeState) -> list[PlacedNode]:
        return [
            node
            for node in self.cluster.placed
            if (record := planner.view.nodes.get(node.node_id)) is not None
            and record.state is state
        ]

    def _copies_wanted(self, view: MetaView) -> int:
        return view.keyspaces[DEFAULT_KEYSPACE_ID].options.replication

    def _join(self, planner: PlacedNode) -> bool:
        strangers = [n for n in self.cluster.placed if n.node_id not in planner.view.nodes]
        usable = [n for n in strangers if n.running or n.put_out]
        if not usable:
            return False
        node = self.rng.choice(usable)
        if node.put_out:
            node.replace_disk([])
        return self._propose(planner, "join", PutNode(node.record()))

    def _drain(self, planner: PlacedNode) -> bool:
        active = self._known(planner, NodeState.ACTIVE)
        if len(active) <= self._copies_wanted(planner.view):
            return False
        node = self.rng.choice(active).node_id
        return self._propose(planner, "drain", SetNodeState(node, NodeState.DRAINING))

    def _undrain(self, planner: PlacedNode) -> bool:
        for node in self._known(planner, NodeState.DRAINING):
            return self._propose(planner, "undrain", SetNodeState(node.node_id, NodeState.ACTIVE))
        return False

    def _remove(self, planner: PlacedNode) -> bool:
        """Who has nothing left."""
        for state in (NodeState.DRAINING, NodeState.DEAD):
            for node in self._known(planner, state):
                if not self._has_something(planner, node):
                    return self._propose(planner, "remove", RemoveNode(node.node_id))
        return False

    def _has_something(self, planner: PlacedNode, node: PlacedNode) -> bool:
        seen = None if planner.mover is None else planner.mover.seen
        if seen is None or any(planner.view.shards_on(node.node_id)):
            return True
        return any(node.node_id in (*each.voters, *each.learners) for each in seen.groups)

    def _move(self, planner: PlacedNode) -> bool:
        view = planner.view
        shard = view.shards.get(self.rng.choice(self.cluster.groups))
        if shard is None or view.operation_of(shard.shard) is not None:
            return False  # it is being divided
        targets = [
            n.node_id
            for n in self._known(planner, NodeState.ACTIVE)
            if n.node_id not in shard.replicas
        ]
        if not (targets and shard.replicas and shard.state is ShardState.ACTIVE):
            return False
        wish = OperationRecord(
            0,
            MOVE,
            MOVING,
            (shard.shard,),
            source=self.rng.choice(shard.replicas),
            target=self.rng.choice(targets),
        )
        return self._propose(planner, "move", BeginOperation(wish, (shard.epoch,)))

    def _copies(self, planner: PlacedNode) -> bool:
        return self._alter_copies(planner, self.rng.choice((COPIES, COPIES, 5)))

    def _alter_copies(self, planner: PlacedNode, copies: int) -> bool:
        known = planner.view.keyspaces[DEFAULT_KEYSPACE_ID]
        wanted = with_fields(known.options, replication=copies)
        if wanted == known.options:
            return False
        return self._propose(planner, "copies", AlterKeyspace(known.name, known.options, wanted))

    # --- losses --------------------------------------------------------------------------------

    def _bearable(self, planner: PlacedNode) -> bool:
        """Nothing is lost or being moved, every replica's node is up: one may go. Not while a shard
        was born of which a member that lags has nothing yet: it cannot vote there."""
        mover = planner.mover
        assert mover is not None
        if mover.plan is None or not mover.plan.settled or mover.seen is None:
            return False
        seen = {group.group for group in mover.seen.groups}
        if mover.plan.short or not seen.issuperset(self.cluster.groups):
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

    def _die(self, planner: PlacedNode) -> bool:
        for_good = bool(self.cluster.mover_settings.dead_after_s)
        return self._lose_soon(self._die_for_good if for_good else self._die_for_now)

    def _lose_disk(self, planner: PlacedNode) -> bool:
        return self._lose_soon(self._replace_disk)

    def _lose_soon(self, lose: Callable[[PlacedNode], None]) -> bool:
        """As soon as it is bearable, which it is for moments only."""
        if self._waits:
            return False
        self._waits = True
        self._await(lose, min(self.world.now + PATIENCE_S, self.cluster.config.calm_at))
        return True

    def _await(self, lose: Callable[[PlacedNode], None], until: float) -> None:
        planner = self.cluster.planner()
        if self.world.now < until and not (planner is not None and self._bearable(planner)):
            self.world.after(LOOK_S, self._await, lose, until)
            return
        self._waits = False
        if planner is not None and self.world.now < until:
            lose(planner)

    def _there(self, planner: PlacedNode) -> list[PlacedNode]:
        return [node for node in self._known(planner, NodeState.ACTIVE) if node.running]

    def _die_for_now(self, planner: PlacedNode) -> None:
        victims = [node for node in self._there(planner) if node is not planner]
        if len(victims) >= self._copies_wanted(planner.view):
            node = self.rng.choice(victims)
            node.lost = True
            node.crash(power=True)
            self._propose(planner, "die", SetNodeState(node.node_id, NodeState.DEAD))

    def _die_for_good(self, planner: PlacedNode) -> None:
        """As long as there are machines enough without it, whether they have joined yet or not."""
        left = [node for node in self.cluster.placed if not node.gone]
        if len(left) > self.cluster.config.nodes:
            node = self.rng.choice(self._there(planner))
            self._note("death for good")
            node.gone = True
            node.crash(power=True)

    def _replace_disk(self, planner: PlacedNode) -> None:
        self._note("lose disk")
        self.rng.choice(self._there(planner)).replace_disk([])
