"""The event log: whole revisions, in order, each once, wherever they lie."""

from __future__ import annotations

import pytest

from storage.engine import Batch
from storage.errors import CompactedError
from storage.mvcc_events import read_events
from storage.mvcc_records import Event, KeyValue

from .conftest import Bench


def revisions(bench: Bench, first: int, **bounds: int) -> tuple[list[int], int]:
    page = read_events(bench.shard.view, first, **bounds)
    return [event.kv.mod_revision for event in page.events], page.next_revision


def test_events_carry_values_and_previous_records(bench: Bench) -> None:
    bench.put(b"k", b"1", lease=4)
    bench.commit()
    bench.put(b"k", b"2")
    bench.delete(b"k")
    bench.put(b"k", b"3")
    one = KeyValue(b"k", 2, 2, 1, 4, b"1")
    two = KeyValue(b"k", 2, 3, 2, 0, b"2")
    expected = [
        Event(False, one, None),
        Event(False, two, one),
        Event(True, KeyValue(b"k", 0, 4, 0, 0, b""), two),
        Event(False, KeyValue(b"k", 5, 5, 1, 0, b"3"), None),
    ]
    assert read_events(bench.shard.view, 0) == (expected, 6)
    assert read_events(bench.shard.view, 3) == (expected[1:], 6)
    bench.commit()
    assert read_events(bench.shard.view, 1) == (expected, 6)


def test_a_future_revision_waits(bench: Bench) -> None:
    assert read_events(bench.shard.view, 2) == ([], 2)
    assert read_events(bench.shard.view, 9) == ([], 9)


def test_revisions_are_never_cut(bench: Bench) -> None:
    for _ in range(4):  # revisions 2, 3, 4, 5 of three events each
        with bench.shard.begin() as scope:
            for key in (b"a", b"b", b"c"):
                scope.put(key, bytes(100))
        bench.commit()
    assert revisions(bench, 2, max_events=1) == ([2] * 3, 3)
    assert revisions(bench, 2, max_events=3) == ([2] * 3, 3)
    assert revisions(bench, 2, max_events=5) == ([2] * 3, 3)
    assert revisions(bench, 2, max_events=6) == ([2] * 3 + [3] * 3, 4)
    assert revisions(bench, 3, max_bytes=1) == ([3] * 3, 4)
    assert revisions(bench, 2, max_bytes=1_000) == ([2] * 3, 3)  # a revision is about 500 or 850
    assert revisions(bench, 2, max_examined=4) == ([2] * 3 + [3] * 3, 4)
    assert revisions(bench, 2) == ([2] * 3 + [3] * 3 + [4] * 3 + [5] * 3, 6)


def test_work_is_bounded_where_few_events_match(bench: Bench) -> None:
    for _ in range(50):
        bench.put(b"noise")
    bench.put(b"signal")
    bench.commit()
    view = bench.shard.view
    assert read_events(view, 2, b"s", b"t", max_examined=20) == ([], 22)
    page = read_events(view, 22, b"s", b"t")
    assert [event.kv.key for event in page.events] == [b"signal"]
    assert page.next_revision == 53


@pytest.mark.parametrize("written", [True, False])
def test_a_layer_in_both_places_is_read_once(bench: Bench, written: bool) -> None:
    bench.put(b"a")
    bench.commit()
    bench.put(b"b")
    bench.put(b"c")
    batch = Batch()
    bench.shard.prepare(batch)
    bench.put(b"d")
    if written:
        bench.engine.write(batch, sync=True)
    assert revisions(bench, 1) == ([2, 3, 4, 5], 6)
    assert revisions(bench, 4, max_events=1) == ([4], 5)


def test_more_events_than_a_page_of_the_engine(bench: Bench) -> None:
    with bench.shard.begin() as scope:
        for nth in range(1_500):
            scope.put(b"%d" % nth, b"")
    for nth in range(1_000):
        bench.put(b"%d" % nth, b"")
    bench.commit()
    assert revisions(bench, 2, max_events=5) == ([2] * 1_500, 3)
    assert revisions(bench, 3, max_events=5_000) == (list(range(3, 1_003)), 1_003)


def test_below_the_compact_revision_is_refused(bench: Bench) -> None:
    for _ in range(5):
        bench.put(b"k")
    bench.shard.compact(4)
    for _ in range(2):
        with pytest.raises(CompactedError, match="has them from revision 4") as refused:
            read_events(bench.shard.view, 3)
        assert refused.value.compact_revision == 4
        assert revisions(bench, 4) == ([4, 5, 6], 7)
        bench.sweep()
