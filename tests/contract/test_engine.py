"""Every sentence of the Engine contract (storage/engine.py), for every engine of the table.

What survives a power cut is shown with the engines that can have one (test_engine_power.py); what
random sequences give is compared with a dict in test_engine_model.py; scans, ranges and their
bounds are in test_engine_scan.py.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from storage.engine import (
    ENGINE_KEY_MAX_BYTES,
    ENGINE_VALUE_MAX_BYTES,
    Batch,
    Engine,
    iterate,
)
from storage.errors import (
    DataDirectoryError,
    EmptyKeyError,
    EngineClosedError,
    KeyTooLongError,
    SnapshotExpiredError,
    ValueTooLargeError,
)


def put(engine: Engine, *pairs: tuple[bytes, bytes], sync: bool = True) -> None:
    batch = Batch()
    for key, value in pairs:
        batch.put(key, value)
    engine.write(batch, sync=sync)


def numbered(count: int, value: bytes = b"value") -> list[tuple[bytes, bytes]]:
    return [(b"%06d" % number, value) for number in range(count)]


def everything(engine: Engine) -> list[tuple[bytes, bytes]]:
    with engine.snapshot() as snapshot:
        return list(iterate(snapshot))


@contextmanager
def running(work: Any) -> Iterator[None]:
    """`work(stop)` in a thread; its exception, if any, comes out here."""
    stop = threading.Event()
    failures: list[BaseException] = []

    def run() -> None:
        try:
            work(stop)
        except BaseException as error:  # noqa: BLE001 - raised again in the test's own thread
            failures.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(60)
    assert not thread.is_alive()
    if failures:
        raise failures[0]


# --- writing ---------------------------------------------------------------------------------


def test_what_was_put_is_read(engine: Engine) -> None:
    put(engine, (b"a", b"1"), (b"b", b""), (b"c", b"\x00\xff"))
    with engine.snapshot() as snapshot:
        assert snapshot.get(b"a") == b"1"
        assert snapshot.get(b"b") == b""
        assert snapshot.get(b"c") == b"\x00\xff"
        assert snapshot.get(b"d") is None


def test_operations_of_a_batch_apply_in_order(engine: Engine) -> None:
    put(engine, (b"a", b"old"), (b"b", b"old"), (b"c", b"old"), (b"d", b"old"))
    batch = Batch()
    batch.put(b"a", b"first")
    batch.put(b"a", b"second")
    batch.put(b"b", b"gone")
    batch.delete(b"b")
    batch.delete(b"c")
    batch.put(b"c", b"again")
    batch.put(b"e", b"gone")
    batch.delete_range(b"d", b"f")
    batch.put(b"d", b"after the range")
    engine.write(batch, sync=True)
    assert everything(engine) == [(b"a", b"second"), (b"c", b"again"), (b"d", b"after the range")]


def test_a_delete_range_sees_the_puts_before_it_in_its_batch(engine: Engine) -> None:
    batch = Batch()
    for key, value in numbered(20):
        batch.put(key, value)
    batch.delete_range(b"000005", b"000015")
    batch.delete_range(b"", b"000002")
    batch.delete_range(b"000018", None)
    engine.write(batch, sync=True)
    assert [key for key, _ in everything(engine)] == [
        b"%06d" % number for number in (2, 3, 4, 15, 16, 17)
    ]


def test_an_unbounded_delete_range_keeps_the_order_of_its_batch(engine: Engine) -> None:
    put(engine, *numbered(100))
    batch = Batch()
    batch.put(b"before", b"")
    batch.delete_range(b"", None)
    batch.put(b"000001", b"after")
    engine.write(batch, sync=True)
    assert everything(engine) == [(b"000001", b"after")]


def test_a_delete_of_an_absent_key_changes_nothing(engine: Engine) -> None:
    put(engine, (b"a", b"1"))
    batch = Batch()
    batch.delete(b"b")
    engine.write(batch, sync=False)
    assert everything(engine) == [(b"a", b"1")]


def test_a_batch_is_seen_whole_or_not_at_all_by_a_reader_in_another_thread(engine: Engine) -> None:
    """Every batch writes the same number to ten keys: no snapshot may see two numbers."""
    keys = [b"k%d" % number for number in range(10)]
    put(engine, *[(key, b"0") for key in keys])

    def read(stop: threading.Event) -> None:
        while not stop.is_set():
            with engine.snapshot() as snapshot:
                one, other = snapshot.get(keys[0]), snapshot.get(keys[9])
                values = {value for _, value in snapshot.scan().items}
            assert one is not None
            assert values == {one} == {other}

    with running(read):
        for number in range(100):
            batch = Batch()
            batch.delete_range(b"k", b"l")
            for key in keys:
                batch.put(key, b"%d" % number)
            engine.write(batch, sync=False)
    assert everything(engine) == [(key, b"99") for key in keys]


def test_the_engine_neither_keeps_nor_changes_a_batch(engine: Engine) -> None:
    batch = Batch()
    batch.put(b"a", b"1")
    before = list(batch.operations)
    engine.write(batch, sync=False)
    assert batch.operations == before
    batch.put(b"b", b"2")
    assert everything(engine) == [(b"a", b"1")]
    engine.write(batch, sync=True)
    assert everything(engine) == [(b"a", b"1"), (b"b", b"2")]


@pytest.mark.parametrize("sync", [False, True])
def test_an_empty_batch_is_no_operation(engine: Engine, sync: bool) -> None:
    put(engine, (b"a", b"1"), sync=False)
    before = engine.statistics()
    engine.write(Batch(), sync=sync)
    assert everything(engine) == [(b"a", b"1")]
    assert engine.statistics().put_bytes == before.put_bytes


def test_a_batch_refuses_bad_keys_and_values_before_anything_is_written() -> None:
    batch = Batch()
    with pytest.raises(EmptyKeyError, match="at least one byte"):
        batch.put(b"", b"")
    with pytest.raises(EmptyKeyError):
        batch.delete(b"")
    with pytest.raises(KeyTooLongError, match="512 bytes is over the engine's limit of 511"):
        batch.put(b"k" * 512, b"")
    with pytest.raises(KeyTooLongError):
        batch.delete(b"k" * 512)
    with pytest.raises(ValueTooLargeError, match=str(ENGINE_VALUE_MAX_BYTES)):
        batch.put(b"k", bytes(ENGINE_VALUE_MAX_BYTES + 1))
    assert len(batch) == 0
    assert batch.size_bytes == 0


@pytest.mark.parametrize("size", [1, 2_000, 5_000, ENGINE_VALUE_MAX_BYTES])
def test_values_of_every_size(engine: Engine, size: int) -> None:
    value = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    key = b"k" * ENGINE_KEY_MAX_BYTES
    put(engine, (key, value), (b"l", b"after"))
    with engine.snapshot() as snapshot:
        assert snapshot.get(key) == value
        assert snapshot.scan(max_bytes=1).items == [(key, value)]


# --- snapshots -------------------------------------------------------------------------------


def test_a_snapshot_keeps_seeing_its_moment(engine: Engine) -> None:
    put(engine, (b"a", b"1"), (b"c", b"3"), (b"d", b"4"))
    with engine.snapshot() as before:
        batch = Batch()
        batch.delete_range(b"a", b"b")
        batch.put(b"b", b"2")
        batch.put(b"c", b"new")
        batch.delete(b"d")
        engine.write(batch, sync=True)
        put(engine, (b"a", b"back"), (b"aa", b""))
        old = [(b"a", b"1"), (b"c", b"3"), (b"d", b"4")]
        assert before.scan().items == old
        assert before.scan(reverse=True).items == old[::-1]
        assert before.scan(b"a\x00", b"d").items == [(b"c", b"3")]
        assert [before.get(key) for key in (b"a", b"b", b"c", b"d")] == [b"1", None, b"3", b"4"]
    assert [key for key, _ in everything(engine)] == [b"a", b"aa", b"b", b"c"]


def test_a_snapshot_survives_many_later_writes(engine: Engine) -> None:
    """Long enough that a tree would have reused every page it was allowed to."""
    put(engine, *numbered(500, b"old" * 20))
    with engine.snapshot() as before:
        for turn in range(30):
            put(engine, *numbered(500, b"%d" % turn * 30), sync=False)
        assert before.scan().items == numbered(500, b"old" * 20)


def test_snapshots_of_different_moments_live_side_by_side(engine: Engine) -> None:
    snapshots = []
    for number in range(20):
        put(engine, (b"k", b"%d" % number), sync=False)
        snapshots.append(engine.snapshot())
    assert engine.statistics().open_snapshots == 20
    for number, snapshot in reversed([*enumerate(snapshots)]):
        assert snapshot.get(b"k") == b"%d" % number
        snapshot.close()
    assert engine.statistics().open_snapshots == 0


def test_a_snapshot_moves_between_threads(engine: Engine) -> None:
    put(engine, *numbered(100))
    snapshot = engine.snapshot()
    found = []

    def read(_stop: threading.Event) -> None:
        found.append(snapshot.get(b"000001"))
        found.append(snapshot.scan().items)
        snapshot.close()

    with running(read):
        put(engine, *numbered(100, b"other"))
    assert found == [b"value", numbered(100)]
    with pytest.raises(EngineClosedError):
        snapshot.get(b"000001")


def test_reads_of_a_closed_snapshot_raise(engine: Engine) -> None:
    put(engine, (b"a", b"1"))
    snapshot = engine.snapshot()
    snapshot.close()
    snapshot.close()
    with pytest.raises(EngineClosedError, match="open a new one"):
        snapshot.get(b"a")
    with pytest.raises(EngineClosedError, match="open a new one"):
        snapshot.scan()


def test_expiry_ends_the_snapshots_past_their_age_and_no_others(engines: Any) -> None:
    engine = engines.open()
    put(engine, (b"a", b"1"))
    short, long = engine.snapshot(max_age_s=10), engine.snapshot(max_age_s=100)
    engines.clock.advance(9.5)
    assert engine.expire_snapshots() == 0
    assert engine.statistics().oldest_snapshot_age_s == 9.5
    assert short.get(b"a") == b"1"
    engines.clock.advance(0.5)
    assert engine.expire_snapshots() == 1
    assert engine.expire_snapshots() == 0
    assert engine.statistics().open_snapshots == 1
    with pytest.raises(SnapshotExpiredError, match="open a new one"):
        short.get(b"a")
    with pytest.raises(SnapshotExpiredError):
        short.scan()
    assert long.get(b"a") == b"1"
    short.close()
    with pytest.raises((SnapshotExpiredError, EngineClosedError)):
        short.get(b"a")
    engines.clock.advance(90)
    assert engine.expire_snapshots() == 1
    with pytest.raises(SnapshotExpiredError):
        long.scan()
    with engine.snapshot() as fresh:
        assert fresh.get(b"a") == b"1"


def test_expiry_from_another_thread_never_gives_a_wrong_value(engines: Any) -> None:
    """A reader holds snapshots of one number; another thread ends them and overwrites the pages."""
    engine = engines.open()
    keys = [b"k%03d" % number for number in range(200)]
    put(engine, *[(key, b"0" * 100) for key in keys])

    def read(stop: threading.Event) -> None:
        while not stop.is_set():
            snapshot = engine.snapshot(max_age_s=1)
            try:
                first = snapshot.get(keys[0])
                for key in keys:
                    assert snapshot.get(key) == first
                assert {value for _, value in snapshot.scan().items} == {first}
            except SnapshotExpiredError:
                pass
            finally:
                snapshot.close()

    with running(read):
        for number in range(60):
            put(engine, *[(key, b"%d" % (number % 10) * 100) for key in keys], sync=False)
            engines.clock.advance(2)
            engine.expire_snapshots()
    engine.expire_snapshots()
    assert engine.statistics().open_snapshots == 0


# --- checkpoint ------------------------------------------------------------------------------


def test_a_checkpoint_opens_as_an_engine_of_its_own(engines: Any) -> None:
    engine = engines.open()
    put(engine, *numbered(300))
    engine.checkpoint(engines.root / "copy" / "deeper")
    put(engine, (b"later", b""))
    copy = engines.open("copy/deeper")
    assert everything(copy) == numbered(300)
    put(copy, (b"own", b""))
    assert everything(engine) == [*numbered(300), (b"later", b"")]


def test_a_checkpoint_of_an_empty_engine(engines: Any) -> None:
    engines.open().checkpoint(engines.root / "copy")
    assert everything(engines.open("copy")) == []


def test_a_checkpoint_goes_into_an_empty_directory_but_not_into_a_used_one(engines: Any) -> None:
    engine = engines.open()
    put(engine, (b"a", b"1"))
    used = engines.root / "used"
    used.mkdir()
    (used / "notes.txt").write_text("mine")
    with pytest.raises(DataDirectoryError, match="not empty; name a new directory"):
        engine.checkpoint(used)
    assert [path.name for path in used.iterdir()] == ["notes.txt"]
    (engines.root / "empty").mkdir()
    engine.checkpoint(engines.root / "empty")
    assert everything(engines.open("empty")) == [(b"a", b"1")]


def test_a_checkpoint_that_cannot_be_written_leaves_the_engine_working(engines: Any) -> None:
    engine = engines.open()
    (engines.root / "file").write_text("")
    with pytest.raises(DataDirectoryError, match="checkpoint"):
        engine.checkpoint(engines.root / "file")
    put(engine, (b"a", b"1"))
    assert everything(engine) == [(b"a", b"1")]


def test_writes_go_on_during_a_checkpoint(engines: Any) -> None:
    """The copy holds what had returned before the call, and a prefix of what came later."""
    engine = engines.open()
    put(engine, *[(b"base%05d" % number, b"v" * 100) for number in range(2_000)])
    written = 0

    def write(stop: threading.Event) -> None:
        nonlocal written
        while not stop.is_set():
            put(engine, (b"log%06d" % written, b"x"), (b"last", b"%d" % written), sync=False)
            written += 1

    copies = []
    with running(write):
        for number in range(3):
            before = written
            engine.checkpoint(engines.root / f"copy{number}")
            copies.append((f"copy{number}", before))
    for name, before in copies:
        pairs = dict(everything(engines.open(name)))
        assert sum(key.startswith(b"base") for key in pairs) == 2_000
        logged = sorted(key for key in pairs if key.startswith(b"log"))
        assert logged == [b"log%06d" % number for number in range(len(logged))]
        assert before <= len(logged) <= written
        assert pairs.get(b"last") == (b"%d" % (len(logged) - 1) if logged else None)


# --- close and reopen ------------------------------------------------------------------------


def test_what_was_written_is_there_after_reopening(engines: Any) -> None:
    if not engines.kind.keeps:
        pytest.skip("nothing of this engine survives its close, by its contract")
    engine = engines.open()
    put(engine, *numbered(100))
    batch = Batch()
    batch.delete_range(b"000010", b"000020")
    engine.write(batch, sync=False)
    engine.close()
    engine = engines.open()
    expected = numbered(10) + numbered(100)[20:]
    assert everything(engine) == expected
    assert engine.statistics().batches == 0
    put(engine, (b"more", b""))
    engine.close()
    assert everything(engines.open()) == [*expected, (b"more", b"")]


def test_every_call_of_a_closed_engine_raises(engines: Any) -> None:
    engine = engines.open()
    put(engine, (b"a", b"1"))
    snapshot = engine.snapshot()
    engine.close()
    engine.close()
    batch = Batch()
    batch.put(b"b", b"2")
    for call in (
        lambda: engine.write(batch, sync=True),
        lambda: engine.write(Batch(), sync=True),
        engine.snapshot,
        engine.statistics,
        lambda: engine.checkpoint(engines.root / "copy"),
        lambda: snapshot.get(b"a"),
        snapshot.scan,
    ):
        with pytest.raises(EngineClosedError):
            call()
    assert engine.expire_snapshots() == 0
    snapshot.close()
    assert not (engines.root / "copy").exists()


def test_closing_under_a_reader_in_another_thread_is_safe(engines: Any) -> None:
    engine = engines.open()
    put(engine, *numbered(1_000))
    reading = threading.Event()

    def read(_stop: threading.Event) -> None:
        try:
            while True:
                with engine.snapshot() as snapshot:
                    for _ in range(3):
                        assert snapshot.scan().items == numbered(1_000)
                reading.set()
        except EngineClosedError:
            pass

    with running(read):
        assert reading.wait(30)
        engine.close()


# --- statistics ------------------------------------------------------------------------------


def test_statistics_are_sane(engines: Any) -> None:
    engine = engines.open()
    empty = engine.statistics()
    assert empty.keys == 0
    assert (empty.batches, empty.put_bytes, empty.open_snapshots) == (0, 0, 0)
    assert empty.oldest_snapshot_age_s == 0.0
    pairs = [(b"%06d" % number, b"v" * 94) for number in range(5_000)]
    for at in range(0, 5_000, 500):
        put(engine, *pairs[at : at + 500])
    full = engine.statistics()
    assert full.engine.startswith(engines.kind.name.replace("logged-", ""))
    assert full.batches == 10
    assert full.put_bytes == 500_000
    assert full.disk_free_bytes > 0
    assert full.reusable_bytes >= 0
    assert full.disk_bytes > 0
    if full.keys_exact:
        assert full.keys == 5_000
        assert 450_000 <= full.live_bytes <= 700_000
        assert full.space_amplification > 0
    batch = Batch()
    batch.delete_range(b"", b"004000")
    engine.write(batch, sync=True)
    rest = engine.statistics()
    if rest.keys_exact:
        assert rest.keys == 1_000
        assert rest.live_bytes < full.live_bytes / 2


def test_deleted_data_becomes_reusable_and_is_reused(engines: Any) -> None:
    """The files of an engine that is filled and emptied again and again stop growing."""
    engine = engines.open()
    sizes = []
    for _ in range(8):
        put(engine, *[(b"%06d" % number, b"v" * 1_000) for number in range(1_000)])
        batch = Batch()
        batch.delete_range(b"", None)
        engine.write(batch, sync=True)
        sizes.append(engine.statistics().disk_bytes)
    assert sizes[-1] <= 10 * 1_000_000
    if engine.statistics().keys_exact:
        assert engine.statistics().keys == 0
    if engine.statistics().engine.endswith("lmdb"):
        assert engine.statistics().reusable_bytes > 1_000_000
        if "logged" not in engines.kind.name:  # when its folds come is up to a thread
            assert sizes[-1] == sizes[3]
