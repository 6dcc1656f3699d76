"""Simulated nodes with the production attendant and mover of replicas, and clusters of them.

The one assembly for registers (placement.py) and for shards (governed.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, cast

from chaos.sim.faults import FaultInjector
from chaos.sim.map_node import MapCluster, MapNode
from chaos.sim.node import SimNode
from chaos.sim.settings import DrawnSettings, SimConfig
from chaos.sim.world import NodeScheduler
from kv.placement.attendant import Attendant
from kv.placement.mover import Mover, MoverSettings
from kv.placement.plan import Limits, Step
from raftgroups.host import GroupHost
from raftgroups.meta.records import DEFAULT_KEYSPACE_ID, NodeState, ShardRecord
from raftgroups.transport import Link


class PlacedNode(MapNode):
    """A node with an attendant and a mover."""

    cluster: PlacedCluster

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.mover: Mover | None = None
        self.lost = False
        """It was killed for good."""

    def _assembled(self, host: GroupHost, link: Link, scheduler: NodeScheduler) -> None:
        super()._assembled(host, link, scheduler)
        attendant = Attendant(
            host=host,
            notes=self.mail,
            replicas=self,
            view=lambda: self.view,
            full=lambda: False,
            scheduler=scheduler,
            clock=self.clock,
        )
        self.mover = Mover(
            node_id=self.node_id,
            meta=self,
            notes=self.mail,
            attendant=attendant,
            scheduler=scheduler,
            clock=self.clock,
            settings=self.cluster.mover_settings,
        )
        self.mover.on_step = self._stepped
        attendant.start()
        self.mover.start()

    def _stepped(self, step: Step) -> None:
        self.cluster.steps[step.kind.value] += 1
        self.world.trace(f"{self.label} orders {step.kind} g{step.group} {step.node} {step.why}")

    # --- kv.placement.attendant.Replicas -------------------------------------------------------

    def admit(self, shard: ShardRecord) -> None:
        assert self.host is not None
        self.host.join(shard.shard)

    def release(self, group: int) -> None:
        assert self.host is not None
        self.to_form = {each: v for each, v in self.to_form.items() if each != group}
        self.machines.pop(group, None)
        self.host.forget(group, lambda: None)

    def size_of(self, group: int) -> tuple[int, int]:
        return (0, 0)

    def recover(self) -> None:
        self.lost = False  # whoever was killed for good comes back after all, with what it had
        super().recover()


class PlacedCluster(MapCluster):
    def __init__(self, config: SimConfig, drawn: DrawnSettings, **options: Any) -> None:
        self.mover_settings = MoverSettings(Limits(streams=2, streams_a_node=1))
        self.steps: Counter[str] = Counter()
        super().__init__(config, drawn, **options)

    def _make_node(self, *args: Any) -> PlacedNode:
        node = PlacedNode(*args)
        node.cluster = self
        return node

    @property
    def placed(self) -> Sequence[PlacedNode]:
        return cast(list[PlacedNode], self.nodes)

    def planner(self) -> PlacedNode | None:
        return cast(PlacedNode | None, super().planner())

    def _restart_after_failure(self, node: SimNode) -> None:
        if not cast(PlacedNode, node).lost:
            super()._restart_after_failure(node)

    def misplaced(self) -> str | None:
        """What is not where it should be; None: the planner rests, and rightly."""
        planner = self.planner()
        if planner is None or planner.mover is None or planner.mover.plan is None:
            return "nobody plans"
        if not planner.mover.plan.settled:
            return f"the planner is not finished: {planner.mover.plan}"
        view = planner.view
        active = {n.node for n in view.nodes.values() if n.state is NodeState.ACTIVE}
        copies = view.keyspaces[DEFAULT_KEYSPACE_ID].options.replication
        wanted = min(copies, len(active))
        for group in self.groups:
            found = self.admin.leader(group)
            if found is None:
                return f"group {group} has a leader that stands still"
            voters = set(found[1].status().voters)
            if group not in view.shards or voters != set(view.shards[group].replicas):
                return f"group {group} is on {voters}, and the map says something else"
            # A drained node keeps what no active one can take over: the drain waits for a node.
            if len(voters) < wanted or (len(active) >= copies and not voters <= active):
                return f"group {group} is on {sorted(voters)} of {sorted(active)}"
        return None


class PlacedInjector(FaultInjector):
    """Leaves alone whoever was killed for good."""

    def node(self) -> SimNode:
        return next(found for found in iter(super().node, None) if not cast(PlacedNode, found).lost)

    def restart_later(self, node: SimNode, low_s: float, high_s: float) -> None:
        if not cast(PlacedNode, node).lost:
            super().restart_later(node, low_s, high_s)
