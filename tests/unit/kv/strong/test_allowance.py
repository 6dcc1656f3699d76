"""A quota of operations a second."""

from __future__ import annotations

from kv.strong.allowance import Allowance
from storage.clock import ManualClock


def test_a_second_gives_what_the_rate_says() -> None:
    clock = ManualClock()
    allowance = Allowance(clock)
    assert all(allowance.take() for _ in range(1000))  # no rate, no limit
    allowance.set_rate(10)
    assert sum(allowance.take() for _ in range(50)) == 10
    clock.advance(0.5)
    assert sum(allowance.take() for _ in range(50)) == 5
    clock.advance(60)
    assert sum(allowance.take() for _ in range(50)) == 10


def test_less_than_one_a_second_is_one_now_and_then() -> None:
    clock = ManualClock()
    allowance = Allowance(clock)
    allowance.set_rate(0.5)
    assert allowance.take()
    assert not allowance.take()
    clock.advance(2.1)
    assert allowance.take()
