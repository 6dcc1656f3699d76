"""What is not pure: the figures of the process, the probe of the loop, the committer's hook."""

from __future__ import annotations

import asyncio
import mmap
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from kv.cluster.tasks import Tasks
from kv.metrics import Metrics
from kv.metrics.loop_lag import LoopLagProbe
from kv.metrics.process import process_figures
from storage.clock import ManualClock
from storage.committer import Committer, Need
from storage.engine import Batch
from storage.memory import MemoryEngine
from storage.system_clock import SystemClock
from storage.writers import InlineWriter


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(1_000):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it did not come to that in 1,000 passes of the loop")


def test_the_process_is_this_one() -> None:
    before = process_figures()
    # Not from the allocator, which may hand out pages that this process has touched already.
    size = 32 * 1024 * 1024
    with mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as kept:
        kept[:] = b"x" * size
        with open(os.devnull) as _:
            after = process_figures()
    assert after.cpu_s >= before.cpu_s > 0
    assert before.anonymous_bytes is not None
    assert after.anonymous_bytes is not None
    assert after.anonymous_bytes - before.anonymous_bytes > 16 * 1024 * 1024
    assert after.resident_bytes is not None
    assert after.resident_bytes > after.anonymous_bytes
    assert after.open_fds is not None
    assert before.open_fds is not None
    assert after.open_fds == before.open_fds + 1
    assert after.started_s is not None
    assert 0 < SystemClock().wall() - after.started_s < 24 * 3600
    assert after.threads


def test_without_proc_only_the_time_is_known(tmp_path: Path) -> None:
    figures = process_figures(tmp_path)
    assert figures.cpu_s > 0
    assert figures.resident_bytes is figures.open_fds is figures.started_s is None


async def test_the_probe_tells_how_late_the_loop_was() -> None:
    clock = ManualClock()
    sleeps = iter((1.0, 1.05, 0.999, 3.0))
    seen: list[float] = []

    async def sleep(seconds: float) -> None:
        assert seconds == 1.0
        step = next(sleeps, None)
        if step is None:
            await asyncio.Event().wait()
        else:
            clock.advance(step)

    failures: list[tuple[str, BaseException]] = []
    tasks = Tasks(asyncio.get_running_loop(), lambda name, error: failures.append((name, error)))
    probe = LoopLagProbe(clock, seen.append, sleep=sleep)
    probe.start(tasks)
    await until(lambda: len(seen) == 4)
    assert seen == pytest.approx([0.0, 0.05, 0.0, 2.0])
    probe.stop()
    probe.stop()
    await until(lambda: not tasks.running)
    assert failures == []


async def test_the_probe_ends_with_its_owner() -> None:
    tasks = Tasks(asyncio.get_running_loop(), lambda name, error: None)
    LoopLagProbe(SystemClock(), Metrics().loop_lag.observe).start(tasks)
    await tasks.close()
    assert (tasks.running, tasks.failed) == (0, 0)


class OnePut:
    """Writes one pair a turn; the disk takes 3 ms and telling takes 4."""

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock

    def begin_turn(self) -> Need:
        return Need.NOW

    def prepare(self, batch: Batch) -> None:
        batch.put(b"key", b"value")

    def after_commit(self) -> None:
        self._clock.advance(0.004)

    def stalled(self, seconds: float) -> None: ...


class SlowWriter(InlineWriter):
    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock)
        self._manual = clock

    def submit(self, engine: MemoryEngine, batch: Batch, done: object) -> None:  # type: ignore[override]
        engine.write(batch, sync=True)
        self._manual.advance(0.003)
        done(None, 0.003)  # type: ignore[operator]


async def test_the_committer_tells_of_each_commit() -> None:
    clock = ManualClock()
    metrics = Metrics()
    fatal: list[BaseException] = []
    committer = Committer(
        MemoryEngine(clock=clock),
        SlowWriter(clock),
        asyncio.get_running_loop(),
        clock,
        on_fatal=fatal.append,
    )
    committer.add(OnePut(clock))
    committer.on_commit = metrics.commit_observer("strong")
    committer.kick()
    await until(lambda: committer.commits == 1)
    sync, whole = metrics.sync_seconds.labels("strong"), metrics.commit_seconds.labels("strong")
    assert (sync.count, whole.count) == (1, 1)
    assert sync.total == pytest.approx(0.003)
    assert whole.total == pytest.approx(0.007)
    assert metrics.commit_bytes.labels("strong").total == 8
    assert fatal == []
    committer.stop()
