"""The turn of the group commit: its order, its barrier, and what is fatal."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from storage.clock import ManualClock
from storage.committer import (
    APART_BYTES,
    SYNC_APART_BYTES,
    THREAD_ABOVE_S,
    AdaptiveWriter,
    Committer,
    Done,
    InlineWriter,
    Need,
    SyncWatchdog,
    ThreadWriter,
    Writer,
)
from storage.engine import Batch, Engine, iterate
from storage.errors import WriteFailedError
from storage.memory import MemoryEngine
from storage.system_clock import SystemClock


class Call:
    """A scheduled call; it is also its own timer."""

    def __init__(self, due_s: float, callback: Callable[..., object], arguments: Any) -> None:
        self.due_s = due_s
        self.cancelled = False
        self._callback = callback
        self._arguments = arguments

    def cancel(self) -> None:
        self.cancelled = True

    def __call__(self) -> None:
        if not self.cancelled:
            self._callback(*self._arguments)


class Loop:
    """An event loop in virtual time: `run` until nothing is due, `pass_once` for one pass."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self._soon: list[Call] = []
        self._later: list[Call] = []

    def call_soon(self, callback: Callable[..., object], /, *arguments: Any) -> Call:
        self._soon.append(Call(self.clock.monotonic(), callback, arguments))
        return self._soon[-1]

    def call_later(self, delay_s: float, callback: Callable[..., object], /, *args: Any) -> Call:
        self._later.append(Call(self.clock.monotonic() + delay_s, callback, args))
        return self._later[-1]

    def pass_once(self) -> None:
        calls, self._soon = self._soon, []
        for call in calls:
            call()

    def run(self) -> None:
        while self._soon:
            self.pass_once()

    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)
        now = self.clock.monotonic()
        due = [call for call in self._later if call.due_s <= now]
        self._later = [call for call in self._later if call.due_s > now]
        self._soon.extend(due)
        self.run()


class HeldWriter:
    """A write that takes until the test says so."""

    def __init__(self) -> None:
        self.submitted: list[tuple[Engine, Batch, Done]] = []

    def submit(self, engine: Engine, batch: Batch, done: Done) -> None:
        self.submitted.append((engine, batch, done))

    def finish(self, failure: BaseException | None = None, seconds: float = 0.001) -> None:
        engine, batch, done = self.submitted.pop(0)
        assert not self.submitted, "one write at a time"
        if failure is None:
            engine.write(batch, sync=True)
        done(failure, seconds)

    def close(self) -> None:
        pass


class Actor:
    """A participant that records its calls in a diary shared by all."""

    def __init__(self, name: str, diary: list[str]) -> None:
        self.name = name
        self.need = Need.NOTHING
        self.acknowledged: list[bytes] = []
        self.raises: str | None = None
        self.on_begin: Callable[[], object] | None = None
        self._diary = diary
        self._queue: list[bytes] = []
        self._written: list[bytes] = []

    def put(self, key: bytes, need: Need = Need.NOW) -> None:
        self._queue.append(key)
        self.need = max(self.need, need)

    def begin_turn(self) -> Need:
        self._note("begin")
        if self.on_begin is not None:
            self.on_begin()
        return self.need

    def prepare(self, batch: Batch) -> None:
        self._note("prepare")
        for key in self._queue:
            batch.put(key, b"")
        self._written, self._queue, self.need = self._queue, [], Need.NOTHING

    def after_commit(self) -> None:
        self._note("after")
        self.acknowledged += self._written

    def stalled(self, seconds: float) -> None:
        self._note(f"stalled {seconds:g}")

    def _note(self, what: str) -> None:
        self._diary.append(f"{self.name} {what}")
        if self.raises == what:
            raise RuntimeError(f"defect in {what}")


