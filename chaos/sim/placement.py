"""Replicas that move, in the simulator: production planner, mover, attendants and meta machine.

Beside the groups of registers there is the meta group 0. Every node has an attendant and a mover;
whoever leads group 0 plans. An operator joins, drains, removes and kills nodes for good, loses
disks, asks for moves and changes the number of copies, while the usual faults strike. What clients
see is judged as ever. In the end the planner must come to rest with every group on as many nodes as
it should be on, none of them dead or drained.

Who hosts no replica of group 0 is told the map by those who do; that is all that is made up here.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final, cast

from chaos.checkers.liveness import unconverged
from chaos.checkers.violation import Violation
from chaos.sim.cluster import Cluster
from chaos.sim.faults import MENU, FaultInjector
from chaos.sim.map_node import MapNode, bootstrap_of, planner_of
from chaos.sim.node import SimNode
from chaos.sim.operator import Operator
from chaos.sim.settings import DrawnSettings, SimConfig, draw
from chaos.sim.simulation import POLL_S, SeedResult, Simulation
from chaos.sim.world import NodeScheduler, World
from kv.placement.attendant import Attendant
from kv.placement.mover import Mover, MoverSettings
from kv.placement.plan import Limits, Step
from raftgroups.host import GroupHost
from raftgroups.meta.commands import (
    Bootstrap,
    encode,
)
from raftgroups.meta.machine import META_GROUP
from raftgroups.meta.records import (
    DEFAULT_KEYSPACE_ID,
    NodeState,
    ShardRecord,
)
from raftgroups.outcomes import ProposeResult
from raftgroups.transport import Link

SETTLE_S: Final = 60.0
"""From the last fault until every replica is where it should be, at most."""
SPARES: Final = 3
MAP_ENTRY_BYTES: Final = 64 * 1024
"""Commands of the meta group are larger than the registers' smallest limits."""
FAULTS: Final = frozenset(MENU) - {"membership", "newdisk", "upgrade"}
"""Those left out change members by themselves, or have nothing to do with it."""


class PlacedNode(MapNode):
    """A node with an attendant and a mover. `view` is what it knows of the map."""

    cluster: PlacedCluster

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.mover: Mover | None = None
        self.gone = False
        """It was killed for good."""
        self._attendant: Attendant | None = None

    def _assembled(self, host: GroupHost, link: Link, scheduler: NodeScheduler) -> None:
        mail = self.keep_map(link)
        self._attendant = Attendant(
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
            attendant=self._attendant,
            scheduler=scheduler,
            clock=self.clock,
            settings=self.cluster.mover_settings,
        )
        self.mover.on_step = self._stepped
        self._attendant.start()
        self.mover.start()

    def _stepped(self, step: Step) -> None:
        self.cluster.steps[step.kind.value] = self.cluster.steps.get(step.kind.value, 0) + 1
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
        self.gone = False  # whoever was killed for good comes back after all, with what it had
        super().recover()


class PlacedCluster(Cluster):
    def __init__(self, config: SimConfig, drawn: DrawnSettings, **options: Any) -> None:
        self.mover_settings = MoverSettings(Limits(streams=2, streams_a_node=1))
        self.steps: dict[str, int] = {}
        super().__init__(config, drawn, make_node=self._make_node, **options)
        founders = [node.node_id for node in self.nodes[: config.nodes]]
        for node in self.nodes[: config.nodes]:
            node.to_form = {META_GROUP: founders, **node.to_form}

    def _make_node(self, *args: Any) -> PlacedNode:
        node = PlacedNode(*args)
        node.cluster = self
        return node

    @property
    def placed(self) -> list[PlacedNode]:
        return cast(list[PlacedNode], self.nodes)

    def planner(self) -> PlacedNode | None:
        return planner_of(self.placed)

    def bootstrap(self) -> Bootstrap:
        return bootstrap_of(self.placed[: self.config.nodes], len(self.groups))

    def _restart_after_failure(self, node: SimNode) -> None:
        if not cast(PlacedNode, node).gone:
            super()._restart_after_failure(node)


class PlacedInjector(FaultInjector):
    """Leaves alone whoever was killed for good."""

    def node(self) -> SimNode:
        return next(found for found in iter(super().node, None) if not cast(PlacedNode, found).gone)

    def restart_later(self, node: SimNode, low_s: float, high_s: float) -> None:
        if not cast(PlacedNode, node).gone:
            super().restart_later(node, low_s, high_s)


