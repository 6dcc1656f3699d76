"""Compaction: what it refuses at once, what it removes step by step, and that nobody sees how far
it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from storage.codec import Table
from storage.engine import Batch
from storage.errors import CompactedError, FutureRevisionError
from storage.memory import MemoryEngine
from storage.mvcc import Shard
from storage.mvcc_compaction import restart_sweep, sweep, sweep_pending
from storage.mvcc_events import read_events
from storage.mvcc_state import OPEN, Segments, ShardState, Source

from .conftest import Bench, StrictSource

MakeBench = Callable[..., Bench]


def stored_revisions(bench: Bench, segment: int = 11) -> list[int]:
    return [
        int.from_bytes(key[9:17], "big")
        for key in bench.rows(Table.EVENT)
        if int.from_bytes(key[1:9], "big") == segment
    ]


def busy(bench: Bench) -> None:
    """Revisions 2..13: puts, overwrites, deletes, a re-creation, a ranged delete."""
    for name in (b"a", b"b", b"c"):
        bench.put(name, b"1")
    bench.put(b"a", b"2")
    bench.delete(b"b")  # 6
    bench.put(b"b", b"3")
    bench.delete(b"c")  # 8
    bench.put(b"a", b"4")
    bench.put(b"d", b"5")
    with bench.shard.begin() as scope:  # 11
        scope.delete_range(b"a", b"c")
    bench.put(b"a", b"6")
    bench.delete(b"d")  # 13
    bench.commit()


def everything(shard: Shard) -> dict[str, Any]:
    """All that can be read."""
    view, low = shard.view, max(shard.state.compact_revision, 1)
    return {
        "ranges": [view.read_range(b"", None, r) for r in range(low, shard.state.revision + 1)],
        "gets": [view.get(key, r) for key in (b"a", b"b", b"c", b"d") for r in (0, low, 13)],
        "events": read_events(view, low),
    }


@pytest.mark.parametrize("revision", range(2, 14))
def test_no_read_can_tell_how_far_the_sweep_is(revision: int, make_bench: MakeBench) -> None:
    bench = make_bench()
    busy(bench)
    before = [bench.shard.view.read_range(b"", None, r).items for r in range(revision, 14)]
    bench.shard.compact(revision)
    expected = everything(bench.shard)
    assert [found.items for found in expected["ranges"]] == before
    while bench.shard.sweep_pending:
        bench.commit(sweep_events=1)
        assert everything(bench.shard) == expected
        assert everything(bench.crash()) == expected
    assert set(stored_revisions(bench)) == set(range(revision, 14))
    # Tombstones: b until 7 and again from 11, c from 8, d from 13.
    newest = {b"a": (12, True), b"b": (11, False), b"c": (8, False), b"d": (13, False)}
    rows = {key[5:] for key in bench.rows(Table.CURRENT)}
    assert rows == {key for key, (mod, live) in newest.items() if live or mod > revision}


def test_it_takes_effect_at_once(bench: Bench) -> None:
    busy(bench)
    with pytest.raises(FutureRevisionError, match="shard 1 is at 13"):
        bench.shard.compact(14)
    bench.shard.compact(8)
    for attempt in (8, 7, 0, -1):
        with pytest.raises(CompactedError) as refused:
            bench.shard.compact(attempt)
        assert refused.value.compact_revision == 8
    with pytest.raises(CompactedError):
        bench.get(b"a", 7)
    assert bench.value(b"a", 8) == b"2"
    bench.commit(sweep_events=0)
    assert bench.crash().state.compact_revision == 8
    assert bench.shard.sweep_pending
    assert bench.sweep() > 0


def test_a_step_is_bounded_and_goes_on_after_a_crash(bench: Bench) -> None:
    for nth in range(100):
        bench.put(b"%d" % nth)
    bench.commit()
    bench.shard.compact(101)
    bench.commit(sweep_events=40)
    assert len(stored_revisions(bench)) == 60
    bench.crash()
    bench.commit(sweep_events=40)
    assert len(stored_revisions(bench)) == 20
    assert bench.sweep(sweep_events=40) == 1
    assert stored_revisions(bench) == [101]
    assert not bench.crash().sweep_pending


def test_a_step_can_end_inside_a_revision(bench: Bench) -> None:
    with bench.shard.begin() as scope:
        for nth in range(10):
            scope.put(b"%d" % nth, b"")
    with bench.shard.begin() as scope:
        scope.delete_range(b"", None)
    bench.put(b"last")
    bench.commit()
    bench.shard.compact(3)
    bench.commit(sweep_events=4)
    assert len(stored_revisions(bench)) == 6 + 10 + 1
    assert len(bench.rows(Table.CURRENT)) == 11
    bench.commit(sweep_events=9)
    assert len(stored_revisions(bench)) == 10 + 1
    assert len(bench.rows(Table.CURRENT)) == 8
    bench.sweep()
    assert stored_revisions(bench) == [3] * 10 + [4]
    assert len(bench.rows(Table.CURRENT)) == 1
    bench.shard.compact(4)
    bench.sweep()
    assert stored_revisions(bench) == [4]


def test_revisions_that_are_not_stored_yet_are_swept_later(bench: Bench) -> None:
    bench.put(b"a")
    bench.commit()
    bench.delete(b"a")
    bench.put(b"b")
    bench.shard.compact(4)
    bench.commit()
    assert stored_revisions(bench) == [3, 4]
    assert bench.shard.sweep_pending
    bench.sweep()
    assert stored_revisions(bench) == [4]
    assert [key[5:] for key in bench.rows(Table.CURRENT)] == [b"b"]


def test_a_key_created_again_in_the_batch_of_the_sweep_stays(bench: Bench) -> None:
    bench.put(b"a")
    bench.delete(b"a")
    bench.commit()
    bench.shard.compact(3)
    bench.put(b"a", b"again")
    batch = bench.commit()
    assert not bench.shard.sweep_pending
    assert len(batch) > 0
    assert bench.crash().view.get(b"a") is not None
    assert bench.value(b"a") == b"again"


def test_a_tombstone_that_was_passed_counts_as_absent_wherever_its_row_is(
    make_bench: MakeBench,
) -> None:
    """Replicas sweep at their own pace, yet must make the same records."""
    swept, lazy = make_bench(), make_bench()
    for bench in (swept, lazy):
        bench.put(b"a")
        bench.delete(b"a")
        bench.commit()
        bench.shard.compact(3)
    swept.sweep()
    assert swept.rows(Table.CURRENT) == []
    assert len(lazy.rows(Table.CURRENT)) == 1
    for bench in (swept, lazy):
        bench.put(b"a")
    assert swept.shard.view.newest(b"a") == lazy.shard.view.newest(b"a")


# --- ancestors -------------------------------------------------------------------------------


def split(bench: Bench, at: bytes) -> tuple[Shard, Shard]:
    """Both halves of a shard, as a split will make them: new segments, the old one as ancestor."""
    own = bench.shard.view.segments.own
    revision = bench.shard.state.revision
    halves = []
    for shard, start, end in ((21, own.start, at), (22, at, own.end)):
        segments = Segments(
            Source(shard + 100, revision + 1, OPEN, start, end),
            (Source(own.segment, own.first_revision, revision, start, end),),
        )
        state = ShardState(shard, bench.shard.state.keyspace, shard + 100, revision)
        halves.append(Shard(StrictSource(bench.engine), state, segments, stored=False))
    return halves[0], halves[1]


def turn(shard: Shard, engine: MemoryEngine, sweep_events: int = 1_000) -> None:
    batch = Batch()
    shard.prepare(batch, sweep_events=sweep_events)
    engine.write(batch, sync=True)
    shard.after_commit()


def test_halves_of_a_shard_read_the_log_of_their_parent(bench: Bench) -> None:
    busy(bench)
    whole = everything(bench.shard)
    left, right = split(bench, b"b")
    with left.begin() as scope:
        scope.put(b"a", b"left")
    with right.begin() as scope:
        scope.delete(b"c")  # is deleted already: no revision
        scope.put(b"c", b"right")
    for half, start, end in ((left, b"", b"b"), (right, b"b", None)):
        turn(half, bench.engine)  # type: ignore[arg-type]
        for nth, found in enumerate(whole["ranges"], start=1):
            expected = [kv for kv in found.items if kv.key >= start and (not end or kv.key < end)]
            assert half.view.read_range(start, end, nth).items == expected
        page = read_events(half.view, 1)
        assert page.events[:-1] == [
            event
            for event in whole["events"].events
            if event.kv.key >= start and (not end or event.kv.key < end)
        ]
        assert page.events[-1].kv.mod_revision == 14


def test_each_half_removes_only_its_own_events_and_then_forgets_the_parent(bench: Bench) -> None:
    busy(bench)
    left, right = split(bench, b"b")
    engine = bench.engine
    assert isinstance(engine, MemoryEngine)
    for half in (left, right):
        with half.begin() as scope:
            scope.put(b"a" if half is left else b"z", b"")
        turn(half, engine)
    of_parent = len(stored_revisions(bench))
    expected = {half: read_events(half.view, 13) for half in (left, right)}
    right_history = [right.view.read_range(b"b", None, r).items for r in range(2, 15)]
    left.compact(13)
    while left.sweep_pending:
        turn(left, engine, sweep_events=2)
        assert read_events(left.view, 13) == expected[left]
        assert [right.view.read_range(b"b", None, r).items for r in range(2, 15)] == right_history
    # Of the left half the parent's log held 2, 5, 9, a part of 11, and 12.
    assert len(stored_revisions(bench)) == of_parent - 5
    assert len(left.view.segments.ancestors) == 1  # revision 13 is still readable
    left.compact(14)
    while left.sweep_pending:
        turn(left, engine)
    assert left.view.segments.ancestors == ()
    loaded = Shard.load(StrictSource(engine), 21)
    assert loaded is not None
    assert loaded.view.segments.ancestors == ()
    right.compact(14)
    while right.sweep_pending:
        turn(right, engine, sweep_events=3)
    assert stored_revisions(bench) == []
    assert stored_revisions(bench, 121) == stored_revisions(bench, 122) == [14]


def test_events_kept_at_the_old_compact_revision_are_removed_by_the_next(bench: Bench) -> None:
    """In an ancestor, too, where events are removed one by one."""
    busy(bench)
    left, right = split(bench, b"b")
    engine = bench.engine
    assert isinstance(engine, MemoryEngine)
    for revision in (5, 9, 11):
        for half in (left, right):
            half.compact(revision)
            while half.sweep_pending:
                turn(half, engine, sweep_events=1)
        assert min(stored_revisions(bench)) == revision


def test_nothing_to_do_is_known() -> None:
    segments = Segments(Source(1, 2, OPEN, b"", None))
    state = ShardState(1, 1, 1, revision=9)
    for revision, pending in ((-1, False), (1, False), (2, True), (5, True)):
        state.compact_revision = revision
        assert sweep_pending(segments, state) is pending
    batch = Batch()
    swept = sweep(MemoryEngine().snapshot(), segments, state, 9, batch)
    assert not sweep_pending(swept, state)
    assert sweep(MemoryEngine().snapshot(), swept, state, 9, Batch()) == swept
    again = restart_sweep(swept, state)
    assert (again.own.swept_revision, again.own.swept_sub) == (5, 0)
