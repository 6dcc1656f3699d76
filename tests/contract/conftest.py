"""The table of engines that the contract suite runs over: one line an engine.

`engines` (a fixture, parametrised over the table) opens engines of one kind, as often and in as
many directories as a test likes, on a clock that the test moves, and closes them all at the end.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from storage.clock import Clock, ManualClock
from storage.engine import Engine
from storage.faulty import FaultyEngine
from storage.lmdb_engine import LmdbEngine
from storage.logged_engine import LoggedEngine
from storage.memory import CHECKPOINT_NAME, MemoryEngine

Open = Callable[[Path, Clock], Engine]


@dataclass(frozen=True)
class Kind:
    name: str
    open: Open
    keeps: bool = True
    """A closed engine's data is there when its directory is opened again."""


def open_memory(path: Path, clock: Clock) -> Engine:
    """A directory with a checkpoint opens with its pairs, any other empty."""
    if (path / CHECKPOINT_NAME).exists():
        return MemoryEngine.load(path, clock=clock)
    return MemoryEngine(clock=clock)


def open_lmdb(path: Path, clock: Clock) -> Engine:
    return LmdbEngine(path, clock=clock)


def open_logged(path: Path, clock: Clock) -> Engine:
    """With folds and segments so small that every test has some."""
    return LoggedEngine(LmdbEngine(path, clock=clock), fold_bytes=2_000, segment_bytes=4_000)


def open_rocks(path: Path, clock: Clock) -> Engine:
    from storage.rocks_engine import RocksEngine

    return RocksEngine(path, clock=clock)


def over(inner: Open) -> Open:
    return lambda path, clock: FaultyEngine(inner(path, clock), rng=random.Random(7))


ENGINES = [
    Kind("memory", open_memory, keeps=False),
    Kind("lmdb", open_lmdb),
    Kind("logged-lmdb", open_logged),
    Kind("rocks", open_rocks),
    Kind("faulty-memory", over(open_memory), keeps=False),
    Kind("faulty-lmdb", over(open_lmdb)),
    Kind("faulty-logged-lmdb", over(open_logged)),
]


def params(kinds: list[Kind]) -> list[object]:
    return [pytest.param(kind, id=kind.name) for kind in kinds]


class Engines:
    """Engines of one kind in directories below `root`."""

    def __init__(self, kind: Kind, root: Path, clock: ManualClock) -> None:
        self.kind = kind
        self.root = root
        self.clock = clock
        self._opened: list[Engine] = []

    def open(self, name: str = "data") -> Engine:
        engine = self.kind.open(self.root / name, self.clock)
        self._opened.append(engine)
        return engine

    def close(self) -> None:
        for engine in self._opened:
            engine.close()


@pytest.fixture(params=params(ENGINES))
def engines(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engines]:
    opened = Engines(request.param, tmp_path, ManualClock())
    yield opened
    opened.close()


@pytest.fixture
def engine(engines: Engines) -> Engine:
    return engines.open()
