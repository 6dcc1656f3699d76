"""Simulated nodes with the production attendant and mover of replicas, and clusters of them.

The one assembly for registers (placement.py) and for shards (governed.py). A node that learns that
it is no member any more, or was declared dead, ends, as kv/placement/stand.py has it; its directory
is emptied before it may come again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final, cast

from chaos.checkers.violation import Violation
from chaos.sim.faults import FaultInjector
from chaos.sim.map_node import MapCluster, MapNode
from chaos.sim.node import SimNode
from chaos.sim.operator import DEATHS
from chaos.sim.settings import DrawnSettings, SimConfig
from chaos.sim.world import NodeScheduler, World
from kv.placement.attendant import Attendant
from kv.placement.joining import why_not_member
from kv.placement.mover import Mover, MoverSettings
from kv.placement.plan import Limits, Step
from raftgroups.host import GroupHost
from raftgroups.meta.commands import MetaCommand, SetNodeState
from raftgroups.meta.records import DEFAULT_KEYSPACE_ID, NodeState, ShardRecord
from raftgroups.meta.view import MetaView
from raftgroups.transport import Link

LEAVE_S: Final = 0.2
"""From learning that it is no member to its end."""
ANSWERS_AGAIN_S: Final = 3.0
"""Every node that runs has been heard so long after the last fault."""


class PlacedNode(MapNode):
    """A node with an attendant and a mover."""

    cluster: PlacedCluster

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.mover: Mover | None = None
        self.lost = False
        """It was killed, and comes back in the calm."""
        self.gone = False
        """It was killed for good: the machine is no more."""
        self.put_out = False
        """It has ended because it is no member any more."""
        self._is_member = False
        """The map has named it since it has this disk."""

    def start(self) -> None:
        """Whoever wants it to, as long as there is something to start."""
        if not (self.lost or self.gone or self.put_out):
            super().start()

    def replace_disk(self, groups: Sequence[int]) -> None:
        self.put_out = self._is_member = False
        super().replace_disk(groups)

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

    def learn(self, view: MetaView) -> bool:
        newer = super().learn(view)
        if newer:
            known = view.nodes.get(self.node_id)
            if known is not None and known.state is not NodeState.DEAD:
                self._is_member = True
            elif self._is_member and why_not_member(view, self.node_id, self.incarnation):
                self.world.after(LEAVE_S, self._end_as_no_member, owner=self.process)
        return newer

    def _end_as_no_member(self) -> None:
        self.world.trace(f"{self.label} is no member any more")
        self.put_out = True
        self.crash(power=False)

    def propose(self, command: MetaCommand, done: Callable[[bool], None] | None = None) -> None:
        if isinstance(command, SetNodeState) and command.state is NodeState.DEAD:
            self.cluster.declares(self, command.node)
        super().propose(command, done)

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
        if DEATHS in config.faults:
            dead_after_s = World(config.seed).rng("deadline").choice((2.5, 4.0, 6.0))
            self.mover_settings = replace(self.mover_settings, dead_after_s=dead_after_s)
        self.calm_since: float | None = None
        """The last fault is over since then."""
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

    def declares(self, planner: PlacedNode, node_id: str) -> None:
        """In the calm everybody that runs answers in time."""
        node = next(each for each in self.placed if each.node_id == node_id)
        self.steps["declare dead"] += 1
        self.world.trace(f"{planner.label} declares {node.label} dead")
        since = self.calm_since
        if node.running and since is not None and self.world.now > since + ANSWERS_AGAIN_S:
            what = f"{planner.label} declares {node.label} dead, which runs, in the calm"
            self.observer.report([Violation("declared_dead", what)])

    def unburied(self) -> str | None:
        """Who died for good, and is still counted on."""
        planner = self.planner()
        for node in self.placed if planner is not None else ():
            if not node.gone:
                continue
            assert planner is not None
            known = planner.view.nodes.get(node.node_id)
            if known is not None and known.state is not NodeState.DEAD:
                return f"{node.label} died for good and was not declared dead"
            for group in self.groups:
                if node.label in self.members(group):
                    return f"{node.label} died for good and is a member of group {group}"
        return None

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
        found = super().node()
        while cast(PlacedNode, found).lost or cast(PlacedNode, found).gone:
            found = super().node()
        return found