class World:
    """A committer over a memory engine with two participants, in virtual time."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.loop = Loop(self.clock)
        self.engine = MemoryEngine(clock=self.clock)
        self.writer = HeldWriter()
        self.fatal: list[BaseException] = []
        self.diary: list[str] = []
        self.committer = self.build(self.writer)
        self.a, self.b = Actor("a", self.diary), Actor("b", self.diary)
        self.committer.add(self.a)
        self.committer.add(self.b)

    def build(self, writer: Writer) -> Committer:
        return Committer(
            self.engine, writer, self.loop, self.clock, on_fatal=self.fatal.append, lazy_limit_s=0.5
        )

    def kick(self) -> None:
        self.committer.kick()
        self.loop.run()

    def turns(self) -> int:
        return self.diary.count("a begin")

    def stored(self) -> list[bytes]:
        with self.engine.snapshot() as snapshot:
            return [key for key, _ in iterate(snapshot)]


@pytest.fixture
def world() -> World:
    return World()


# --- the order of a turn ---------------------------------------------------------------------


def test_a_turn_keeps_its_order_and_writes_once_for_all(world: World) -> None:
    world.a.put(b"1")
    world.b.put(b"2")
    world.kick()
    assert world.diary == ["a begin", "b begin", "a prepare", "b prepare"]
    assert world.a.acknowledged == []
    world.writer.finish()
    assert world.diary[4:] == ["a after", "b after"]
    assert (world.a.acknowledged, world.b.acknowledged) == ([b"1"], [b"2"])
    assert world.engine.statistics().batches == 1
    assert (world.committer.turns, world.committer.commits) == (1, 1)


def test_what_begin_turn_sends_leaves_in_the_pass_before_the_write(world: World) -> None:
    sent = []

    def flush() -> None:
        sent.append(len(world.writer.submitted))

    world.a.put(b"1")
    world.a.on_begin = lambda: world.loop.call_soon(flush)
    world.kick()
    assert sent == [0]
    assert len(world.writer.submitted) == 1


def test_work_that_arrives_between_begin_and_prepare_is_written_with_it(world: World) -> None:
    world.a.put(b"1")
    world.committer.kick()
    world.loop.pass_once()
    assert world.diary == ["a begin", "b begin"]
    world.b.put(b"2")
    world.committer.kick()
    world.loop.run()
    world.writer.finish()
    assert world.b.acknowledged == [b"2"]


def test_a_turn_without_need_writes_nothing(world: World) -> None:
    world.kick()
    assert world.diary == ["a begin", "b begin"]
    assert world.writer.submitted == []
    assert world.committer.in_flight_since is None


def test_many_kicks_make_one_turn(world: World) -> None:
    for _ in range(5):
        world.committer.kick()
    world.loop.run()
    assert world.turns() == 1


def test_a_committer_without_participants_turns_in_peace() -> None:
    world = World()
    alone = world.build(world.writer)
    alone.kick()
    world.loop.run()
    assert alone.turns == 1
    assert list(alone.participants) == []


# --- the barrier -----------------------------------------------------------------------------


def test_no_turn_begins_while_a_write_is_in_flight_and_kicks_are_remembered(world: World) -> None:
    world.a.put(b"1")
    world.kick()
    world.b.put(b"2")
    for _ in range(3):
        world.kick()
        world.loop.advance(1)
    assert world.turns() == 1
    assert world.committer.in_flight_since == 0.0
    world.writer.finish()
    assert world.committer.in_flight_since is None
    assert world.turns() == 1, "the next turn waits for the next pass of the loop"
    world.loop.run()
    assert world.turns() == 2
    world.writer.finish()
    assert world.b.acknowledged == [b"2"]
    world.loop.run()
    assert world.turns() == 2, "a remembered kick is spent once"


def test_a_kick_out_of_begin_turn_is_remembered_past_the_write(world: World) -> None:
    world.a.put(b"1")
    world.a.on_begin = world.committer.kick
    world.kick()
    world.a.on_begin = None
    assert world.turns() == 1
    world.writer.finish()
    world.loop.run()
    assert world.turns() == 2


def test_a_kick_between_begin_and_write_is_remembered(world: World) -> None:
    world.a.put(b"1")
    world.committer.kick()
    world.loop.pass_once()
    world.committer.kick()
    world.loop.run()
    assert world.turns() == 1
    world.writer.finish()
    world.loop.run()
    assert world.turns() == 2


# --- lazy work -------------------------------------------------------------------------------


def test_lazy_work_rides_along_with_the_next_write(world: World) -> None:
    world.a.put(b"1", Need.LAZY)
    world.kick()
    assert world.writer.submitted == []
    world.b.put(b"2", Need.NOW)
    world.kick()
    world.writer.finish()
    assert world.a.acknowledged == [b"1"]
    world.loop.advance(10)
    assert world.writer.submitted == [], "its timer was taken back"
    assert world.turns() == 2


def test_lazy_work_alone_is_written_after_its_limit(world: World) -> None:
    world.a.put(b"1", Need.LAZY)
    world.kick()
    world.loop.advance(0.4)
    world.a.put(b"2", Need.LAZY)
    world.kick()
    assert world.writer.submitted == []
    world.loop.advance(0.1)
    world.writer.finish()
    assert world.a.acknowledged == [b"1", b"2"]
    world.a.put(b"3", Need.LAZY)
    world.kick()
    assert world.writer.submitted == [], "a new limit runs for new work"
    world.loop.advance(0.5)
    world.writer.finish()
    assert world.a.acknowledged == [b"1", b"2", b"3"]


def test_a_limit_that_ran_out_for_nothing_does_not_hurry_later_work(world: World) -> None:
    world.a.put(b"1", Need.LAZY)
    world.kick()
    world.a.need = Need.NOTHING
    world.loop.advance(0.5)
    world.a.need = Need.LAZY
    world.kick()
    assert world.writer.submitted == []
    world.loop.advance(0.5)
    assert len(world.writer.submitted) == 1


def test_lazy_work_that_falls_due_during_a_write_follows_it(world: World) -> None:
    world.a.put(b"1", Need.LAZY)
    world.kick()
    world.loop.advance(0.3)
    world.b.put(b"2", Need.NOW)
    world.committer.kick()
    world.loop.run()
    world.a.put(b"3", Need.LAZY)
    world.loop.advance(0.3)
    assert len(world.writer.submitted) == 1
    world.writer.finish()
    assert world.a.acknowledged == [b"1"]
    world.loop.run()
    world.loop.advance(0.5)
    world.writer.finish()
    assert world.a.acknowledged == [b"1", b"3"]


# --- stalls and failures ---------------------------------------------------------------------


def test_a_stall_is_told_to_all_before_anything_is_acknowledged(world: World) -> None:
    world.a.put(b"1")
    world.kick()
    world.b.put(b"2")
    world.kick()
    world.writer.finish(seconds=1.5)
    assert world.diary[4:] == ["a stalled 1.5", "b stalled 1.5", "a after", "b after"]
    assert world.committer.stalls == 1
    assert world.committer.last_sync_s == 1.5


def test_a_write_just_under_the_limit_is_no_stall(world: World) -> None:
    world.a.put(b"1")
    world.kick()
    world.writer.finish(seconds=1.0)
    assert world.committer.stalls == 0


def test_a_failed_write_acknowledges_nothing_and_ends_all_turns(world: World) -> None:
    world.a.put(b"1")
    world.kick()
    world.b.put(b"2")
    world.kick()
    failure = WriteFailedError("the disk said no")
    world.writer.finish(failure)
    assert world.fatal == [failure]
    assert world.a.acknowledged == []
    diary = list(world.diary)
    world.kick()
    world.loop.advance(10)
    assert world.diary == diary
    assert world.writer.submitted == []


@pytest.mark.parametrize("where", ["begin", "prepare", "after", "stalled 2"])
@pytest.mark.parametrize("who", ["a", "b"])
def test_an_exception_out_of_a_participant_is_fatal(world: World, where: str, who: str) -> None:
    culprit = world.a if who == "a" else world.b
    world.a.put(b"1")
    world.b.put(b"2")
    culprit.raises = where
    world.kick()
    if world.writer.submitted:
        world.writer.finish(seconds=2)
    assert [str(error) for error in world.fatal] == [f"defect in {where}"]
    assert culprit.acknowledged == []
    assert world.b.acknowledged == []
    if where in ("begin", "prepare"):
        assert world.stored() == []
    assert world.committer.in_flight_since is None, "the watchdog has nothing to wait for"
    diary = list(world.diary)
    world.kick()
    world.loop.advance(10)
    assert world.diary == diary
    assert len(world.fatal) == 1


def test_after_stop_no_turn_begins_and_nobody_is_told(world: World) -> None:
    world.a.put(b"1")
    world.kick()
    world.committer.stop()
    world.writer.finish()
    assert world.a.acknowledged == []
    assert world.fatal == []
    assert world.committer.in_flight_since is None
    world.kick()
    assert world.turns() == 1


def test_stop_between_begin_and_write_leaves_nothing_in_flight(world: World) -> None:
    world.a.put(b"1")
    world.committer.kick()
    world.loop.pass_once()
    world.committer.stop()
    world.loop.run()
    assert world.writer.submitted == []
    assert world.committer.in_flight_since is None


def test_stop_takes_a_scheduled_turn_and_a_lazy_limit_back(world: World) -> None:
    world.a.put(b"1", Need.LAZY)
    world.kick()
    world.committer.kick()
    world.committer.stop()
    world.loop.advance(10)
    assert world.turns() == 1


# --- writers ---------------------------------------------------------------------------------


def batch_of(key: bytes) -> Batch:
    batch = Batch()
    batch.put(key, b"")
    return batch


class TimedEngine(MemoryEngine):
    """A write takes as long as the test says, in virtual time, and notes its thread."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock=clock)
        self.manual = clock
        self.sync_s = 0.0
        self.fails: Exception | None = None
        self.fails_sync: Exception | None = None
        self.threads: list[str] = []
        self.writes: list[tuple[int, bool]] = []

    def write(self, batch: Batch, *, sync: bool) -> None:
        self.threads.append(threading.current_thread().name)
        self.writes.append((len(batch), sync))
        self.manual.advance(self.sync_s)
        if self.fails is not None:
            raise self.fails
        if sync and self.fails_sync is not None:
            raise self.fails_sync
        super().write(batch, sync=sync)


