"""Commands to shards."""

from __future__ import annotations

import pytest

from kv.api.listing import last_key_before
from kv.router import HOME, CrossShardError, lease_ids, of_key, one_shard, scope_of
from raftgroups.commands import (
    BatchWrite,
    Cas,
    Command,
    Compact,
    Compare,
    Delete,
    Increment,
    LeaseGrant,
    LeaseKeepAlive,
    Put,
    Range,
    SetTtl,
    Txn,
    UnderLease,
)
from raftgroups.meta.records import ShardRecord
from raftgroups.meta.view import ShardTable

TABLE = ShardTable(
    [
        ShardRecord(7, 1, b"", b"g", 1),
        ShardRecord(4, 1, b"g", b"p", 2),
        ShardRecord(9, 1, b"p", None, 3),
    ]
)


@pytest.mark.parametrize(
    ("command", "shard"),
    [
        (Put(b"a"), 7),
        (Put(b"g"), 4),
        (Put(b"o\xff\xff"), 4),
        (Put(b"zz"), 9),
        (Cas(b"h", b"v"), 4),
        (Increment(b"p"), 9),
        (SetTtl(b"f", 1), 7),
        (Delete(b"g", b"p"), 4),
        (Delete(b"p", b"\x00"), 9),
        (LeaseGrant(5, 9), 7),
        (LeaseKeepAlive((5,)), 7),
        (BatchWrite((Put(b"h"), Delete(b"i"))), 4),
        (Txn((Compare(b"q"),), (Put(b"r"),), (Range(b"s", b"t"),)), 9),
        (Txn((), (Txn((), (Put(b"h"),)),)), 4),
        (Txn(), 7),
    ],
)
def test_a_command_finds_its_shard(command: Command, shard: int) -> None:
    assert one_shard(TABLE, scope_of(command), "").shard == shard


@pytest.mark.parametrize(
    "command",
    [
        Delete(b"a", b"z"),
        Delete(b"a", b"\x00"),
        Compact(5),
        BatchWrite((Put(b"a"), Put(b"z"))),
        Txn((Compare(b"a"),), (Put(b"z"),)),
        Txn((Compare(b"f", b"gg"),)),
        Txn((), (), (Txn((), (Put(b"a"), Put(b"h"))),)),
    ],
)
def test_what_lies_in_two_shards_is_refused(command: Command) -> None:
    with pytest.raises(CrossShardError, match="do that instead"):
        one_shard(TABLE, scope_of(command), "do that instead")


def test_a_range_up_to_an_edge_stays_in_its_shard() -> None:
    assert one_shard(TABLE, (b"g", b"p"), "").shard == 4
    with pytest.raises(CrossShardError):
        one_shard(TABLE, (b"g", b"p\x00"), "")
    assert one_shard(TABLE, HOME, "").shard == 7
    assert one_shard(TABLE, of_key(b"\xff" * 432), "").shard == 9


def test_commands_that_attach_to_a_lease() -> None:
    assert lease_ids(Put(b"k", lease=3)) == (3,)
    assert lease_ids(BatchWrite((Put(b"k"), Cas(b"k", b"v", lease=3)))) == (3,)
    txn = Txn((), (Put(b"a", lease=5),), (Txn((), (Put(b"k", lease=3), Put(b"l", lease=5))),))
    assert lease_ids(txn) == (3, 5)
    assert lease_ids(UnderLease(1, txn)) == (3, 5)
    assert scope_of(UnderLease(1, Put(b"k", lease=3))) == of_key(b"k")
    assert lease_ids(Txn((), (Put(b"k"), Range(b"k")))) == ()
    assert lease_ids(LeaseGrant(3, 5)) == ()


def test_the_last_key_before_an_end() -> None:
    assert last_key_before(b"b\x00") == b"b"
    assert last_key_before(b"b") == b"a".ljust(432, b"\xff")
    assert last_key_before(None) == b"\xff" * 432
