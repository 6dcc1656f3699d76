"""A shard's machine on the memory engine, with a log, turns and crashes by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from raftgroups.commands import Command, Token, encode
from raftgroups.dedupe import Limits
from raftgroups.machine import ShardMachine
from raftgroups.machine_parts import ShardPlace
from raftgroups.results import Failure
from storage.clock import ManualClock
from storage.engine import Batch
from storage.latest import Latest
from storage.memory import MemoryEngine
from storage.mvcc_records import Event, event_of

PLACE = ShardPlace(group=1, shard=1, keyspace=7, segment=3)


class Rig:
    """One replica. `events` is what its observer was told."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.engine = MemoryEngine()
        self.limits = limits
        self.log: list[bytes] = []
        self.clock_ms = 0
        self.wall_ms = 0
        self.events: list[tuple[int, list[Event]]] = []
        self.open()

    def open(self) -> None:
        latest = Latest(self.engine, ManualClock())
        self.machine = ShardMachine(latest, PLACE, observer=self.observe, limits=self.limits)
        self.machine.restored(self.machine.shard.state.applied_index)

    def observe(self, revision: int, bodies: Sequence[bytes]) -> None:
        self.events.append((revision, [event_of(body) for body in bodies]))

    def do(self, command: Command, token: Token | None = None) -> Any:
        return self.apply(encode(command, token, self.clock_ms, self.wall_ms))

    def apply(self, payload: bytes) -> Any:
        self.log.append(payload)
        return self.machine.apply(len(self.log), payload)

    def refused(self, command: Command) -> str:
        """The code of the refusal, which must have changed nothing."""
        revision, told = self.machine.revision, len(self.events)
        result = self.do(command)
        assert isinstance(result, Failure), result
        assert result.revision == self.machine.revision == revision
        assert len(self.events) == told
        return result.code

    def turn(self) -> None:
        batch = Batch()
        self.machine.prepare(batch)
        self.engine.write(batch, sync=True)
        self.machine.after_commit()

    def crash(self) -> None:
        """Lose what was not written, and apply it again."""
        self.open()
        first = self.machine.shard.state.applied_index
        for index in range(first, len(self.log)):
            self.machine.apply(index + 1, self.log[index])

    def value(self, key: bytes) -> bytes | None:
        record = self.machine.view.get(key)
        return None if record is None else record.value

    def rows(self) -> dict[bytes, bytes]:
        """Everything that a snapshot of this replica would carry."""
        with self.engine.snapshot() as snapshot:
            return {
                key: value
                for start, end in self.machine.owned_ranges()
                for key, value in snapshot.scan(start, end).items
            }


@pytest.fixture
def rig() -> Rig:
    return Rig()


@pytest.fixture
def rig_with() -> Callable[[Limits], Rig]:
    return Rig
