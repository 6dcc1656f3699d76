"""Directories of engines: made, emptied of doubt, synced, measured, locked.

What the engines share about the file system and nothing about any format. Every failure becomes a
DataDirectoryError with one sentence that names the path and says what to do.

A new file survives a power cut only once its directory was synced, and a new directory only once
its parent was: `make_directory` and `sync_directory` are that half of every creation here.
"""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from storage.errors import DataDirectoryError, DirectoryInUseError

CHECKPOINT: Final = "write a checkpoint to"
_ADVICE: Final = {
    errno.EACCES: "this user may not write there; change its owner or name another directory",
    errno.EPERM: "the system does not allow it; name a directory on an ordinary file system",
    errno.EROFS: "the file system is read-only; remount it writable or name another directory",
    errno.ENOENT: "it does not exist; name an existing one",
    errno.ENOTDIR: "part of that path is a file; name a directory",
    errno.EEXIST: "a file has that name; name a directory",
    errno.ENOSPC: "the disk is full; free some space or name another disk",
    errno.EDQUOT: "the disk quota is used up; free some space or name another disk",
    errno.EMFILE: "too many files are open; raise the limit (ulimit -n)",
    errno.ENFILE: "the system has too many open files; raise fs.file-max",
    errno.EIO: "the disk reports an I/O error; check its health and restore from a backup",
    errno.ENOMEM: "the system refused the memory; lower the map size or raise ulimit -v",
}


def directory_error(action: str, path: Path, code: int | None, reason: str) -> DataDirectoryError:
    """`action` reads like "open the engine in"; `code` is an errno, 0 or None if unknown."""
    advice = _ADVICE.get(code or 0, f"{reason}; look at the directory and try again")
    return DataDirectoryError(f"cannot {action} {path}: {advice}")


def make_directory(path: Path, action: str) -> None:
    """Create it and missing parents, for this user alone, each synced into the one above. Existing
    ones are left as they are."""
    missing = []
    above = path
    while not above.exists():
        missing.append(above)
        above = above.parent
    try:
        for directory in reversed(missing):
            directory.mkdir(mode=0o700, exist_ok=True)
            sync_directory(directory.parent)
        if not path.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "not a directory", str(path))
    except OSError as error:
        raise directory_error(action, path, error.errno, str(error)) from error


def make_checkpoint_directory(path: Path) -> None:
    """A checkpoint goes to a directory of its own: one that is missing or empty."""
    make_directory(path, CHECKPOINT)
    try:
        occupied = any(path.iterdir())
    except OSError as error:
        raise directory_error(CHECKPOINT, path, error.errno, str(error)) from error
    if occupied:
        raise DataDirectoryError(
            f"cannot {CHECKPOINT} {path}: it is not empty; name a new directory"
        )


def sync_directory(path: Path) -> None:
    _sync(path, os.O_RDONLY | os.O_DIRECTORY)


def sync_file(path: Path) -> None:
    _sync(path, os.O_RDONLY)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def lock_directory(path: Path, action: str) -> int:
    """Take the directory for this engine alone, against other processes and this one. Returns the
    descriptor that holds the lock; closing it, or the end of the process, gives it back."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise directory_error(action, path, error.errno, str(error)) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise DirectoryInUseError(
            f"cannot {action} {path}: another engine has it open; stop that process or name "
            "another directory"
        ) from None
    except OSError as error:
        os.close(descriptor)
        raise directory_error(action, path, error.errno, str(error)) from error
    return descriptor


def allocated_bytes(path: Path) -> int:
    """Bytes of disk blocks that the files of a directory occupy; holes cost nothing. Files that
    vanish meanwhile (compaction removes some at any time) count as gone."""
    total = 0
    with os.scandir(path) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):
                if entry.is_file(follow_symlinks=False):
                    total += entry.stat(follow_symlinks=False).st_blocks * 512
    return total


def free_bytes(path: Path) -> int:
    """Free bytes of the file system that an ordinary user may take."""
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize
