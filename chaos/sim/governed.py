"""A cluster that governs itself while its shards are used and everything fails, all at once.

`januskv sim --faults all,splits,merges,moves,bank` comes here. All that kv has for it stands on
every node: the map in group 0, the divider and the mover of whoever leads it, both attendants.

    splits, merges   somebody asks for them by hand, or changes the limits by which they are due
    moves, joins, drains, deaths
                     an operator at work (operator.py); with deaths, nodes that are silent for some
                     seconds are declared dead and replaced, be they so or not
    bank             transactions over the shards (bank.py)
    the rest         the usual faults, but for those that change members past the map

Judged is what shards.py and division.py judge, and that in the end every shard is where it should
be, and nowhere else; that whoever died for good was declared dead and has been replaced, and that
nobody is declared dead in the calm who runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, cast

from chaos.sim.division import DividedCluster, DividedNode, DividedSimulation
from chaos.sim.faults import FaultInjector
from chaos.sim.operator import KINDS, Operator
from chaos.sim.placed_node import PlacedCluster, PlacedInjector, PlacedNode
from chaos.sim.shards import BANK, MERGES, SPLITS
from raftgroups.meta.machine import META_GROUP
from raftgroups.meta.records import NodeState, ShardRecord
from raftgroups.transport import NodeId

OPTIONS_P: Final = 0.3
"""Of changing limits, where a split or merge is asked for."""


class GovernedNode(PlacedNode, DividedNode):
    cluster: GovernedCluster

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.removals_are_tidied_here = False  # the attendant does it, by the map

    def admit(self, shard: ShardRecord) -> None:
        self._join(shard.shard)

    def release(self, group: int) -> None:
        self.forget(group)

    def _unknown(self, group_id: int, peer: NodeId) -> None:
        """As kv/node.py has it: it is placed here, and its split was passed over by a snapshot."""
        record = self.view.shards.get(group_id)
        if group_id == META_GROUP or record is None or self.node_id not in record.replicas:
            return
        own = [self.shard(each) for each, _ in self.groups()]
        if not any(s.shard.view.segments.own.holds_key(record.start) for s in own if s is not None):
            self.world.trace(f"{self.label} g{group_id} is not here")
            self._join(group_id)


class GovernedCluster(PlacedCluster, DividedCluster):
    def _make_node(self, *args: Any) -> GovernedNode:
        node = GovernedNode(*args)
        node.cluster = self
        return node

    @property
    def governed(self) -> Sequence[GovernedNode]:
        return cast(list[GovernedNode], self.nodes)

    def planner(self) -> GovernedNode | None:
        return cast(GovernedNode | None, super().planner())

    def _dismiss(self) -> None:
        """The planner does."""


class GovernedSimulation(DividedSimulation):
    cluster: GovernedCluster
    settle_s = 60.0

    def __init__(self, cluster: GovernedCluster) -> None:
        super().__init__(cluster)
        self.operator = Operator(cluster)

    def _make_injector(self) -> FaultInjector:
        drawn = self.cluster.drawn
        made = PlacedInjector(self.cluster, drawn.weights, drawn.fault_every_s, drawn.fault_length)
        made.menu = {
            **made.menu,
            SPLITS: lambda inject: self._divide(inject, self.restless.split),
            MERGES: lambda inject: self._divide(inject, self.restless.merge),
            **{kind: self._operate(kind) for kind in KINDS},
            BANK: lambda _: None,
        }
        return made

    def _operate(self, kind: str) -> Callable[[FaultInjector], None]:
        return lambda _: self.operator.act(kind)

    def _divide(self, inject: FaultInjector, act: Any) -> None:
        (self.restless.options if inject.rng.random() < OPTIONS_P else act)()

    def _go(self) -> None:
        """The injector says when."""

    def _await_recovery(self) -> None:
        self.cluster.calm_since = self.config.calm_at
        super()._await_recovery()
        done = self.cluster.admin.done
        done.update(self.operator.done)
        done.update(self.restless.done)
        done.update({f"step {kind}": count for kind, count in self.cluster.steps.items()})
        done.update(self.divisions())

    def _settle(self) -> None:
        super()._settle()
        self.operator.settle()

    def _unsettled(self) -> str | None:
        reason = super()._unsettled() or self.operator.busy()
        return reason or self.cluster.unburied() or self.cluster.misplaced()

    def _belongs(self, label: str, group_id: int) -> bool:
        """A node that was declared dead, or never joined, has what it has."""
        planner = self.cluster.planner()
        if planner is None:
            return True
        standing = {
            node.label
            for node in self.cluster.governed
            if (record := planner.view.nodes.get(node.node_id)) is not None
            and record.state in (NodeState.ACTIVE, NodeState.DRAINING)
        }
        return label not in standing or super()._belongs(label, group_id)
