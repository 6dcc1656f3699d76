"""A shard is split: what both children have, who leads, what a replica does that comes late."""

from __future__ import annotations

from typing import Any

import pytest

from raftgroups.commands import LeaseGrant, Put, SetTtl, Split, Token, encode
from raftgroups.results import Failure, PutResult, SplitResult
from raftgroups.status import Role
from storage.errors import KeyRange, WrongShardError
from storage.mvcc_events import read_events, segment_range
from tests.unit.raftgroups.lineage.conftest import ShardCluster, read_all, value


def fill(shards: ShardCluster) -> None:
    for key in (b"a", b"b", b"m", b"x"):
        shards.put(1, key, b"1" + key)


def test_both_sides_have_their_keys_and_go_on(shards: ShardCluster) -> None:
    fill(shards)
    leader = shards.lead(1)
    revision = shards.shard(leader, 1).revision
    result = shards.split(1, b"m", 2)
    assert result == SplitResult(revision, 1)
    shards.until(lambda: bool(shards.leaders(2)))
    assert shards.leaders(2) == [leader], "the proposer leads from the birth on"
    assert leader.host.group(2).term == 1
    assert leader.host.group(2).status().elections == 0
    assert shards.put(1, b"c").revision == shards.put(2, b"n").revision == revision + 1
    for group in (1, 2):
        shards.settle(group)
    for node in shards.ids:
        left, right = shards.shard(node, 1), shards.shard(node, 2)
        assert read_all(left) == {b"a": b"1a", b"b": b"1b", b"c": b""}
        assert read_all(right) == {b"m": b"1m", b"x": b"1x", b"n": b""}
        assert (left.shard.state.keys, right.shard.state.keys) == (3, 3)
        assert left.view.place == KeyRange(b"", b"m", 1)
        assert right.view.place == KeyRange(b"m", None, 1)
        assert right.view.get(b"m", revision) == right.view.get(b"m")


def test_the_other_side_is_refused_with_the_range(shards: ShardCluster) -> None:
    fill(shards)
    shards.split(1, b"m", 2)
    answer = shards.put(1, b"x")
    assert isinstance(answer, Failure)
    assert (answer.code, answer.place) == ("wrong_shard", KeyRange(b"", b"m", 1))
    with pytest.raises(WrongShardError) as refused:
        shards.shard(shards.lead(1), 1).view.get(b"x")
    assert refused.value.place == KeyRange(b"", b"m", 1)
    again = shards.split(1, b"m", 3)
    assert again.code == "wrong_shard"
    assert 3 not in shards.lead(1).host.groups


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (Split(b"", 2, 3, 4), "empty_key"),
        (Split(b"m", 0, 3, 4), "invalid_option"),
        (Split(b"m", 2, 3, 3), "invalid_option"),
        (Split(b"m", 2, 0, 3), "invalid_option"),
    ],
)
def test_what_cannot_be_split(shards: ShardCluster, command: Split, code: str) -> None:
    assert shards.do(1, command).code == code
    assert list(shards.lead(1).host.groups) == [1]


def test_operations_of_the_same_entry_see_the_new_bounds(shards: ShardCluster) -> None:
    """What waits travels as one entry: what comes behind the split in it is applied after it."""
    leader = shards.lead(1)
    results: list[Any] = []
    for command in (Put(b"a"), Put(b"x"), Split(b"m", 2, 2, 3), Put(b"y"), Put(b"b")):
        leader.host.group(1).propose(encode(command), results.append)
    shards.until(lambda: len(results) == 5)
    kinds = [type(result.result).__name__ for result in results]
    assert kinds == ["PutResult", "PutResult", "SplitResult", "Failure", "PutResult"]
    shards.until(lambda: bool(shards.leaders(2)))
    shards.put(2, b"y")
    shards.settle(1)
    shards.settle(2)
    for node in shards.ids:
        assert read_all(shards.shard(node, 1)) == {b"a": b"", b"b": b""}
        assert read_all(shards.shard(node, 2)) == {b"x": b"", b"y": b""}


