"""A shard on the memory engine with its turn, for the MVCC tests."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from storage.engine import Batch, Engine, Reader, Snapshot
from storage.memory import MemoryEngine
from storage.mvcc import Shard
from storage.mvcc_records import KeyValue


class StrictSource:
    """Ends the reader that it gave before each time that it is asked for one, so that a test fails
    if a reader is kept."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.reads = 0
        self._given: Snapshot | None = None

    def __call__(self) -> Reader:
        if self._given is not None:
            self._given.close()
        self.reads += 1
        self._given = self.engine.snapshot()
        return self._given


class Bench:
    """One shard, with every step of its turn by hand."""

    def __init__(
        self,
        engine: Engine | None = None,
        *,
        shard: int = 1,
        keyspace: int = 7,
        segment: int = 11,
        start: bytes = b"",
        end: bytes | None = None,
    ) -> None:
        self.engine = engine or MemoryEngine()
        self.wall_ms = 0
        self.source = StrictSource(self.engine)
        self.shard = Shard.create(
            self.source, shard=shard, keyspace=keyspace, segment=segment, start=start, end=end
        )

    def put(self, key: bytes, value: bytes = b"", lease: int = 0) -> int:
        with self.shard.begin(self.wall_ms) as scope:
            scope.put(key, value, lease)
        return self.shard.state.revision

    def delete(self, key: bytes) -> int:
        with self.shard.begin(self.wall_ms) as scope:
            scope.delete(key)
        return self.shard.state.revision

    def commit(self, *, sweep_events: int = 1_000) -> Batch:
        batch = Batch()
        self.shard.prepare(batch, sweep_events=sweep_events)
        self.engine.write(batch, sync=True)
        self.shard.after_commit()
        return batch

    def sweep(self, *, sweep_events: int = 1_000) -> int:
        """Commit until compaction has nothing left; returns how many turns that took."""
        turns = 0
        while self.shard.sweep_pending:
            self.commit(sweep_events=sweep_events)
            turns += 1
        return turns

    def crash(self) -> Shard:
        """Lose what was not committed."""
        shard = Shard.load(self.source, self.shard.state.shard)
        assert shard is not None
        self.shard = shard
        return shard

    def get(self, key: bytes, revision: int = 0) -> KeyValue | None:
        return self.shard.view.get(key, revision)

    def value(self, key: bytes, revision: int = 0) -> bytes | None:
        found = self.get(key, revision)
        return None if found is None else found.value

    def rows(self, table: int) -> list[bytes]:
        """The stored keys of a table."""
        page = self.engine.snapshot().scan(bytes((table,)), bytes((table + 1,)))
        return [key for key, _ in page.items]


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.fixture
def make_bench() -> Callable[..., Bench]:
    return Bench
