"""The slice of the simulation of splits and merges; the whole is
`januskv sim --faults all,splits,merges`, and with `moves`."""

from __future__ import annotations

import pytest

from chaos.sim.faults import MENU
from chaos.sim.play import play_seed
from chaos.sim.settings import SimConfig
from chaos.sim.shards import GOVERNED, MERGES, SPLITS

pytestmark = pytest.mark.sim
SHARDS = frozenset({SPLITS, MERGES})


def test_all_faults(rounds: int) -> None:
    done: dict[str, int] = {}
    for seed in range(3 * rounds):
        result = play_seed(SimConfig(seed=seed, seconds=26.0, faults=frozenset(MENU) | SHARDS))
        assert result.ok, "\n".join(
            [*map(str, result.violations), *map(str, result.stuck), *result.recent[-30:]]
        )
        for name, count in result.changes.items():
            done[name] = done.get(name, 0) + count
    assert min(done["split"], done["merge"], done["cursor in a new segment"]) > 0


def test_replicas_move_while_their_shards_split_and_merge() -> None:
    """By the production divider and mover, by a map in group 0, under all faults; machines join,
    and one dies for good."""
    result = play_seed(SimConfig(seed=47, seconds=30.0, faults=frozenset(MENU) | SHARDS | GOVERNED))
    assert result.ok, [str(each) for each in (*result.violations, *result.stuck)]
    done = ("splits", "merges", "join", "step promote", "death for good", "step declare dead")
    assert min(result.changes[name] for name in done) > 0
    assert result.snapshots > 0


def test_the_same_seed_is_the_same_run() -> None:
    config = SimConfig(seed=3, seconds=20.0, faults=frozenset({"crash", "partition"}) | SHARDS)
    assert play_seed(config).trace_hash == play_seed(config).trace_hash
