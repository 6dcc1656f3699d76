"""Which simulation a set of faults asks for, and one seed of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from chaos.sim.governed import GovernedCluster, GovernedSimulation
from chaos.sim.map_node import draw_with_map
from chaos.sim.operator import MOVES
from chaos.sim.patches import sabotaged
from chaos.sim.served import ServedSimulation
from chaos.sim.served_node import ServedCluster
from chaos.sim.settings import DrawnSettings, SimConfig, draw
from chaos.sim.shard_node import ShardCluster
from chaos.sim.shards import FAULTS, GOVERNED, LEASES, NO_FAULTS, ShardSimulation
from chaos.sim.simulation import SeedResult, run_seed
from chaos.sim.world import World

CHANGE_MEMBERS: Final = frozenset({"membership", "newdisk"})
"""By themselves, past a map."""

Sink = Callable[[str], None]


def play_seed(config: SimConfig, *, memory: int = 60, sink: Sink | None = None) -> SeedResult:
    with sabotaged(config.canaries):
        return _play(config, memory, sink)


def _play(config: SimConfig, memory: int, sink: Sink | None) -> SeedResult:
    if not config.faults & FAULTS:
        return run_seed(config, memory=memory, sink=sink)
    if config.faults & (GOVERNED | {LEASES}):
        operated = config.faults & GOVERNED or {MOVES}
        config = replace(config, faults=config.faults - CHANGE_MEMBERS | operated)
        drawn = draw_with_map(config)
        _weigh(config, drawn)
        if LEASES in config.faults:
            serving = ServedCluster(config, drawn, memory=memory, sink=sink)
            return ServedSimulation(serving).run()
        governed = GovernedCluster(config, drawn, memory=memory, sink=sink)
        return GovernedSimulation(governed).run()
    drawn = draw(config, World(config.seed).rng("settings"))
    drawn.born_in_storm = False
    _weigh(config, drawn)
    return ShardSimulation(ShardCluster(config, drawn, memory=memory, sink=sink)).run()


def _weigh(config: SimConfig, drawn: DrawnSettings) -> None:
    """What is done to shards and by operators comes as often as all others together, or nearly."""
    rest = sum(weight for name, weight in drawn.weights.items() if name not in FAULTS)
    for name in NO_FAULTS:
        drawn.weights.pop(name, None)
    own = sorted(config.faults & (FAULTS - NO_FAULTS))
    for name in own:
        drawn.weights[name] = max(1.0, rest / max(4, len(own)))
    drawn.fault_every_s /= 2
