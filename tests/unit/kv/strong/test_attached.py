"""A write under a lease of another shard: what is told when its tries do not come through."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from kv.errors import OutcomeUnknownError, UnavailableError
from kv.meta.cluster_map import ClusterMap
from kv.model import WriteOptions
from kv.router import Scope
from kv.strong.attached import AttachedWrite
from kv.strong.keyspace import Keyspace as StrongKeyspace
from kv.strong.lease_queries import Looked
from kv.strong.operations import Write
from kv.strong.shard import ShardSettings
from raftgroups.commands import Command, Put, Token, UnderLease, decode, encode
from raftgroups.meta.records import KeyspaceRecord, ShardRecord
from raftgroups.meta.view import MetaView
from raftgroups.refusals import LeaseFencedError
from raftgroups.transport import NodeId
from storage.errors import JanusError, WrongShardError

DEADLINE_S = 10.0
PUT = Put(b"z", b"1", lease=7)


class Keyspace:
    """Its clock, and what it is told."""

    def __init__(self) -> None:
        self.at_s = 0.0
        self.again: list[bool] = []
        self.answers: list[Any] = []

    def now_s(self) -> float:
        return self.at_s

    def later(self, delay_s: float, write: AttachedWrite, *, look: bool) -> None:
        self.again.append(look)

    def answered(self, write: AttachedWrite, answer: Any) -> None:
        self.answers.append(answer)


def write_of(keyspace: Any, token: Token | None) -> AttachedWrite:
    command, options = Put(b"k", b"v", lease=7), WriteOptions(token=token)
    return AttachedWrite(keyspace, print, DEADLINE_S, command, b"", options)


@pytest.mark.parametrize(
    ("refusal", "look"),
    [
        (LeaseFencedError("a lease has ended since"), False),
        (WrongShardError("the shard does not hold this key"), True),
    ],
)
def test_a_repeated_try_in_a_shard_that_then_refuses_may_have_been_done(
    refusal: JanusError, look: bool
) -> None:
    """The shard repeats a write with a token by itself when a try of it was lost, and only then may
    find the lease ended or the key gone: what it says last tells nothing of the lost one."""
    keyspace = Keyspace()
    write = write_of(keyspace, Token(b"client", 1))
    write._answered_here(refusal)
    assert keyspace.again == [look]
    keyspace.at_s = DEADLINE_S
    write.try_again("no leader")
    assert isinstance(keyspace.answers[0], OutcomeUnknownError)


def test_without_a_token_a_refusal_means_that_nothing_was_done() -> None:
    keyspace = Keyspace()
    write = write_of(keyspace, None)
    write._answered_here(LeaseFencedError("a lease has ended since"))
    keyspace.at_s = DEADLINE_S
    write.try_again("no leader")
    assert isinstance(keyspace.answers[0], UnavailableError)


def test_other_answers_are_the_answer() -> None:
    keyspace = Keyspace()
    write_of(keyspace, Token(b"client", 1))._answered_here("done")
    assert keyspace.answers == ["done"]


class Shard:
    """As much of a StrongShard as is asked; what it takes and is asked stands in lists."""

    def __init__(self, number: int, start: bytes, end: bytes | None) -> None:
        self.group = SimpleNamespace(group_id=number, readable=True, leads=True, feature_level=4)
        self.machine = SimpleNamespace(is_home=start == b"")
        self.start, self.end = start, end
        self.taken: list[Command] = []
        self.looks: list[Any] = []
        self.on_moved: Any = None
        self.write = self.write_each = self.take

    def serves(self, scope: Scope) -> bool:
        low, high = scope
        return low >= self.start and (self.end is None or (high is not None and high <= self.end))

    def take(self, payload: bytes, *args: Any, **options: Any) -> None:
        self.taken.append(decode(payload)[0])

    def read(self, query: Any, done: Any, options: Any) -> None:
        self.looks.append(done)

    def get(self, key: bytes, done: Any, give: Any) -> None:
        raise NotImplementedError

    def shard_of(self, key: bytes) -> int:
        return self.group.group_id


@pytest.mark.parametrize("map_is_new", [False, True])
def test_a_write_whose_shard_was_split_meanwhile_looks_at_the_home_of_its_lease(
    loop: Any, map_is_new: bool
) -> None:
    """It was handed to the only shard there was as it is; the right half does not have the leases,
    and would say that this one does not exist."""
    meta: Any = SimpleNamespace(map=ClusterMap(), node_id=NodeId("n1"))
    keyspace = StrongKeyspace(
        3, meta=meta, forwarder=cast(Any, None), scheduler=loop, clock=loop.clock,
        tasks=cast(Any, None), gate=cast(Any, None), settings=ShardSettings(),
    )  # fmt: skip
    meta.map.learn(_map(1, (1, b"", None)))
    home, heir = Shard(1, b"", b"m"), Shard(2, b"m", None)
    keyspace.served(cast(Any, home))
    keyspace.served(cast(Any, heir))
    if map_is_new:
        meta.map.learn(_map(2, (1, b"", b"m"), (2, b"m", None)))
    token = Token(b"client", 1)
    handed = Write(cast(Any, home), print, 9.0, payload=encode(PUT, token), repeatable=True)
    home.on_moved(handed, WrongShardError("it was split"))
    assert (home.taken, heir.taken, len(home.looks)) == ([], [], 1)
    home.looks[0](Looked(5, 0))
    assert heir.taken == [UnderLease(5, PUT)]


def _map(version: int, *shards: tuple[int, bytes, bytes | None]) -> MetaView:
    records = {number: ShardRecord(number, 3, start, end, number) for number, start, end in shards}
    return MetaView(version=version, keyspaces={3: KeyspaceRecord(3, "default")}, shards=records)
