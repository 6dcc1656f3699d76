"""The measurement on a loop that the test owns: it ends, it cleans up, it tells what broke."""

from __future__ import annotations

import asyncio
import random
import time
from pathlib import Path

import pytest

from raftgroups import bench
from raftgroups.bench_cluster import Parts
from storage.engine import Batch, Engine
from storage.errors import WriteFailedError
from storage.memory import MemoryEngine
from storage.system_clock import SystemClock
from storage.writers import InlineWriter

TINY = bench.Plan(
    groups=(2,), seconds=0.1, in_flight=(4,), reads_in_flight=4, idle_groups=1, idle_seconds=0.1
)


class Breaking(MemoryEngine):
    """Its disk fails at the n-th write."""

    left = 8

    def write(self, batch: Batch, *, sync: bool) -> None:
        self.left -= 1
        if self.left < 0:
            raise WriteFailedError("the disk is gone; replace it")
        super().write(batch, sync=sync)


async def run(engine_class: type[MemoryEngine]) -> tuple[bench.Result, list[MemoryEngine], int]:
    loop = asyncio.get_running_loop()
    clock = SystemClock()
    engines: list[MemoryEngine] = []
    reported = 0

    def open_engine(name: str) -> Engine:
        engines.append(engine_class(clock=clock))
        return engines[-1]

    def report(milliseconds: int, text: str) -> None:
        nonlocal reported
        reported += milliseconds

    parts = Parts(
        scheduler=loop,
        clock=clock,
        rng=random.Random(1),
        cpu_s=time.process_time,
        open_engine=open_engine,
        make_writer=lambda: InlineWriter(clock),
    )
    finished: asyncio.Future[bench.Result] = loop.create_future()

    def done(result: bench.Result | None, error: BaseException | None) -> None:
        if error is not None:
            finished.set_exception(error)
        else:
            finished.set_result(result)

    bench.drive(loop, bench.run(parts, TINY, report), done)
    return await asyncio.wait_for(finished, 30), engines, reported


async def test_a_run_ends_with_every_phase_and_closed_engines(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bench, "SETTLE_MARGIN_S", -4.9)
    result, engines, reported = await run(MemoryEngine)
    assert [phase.what for phase in result.phases] == ["write", "read-leader", "read-follower"]
    assert all(phase.operations > 0 for phase in result.phases)
    assert result.idle.groups == 1
    assert reported == TINY.milliseconds
    assert len(engines) == 6, "a cluster for the phases and one for idleness"
    for engine in engines:
        with pytest.raises(Exception, match="closed"):
            engine.snapshot()


async def test_a_failed_disk_ends_the_run_with_its_error(tmp_path: Path) -> None:
    with pytest.raises(WriteFailedError, match="the disk is gone"):
        await run(Breaking)
