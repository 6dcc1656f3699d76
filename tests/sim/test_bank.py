"""Transfers and audits over shards in the simulator: they hold. (Canaries: what breaks them is
seen.)"""

from __future__ import annotations

from chaos.sim.play import play_seed
from chaos.sim.settings import SimConfig

FAULTS = frozenset({"splits", "merges", "bank"})


def test_money_is_moved_between_shards_that_split_and_merge() -> None:
    result = play_seed(SimConfig(seed=0, nodes=3, groups=1, seconds=10, faults=FAULTS))
    assert not result.violations
    assert result.changes["transfer done"] > 10
    assert result.changes["audit done"] > 5
