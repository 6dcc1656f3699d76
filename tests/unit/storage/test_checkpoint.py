"""Checkpoints with a manifest, and restores: whole or not at all, also against kill -9."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from storage import checkpoint as checkpoints
from storage import stamps
from storage.checkpoint import read_manifest, require_whole, verify, write_checkpoint
from storage.clock import ManualClock
from storage.datadir import DataDirectory, RegimeName
from storage.engine import Batch, Engine, iterate
from storage.environment import EngineSettings, open_engine
from storage.errors import (
    DamagedCheckpointError,
    DataDirectoryError,
    InvalidOptionError,
    UnfinishedRestoreError,
    UnknownDirectoryFormatError,
)
from storage.restore import restore
from storage.rocks_options import MIB, RocksOptions

SETTINGS = EngineSettings(lmdb_map_size_bytes=1 << 26, rocks=RocksOptions(block_cache_bytes=MIB))
ENGINES = {RegimeName.STRONG: "lmdb", RegimeName.LEADERLESS: "rocksdb"}
CREATED_S = 1_700_000_000.5


@dataclass
class Node:
    directory: DataDirectory
    engines: dict[RegimeName, Engine]

    @classmethod
    def open(cls, path: Path, engines: dict[RegimeName, str], *, create: bool = False) -> Node:
        directory = DataDirectory.open(path, create=create)
        opened = {
            regime: open_engine(directory, regime, name, clock=ManualClock(), settings=SETTINGS)
            for regime, name in engines.items()
        }
        return cls(directory, opened)

    def pairs(self) -> dict[RegimeName, dict[bytes, bytes]]:
        found = {}
        for regime, engine in self.engines.items():
            with engine.snapshot() as snapshot:
                found[regime] = dict(iterate(snapshot))
        return found

    def close(self) -> None:
        for engine in self.engines.values():
            engine.close()
        self.directory.close()


@pytest.fixture(scope="module")
def master(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A node's directory `data` and its checkpoint `backup`; tests work on copies."""
    root = tmp_path_factory.mktemp("master")
    node = Node.open(root / "data", ENGINES, create=True)
    node.directory.adopt_cluster("c1")
    for regime, engine in node.engines.items():
        for first in range(0, 500, 100):
            batch = Batch()
            for number in range(first, first + 100):
                batch.put(b"%s-%06d" % (regime.encode(), number), os.urandom(100))
            engine.write(batch, sync=True)
    write_checkpoint(root / "backup", node.directory, node.engines, created_wall_s=CREATED_S)
    node.close()
    return root


@pytest.fixture
def node(tmp_path: Path, master: Path) -> Iterator[Node]:
    shutil.copytree(master / "data", tmp_path / "data")
    node = Node.open(tmp_path / "data", ENGINES)
    yield node
    node.close()


@pytest.fixture
def backup(tmp_path: Path, master: Path) -> Path:
    shutil.copytree(master / "backup", tmp_path / "backup")
    return tmp_path / "backup"


def tree(path: Path) -> dict[str, bytes | None]:
    return {
        str(one.relative_to(path)): one.read_bytes() if one.is_file() else None
        for one in path.rglob("*")
    }


def rewrite(backup: Path, **changes: Any) -> None:
    """A manifest that says something else and has the hash for it."""
    path = backup / "manifest.json"
    members = json.loads(path.read_text())
    format_version = changes.pop("format", 1)
    for name in ("product", "format", "sha256"):
        del members[name]
    stamps.write_stamp(path, format_version, {**members, **changes})


def a_file(backup: Path) -> Path:
    return next(backup.glob("leaderless/*.sst"))


# --- there and back --------------------------------------------------------------------------


