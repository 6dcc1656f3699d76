"""LMDB behind its log, with segments that have room for a record of 100 KB behind others, as a
node's have; child processes open it by the path of this file (chaos/powercut/opening.py)."""

from __future__ import annotations

from pathlib import Path

from storage.engine import Engine
from storage.lmdb_engine import LmdbEngine
from storage.logged_engine import LoggedEngine
from storage.system_clock import SystemClock


def roomy(path: Path) -> Engine:
    tree = LmdbEngine(path, clock=SystemClock())
    return LoggedEngine(tree, fold_bytes=256 * 1024, segment_bytes=256 * 1024)
