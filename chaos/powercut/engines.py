"""The engines that the proof is about, as a child process opens them (see opening.py)."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from chaos.powercut.campaign import Subject
from storage.clock import SystemClock
from storage.engine import Engine


def lmdb(path: Path) -> Engine:
    from storage.lmdb_engine import LmdbEngine

    return LmdbEngine(path, clock=SystemClock())


def rocksdb(path: Path) -> Engine:
    """With a memtable so small that the workload makes it flush and compact."""
    from storage.rocks_engine import RocksEngine
    from storage.rocks_options import RocksOptions

    options = RocksOptions(write_buffer_bytes=64 * 1024)
    return RocksEngine(path, clock=SystemClock(), options=options)


LMDB: Final = Subject(
    "lmdb", f"{__name__}:lmdb", volatile=frozenset({"lock.mdb", "data.mdb.new-lock"})
)
ROCKSDB: Final = Subject("rocksdb", f"{__name__}:rocksdb")
