"""Reads through the overlay and the engine, and what is refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from storage.codec import KEY_MAX_BYTES, Table, key_u64_u64_u32, seal
from storage.engine import Batch
from storage.errors import (
    CorruptRecordError,
    EmptyKeyError,
    KeyTooLongError,
    WrongShardError,
)
from storage.mvcc_events import read_events
from storage.mvcc_records import KeyValue, pack_event, put_record
from storage.mvcc_view import View

from .conftest import Bench

MakeBench = Callable[..., Bench]


def keys_of(view: View, start: bytes, end: bytes | None, *, reverse: bool = False) -> list[bytes]:
    return [item.key for item in view.read_range(start, end, reverse=reverse).items]


def test_a_key_at_every_revision(bench: Bench) -> None:
    assert bench.put(b"k", b"1", lease=5) == 2
    assert bench.put(b"other") == 3
    assert bench.put(b"k", b"2") == 4
    bench.commit()
    assert bench.delete(b"k") == 5
    assert bench.put(b"k", b"3") == 6
    assert bench.get(b"k", 1) is None
    assert bench.get(b"k", 2) == KeyValue(b"k", 2, 2, 1, 5, b"1")
    assert bench.get(b"k", 3) == bench.get(b"k", 2)
    assert bench.get(b"k", 4) == KeyValue(b"k", 2, 4, 2, 0, b"2")
    assert bench.get(b"k", 5) is None
    assert bench.get(b"k", 6) == KeyValue(b"k", 6, 6, 1, 0, b"3")
    assert bench.get(b"k") == bench.get(b"k", 0) == bench.get(b"k", -3) == bench.get(b"k", 6)


def test_many_keys_are_found_as_each_is(make_bench: MakeBench) -> None:
    """In the layers, in memory, in the engine, deleted, and never there; and what one of them is
    refused for is raised."""
    bench = make_bench(start=b"a", end=b"x")
    for key in (b"stored", b"gone", b"again"):
        bench.put(key, key)
    bench.delete(b"gone")
    for _ in range(20):
        bench.put(b"often", b"again and again")  # so its record has jumps
    bench.commit()
    bench.put(b"again", b"2", lease=9)
    bench.put(b"new", b"")
    keys = [b"stored", b"gone", b"again", b"new", b"never", b"often", b"stored"]
    view = bench.shard.view
    expected = [bench.get(key) for key in keys]
    assert view.get_each(keys) == expected
    assert view.get_each(keys) == expected, "some are remembered now"
    recent = view.recent
    recent.old, recent.young = recent.young, {}
    assert view.get_each(keys) == expected, "from the old generation"
    assert [keys[at] for at, found in enumerate(expected) if found is None] == [b"gone", b"never"]
    for wrong in (b"", b"Z", b"x", b"k" * (KEY_MAX_BYTES + 1)):
        with pytest.raises(Exception) as alone:  # noqa: PT011 - whatever `get` says
            view.get(wrong)
        with pytest.raises(type(alone.value)) as among:
            view.get_each([b"stored", wrong, b"new"])
        assert str(among.value) == str(alone.value)
    with pytest.raises(EmptyKeyError):
        make_bench().shard.view.get_each([b"of a shard without bounds", b""])


@pytest.mark.parametrize("stored", [False, True])
def test_when_a_key_was_modified_at_every_revision(bench: Bench, stored: bool) -> None:
    """Wall time as it was given, also where it goes back."""
    times = [1_000, 0, 900, *range(5_000, 4_960, -1)]
    for wall_ms in times:
        bench.wall_ms = wall_ms
        bench.put(b"k", b"v")
        if stored:
            bench.commit()
    for revision, wall_ms in enumerate(times, 2):
        found = bench.get(b"k", revision)
        assert found is not None
        assert found.modified_ms == wall_ms
        assert bench.shard.view.range(b"", None, revision).items == [found]
    events = read_events(bench.shard.view, 2).events
    assert [event.kv.modified_ms for event in events] == times
    assert [event.prev and event.prev.modified_ms for event in events] == [None, *times[:-1]]


def test_a_get_of_an_old_revision_of_a_hot_key_reads_little(bench: Bench) -> None:
    for nth in range(2_000):
        bench.put(b"hot", b"%d" % nth)
        if nth % 100 == 0:
            bench.commit()
    bench.commit()
    bench.source.reads = 0
    assert bench.value(b"hot", 12) == b"10"
    assert bench.source.reads <= 40


@pytest.mark.parametrize("commits", [0, 1, 2])
@pytest.mark.parametrize("reverse", [True, False])
def test_more_keys_than_any_page(bench: Bench, commits: int, reverse: bool) -> None:
    """Keys change again, vanish by the thousand, and others come up between them; the two changes
    lie in the overlay, in the engine, or one in each."""
    keys = [b"%05d" % nth for nth in range(2_500)]
    with bench.shard.begin() as scope:
        for key in keys:
            scope.put(key, b"x")
    if commits > 0:
        bench.commit()
    fresh = [key + more for key in keys[2_000:] for more in (b"a", b"b", b"c")]
    with bench.shard.begin() as scope:
        scope.delete_range(keys[100], keys[1_500])
        for key in keys[::3]:
            scope.delete(key)
        for key in keys[::5] + fresh:
            scope.put(key, b"y")
    if commits > 1:
        bench.commit()
    left = {*keys[:100], *keys[1_500:]} - set(keys[::3])
    now = sorted(left | set(keys[::5]) | set(fresh), reverse=reverse)
    view = bench.shard.view
    assert keys_of(view, b"", None, reverse=reverse) == now
    assert view.count(b"", None).total == len(now)
    assert view.read_range(b"", None, 2, reverse=reverse).items == [
        KeyValue(key, 2, 2, 1, 0, b"x") for key in sorted(keys, reverse=reverse)
    ]
    few = view.read_range(keys[90], keys[1_600], limit=12, reverse=reverse)
    inside = [key for key in now if keys[90] <= key < keys[1_600]]
    assert ([item.key for item in few.items], few.more, few.total) == (
        inside[:12],
        True,
        len(inside),
    )


def test_a_page_is_bounded_in_work(bench: Bench) -> None:
    with bench.shard.begin() as scope:
        for nth in range(100):
            scope.put(b"%03d" % nth, b"")
    bench.commit()
    with bench.shard.begin() as scope:
        scope.delete_range(b"", b"090")
    page = bench.shard.view.range(b"", None, max_examined=30)
    assert page == ([], True, b"030")
    page = bench.shard.view.range(b"", b"090", reverse=True, max_examined=30)
    assert page == ([], True, b"059\x00")
    assert bench.shard.view.count(b"", None, max_examined=95) == (5, b"095")


def test_a_page_is_bounded_in_bytes(bench: Bench) -> None:
    for name in (b"a", b"b", b"c"):
        bench.put(name, bytes(10))
    view = bench.shard.view
    assert [item.key for item in view.range(b"", None, max_bytes=22).items] == [b"a", b"b"]
    assert view.range(b"", None, max_bytes=21).resume == b"b"
    assert len(view.range(b"", None, max_bytes=1).items) == 1
    assert len(view.range(b"", None, max_bytes=3, keys_only=True).items) == 3


def test_bounds_longer_than_any_key_cut_where_they_say(bench: Bench) -> None:
    longest = b"k" * KEY_MAX_BYTES
    bench.put(longest)
    bench.put(b"k" * (KEY_MAX_BYTES - 1) + b"l")
    bench.commit()
    view = bench.shard.view
    assert keys_of(view, longest, longest + b"\x00" * 200) == [longest]
    assert keys_of(view, longest + b"\x00", None) == [b"k" * (KEY_MAX_BYTES - 1) + b"l"]
    assert keys_of(view, longest * 2, longest * 3) == []
    assert keys_of(view, b"", longest) == []


def test_an_empty_range_is_no_error(bench: Bench) -> None:
    bench.put(b"a")
    assert bench.shard.view.read_range(b"b", b"a") == ([], False, 0)
    assert bench.shard.view.read_range(b"a", b"a") == ([], False, 0)


def test_keys_that_no_table_could_hold_are_refused(bench: Bench) -> None:
    with pytest.raises(EmptyKeyError):
        bench.get(b"")
    with pytest.raises(KeyTooLongError):
        bench.get(b"k" * 433)


def test_what_another_shard_holds_is_refused(make_bench: MakeBench) -> None:
    bench = make_bench(start=b"d", end=b"m")
    bench.put(b"d")
    view = bench.shard.view
    for key in (b"c\xff", b"m", b"z"):
        with pytest.raises(WrongShardError, match=r"shard 1, which holds b'd' to b'm'"):
            bench.get(key)
    for start, end in ((b"c", b"m"), (b"d", b"m\x00"), (b"d", None), (b"", None)):
        with pytest.raises(WrongShardError):
            view.read_range(start, end)
    assert keys_of(view, b"d", b"m") == [b"d"]


def test_shards_of_one_environment_do_not_see_each_other(make_bench: MakeBench) -> None:
    left = make_bench(end=b"m")
    right = make_bench(left.engine, shard=2, segment=12, start=b"m")
    other = make_bench(left.engine, shard=3, keyspace=8, segment=13)
    for bench, key in ((left, b"a"), (right, b"z"), (other, b"a"), (other, b"z")):
        bench.put(key, b"%d" % bench.shard.state.shard, lease=4)
        bench.commit()
    assert [left.value(b"a"), right.value(b"z"), other.value(b"a")] == [b"1", b"2", b"3"]
    assert keys_of(left.shard.view, b"", b"m") == [b"a"]
    assert keys_of(right.shard.view, b"m", None) == [b"z"]
    assert left.shard.view.lease_keys(4) == [b"a"]
    assert right.shard.view.lease_keys(4) == [b"z"]
    assert other.shard.view.lease_keys(4) == [b"a", b"z"]
    assert [b.shard.state.revision for b in (left, right, other)] == [2, 2, 3]


def test_keys_of_a_lease_come_in_pages(bench: Bench) -> None:
    for name in b"abcdef":
        bench.put(bytes((name,)), lease=9)
    bench.commit()
    bench.put(b"a")  # detached in memory only
    bench.put(b"cc", lease=9)
    bench.put(b"d", lease=10)
    bench.delete(b"e")
    view = bench.shard.view
    assert view.lease_keys(9) == [b"b", b"c", b"cc", b"f"]
    assert view.lease_keys(9, limit=2) == [b"b", b"c"]
    assert view.lease_keys(9, b"c", limit=2) == [b"cc", b"f"]
    assert view.lease_keys(9, b"f") == []
    bench.commit()
    assert bench.shard.view.lease_keys(9) == [b"b", b"c", b"cc", b"f"]
    assert bench.shard.view.lease_keys(10) == [b"d"]


@pytest.mark.parametrize("event", [None, b"another key's"])
def test_a_gap_in_the_history_is_an_error(bench: Bench, event: bytes | None) -> None:
    bench.put(b"k", b"1")
    bench.put(b"k", b"2")
    bench.commit()
    stored = key_u64_u64_u32(Table.EVENT, 11, 3, 0)
    batch = Batch()
    if event is None:
        batch.delete(stored)
    else:
        body = pack_event(event, put_record(None, b"", 0, 3, 0, -1), None)
        batch.put(stored, seal(stored, body))
    bench.engine.write(batch, sync=True)
    with pytest.raises(CorruptRecordError, match="missing" if event is None else "another key"):
        bench.get(b"k", 2)
    with pytest.raises(CorruptRecordError):
        bench.shard.view.read_range(b"", None, 2)
    assert bench.value(b"k") == b"2"
