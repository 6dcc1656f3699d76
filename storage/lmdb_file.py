"""What can be said about an LMDB data file without LMDB, before and after it is opened.

A file that is not ours must be left exactly as it was, and LMDB makes its lock file before it looks
at the data; so the header is read here first. A file that was cut is found by comparing its length
with what its tree needs: reading behind the end of a map kills the process.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Final

from storage.errors import DataDirectoryError, ForeignDirectoryError, UnknownFormatError
from storage.lmdb_pages import PageFigures

DATA_NAME: Final = "data.mdb"
NEW_DATA_NAME: Final = "data.mdb.new"
"""A data file that is being made; a power cut may leave it behind."""
LOG_DIRECTORY_NAME: Final = "log"
"""The write-ahead log (storage/wal.py), which stands beside the data file."""
OWN_NAMES: Final = frozenset(
    {DATA_NAME, "lock.mdb", NEW_DATA_NAME, f"{NEW_DATA_NAME}-lock", LOG_DIRECTORY_NAME}
)
OPEN: Final = "open the engine in"
_HEADER_BYTES: Final = 64
_MAGIC: Final = 0xBEEFC0DE
_FORMATS: Final = (1, 3)  # of LMDB 0.9 and 1.0
_REPAIR: Final = "restore it from a backup, or wipe the directory and let it be copied from a peer"


def check_header(path: Path) -> None:
    """The magic number stands somewhere in the first words (where, depends on the version and the
    word size), the format's number behind it. An absent or empty file is a new one."""
    try:
        with (path / DATA_NAME).open("rb") as file:
            head = file.read(_HEADER_BYTES)
    except FileNotFoundError:
        return
    if not head:
        return
    count = len(head) // 4
    words = struct.unpack(f"={count}I", head[: count * 4])
    if _MAGIC not in words[:-1]:
        raise ForeignDirectoryError(
            f"cannot {OPEN} {path}: {DATA_NAME} is no LMDB file; name another directory or "
            "restore it from a backup"
        )
    if words[words.index(_MAGIC) + 1] not in _FORMATS:
        raise UnknownFormatError(
            f"cannot {OPEN} {path}: {DATA_NAME} has a format that this version does not read; "
            "open it with the version that wrote it"
        )


def check_length(path: Path, pages: PageFigures) -> None:
    found = (path / DATA_NAME).stat().st_size
    if found < pages.least_file_bytes:
        raise DataDirectoryError(
            f"cannot {OPEN} {path}: {DATA_NAME} was cut to {found} bytes and its tree needs "
            f"{pages.least_file_bytes}; {_REPAIR}"
        )


def damaged(path: Path, reason: str) -> DataDirectoryError:
    return DataDirectoryError(f"cannot {OPEN} {path}: {DATA_NAME} is damaged ({reason}); {_REPAIR}")