def test_tokens_leases_and_times_to_live(shards: ShardCluster) -> None:
    shards.do(1, LeaseGrant(7, 60))
    shards.put(1, b"a", lease=7)
    shards.put(1, b"x", lease=7)
    shards.put(1, b"b", ttl_ms=5_000)
    shards.put(1, b"y", ttl_ms=5_000)
    shards.do(1, SetTtl(b"x", 9_000))
    first = shards.do(1, Put(b"x", b"once"), Token(b"client", 1))
    shards.split(1, b"m", 2)
    shards.until(lambda: bool(shards.leaders(2)))
    assert shards.do(2, Put(b"x", b"once"), Token(b"client", 1)) == first
    assert shards.do(1, Put(b"x", b"once"), Token(b"client", 1)) == first
    shards.settle(2)
    for node in shards.ids:
        left, right = shards.shard(node, 1), shards.shard(node, 2)
        assert (left.leases.ids(), right.leases.ids()) == ([7], [])
        assert (left.lease_keys(7), right.lease_keys(7)) == ([b"a"], [])
        assert (left.ttls.count, right.ttls.count) == (1, 2)
        assert (left.ttls.due(6_000), right.ttls.due(10_000)) == ([b"b"], [b"y", b"x"])
    # A refusal because of the range is not remembered: the retry goes to the other shard.
    token = Token(b"client", 2)
    assert shards.do(1, Put(b"z"), token).code == "wrong_shard"
    assert isinstance(shards.do(2, Put(b"z"), token), PutResult)


def test_a_crash_at_once_finds_both_or_none(shards: ShardCluster) -> None:
    fill(shards)
    follower = shards.followers()[0]
    follower.writer.hold = True
    shards.split(1, b"m", 2)
    shards.until(lambda: bool(shards.leaders(2)))
    assert 2 not in follower.host.groups
    shards.restart(follower.id)
    shards.settle(1)
    shards.settle(2)
    assert read_all(shards.shard(follower.id, 2)) == {b"m": b"1m", b"x": b"1x"}
    leader = shards.lead(2)
    for node in list(shards.ids):
        shards.restart(node)
    shards.lead(2)
    shards.settle(2)
    assert leader.id in shards.ids
    assert shards.put(2, b"n").revision == 6


def test_events_go_on_through_the_segments(shards: ShardCluster) -> None:
    fill(shards)
    shards.split(1, b"m", 2)
    shards.until(lambda: bool(shards.leaders(2)))
    shards.put(2, b"x", b"2")
    view = shards.shard(shards.lead(2), 2).view
    keys = [(event.kv.key, event.kv.mod_revision) for event in read_events(view, 2).events]
    assert keys == [(b"m", 4), (b"x", 5), (b"x", 6)]
    assert segment_range(view, 1) == (b"m", None)
    shards.lead(1)
    old = shards.shard(shards.lead(1), 1).view
    keys = [(event.kv.key, event.kv.mod_revision) for event in read_events(old, 1).events]
    assert keys == [(b"a", 2), (b"b", 3)]


def test_a_replica_that_is_behind_gets_snapshots_of_both(shards: ShardCluster) -> None:
    """The child's snapshot is refused while the local parent has not applied the split; and the
    parent's takes away what is the child's now."""
    fill(shards)
    late = shards.followers()[0]
    shards.network.isolate(late.id, shards.ids)
    shards.split(1, b"m", 2)
    shards.until(lambda: bool(shards.leaders(2)))
    for number in range(30):
        shards.put(1, b"a%d" % number)
        shards.put(2, b"x%d" % number)
    for node in shards.alive():
        if node is not late:
            for group in (1, 2):
                node.host.group(group).compact(0)
    shards.run(0.5)
    late.host.join(2)
    parent = shards.lead(1)
    hold = shards.network
    others = [node for node in shards.ids if node != late.id]
    hold.heal()

    def only_child(source: Any, target: Any, message: Any) -> list[Any]:
        return [] if target == late.id and message.group == 1 else [message]

    hold.tap = only_child
    shards.run(3.0)
    dropped = late.host.status().dropped
    assert dropped.get("snapshot-overlaps", 0) > 0
    assert late.host.group(2).replica.waiting
    assert late.host.group(2).status().role is Role.LEARNER
    hold.tap = None
    shards.settle(1)
    shards.until(lambda: shards.settled(2), 30.0)
    assert read_all(shards.shard(late, 1)) == read_all(shards.shard(parent, 1))
    assert read_all(shards.shard(late, 2)) == read_all(shards.shard(others[0], 2))
    assert value(shards.shard(late, 2), b"m") == b"1m"
    assert late.host.group(2).status().role is not Role.LEARNER


