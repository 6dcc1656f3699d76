"""What the tests of storage share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.clock import ManualClock
from storage.rocks_engine import RocksEngine
from tests.unit.storage.committer_world import World
from tests.unit.storage.rocks_database import ENGINE, SMALL


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def rocks(tmp_path: Path, clock: ManualClock) -> Iterator[RocksEngine]:
    engine = RocksEngine(tmp_path / ENGINE, clock=clock, options=SMALL)
    yield engine
    engine.close()


@pytest.fixture
def world() -> World:
    return World()
