"""Which groups a node serves, as the map has it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from kv.meta.cluster_map import ClusterMap
from kv.meta.keeper import Keeper
from raftgroups.meta.records import DEFAULT_KEYSPACE_ID, OperationRecord, ShardRecord
from raftgroups.meta.view import Counters, MetaView
from raftgroups.status import Role
from storage.memory import MemoryEngine

OWN = "a"


def _view(version: int, *shards: int, **more: Any) -> MetaView:
    made = {each: ShardRecord(each, DEFAULT_KEYSPACE_ID, b"", None, each) for each in shards}
    return MetaView(version, shards=made, next=Counters(shard=6), **more)


def _keeper(*groups: int) -> tuple[Keeper, ClusterMap, set[int]]:
    """With replicas of these groups, and what is served."""
    served: set[int] = set()
    found = {
        each: SimpleNamespace(group_id=each, blank=False, role=Role.FOLLOWER) for each in groups
    }
    cluster_map = ClusterMap()
    keeper = Keeper(
        host=cast(Any, SimpleNamespace(node_id=OWN, groups=found)),
        engine=MemoryEngine(),
        meta=cast(Any, SimpleNamespace(map=cluster_map)),
        serve=served.add,
        leave=served.discard,
        served=lambda: served,
        tasks=cast(Any, None),
        loop=cast(Any, SimpleNamespace(call_soon=lambda callback: callback())),
    )
    keeper.start()
    return keeper, cluster_map, served


def test_a_replica_of_a_shard_that_is_over_is_served_no_longer() -> None:
    """Its node was away when it was moved, and when the shard was absorbed elsewhere."""
    _, cluster_map, served = _keeper(1, 5)
    cluster_map.learn(_view(1, 1, 5))
    assert served == {1, 5}
    cluster_map.learn(_view(2, 1))
    assert served == {1}


def test_one_that_is_about_to_be_born_or_not_known_yet_is_served() -> None:
    _, cluster_map, served = _keeper(1, 5, 7)
    split = OperationRecord(1, "split", "propose", (1,), new_shards=(5,))
    cluster_map.learn(_view(1, 1, operations={1: split}))
    assert served == {1, 5, 7}
