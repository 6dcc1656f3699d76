"""Directories that RocksDB's engine refuses, what is damaged there, and who says so."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from storage.clock import ManualClock
from storage.errors import (
    DamagedFilesError,
    DataDirectoryError,
    DirectoryInUseError,
    ForeignDirectoryError,
)
from storage.rocks_engine import RocksEngine
from storage.rocks_options import Compression, RocksOptions
from tests.polling import until
from tests.unit.storage.rocks_database import ENGINE, pairs, put, tree


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
        until(lambda: len(list(path.glob("*.log"))) == 1, "one log is left")
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
