"""What LMDB adds to the Engine contract: full syncs, cheap snapshots, refusals that say why."""

from __future__ import annotations

import os
import random
import resource
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import lmdb
import pytest

from storage.clock import ManualClock
from storage.engine import Batch, Engine, iterate
from storage.errors import (
    DataDirectoryError,
    DirectoryInUseError,
    EngineClosedError,
    ForeignDirectoryError,
    ReadFailedError,
    SnapshotExpiredError,
    TooManySnapshotsError,
    UnknownFormatError,
    WriteFailedError,
)
from storage.lmdb_engine import READER_CHECK_INTERVAL_S, LmdbEngine
from storage.lmdb_file import DATA_NAME
from storage.lmdb_pages import PageFigures

Open = Callable[..., LmdbEngine]


@pytest.fixture
def opened(tmp_path: Path, clock: ManualClock) -> Iterator[Open]:
    engines: list[LmdbEngine] = []

    def build(name: str = "data", **options: object) -> LmdbEngine:
        engines.append(LmdbEngine(tmp_path / name, clock=clock, **options))  # type: ignore[arg-type]
        return engines[-1]

    yield build
    for engine in engines:
        engine.close()


def put(engine: Engine, *pairs: tuple[bytes, bytes]) -> None:
    batch = Batch()
    for key, value in pairs:
        batch.put(key, value)
    engine.write(batch, sync=True)


def numbered(count: int, value: bytes) -> list[tuple[bytes, bytes]]:
    return [(b"%06d" % number, value) for number in range(count)]


def everything(engine: Engine) -> list[tuple[bytes, bytes]]:
    with engine.snapshot() as snapshot:
        return list(iterate(snapshot))


