"""The newest view of the meta group in a file, for nodes that host no replica of group 0.

    cluster.map    sealed as a record is (storage/codec.py): version, checksum, bytes of the view

Written as NAME.tmp, synced, renamed. A file that cannot be read is no view: the node asks the
others again. Nothing that must be right rests on it: a stale route is answered by whoever knows
better.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Final

from raftgroups.meta.view import MetaView, decode_view, encode_view
from storage import files
from storage.codec import seal, unseal
from storage.errors import StorageError

_log = logging.getLogger(__name__)

FILE_NAME: Final = "cluster.map"
_KEY: Final = FILE_NAME.encode()


def write_map(directory: Path, view: MetaView) -> None:
    path = directory / FILE_NAME
    temporary = path.with_name(FILE_NAME + ".tmp")
    with temporary.open("wb") as file:
        file.write(seal(_KEY, encode_view(view)))
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    files.sync_directory(directory)


def read_map(directory: Path) -> MetaView | None:
    path = directory / FILE_NAME
    try:
        return decode_view(unseal(_KEY, path.read_bytes()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, StorageError) as error:
        _log.warning("the map of the cluster in %s cannot be used: %s", path, error)
        return None
