"""The share of a put that leaves cost: what is subtracted, and when the figure is missed."""

from __future__ import annotations

import pytest

from kv.cli.bench_leaves import text
from kv.peers.leaves import NEW, LeafCost, leaf_cost, replaced_us
from storage.memory import MemoryEngine
from storage.system_clock import SystemClock


@pytest.mark.parametrize("fresh", [True, False])
def test_a_leaf_is_a_part_of_a_copy(fresh: bool) -> None:
    engine = MemoryEngine(clock=SystemClock())
    leaf_us, copy_us = leaf_cost(engine, turns=5, fresh=fresh)
    assert 0.0 <= leaf_us < copy_us


def test_three_replicas_keep_a_leaf_each() -> None:
    cost = LeafCost(NEW, 64, 5.0, 20.0, 200.0, {})
    assert cost.share == 0.075
    assert "7.5 %" in text([cost])
    assert replaced_us(200.0, 20.0, 25.0) == 215.0
