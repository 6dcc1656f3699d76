"""Schedules made for one known bug each: they hold without it, and notice it."""

from __future__ import annotations

import pytest

from chaos.sim.leaderless_canary import put_back
from chaos.sim.leaderless_schedules import SCHEDULES


@pytest.mark.parametrize("canary", sorted(SCHEDULES))
def test_a_schedule_notices_its_bug_and_nothing_else(canary: str) -> None:
    assert SCHEDULES[canary]() == ""
    with put_back(canary):
        assert "were acknowledged" in SCHEDULES[canary]()
