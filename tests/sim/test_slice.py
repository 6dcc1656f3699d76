"""The slice of the simulation that every change goes through; the whole is `januskv sim`."""

from __future__ import annotations

import pytest

from chaos.sim.faults import MENU
from chaos.sim.settings import SimConfig
from chaos.sim.simulation import run_seed

pytestmark = pytest.mark.sim

BATCH = 10


def held(config: SimConfig) -> None:
    result = run_seed(config)
    assert result.ok, "\n".join(
        [*map(str, result.violations), *map(str, result.stuck), *result.recent[-30:]]
    )
    assert sum(result.results.values()) > 0


@pytest.mark.parametrize("batch", range(3))
def test_three_nodes_all_faults(batch: int, rounds: int) -> None:
    for seed in range(batch * BATCH * rounds, (batch + 1) * BATCH * rounds):
        held(SimConfig(seed=seed, nodes=3, faults=frozenset(MENU)))


@pytest.mark.parametrize("batch", range(2))
def test_five_nodes_all_faults(batch: int, rounds: int) -> None:
    for seed in range(batch * BATCH * rounds, (batch + 1) * BATCH * rounds):
        held(SimConfig(seed=seed, nodes=5, faults=frozenset(MENU)))


def test_no_faults(rounds: int) -> None:
    for seed in range(3 * rounds):
        held(SimConfig(seed=seed, nodes=3, groups=3, seconds=20.0))


def test_a_single_node(rounds: int) -> None:
    faults = frozenset(MENU) - {
        "latency", "stall", "reset", "oneway", "partition", "membership", "transfer", "newdisk",
    }  # fmt: skip
    for seed in range(3 * rounds):
        held(SimConfig(seed=seed, nodes=1, seconds=20.0, faults=faults))