def test_a_refused_snapshot_leaves_its_place_to_the_one_it_waits_for() -> None:
    """The child's snapshot is refused until the parent's has come; the node sends one at a time."""
    shards = ShardCluster(snapshot_streams_max=1)
    fill(shards)
    late = shards.followers()[0]
    shards.network.isolate(late.id, shards.ids)
    shards.split(1, b"m", 2)
    shards.until(lambda: bool(shards.leaders(2)))
    leader = shards.lead(2)
    assert leader is shards.lead(1)
    shards.put(2, b"x2")
    shards.run(0.5)
    late.host.join(2)
    shards.network.tap = lambda source, target, message: (
        [] if target == late.id and message.group == 1 else [message]
    )
    shards.network.heal()
    shards.until(lambda: late.host.status().dropped.get("snapshot-overlaps", 0) > 0)
    shards.put(1, b"a2")
    shards.run(0.5)
    leader.host.group(1).compact(0)
    shards.run(0.5)
    shards.network.tap = None
    shards.until(lambda: shards.settled(1) and shards.settled(2), 5.0)
    assert late.host.group(1).status().snapshots_received == 1


def test_a_child_that_had_been_joined_is_born_after_all(shards: ShardCluster) -> None:
    fill(shards)
    late = shards.followers()[0]
    late.writer.hold = True
    shards.split(1, b"m", 2)
    shards.until(lambda: bool(shards.leaders(2)))
    late.writer.hold = False
    shards.crash(late.id)
    fresh = shards.start(late.id, late.engine)
    fresh.host.join(2)
    assert fresh.host.group(2).replica.waiting
    shards.settle(1)
    shards.settle(2)
    assert not fresh.host.group(2).replica.waiting
    assert read_all(shards.shard(fresh, 2)) == {b"m": b"1m", b"x": b"1x"}
    assert fresh.fatal is None


def test_a_born_child_takes_a_new_member(shards: ShardCluster) -> None:
    fill(shards)
    shards.split(1, b"m", 2)
    shards.until(lambda: bool(shards.leaders(2)))
    fourth = shards.start("d")  # type: ignore[arg-type]
    shards.run(0.5)
    fourth.host.join(2)
    results: list[Any] = []
    group = shards.lead(2).host.group(2)
    group.add_learner(fourth.id, results.append)
    shards.until(lambda: len(results) == 1)
    group.promote(fourth.id, results.append)
    shards.until(lambda: len(results) == 2)
    shards.settle(2)
    assert read_all(shards.shard(fourth, 2)) == {b"m": b"1m", b"x": b"1x"}
    first = next(node for node in shards.ids if node not in (fourth.id, shards.lead(2).id))
    group.remove(first, results.append)
    shards.until(lambda: len(results) == 3)
    shards.until(lambda: shards[first].host.group(2).role is Role.REMOVED)
    forgotten: list[bool] = []
    before = read_all(shards.shard(first, 1))
    shards[first].host.forget(2, lambda: forgotten.append(True))
    shards.until(lambda: bool(forgotten))
    assert read_all(shards.shard(first, 1)) == before
    assert [event.kv.key for event in read_events(shards.shard(first, 1).view, 2).events] == [
        b"a",
        b"b",
    ]
