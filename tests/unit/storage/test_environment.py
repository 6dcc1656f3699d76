"""Environments of a data directory: which engine opens what."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage import stamps
from storage.clock import ManualClock
from storage.codec import Table
from storage.datadir import DataDirectory, RegimeName
from storage.engine import Batch, Engine, WritePressure
from storage.environment import (
    ENGINE_NAMES,
    EngineSettings,
    engine_name_of,
    open_engine,
    pressure_of,
    write_environment_stamp,
)
from storage.errors import (
    DataDirectoryError,
    ForeignDirectoryError,
    InvalidOptionError,
    UnknownDirectoryFormatError,
)
from storage.lmdb_engine import LmdbEngine
from storage.logged_engine import LoggedEngine
from storage.rocks_engine import RocksEngine, block_cache
from storage.rocks_options import MIB, RocksOptions

STRONG, LEADERLESS = RegimeName.STRONG, RegimeName.LEADERLESS
SETTINGS = EngineSettings(lmdb_map_size_bytes=1 << 26, rocks=RocksOptions(block_cache_bytes=MIB))


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[DataDirectory]:
    with DataDirectory.open(tmp_path / "data", create=True) as directory:
        yield directory


def opened(directory: DataDirectory, regime: RegimeName, name: str) -> Engine:
    return open_engine(directory, regime, name, clock=ManualClock(), settings=SETTINGS)


def put(engine: Engine, key: bytes, value: bytes) -> None:
    batch = Batch()
    batch.put(key, value)
    engine.write(batch, sync=True)


def get(engine: Engine, key: bytes) -> bytes | None:
    with engine.snapshot() as snapshot:
        return snapshot.get(key)


def names(path: Path) -> dict[str, bytes]:
    return {
        str(one.relative_to(path)): one.read_bytes() for one in path.rglob("*") if one.is_file()
    }


def test_each_regime_has_an_environment_of_its_own(directory: DataDirectory) -> None:
    for name in ("lmdb", "rocksdb"):
        engines = {regime: opened(directory, regime, name) for regime in RegimeName}
        for regime, engine in engines.items():
            put(engine, b"key", regime.value.encode())
        for regime, engine in engines.items():
            assert get(engine, b"key") == regime.value.encode()
            assert engine_name_of(directory, regime) == name
            engine.close()
            assert isinstance(engine, LoggedEngine if name == "lmdb" else RocksEngine)
        again = opened(directory, STRONG, name)
        assert get(again, b"key") == b"strong"
        again.close()
        for regime in RegimeName:
            shutil.rmtree(directory.environment_path(regime))


@pytest.mark.parametrize("written", ["lmdb", "rocksdb", "memory"])
def test_an_environment_is_only_opened_as_what_it_was_written_as(
    directory: DataDirectory, written: str
) -> None:
    opened(directory, STRONG, written).close()
    before = names(directory.path)
    for other in set(ENGINE_NAMES) - {written}:
        sentence = f"was written by {written} and cannot be opened as {other}; configure {written}"
        with pytest.raises(ForeignDirectoryError, match=sentence):
            opened(directory, STRONG, other)
    assert names(directory.path) == before


def test_files_of_another_engine_without_a_stamp_are_refused(directory: DataDirectory) -> None:
    """A first start that was killed leaves files without a stamp; here they are of another."""
    for written, other in (("lmdb", "rocksdb"), ("rocksdb", "lmdb")):
        engine = opened(directory, STRONG, written)
        put(engine, b"key", b"value")
        engine.close()
        (directory.path / "strong" / "environment.json").unlink()
        before = names(directory.path)
        with pytest.raises(DataDirectoryError, match=r"it holds .* which is not .*; name a"):
            opened(directory, STRONG, other)
        assert names(directory.path) == before
        again = opened(directory, STRONG, written)
        assert get(again, b"key") == b"value"
        again.close()
        shutil.rmtree(directory.environment_path(STRONG))


@pytest.mark.parametrize("engine_name", ["lmdb", "rocksdb"])
def test_data_that_is_gone_is_not_replaced_by_an_empty_engine(
    directory: DataDirectory, engine_name: str
) -> None:
    opened(directory, LEADERLESS, engine_name).close()
    home = directory.path / "leaderless" / "engine"
    shutil.rmtree(home)
    for _ in range(2):
        with pytest.raises(DataDirectoryError, match="is gone, and this node promised to keep it"):
            opened(directory, LEADERLESS, engine_name)
        assert not home.exists() or not list(home.iterdir())
        home.mkdir(exist_ok=True)


def test_an_environment_of_before_the_log_gets_one_and_says_so(directory: DataDirectory) -> None:
    """Whoever knows only format 1 must not open it any more: it would pass the log over."""
    strong = directory.environment_path(STRONG)
    tree = LmdbEngine(strong / "engine", clock=ManualClock(), map_size_bytes=1 << 26)
    put(tree, b"old", b"value")
    tree.close()
    write_environment_stamp(strong, STRONG, "lmdb")
    stamp = strong / "environment.json"
    assert json.loads(stamp.read_text())["format"] == 1
    engine = opened(directory, STRONG, "lmdb")
    written = json.loads(stamp.read_text())
    assert (written["format"], written["log"]) == (2, True)
    with pytest.raises(stamps.NewerStampError, match="format 2"):
        stamps.read_stamp(stamp, 1)
    put(engine, b"new", b"value")
    assert get(engine, b"old") == get(engine, b"new") == b"value"
    engine.close()
    for name in ("rocksdb", "memory"):
        shutil.rmtree(strong)
        opened(directory, STRONG, name).close()
        assert json.loads(stamp.read_text())["format"] == 1


@pytest.mark.parametrize("engine_name", ["lmdb", "rocksdb"])
def test_leaves_of_an_earlier_version_go_and_the_stamp_says_so(
    directory: DataDirectory, engine_name: str
) -> None:
    """Whoever knows only format 2 must not open it any more: it would go by sums that nobody
    keeps."""
    leaf, row = bytes((Table.MERKLE_LEAF,)) + b"leaf", bytes((Table.COUNTER,)) + b"row"
    engine = opened(directory, LEADERLESS, engine_name)
    put(engine, leaf, b"sum")
    put(engine, row, b"value")
    engine.close()
    environment = directory.environment_path(LEADERLESS)
    stamp = environment / "environment.json"
    logged = engine_name == "lmdb"
    write_environment_stamp(environment, LEADERLESS, engine_name, logged=logged)
    assert json.loads(stamp.read_text())["format"] == 1 + logged
    engine = opened(directory, LEADERLESS, engine_name)
    assert (get(engine, leaf), get(engine, row)) == (None, b"value")
    engine.close()
    written = json.loads(stamp.read_text())
    assert (written["format"], written["digests"]) == (3, True)
    assert written.get("log", False) == logged
    with pytest.raises(stamps.NewerStampError, match="format 3"):
        stamps.read_stamp(stamp, 2)


def test_a_log_that_is_gone_is_not_replaced_by_an_empty_one(directory: DataDirectory) -> None:
    engine = opened(directory, STRONG, "lmdb")
    put(engine, b"key", b"value")
    engine.close()
    log = directory.environment_path(STRONG) / "engine" / "log"
    shutil.rmtree(log)
    for _ in range(2):
        with pytest.raises(DataDirectoryError, match=r"log .* is gone, and the newest writes with"):
            opened(directory, STRONG, "lmdb")
        assert not log.exists() or not list(log.iterdir())
        log.mkdir(exist_ok=True)


def test_a_memory_engine_forgets_so_each_later_open_is_a_new_incarnation(
    directory: DataDirectory,
) -> None:
    seen = [directory.identity.incarnation]
    for _ in range(3):
        engine = opened(directory, STRONG, "memory")
        assert get(engine, b"key") is None
        put(engine, b"key", b"value")
        engine.close()
        seen.append(directory.identity.incarnation)
    assert seen[0] == seen[1]
    assert len(set(seen)) == 3


def test_stamps_of_environments_are_judged(directory: DataDirectory) -> None:
    opened(directory, STRONG, "memory").close()
    strong, leaderless = (directory.environment_path(regime) for regime in (STRONG, LEADERLESS))
    shutil.copytree(strong, leaderless)
    with pytest.raises(ForeignDirectoryError, match="holds the data of regime strong, not of lead"):
        opened(directory, LEADERLESS, "memory")
    write_environment_stamp(strong, STRONG, "tape")
    with pytest.raises(DataDirectoryError, match="it names the engine 'tape'; restore a backup"):
        opened(directory, STRONG, "memory")
    stamp = strong / "environment.json"
    members = json.loads(stamp.read_text())
    stamps.write_stamp(stamp, 4, {"created_by": "januskv 9.9"})
    with pytest.raises(UnknownDirectoryFormatError, match=r"format 4, written by januskv 9\.9"):
        opened(directory, STRONG, "memory")
    stamp.write_text(json.dumps({**members, "engine": "lmdb"}))
    with pytest.raises(DataDirectoryError, match="its hash does not match"):
        opened(directory, STRONG, "memory")


def test_unknown_engines_are_refused(directory: DataDirectory) -> None:
    with pytest.raises(InvalidOptionError, match="no engine 'rocks'; choose one of memory, lmdb"):
        opened(directory, STRONG, "rocks")
    assert not directory.environment_path(STRONG).exists()


def test_settings_and_a_shared_cache_reach_the_engines(directory: DataDirectory) -> None:
    shared = block_cache(9 * MIB)
    engine = open_engine(
        directory, LEADERLESS, "rocksdb", clock=ManualClock(), rocks_cache=shared, settings=SETTINGS
    )
    assert engine.statistics().details["rocksdb.block-cache-capacity"] == 9 * MIB
    assert pressure_of(engine) is WritePressure.NONE
    engine.close()
    engine = opened(directory, STRONG, "lmdb")
    assert engine.statistics().details["map_size_bytes"] == 1 << 26
    assert pressure_of(engine) is WritePressure.NONE
    engine.close()


def test_a_stamp_that_cannot_be_written_closes_the_engine(
    directory: DataDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(stamps, "write_stamp", fail)
        with pytest.raises(DataDirectoryError, match=r"cannot stamp .*: the disk is full"):
            opened(directory, LEADERLESS, "rocksdb")
    opened(directory, LEADERLESS, "rocksdb").close()
