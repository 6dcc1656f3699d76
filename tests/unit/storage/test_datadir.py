"""The data directory: identity, lock, stamp; every refusal has its sentence and changes nothing."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from storage import datadir, stamps
from storage.datadir import DataDirectory, RegimeName
from storage.errors import (
    DataDirectoryError,
    DirectoryInUseError,
    ForeignDirectoryError,
    InvalidOptionError,
    UnfinishedRestoreError,
    UnknownDirectoryFormatError,
)


def tree(directory: Path) -> str:
    """A hash of every name, kind, mode and content."""
    digest = hashlib.sha256()
    for path in sorted(directory.rglob("*")):
        digest.update(f"{path.relative_to(directory)} {path.lstat().st_mode}\n".encode())
        if path.is_file():
            digest.update(path.read_bytes())
    return digest.hexdigest()


def rewrite(path: Path, **changes: Any) -> None:
    """A stamp with other members and a hash that fits them."""
    members = json.loads(path.read_text())
    format_version = changes.pop("format", members["format"])
    for name in ("product", "format", "sha256"):
        del members[name]
    stamps.write_stamp(path, format_version, {**members, **changes})


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A data directory of node n1 in cluster c1, closed."""
    path = tmp_path / "data"
    DataDirectory.open(path, create=True, cluster_id="c1", node_id="n1").close()
    return path


# --- identity --------------------------------------------------------------------------------


def test_the_first_open_makes_an_identity_and_later_ones_keep_it(tmp_path: Path) -> None:
    path = tmp_path / "data"
    with DataDirectory.open(path, create=True) as first:
        assert len(first.identity.node_id) == 16
        int(first.identity.node_id, 16)
        assert first.identity.cluster_id is None
        assert 0 < first.identity.incarnation < 1 << 53
        assert first.identity.created_by.startswith("januskv ")
    assert path.stat().st_mode & 0o777 == 0o700, "nobody else reads another user's data"
    with DataDirectory.open(path, create=False) as second:
        assert second.identity == first.identity
        assert second.boot_id != first.boot_id
    with DataDirectory.open(tmp_path / "other", create=True) as other:
        assert other.identity.node_id != first.identity.node_id
        assert other.identity.incarnation != first.identity.incarnation


def test_the_dice_may_be_given(tmp_path: Path) -> None:
    def identity(name: str) -> tuple[Any, str]:
        with DataDirectory.open(tmp_path / name, create=True, rng=random.Random(5)) as directory:
            return directory.identity, directory.boot_id

    assert identity("a") == identity("b")


def test_a_cluster_is_adopted_once(tmp_path: Path) -> None:
    path = tmp_path / "data"
    with DataDirectory.open(path, create=True) as directory:
        directory.adopt_cluster("c1")
        directory.adopt_cluster("c1")
        with pytest.raises(ForeignDirectoryError, match="belongs to cluster c1, not to c2"):
            directory.adopt_cluster("c2")
    with DataDirectory.open(path, create=False) as directory:
        assert directory.identity.cluster_id == "c1"


def test_an_open_with_a_cluster_gives_it_to_a_directory_without_one(tmp_path: Path) -> None:
    DataDirectory.open(tmp_path / "data", create=True).close()
    for _ in range(2):
        with DataDirectory.open(tmp_path / "data", create=False, cluster_id="c1") as directory:
            assert directory.identity.cluster_id == "c1"


def test_data_put_back_by_other_means_is_a_new_incarnation_once(made: Path) -> None:
    with DataDirectory.open(made, create=False) as directory:
        before = directory.identity
        with pytest.raises(DirectoryInUseError):
            DataDirectory.mark_restored(made)
    DataDirectory.mark_restored(made)
    with DataDirectory.open(made, create=False) as directory:
        after = directory.identity
    assert after.incarnation != before.incarnation
    assert (after.node_id, after.cluster_id) == ("n1", "c1")
    with DataDirectory.open(made, create=False) as directory:
        assert directory.identity == after


def test_a_new_incarnation_survives_closing(made: Path) -> None:
    with DataDirectory.open(made, create=False) as directory:
        before = directory.identity.incarnation
        given = directory.new_incarnation()
        assert given != before
        assert directory.identity.incarnation == given
    with DataDirectory.open(made, create=False) as directory:
        assert directory.identity.incarnation == given


def test_environments_lie_below_by_regime(made: Path) -> None:
    with DataDirectory.open(made, create=False) as directory:
        assert directory.environment_path(RegimeName.STRONG) == made / "strong"
        assert directory.environment_path(RegimeName.LEADERLESS) == made / "leaderless"


# --- the lock --------------------------------------------------------------------------------

