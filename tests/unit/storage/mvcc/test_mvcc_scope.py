"""The write scope: one revision, all or nothing; and the shard's turn."""

from __future__ import annotations

import pytest

from storage.codec import Table
from storage.engine import Batch
from storage.errors import EmptyKeyError, KeyTooLongError, ValueTooLargeError
from storage.mvcc import Shard
from storage.mvcc_records import KeyValue

from .conftest import Bench


def test_several_operations_are_one_revision(bench: Bench) -> None:
    bench.put(b"a", b"old", lease=3)
    with bench.shard.begin() as scope:
        assert scope.put(b"b", b"1") is None
        assert scope.put(b"a", b"new", want_previous=True) == KeyValue(b"a", 2, 2, 1, 3, b"old")
        assert scope.view.get(b"a") == KeyValue(b"a", 2, 3, 2, 0, b"new")
        assert [old.key for old in scope.delete_range(b"", None)] == [b"a", b"b"]
        assert scope.delete(b"a") is None
        assert scope.put(b"a", b"again", want_previous=True) is None
    assert bench.shard.state.revision == scope.revision == 3
    assert bench.get(b"a") == KeyValue(b"a", 3, 3, 1, 0, b"again")
    assert bench.get(b"b") is None
    assert bench.value(b"a", 2) == b"old"


def test_nothing_changed_takes_no_revision(bench: Bench) -> None:
    bench.put(b"a")
    with bench.shard.begin() as scope:
        assert scope.delete(b"missing") is None
        assert scope.delete_range(b"b", None) == []
        assert not scope.changed
    assert bench.shard.state.revision == 2
    assert bench.put(b"a") == 3  # the same value again is a change


def test_an_error_in_the_block_undoes_all_of_it(bench: Bench) -> None:
    bench.put(b"a", b"1", lease=2)

    def fail_in_the_middle() -> None:
        with bench.shard.begin() as scope:
            scope.put(b"a", b"2")
            scope.put(b"b", b"2", lease=2)
            scope.delete_range(b"", None)
            scope.put(b"", b"")

    with pytest.raises(EmptyKeyError):
        fail_in_the_middle()
    assert bench.shard.state.revision == 2
    assert bench.get(b"a") == KeyValue(b"a", 2, 2, 1, 2, b"1")
    assert bench.get(b"b") is None
    assert bench.shard.view.lease_keys(2) == [b"a"]
    assert bench.put(b"b") == 3


def test_limits_are_checked_before_anything_changes(bench: Bench) -> None:
    scope = bench.shard.begin()
    with pytest.raises(EmptyKeyError):
        scope.put(b"", b"")
    with pytest.raises(KeyTooLongError, match="limit of 432"):
        scope.put(b"k" * 433, b"")
    with pytest.raises(KeyTooLongError):
        scope.delete(b"k" * 433)
    with pytest.raises(ValueTooLargeError, match="limit of 1048576"):
        scope.put(b"k", bytes(1024 * 1024 + 1))
    assert not scope.changed
    scope.put(b"k" * 432, bytes(1024 * 1024))
    scope.commit()
    bench.commit()
    assert bench.value(b"k" * 432) == bytes(1024 * 1024)


def test_a_closed_scope_changes_nothing_any_more(bench: Bench) -> None:
    scope = bench.shard.begin()
    scope.commit()
    for act in (scope.commit, scope.abort, lambda: scope.put(b"a", b"")):
        with pytest.raises(AssertionError):
            act()
    scope = bench.shard.begin()
    with pytest.raises(AssertionError, match="one write scope"):
        bench.shard.begin()
    with pytest.raises(AssertionError):
        bench.shard.prepare(Batch())
    scope.abort()


def test_changes_during_a_commit_belong_to_the_next_batch(bench: Bench) -> None:
    bench.put(b"a", b"1")
    batch = Batch()
    bench.shard.prepare(batch)
    bench.put(b"a", b"2")
    bench.put(b"b", b"2")
    assert bench.value(b"a") == b"2"
    assert bench.value(b"a", 2) == b"1"
    bench.engine.write(batch, sync=True)
    assert bench.value(b"a", 2) == b"1"
    bench.shard.after_commit()
    assert [bench.value(b"a"), bench.value(b"a", 2), bench.value(b"b")] == [b"2", b"1", b"2"]
    bench.crash()
    assert [bench.value(b"a"), bench.value(b"b")] == [b"1", None]
    assert bench.shard.state.revision == 2


def test_the_applied_index_is_in_the_batch_of_its_data(bench: Bench) -> None:
    bench.put(b"a")
    bench.shard.mark_applied(7)
    bench.commit()
    bench.put(b"b")
    bench.shard.mark_applied(9)
    assert bench.crash().state.applied_index == 7
    bench.shard.mark_applied(8)  # an entry without effect is written too
    assert bench.shard.dirty
    bench.commit()
    assert not bench.shard.dirty
    assert bench.crash().state.applied_index == 8
    with pytest.raises(AssertionError):
        bench.shard.mark_applied(8)


def test_a_shard_that_was_never_written_is_not_there(bench: Bench) -> None:
    assert Shard.load(bench.source, 1) is None
    bench.commit()
    found = Shard.load(bench.source, 1)
    assert found is not None
    assert found.state == bench.shard.state
    assert found.view.segments == bench.shard.view.segments
    assert (found.state.revision, found.state.compact_revision) == (1, -1)
    assert Shard.load(bench.source, 2) is None


def test_what_a_batch_holds(bench: Bench) -> None:
    """One current row a key, however often it changed; one row an event; one lease row."""
    for _ in range(3):
        bench.put(b"k", b"v", lease=1)
    with bench.shard.begin() as scope:
        scope.put(b"l", b"", lease=2)
        scope.put(b"l", b"")
    bench.commit()
    assert len(bench.rows(Table.CURRENT)) == 2
    assert len(bench.rows(Table.EVENT)) == 5
    assert len(bench.rows(Table.LEASE_KEY)) == 1
    assert len(bench.rows(Table.SHARD)) == len(bench.rows(Table.SEGMENT)) == 1


def test_the_owned_ranges_are_all_that_there_is(bench: Bench) -> None:
    for nth in range(50):
        bench.put(b"%d" % nth, b"v", lease=nth % 3)
    bench.commit()
    ranges = bench.shard.owned_ranges()
    assert ranges == sorted(ranges)
    snapshot = bench.engine.snapshot()
    inside = [pair for start, end in ranges for pair in snapshot.scan(start, end).items]
    assert inside == snapshot.scan().items
