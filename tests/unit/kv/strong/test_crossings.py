"""Transactions over several shards as a keyspace on one node drives them, over machines by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from kv.errors import OverloadedError, StoppingError, UnavailableError
from kv.router import one_shard
from kv.strong import crossings as module
from kv.strong.crossings import Book, Crossings
from raftgroups.commands import BatchWrite, Put, Token, decode
from raftgroups.levels import TXN_LEVEL
from raftgroups.meta.records import ShardRecord
from raftgroups.meta.view import ShardTable
from raftgroups.refusals import LockedError
from raftgroups.results import CrossResult
from storage.clock import ManualClock
from storage.errors import WrongShardError
from tests.unit.kv.strong.crossing_world import Drive, Ground, World, crossing

TWO = BatchWrite((Put(b"a", b"1"), Put(b"z", b"2")))


class FakeShard:
    """A replica here that leads."""

    def __init__(self, keyspace: FakeKeyspace, shard: int) -> None:
        self.keyspace = keyspace
        self.machine = keyspace.world.machines[shard]
        self.group = SimpleNamespace(feature_level=keyspace.level, settled=True, group_id=shard)
        self.duties = SimpleNamespace(now_ms=lambda: keyspace.world.clock_ms)

    def take(
        self, payload: bytes, done: Any, deadline_s: float, repeatable: bool, *_: object
    ) -> None:
        assert repeatable
        command, token, *_times = decode(payload)
        self.keyspace.asked.append(type(command).__name__)
        if not self.keyspace.silent:
            answer = self.keyspace.world.apply(self.group.group_id, command, token)
            assert not isinstance(answer, WrongShardError)
            self.keyspace.loop.call_soon(done, answer)


class FakeKeyspace:
    def __init__(self, loop: Any) -> None:
        self.loop = loop
        self.world = World(b"p")
        self.level = TXN_LEVEL
        self.silent = False
        self.asked: list[str] = []
        self.crossings = Crossings(self, loop.clock, loop)  # type: ignore[arg-type]

    @property
    def table(self) -> ShardTable:
        return self.world.table()

    def record_for(self, operation: Any) -> ShardRecord:
        return one_shard(self.table, operation.scope(), "")

    def holder(self, shard: int, scope: object) -> FakeShard:
        return self.local_shard(shard)

    def local_shard(self, shard: int) -> FakeShard:
        return FakeShard(self, shard)

    @property
    def local_shards(self) -> list[FakeShard]:
        return [FakeShard(self, shard) for shard in self.world.machines]

    def soon(self, done: Any, answer: object) -> None:
        self.loop.call_soon(done, answer)

    def later(self, delay_s: float, operation: Any, *, look: bool) -> None:
        self.loop.call_later(delay_s, operation.start)

    def answered(self, operation: Any, answer: object) -> None:
        operation.done(answer)

    def now_s(self) -> float:
        return float(self.loop.clock.monotonic())

    def begin(self, command: BatchWrite, seconds: float = 5.0, token: Token | None = None) -> Any:
        answers: list[Any] = []
        self.crossings.begin(command, answers.append, token, self.now_s() + seconds)
        return answers


@pytest.fixture
def keyspace(loop: Any) -> FakeKeyspace:
    return FakeKeyspace(loop)


def locked(keyspace: FakeKeyspace, command: BatchWrite) -> Any:
    """Prepared by a coordinator that is heard of no more. Returns who holds `z`."""
    drive = Drive(Ground(keyspace.world, b"dead"), crossing_of(keyspace, command))
    while not all(machine.intents for machine in keyspace.world.machines.values()):
        drive.step()
    refused = keyspace.world.do(Put(b"z"))
    assert isinstance(refused, LockedError)
    return refused


def crossing_of(keyspace: FakeKeyspace, command: BatchWrite) -> Any:
    return crossing(Ground(keyspace.world, b"dead"), command).run()


def test_a_request_is_driven_to_its_answer_and_tidied_up(keyspace: FakeKeyspace) -> None:
    answers = keyspace.begin(TWO, token=Token(b"client", 1))
    assert not answers, "never from inside the call"
    keyspace.loop.run()
    (answer,) = answers
    assert isinstance(answer, CrossResult)
    assert keyspace.asked == ["Prepare", "Prepare", "Decide", "Resolve", "Finish"]
    assert not keyspace.world.locked
    assert keyspace.world.do(Put(b"a"), Token(b"client", 1)) == answer


def test_a_group_of_an_older_level_is_not_asked(keyspace: FakeKeyspace) -> None:
    keyspace.level = TXN_LEVEL - 1
    answers = keyspace.begin(TWO, seconds=0.5)
    keyspace.loop.advance(3.0)
    assert isinstance(answers[0], UnavailableError)
    assert "upgrade them all" in str(answers[0])
    assert not keyspace.asked


def test_requests_are_bounded(keyspace: FakeKeyspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REQUESTS_MAX", 1)
    first, second = keyspace.begin(TWO), keyspace.begin(TWO)
    keyspace.loop.run()
    assert isinstance(first[0], CrossResult)
    assert isinstance(second[0], OverloadedError)
    third = keyspace.begin(TWO)
    keyspace.loop.run()
    assert isinstance(third[0], CrossResult)


def test_what_is_in_the_way_is_cleared_once_its_time_is_over(keyspace: FakeKeyspace) -> None:
    refused = locked(keyspace, TWO)
    keyspace.crossings.clear(refused.holders, b"z")
    keyspace.crossings.clear(refused.holders, b"z")
    keyspace.loop.run()
    assert keyspace.asked == ["Push"], "one at a time"
    assert isinstance(keyspace.world.do(Put(b"z")), LockedError)
    keyspace.world.clock_ms += 60_000
    keyspace.crossings.clear(refused.holders, b"z")
    keyspace.loop.run()
    assert not isinstance(keyspace.world.do(Put(b"z")), LockedError)


def test_a_read_is_good_while_what_it_met_is_pending(keyspace: FakeKeyspace) -> None:
    refused = locked(keyspace, TWO)
    told: list[bool] = []
    keyspace.crossings.vouch(refused.holders, b"z", keyspace.now_s() + 1.0, told.append)
    keyspace.loop.run()
    keyspace.world.clock_ms += 60_000
    keyspace.crossings.vouch(refused.holders, b"z", keyspace.now_s() + 1.0, told.append)
    keyspace.loop.run()
    assert told == [True, False]


def test_what_was_abandoned_is_found_by_looking(keyspace: FakeKeyspace) -> None:
    locked(keyspace, TWO)
    keyspace.crossings.watch()
    keyspace.loop.advance(2.0)
    assert not keyspace.asked, "it is young"
    keyspace.world.clock_ms += 60_000
    keyspace.loop.advance(2.0)
    assert not keyspace.world.locked
    keyspace.crossings.stop()
    keyspace.asked.clear()
    keyspace.loop.advance(5.0)
    assert not keyspace.asked


def test_a_stop_ends_what_waits(keyspace: FakeKeyspace) -> None:
    locked(keyspace, TWO)
    answers = keyspace.begin(TWO)
    keyspace.crossings.stop()
    keyspace.loop.advance(1.0)
    assert isinstance(answers[0], StoppingError)


def test_tokens_settle_what_is_over() -> None:
    book = Book(ManualClock())
    first, second = book.number(), book.number()
    assert book.token().settled == first
    book.over(first)
    assert book.token().settled == second
    assert Book(ManualClock()).client != book.client
