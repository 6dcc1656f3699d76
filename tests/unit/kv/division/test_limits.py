"""What is due to be split and merged: limits, patience, pace, no flapping."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from kv.division.figures import Figures
from kv.division.limits import Due, Limits, Pace
from kv.division.words import MERGE, SPLIT
from raftgroups.meta.records import (
    KeyspaceOptions,
    KeyspaceRecord,
    OperationRecord,
    ShardRecord,
    ShardState,
)
from raftgroups.meta.view import MetaView
from raftgroups.transport import NodeId

OPTIONS = KeyspaceOptions(
    split_bytes=1000, split_operations_a_second=100, merge_bytes=400, shards_max=4
)
PACE = Pace(at_once=1, apart_s=5.0, split_after_s=30.0, merge_after_s=300.0, again_after_s=60.0)
EDGES = (b"", b"h", b"p", None)


def view_of(options: KeyspaceOptions = OPTIONS, *operations: OperationRecord) -> MetaView:
    shards = [
        ShardRecord(n + 1, 1, EDGES[n] or b"", EDGES[n + 1], n + 1, replicas=("a", "b", "c"))
        for n in range(3)
    ]
    return MetaView(
        1,
        {},
        {1: KeyspaceRecord(1, "default", options=options)},
        {each.shard: each for each in shards},
        {each.operation: each for each in operations},
    )


def carrying(**shards: Any) -> dict[int, Figures]:
    """s1=Figures fields; the others carry enough to be left alone."""
    usual = {"size_bytes": 500, "operations_a_second": 60.0}
    return {
        number: Figures(number, NodeId("a"), **{**usual, **shards.get(f"s{number}", {})})
        for number in (1, 2, 3)
    }


def due_at(limits: Limits, figures: dict[int, Figures], *moments: float) -> list[Due | None]:
    return [limits.due(view_of(), figures, at) for at in moments]


def test_a_large_shard_is_split_at_its_middle_once_that_is_known() -> None:
    limits = Limits(PACE)
    large = carrying(s2={"size_bytes": 1001})
    assert limits.middles(view_of(), large) == (2,)
    assert limits.due(view_of(), large, 0.0) is None
    found = limits.due(view_of(), carrying(s2={"size_bytes": 1001, "middle": b"k"}), 1.0)
    assert found is not None
    assert (found.kind, found.shards, found.key) == (SPLIT, (2,), b"k")


def test_a_middle_that_is_not_within_is_none() -> None:
    for middle in (b"h", b"a", b"p", b""):
        figures = carrying(s2={"size_bytes": 5000, "middle": middle})
        assert Limits(PACE).due(view_of(), figures, 0.0) is None


def test_a_busy_shard_is_split_only_after_some_time_and_where_it_halves_the_load() -> None:
    busy = carrying(s1={"operations_a_second": 150.0, "load_middle": b"c"})
    limits = Limits(PACE)
    none, early, due = due_at(limits, busy, 0.0, 29.0, 31.0)
    assert none is early is None
    assert due == Due(SPLIT, (1,), b"c", "load: 500 bytes, 150/s")
    hot = carrying(s1={"operations_a_second": 150.0})  # one key carries it: no cut helps
    assert due_at(Limits(PACE), hot, 0.0, 1000.0) == [None, None]


def test_load_that_falls_in_between_begins_to_count_anew() -> None:
    limits = Limits(PACE)
    busy = carrying(s1={"operations_a_second": 150.0, "load_middle": b"c"})
    assert due_at(limits, busy, 0.0, 20.0) == [None, None]
    assert limits.due(view_of(), carrying(), 25.0) is None
    assert due_at(limits, busy, 26.0, 40.0) == [None, None]
    assert limits.due(view_of(), busy, 57.0) is not None


def test_small_neighbours_merge_after_a_longer_time() -> None:
    small = {"size_bytes": 150, "operations_a_second": 20.0}
    figures = carrying(s2=small, s3=small)
    limits = Limits(PACE)
    none, early, due = due_at(limits, figures, 0.0, 299.0, 300.0)
    assert none is early is None
    assert due == Due(MERGE, (2, 3), b"", "both are small")


def test_what_was_merged_would_not_be_split_again() -> None:
    """Half of the load that splits, together, is too much for a merge."""
    busy = {"size_bytes": 150, "operations_a_second": 26.0}
    assert due_at(Limits(PACE), carrying(s2=busy, s3=busy), 0.0, 9000.0) == [None, None]
    big = {"size_bytes": 201, "operations_a_second": 1.0}
    assert due_at(Limits(PACE), carrying(s2=big, s3=big), 0.0, 9000.0) == [None, None]


def test_a_shard_that_changed_begins_to_count_anew() -> None:
    small = {"size_bytes": 10, "operations_a_second": 0.0}
    limits, figures = Limits(PACE), carrying(s2=small, s3=small)
    assert limits.due(view_of(), figures, 0.0) is None
    view = view_of()
    changed = replace(view.shards[3], epoch=2)
    later = MetaView(2, {}, view.keyspaces, {**view.shards, 3: changed})
    assert limits.due(later, figures, 301.0) is None
    assert limits.due(later, figures, 602.0) is not None


def test_one_at_a_time_and_some_seconds_apart() -> None:
    large = {"size_bytes": 1001, "middle": b"k"}
    figures = carrying(s2=large, s3={"size_bytes": 1500, "middle": b"w"})
    limits = Limits(PACE)
    first = limits.due(view_of(), figures, 0.0)
    assert first is not None
    assert first.shards == (3,), "the largest first"
    assert limits.due(view_of(), figures, 4.0) is None
    busy = OperationRecord(7, SPLIT, "propose", (3,))
    assert limits.due(view_of(OPTIONS, busy), figures, 6.0) is None
    then = limits.due(view_of(), figures, 7.0)
    assert then is not None


def test_shards_that_something_is_done_to_are_left_alone() -> None:
    figures = carrying(s2={"size_bytes": 1001, "middle": b"k"})
    moving = OperationRecord(7, "move", "moving", (2,))
    assert Limits(PACE).due(view_of(OPTIONS, moving), figures, 0.0) is None
    view = view_of()
    forming = replace(view.shards[2], state=ShardState.FORMING)
    view = MetaView(1, {}, view.keyspaces, {**view.shards, 2: forming})
    assert Limits(PACE).due(view, figures, 0.0) is None


def test_shards_max_ends_splits_and_no_limits_mean_none() -> None:
    figures = carrying(s2={"size_bytes": 10_000, "middle": b"k", "operations_a_second": 1e6})
    full = replace(OPTIONS, shards_max=3)
    assert Limits(PACE).due(view_of(full), figures, 0.0) is None
    assert Limits(PACE).due(view_of(KeyspaceOptions()), figures, 0.0) is None
    assert Limits(PACE).middles(view_of(KeyspaceOptions()), figures) == ()


def test_what_was_given_up_rests() -> None:
    figures = carrying(s2={"size_bytes": 1001, "middle": b"k"})
    limits = Limits(PACE)
    assert limits.due(view_of(), figures, 0.0) is not None
    limits.rest((2,), 1.0)
    assert limits.due(view_of(), figures, 60.0) is None
    assert limits.due(view_of(), figures, 62.0) is not None


def test_a_shard_that_nobody_leads_is_left_alone() -> None:
    small = {"size_bytes": 1, "operations_a_second": 0.0}
    figures = carrying(s2=small, s3=small)
    del figures[3]
    assert due_at(Limits(PACE), figures, 0.0, 900.0) == [None, None]