HOLDER = """
import sys
from pathlib import Path
from storage.datadir import DataDirectory
directory = DataDirectory.open(Path(sys.argv[1]), create=True)
sys.stdout.write("open\\n"); sys.stdout.flush()
sys.stdin.read()
"""


def test_a_second_process_is_told_who_has_the_directory(made: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(made)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"open\n"
        before = tree(made)
        sentence = f"{made} is in use by process {process.pid}; stop that process or name another"
        with pytest.raises(DirectoryInUseError, match=sentence):
            DataDirectory.open(made, create=True)
        assert tree(made) == before
        # kill -9 gives the lock back.
        process.kill()
    with DataDirectory.open(made, create=False) as directory:
        assert (made / "LOCK").read_text() == f"{os.getpid()}\n"
        with pytest.raises(DirectoryInUseError, match=f"process {os.getpid()}"):
            DataDirectory.open(made, create=False)
        directory.close()
        DataDirectory.open(made, create=False).close()


def test_a_holder_that_has_not_said_who_it_is(made: Path) -> None:
    os.truncate(made / "LOCK", 0)
    lock = datadir.take_lock(made)
    try:
        with pytest.raises(DirectoryInUseError, match="in use by another process"):
            DataDirectory.open(made, create=False)
    finally:
        os.close(lock)


def test_two_first_starts_make_one_directory(tmp_path: Path) -> None:
    """The slower one sees the stamp of the quicker one, not its own."""
    path = tmp_path / "data"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for _ in range(3)
    ]
    try:
        answers = [process.stdout.readline() for process in processes if process.stdout]
    finally:
        results = [process.communicate() for process in processes]
    assert answers.count(b"open\n") >= 1
    for answer, (_, errors) in zip(answers, results, strict=True):
        assert answer == b"open\n" or b"DirectoryInUseError" in errors
    DataDirectory.open(path, create=False).close()


# --- refusals: the sentence, and nothing changed ----------------------------------------------


def refused(
    parent: Path, kind: type[DataDirectoryError], sentence: str, path: Path, **asked: Any
) -> None:
    before = tree(parent)
    with pytest.raises(kind, match=sentence) as error:
        DataDirectory.open(path, **{"create": True, **asked})
    message = str(error.value)
    assert "\n" not in message
    assert str(path) in message
    assert ";" in message, "it says what happened; what to do"
    assert tree(parent) == before


def test_nothing_there_and_none_to_be_made(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("missing", "empty"):
        refused(
            tmp_path,
            DataDirectoryError,
            "there is none; start a node with this path once",
            tmp_path / name,
            create=False,
        )


def test_a_missing_parent(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "data"
    refused(tmp_path, DataDirectoryError, "missing does not exist; make it first", path)


def test_a_file_where_a_directory_should_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    refused(tmp_path, DataDirectoryError, "is a file; name a directory", tmp_path / "file")


def test_a_directory_of_somebody_else(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "letter.txt").write_text("x")
    refused(
        tmp_path,
        ForeignDirectoryError,
        r"it holds letter\.txt and no januskv\.json; name an empty directory",
        tmp_path / "data",
    )


def test_another_cluster_or_node(made: Path) -> None:
    refused(
        made,
        ForeignDirectoryError,
        "belongs to cluster c1, not to c2; name the directory of c2 or correct the configured",
        made,
        cluster_id="c2",
    )
    refused(made, ForeignDirectoryError, "belongs to node n1, not to n2", made, node_id="n2")
    DataDirectory.open(made, create=False, cluster_id="c1", node_id="n1").close()


def test_a_newer_format(made: Path) -> None:
    rewrite(made / "januskv.json", format=2, created_by="januskv 9.9", rules="other")
    refused(
        made,
        UnknownDirectoryFormatError,
        r"of format 2, written by januskv 9\.9, and this version reads up to format 1; upgrade",
        made,
    )


def test_a_stamp_of_another_product(made: Path) -> None:
    (made / "januskv.json").write_text('{"product": "other", "format": 1}\n')
    refused(made, ForeignDirectoryError, "it is of 'other', not of januskv; name an empty", made)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "it is no JSON"),
        ("[1]", "it is no JSON object"),
        ('{"product": "januskv"}', "its format is None, which is no version"),
        ('{"product": "januskv", "format": true}', "its format is True"),
        ('{"product": "januskv", "format": 1}', "its hash does not match its content"),
    ],
)
def test_a_damaged_stamp(made: Path, text: str, reason: str) -> None:
    (made / "januskv.json").write_text(text)
    refused(made, DataDirectoryError, f"is damaged: {reason}.*; restore a backup", made)


