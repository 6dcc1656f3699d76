"""LMDB behind its log: folds, failures, ends of the process. The contract is tests/contract's."""

from __future__ import annotations

import errno
import os
import random
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from storage import logged_engine
from storage.clock import ManualClock
from storage.engine import Batch, BegunSync, Engine, iterate, syncs_apart
from storage.errors import DataDirectoryError, EngineClosedError, WriteFailedError
from storage.lmdb_engine import FOLD_STEP_ROWS, LmdbEngine
from storage.logged_engine import (
    HOLD_FOLDS,
    SPREAD,
    SPREAD_FIRST,
    UNSYNCED_FOLDS,
    LoggedEngine,
)
from storage.memtable import Table, changed

WAIT_S = 30.0
PAUSE_S = 10.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data"


def opened(path: Path, *, fold_bytes: int = 1 << 20, segment_bytes: int = 1 << 16) -> LoggedEngine:
    tree = LmdbEngine(path, clock=ManualClock(), map_size_bytes=1 << 26)
    return LoggedEngine(tree, fold_bytes=fold_bytes, segment_bytes=segment_bytes)


@pytest.fixture
def engine(path: Path) -> Iterator[LoggedEngine]:
    engine = opened(path)
    yield engine
    engine.close()


def put(engine: Engine, *keys: bytes, value: bytes = b"value", sync: bool = True) -> None:
    batch = Batch()
    for key in keys:
        batch.put(key, value)
    engine.write(batch, sync=sync)


def everything(engine: Engine) -> list[tuple[bytes, bytes]]:
    with engine.snapshot() as snapshot:
        return list(iterate(snapshot))


def killed(path: Path) -> Path:
    """What the next start would find if the process were killed now."""
    return Path(shutil.copytree(path, path.with_name("killed")))


def in_tree(path: Path) -> list[tuple[bytes, bytes]]:
    tree = LmdbEngine(path, clock=ManualClock(), map_size_bytes=1 << 26)
    try:
        return everything(tree)
    finally:
        tree.close()


def figure(engine: Engine, name: str) -> float:
    return float(engine.statistics().details[name])


