"""Timestamps rise, follow the wall clock, and are not dragged into the future."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kv.leaderless.hlc import HybridClock, wall_ms

MS = st.integers(0, 1 << 40)


@given(st.lists(st.one_of(MS, st.tuples(MS)), max_size=20))
def test_timestamps_rise_whatever_the_wall_clock_does(steps: list[int | tuple[int]]) -> None:
    clock, now_ms, given_out = HybridClock(), 0, []
    for step in steps:
        if isinstance(step, tuple):
            clock.observe(step[0] << 16, now_ms)
        else:
            now_ms = step
            given_out.append(clock.next(now_ms))
            assert wall_ms(given_out[-1]) >= now_ms
    assert given_out == sorted(set(given_out))


def test_a_later_write_of_another_node_is_followed() -> None:
    clock = HybridClock()
    clock.observe((1_500 << 16) + 7, now_ms=1_000)
    assert clock.next(1_000) == (1_500 << 16) + 8
    assert clock.next(2_000) == 2_000 << 16


def test_a_clock_far_ahead_is_not_followed() -> None:
    clock = HybridClock(max_drift_ms=100)
    clock.observe(1_101 << 16, now_ms=1_000)
    assert clock.refused == 1
    assert clock.next(1_000) == 1_000 << 16


def test_what_a_write_replaces_is_outranked_even_if_it_is_far_ahead() -> None:
    clock = HybridClock(max_drift_ms=100)
    far = 9_000_000 << 16
    assert clock.next(1_000, above=far) == far + 1
    assert clock.next(1_001) == 1_001 << 16
    near = 1_050 << 16
    assert clock.next(1_002, above=near) == near + 1
    assert clock.next(1_003) == near + 2
