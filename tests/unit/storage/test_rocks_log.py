"""RocksDB's log: power cuts, failed and slow syncs, a process that is killed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from storage.clock import ManualClock
from storage.engine import WritePressure
from storage.errors import WriteFailedError
from storage.rocks_engine import RocksEngine
from tests.unit.storage.rocks_database import ENGINE, pairs, put, spy_on, stalling


@pytest.mark.parametrize("every", [1_000, 7])
def test_a_power_cut_leaves_a_prefix_even_across_log_files(
    tmp_path: Path, clock: ManualClock, every: int
) -> None:
    """The worst cut as a new log begins: of the older one only what was synced survives, of the
    younger one all. Flushes are slow here, so that the older log is still needed."""
    engine = stalling(tmp_path / ENGINE, clock, stall_wait_s=8)
    durable: dict[str, int] = {}

    def logs() -> dict[str, int]:
        return {path.name: path.stat().st_size for path in sorted(engine.path.glob("*.log"))}

    def flush_wal(sync: bool) -> None:
        real.flush_wal(sync)
        durable.update(logs())

    real = spy_on(engine, flush_wal=flush_wal)
    written = 0
    while len(found := logs()) == 1:
        put(engine, b"k%06d" % written, os.urandom(1_000), sync=written % every == every - 1)
        written += 1
    manifest = next(engine.path.glob("MANIFEST-*"))
    manifest_bytes = manifest.stat().st_size
    image = tmp_path / "image"
    shutil.copytree(engine.path, image)
    assert manifest.stat().st_size == manifest_bytes, "the flush was not slow enough"
    older, younger = found
    os.truncate(image / older, durable.get(older, 0))
    cut = RocksEngine(image, clock=clock)
    survivors = sorted(pairs(cut))
    cut.close()
    assert survivors == [b"k%06d" % number for number in range(len(survivors))]
    assert (image / younger).exists() or len(survivors) == written
    engine.close()


def test_a_failed_sync_poisons_and_is_never_read(tmp_path: Path, clock: ManualClock) -> None:
    engine = RocksEngine(tmp_path / ENGINE, clock=clock)
    put(engine, b"a", b"1")

    def flush_wal(sync: bool) -> None:
        raise Exception("IO error: Input/output error: While fdatasync: 000004.log")

    spy_on(engine, flush_wal=flush_wal)
    for _ in range(2):
        with pytest.raises(WriteFailedError, match=r"Input/output error.*not known.*restart"):
            put(engine, b"a", b"2")
    assert engine.write_pressure() is WritePressure.STOPPED
    assert pairs(engine) == {b"a": b"1"}
    engine.close()


def test_a_failed_append_poisons(rocks: RocksEngine) -> None:
    def write(*_: Any) -> None:
        raise Exception("IO error: No space left on device: While appending to file: 000004.log")

    real = spy_on(rocks, write=write)
    with pytest.raises(WriteFailedError, match="No space left on device"):
        put(rocks, b"a", b"1")
    rocks._db = real
    with pytest.raises(WriteFailedError):
        put(rocks, b"b", b"1")
    assert pairs(rocks) == {}


WRITER = """
import sys
from pathlib import Path
from storage.system_clock import SystemClock
from storage.engine import Batch
from storage.rocks_engine import RocksEngine
from storage.rocks_options import RocksOptions
engine = RocksEngine(Path(sys.argv[1]), clock=SystemClock(),
                     options=RocksOptions(write_buffer_bytes=1 << 17))
first = int(sys.argv[2])
for number in range(first, 1_000_000):
    batch = Batch()
    for part in range(10):
        batch.put(b"%08d-%d" % (number, part), b"v" * 200)
    engine.write(batch, sync=True)
    sys.stdout.write(f"{number}\\n")
    sys.stdout.flush()
"""


@pytest.mark.slow
def test_kill_9_loses_no_acknowledged_batch_and_halves_none(
    tmp_path: Path, clock: ManualClock, rounds: int
) -> None:
    first = 0
    for _ in range(2 * rounds):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path / ENGINE), str(first)],
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        try:
            for _ in range(300):
                acknowledged = int(process.stdout.readline())
        finally:
            process.kill()
        rest = process.stdout.read().split()
        process.stdout.close()
        process.wait()
        if rest and (tmp_path / ENGINE).exists():
            acknowledged = max(acknowledged, *(int(word) for word in rest[:-1] or [b"0"]))
        engine = RocksEngine(tmp_path / ENGINE, clock=clock)
        found = sorted(pairs(engine))
        engine.close()
        assert len(found) % 10 == 0
        whole = len(found) // 10
        assert found == [b"%08d-%d" % (n, part) for n in range(whole) for part in range(10)]
        assert whole > acknowledged
        first = whole


SLOW_SYNC = """
import os, sys, threading, time
from pathlib import Path
from storage.system_clock import SystemClock
from storage.engine import Batch
from storage.rocks_engine import RocksEngine
engine = RocksEngine(Path(sys.argv[1]), clock=SystemClock())
longest, ending = 0.0, threading.Event()
def watch():
    global longest
    last = time.perf_counter()
    while not ending.wait(0.001):
        now = time.perf_counter()
        longest, last = max(longest, now - last), now
watcher = threading.Thread(target=watch)
watcher.start()
batch = Batch()
batch.put(b"key", b"value")
started = time.perf_counter()
engine.write(batch, sync=True)
took = time.perf_counter() - started
ending.set()
watcher.join()
print(took, longest, flush=True)
os._exit(0)
"""


def test_a_slow_sync_leaves_the_interpreter_to_others(tmp_path: Path) -> None:
    """The watchdog that ends a process whose disk stands still is a thread of it."""
    tracer = ["strace", "-f", "-o", os.devnull, "-e", "trace=fdatasync"]
    log = str(tmp_path / ENGINE / "000004.log")
    delayed = [*tracer, "-P", log, "-e", "inject=fdatasync:delay_enter=1500000"]
    if (
        shutil.which("strace") is None
        or subprocess.run([*tracer, "true"], capture_output=True, check=False).returncode
    ):
        pytest.skip("needs strace, and the right to trace a process")
    result = subprocess.run(
        [*delayed, sys.executable, "-c", SLOW_SYNC, str(tmp_path / ENGINE)],
        capture_output=True,
        check=True,
    )
    took, longest = (float(word) for word in result.stdout.split())
    assert took >= 1.5
    assert longest < 1