def test_a_restored_node_has_the_data_and_identity_in_a_new_incarnation(
    tmp_path: Path, node: Node, backup: Path
) -> None:
    steps: list[tuple[str, int, int]] = []
    assert verify(backup) == []
    manifest = restore(backup, tmp_path / "again", progress=lambda *step: steps.append(step))
    assert manifest.created_at == "2023-11-14T22:13:20.500000+00:00"
    assert (manifest.cluster_id, manifest.node_id) == ("c1", node.directory.identity.node_id)
    assert manifest.engines == ENGINES
    assert {step for step, _, _ in steps} == {"verify", "restore"}
    assert steps[-1] == ("restore", manifest.size_bytes, manifest.size_bytes)
    again = Node.open(tmp_path / "again", ENGINES)
    was, now = node.directory.identity, again.directory.identity
    assert (now.cluster_id, now.node_id) == (was.cluster_id, was.node_id)
    assert now.incarnation != was.incarnation
    assert not now.restored
    assert again.pairs() == node.pairs()
    for engine in again.engines.values():
        batch = Batch()
        batch.put(b"new", b"value")
        engine.write(batch, sync=True)
    again.close()
    # What was restored is a copy: nothing that happens to it reaches the checkpoint.
    assert verify(backup) == []
    once_more = DataDirectory.open(tmp_path / "again", create=False)
    assert once_more.identity == now
    once_more.close()


def test_a_checkpoint_stays_as_it_was_while_the_node_goes_on(tmp_path: Path, node: Node) -> None:
    before = node.pairs()
    target = tmp_path / "of a live node"
    write_checkpoint(target, node.directory, node.engines, created_wall_s=CREATED_S)
    for engine in node.engines.values():
        batch = Batch()
        batch.delete_range(b"", None)
        engine.write(batch, sync=True)
    assert verify(target) == []
    restore(target, tmp_path / "again")
    again = Node.open(tmp_path / "again", ENGINES)
    assert again.pairs() == before
    again.close()


def test_a_memory_engine_is_backed_up_and_restored_too(tmp_path: Path) -> None:
    only = {RegimeName.STRONG: "memory"}
    node = Node.open(tmp_path / "data", only, create=True)
    batch = Batch()
    batch.put(b"key", b"value")
    node.engines[RegimeName.STRONG].write(batch, sync=True)
    write_checkpoint(tmp_path / "backup", node.directory, node.engines, created_wall_s=0)
    node.close()
    restore(tmp_path / "backup", tmp_path / "again", node_id="n2")
    again = Node.open(tmp_path / "again", only)
    assert again.pairs() == {RegimeName.STRONG: {b"key": b"value"}}
    assert again.directory.identity.node_id == "n2"
    again.close()


def test_a_restore_may_go_to_an_empty_directory_even_the_root_of_a_volume(
    tmp_path: Path, backup: Path
) -> None:
    (tmp_path / "volume" / "lost+found").mkdir(parents=True)
    restore(backup, tmp_path / "volume")
    assert (tmp_path / "volume" / "lost+found").is_dir()
    assert not (tmp_path / "volume" / "restoring").exists()
    Node.open(tmp_path / "volume", ENGINES).close()


def test_progress_of_writing_counts_every_byte_once(tmp_path: Path, node: Node) -> None:
    steps: list[tuple[str, int, int]] = []
    manifest = write_checkpoint(
        tmp_path / "backup",
        node.directory,
        node.engines,
        created_wall_s=CREATED_S,
        progress=lambda *step: steps.append(step),
    )
    done = [done for step, done, _ in steps if step == "hash"]
    assert done == sorted(done)
    assert steps[-1] == ("hash", manifest.size_bytes, manifest.size_bytes)
    assert [step for step, _, _ in steps[:2]] == ["copy", "copy"]
    assert not (tmp_path / "backup" / "unfinished").exists()
    assert read_manifest(tmp_path / "backup") == manifest


# --- damage ----------------------------------------------------------------------------------