@contextmanager
def files_end_at(size_bytes: int) -> Iterator[None]:
    """A disk that takes no byte behind this offset of any file: a real failure of the write."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


# --- durability ------------------------------------------------------------------------------


def test_commits_are_fully_synced(opened: Open) -> None:
    flags = opened()._env.flags()
    assert flags["sync"]
    assert flags["metasync"]
    assert flags["lock"]
    assert not flags["writemap"]
    assert not flags["map_async"]


def test_the_large_map_costs_no_disk(opened: Open) -> None:
    engine = opened()
    put(engine, (b"a", b"1"))
    found = engine.statistics()
    assert found.details["map_size_bytes"] == 1 << 40
    assert found.disk_bytes < 1 << 20


# --- snapshots -------------------------------------------------------------------------------


def test_a_get_is_the_transactions_own(opened: Open) -> None:
    engine = opened()
    put(engine, (b"a", b"1"))
    with engine.snapshot() as snapshot:
        assert isinstance(snapshot.get.__self__, lmdb.Transaction)  # type: ignore[attr-defined]


def test_old_snapshots_end_by_themselves_at_the_next_snapshot(
    opened: Open, clock: ManualClock
) -> None:
    engine = opened()
    old = engine.snapshot(max_age_s=5)
    clock.advance(5)
    engine.snapshot().close()
    with pytest.raises(SnapshotExpiredError):
        old.scan()
    assert engine.statistics().open_snapshots == 0


def test_old_snapshots_end_by_themselves_at_the_next_write(
    opened: Open, clock: ManualClock
) -> None:
    engine = opened()
    old = engine.snapshot(max_age_s=5)
    clock.advance(5)
    put(engine, (b"a", b"1"))
    with pytest.raises(SnapshotExpiredError):
        old.get(b"a")


def test_pages_stay_pinned_while_a_get_is_in_flight(opened: Open, clock: ManualClock) -> None:
    """A thread inside a look-up holds the method that it called; here the test holds it."""
    engine = opened()
    put(engine, *numbered(300, b"old" * 30))
    snapshot = engine.snapshot(max_age_s=1)
    in_flight = snapshot.get
    clock.advance(1)
    assert engine.expire_snapshots() == 1
    with pytest.raises(SnapshotExpiredError):
        snapshot.get(b"000001")
    for turn in range(10):
        put(engine, *numbered(300, b"%d" % turn * 90))
        assert in_flight(b"000001") == b"old" * 30
    snapshot.close()
    assert in_flight(b"000299") == b"old" * 30
    assert engine.statistics().open_snapshots == 1
    del in_flight
    put(engine, (b"a", b"1"))
    assert engine.statistics().open_snapshots == 0


def test_pages_stay_pinned_while_a_scan_is_in_flight(opened: Open, clock: ManualClock) -> None:
    engine = opened()
    put(engine, (b"a", b"1"))
    snapshot = engine.snapshot(max_age_s=1)
    clock.advance(1)
    with snapshot._reading:  # what scan holds
        assert engine.expire_snapshots() == 1
        assert engine.statistics().open_snapshots == 1
    assert engine.expire_snapshots() == 0
    assert engine.statistics().open_snapshots == 0


def test_released_pages_are_reused(opened: Open) -> None:
    """Without it a closed snapshot would let the file grow for as long as the process lives."""
    engine = opened()
    put(engine, *numbered(300, b"v" * 100))
    sizes = []
    for turn in range(40):
        engine.snapshot().close()
        put(engine, *numbered(300, b"%d" % (turn % 10) * 100))
        sizes.append(engine.statistics().disk_bytes)
    assert sizes[-1] == sizes[10]


def test_too_many_snapshots_are_refused_until_some_are_closed(opened: Open) -> None:
    engine = opened(max_snapshots=3)
    put(engine, (b"a", b"1"))
    held = [engine.snapshot() for _ in range(3)]
    with pytest.raises(TooManySnapshotsError, match=r"all 3 .*close some or raise max_snapshots"):
        engine.snapshot()
    held.pop().close()
    assert everything(engine) == [(b"a", b"1")]


READER_THAT_IS_KILLED = """
import lmdb, sys, time
environment = lmdb.open(sys.argv[1], readonly=True)
transaction = environment.begin()
print("reading", flush=True)
time.sleep(600)
"""


def test_readers_of_dead_processes_are_cleared(opened: Open, clock: ManualClock) -> None:
    engine = opened()
    put(engine, (b"a", b"1"))

    def reader_dies() -> None:
        command = [sys.executable, "-c", READER_THAT_IS_KILLED, str(engine.path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            try:
                assert process.stdout.readline() == b"reading\n"
            finally:
                process.kill()

    reader_dies()
    assert engine.expire_snapshots() == 0
    assert engine.statistics().details["stale_readers_cleared"] == 0
    clock.advance(READER_CHECK_INTERVAL_S)
    engine.expire_snapshots()
    assert engine.statistics().details["stale_readers_cleared"] == 1


# --- failing writes --------------------------------------------------------------------------


def test_a_full_map_poisons_the_engine_and_a_larger_one_heals_it(opened: Open) -> None:
    engine = opened(map_size_bytes=1 << 17)
    put(engine, (b"a", b"1"))
    before = engine.snapshot()
    with pytest.raises(WriteFailedError, match="map is full: restart with a larger map size"):
        put(engine, *numbered(200, b"v" * 1_000))
    with pytest.raises(WriteFailedError, match="takes no more"):
        engine.write(Batch(), sync=True)
    with pytest.raises(WriteFailedError):
        put(engine, (b"b", b"2"))
    assert before.get(b"a") == b"1"
    assert everything(engine) == [(b"a", b"1")]
    engine.close()
    engine = opened(map_size_bytes=1 << 20)
    assert everything(engine) == [(b"a", b"1")]
    put(engine, *numbered(200, b"v" * 1_000))


def test_a_write_that_the_disk_refuses_poisons_the_engine(opened: Open) -> None:
    engine = opened()
    put(engine, (b"a", b"1"))
    size = (engine.path / DATA_NAME).stat().st_size
    with (
        files_end_at(size),
        pytest.raises(WriteFailedError, match=r"failed .* takes no more; .* restart") as failure,
    ):
        put(engine, *numbered(100, b"v" * 1_000))
    assert failure.value.outcome == "unknown"
    with pytest.raises(WriteFailedError):
        put(engine, (b"b", b"2"))
    assert everything(engine) == [(b"a", b"1")]
    assert engine.statistics().batches == 1
    engine.close()
    assert everything(opened()) == [(b"a", b"1")]


def test_a_defect_of_the_caller_does_not_poison(opened: Open) -> None:
    engine = opened()
    batch = Batch()
    batch.put(b"a", b"1")
    batch.put(b"b", "text")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        engine.write(batch, sync=True)
    assert everything(engine) == []
    put(engine, (b"c", b"3"))
    assert everything(engine) == [(b"c", b"3")]


def test_a_checkpoint_that_the_disk_refuses_leaves_nothing_behind(
    opened: Open, tmp_path: Path
) -> None:
    engine = opened()
    put(engine, *numbered(1_000, b"v" * 1_000))
    with files_end_at(100_000), pytest.raises(DataDirectoryError, match="write a checkpoint to"):
        engine.checkpoint(tmp_path / "copy")
    assert list((tmp_path / "copy").iterdir()) == []
    engine.checkpoint(tmp_path / "copy")
    assert everything(opened("copy")) == numbered(1_000, b"v" * 1_000)


class _CannotCompact:
    """Stands for an environment whose compacting copy stops half-way."""

    def __init__(self, environment: lmdb.Environment) -> None:
        self._environment = environment

    def copy(self, path: str, compact: bool) -> None:
        if compact:
            (Path(path) / DATA_NAME).write_bytes(b"half")
            raise lmdb.IncompatibleError("mdb_env_copy2", -30784)
        self._environment.copy(path, compact=False)


def test_a_file_that_cannot_be_compacted_is_copied_as_it_is(
    opened: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = opened()
    put(engine, *numbered(100, b"v"))
    with monkeypatch.context() as patch:
        patch.setattr(engine, "_env", _CannotCompact(engine._env))
        engine.checkpoint(tmp_path / "copy")
    assert everything(opened("copy")) == numbered(100, b"v")


class _Refusing:
    """Stands for an environment that had a fatal error: LMDB then begins no transaction."""

    def __getattr__(self, name: str) -> object:
        raise lmdb.PanicError("mdb_txn_begin", -30795)


def test_a_read_that_lmdb_refuses_is_an_error_of_the_one_tree(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = opened()
    with monkeypatch.context() as patch:
        patch.setattr(engine, "_env", _Refusing())
        with pytest.raises(ReadFailedError, match="restart"):
            engine.snapshot()
        with pytest.raises(ReadFailedError, match="restart"):
            engine.statistics()


# --- directories -----------------------------------------------------------------------------


def test_missing_directories_are_made(opened: Open, tmp_path: Path) -> None:
    put(opened("a/b/c"), (b"k", b""))
    assert (tmp_path / "a" / "b" / "c" / DATA_NAME).exists()


def test_what_is_made_is_for_this_user_alone(opened: Open, tmp_path: Path) -> None:
    engine = opened("made/data")
    put(engine, (b"k", b""))
    engine.checkpoint(tmp_path / "copy")
    for directory in (tmp_path / "made", engine.path, tmp_path / "copy"):
        assert directory.stat().st_mode & 0o777 == 0o700
    assert (engine.path / DATA_NAME).stat().st_mode & 0o077 == 0


def test_an_engine_that_must_exist_is_not_made(opened: Open, tmp_path: Path) -> None:
    with pytest.raises(DataDirectoryError, match="name the directory of an existing engine"):
        opened("absent", create=False)
    assert not (tmp_path / "absent").exists()
    opened().close()
    opened(create=False)


def test_a_file_in_the_place_of_the_directory(opened: Open, tmp_path: Path) -> None:
    (tmp_path / "data").write_text("mine")
    with pytest.raises(DataDirectoryError, match="name a directory"):
        opened()
    with pytest.raises(DataDirectoryError, match="name a directory"):
        opened("data/below")
    assert (tmp_path / "data").read_text() == "mine"


def test_a_directory_in_use_is_refused_in_this_and_in_another_process(opened: Open) -> None:
    engine = opened()
    with pytest.raises(DirectoryInUseError, match="another engine has it open; stop that process"):
        opened()
    code = (
        "import sys\nfrom pathlib import Path\nfrom storage.system_clock import SystemClock\n"
        "from storage.errors import DirectoryInUseError\n"
        "from storage.lmdb_engine import LmdbEngine\n"
        "try:\n    LmdbEngine(Path(sys.argv[1]), clock=SystemClock())\n"
        "except DirectoryInUseError:\n    print('refused')\n"
    )
    command = [sys.executable, "-c", code, str(engine.path)]
    root = Path(__file__).parents[3]
    found = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    assert found.stdout == "refused\n"
    engine.close()
    opened()


def test_a_foreign_file_is_refused_and_left_alone(opened: Open, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / DATA_NAME).write_bytes(b"something else" * 1_000)
    with pytest.raises(ForeignDirectoryError, match="no LMDB file; name another directory"):
        opened()
    assert [path.name for path in (tmp_path / "data").iterdir()] == [DATA_NAME]
    assert (tmp_path / "data" / DATA_NAME).read_bytes() == b"something else" * 1_000


@pytest.mark.parametrize("version", [0, 2, 999])
def test_an_unknown_format_is_refused_and_left_alone(opened: Open, version: int) -> None:
    engine = opened()
    engine.close()
    file = engine.path / DATA_NAME
    data = bytearray(file.read_bytes())
    magic = struct.pack("=I", 0xBEEFC0DE)
    for page in (0, 4096):
        at = data.index(magic, page) + 4
        data[at : at + 4] = struct.pack("=I", version)
    file.write_bytes(data)
    with pytest.raises(UnknownFormatError, match="open it with the version that wrote it"):
        opened()
    assert file.read_bytes() == data


def test_a_damaged_or_cut_file_is_refused_with_advice(opened: Open) -> None:
    engine = opened()
    put(engine, *numbered(1_000, b"v" * 100))
    engine.close()
    file = engine.path / DATA_NAME
    whole = file.read_bytes()
    file.write_bytes(whole[:50_000])
    with pytest.raises(DataDirectoryError, match="was cut to 50000 bytes and its tree needs"):
        opened()
    file.write_bytes(whole[:100])
    with pytest.raises(DataDirectoryError, match=r"is damaged .*; restore it from a backup"):
        opened()
    file.write_bytes(whole)
    assert len(everything(opened())) == 1_000


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (13, "this user may not write there; change its owner"),
        (30, "the file system is read-only; remount it writable"),
        (28, "the disk is full; free some space"),
        (12, "lower the map size"),
        (5, "I/O error; check its health"),
        (999, "look at the directory and try again"),
    ],
)
@pytest.mark.parametrize("kind", [OSError, lmdb.Error])
def test_what_the_system_refuses_becomes_one_sentence(
    opened: Open,
    monkeypatch: pytest.MonkeyPatch,
    kind: type[Exception],
    code: int,
    advice: str,
) -> None:
    def refuse(*_arguments: object, **_options: object) -> None:
        error = kind(code, "reason")
        error.code = code  # type: ignore[attr-defined]
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(lmdb, "open", refuse)
        with pytest.raises(DataDirectoryError, match=advice) as failure:
            opened()
    assert "\n" not in str(failure.value)
    opened()


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write everywhere")
def test_a_directory_without_permission(opened: Open, tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(DataDirectoryError, match="this user may not write there"):
        opened("locked/data")


def test_closing_gives_the_directory_back_after_a_failed_open(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: object, **_options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(lmdb, "open", refuse)
        with pytest.raises(KeyboardInterrupt):
            opened()
    engine = opened()
    engine.close()
    with pytest.raises(EngineClosedError, match="closed; open it again"):
        put(engine, (b"a", b"1"))


# --- figures ---------------------------------------------------------------------------------


def test_keys_are_counted_exactly_and_live_bytes_are_an_upper_bound(opened: Open) -> None:
    engine = opened()
    dice = random.Random(5)
    pairs = {dice.randbytes(12): dice.randbytes(dice.randrange(200)) for _ in range(5_000)}
    chosen = list(pairs)
    for at in range(0, len(chosen), 500):
        put(engine, *[(key, pairs[key]) for key in chosen[at : at + 500]])
    found = engine.statistics()
    real = sum(len(key) + len(value) for key, value in pairs.items())
    assert found.keys_exact
    assert found.keys == len(pairs)
    assert real <= found.live_bytes <= 1.7 * real
    assert found.disk_bytes >= found.live_bytes
    assert found.disk_bytes == sum(path.stat().st_blocks * 512 for path in engine.path.iterdir())


def test_reusable_bytes_are_what_the_next_writes_take(opened: Open) -> None:
    engine = opened()
    put(engine, *numbered(1_000, b"v" * 1_000))
    full = engine.statistics()
    batch = Batch()
    batch.delete_range(b"", None)
    engine.write(batch, sync=True)
    emptied = engine.statistics()
    assert emptied.reusable_bytes >= full.live_bytes
    assert emptied.live_bytes == 0
    # What one commit freed is taken by the commit after the next, never by the next.
    put(engine, (b"a", b""))
    put(engine, *numbered(500, b"v" * 1_000))
    again = engine.statistics()
    assert again.disk_bytes <= emptied.disk_bytes + 16_384
    assert again.reusable_bytes < emptied.reusable_bytes - 500_000


def test_page_arithmetic() -> None:
    pages = PageFigures(
        page_bytes=4096, last_page=99, branch_pages=2, leaf_pages=50, overflow_pages=8, pairs=100
    )
    assert pages.tree_pages == 60
    assert pages.other_pages == 100 - 2 - 60
    assert pages.reusable_bytes == 38 * 4096
    assert pages.live_bytes == 50 * 4080 + 8 * 4096 - 1_000
    assert pages.least_file_bytes == 62 * 4096
    empty = PageFigures(
        page_bytes=4096, last_page=1, branch_pages=0, leaf_pages=0, overflow_pages=0, pairs=0
    )
    assert (empty.live_bytes, empty.reusable_bytes, empty.least_file_bytes) == (0, 0, 8192)
