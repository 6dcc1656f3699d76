"""Who writes: on the loop, on a thread, by turns; what each tells, and when it fails."""

from __future__ import annotations

import asyncio
import errno
import os
import platform
import random
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from storage.clock import ManualClock
from storage.committer import Committer
from storage.engine import Batch, BegunSync
from storage.errors import WriteFailedError
from storage.kernel_sync import KernelSync
from storage.lmdb_engine import LmdbEngine
from storage.logged_engine import LoggedEngine
from storage.memory import MemoryEngine
from storage.system_clock import SystemClock
from storage.writers import (
    APART_BYTES,
    INLINE_BELOW_S,
    LEAST_SAMPLES,
    SAMPLES,
    SYNC_APART_BYTES,
    THREAD_ABOVE_S,
    AdaptiveWriter,
    InlineWriter,
    KernelSyncs,
    ThreadWriter,
    kernel_syncs,
)
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


def test_the_typical_write_of_the_last_ones_decides_which_thread_syncs() -> None:
    engine, mailbox, dice = TimedEngine(ManualClock()), Mailbox(), random.Random(7)
    writer = AdaptiveWriter(engine.manual, mailbox.post)
    seen: list[float] = []
    threaded = False
    changes = 0
    for number in range(600):
        slow = number // 60 % 2
        engine.sync_s = dice.choice((0.001, 0.0015, 0.0025, 0.0035, 0.004)[slow : 3 + 2 * slow])
        seen = [*seen, engine.sync_s][-SAMPLES:]
        writer.submit(engine, batch_of(b"%d" % number), lambda failure, seconds: None)
        if threaded:
            mailbox.run_next()
        typical = sorted(seen)[len(seen) // 2]
        if len(seen) >= LEAST_SAMPLES:
            before = threaded
            threaded = typical >= INLINE_BELOW_S if threaded else typical > THREAD_ABOVE_S
            changes += threaded is not before
        assert writer.threaded is threaded
    writer.close()
    assert changes >= 6


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
    await _write_twenty(committer, writer, actor, acknowledged)
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


# --- syncs that the kernel makes -----------------------------------------------------------------


async def _write_twenty(
    committer: Committer,
    writer: AdaptiveWriter | ThreadWriter,
    actor: Actor,
    acknowledged: asyncio.Event,
) -> None:
    """Asked for one by one, then nothing more is written."""
    for number in range(20):
        actor.put(b"%02d" % number)
        committer.kick()
        await asyncio.sleep(0)
    async with asyncio.timeout(30):
        await acknowledged.wait()
    committer.stop()
    writer.close()


class ApartEngine(TimedEngine):
    """Offers syncs apart, and notes what it is told of them."""

    def __init__(self, clock: ManualClock, descriptor: int) -> None:
        super().__init__(clock)
        self.descriptor = descriptor
        self.nothing_to_begin = False
        self.begun = 0
        self.ended: list[tuple[int, int | None]] = []

    def begin_sync(self) -> BegunSync | None:
        if self.nothing_to_begin:
            return None
        self.begun += 1
        return BegunSync(self.descriptor, self.begun)

    def end_sync(self, number: int, failure: OSError | None) -> None:
        self.ended.append((number, None if failure is None else failure.errno))
        if failure is not None:
            raise WriteFailedError("no") from failure


class HeldKernel(KernelSync):
    """Syncs end when the test says so."""

    def __init__(self) -> None:
        self.descriptor = os.eventfd(0)
        self.submitted: list[int] = []
        self.refuses: OSError | None = None
        self.code: int | None = None
        self.waited = self.closed = False

    def submit(self, descriptor: int) -> None:
        if self.refuses is not None:
            raise self.refuses
        self.submitted.append(descriptor)

    def end(self) -> int | None:
        code, self.code = self.code, None
        return code

    def wait(self, timeout_s: float | None = None) -> None:
        self.waited = True
        self.code = 0

    def close(self) -> None:
        self.closed = True
        os.close(self.descriptor)


class Watching:
    """The loop's part: it calls back when the test says so."""

    def __init__(self) -> None:
        self.callbacks: dict[int, Callable[..., object]] = {}

    def add_reader(self, descriptor: int, callback: Callable[..., object], /, *args: Any) -> None:
        self.callbacks[descriptor] = callback

    def remove_reader(self, descriptor: int, /) -> None:
        del self.callbacks[descriptor]


class KernelWorld:
    def __init__(self) -> None:
        self.engine = ApartEngine(ManualClock(), descriptor=77)
        self.mailbox = Mailbox()
        self.kernel = HeldKernel()
        self.watching = Watching()
        self.syncs = KernelSyncs(self.engine.manual, self.kernel, self.watching)
        self.writer = AdaptiveWriter(
            self.engine.manual, self.mailbox.post, sync_apart=True, kernel=self.syncs
        )
        self.done: list[tuple[object, ...]] = []

    def submit(self, size: int = SYNC_APART_BYTES) -> None:
        batch = batch_of(b"key")
        batch.put(b"more", bytes(size))
        self.writer.submit(self.engine, batch, partial(_keep, self.done))

    def ends(self, code: int) -> None:
        self.kernel.code = code
        self.watching.callbacks[self.kernel.descriptor]()


@pytest.fixture
def world() -> Iterator[KernelWorld]:
    world = KernelWorld()
    yield world
    world.writer.close()
    assert world.kernel.closed
    assert not world.watching.callbacks


def test_a_large_batch_is_written_here_and_synced_by_the_kernel(world: KernelWorld) -> None:
    world.engine.sync_s = 0.25
    world.submit()
    assert world.engine.writes == [(2, False)]
    assert world.kernel.submitted == [77]
    world.engine.manual.advance(0.5)
    world.watching.callbacks[world.kernel.descriptor]()
    assert world.done == [], "woken for nothing"
    world.ends(0)
    assert world.done == [(None, 0.75)], "the write and the sync"
    assert world.engine.ended == [(1, None)]
    assert set(world.engine.threads) == {threading.current_thread().name}


def test_a_sync_of_the_kernel_that_fails_is_told(world: KernelWorld) -> None:
    world.submit()
    world.ends(errno.EIO)
    ((failure, _seconds),) = world.done
    assert isinstance(failure, WriteFailedError)
    assert world.engine.ended == [(1, errno.EIO)]


@pytest.mark.parametrize("why", ["refused", "nothing to begin"])
def test_what_the_kernel_does_not_take_is_synced_by_the_thread(
    world: KernelWorld, why: str
) -> None:
    if why == "refused":
        world.kernel.refuses = OSError(errno.EAGAIN, "no")
    else:
        world.engine.nothing_to_begin = True
    world.submit()
    world.mailbox.run_next()
    assert world.engine.writes == [(2, False), (0, True)]
    assert world.engine.threads[1] == "janus-writer"
    assert world.done == [(None, 0.0)]
    assert world.syncs.refused == (why == "refused")
    world.kernel.refuses, world.engine.nothing_to_begin = None, False
    world.submit()
    world.ends(0)
    assert len(world.done) == 2, "the next one is the kernel's again"


def test_an_engine_without_a_log_of_its_own_keeps_the_thread(world: KernelWorld) -> None:
    plain = TimedEngine(ManualClock())
    large = batch_of(b"large")
    large.put(b"more", bytes(SYNC_APART_BYTES))
    world.writer.submit(plain, large, partial(_keep, world.done))
    world.mailbox.run_next()
    assert plain.threads[1] == "janus-writer"
    assert world.kernel.submitted == []


def test_small_and_very_large_batches_are_not_the_kernels(world: KernelWorld) -> None:
    world.submit(size=10)
    assert world.engine.writes == [(2, True)]
    world.submit(size=APART_BYTES)
    world.mailbox.run_next()
    assert world.engine.writes == [(2, True), (2, True)]
    assert world.kernel.submitted == []


def test_slow_syncs_of_the_kernel_hold_up_nobody_and_move_nothing_to_the_thread(
    world: KernelWorld,
) -> None:
    for _ in range(40):
        world.submit()
        world.engine.manual.advance(10 * THREAD_ABOVE_S)
        world.ends(0)
    assert not world.writer.threaded
    assert len(world.kernel.submitted) == 40


def test_closing_waits_for_the_sync_of_the_kernel_and_tells_of_it() -> None:
    world = KernelWorld()
    world.submit()
    world.writer.close()
    assert world.kernel.waited
    assert world.done == [(None, 0.0)]
    assert world.engine.ended == [(1, None)]


def test_where_the_kernel_cannot_the_reason_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    told: list[str] = []
    assert kernel_syncs(ManualClock(), Watching(), told.append) is None
    (line,) = told
    assert line.startswith("the kernel does not sync the log here, a thread does: not known for")


async def test_a_committer_on_a_real_loop_whose_log_the_kernel_syncs(tmp_path: Path) -> None:
    """The real engine, the real calls; the participant's batches are large."""
    loop = asyncio.get_running_loop()
    clock = SystemClock()
    engine = LoggedEngine(LmdbEngine(tmp_path / "data", clock=clock))
    told: list[str] = []
    kernel = kernel_syncs(clock, loop, told.append)
    if kernel is None:
        pytest.skip(told[0])
    writer = AdaptiveWriter(clock, loop.call_soon_threadsafe, sync_apart=True, kernel=kernel)
    fatal: list[BaseException] = []
    committer = Committer(engine, writer, loop, clock, on_fatal=fatal.append)
    acknowledged = asyncio.Event()
    seconds: list[float] = []
    committer.on_commit = lambda sync_s, whole_s, size: seconds.append(sync_s)

    class Large(Actor):
        def prepare(self, batch: Batch) -> None:
            super().prepare(batch)
            batch.put(b"large", bytes(SYNC_APART_BYTES))

        def after_commit(self) -> None:
            super().after_commit()
            if len(self.acknowledged) == 20:
                acknowledged.set()

    actor = Large("a", [])
    committer.add(actor)
    await _write_twenty(committer, writer, actor, acknowledged)
    details = engine.statistics().details
    engine.close()
    assert fatal == []
    assert details["log_kernel_syncs"] == committer.commits == len(seconds)
    assert details["log_syncs"] == details["log_kernel_syncs"]
    assert all(0 < each < 30 for each in seconds)