class Mailbox:
    """What call_soon_threadsafe is to a loop: calls posted by the writer's thread."""

    def __init__(self) -> None:
        self._calls: list[Callable[[], object]] = []
        self._arrived = threading.Semaphore(0)

    def post(self, callback: Callable[..., object], *arguments: Any) -> None:
        self._calls.append(lambda: callback(*arguments))
        self._arrived.release()

    def run_next(self) -> None:
        assert self._arrived.acquire(timeout=30), "the writer never reported"
        self._calls.pop(0)()


def test_the_inline_writer_reports_time_and_failure() -> None:
    engine = TimedEngine(ManualClock())
    reports: list[tuple[BaseException | None, float]] = []
    writer = InlineWriter(engine.manual)
    engine.sync_s = 0.25
    writer.submit(engine, batch_of(b"a"), lambda *report: reports.append(report))
    engine.fails = WriteFailedError("no")
    writer.submit(engine, batch_of(b"b"), lambda *report: reports.append(report))
    writer.close()
    assert reports == [(None, 0.25), (engine.fails, 0.25)]


def test_the_thread_writer_writes_on_one_thread_and_reports_on_the_loop() -> None:
    engine, mailbox = TimedEngine(ManualClock()), Mailbox()
    writer = ThreadWriter(engine.manual, mailbox.post)
    reported: list[tuple[BaseException | None, str]] = []
    for number in range(3):
        engine.fails = WriteFailedError("no") if number == 2 else None
        writer.submit(
            engine,
            batch_of(b"%d" % number),
            lambda failure, _s: reported.append((failure, threading.current_thread().name)),
        )
        mailbox.run_next()
    writer.close()
    here = threading.current_thread().name
    assert reported == [(None, here), (None, here), (engine.fails, here)]
    assert set(engine.threads) == {"janus-writer"}