class PlacementSimulation(Simulation):
    cluster: PlacedCluster

    def __init__(self, cluster: PlacedCluster) -> None:
        super().__init__(cluster)
        drawn = cluster.drawn
        self.injector = PlacedInjector(
            cluster, drawn.weights, drawn.fault_every_s, drawn.fault_length
        )
        self.operator = Operator(cluster)

    def _await_forming(self) -> None:
        super()._await_forming()
        begun: list[ProposeResult] = []
        world = self.world
        while not self._begun() and world.now < SETTLE_S and not world.stop_reason:
            planner = self.cluster.planner()
            if planner is not None and planner.meta_group is not None:
                command = encode(self.cluster.bootstrap(), b"begin".ljust(16, b"\0"))
                planner.meta_group.propose(command, begun.append)
            world.run(world.now + POLL_S)
        self.operator.start()

    def _begun(self) -> bool:
        return any(node.view.version for node in self.cluster.placed)

    def _await_recovery(self) -> None:
        self.operator.stopped = True
        world = self.world
        until = world.now + SETTLE_S
        why: str | None = None
        while world.now < until and not world.stop_reason:
            why = self._unsettled()
            if why is None:
                self.result.recovered_s = world.now - self.config.calm_at
                return
            world.run(world.now + POLL_S)
        if why is not None and not world.stop_reason:
            self.result.stuck.append(
                Violation("placement", f"not at rest {SETTLE_S:g} s after the last fault: {why}")
            )

    def _unsettled(self) -> str | None:
        """What is not as it should be."""
        cluster = self.cluster
        if not self.workload.idle():
            return "clients wait"
        planner = cluster.planner()
        if planner is None or planner.mover is None or planner.mover.plan is None:
            return "nobody plans"
        if not planner.mover.plan.settled:
            return f"the planner is not finished: {planner.mover.plan}"
        view = planner.view
        active = {n.node for n in view.nodes.values() if n.state is NodeState.ACTIVE}
        for group in cluster.groups:
            reason = unconverged(cluster.views(group), cluster.members(group))
            if reason is not None:
                return f"group {group}: {reason}"
            found = cluster.admin.leader(group)
            if found is None:
                return f"group {group} has a leader that stands still"
            voters = set(found[1].status().voters)
            copies = view.keyspaces[DEFAULT_KEYSPACE_ID].options.replication
            wanted = min(copies, len(active))
            if voters != set(view.shards[group].replicas):
                return f"group {group} is on {voters}, and the map says something else"
            if len(voters) < wanted or (len(active) >= wanted and not voters <= active):
                return f"group {group} is on {sorted(voters)} of {sorted(active)}"
        return None


def simulate(
    seed: int,
    *,
    nodes: int = 3,
    groups: int = 3,
    seconds: float = 60.0,
    faults: frozenset[str] = FAULTS,
    sink: Callable[[str], None] | None = None,
) -> tuple[SeedResult, dict[str, int], dict[str, int]]:
    """(result, what operators did, what was ordered)."""
    config = SimConfig(seed, nodes, groups, seconds, faults)
    drawn = draw(config, World(seed).rng("settings"))
    while len(drawn.disks) < nodes + SPARES:
        drawn.disks.append(replace(drawn.disks[0]))
    drawn.born_in_storm = False
    room = max(drawn.host.entry_max_bytes, MAP_ENTRY_BYTES)
    drawn.host = replace(drawn.host, entry_max_bytes=room)
    cluster = PlacedCluster(config, drawn, sink=sink)
    simulation = PlacementSimulation(cluster)
    result = simulation.run()
    return result, simulation.operator.done, cluster.steps


def main() -> int:
    parser = argparse.ArgumentParser(description="Simulate clusters whose replicas move, by seed.")
    parser.add_argument("--seeds", default="0..10", metavar="A..B")
    parser.add_argument("--seconds", type=float, default=60.0, metavar="S", help="virtual (60)")
    parser.add_argument("--trace", action="store_true", help="print everything that happens")
    args = parser.parse_args()
    first, _, last = args.seeds.partition("..")
    bad = 0
    for seed in range(int(first), int(last)):
        result, operated, steps = simulate(
            seed, seconds=args.seconds, sink=_print if args.trace else None
        )
        bad += not result.ok
        word = "ok " if result.ok else "BAD"
        _print(f"seed {seed} {word} at rest after {result.recovered_s} s, {operated}, {steps}")
        for violation in (*result.violations, *result.stuck):
            _print(f"  {violation}")
    return 1 if bad else 0


def _print(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main())