def test_each_flipped_byte_of_a_stamp_is_noticed_or_means_nothing(made: Path) -> None:
    stamp = made / "januskv.json"
    whole = stamp.read_bytes()
    identity = datadir.read_identity(made)
    for at in range(len(whole)):
        damaged = bytearray(whole)
        damaged[at] ^= 0x01
        stamp.write_bytes(damaged)
        try:
            assert datadir.read_identity(made) == identity
        except DataDirectoryError:
            continue
        assert whole[at : at + 1].isspace(), "only blanks may differ unnoticed"


@pytest.mark.parametrize(
    ("changes", "member"),
    [
        ({"node_id": ""}, "node_id"),
        ({"cluster_id": 5}, "cluster_id"),
        ({"incarnation": 0}, "incarnation"),
        ({"incarnation": True}, "incarnation"),
        ({"incarnation": 1 << 53}, "incarnation"),
        ({"restored": "yes"}, "restored"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_members_without_sense(made: Path, changes: dict[str, Any], member: str) -> None:
    rewrite(made / "januskv.json", **changes)
    refused(made, DataDirectoryError, f"its member {member} is .*; restore a backup", made)


def test_an_interrupted_restore(tmp_path: Path) -> None:
    (tmp_path / "data" / "restoring").mkdir(parents=True)
    refused(
        tmp_path,
        UnfinishedRestoreError,
        "a restore into it was interrupted; run the restore again, or remove the directory",
        tmp_path / "data",
    )


def test_ids_that_are_none(tmp_path: Path) -> None:
    for asked in ({"node_id": ""}, {"cluster_id": "a b"}, {"node_id": "n" * 65}, {"node_id": "é"}):
        with pytest.raises(InvalidOptionError, match=r"is not 1 to 64 letters.*; choose another"):
            DataDirectory.open(tmp_path / "data", create=True, **asked)
    assert not (tmp_path / "data").exists()


# --- disks that refuse -----------------------------------------------------------------------


def read_only(*_: Any, **__: Any) -> Any:
    raise OSError(errno.EROFS, os.strerror(errno.EROFS))


def test_a_read_only_disk_said_by_the_system_calls(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sentence = "the file system is read-only; remount it writable or name another directory"
    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", read_only)
        refused(tmp_path, DataDirectoryError, sentence, tmp_path / "new")
    system_open = os.open

    def open_readable(path: Any, flags: int, *rest: Any, **named: Any) -> int:
        return read_only() if flags & os.O_RDWR else system_open(path, flags, *rest, **named)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", open_readable)
        refused(tmp_path, DataDirectoryError, sentence, made)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", read_only)
        with DataDirectory.open(made, create=False) as directory:
            identity = directory.identity
            with pytest.raises(DataDirectoryError, match=sentence):
                directory.new_incarnation()
            assert directory.identity == identity
        with pytest.raises(DataDirectoryError, match=sentence):
            DataDirectory.mark_restored(made)
        # The lock is not left held.
        DataDirectory.open(made, create=False).close()


def test_a_read_only_disk_for_real(made: Path) -> None:
    bind = ["mount", "--bind", str(made), str(made)]
    if subprocess.run(bind, capture_output=True, check=False).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", str(made)], check=True)
        refused(made, DataDirectoryError, "read-only; remount it writable or name another", made)
    finally:
        subprocess.run(["umount", str(made)], check=True)


def test_a_full_disk_at_the_first_start_leaves_a_directory_that_can_be_started_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(DataDirectoryError, match="the disk is full; free some space"):
            DataDirectory.open(tmp_path / "data", create=True)
    with DataDirectory.open(tmp_path / "data", create=True) as directory:
        assert directory.identity.incarnation


def test_the_root_of_a_volume_is_as_good_as_empty(tmp_path: Path) -> None:
    (tmp_path / "data" / "lost+found").mkdir(parents=True)
    DataDirectory.open(tmp_path / "data", create=True).close()
    assert (tmp_path / "data" / "lost+found").is_dir()


def test_a_stamp_is_replaced_whole(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every step before the rename may be the last one of the process."""
    before = (made / "januskv.json").read_bytes()
    steps: list[str] = []
    system_fsync, system_replace = os.fsync, os.replace

    def fsync(descriptor: int) -> None:
        name = Path(os.readlink(f"/proc/self/fd/{descriptor}")).name
        assert (made / "januskv.json").read_bytes() == before or name == "data"
        steps.append(f"sync {name}")
        system_fsync(descriptor)

    def replace(source: Path, target: Path) -> None:
        steps.append(f"rename {Path(source).name} {Path(target).name}")
        system_replace(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    with DataDirectory.open(made, create=False) as directory:
        directory.new_incarnation()
    assert steps == [
        "sync januskv.json.tmp",
        "rename januskv.json.tmp januskv.json",
        "sync data",
    ]
