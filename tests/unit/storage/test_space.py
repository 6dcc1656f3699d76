"""NOSPACE is raised before the disk is full and clears by itself."""

from __future__ import annotations

import pytest

from storage.engine import EngineStatistics
from storage.errors import NoSpaceError
from storage.space import Purpose, SpaceGuard, default_reserve_bytes

MIB = 1024 * 1024


def figures(free: int, reusable: int = 0) -> EngineStatistics:
    return EngineStatistics(
        engine="memory",
        keys=0,
        keys_exact=True,
        disk_bytes=0,
        live_bytes=0,
        reusable_bytes=reusable,
        disk_free_bytes=free,
        batches=0,
        put_bytes=0,
        open_snapshots=0,
        oldest_snapshot_age_s=0.0,
    )


@pytest.mark.parametrize(
    ("disk", "reserve"),
    [(0, 256 * MIB), (10_000 * MIB, 256 * MIB), (12_800 * MIB, 256 * MIB), (10**12, 2 * 10**10)],
)
def test_the_default_reserve(disk: int, reserve: int) -> None:
    assert default_reserve_bytes(disk) == reserve


def test_before_the_first_observation_nothing_is_refused() -> None:
    guard = SpaceGuard(100)
    guard.admit(Purpose.GROW, 10**12)
    assert guard.available_bytes is None


def test_the_alarm_is_raised_below_the_reserve_and_cleared_at_twice_that() -> None:
    guard = SpaceGuard(100)
    raised = [(free, guard.observe(figures(free))) for free in (100, 99, 100, 199, 200, 100, 99)]
    assert raised == [
        (100, False),
        (99, True),
        (100, True),
        (199, True),
        (200, False),
        (100, False),
        (99, True),
    ]
    assert guard.times_raised == 2


def test_reusable_bytes_count_as_free_ones() -> None:
    guard = SpaceGuard(100)
    assert not guard.observe(figures(40, reusable=60))
    assert guard.observe(figures(40, reusable=59))
    assert not guard.observe(figures(0, reusable=200))


def test_while_raised_only_growth_is_refused() -> None:
    guard = SpaceGuard(100)
    guard.observe(figures(50))
    guard.admit(Purpose.FREE, 10)
    guard.admit(Purpose.REPAIR, 10)
    with pytest.raises(NoSpaceError) as refusal:
        guard.admit(Purpose.GROW, 1)
    text = str(refusal.value)
    assert "a write of 1 bytes was refused" in text
    assert "30 bytes are available" in text
    assert "100 are kept in reserve" in text
    assert "until 200 are available" in text
    assert "delete keys, compact, or give the disk more space" in text
    assert refusal.value.retryable
    assert refusal.value.outcome == "none"
    guard.observe(figures(200))
    guard.admit(Purpose.GROW, 1)


def test_a_refused_write_takes_nothing() -> None:
    guard = SpaceGuard(100)
    guard.observe(figures(150))
    with pytest.raises(NoSpaceError, match="would reach into that"):
        guard.admit(Purpose.GROW, 51)
    assert not guard.raised, "one write too large for what is left is refused alone"
    assert guard.available_bytes == 150
    guard.admit(Purpose.GROW, 50)
    assert guard.available_bytes == 100


def test_a_burst_between_two_observations_does_not_run_through_the_reserve() -> None:
    guard = SpaceGuard(100)
    guard.observe(figures(1_000))
    for _ in range((1_000 - 100) // 7):
        guard.admit(Purpose.GROW, 7)
    with pytest.raises(NoSpaceError):
        guard.admit(Purpose.GROW, 7)
    assert guard.available_bytes == 1_000 - 128 * 7


def test_what_frees_space_may_use_the_whole_reserve_and_then_raises_the_alarm() -> None:
    guard = SpaceGuard(100)
    guard.observe(figures(150))
    guard.admit(Purpose.FREE, 120)
    assert guard.available_bytes == 30
    with pytest.raises(NoSpaceError):
        guard.admit(Purpose.GROW)
    assert guard.raised
    guard.admit(Purpose.FREE, 500)
    assert guard.available_bytes == 0