class HeldFolds:
    """Folds wait until they are let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun = threading.Event()
        self.go_on = threading.Event()
        real = LmdbEngine.fold

        def fold(tree: LmdbEngine, table: Table, *pause: Any) -> None:
            self.begun.set()
            assert self.go_on.wait(WAIT_S)
            real(tree, table, *pause)

        monkeypatch.setattr(LmdbEngine, "fold", fold)


def test_a_write_is_in_the_log_and_not_yet_in_the_tree(engine: LoggedEngine, path: Path) -> None:
    put(engine, b"a", b"b")
    copy = killed(path)
    assert in_tree(copy) == []
    again = opened(copy)
    assert everything(again) == [(b"a", b"value"), (b"b", b"value")]
    assert figure(again, "log_records_replayed") == 2
    again.close()


def test_what_was_shown_after_a_restart_is_in_the_tree_by_then(
    engine: LoggedEngine, path: Path
) -> None:
    put(engine, b"a", sync=False)
    copy = killed(path)
    again = opened(copy)
    without_log = path.with_name("without-log")
    shutil.copytree(copy, without_log, ignore=shutil.ignore_patterns("log"))
    assert in_tree(without_log) == [(b"a", b"value")]
    again.close()


def test_closing_leaves_nothing_to_read_again(path: Path) -> None:
    engine = opened(path)
    put(engine, b"a")
    engine.close()
    assert in_tree(path) == [(b"a", b"value")]
    again = opened(path)
    assert figure(again, "log_records_replayed") == 0
    assert everything(again) == [(b"a", b"value")]
    again.close()


def test_a_log_that_was_read_never_brings_older_values_back(path: Path) -> None:
    """Kill after kill, with folds in between: each start sees exactly what was written."""
    wanted: dict[bytes, bytes] = {}
    for life in range(6):
        engine = opened(path, fold_bytes=4_000, segment_bytes=2_000)
        assert dict(everything(engine)) == wanted
        for number in range(40):
            key, value = b"%d" % (number % 7), b"%d-%d" % (life, number) * 10
            put(engine, key, value=value)
            wanted[key] = value
        copy = killed(path)
        engine.close()
        shutil.rmtree(path)
        copy.rename(path)


def test_rows_deleted_before_a_fold_never_reach_the_tree(path: Path) -> None:
    engine = opened(path)
    put(engine, *(b"log/%03d" % number for number in range(500)))
    batch = Batch()
    batch.delete_range(b"log/", b"log0")
    batch.put(b"head", b"500")
    engine.write(batch, sync=True)
    engine.close()
    tree = LmdbEngine(path, clock=ManualClock(), map_size_bytes=1 << 26)
    assert tree.statistics().keys == 1
    assert tree.statistics().disk_bytes < 100_000
    tree.close()


def test_reads_and_writes_go_on_during_a_fold(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folds = HeldFolds(monkeypatch)
    engine = opened(path, fold_bytes=2_000)
    put(engine, *(b"%02d" % number for number in range(20)))
    assert folds.begun.wait(WAIT_S)
    before = engine.snapshot()
    put(engine, b"00", value=b"new")
    assert before.get(b"00") == b"value"
    with engine.snapshot() as after:
        assert after.get(b"00") == b"new"
        assert len(after.scan().items) == 20
    folds.go_on.set()
    engine.checkpoint(path.with_name("copy"))  # waits for everything to be folded
    assert before.get(b"00") == b"value"
    assert dict(before.scan().items)[b"00"] == b"value"
    before.close()
    assert in_tree(path.with_name("copy"))[0] == (b"00", b"new")
    engine.close()


def test_a_writer_far_ahead_of_the_folds_waits(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folds = HeldFolds(monkeypatch)
    engine = opened(path, fold_bytes=2_000)
    written = 0

    def write() -> None:
        nonlocal written
        for number in range(200):
            put(engine, b"%03d" % number, sync=False)
            written += 1

    writer = threading.Thread(target=write)
    writer.start()
    assert folds.begun.wait(WAIT_S)
    writer.join(0.3)
    assert writer.is_alive(), "it does not wait"
    assert written < 100
    most = UNSYNCED_FOLDS + HOLD_FOLDS
    assert figure(engine, "fold_waiting_bytes") < (most + 1) * 2_000
    folds.go_on.set()
    writer.join(WAIT_S)
    assert written == 200
    assert len(everything(engine)) == 200
    engine.close()


def test_a_short_page_of_much_that_waits_for_a_fold_is_as_short_to_make(
    engine: LoggedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the tree has few rows, what the tables have of the whole range was gone through."""
    wanted = {}
    for first in (0, 1, 3):
        keys = [b"%05d" % number for number in range(first, 5_000, first + 1)]
        put(engine, *keys, value=b"%d" % first)
        wanted.update(dict.fromkeys(keys, b"%d" % first))
        with engine.snapshot():
            pass  # so that there are several tables
    batch = Batch()
    batch.delete_range(b"01000", b"02000")
    batch.delete(b"00007")
    engine.write(batch, sync=True)
    pairs = sorted(
        (key, value)
        for key, value in wanted.items()
        if key != b"00007" and not b"01000" <= key < b"02000"
    )
    most = 0

    def counted(*arguments: Any) -> list[tuple[bytes, bytes]]:
        nonlocal most
        found = changed(*arguments)
        most = max(most, len(found))
        return found

    monkeypatch.setattr(logged_engine, "changed", counted)
    with engine.snapshot() as snapshot:
        for start, limit in (
            (b"", 1),
            (b"00005", 3),
            (b"00990", 30),
            (b"04990", 20),
            (b"01500", 1),
        ):
            page = snapshot.scan(start, limit=limit)
            behind = [pair for pair in pairs if pair[0] >= start]
            assert (page.items, page.more) == (behind[:limit], len(behind) > limit)
        assert most <= 4 * 256
        assert snapshot.scan(b"0", b"00600", limit=10_000).items == [
            pair for pair in pairs if pair[0] < b"00600"
        ]


# --- failures --------------------------------------------------------------------------------


def failing(monkeypatch: pytest.MonkeyPatch, name: str, code: int) -> None:
    def fail(*_: Any) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, name, fail)


@pytest.mark.parametrize(("call", "code"), [("pwrite", errno.ENOSPC), ("fdatasync", errno.EIO)])
def test_a_failed_append_or_sync_poisons_and_shows_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    engine = opened(path)
    put(engine, b"a")
    with monkeypatch.context() as broken:
        failing(broken, call, code)
        with pytest.raises(WriteFailedError, match=r"takes no more; look at .* and restart"):
            put(engine, b"b")
    with pytest.raises(WriteFailedError, match="takes no more"):
        put(engine, b"c")
    assert everything(engine) == [(b"a", b"value")]
    copy = killed(path)
    engine.close()
    again = opened(copy)
    assert everything(again)[0] == (b"a", b"value"), "what was acknowledged is there"
    again.close()


