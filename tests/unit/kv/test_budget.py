"""Bytes that may be under way together."""

from __future__ import annotations

from kv.budget import ByteBudget


def test_what_is_taken_is_counted_and_the_limit_holds() -> None:
    budget = ByteBudget(100)
    assert budget.take(60)
    assert not budget.take(41)
    assert budget.take(40)
    assert (budget.used, budget.refused) == (100, 1)
    budget.give_back(60)
    assert budget.take(1)
    budget.give_back(40)
    budget.give_back(1)
    assert budget.used == 0
