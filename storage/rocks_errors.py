"""What RocksDB says, as errors of the one tree.

rocksdict raises a bare Exception with RocksDB's own text for everything, so the text decides. Each
wording below was seen (tests/unit/storage/test_rocks_*.py makes each one happen again).
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Final

from storage import files
from storage.errors import (
    DamagedFilesError,
    DirectoryInUseError,
    ReadFailedError,
    StorageError,
)

_STALL: Final = "Result incomplete"
_ERRNOS: Final = (
    errno.EROFS,
    errno.EACCES,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EMFILE,
    errno.ENFILE,
    errno.EIO,
)


def is_stall(error: Exception) -> bool:
    """A write that was told not to wait would have had to. Nothing was written."""
    return str(error).startswith(_STALL)


def is_manifest_damage(error: Exception) -> bool:
    message = str(error)
    return message.startswith("Corruption: checksum mismatch") and "MANIFEST-" in message


def first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].strip()


def errno_of(error: Exception) -> int | None:
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    message = str(error)
    return next((code for code in _ERRNOS if os.strerror(code) in message), None)


def open_error(path: Path, error: Exception) -> StorageError:
    message = first_line(error)
    if "LOCK: Resource temporarily unavailable" in message or "lock hold by current" in message:
        return DirectoryInUseError(
            f"cannot open the engine in {path}: another process has it open; stop that process or "
            "name another directory"
        )
    code = errno_of(error)
    if code is not None:
        return files.directory_error("open the engine in", path, code, message)
    if message.startswith("Corruption") or os.strerror(errno.ENOENT) in message:
        return DamagedFilesError(
            f"files of the engine in {path} are damaged or missing ({message}); restore a backup"
        )
    return files.directory_error("open the engine in", path, None, message)


def read_error(path: Path, error: Exception) -> StorageError:
    message = first_line(error)
    if message.startswith("Corruption"):
        return DamagedFilesError(
            f"a file of the engine in {path} is damaged ({message}); restore a backup, or let the "
            "other replicas repair this node"
        )
    return ReadFailedError(
        f"the engine in {path} could not read ({message}); check the disk and try again"
    )
