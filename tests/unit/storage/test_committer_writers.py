"""Who writes: on the loop, on a thread, by turns; what each tells, and when it fails."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
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
    InlineWriter,
    ThreadWriter,
)
from storage.engine import Batch
from storage.errors import WriteFailedError
from storage.memory import MemoryEngine
from storage.system_clock import SystemClock
from tests.unit.storage.committer_world import Actor


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
