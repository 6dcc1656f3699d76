"""Leases whose keys lie in other shards than the lease."""

from __future__ import annotations

import pytest

from raftgroups.commands import (
    Expire,
    LeaseEnd,
    LeaseForget,
    LeaseGrant,
    LeaseRevoke,
    Put,
    Token,
    UnderLease,
)
from raftgroups.results import LeaseEndResult, PutResult
from tests.unit.raftgroups.lineage.conftest import ShardCluster, read_all


@pytest.fixture
def pair(shards: ShardCluster) -> ShardCluster:
    """Lease 7 with a key on either side of b"m"."""
    shards.do(1, LeaseGrant(7, 60))
    shards.put(1, b"a", lease=7)
    shards.put(1, b"w")
    shards.split(1, b"m", 2)
    shards.until(lambda: bool(shards.leaders(2)))
    assert isinstance(shards.do(2, UnderLease(1, Put(b"x", lease=7))), PutResult)
    return shards


def test_an_end_is_driven_to_every_shard(pair: ShardCluster) -> None:
    assert pair.shard(pair.lead(1), 1).ended_elsewhere() is None
    pair.do(1, LeaseRevoke(7))
    end = pair.shard(pair.lead(1), 1).ended_elsewhere()
    assert end == LeaseEnd((7,), 2)
    assert read_all(pair.shard(pair.lead(2), 2)) == {b"w": b"", b"x": b""}
    assert pair.do(1, LeaseGrant(7, 60)).code == "lease_exists"
    for node in list(pair.ids):
        pair.restart(node)
    assert pair.shard(pair.lead(1), 1).ended_elsewhere() == end
    assert pair.do(1, end) == LeaseEndResult(pair.shard(pair.lead(1), 1).revision, 0, b"", b"m")
    right = pair.do(2, end)
    assert (right.keys, right.start, right.end) == (1, b"m", None)
    assert pair.do(2, end).keys == 0
    pair.do(1, LeaseForget((7,)))
    assert pair.shard(pair.lead(1), 1).ended_elsewhere() is None
    assert pair.do(1, LeaseGrant(7, 60)).ttl_s == 60
    pair.settle(2)
    for node in pair.ids:
        assert read_all(pair.shard(node, 2)) == {b"w": b""}
        assert pair.shard(node, 2).leases.epoch == 2


def test_a_write_under_a_lease_that_ended_meanwhile_is_refused(pair: ShardCluster) -> None:
    epoch = pair.shard(pair.lead(1), 1).leases.epoch
    assert pair.put(2, b"y", lease=7).code == "lease_not_found"
    write = UnderLease(epoch, Put(b"y", lease=7))
    assert isinstance(pair.do(2, write), PutResult)
    pair.do(1, LeaseRevoke(7))
    late = UnderLease(epoch, Put(b"z", lease=7))
    assert isinstance(pair.do(2, late), PutResult), "before the end came here"
    assert pair.do(2, LeaseEnd((7,), 2)).keys == 3
    assert pair.do(2, late, Token(b"c", 1)).code == "lease_fenced"
    assert pair.do(2, UnderLease(2, Put(b"z")), Token(b"c", 1)).revision > 0
    # Children of the fenced shard, and what it is merged into, are fenced alike.
    pair.split(2, b"t", 3)
    pair.until(lambda: bool(pair.leaders(3)))
    assert pair.do(3, late).code == "lease_fenced"
    pair.merge(2, 3)
    assert pair.do(2, late).code == "lease_fenced"


def test_a_keyspace_of_one_shard_ends_leases_alone(shards: ShardCluster) -> None:
    shards.do(1, LeaseGrant(7, 1))
    shards.put(1, b"a", lease=7)
    shards.do(1, LeaseRevoke(7))
    machine = shards.shard(shards.lead(1), 1)
    assert machine.ended_elsewhere() is None
    assert (machine.leases.epoch, read_all(machine)) == (0, {})
    assert shards.do(1, Expire((7,))).leases == 0
    assert isinstance(shards.do(1, UnderLease(0, Put(b"a"))), PutResult)


def test_nothing_of_an_absorbed_shard_stays(pair: ShardCluster) -> None:
    pair.split(2, b"t", 3)
    pair.until(lambda: bool(pair.leaders(3)))
    pair.do(3, Put(b"x", lease=0), Token(b"c", 1))
    pair.merge(2, 3)
    pair.settle(2)
    pair.run(1.0)
    for node in pair.ids:
        assert 3 not in pair[node].host.groups
        for key, _ in pair.rows(node):
            of_group = key[0] in (*range(0x10, 0x16), 0x20, 0x26, 0x27)
            assert not (of_group and key[1:9] == (3).to_bytes(8, "big")), key


def test_a_split_leaves_keys_with_their_leases_and_fences_who_looked_before(
    shards: ShardCluster,
) -> None:
    """While the keyspace was one shard an end left no mark, so what was seen then says nothing."""
    shards.do(1, LeaseGrant(7, 60))
    shards.put(1, b"a", lease=7)
    shards.put(1, b"x", lease=7)
    seen = shards.shard(shards.lead(1), 1).leases.epoch
    shards.split(1, b"m", 2)
    shards.until(lambda: bool(shards.leaders(2)))
    assert shards.do(2, UnderLease(seen, Put(b"y", lease=7))).code == "lease_fenced"
    assert isinstance(shards.do(2, UnderLease(seen + 1, Put(b"y", lease=7))), PutResult)
    shards.settle(2)
    for node in shards.ids:
        assert shards.shard(node, 1).lease_keys(7) == [b"a"]
        assert shards.shard(node, 2).lease_keys(7) == [b"x", b"y"]
    shards.do(1, LeaseRevoke(7))
    end = shards.shard(shards.lead(1), 1).ended_elsewhere()
    assert end is not None
    assert shards.do(2, end).keys == 2
    assert read_all(shards.shard(shards.lead(2), 2)) == {}