def test_closing_the_thread_writer_waits_for_the_write_submitted_last() -> None:
    """The write may not even have begun when close is called: it is done all the same."""
    for _ in range(50):
        engine, mailbox = TimedEngine(ManualClock()), Mailbox()
        writer = ThreadWriter(engine.manual, mailbox.post)
        reported: list[tuple[object, ...]] = []
        writer.submit(engine, batch_of(b"a"), partial(_keep, reported))
        writer.close()
        assert engine.statistics().keys == 1
        mailbox.run_next()
        assert reported == [(None, 0.0)]


def _keep(reports: list[tuple[object, ...]], *report: object) -> None:
    reports.append(report)


def test_a_thread_writer_that_never_wrote_closes() -> None:
    ThreadWriter(ManualClock(), lambda: None).close()


def test_the_adaptive_writer_follows_the_median() -> None:
    engine, mailbox = TimedEngine(ManualClock()), Mailbox()
    writer = AdaptiveWriter(engine.manual, mailbox.post)
    done: list[float] = []

    def write(sync_s: float, times: int = 1) -> None:
        for _ in range(times):
            engine.sync_s = sync_s
            threaded = writer.threaded
            writer.submit(engine, batch_of(b"k"), lambda _f, seconds: done.append(seconds))
            if threaded:
                mailbox.run_next()

    write(0.050, times=4)
    assert not writer.threaded, "too few samples to judge"
    write(0.050)
    assert writer.threaded
    write(0.0005, times=5)
    assert writer.threaded
    write(0.0005)
    assert not writer.threaded, "six quick ones of eleven: the median is quick again"
    write(0.0005, times=20)
    write(0.050, times=3)
    assert not writer.threaded, "a few slow ones do not move the median"
    write(0.0025, times=40)
    assert not writer.threaded, "between the two thresholds nothing changes"
    write(0.0035, times=31)
    assert writer.threaded
    write(0.0025, times=40)
    assert writer.threaded, "between the two thresholds nothing changes, on this side either"
    write(0.0015, times=31)
    assert not writer.threaded
    writer.close()
    assert len(done) == len(engine.threads)
    assert set(engine.threads) == {threading.current_thread().name, "janus-writer"}


