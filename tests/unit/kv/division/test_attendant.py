"""Where a node shows that a shard of its could be cut: never among the places of a lock's queue."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from kv.api.lockplan import key_of
from kv.division.attendant import Attendant
from kv.division.messages import Ask
from raftgroups.commands import LeaseGrant
from raftgroups.transport import NodeId
from tests.unit.raftgroups.lineage.conftest import ShardCluster

SHORT = range(1, 41)
"""Numbers of leases as clients choose them."""


class Notes:
    def tell(self, peer: NodeId, kind: str, body: bytes) -> bool:
        return True

    def on(self, kind: str, handler: Callable[[NodeId, bytes], bytes | None]) -> None:
        pass


@pytest.fixture
def shards() -> ShardCluster:
    made = ShardCluster(1)
    for lease in SHORT:
        made.do(1, LeaseGrant(lease, 600_000))
    for number in range(3):
        made.put(1, b"a%d" % number, b"plain")
    return made


@pytest.fixture
def attendant(shards: ShardCluster) -> Attendant:
    node = shards["a"]
    made = Attendant(
        host=node.host, notes=Notes(), scheduler=node.life, clock=node.life, rng=random.Random(1)
    )
    made.start()
    shards.run(1.5)
    return made


def middle(shards: ShardCluster, attendant: Attendant) -> bytes:
    ask = Ask(1, detail=True, middles=(1,))
    attendant.report(ask)
    shards.run(1.0)
    size = attendant.report(ask).replicas[0].size
    assert size is not None
    return size.middle


def wait_in(shards: ShardCluster, name: bytes, lease_of: Callable[[int], int]) -> list[bytes]:
    keys = [key_of(name, number) for number in SHORT]
    for number, key in zip(SHORT, keys, strict=True):
        shards.put(1, key, b"owner", lease=lease_of(number))
    return keys


def test_the_middle_is_before_a_queue_however_short_its_leases(
    shards: ShardCluster, attendant: Attendant
) -> None:
    wait_in(shards, b"nightly", lambda number: number)
    shards.run(1.5)
    assert middle(shards, attendant) == b"nightly/"


def test_keys_that_look_like_it_and_hang_on_no_lease_of_that_number_are_plain(
    shards: ShardCluster, attendant: Attendant
) -> None:
    keys = wait_in(shards, b"rooms", lambda number: 1 if number > 1 else 0)
    shards.run(1.5)
    assert middle(shards, attendant) in keys


def test_marks_of_the_load_are_before_it_too(shards: ShardCluster, attendant: Attendant) -> None:
    keys = wait_in(shards, b"nightly", lambda number: number)
    meter = attendant.meter(1)
    for key in keys:
        meter.note_read(key)
    shards.run(1.5)
    load = attendant.report(Ask(2, detail=True)).replicas[0].load
    assert load is not None
    assert load.marks
    assert set(load.marks) <= {b"nightly/", b"a0", b"a1", b"a2"}


def test_a_shard_that_begins_in_the_queue_is_cut_all_the_same(
    shards: ShardCluster, attendant: Attendant
) -> None:
    keys = wait_in(shards, b"nightly", lambda number: number)
    shards.split(1, b"nightly/", 2)
    shards.until(lambda: bool(shards.leaders(2)))
    shards.run(3.0)
    ask = Ask(1, detail=True, middles=(2,))
    attendant.report(ask)
    shards.run(1.0)
    size = next(each.size for each in attendant.report(ask).replicas if each.group == 2)
    assert size is not None
    assert size.middle in keys
