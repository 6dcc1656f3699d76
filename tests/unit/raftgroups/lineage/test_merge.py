"""Two neighbours become one shard: what it has, what is refused meanwhile, who comes late."""

from __future__ import annotations

from typing import Any

import pytest

from raftgroups.commands import (
    Absorb,
    Compact,
    Freeze,
    LeaseGrant,
    MergeAbort,
    MergeBegin,
    Put,
    Thaw,
    Tick,
    Token,
    encode,
)
from raftgroups.machine import ShardMachine
from raftgroups.machine_parts import ShardPlace
from raftgroups.outcomes import Refused
from raftgroups.refusals import ReplicaBehindError
from raftgroups.results import MergeResult
from storage.clock import ManualClock
from storage.errors import CompactedError, KeyRange
from storage.latest import Latest
from storage.memory import MemoryEngine
from storage.mvcc_events import read_events, segment_range
from tests.unit.raftgroups.lineage.conftest import KEYSPACE, ShardCluster, read_all


@pytest.fixture
def pair(shards: ShardCluster) -> ShardCluster:
    """Shards 1 below b"m" and 2 from there on, with revisions of their own."""
    for key in (b"a", b"m", b"x"):
        shards.put(1, key, b"1")
    shards.split(1, b"m", 2)
    shards.until(lambda: bool(shards.leaders(2)))
    for number in range(5):
        shards.put(2, b"x", b"%d" % number)
    shards.put(1, b"b", b"1")
    return shards


def test_a_merged_shard_has_both_sides(pair: ShardCluster) -> None:
    left, right = (pair.shard(pair.lead(group), group).revision for group in (1, 2))
    result = pair.merge(1, 2)
    assert isinstance(result, MergeResult)
    revision = max(left, right) + 1
    assert (result.revision, result.epoch) == (revision, 2)
    assert pair.put(1, b"z", b"9").revision == revision + 1
    pair.settle(1)
    for node in pair.ids:
        assert list(pair[node].host.groups) == [1]
        machine = pair.shard(node, 1)
        assert read_all(machine) == {b"a": b"1", b"b": b"1", b"m": b"1", b"x": b"4", b"z": b"9"}
        assert machine.shard.state.keys == 5
        assert machine.view.place == KeyRange(b"", None, 2)
        assert machine.absorbed == (2,)
        with pytest.raises(CompactedError):
            machine.view.get(b"a", revision - 1)
        with pytest.raises(CompactedError):
            read_events(machine.view, revision - 1)
    for node in list(pair.ids):
        pair.restart(node)
    assert pair.put(1, b"c").revision == revision + 2
    assert list(pair.lead(1).host.groups) == [1]


def test_cursors_go_on_behind_a_merge(pair: ShardCluster) -> None:
    right = pair.shard(pair.lead(2), 2)
    segment, at = right.shard.state.segment, right.revision - 2
    pair.merge(1, 2)
    pair.put(1, b"x", b"last")
    pair.put(1, b"a", b"last")
    view = pair.shard(pair.lead(1), 1).view
    start, end = segment_range(view, segment)
    assert (start, end) == (b"m", None)
    page = read_events(view, at + 1, start, end, segment=segment)
    assert [event.kv.value for event in page.events] == [b"3", b"4", b"last"]
    start, end = segment_range(view, 1)
    assert (start, end) == (b"", None)
    page = read_events(view, 2, start, end, segment=1)
    assert sorted(event.kv.value for event in page.events) == [
        b"0", b"1", b"1", b"1", b"1", b"1", b"2", b"3", b"4", b"last", b"last",
    ]  # fmt: skip
    # Compaction behind the merge takes what was kept, and cursors say so.
    pair.do(1, Compact(pair.shard(pair.lead(1), 1).revision))
    leader = pair.lead(1)
    for _ in range(4):
        pair.do(1, Tick())
        pair.run(0.2)
    assert not pair.shard(leader, 1).shard.sweep_pending
    assert pair.shard(leader, 1).view.segments.ancestors == ()
    with pytest.raises(CompactedError):
        segment_range(pair.shard(leader, 1).view, segment)


