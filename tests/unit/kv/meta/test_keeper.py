"""Which groups a node serves, as the map has it."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

from kv.meta.cluster_map import ClusterMap
from kv.meta.keeper import Keeper
from kv.strong.places import is_from_before, write_place
from raftgroups.machine_parts import ShardPlace
from raftgroups.meta.records import DEFAULT_KEYSPACE_ID, OperationRecord, ShardRecord
from raftgroups.meta.view import Counters, MetaView
from raftgroups.status import Role
from storage.memory import MemoryEngine

OWN = "a"


def _view(version: int, *shards: int, **more: Any) -> MetaView:
    made = {each: ShardRecord(each, DEFAULT_KEYSPACE_ID, b"", None, each) for each in shards}
    return MetaView(version, shards=made, next=Counters(shard=6), **more)


class _Host:
    def __init__(self, groups: tuple[int, ...]) -> None:
        self.node_id = OWN
        self.groups = {
            each: SimpleNamespace(group_id=each, blank=False, role=Role.FOLLOWER) for each in groups
        }
        self.awaits: set[int] = set()
        self.erased: list[Callable[[], None]] = []

    def awaited(self, group: int) -> bool:
        return group in self.awaits

    def retire(self, group: int, done: Callable[[], None]) -> None:
        del self.groups[group]
        self.erased.append(done)


def _keeper(*groups: int) -> tuple[Keeper, ClusterMap, set[int], _Host]:
    """With replicas of these groups, what is served, and what holds them."""
    served: set[int] = set()
    host = _Host(groups)
    cluster_map = ClusterMap()
    keeper = Keeper(
        host=cast(Any, host),
        engine=MemoryEngine(),
        meta=cast(Any, SimpleNamespace(map=cluster_map)),
        serve=served.add,
        leave=served.discard,
        served=lambda: served,
        tasks=cast(Any, None),
        loop=cast(Any, SimpleNamespace(call_soon=lambda callback: callback())),
    )
    keeper.start()
    return keeper, cluster_map, served, host


def test_a_replica_of_a_shard_that_is_over_is_served_no_longer_and_erased() -> None:
    """Its node was away when it was moved, and when the shard was absorbed elsewhere."""
    keeper, cluster_map, served, host = _keeper(1, 5)
    write_place(keeper._engine, ShardPlace(5, 5, DEFAULT_KEYSPACE_ID, 5))
    cluster_map.learn(_view(1, 1, 5))
    assert served == {1, 5}
    cluster_map.learn(_view(2, 1))
    assert served == {1}
    assert list(host.groups) == [1]
    assert not is_from_before(keeper._engine, 5), "its place is known until its rows are gone"
    (done,) = host.erased
    done()
    assert is_from_before(keeper._engine, 5)
    assert not keeper._erased, "nobody waits to hear of it"


def test_one_that_a_replica_here_may_have_to_absorb_yet_waits_for_that() -> None:
    keeper, cluster_map, served, host = _keeper(1, 5)
    host.awaits = {5}
    cluster_map.learn(_view(1, 1, 5))
    cluster_map.learn(_view(2, 1))
    assert served == {1}
    assert list(host.groups) == [1, 5]
    host.awaits = set()
    keeper.look_soon()
    assert list(host.groups) == [1]


def test_the_meta_group_and_what_a_newer_map_may_have_are_never_erased() -> None:
    _, cluster_map, _, host = _keeper(0, 1, 5, 7)
    cluster_map.learn(_view(1, 1))
    assert list(host.groups) == [0, 1, 7], "7 was not given out yet when this map was made"


def test_one_that_is_about_to_be_born_or_not_known_yet_is_served() -> None:
    _, cluster_map, served, _ = _keeper(1, 5, 7)
    split = OperationRecord(1, "split", "propose", (1,), new_shards=(5,))
    cluster_map.learn(_view(1, 1, operations={1: split}))
    assert served == {1, 5, 7}
