"""What is RocksDB's own in storage/rocks_engine.py; the common contract has its suite.

Here are moments, deletion, figures and copies. Beside it: test_rocks_log.py, test_rocks_stalls.py,
test_rocks_options.py and test_rocks_directories.py.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from storage.clock import ManualClock
from storage.engine import Batch, iterate
from storage.errors import DataDirectoryError, EngineClosedError, SnapshotExpiredError
from storage.rocks_engine import RocksEngine
from storage.rocks_options import KIB, RocksOptions
from tests.unit.storage.rocks_database import ENGINE, batch, fill, pairs, put, spy_on

# --- snapshots -------------------------------------------------------------------------------


def test_a_scan_sees_the_moment_of_its_snapshot_whether_or_not_it_scanned_before(
    rocks: RocksEngine,
) -> None:
    put(rocks, b"a", b"1")
    put(rocks, b"b", b"1")
    scanned, unscanned = rocks.snapshot(), rocks.snapshot()
    assert scanned.scan().items == [(b"a", b"1"), (b"b", b"1")]
    rocks.write(batch((b"a", b"2"), (b"c", b"2")), sync=False)
    late = rocks.snapshot()
    deletion = Batch()
    deletion.delete_range(b"", None)
    rocks.write(deletion, sync=True)
    for snapshot in (scanned, unscanned):
        assert snapshot.scan().items == [(b"a", b"1"), (b"b", b"1")]
        assert snapshot.scan(reverse=True).items == [(b"b", b"1"), (b"a", b"1")]
        assert snapshot.get(b"a") == b"1"
        assert snapshot.get(b"c") is None
    assert late.scan().items == [(b"a", b"2"), (b"b", b"1"), (b"c", b"2")]
    assert pairs(rocks) == {}


@pytest.mark.parametrize("reverse", [False, True])
def test_bounds_and_pages(rocks: RocksEngine, reverse: bool) -> None:
    fill(rocks, 50)
    keys = [b"k%06d" % i for i in range(10, 20)]
    snapshot = rocks.snapshot()
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


def test_a_batch_is_seen_only_once_its_log_is_synced(rocks: RocksEngine) -> None:
    put(rocks, b"a", b"old")
    seen: list[tuple[bytes | None, list[tuple[bytes, bytes]]]] = []

    def flush_wal(sync: bool) -> None:
        assert sync
        with rocks.snapshot() as snapshot:
            seen.append((snapshot.get(b"a"), snapshot.scan().items))
        real.flush_wal(sync)

    real = spy_on(rocks, flush_wal=flush_wal)
    rocks.write(batch((b"a", b"new"), (b"b", b"new")), sync=True)
    assert seen == [(b"old", [(b"a", b"old")])]
    assert pairs(rocks) == {b"a": b"new", b"b": b"new"}


def test_an_empty_synced_batch_syncs_what_came_before(rocks: RocksEngine) -> None:
    synced: list[bool] = []
    real = spy_on(rocks, flush_wal=lambda sync: (synced.append(sync), real.flush_wal(sync)))
    put(rocks, b"a", b"1", sync=False)
    snapshot = rocks.snapshot()
    assert synced == []
    rocks.write(Batch(), sync=True)
    assert synced == [True]
    assert snapshot.scan().items == [(b"a", b"1")]


def test_expired_snapshots_are_refused_and_let_go(rocks: RocksEngine, clock: ManualClock) -> None:
    put(rocks, b"a", b"1")
    old, young = rocks.snapshot(max_age_s=5), rocks.snapshot(max_age_s=60)
    clock.advance(5)
    assert rocks.expire_snapshots() == 1
    for read in (lambda: old.get(b"a"), lambda: old.scan()):
        with pytest.raises(SnapshotExpiredError, match="maximum age of 5 s; open a new one"):
            read()
    assert young.get(b"a") == b"1"
    clock.advance(60)
    put(rocks, b"b", b"1")
    with pytest.raises(SnapshotExpiredError):
        young.get(b"a")
    assert rocks.statistics().open_snapshots == 0
    assert rocks.statistics().details["rocksdb.num-snapshots"] == 0


def test_a_snapshot_that_ends_while_its_cursor_is_asked_for_is_refused(rocks: RocksEngine) -> None:
    put(rocks, b"a", b"1")
    snapshot = rocks.snapshot()
    cursor_of = rocks.cursor_of

    def end_first(moment: Any) -> Any:
        snapshot.close()
        put(rocks, b"b", b"1")
        return cursor_of(moment)

    rocks.cursor_of = end_first  # type: ignore[method-assign]
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


# --- deletion, statistics --------------------------------------------------------------------


def test_delete_range_reaches_the_largest_key_and_ignores_an_empty_range(
    rocks: RocksEngine,
) -> None:
    largest = b"\xff" * 511
    rocks.write(batch((b"a", b"1"), (largest, b"1")), sync=True)
    nothing = Batch()
    nothing.delete_range(b"z", b"a")
    nothing.delete_range(b"a", b"a")
    rocks.write(nothing, sync=True)
    assert set(pairs(rocks)) == {b"a", largest}
    everything = Batch()
    everything.delete_range(b"b", None)
    everything.put(b"c", b"1")
    rocks.write(everything, sync=True)
    assert set(pairs(rocks)) == {b"a", b"c"}


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


def test_without_statistics_there_are_no_tickers(rocks: RocksEngine) -> None:
    put(rocks, b"key", b"value")
    found = rocks.statistics()
    assert "write_amplification" not in found.details
    assert found.keys == 1
    assert found.live_bytes == 8


# --- checkpoints -----------------------------------------------------------------------------


def test_a_checkpoint_has_all_that_was_written_and_a_prefix_of_what_comes_meanwhile(
    tmp_path: Path, rocks: RocksEngine, clock: ManualClock
) -> None:
    returned, ending = 0, threading.Event()
    started = threading.Event()

    def writes() -> None:
        nonlocal returned
        while not ending.is_set():
            put(rocks, b"k%08d" % returned, b"v" * 200, sync=False)
            returned += 1
            if returned == 500:
                started.set()

    thread = threading.Thread(target=writes)
    thread.start()
    try:
        assert started.wait(10)
        for number in range(3):
            before = returned
            rocks.checkpoint(tmp_path / f"copy-{number}")
            after = returned
            copy = RocksEngine(tmp_path / f"copy-{number}", clock=clock)
            keys = sorted(pairs(copy))
            copy.close()
            assert before <= len(keys) <= after + 1
            assert keys == [b"k%08d" % n for n in range(len(keys))]
    finally:
        ending.set()
        thread.join()


def test_writes_during_a_checkpoint_are_synced(tmp_path: Path, rocks: RocksEngine) -> None:
    """Its flush begins a new log, and an older one must not lack its end (see the module)."""
    synced: list[str] = []

    def flush(wait: bool) -> None:
        synced.append("flush")
        put(rocks, b"b", b"1", sync=False)
        real.flush(wait)

    real = spy_on(
        rocks, flush_wal=lambda sync: (synced.append("sync"), real.flush_wal(sync)), flush=flush
    )
    put(rocks, b"a", b"1", sync=False)
    with pytest.raises(DataDirectoryError):
        # The spy cannot be given to the library; what matters happened before.
        rocks.checkpoint(tmp_path / "copy")
    assert synced == ["sync", "flush", "sync"]
    assert not (tmp_path / "copy").exists()
    put(rocks, b"c", b"1", sync=False)
    assert synced == ["sync", "flush", "sync"]


def test_a_checkpoint_never_takes_a_directory_that_holds_something(
    tmp_path: Path, rocks: RocksEngine
) -> None:
    (tmp_path / "copy.tmp").mkdir()
    (tmp_path / "copy.tmp" / "mine").write_text("x")
    with pytest.raises(DataDirectoryError, match=r"copy\.tmp.*remove it or name another"):
        rocks.checkpoint(tmp_path / "copy")
    assert (tmp_path / "copy.tmp" / "mine").exists()
    with pytest.raises(DataDirectoryError, match="not empty; name a new directory"):
        rocks.checkpoint(tmp_path / "copy.tmp")
