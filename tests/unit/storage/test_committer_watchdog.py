"""The watchdog of a committer: a write that lasts too long, and time that nobody had."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from storage.committer import SyncWatchdog
from tests.unit.storage.committer_world import World


@pytest.fixture
def watched(world: World) -> Iterator[tuple[World, SyncWatchdog, list[float], threading.Event]]:
    calls: list[float] = []
    called = threading.Event()

    def on_fatal(lasted_s: float) -> None:
        calls.append(lasted_s)
        called.set()

    watchdog = SyncWatchdog(
        world.committer, world.clock, on_fatal, fatal_after_s=10, poll_s=0.001, late_s=1e9
    )
    yield world, watchdog, calls, called
    watchdog.close()


def test_the_watchdog_ends_a_write_that_lasts_too_long(watched: Any) -> None:
    world, watchdog, calls, called = watched
    watchdog.start()
    world.a.put(b"1")
    world.kick()
    world.clock.advance(9.9)
    assert not called.wait(0.05)
    world.clock.advance(0.1)
    assert called.wait(30)
    watchdog.close()
    assert calls == [10.0], "once, and with the time that it lasted"


def test_the_watchdog_does_not_count_time_in_which_everything_stood_still(world: World) -> None:
    """A frozen container, a machine that was suspended: two minutes that no disk has taken."""
    clock = world.clock
    looks = iter([0.5] * 4 + [120.0] + [0.5] * 14)

    class Turns:
        """Whenever the watchdog waits, so much time passes."""

        def wait(self, poll_s: float) -> bool:
            clock.advance(next(looks))
            return False

    calls: list[float] = []
    watchdog = SyncWatchdog(world.committer, clock, calls.append)
    watchdog._closing = Turns()  # type: ignore[assignment]
    world.a.put(b"1")
    world.kick()
    began_s = clock.monotonic()
    watchdog._run()
    assert clock.monotonic() - began_s == 2.0 + 120.0 + 7.0
    assert calls == [2.0 + 1.0 + 7.0]


def test_the_watchdog_leaves_quick_writes_and_idle_times_alone(watched: Any) -> None:
    world, watchdog, calls, called = watched
    watchdog.start()
    world.clock.advance(100)
    assert not called.wait(0.02)
    for number in range(3):
        world.a.put(b"%d" % number)
        world.kick()
        world.clock.advance(9)
        assert not called.wait(0.02)
        world.writer.finish(seconds=9)
        world.loop.run()
    watchdog.close()
    assert calls == []


def test_a_watchdog_that_was_never_started_closes(watched: Any) -> None:
    watched[1].close()