def test_a_write_under_pressure_never_runs_on_the_loop() -> None:
    engine, mailbox = TimedEngine(ManualClock()), Mailbox()
    pressure = True
    writer = AdaptiveWriter(engine.manual, mailbox.post, under_pressure=lambda: pressure)
    done: list[float] = []
    writer.submit(engine, batch_of(b"k"), lambda _f, seconds: done.append(seconds))
    assert done == [], "the thread tells the loop"
    mailbox.run_next()
    assert len(done) == 1
    pressure = False
    writer.submit(engine, batch_of(b"k"), lambda _f, seconds: done.append(seconds))
    assert len(done) == 2
    assert not writer.threaded
    writer.close()


def test_a_large_batch_is_written_here_and_synced_by_the_thread() -> None:
    engine, mailbox = TimedEngine(ManualClock()), Mailbox()
    writer = AdaptiveWriter(engine.manual, mailbox.post, sync_apart=True)
    done: list[tuple[object, ...]] = []
    engine.sync_s = 0.0005
    small, large = batch_of(b"small"), batch_of(b"large")
    large.put(b"more", bytes(SYNC_APART_BYTES))
    writer.submit(engine, small, partial(_keep, done))
    assert done == [(None, 0.0005)]
    writer.submit(engine, large, partial(_keep, done))
    assert len(done) == 1, "not safe yet"
    mailbox.run_next()
    writer.close()
    assert done == [(None, 0.0005), (None, 0.001)]
    here = threading.current_thread().name
    assert engine.threads == [here, here, "janus-writer"]
    assert engine.writes == [(1, True), (2, False), (0, True)]


