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
from typing import Final

from chaos.checkers.liveness import unconverged
from chaos.checkers.violation import Violation
from chaos.sim.faults import MENU
from chaos.sim.map_node import Bounds, draw_with_map
from chaos.sim.operator import Operator
from chaos.sim.placed_node import PlacedCluster, PlacedInjector
from chaos.sim.settings import SimConfig
from chaos.sim.simulation import POLL_S, SeedResult, Simulation
from raftgroups.meta.view import even_ranges

SETTLE_S: Final = 60.0
"""From the last fault until every replica is where it should be, at most."""
SPARES: Final = 3
FAULTS: Final = frozenset(MENU) - {"membership", "newdisk", "upgrade"}
"""Those left out change members by themselves, or have nothing to do with it."""


class RegisterCluster(PlacedCluster):
    """Its groups hold registers, so the keys of its shards mean nothing."""

    def first_ranges(self) -> list[Bounds]:
        return list(even_ranges(len(self.groups)))


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
        self.cluster.begin()
        self.operator.start()

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
        for group in cluster.groups:
            reason = unconverged(cluster.views(group), cluster.members(group))
            if reason is not None:
                return f"group {group}: {reason}"
        return cluster.misplaced()


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
    drawn = draw_with_map(config)
    while len(drawn.disks) < nodes + SPARES:
        drawn.disks.append(replace(drawn.disks[0]))
    cluster = RegisterCluster(config, drawn, sink=sink)
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
