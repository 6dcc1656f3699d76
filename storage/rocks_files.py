"""Which directories RocksDB is let into.

RocksDB itself makes a database out of any directory, and an empty one out of a damaged one (files
without CURRENT, which names the valid ones). Here only an empty directory, or what a creation that
was killed left behind, becomes a new database; nothing is changed in one that is refused.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from storage import files
from storage.errors import DamagedFilesError, DataDirectoryError, ForeignDirectoryError
from storage.rocks_manifest import whole_bytes

CURRENT_NAME: Final = "CURRENT"


def prepare_directory(path: Path, create: bool) -> None:
    action = "open the engine in"
    if create:
        files.make_directory(path, action)
    elif not (path / CURRENT_NAME).exists():
        raise DataDirectoryError(
            f"cannot {action} {path}: there is no {CURRENT_NAME}; name the directory of an "
            "existing engine"
        )
    try:
        if (path / CURRENT_NAME).exists():
            return  # and another process may be at work there: the lock tells
        held = sorted(entry.name for entry in path.iterdir() if not _of_creation(entry))
    except OSError as error:
        raise files.directory_error(action, path, error.errno, str(error)) from error
    if not held:
        return
    if any(name.endswith(".sst") or name.startswith("MANIFEST-") for name in held):
        raise DamagedFilesError(
            f"{path} holds RocksDB files but no {CURRENT_NAME}, which names the valid ones; "
            "restore a backup"
        )
    raise ForeignDirectoryError(
        f"cannot {action} {path}: it holds {held[0]}, which is not RocksDB's; name an empty "
        "directory or the one this engine wrote"
    )


def mend_manifest(path: Path) -> bool:
    """Cut off what a power cut tore (storage/rocks_manifest.py). False: it is damaged otherwise,
    and nothing was changed."""
    manifest = path / (path / CURRENT_NAME).read_text().strip()
    whole = whole_bytes(manifest.read_bytes())
    if whole is None:
        return False
    os.truncate(manifest, whole)
    files.sync_file(manifest)
    return True


def _of_creation(path: Path) -> bool:
    """What RocksDB leaves if it is killed before the first CURRENT exists."""
    name = path.name
    if name.endswith(".log"):
        return path.stat().st_size == 0
    return name in ("LOCK", "LOG", "IDENTITY", "MANIFEST-000001", "rocksdict-config.json") or (
        name.startswith("LOG.old.") or name.endswith(".dbtmp")
    )
