"""Handing out in slices: a loop of which every turn is counted, and wakes that cost time."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from kv.watch.hub import Created
from kv.watch.index import EVERYTHING
from kv.watch.messages import EventBatch
from kv.watch.shard_watches import BRIEF_S, LOT, REST, REST_MAX_S, SLICE_S, ShardWatches
from kv.watch.watcher import WatchRequest
from storage.clock import ManualClock

from .conftest import Log, encode


class Timer:
    def __init__(self, due_s: float, callback: Callable[[], object]) -> None:
        self.due_s = due_s
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Loop:
    """A Scheduler that moves when it is told to."""

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock
        self.soon: list[Timer] = []
        self.timers: list[Timer] = []

    def call_soon(self, callback: Callable[..., object], /, *args: Any) -> Timer:
        self.soon.append(Timer(self._clock.monotonic(), partial(callback, *args)))
        return self.soon[-1]

    def call_later(self, delay_s: float, callback: Callable[..., object], /, *args: Any) -> Timer:
        self.timers.append(Timer(self._clock.monotonic() + delay_s, partial(callback, *args)))
        return self.timers[-1]

    def turn(self) -> None:
        """What is due runs once; what it schedules does not."""
        now_s = self._clock.monotonic()
        due = self.soon + [timer for timer in self.timers if timer.due_s <= now_s]
        self.soon = []
        self.timers = [timer for timer in self.timers if timer.due_s > now_s]
        for each in due:
            if not each.cancelled:
                each.callback()

    def wait_for_timer(self) -> float:
        """Nothing is due; go to the next timer. How long that was."""
        while self.soon:
            self.turn()
        wait_s = self.timers[0].due_s - self._clock.monotonic()
        self._clock.advance(wait_s)
        return wait_s


class Crowd:
    """Watchers of everything. A wake costs `cost_s`, and takes what there is."""

    def __init__(self, watchers: int, cost_s: float) -> None:
        self.clock = ManualClock(50.0)
        self.loop = Loop(self.clock)
        self.log = Log()
        self.watches = ShardWatches(
            encode,
            self.log.read,
            revision=self.log.revision,
            compact_revision=0,
            scheduler=self.loop,
            clock=self.clock,
        )
        self.seen: dict[int, list[list[int]]] = {number: [] for number in range(watchers)}
        """The revisions of each wake, by watcher."""
        self._identities = [self._create(number, cost_s) for number in range(watchers)]
        self.loop.turn()

    def _create(self, number: int, cost_s: float) -> int:
        def wake() -> None:
            self.clock.advance(cost_s)
            taken = self.watches.take(self._identities[number])
            revisions = [each.revision for each in taken if isinstance(each, EventBatch)]
            self.seen[number].append(revisions)
            self.watches.room(self._identities[number])

        made = self.watches.create(WatchRequest(EVERYTHING), wake)
        assert isinstance(made, Created)
        return made.identity

    def commit(self) -> None:
        bodies = self.log.write([(b"k", b"v")])
        self.watches.committed(self.log.revision, bodies)

    @property
    def woken(self) -> int:
        return sum(len(wakes) for wakes in self.seen.values())

    def finish(self) -> None:
        for _ in range(1_000):
            if not self.loop.soon and not self.loop.timers:
                return
            if not self.loop.soon:
                self.loop.wait_for_timer()
            self.loop.turn()
        raise AssertionError("it never rests for good")


COST_S = 0.000_1


def test_a_crowd_is_served_in_slices_with_rests_between_them() -> None:
    crowd = Crowd(500, COST_S)
    crowd.commit()
    assert crowd.woken == 0, "nothing happens within the commit"
    woken = 0
    for _ in range(3):
        begun_s = crowd.clock.monotonic()
        crowd.loop.turn()
        took_s = crowd.clock.monotonic() - begun_s
        assert SLICE_S <= took_s <= SLICE_S + LOT * COST_S
        assert crowd.woken > woken
        woken = crowd.woken
        rest_s = crowd.loop.wait_for_timer()
        assert crowd.woken == woken, "it rests"
        assert rest_s == pytest.approx(min(REST * took_s, REST_MAX_S))
        crowd.loop.turn()  # the rest is over; the pass comes with the next turn
    crowd.finish()
    assert all(wakes == [[2]] for wakes in crowd.seen.values())


def test_what_comes_while_it_rests_is_given_together_and_nobody_is_passed_by() -> None:
    crowd = Crowd(200, COST_S)
    crowd.commit()
    crowd.loop.turn()
    first = {number for number, wakes in crowd.seen.items() if wakes}
    assert 0 < len(first) < 200
    for _ in range(3):
        crowd.commit()
        crowd.loop.turn()
    crowd.finish()
    for number, wakes in crowd.seen.items():
        assert wakes == ([[2], [3, 4, 5]] if number in first else [[2, 3, 4, 5]])


def test_a_few_watchers_are_served_at_once_every_time() -> None:
    crowd = Crowd(4, COST_S)
    assert 4 * COST_S < BRIEF_S
    for revision in range(2, 12):
        crowd.commit()
        crowd.loop.turn()
        assert crowd.seen[3][-1] == [revision]
    assert not crowd.loop.timers


def test_one_who_goes_during_the_rest_is_not_woken() -> None:
    crowd = Crowd(200, COST_S)
    crowd.commit()
    crowd.loop.turn()
    late = next(number for number, wakes in crowd.seen.items() if not wakes)
    crowd.watches.cancel(crowd._identities[late])
    crowd.finish()
    assert crowd.seen.pop(late) == []
    assert all(wakes == [[2]] for wakes in crowd.seen.values())


def test_stopping_ends_a_rest() -> None:
    crowd = Crowd(200, COST_S)
    crowd.commit()
    crowd.loop.turn()
    woken = crowd.woken
    crowd.watches.stop()
    crowd.finish()
    assert crowd.woken == woken < 200
