"""Shards divide themselves under faults: the production divider and attendants, by seed."""

from __future__ import annotations

from collections import Counter

import pytest

from chaos.sim.division import simulate

pytestmark = pytest.mark.sim


def test_shards_split_and_merge_by_themselves_and_nothing_is_lost() -> None:
    total: Counter[str] = Counter()
    for seed in (4, 5):
        result, asked, done = simulate(seed, seconds=20.0)
        assert result.ok, [str(each) for each in (*result.violations, *result.stuck)]
        assert asked
        total += done
    assert total["splits"] > 2
    assert total["merges"]


@pytest.mark.slow
def test_many_seeds(rounds: int) -> None:
    """The whole proof: python -m chaos.sim.division --seeds 0..300"""
    splits = 0
    for seed in range(100, 100 + 2 * rounds):
        result, _, done = simulate(seed)
        assert result.ok, (seed, [str(each) for each in (*result.violations, *result.stuck)])
        splits += done["splits"]
    assert splits
