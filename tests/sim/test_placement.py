"""Replicas move under faults: the production planner, mover and attendants, by seed."""

from __future__ import annotations

from collections import Counter

import pytest

from chaos.sim.placement import simulate

pytestmark = pytest.mark.sim


@pytest.mark.parametrize("seed", [13, 16])
def test_replicas_end_where_they_should_be_and_nothing_is_lost(seed: int) -> None:
    result, operated, steps = simulate(seed, seconds=40.0)
    assert result.ok, [str(each) for each in (*result.violations, *result.stuck)]
    assert sum(operated.values()) > 3
    assert steps.get("promote", 0) > 3


def test_a_seed_tells_everything_that_happens() -> None:
    first, second = simulate(5, seconds=20.0), simulate(5, seconds=20.0)
    assert first[0].trace_hash == second[0].trace_hash
    assert first[1:] == second[1:]


@pytest.mark.slow
def test_many_seeds(rounds: int) -> None:
    """The whole proof: python -m chaos.sim.placement --seeds 0..300"""
    operated: Counter[str] = Counter()
    for seed in range(100, 100 + 2 * rounds):
        result, done, _ = simulate(seed)
        assert result.ok, (seed, [str(each) for each in (*result.violations, *result.stuck)])
        operated.update(done)
    assert len(operated) >= 3