def test_a_frozen_shard_neither_reads_nor_writes(pair: ShardCluster) -> None:
    before = pair.shard(pair.lead(2), 2).clock_ms
    merge, _ = pair.freeze(1, 2)
    answer = pair.put(2, b"x")
    assert (answer.code, answer.place) == ("wrong_shard", KeyRange(b"m", None, 1, True))
    assert pair.do(2, Put(b"x"), Token(b"c", 1)).code == "wrong_shard"
    assert pair.do(2, Tick()).code == "wrong_shard"
    assert pair.shard(pair.lead(2), 2).clock_ms == before
    assert pair.split(1, b"b", 7).code == "not_now"
    results: list[Any] = []
    for group in (1, 2):
        pair.lead(group).host.group(group).remove(pair.ids[0], results.append)
        pair.until(lambda: bool(results))
        assert isinstance(results.pop(), Refused)
    pair.give_up(1, 2, merge)
    assert pair.do(2, Put(b"x"), Token(b"c", 1)).revision == 10
    assert pair.do(1, Absorb(2, merge, 5, 90, KEYSPACE, b"m")).code == "merge_over"
    assert pair.do(2, Thaw(merge + 1)).merge == merge + 1


def test_late_commands_of_an_attempt_do_nothing(pair: ShardCluster) -> None:
    merge, index = pair.freeze(1, 2)
    pair.give_up(1, 2, merge)
    again, frozen = pair.freeze(1, 2)
    assert again > merge
    assert pair.do(2, Freeze(1, merge)).code == "not_now"
    assert pair.do(2, Thaw(merge)).code == "merge_over"
    assert pair.do(1, Absorb(2, merge, index, 90, KEYSPACE, b"m")).code == "merge_over"
    assert pair.do(1, MergeBegin(2)).code == "not_now"
    assert isinstance(pair.do(1, Absorb(2, again, frozen, 91, KEYSPACE, b"m")), MergeResult)

    assert pair.do(1, MergeAbort(again)).code == "merge_over"


def test_a_refusal_depends_on_the_left_log_alone() -> None:
    """A replica that has lost what it applied decides once more, when its own right replica has
    gone on, or is gone: it must refuse what the others have refused."""
    place = ShardPlace(1, 1, KEYSPACE, 1, b"", b"m")
    machine = ShardMachine(Latest(MemoryEngine(), ManualClock()), place)
    machine.apply(2, encode(MergeBegin(2)))
    for keyspace, start in ((KEYSPACE, b"n"), (KEYSPACE + 1, b"m")):
        result: Any = machine.apply(3, encode(Absorb(2, 2, 9, 90, keyspace, start)))
        assert result.code == "not_now"
    with pytest.raises(ReplicaBehindError):
        machine.apply(4, encode(Absorb(2, 2, 9, 90, KEYSPACE, b"m")))


def test_remembered_answers_are_united_and_clocks_moved(pair: ShardCluster) -> None:

    pair.do(1, LeaseGrant(7, 60))
    one = pair.do(1, Put(b"a", lease=7), Token(b"c", 1))
    two = pair.do(2, Put(b"y", ttl_ms=5_000), Token(b"c", 2))
    results: list[Any] = []
    payload = encode(Put(b"w", ttl_ms=9_000), None, 70_000)  # its clock is far ahead
    pair.lead(2).host.group(2).propose(payload, results.append)
    pair.until(lambda: bool(results))
    pair.merge(1, 2)
    assert pair.do(1, Put(b"a", lease=7), Token(b"c", 1)) == one
    assert pair.do(1, Put(b"y", ttl_ms=5_000), Token(b"c", 2)) == two
    pair.settle(1)
    for node in pair.ids:
        machine = pair.shard(node, 1)
        assert machine.leases.ids() == [7]
        assert machine.leases.remaining_s(7, machine.clock_ms) == 60
        assert machine.ttls.count == 2
        assert machine.ttl_remaining_ms(b"w", machine.clock_ms) == 9_000
        assert machine.ttls.due(9_000) == [b"y", b"w"]


def test_a_left_replica_that_is_behind_absorbs_when_it_gets_there(pair: ShardCluster) -> None:
    late = next(node for node in pair.followers() if node is not pair.lead(2))

    def cut(source: Any, target: Any, message: Any) -> list[Any]:
        return [] if target == late.id and message.group == 1 else [message]

    pair.network.tap = cut
    pair.merge(1, 2)
    pair.put(1, b"z")
    assert sorted(late.host.groups) == [1, 2]
    pair.network.tap = None
    pair.settle(1)
    assert list(late.host.groups) == [1]
    assert read_all(pair.shard(late, 1)) == read_all(pair.shard(pair.lead(1), 1))


