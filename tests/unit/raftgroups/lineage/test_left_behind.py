"""Replicas of shards that are over, on nodes that were no members any more and were never told."""

from __future__ import annotations

from typing import Any

import pytest

from raftgroups.commands import MergeAbort, MergeBegin
from raftgroups.machine import ShardMachine
from raftgroups.machine_parts import NO_KEYSPACE, ShardPlace
from raftgroups.outcomes import Done
from raftgroups.results import MergeResult
from raftgroups.status import Role
from storage.clock import ManualClock
from storage.latest import Latest
from storage.memory import MemoryEngine
from storage.mvcc_state import ShardState
from tests.unit.raftgroups.conftest import TestNode
from tests.unit.raftgroups.lineage.conftest import KEYSPACE, ShardCluster, read_all


def changed(shards: ShardCluster, group_id: int, change: str, node: TestNode) -> None:
    results: list[Any] = []
    getattr(shards.lead(group_id).host.group(group_id), change)(node.id, results.append)
    shards.until(lambda: bool(results))
    assert isinstance(results[0], Done), results


def forgotten(shards: ShardCluster, node: TestNode, group_id: int) -> None:
    shards.until(lambda: node.host.group(group_id).role is Role.REMOVED)
    done: list[bool] = []
    node.host.forget(group_id, lambda: done.append(True))
    shards.until(lambda: bool(done))


@pytest.fixture
def fourth(shards: ShardCluster) -> TestNode:
    """A node that has shards 1, below b"m", and 2 as a learner."""
    for key in (b"a", b"m", b"x"):
        shards.put(1, key, b"1")
    made = shards.start("d")  # type: ignore[arg-type]
    shards.run(0.5)
    made.host.join(1)
    changed(shards, 1, "add_learner", made)
    shards.settle(1)
    shards.split(1, b"m", 2)
    shards.until(lambda: shards.settled(2) and bool(shards.leaders(2)))
    return made


def test_the_snapshot_of_a_shard_that_absorbed_it_ends_one_that_never_froze(
    shards: ShardCluster, fourth: TestNode
) -> None:
    shards.network.isolate(fourth.id, shards.ids)
    changed(shards, 2, "remove", fourth)
    changed(shards, 1, "remove", fourth)
    shards.network.tap = lambda source, target, message: (
        [] if target == fourth.id and message.group == 2 else [message]
    )
    shards.network.heal()
    shards.run(1.0)
    shards.lead(1).host.group(1).dismiss(fourth.id)
    forgotten(shards, fourth, 1)
    shards.merge(1, 2)
    assert not fourth.host.group(2).replica.frozen
    ended: list[int] = []
    fourth.host.roster.on_end = ended.append
    fourth.host.join(1)
    changed(shards, 1, "add_learner", fourth)
    shards.settle(1)
    assert ended == [2]
    assert read_all(shards.shard(fourth, 1)) == {b"a": b"1", b"m": b"1", b"x": b"1"}
    assert fourth.fatal is None


def test_a_frozen_one_is_awaited_while_the_left_one_may_absorb_it(
    shards: ShardCluster, fourth: TestNode
) -> None:
    assert not fourth.host.awaited(2)
    merge, _ = shards.freeze(1, 2)
    assert all(shards[node].host.awaited(2) for node in shards.ids)
    assert not fourth.host.awaited(1)
    shards.settle(1)
    shards.network.tap = lambda source, target, message: (
        [] if target == fourth.id and message.group == 2 else [message]
    )
    shards.give_up(1, 2, merge)
    changed(shards, 2, "remove", fourth)
    shards.settle(1)
    assert fourth.host.group(2).replica.frozen
    assert not fourth.host.awaited(2), "the left one has seen the end of the attempt"
    shards.network.tap = None
    shards.run(1.0)
    assert shards.merge(1, 2).epoch == 2
    done: list[bool] = []
    fourth.host.retire(2, lambda: done.append(True))
    shards.until(lambda: bool(done))
    shards.run(1.0)
    assert sorted(fourth.host.groups) == [1]


def machine(state: ShardState, start: bytes, end: bytes | None) -> ShardMachine:
    clock = ManualClock()
    place = ShardPlace(state.shard, state.shard, KEYSPACE, state.segment, start, end)
    made = ShardMachine(Latest(MemoryEngine(clock=clock), clock), place)
    for name in ("frozen_by", "frozen_merge", "merging_with", "merge", "applied_index"):
        setattr(made.shard.state, name, getattr(state, name))
    return made


@pytest.mark.parametrize(
    ("left", "may"),
    [
        (ShardState(1, KEYSPACE, 1, applied_index=8), True),  # it has not seen the attempt
        (ShardState(1, KEYSPACE, 1, applied_index=12, merging_with=2, merge=9), True),
        (ShardState(1, KEYSPACE, 1, applied_index=12, merging_with=2, merge=11), False),
        (ShardState(1, KEYSPACE, 1, applied_index=12), False),
        (ShardState(4, KEYSPACE, 1, applied_index=12), True),  # shard 1 may be split off from it
        (ShardState(4, KEYSPACE + 1, 1, applied_index=12), False),
        (ShardState(1, NO_KEYSPACE, 1), True),  # it waits for its first snapshot
        (ShardState(4, NO_KEYSPACE, 1), False),
    ],
)
def test_what_may_absorb_a_frozen_shard(left: ShardState, may: bool) -> None:
    right = machine(ShardState(2, KEYSPACE, 2, frozen_by=1, frozen_merge=9), b"m", None)
    there = machine(left, b"", b"m")
    there.shard.state.keyspace = left.keyspace
    assert there.may_absorb(right) is may
    right.shard.state.frozen_by = 0
    assert not there.may_absorb(right)


def test_one_that_waits_for_its_first_snapshot_may_absorb_it_by_the_log_behind_that() -> None:
    right = machine(ShardState(2, KEYSPACE, 2, frozen_by=1, frozen_merge=9), b"m", None)
    clock = ManualClock()
    place = ShardPlace(1, 1, KEYSPACE, 1, b"", b"m")
    assert ShardMachine(Latest(MemoryEngine(clock=clock), clock), place).may_absorb(right)


def test_a_child_does_not_take_an_attempt_of_its_parent_for_its_own(shards: ShardCluster) -> None:
    """Attempts are places in a log, and a child has another log than its parent."""
    for key in (b"a", b"e", b"h", b"m", b"x"):
        shards.put(1, key, b"1")
    shards.split(1, b"m", 2)
    shards.until(lambda: bool(shards.leaders(2)))
    shards.merge(1, 2)
    last = shards.shard(shards.lead(1), 1).shard.state.last_merge
    shards.split(1, b"e", 3)
    shards.until(lambda: bool(shards.leaders(3)))
    shards.split(3, b"h", 4)
    while shards.lead(3).host.group(3).status().last_index < last - 1:
        shards.put(3, b"f")
    begun = shards.do(3, MergeBegin(4))
    assert begun.merge == last, "as luck would have it"
    assert isinstance(shards.do(3, MergeAbort(last)), MergeResult)
    assert not shards.shard(shards.lead(3), 3).shard.state.merging_with