def test_a_failed_fold_poisons_and_loses_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = opened(path, fold_bytes=2_000)

    def fail(*_: Any) -> None:
        raise WriteFailedError("the disk is broken")

    with monkeypatch.context() as broken:
        broken.setattr(LmdbEngine, "fold", fail)
        put(engine, *(b"%02d" % number for number in range(30)))
        with pytest.raises(WriteFailedError, match="the disk is broken"):
            engine.checkpoint(path.with_name("copy"))
        with pytest.raises(WriteFailedError):
            put(engine, b"x")
        assert len(everything(engine)) == 30
        copy = killed(path)
        engine.close()
    again = opened(copy)
    assert len(everything(again)) == 30
    again.close()


def test_a_log_that_cannot_be_opened_is_refused_with_a_sentence(path: Path) -> None:
    opened(path).close()
    shutil.rmtree(path / "log")
    (path / "log").write_bytes(b"")
    with pytest.raises(DataDirectoryError, match=r"cannot .* the log in .*log"):
        opened(path)
    (path / "log").unlink()
    opened(path).close()


def test_a_checkpoint_has_no_log(engine: LoggedEngine, path: Path) -> None:
    put(engine, b"a")
    copy = path.with_name("copy")
    engine.checkpoint(copy)
    assert [entry.name for entry in copy.iterdir()] == ["data.mdb"]
    assert in_tree(copy) == [(b"a", b"value")]


def test_the_space_that_waits_for_a_fold_does_not_count_as_free(engine: LoggedEngine) -> None:
    put(engine, *(b"%03d" % number for number in range(100)), value=bytes(1_000))
    batch = Batch()
    batch.delete_range(b"", None)
    engine.write(batch, sync=True)
    figures = engine.statistics()
    waiting = float(figures.details["fold_waiting_bytes"])
    assert waiting > 100_000
    assert figures.reusable_bytes == 0
    assert not figures.keys_exact
    assert figures.disk_bytes >= float(figures.details["log_bytes"])


# --- syncs that somebody else makes --------------------------------------------------------------


def begun(engine: LoggedEngine) -> BegunSync:
    found = engine.begin_sync()
    assert found is not None
    return found


def test_a_sync_apart_makes_safe_what_was_written_before_it_began(engine: LoggedEngine) -> None:
    assert syncs_apart(engine) is engine
    assert engine.begin_sync() is None, "there is nothing to sync"
    put(engine, b"a", sync=False)
    first = begun(engine)
    put(engine, b"b", sync=False)
    engine.end_sync(first.number, None)
    second = begun(engine)
    assert second.number == first.number + 1
    engine.end_sync(second.number, None)
    assert engine.begin_sync() is None
    assert figure(engine, "log_kernel_syncs") == 2


def test_a_segment_that_ends_while_a_sync_is_in_flight(path: Path) -> None:
    engine = opened(path, segment_bytes=2_000)
    put(engine, b"a", sync=False)
    sync = begun(engine)
    put(engine, *(b"%03d" % number for number in range(300)), sync=False)
    put(engine, b"z", sync=False)
    assert begun(engine).descriptor != sync.descriptor, "another segment"
    engine.end_sync(sync.number, None)
    assert begun(engine).number > sync.number, "the end is still to be synced"
    copy = killed(path)
    engine.close()
    again = opened(copy)
    assert len(everything(again)) == 302
    again.close()


def test_a_sync_apart_that_failed_poisons(engine: LoggedEngine, path: Path) -> None:
    put(engine, b"a")
    put(engine, b"b", sync=False)
    failure = OSError(errno.EIO, os.strerror(errno.EIO))
    with pytest.raises(WriteFailedError, match=r"Input/output error.* takes no more"):
        engine.end_sync(begun(engine).number, failure)
    with pytest.raises(WriteFailedError, match="takes no more"):
        put(engine, b"c")
    assert engine.begin_sync() is None, "a write says why"
    assert figure(engine, "log_kernel_syncs") == 0
    assert len(everything(engine)) == 2, "reads go on"


