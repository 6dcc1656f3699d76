"""What is RocksDB's own in storage/rocks_engine.py; the common contract has its suite."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from storage.clock import ManualClock
from storage.engine import Batch, WritePressure, iterate
from storage.errors import (
    DamagedFilesError,
    DataDirectoryError,
    DirectoryInUseError,
    EngineClosedError,
    ForeignDirectoryError,
    InvalidOptionError,
    SnapshotExpiredError,
    WriteFailedError,
    WriteStalledError,
)
from storage.rocks_engine import RocksEngine, block_cache
from storage.rocks_options import KIB, MIB, Compaction, Compression, RocksOptions

SMALL = RocksOptions(write_buffer_bytes=64 * KIB, block_cache_bytes=MIB)
ENGINE = "engine"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def engine(tmp_path: Path, clock: ManualClock) -> Iterator[RocksEngine]:
    engine = RocksEngine(tmp_path / ENGINE, clock=clock, options=SMALL)
    yield engine
    engine.close()


class Spy:
    """The database with some of its methods replaced."""

    def __init__(self, database: Any, **replaced: Callable[..., Any]) -> None:
        self.database = database
        self.replaced = replaced

    def __getattr__(self, name: str) -> Any:
        return self.replaced.get(name) or getattr(self.database, name)


def spy_on(engine: RocksEngine, **replaced: Callable[..., Any]) -> Any:
    """Returns the real database."""
    real = engine._db
    engine._db = Spy(real, **replaced)  # type: ignore[assignment]
    return real


def batch(*puts: tuple[bytes, bytes]) -> Batch:
    made = Batch()
    for key, value in puts:
        made.put(key, value)
    return made


def put(engine: RocksEngine, key: bytes, value: bytes, *, sync: bool = True) -> None:
    engine.write(batch((key, value)), sync=sync)


def pairs(engine: RocksEngine) -> dict[bytes, bytes]:
    with engine.snapshot() as snapshot:
        return dict(iterate(snapshot))


def fill(engine: RocksEngine, count: int, value: bytes = b"v" * 100) -> None:
    for first in range(0, count, 100):
        engine.write(
            batch(*((b"k%06d" % i, value) for i in range(first, min(first + 100, count)))),
            sync=False,
        )


def poll(condition: Callable[[], bool], within_s: float = 10.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.002)


def tree(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes() if path.is_file() else b"/"
        for path in sorted(directory.rglob("*"))
    }


# --- snapshots -------------------------------------------------------------------------------


def test_a_scan_sees_the_moment_of_its_snapshot_whether_or_not_it_scanned_before(
    engine: RocksEngine,
) -> None:
    put(engine, b"a", b"1")
    put(engine, b"b", b"1")
    scanned, unscanned = engine.snapshot(), engine.snapshot()
    assert scanned.scan().items == [(b"a", b"1"), (b"b", b"1")]
    engine.write(batch((b"a", b"2"), (b"c", b"2")), sync=False)
    late = engine.snapshot()
    deletion = Batch()
    deletion.delete_range(b"", None)
    engine.write(deletion, sync=True)
    for snapshot in (scanned, unscanned):
        assert snapshot.scan().items == [(b"a", b"1"), (b"b", b"1")]
        assert snapshot.scan(reverse=True).items == [(b"b", b"1"), (b"a", b"1")]
        assert snapshot.get(b"a") == b"1"
        assert snapshot.get(b"c") is None
    assert late.scan().items == [(b"a", b"2"), (b"b", b"1"), (b"c", b"2")]
    assert pairs(engine) == {}


@pytest.mark.parametrize("reverse", [False, True])
def test_bounds_and_pages(engine: RocksEngine, reverse: bool) -> None:
    fill(engine, 50)
    keys = [b"k%06d" % i for i in range(10, 20)]
    snapshot = engine.snapshot()
    page = snapshot.scan(keys[0], b"k000020", reverse=reverse, limit=10)
    assert [key for key, _ in page.items] == (keys[::-1] if reverse else keys)
    assert not page.more
    page = snapshot.scan(keys[0], b"k000020", reverse=reverse, limit=9)
    assert len(page.items) == 9
    assert page.more
    page = snapshot.scan(keys[0], b"k000020", reverse=reverse, max_bytes=3 * 107)
    assert len(page.items) == 3
    assert page.more
    assert snapshot.scan(b"k000020", b"k000010", reverse=reverse) == ([], False)
    assert len(list(iterate(snapshot, reverse=reverse, page_limit=7))) == 50


def test_a_batch_is_seen_only_once_its_log_is_synced(engine: RocksEngine) -> None:
    put(engine, b"a", b"old")
    seen: list[tuple[bytes | None, list[tuple[bytes, bytes]]]] = []

    def flush_wal(sync: bool) -> None:
        assert sync
        with engine.snapshot() as snapshot:
            seen.append((snapshot.get(b"a"), snapshot.scan().items))
        real.flush_wal(sync)

    real = spy_on(engine, flush_wal=flush_wal)
    engine.write(batch((b"a", b"new"), (b"b", b"new")), sync=True)
    assert seen == [(b"old", [(b"a", b"old")])]
    assert pairs(engine) == {b"a": b"new", b"b": b"new"}


def test_an_empty_synced_batch_syncs_what_came_before(engine: RocksEngine) -> None:
    synced: list[bool] = []
    real = spy_on(engine, flush_wal=lambda sync: (synced.append(sync), real.flush_wal(sync)))
    put(engine, b"a", b"1", sync=False)
    snapshot = engine.snapshot()
    assert synced == []
    engine.write(Batch(), sync=True)
    assert synced == [True]
    assert snapshot.scan().items == [(b"a", b"1")]


def test_expired_snapshots_are_refused_and_let_go(engine: RocksEngine, clock: ManualClock) -> None:
    put(engine, b"a", b"1")
    old, young = engine.snapshot(max_age_s=5), engine.snapshot(max_age_s=60)
    clock.advance(5)
    assert engine.expire_snapshots() == 1
    for read in (lambda: old.get(b"a"), lambda: old.scan()):
        with pytest.raises(SnapshotExpiredError, match="maximum age of 5 s; open a new one"):
            read()
    assert young.get(b"a") == b"1"
    clock.advance(60)
    put(engine, b"b", b"1")
    with pytest.raises(SnapshotExpiredError):
        young.get(b"a")
    assert engine.statistics().open_snapshots == 0
    assert engine.statistics().details["rocksdb.num-snapshots"] == 0


def test_a_snapshot_that_ends_while_its_cursor_is_asked_for_is_refused(engine: RocksEngine) -> None:
    put(engine, b"a", b"1")
    snapshot = engine.snapshot()
    cursor_of = engine.cursor_of

    def end_first(moment: Any) -> Any:
        snapshot.close()
        put(engine, b"b", b"1")
        return cursor_of(moment)

    engine.cursor_of = end_first  # type: ignore[method-assign]
    with pytest.raises(EngineClosedError):
        snapshot.scan()


def test_closing_under_snapshots_frees_the_directory(tmp_path: Path, clock: ManualClock) -> None:
    engine = RocksEngine(tmp_path / ENGINE, clock=clock)
    put(engine, b"a", b"1")
    snapshot = engine.snapshot()
    assert snapshot.scan().items
    engine.close()
    engine.close()
    for read in (lambda: snapshot.get(b"a"), snapshot.scan, engine.snapshot, engine.statistics):
        with pytest.raises(EngineClosedError):
            read()
    with pytest.raises(EngineClosedError):
        put(engine, b"a", b"2")
    again = RocksEngine(tmp_path / ENGINE, clock=clock)
    assert pairs(again) == {b"a": b"1"}
    again.close()


# --- the log ---------------------------------------------------------------------------------


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


def test_a_failed_append_poisons(engine: RocksEngine) -> None:
    def write(*_: Any) -> None:
        raise Exception("IO error: No space left on device: While appending to file: 000004.log")

    real = spy_on(engine, write=write)
    with pytest.raises(WriteFailedError, match="No space left on device"):
        put(engine, b"a", b"1")
    engine._db = real
    with pytest.raises(WriteFailedError):
        put(engine, b"b", b"1")
    assert pairs(engine) == {}


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


# --- stalls ----------------------------------------------------------------------------------


def stalling(
    path: Path, clock: ManualClock, stall_wait_s: float, bytes_per_s: int = 256 * KIB
) -> RocksEngine:
    """Flushes are slow: three memtables of 64 KiB are full in no time."""
    return RocksEngine(
        path,
        clock=clock,
        options=RocksOptions(
            write_buffer_bytes=64 * KIB,
            rate_limit_bytes_per_s=bytes_per_s,
            upper_compression=Compression.NONE,
            bottom_compression=Compression.NONE,
            stall_wait_s=stall_wait_s,
        ),
    )


def test_pressure_is_seen_before_a_write_stalls_and_a_stalled_write_is_refused(
    tmp_path: Path, clock: ManualClock
) -> None:
    engine = stalling(tmp_path / ENGINE, clock, stall_wait_s=0.02)
    seen = [engine.write_pressure()]
    written = 0
    try:
        for number in range(1_000):
            put(engine, b"k%06d" % number, os.urandom(2_000), sync=False)
            written += 1
            pressure = engine.write_pressure()
            if pressure is not seen[-1]:
                seen.append(pressure)
    except WriteStalledError as error:
        refused = error
    assert refused.retryable
    assert refused.outcome == "none"
    assert "nothing was written" in str(refused)
    # It was told in time: by the answers before, never first by the refusal.
    assert seen[:2] == [WritePressure.NONE, WritePressure.SLOWDOWN]
    assert seen[-1] is not WritePressure.NONE
    assert len(pairs(engine)) == written
    assert float(engine.statistics().details["writes_stalled"]) >= 1
    # It goes on by itself, and the refused write can be sent again.
    poll(lambda: engine.write_pressure() is not WritePressure.STOPPED)
    put(engine, b"k%06d" % written, b"again")
    assert len(pairs(engine)) == written + 1
    engine.close()


def test_a_stalled_write_leaves_the_interpreter_to_others(
    tmp_path: Path, clock: ManualClock
) -> None:
    engine = stalling(tmp_path / ENGINE, clock, stall_wait_s=60, bytes_per_s=96 * KIB)
    done = threading.Event()

    def writes() -> None:
        for number in range(170):
            put(engine, b"k%06d" % number, os.urandom(2_000), sync=False)
        done.set()

    thread = threading.Thread(target=writes)
    thread.start()
    poll(lambda: engine.write_pressure() is WritePressure.STOPPED)
    longest = 0.0
    last = time.perf_counter()
    while not done.wait(0.001):
        now = time.perf_counter()
        longest, last = max(longest, now - last), now
    thread.join()
    assert longest < 0.5, "stalls of two thirds of a second froze the other threads"
    assert engine.statistics().details["writes_stalled"] >= 1
    engine.close()


def test_close_ends_a_stalled_write(tmp_path: Path, clock: ManualClock) -> None:
    engine = stalling(tmp_path / ENGINE, clock, stall_wait_s=3_600)
    raised: list[Exception] = []
    stopped = threading.Event()
    real = spy_on(engine, write=lambda *_: (stopped.set(), stall()))

    def stall() -> None:
        raise Exception("Result incomplete: Write stall")

    def write() -> None:
        try:
            put(engine, b"a", b"1")
        except EngineClosedError as error:
            raised.append(error)

    thread = threading.Thread(target=write)
    thread.start()
    assert stopped.wait(5)
    engine._db.replaced["close"] = real.close  # type: ignore[attr-defined]
    engine.close()
    thread.join(5)
    assert len(raised) == 1


# --- options ---------------------------------------------------------------------------------


def test_options_given_win_over_those_of_an_existing_database(
    tmp_path: Path, clock: ManualClock
) -> None:
    path = tmp_path / ENGINE
    RocksEngine(path, clock=clock, options=SMALL).close()
    engine = RocksEngine(
        path,
        clock=clock,
        options=RocksOptions(
            block_cache_bytes=3 * MIB,
            write_buffer_bytes=5 * MIB,
            compaction=Compaction.UNIVERSAL,
            upper_compression=Compression.NONE,
            rate_limit_bytes_per_s=MIB,
        ),
    )
    assert engine.statistics().details["rocksdb.block-cache-capacity"] == 3 * MIB
    engine.close()
    text = sorted(path.glob("OPTIONS-*"))[-1].read_text()
    for line in (
        f"write_buffer_size={5 * MIB}",
        "compaction_style=kCompactionStyleUniversal",
        "compression=kNoCompression",
        "bottommost_compression=kZSTD",
        "wal_recovery_mode=kPointInTimeRecovery",
        "filter_policy=bloomfilter",
        "cache_index_and_filter_blocks=true",
    ):
        assert line in text, line


def test_a_cache_may_be_shared(tmp_path: Path, clock: ManualClock) -> None:
    shared = block_cache(7 * MIB)
    engines = [RocksEngine(tmp_path / name, clock=clock, block_cache=shared) for name in ("a", "b")]
    for engine in engines:
        assert engine.statistics().details["rocksdb.block-cache-capacity"] == 7 * MIB
        engine.close()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"compaction": Compaction.FIFO}, "fifo compaction deletes the oldest data by itself"),
        ({"write_buffer_bytes": 1}, "write_buffer_bytes is 1 and must be at least 65536"),
        ({"background_threads": 0}, "background_threads is 0 and must be at least 1"),
        ({"stop_level0_files": 5}, "stop_level0_files is 5 and must be at least 20"),
        ({"stall_wait_s": -1.0}, "stall_wait_s is -1 and must not be below 0"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidOptionError, match=sentence):
        RocksOptions(**settings)


def test_fifo_drops_the_oldest_data_once_it_was_allowed_to(
    tmp_path: Path, clock: ManualClock
) -> None:
    engine = RocksEngine(
        tmp_path / ENGINE,
        clock=clock,
        options=RocksOptions(
            compaction=Compaction.FIFO,
            fifo_drops_oldest_data=True,
            fifo_max_bytes=MIB,
            fifo_max_age_s=3_600,
            write_buffer_bytes=128 * KIB,
            upper_compression=Compression.NONE,
            bottom_compression=Compression.NONE,
        ),
    )
    for first in range(0, 3_000, 50):
        puts = [(b"k%06d" % number, os.urandom(1_000)) for number in range(first, first + 50)]
        engine.write(batch(*puts), sync=False)

    def is_there(key: bytes) -> bool:
        with engine.snapshot() as snapshot:
            return snapshot.get(key) is not None

    poll(lambda: not is_there(b"k000000"))
    assert is_there(b"k002999")
    assert engine.write_pressure() is not WritePressure.STOPPED
    engine.close()
    assert "ttl=3600" in sorted((tmp_path / ENGINE).glob("OPTIONS-*"))[-1].read_text()


# --- deletion, statistics --------------------------------------------------------------------


def test_delete_range_reaches_the_largest_key_and_ignores_an_empty_range(
    engine: RocksEngine,
) -> None:
    largest = b"\xff" * 511
    engine.write(batch((b"a", b"1"), (largest, b"1")), sync=True)
    nothing = Batch()
    nothing.delete_range(b"z", b"a")
    nothing.delete_range(b"a", b"a")
    engine.write(nothing, sync=True)
    assert set(pairs(engine)) == {b"a", largest}
    everything = Batch()
    everything.delete_range(b"b", None)
    everything.put(b"c", b"1")
    engine.write(everything, sync=True)
    assert set(pairs(engine)) == {b"a", b"c"}


def test_statistics_name_rocksdbs_figures(tmp_path: Path, clock: ManualClock) -> None:
    engine = RocksEngine(
        tmp_path / ENGINE,
        clock=clock,
        options=RocksOptions(write_buffer_bytes=256 * KIB, statistics=True),
    )
    for _ in range(3):
        fill(engine, 5_000)
    engine.compact()
    with engine.snapshot() as snapshot:
        for number in range(0, 5_000, 50):
            assert snapshot.get(b"k%06d" % number)
        for number in range(2_000):
            assert snapshot.get(b"k%06dx" % number) is None
    found = engine.statistics()
    assert found.keys == 5_000
    assert not found.keys_exact
    assert found.live_bytes == 5_000 * 107
    assert found.batches == 150
    assert found.put_bytes == 15_000 * 107
    assert found.disk_bytes > 0
    assert found.disk_free_bytes > 0
    # The log alone writes each byte once; flush and compaction come on top.
    assert float(found.details["write_amplification"]) > 1
    assert 0 < float(found.details["blocks_read_per_get"]) < 1
    # Ten bits a key let about 1% of the absent keys through.
    assert float(found.details["rocksdb.bloom.filter.useful"]) > 0.97 * 2_000
    assert found.details["sorted_runs"] == 1
    assert float(found.details["space_amplification"]) == pytest.approx(1, rel=0.2)
    engine.close()


def test_without_statistics_there_are_no_tickers(engine: RocksEngine) -> None:
    put(engine, b"key", b"value")
    found = engine.statistics()
    assert "write_amplification" not in found.details
    assert found.keys == 1
    assert found.live_bytes == 8


# --- checkpoints -----------------------------------------------------------------------------


def test_a_checkpoint_has_all_that_was_written_and_a_prefix_of_what_comes_meanwhile(
    tmp_path: Path, engine: RocksEngine, clock: ManualClock
) -> None:
    returned, ending = 0, threading.Event()
    started = threading.Event()

    def writes() -> None:
        nonlocal returned
        while not ending.is_set():
            put(engine, b"k%08d" % returned, b"v" * 200, sync=False)
            returned += 1
            if returned == 500:
                started.set()

    thread = threading.Thread(target=writes)
    thread.start()
    try:
        assert started.wait(10)
        for number in range(3):
            before = returned
            engine.checkpoint(tmp_path / f"copy-{number}")
            after = returned
            copy = RocksEngine(tmp_path / f"copy-{number}", clock=clock)
            keys = sorted(pairs(copy))
            copy.close()
            assert before <= len(keys) <= after + 1
            assert keys == [b"k%08d" % n for n in range(len(keys))]
    finally:
        ending.set()
        thread.join()


def test_writes_during_a_checkpoint_are_synced(tmp_path: Path, engine: RocksEngine) -> None:
    """Its flush begins a new log, and an older one must not lack its end (see the module)."""
    synced: list[str] = []

    def flush(wait: bool) -> None:
        synced.append("flush")
        put(engine, b"b", b"1", sync=False)
        real.flush(wait)

    real = spy_on(
        engine, flush_wal=lambda sync: (synced.append("sync"), real.flush_wal(sync)), flush=flush
    )
    put(engine, b"a", b"1", sync=False)
    with pytest.raises(DataDirectoryError):
        # The spy cannot be given to the library; what matters happened before.
        engine.checkpoint(tmp_path / "copy")
    assert synced == ["sync", "flush", "sync"]
    assert not (tmp_path / "copy").exists()
    put(engine, b"c", b"1", sync=False)
    assert synced == ["sync", "flush", "sync"]


def test_a_checkpoint_never_takes_a_directory_that_holds_something(
    tmp_path: Path, engine: RocksEngine
) -> None:
    (tmp_path / "copy.tmp").mkdir()
    (tmp_path / "copy.tmp" / "mine").write_text("x")
    with pytest.raises(DataDirectoryError, match=r"copy\.tmp.*remove it or name another"):
        engine.checkpoint(tmp_path / "copy")
    assert (tmp_path / "copy.tmp" / "mine").exists()
    with pytest.raises(DataDirectoryError, match="not empty; name a new directory"):
        engine.checkpoint(tmp_path / "copy.tmp")


# --- directories that cannot be used ---------------------------------------------------------


def written(path: Path, clock: ManualClock) -> Path:
    engine = RocksEngine(
        path, clock=clock, options=RocksOptions(upper_compression=Compression.NONE)
    )
    for number in range(500):
        put(engine, b"k%06d" % number, os.urandom(300), sync=False)
    engine.close()
    return path


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0xFF
    path.write_bytes(data)


def largest_table(path: Path) -> Path:
    return max(path.glob("*.sst"), key=lambda table: table.stat().st_size)


HOLDER = """
import sys
from pathlib import Path
from storage.system_clock import SystemClock
from storage.rocks_engine import RocksEngine
engine = RocksEngine(Path(sys.argv[1]), clock=SystemClock())
sys.stdout.write("open\\n"); sys.stdout.flush()
sys.stdin.read()
"""


def test_a_directory_in_use_is_refused(tmp_path: Path, clock: ManualClock) -> None:
    path = written(tmp_path / ENGINE, clock)
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"open\n"
        # Its background threads still remove the logs that it replayed.
        poll(lambda: len(list(path.glob("*.log"))) == 1)
        before = tree(path)
        with pytest.raises(DirectoryInUseError, match="stop that process or name another") as error:
            RocksEngine(path, clock=clock)
        assert str(path) in str(error.value)
        assert tree(path) == before
        process.stdin.close()
    engine = RocksEngine(path, clock=clock)
    with pytest.raises(DirectoryInUseError):
        RocksEngine(path, clock=clock)
    engine.close()


def test_another_program_that_locks_only_as_rocksdb_does_is_noticed(
    tmp_path: Path, clock: ManualClock
) -> None:
    path = written(tmp_path / ENGINE, clock)
    script = "import sys, rocksdict\n" + (
        "o = rocksdict.Options(raw_mode=True)\n"
        "db = rocksdict.Rdict(sys.argv[1], o, column_families={'default': o})\n"
        "print('open', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"open\n"
        with pytest.raises(DirectoryInUseError):
            RocksEngine(path, clock=clock)
        process.stdin.close()


def test_directories_that_are_not_rocksdbs_are_refused_unchanged(
    tmp_path: Path, clock: ManualClock
) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "data.mdb").write_text("x")
    (tmp_path / "beheaded").mkdir()
    (tmp_path / "beheaded" / "000009.sst").write_text("x")
    before = tree(tmp_path)
    for name, create, kind, sentence in (
        ("file", True, DataDirectoryError, "a file|is a file"),
        ("foreign", True, ForeignDirectoryError, "holds data.mdb.*name an empty directory"),
        ("beheaded", True, DamagedFilesError, "no CURRENT.*restore a backup"),
        ("missing", False, DataDirectoryError, "there is no CURRENT; name the directory of"),
        ("foreign", False, DataDirectoryError, "there is no CURRENT"),
    ):
        with pytest.raises(kind, match=sentence) as error:
            RocksEngine(tmp_path / name, clock=clock, create=create)
        assert str(tmp_path / name) in str(error.value)
        assert "\n" not in str(error.value)
    assert tree(tmp_path) == before


def test_what_a_killed_creation_left_is_taken(tmp_path: Path, clock: ManualClock) -> None:
    path = tmp_path / ENGINE
    path.mkdir()
    for name in ("LOCK", "LOG", "IDENTITY", "MANIFEST-000001", "rocksdict-config.json"):
        (path / name).write_text("")
    (path / "000001.dbtmp").write_text("")
    engine = RocksEngine(path, clock=clock)
    put(engine, b"a", b"1")
    engine.close()
    assert (path / "CURRENT").exists()


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: largest_table(path).unlink(),
        lambda path: os.truncate(largest_table(path), 5_000),
        lambda path: flip(next(path.glob("MANIFEST-*")), 30),
        lambda path: next(path.glob("MANIFEST-*")).unlink(),
        lambda path: os.truncate(path / "CURRENT", 0),
    ],
    ids=["table removed", "table cut", "manifest flipped", "manifest removed", "CURRENT empty"],
)
def test_damage_seen_at_opening_is_told(
    tmp_path: Path, clock: ManualClock, damage: Callable[[Path], None]
) -> None:
    path = written(tmp_path / ENGINE, clock)
    damage(path)
    with pytest.raises(DamagedFilesError, match="restore a backup") as error:
        RocksEngine(path, clock=clock)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_config_file_torn_by_a_power_cut_does_no_harm(tmp_path: Path, clock: ManualClock) -> None:
    path = written(tmp_path / ENGINE, clock)
    os.truncate(path / "rocksdict-config.json", 0)
    engine = RocksEngine(path, clock=clock)
    assert len(pairs(engine)) == 500
    engine.close()


def test_damage_seen_by_a_read_is_never_the_end_of_the_data(
    tmp_path: Path, clock: ManualClock
) -> None:
    path = written(tmp_path / ENGINE, clock)
    flip(largest_table(path), 2_000)
    engine = RocksEngine(path, clock=clock)
    with engine.snapshot() as snapshot:
        for read in (lambda: snapshot.get(b"k000003"), lambda: snapshot.scan(b"k000003")):
            with pytest.raises(DamagedFilesError, match=r"\.sst.*restore a backup"):
                read()
        assert snapshot.get(b"k000499") is not None
    engine.close()


def test_a_read_only_file_system(tmp_path: Path, clock: ManualClock) -> None:
    path = written(tmp_path / ENGINE, clock)
    bind = ["mount", "--bind", str(path), str(path)]
    if subprocess.run(bind, capture_output=True, check=False).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", str(path)], check=True)
        with pytest.raises(DataDirectoryError, match="file system is read-only; remount it"):
            RocksEngine(path, clock=clock)
    finally:
        subprocess.run(["umount", str(path)], check=True)
    engine = RocksEngine(path, clock=clock)
    assert len(pairs(engine)) == 500
    engine.close()


def test_indexes_and_filters_are_in_pieces(tmp_path: Path, clock: ManualClock) -> None:
    """Whole ones do not fit into a small cache: each get then loads megabytes."""
    engine = RocksEngine(tmp_path / ENGINE, clock=clock)
    engine.close()
    newest = max((tmp_path / ENGINE).glob("OPTIONS-*"))
    text = newest.read_text()
    assert "index_type=kTwoLevelIndexSearch" in text
    assert "partition_filters=true" in text
    assert "cache_index_and_filter_blocks=true" in text