def test_each_damaged_missing_and_extra_file_is_named(tmp_path: Path, backup: Path) -> None:
    table = a_file(backup)
    table.unlink()
    flipped = backup / "strong" / "data.mdb"
    data = bytearray(flipped.read_bytes())
    data[len(data) // 2] ^= 1
    flipped.write_bytes(data)
    with (backup / "leaderless" / "CURRENT").open("ab") as file:
        file.write(b"x")
    (backup / "leaderless" / "LOCK").touch()
    (backup / "notes").mkdir()
    (backup / "notes" / "a.txt").touch()
    assert verify(backup) == [
        f"missing: leaderless/{table.name}",
        "damaged (17 bytes instead of 16): leaderless/CURRENT",
        "damaged (its sha256 differs): strong/data.mdb",
        "extra: leaderless/LOCK",
        "extra: notes/a.txt",
    ]
    with pytest.raises(DamagedCheckpointError, match=r"sst and 4 more\); use another") as error:
        restore(backup, tmp_path / "again")
    assert len(error.value.problems) == 5
    assert not (tmp_path / "again").exists()


def test_a_link_in_place_of_a_file_is_damage(tmp_path: Path, backup: Path) -> None:
    table = a_file(backup)
    table.rename(tmp_path / "elsewhere")
    table.symlink_to(tmp_path / "elsewhere")
    assert verify(backup) == [f"damaged (no plain file): leaderless/{table.name}"]


def test_a_file_that_cannot_be_read_is_named(backup: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path) -> Iterator[bytes]:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(checkpoints, "read_chunks", fail)
    problems = verify(backup)
    assert "unreadable (Input/output error): strong/data.mdb" in problems
    with pytest.raises(DamagedCheckpointError):
        require_whole(backup)


def test_a_damaged_or_foreign_manifest_is_refused(tmp_path: Path, backup: Path) -> None:
    manifest = backup / "manifest.json"
    whole = manifest.read_bytes()
    manifest.write_bytes(whole.replace(b'"c1"', b'"c2"'))
    with pytest.raises(DamagedCheckpointError, match=r"its hash does not match.*; use another"):
        verify(backup)
    manifest.write_bytes(whole)
    rewrite(backup, format=3)
    with pytest.raises(UnknownDirectoryFormatError, match="format 3, written by januskv"):
        restore(backup, tmp_path / "again")
    manifest.unlink()
    with pytest.raises(DamagedCheckpointError, match=r"no manifest\.json; name the directory that"):
        verify(backup)
    (backup / "unfinished").touch()
    with pytest.raises(DamagedCheckpointError, match="was interrupted while it was written"):
        restore(backup, tmp_path / "again")
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize(
    "path",
    [
        "../escape",
        "/etc/passwd",
        "strong/../../escape",
        "strong//x",
        "strong",
        "other/x",
        "strong/\0",
        "strong/.",
    ],
)
def test_a_manifest_never_leads_outside(tmp_path: Path, backup: Path, path: str) -> None:
    rewrite(backup, files=[{"path": path, "size_bytes": 1, "sha256": "00"}])
    with pytest.raises(DamagedCheckpointError, match=r"ValueError.*use another"):
        restore(backup, tmp_path / "again")
    assert [one.name for one in tmp_path.iterdir()] == ["backup"]


@pytest.mark.parametrize(
    "changes",
    [
        {"engines": {"strong": "tape"}},
        {"engines": {"weak": "lmdb"}},
        {"engines": 5},
        {"files": [{"path": "strong/x"}]},
        {"node_id": ""},
        {"cluster_id": ""},
        {"incarnation": 0},
        {"incarnation": "1"},
        {"colour": "red"},
    ],
)
def test_a_manifest_without_sense_is_refused(backup: Path, changes: dict[str, Any]) -> None:
    rewrite(backup, **changes)
    with pytest.raises(DamagedCheckpointError, match=r"manifest\.json is damaged: .*; use another"):
        read_manifest(backup)


# --- targets that cannot be used -------------------------------------------------------------


def test_a_restore_never_takes_a_directory_that_holds_something(
    tmp_path: Path, master: Path, backup: Path
) -> None:
    shutil.copytree(master / "data", tmp_path / "data")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("x")
    (tmp_path / "file").write_text("x")
    before = tree(tmp_path)
    for name, sentence in (
        ("full", r"it holds letter\.txt; name a new or empty directory"),
        ("data", r"it holds januskv\.json; name a new or empty directory"),
        ("file", "is a file; name a directory"),
        ("missing/again", "missing does not exist; make it first"),
        ("backup/again", "it lies inside the checkpoint; name another directory"),
    ):
        with pytest.raises(DataDirectoryError, match=sentence) as error:
            restore(backup, tmp_path / name)
        assert str(tmp_path / name) in str(error.value)
    with pytest.raises(InvalidOptionError):
        restore(backup, tmp_path / "again", node_id="a b")
    assert tree(tmp_path) == before


def test_a_disk_that_is_too_small_is_told_before_anything_is_copied(
    tmp_path: Path, backup: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storage.restore.files.free_bytes", lambda _: 1_000)
    with pytest.raises(DataDirectoryError, match="bytes and 1000 are free there; free some space"):
        restore(backup, tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_a_disk_that_fills_up_leaves_an_empty_target(
    tmp_path: Path, backup: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill_up(step: str, done: int, _all: int) -> None:
        if step == "restore" and done > 20_000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(DataDirectoryError, match="the disk is full; free some space"):
        restore(backup, tmp_path / "again", progress=fill_up)
    assert [one.name for one in (tmp_path / "again").iterdir()] == ["LOCK"]
    restore(backup, tmp_path / "again")
    Node.open(tmp_path / "again", ENGINES).close()


def test_a_file_that_changes_after_it_was_verified_is_not_restored(
    tmp_path: Path, backup: Path
) -> None:
    def change(step: str, done: int, all_bytes: int) -> None:
        if step == "verify" and done == all_bytes:
            shutil.copyfile(backup / "leaderless" / "CURRENT", a_file(backup))

    with pytest.raises(DamagedCheckpointError, match="changed while it was restored"):
        restore(backup, tmp_path / "again", progress=change)
    assert [one.name for one in (tmp_path / "again").iterdir()] == ["LOCK"]


def test_a_checkpoint_goes_to_a_new_or_empty_directory(tmp_path: Path, node: Node) -> None:
    target = tmp_path / "backup"
    target.mkdir()
    (target / "letter.txt").write_text("x")
    before = tree(target)
    with pytest.raises(DataDirectoryError, match="it is not empty; name a new directory"):
        write_checkpoint(target, node.directory, node.engines, created_wall_s=0)
    assert tree(target) == before
    (target / "letter.txt").unlink()
    write_checkpoint(target, node.directory, node.engines, created_wall_s=0)
    assert verify(target) == []


def test_a_checkpoint_that_fails_leaves_nothing(tmp_path: Path, node: Node) -> None:
    def fill_up(step: str, _done: int, _all: int) -> None:
        if step == "hash":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(DataDirectoryError, match=r"a checkpoint to .*: the disk is full"):
        write_checkpoint(
            tmp_path / "backup",
            node.directory,
            node.engines,
            created_wall_s=0,
            progress=fill_up,
        )
    assert not (tmp_path / "backup").exists()


# --- kill -9 ---------------------------------------------------------------------------------

# Runs a command of this package and stops for ever at the nth call of a function of `os`.
STOPPING = """
import os, sys, signal
from pathlib import Path
name, countdown, action = sys.argv[1], int(sys.argv[2]), sys.argv[3]
paths = [Path(word) for word in sys.argv[4:]]
real = getattr(os, name)
def stopping(*arguments, **named):
    global countdown
    countdown -= 1
    if countdown == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*arguments, **named)
from storage import restore, checkpoint
from storage.system_clock import SystemClock
from storage.datadir import DataDirectory, RegimeName
from storage.environment import open_engine
if action == "restore":
    setattr(os, name, stopping)
    restore.restore(*paths)
else:
    directory = DataDirectory.open(paths[0], create=False)
    engine = open_engine(directory, RegimeName.STRONG, "lmdb", clock=SystemClock())
    setattr(os, name, stopping)
    checkpoint.write_checkpoint(paths[1], directory, {RegimeName.STRONG: engine}, created_wall_s=0)
"""


def killed_at(name: str, countdown: int, action: str, *paths: Path) -> bool:
    """False: it was through before the nth call."""
    code = subprocess.run(
        [sys.executable, "-c", STOPPING, name, str(countdown), action, *map(str, paths)],
        capture_output=True,
        check=False,
    )
    assert code.returncode in (0, -9), code.stderr.decode()
    return code.returncode == -9


@pytest.mark.parametrize(
    ("name", "countdowns"),
    [
        ("fsync", (1, 2, 4, 7, 12)),
        ("rename", (1, 2)),
        ("replace", (1, 2, 3)),
        ("rmdir", (1,)),
    ],
)
def test_a_killed_restore_is_recognised_and_the_next_one_completes(
    tmp_path: Path, node: Node, backup: Path, name: str, countdowns: tuple[int, ...]
) -> None:
    """Wherever it is killed: either no data directory, which is said, or a whole one."""
    wanted = node.pairs()
    refusals = 0
    for countdown in countdowns:
        target = tmp_path / f"again-{countdown}"
        assert killed_at(name, countdown, "restore", backup, target)
        if not (target / "januskv.json").exists():
            if (target / "restoring").exists():
                refusals += 1
                before = tree(target)
                with pytest.raises(
                    UnfinishedRestoreError, match="run the restore again, or remove"
                ):
                    DataDirectory.open(target, create=True)
                assert tree(target) == before
            restore(backup, target)
        again = Node.open(target, ENGINES)
        assert again.pairs() == wanted
        assert again.directory.identity.incarnation != node.directory.identity.incarnation
        again.close()
        assert not (target / "restoring").exists()
    assert refusals or name == "rmdir"


def test_a_killed_clean_up_is_still_recognised(tmp_path: Path, node: Node, backup: Path) -> None:
    target = tmp_path / "again"
    assert killed_at("replace", 3, "restore", backup, target)
    assert {one.name for one in target.iterdir()} >= {"restoring", "strong", "leaderless"}
    assert killed_at("unlink", 3, "restore", backup, target)
    with pytest.raises(UnfinishedRestoreError):
        DataDirectory.open(target, create=True)
    restore(backup, target)
    again = Node.open(target, ENGINES)
    assert again.pairs() == node.pairs()
    again.close()


def test_two_restores_into_one_directory_do_not_mix(tmp_path: Path, backup: Path) -> None:
    refused: list[DataDirectoryError] = []

    def second(step: str, done: int, all_bytes: int) -> None:
        if step == "restore" and done == all_bytes:
            with pytest.raises(DataDirectoryError, match="is in use by") as error:
                restore(backup, tmp_path / "again")
            refused.append(error.value)

    restore(backup, tmp_path / "again", progress=second)
    assert len(refused) == 1
    Node.open(tmp_path / "again", ENGINES).close()


@pytest.mark.parametrize("countdown", [1, 3, 4, 5])
def test_a_killed_checkpoint_is_none_and_is_said_to_be_interrupted(
    tmp_path: Path, node: Node, countdown: int
) -> None:
    node.close()
    target = tmp_path / "backup"
    assert killed_at("fsync", countdown, "write", tmp_path / "data", target)
    with pytest.raises(DamagedCheckpointError, match=r"was interrupted while|is no"):
        verify(target)
    if (target / "unfinished").exists():
        with (
            DataDirectory.open(tmp_path / "data", create=False) as directory,
            pytest.raises(DataDirectoryError, match="an earlier one was interrupted there; rem"),
        ):
            write_checkpoint(target, directory, {}, created_wall_s=0)
