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


LMDB: Final = Subject("lmdb", f"{__name__}:lmdb", volatile=frozenset({"lock.mdb"}))
