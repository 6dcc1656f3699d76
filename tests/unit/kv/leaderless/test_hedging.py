"""Hedges are a share of the reads, except where they pay off."""

from __future__ import annotations

from kv.leaderless.hedging import HELD_MAX, SHARE, HedgeBudget


def taken(budget: HedgeBudget, reads: int, *, useful: bool) -> int:
    """How many of so many reads, all of them late, are hedged."""
    hedges = 0
    for _ in range(reads):
        budget.earn(1)
        if budget.take():
            hedges += 1
            if useful:
                budget.paid_off()
    return hedges


def test_where_everything_is_slow_hedges_stay_a_small_share() -> None:
    budget = HedgeBudget()
    assert taken(budget, 10_000, useful=False) <= HELD_MAX + 10_000 * SHARE + 1
    assert budget.refused > 9_000


def test_hedges_that_pay_off_are_never_refused() -> None:
    budget = HedgeBudget()
    assert taken(budget, 10_000, useful=True) == 10_000
    assert budget.refused == 0


def test_what_was_spent_is_earned_again() -> None:
    budget = HedgeBudget()
    while budget.take():
        pass
    budget.earn(1_000_000)
    assert taken(budget, int(HELD_MAX), useful=False) == int(HELD_MAX)