def test_a_very_large_batch_is_written_by_the_thread_and_says_nothing_of_others() -> None:
    engine, mailbox = TimedEngine(ManualClock()), Mailbox()
    writer = AdaptiveWriter(engine.manual, mailbox.post, sync_apart=True)
    engine.sync_s = 2 * THREAD_ABOVE_S
    for number in range(9):
        large = batch_of(b"%d" % number)
        large.put(b"more", bytes(APART_BYTES))
        writer.submit(engine, large, lambda failure, seconds: None)
        mailbox.run_next()
    assert not writer.threaded
    writer.close()
    assert set(engine.threads) == {"janus-writer"}
    assert engine.writes == [(2, True)] * 9


def test_without_sync_apart_a_large_batch_is_synced_where_it_is_written() -> None:
    engine, mailbox = TimedEngine(ManualClock()), Mailbox()
    writer = AdaptiveWriter(engine.manual, mailbox.post)
    large = batch_of(b"large")
    large.put(b"more", bytes(SYNC_APART_BYTES))
    done: list[tuple[object, ...]] = []
    writer.submit(engine, large, partial(_keep, done))
    writer.close()
    assert engine.writes == [(2, True)]
    assert done == [(None, 0.0)]


@pytest.mark.parametrize("failing", ["the write", "the sync"])
def test_whichever_half_of_a_write_fails_is_told(failing: str) -> None:
    engine, mailbox = TimedEngine(ManualClock()), Mailbox()
    writer = AdaptiveWriter(engine.manual, mailbox.post, sync_apart=True)
    large = batch_of(b"large")
    large.put(b"more", bytes(SYNC_APART_BYTES))
    done: list[tuple[object, ...]] = []
    failure = WriteFailedError("no")
    if failing == "the write":
        engine.fails = failure
        writer.submit(engine, large, partial(_keep, done))
    else:
        engine.fails_sync = failure
        writer.submit(engine, large, partial(_keep, done))
        mailbox.run_next()
    writer.close()
    assert done == [(failure, 0.0)]


async def test_a_committer_on_a_real_loop_with_a_writer_thread() -> None:
    loop = asyncio.get_running_loop()
    engine = MemoryEngine(clock=SystemClock())
    writer = ThreadWriter(SystemClock(), loop.call_soon_threadsafe)
    fatal: list[BaseException] = []
    committer = Committer(engine, writer, loop, SystemClock(), on_fatal=fatal.append)
    acknowledged = asyncio.Event()
    diary: list[str] = []

    class Awaited(Actor):
        def after_commit(self) -> None:
            super().after_commit()
            if len(self.acknowledged) == 20:
                acknowledged.set()

    actor = Awaited("a", diary)
    committer.add(actor)
    for number in range(20):
        actor.put(b"%02d" % number)
        committer.kick()
        await asyncio.sleep(0)
    async with asyncio.timeout(30):
        await acknowledged.wait()
    committer.stop()
    writer.close()
    assert fatal == []
    assert actor.acknowledged == [b"%02d" % number for number in range(20)]
    assert engine.statistics().keys == 20
    assert diary.count("a after") == diary.count("a prepare") == committer.commits


async def test_a_failure_on_the_writer_thread_is_fatal_on_the_loop() -> None:
    loop = asyncio.get_running_loop()
    engine = TimedEngine(ManualClock())
    engine.fails = WriteFailedError("no")
    writer = ThreadWriter(SystemClock(), loop.call_soon_threadsafe)
    failed: asyncio.Future[BaseException] = loop.create_future()
    committer = Committer(engine, writer, loop, SystemClock(), on_fatal=failed.set_result)
    actor = Actor("a", [])
    committer.add(actor)
    actor.put(b"1")
    committer.kick()
    async with asyncio.timeout(30):
        assert await failed is engine.fails
    assert actor.acknowledged == []
    writer.close()


# --- the watchdog ----------------------------------------------------------------------------


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