@pytest.mark.parametrize("splits_again", [False, True])
def test_a_left_snapshot_ends_the_local_right_replica(
    pair: ShardCluster, splits_again: bool
) -> None:
    late = next(node for node in pair.followers() if node is not pair.lead(2))

    def cut(source: Any, target: Any, message: Any) -> list[Any]:
        return [] if target == late.id and message.group in (1, 3) else [message]

    pair.network.tap = cut
    pair.merge(1, 2)
    for number in range(20):
        pair.put(1, b"z%d" % number)
    if splits_again:
        pair.split(1, b"q", 3)
        pair.until(lambda: bool(pair.leaders(3)))
        pair.put(3, b"zz")
    for node in pair.alive():
        if node is not late:
            for group in node.host.groups.values():
                group.compact(0)
    pair.run(0.3)
    ended: list[int] = []
    late.host.roster.on_end = ended.append
    if splits_again:
        late.host.join(3)
    pair.network.tap = None
    pair.settle(1)
    assert ended == [2]
    if splits_again:
        pair.until(lambda: pair.settled(3), 30.0)
        assert read_all(pair.shard(late, 3)) == read_all(pair.shard(pair.lead(3), 3))
    assert sorted(late.host.groups) == ([1, 3] if splits_again else [1])
    assert read_all(pair.shard(late, 1)) == read_all(pair.shard(pair.lead(1), 1))
    assert late.fatal is None


def test_without_the_right_replica_the_node_stops(pair: ShardCluster) -> None:
    """The rule that a merge waits for every replica, broken: never another state, rather none."""
    late = next(node for node in pair.followers() if node is not pair.lead(2))

    def cut(source: Any, target: Any, message: Any) -> list[Any]:
        return [] if target == late.id and message.group == 2 else [message]

    pair.network.tap = cut
    merge = pair.do(1, MergeBegin(2)).merge
    index = pair.do(2, Freeze(1, merge)).index
    others = [node for node in pair.alive() if node is not late]
    pair.until(lambda: all(n.host.group(2).status().durable_applied_index >= index for n in others))
    pair.do(1, Absorb(2, merge, index, 50, KEYSPACE, b"m"))
    pair.until(lambda: late.fatal is not None)
    assert "should be frozen" in str(late.fatal)


def test_merge_after_split_after_merge(pair: ShardCluster) -> None:
    pair.merge(1, 2)
    pair.split(1, b"b", 3)
    pair.until(lambda: bool(pair.leaders(3)))
    pair.split(3, b"n", 4)
    pair.until(lambda: bool(pair.leaders(4)))
    pair.put(4, b"x", b"5")
    pair.merge(3, 4)
    pair.merge(1, 3)
    pair.settle(1)
    for node in pair.ids:
        assert read_all(pair.shard(node, 1)) == {b"a": b"1", b"b": b"1", b"m": b"1", b"x": b"5"}
        assert pair.shard(node, 1).absorbed == (2, 4, 3)
    view = pair.shard(pair.lead(1), 1).view
    page = read_events(view, 2, *segment_range(view, 1), segment=1)
    values = [event.kv.value for event in page.events if event.kv.key == b"x"]
    assert values == [b"1", b"0", b"1", b"2", b"3", b"4", b"5"]


def test_a_retry_across_split_merge_and_change_of_leaders(shards: ShardCluster) -> None:
    def hand_over(group: int) -> None:
        leader = shards.lead(group)
        target = next(node for node in shards.ids if node != leader.id)
        results: list[Any] = []
        leader.host.group(group).transfer(target, results.append)
        shards.until(lambda: bool(results))
        shards.until(lambda: [node.id for node in shards.leaders(group)] == [target])

    token = Token(b"client", 5)
    shards.put(1, b"b")
    first = shards.do(1, Put(b"x", b"once"), token)
    shards.split(1, b"m", 2)
    shards.until(lambda: bool(shards.leaders(2)))
    hand_over(2)
    assert shards.do(2, Put(b"x", b"once"), token) == first
    shards.merge(1, 2)
    hand_over(1)
    assert shards.do(1, Put(b"x", b"once"), token) == first
    for node in list(shards.ids):
        shards.restart(node)
    assert shards.do(1, Put(b"x", b"once"), token) == first
    view = shards.shard(shards.lead(1), 1).view
    assert view.get(b"x").mod_revision == first.revision  # type: ignore[union-attr]
