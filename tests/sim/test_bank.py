"""Transfers and audits over shards in the simulator: they hold; what would break them is seen."""

from __future__ import annotations

import pytest

from chaos.sim.play import play_seed
from chaos.sim.settings import SimConfig
from raftgroups.intents import Intents

FAULTS = frozenset({"splits", "merges", "bank"})


def test_money_is_moved_between_shards_that_split_and_merge() -> None:
    result = play_seed(SimConfig(seed=0, nodes=3, groups=1, seconds=10, faults=FAULTS))
    assert not result.violations
    assert result.changes["transfer done"] > 10
    assert result.changes["audit done"] > 5


def test_a_bank_without_locks_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Intents, "conflicts", lambda self, spans, own=None: [])
    result = play_seed(SimConfig(seed=0, nodes=3, groups=1, seconds=25, faults=FAULTS))
    assert "bank" in {found.invariant for found in result.violations}