def test_a_sync_apart_ends_badly_if_the_engine_failed_meanwhile(
    engine: LoggedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(engine, b"a", sync=False)
    sync = begun(engine)
    with monkeypatch.context() as broken:
        failing(broken, "fdatasync", errno.EIO)
        with pytest.raises(WriteFailedError):
            put(engine, b"b")
    with pytest.raises(WriteFailedError, match="takes no more"):
        engine.end_sync(sync.number, None)


def test_a_checkpoint_while_a_sync_is_in_flight(engine: LoggedEngine, path: Path) -> None:
    """It syncs the log itself, folds, and takes nothing from what ends later."""
    put(engine, b"a", sync=False)
    sync = begun(engine)
    copy = path.with_name("copy")
    engine.checkpoint(copy)
    assert in_tree(copy) == [(b"a", b"value")]
    assert engine.begin_sync() is None
    engine.end_sync(sync.number, None)
    put(engine, b"b")
    assert len(everything(engine)) == 2


def test_closing_while_a_sync_is_in_flight_loses_nothing(path: Path) -> None:
    engine = opened(path)
    put(engine, b"a", sync=False)
    sync = begun(engine)
    engine.close()
    with pytest.raises(EngineClosedError):
        engine.end_sync(sync.number, None)
    assert engine.begin_sync() is None
    assert in_tree(path) == [(b"a", b"value")]


# --- when a fold begins -----------------------------------------------------------------------


def folded(engine: LoggedEngine) -> bool:
    return bool(engine._folding) or figure(engine, "folds") > 0


def test_a_fold_begins_with_the_end_of_a_sync_and_makes_none(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop that writes would wait for it."""
    folds = HeldFolds(monkeypatch)
    engine = opened(path, fold_bytes=2_000)
    put(engine, *(b"%02d" % number for number in range(20)), sync=False)
    assert not folded(engine), "not all of it is synced"
    sync = begun(engine)
    with monkeypatch.context() as watched:
        watched.setattr(os, "fdatasync", lambda _: pytest.fail("the loop waits for a sync"))
        engine.end_sync(sync.number, None)
    assert folds.begun.wait(WAIT_S)
    folds.go_on.set()
    engine.close()
    assert len(in_tree(path)) == 20


def test_no_fold_begins_with_the_end_of_a_sync_that_left_something(path: Path) -> None:
    engine = opened(path, fold_bytes=2_000)
    put(engine, b"first", sync=False)
    sync = begun(engine)
    put(engine, *(b"%02d" % number for number in range(20)), sync=False)
    engine.end_sync(sync.number, None)
    assert not folded(engine)
    engine.end_sync(begun(engine).number, None)
    assert folded(engine)
    engine.close()


def test_a_fold_begins_unsynced_rather_than_never(path: Path) -> None:
    engine = opened(path, fold_bytes=2_000)
    count = 0
    while not folded(engine):
        put(engine, b"%04d" % count, sync=False)
        count += 1
        assert figure(engine, "fold_waiting_bytes") <= (UNSYNCED_FOLDS + 1) * 2_000
    engine.close()
    assert len(in_tree(path)) == count


def test_replicas_that_write_the_same_do_not_fold_at_the_same_moment(path: Path) -> None:
    """Each draws how much earlier its next fold begins; the first ones lie far apart."""
    tree = LmdbEngine(path, clock=ManualClock(), map_size_bytes=1 << 26)
    engine = LoggedEngine(tree, fold_bytes=10_000, rng=random.Random(1))
    dice = random.Random(1)
    number = 0
    for spread in (SPREAD_FIRST, SPREAD, SPREAD):
        wanted = 10_000 * (1 - dice.uniform(0, spread))
        assert engine._fold_at == wanted
        waiting = 0.0
        while not engine._folding:
            waiting = engine._waiting()
            put(engine, b"%04d" % number)
            number += 1
        assert wanted - 200 < waiting < wanted
        engine._await_fold()
    engine.close()


# --- pauses of a fold -----------------------------------------------------------------------


@pytest.fixture
def long_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logged_engine, "FOLD_PAUSE_S", PAUSE_S)


def begin_long_fold(engine: LoggedEngine) -> None:
    """It has many pauses before it."""
    put(engine, *(b"%06d" % number for number in range(4 * FOLD_STEP_ROWS)))
    assert engine._folding, "so much is folded"


@pytest.mark.usefixtures("long_pauses")
def test_a_fold_does_not_pause_while_somebody_waits_for_it(path: Path, tmp_path: Path) -> None:
    engine = opened(path, fold_bytes=1 << 17)
    began = time.monotonic()
    begin_long_fold(engine)
    engine.checkpoint(tmp_path / "copy")
    begin_long_fold(engine)
    engine.close()
    assert time.monotonic() < began + PAUSE_S
    assert len(in_tree(path)) == 4 * FOLD_STEP_ROWS


@pytest.mark.usefixtures("long_pauses")
def test_a_fold_does_not_pause_while_the_next_one_is_due(path: Path) -> None:
    engine = opened(path, fold_bytes=1 << 17)
    wait_at = threading.Event()
    tree_fold = engine._tree.fold

    def fold(table: Table, pause: Any) -> None:
        assert wait_at.wait(WAIT_S)
        tree_fold(table, pause)

    engine._tree.fold = fold  # type: ignore[method-assign,assignment]
    begin_long_fold(engine)
    put(engine, *(b"next%06d" % number for number in range(4 * FOLD_STEP_ROWS)))
    wait_at.set()
    until = time.monotonic() + PAUSE_S
    while figure(engine, "folds") < 1:
        assert time.monotonic() < until
        time.sleep(0.01)
    engine.close()
