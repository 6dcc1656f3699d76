"""Backups: a copy of a node's environments with a manifest that proves it whole.

    BACKUP/manifest.json      what there is: engines, identity, time, each file's size and sha256
    BACKUP/strong/...         the files of Engine.checkpoint, likewise leaderless/
    BACKUP/unfinished         from the first moment until the manifest stands

The manifest is written last, synced and renamed, so without one there is no checkpoint, whatever
else lies there; `unfinished` only tells an interrupted one from a directory that never was one.
`verify` compares every file with it. Putting one back: storage/restore.py.

A checkpoint of RocksDB shares immutable files with the live database by hard links where both are
on one file system: damage of the disk under one is damage of the other, so move backups elsewhere.

Times are given by the caller. These calls last: never on an event loop.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from storage import files, stamps
from storage.datadir import INCARNATION_BITS, DataDirectory, RegimeName, is_id
from storage.engine import Engine
from storage.environment import ENGINE_NAMES, engine_name_of
from storage.errors import (
    DamagedCheckpointError,
    DataDirectoryError,
    UnknownDirectoryFormatError,
)

CHECKPOINT_FORMAT: Final = 2
"""2: the leaderless rows are those of environment format 3, which whoever knows only 1 would open
as if sums stood beside them. Without such rows it is 1."""
CHECKPOINT_FORMAT_STRONG: Final = 1
MANIFEST_NAME: Final = "manifest.json"
UNFINISHED_NAME: Final = "unfinished"
_WRITE: Final = "write a checkpoint to"
_CHUNK_BYTES: Final = 1024 * 1024

Progress = Callable[[str, int, int], None]
"""Called with the step (copy, hash, verify, restore), bytes done and bytes in all; 0 in all stands
for not known."""


@dataclass(frozen=True, slots=True)
class FileEntry:
    path: str
    """Relative to the checkpoint, with slashes; its first part is the regime."""
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    cluster_id: str | None
    node_id: str
    incarnation: int
    created_at: str
    """UTC, ISO 8601."""
    created_by: str
    engines: Mapping[RegimeName, str]
    files: tuple[FileEntry, ...]

    @property
    def size_bytes(self) -> int:
        return sum(entry.size_bytes for entry in self.files)


def silent(_step: str, _done_bytes: int, _all_bytes: int) -> None:
    pass


# --- writing ---------------------------------------------------------------------------------


def write_checkpoint(
    target: Path,
    directory: DataDirectory,
    engines: Mapping[RegimeName, Engine],
    *,
    created_wall_s: float,
    progress: Progress = silent,
) -> Manifest:
    """Each environment is consistent in itself; they are copied one after the other. Writes may go
    on meanwhile from another thread."""
    names = {regime: engine_name_of(directory, regime) for regime in engines}
    _begin(target)
    try:
        for regime, engine in engines.items():
            progress("copy", 0, 0)
            engine.checkpoint(target / regime.value)
        identity = directory.identity
        manifest = Manifest(
            cluster_id=identity.cluster_id,
            node_id=identity.node_id,
            incarnation=identity.incarnation,
            created_at=datetime.fromtimestamp(created_wall_s, UTC).isoformat(),
            created_by=stamps.created_by(),
            engines=names,
            files=tuple(_hash_files(target, progress)),
        )
        ring = RegimeName.LEADERLESS in names
        version = CHECKPOINT_FORMAT if ring else CHECKPOINT_FORMAT_STRONG
        stamps.write_stamp(target / MANIFEST_NAME, version, asdict(manifest))
        (target / UNFINISHED_NAME).unlink()
        files.sync_directory(target)
    except BaseException as error:
        shutil.rmtree(target, ignore_errors=True)
        if isinstance(error, OSError):
            raise files.directory_error(_WRITE, target, error.errno, str(error)) from error
        raise
    return manifest


def check_target(target: Path) -> None:
    """Refuse a directory that holds anything; changes nothing. For callers that would otherwise
    open the data only to be refused."""
    if (target / UNFINISHED_NAME).exists() and not (target / MANIFEST_NAME).exists():
        raise DataDirectoryError(
            f"cannot {_WRITE} {target}: an earlier one was interrupted there; remove that "
            "directory or name another"
        )
    if target.exists():
        files.make_checkpoint_directory(target)


def _begin(target: Path) -> None:
    check_target(target)
    files.make_checkpoint_directory(target)
    try:
        (target / UNFINISHED_NAME).touch()
        files.sync_directory(target)
    except OSError as error:
        raise files.directory_error(_WRITE, target, error.errno, str(error)) from error


def _hash_files(target: Path, progress: Progress) -> Iterator[FileEntry]:
    found = sorted(path for path in target.rglob("*") if path.is_file())
    found = [path for path in found if path.parent != target]
    all_bytes = sum(path.stat().st_size for path in found)
    done = 0
    for path in found:
        digest = hashlib.sha256()
        size = 0
        for chunk in read_chunks(path):
            digest.update(chunk)
            size += len(chunk)
            progress("hash", done + size, all_bytes)
        done += size
        yield FileEntry(path.relative_to(target).as_posix(), size, digest.hexdigest())


def read_chunks(path: Path) -> Iterator[bytes]:
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk


# --- checking --------------------------------------------------------------------------------


def read_manifest(checkpoint: Path) -> Manifest:
    path = checkpoint / MANIFEST_NAME
    try:
        if not path.exists():
            raise _no_checkpoint(checkpoint)
        members = stamps.read_stamp(path, CHECKPOINT_FORMAT)
    except stamps.NewerStampError as error:
        raise UnknownDirectoryFormatError(
            f"{path} cannot be read: {error}; upgrade JanusKV"
        ) from error
    except stamps.StampError as error:
        raise _damaged_manifest(path, str(error)) from error
    except OSError as error:
        raise files.directory_error("read", path, error.errno, str(error)) from error
    try:
        return _manifest(members)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _damaged_manifest(path, f"{type(error).__name__}: {error}") from error


def _manifest(members: dict[str, Any]) -> Manifest:
    """Everything that restore later relies on is checked here: names of files above all."""
    engines = {RegimeName(regime): str(name) for regime, name in members.pop("engines").items()}
    entries = tuple(FileEntry(**entry) for entry in members.pop("files"))
    manifest = Manifest(engines=engines, files=entries, **members)
    if not set(engines.values()) <= set(ENGINE_NAMES):
        raise ValueError(f"its engines are {sorted(engines.values())}")
    if not is_id(manifest.node_id) or not 0 < manifest.incarnation < 1 << INCARNATION_BITS:
        raise ValueError("its node has no id or incarnation")
    if manifest.cluster_id is not None and not is_id(manifest.cluster_id):
        raise ValueError("its cluster has no id")
    for entry in entries:
        parts = entry.path.split("/")
        inside = len(parts) > 1 and not {"", ".", ".."} & set(parts) and "\0" not in entry.path
        if not inside or RegimeName(parts[0]) not in engines or entry.size_bytes < 0:
            raise ValueError(f"it names the file {entry.path!r}")
    return manifest


def _no_checkpoint(checkpoint: Path) -> DamagedCheckpointError:
    if (checkpoint / UNFINISHED_NAME).exists():
        return DamagedCheckpointError(
            f"the checkpoint {checkpoint} was interrupted while it was written and is not whole; "
            "remove it and use another"
        )
    return DamagedCheckpointError(
        f"{checkpoint} is no checkpoint: there is no {MANIFEST_NAME}; name the directory that the "
        "backup was written to"
    )


def _damaged_manifest(path: Path, reason: str) -> DamagedCheckpointError:
    return DamagedCheckpointError(
        f"{path} is damaged: {reason}; use another checkpoint", (f"damaged: {path.name}",)
    )


def verify(checkpoint: Path, progress: Progress = silent) -> list[str]:
    """One line for each damaged, missing or extra file; none for a whole checkpoint. Raises where
    there is no manifest to compare with."""
    manifest = read_manifest(checkpoint)
    problems: list[str] = []
    done = 0
    for entry in manifest.files:
        problem = _problem_of(checkpoint / entry.path, entry)
        if problem:
            problems.append(f"{problem}: {entry.path}")
        done += entry.size_bytes
        progress("verify", done, manifest.size_bytes)
    return problems + _extra_files(checkpoint, manifest)


def require_whole(checkpoint: Path, progress: Progress = silent) -> Manifest:
    problems = verify(checkpoint, progress)
    if problems:
        more = f" and {len(problems) - 1} more" if len(problems) > 1 else ""
        raise DamagedCheckpointError(
            f"the checkpoint {checkpoint} is not whole ({problems[0]}{more}); use another",
            tuple(problems),
        )
    return read_manifest(checkpoint)


def _problem_of(path: Path, entry: FileEntry) -> str | None:
    try:
        if path.is_symlink() or not path.is_file():
            return "damaged (no plain file)" if os.path.lexists(path) else "missing"
        size = path.stat().st_size
        if size != entry.size_bytes:
            return f"damaged ({size} bytes instead of {entry.size_bytes})"
        digest = hashlib.sha256()
        for chunk in read_chunks(path):
            digest.update(chunk)
    except OSError as error:
        return f"unreadable ({error.strerror})"
    return None if digest.hexdigest() == entry.sha256 else "damaged (its sha256 differs)"


def _extra_files(checkpoint: Path, manifest: Manifest) -> list[str]:
    expected = {entry.path for entry in manifest.files} | {MANIFEST_NAME, UNFINISHED_NAME}
    found = {
        (Path(folder) / name).relative_to(checkpoint).as_posix()
        for folder, _, names in os.walk(checkpoint)
        for name in names
    }
    return [f"extra: {name}" for name in sorted(found - expected)]
