from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from raftgroups.shardclock import MAX_LEAD_MS, TICK_MS, ShardClock


def test_a_leader_goes_on_from_the_last_shard_clock() -> None:
    clock = ShardClock(1000.0, 500)
    assert clock.stamp(1000.0) == 500
    assert clock.stamp(1001.25) == 1750
    successor = ShardClock(7.0, 1750)  # another node, with another monotonic time
    assert successor.stamp(7.5) == 2250


def test_it_stands_still_while_nothing_is_applied() -> None:
    clock = ShardClock(0.0, 0)
    assert clock.now(60.0) == MAX_LEAD_MS
    assert clock.now(3600.0) == MAX_LEAD_MS
    clock.observe(MAX_LEAD_MS)
    assert clock.now(3601.0) == MAX_LEAD_MS + 1000


def test_it_passes_as_time_does_while_entries_are_applied() -> None:
    clock = ShardClock(0.0, 0)
    for tenth in range(1, 1000):
        stamp = clock.stamp(tenth / 10)
        assert abs(stamp - tenth * 100) <= 1
        clock.observe(stamp)


def test_a_tick_is_due_every_second_while_something_lives() -> None:
    clock = ShardClock(0.0, 0)
    assert not clock.tick_due(100.0, alive=False)
    assert clock.tick_due(100.0, alive=True)
    clock.stamp(100.0)
    assert not clock.tick_due(100.0 + TICK_MS / 2000, alive=True)
    assert clock.tick_due(clock.next_tick_s(), alive=True)
    assert clock.next_tick_s() < 101.0


STEPS = st.lists(
    st.tuples(st.sampled_from(["stamp", "now", "apply", "foreign"]), st.floats(0, 10)), max_size=40
)


@given(STEPS)
def test_it_never_goes_back_and_never_far_ahead(steps: list[tuple[str, float]]) -> None:
    clock, now, last, applied = ShardClock(0.0, 100), 0.0, 100, 100
    for step, seconds in steps:
        now += seconds
        if step == "apply":
            applied = max(applied, last)
            clock.observe(applied)
        elif step == "foreign":
            applied = last = max(applied, last) + 50
            clock.observe(applied)
        else:
            seen = clock.stamp(now) if step == "stamp" else clock.now(now)
            assert last <= seen <= applied + MAX_LEAD_MS
            last = seen
