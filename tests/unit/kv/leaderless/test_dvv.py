"""Laws of clocks and merges, who may mint, and one test for each named bug.

Each canary test runs one story twice: with the rule nothing acknowledged is lost; with the canary,
which breaks the rule, the same story loses a write.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kv.leaderless.dvv import (
    Canary,
    Context,
    Minter,
    StaleIncarnationError,
    context_of,
    covers_clock,
    join,
    merge,
    merge_all,
    receive,
    reused_dots,
    shed_expired,
    with_dot,
)
from kv.leaderless.hlc import HybridClock
from kv.leaderless.rules import Rule, Write, apply_write, resolve
from raftgroups.transport import NodeId
from storage.objects import Record
from storage.siblings import EMPTY_CLOCK, Actor, Clock, Dot, SiblingSet, Version, encode_set

Sets = st.SearchStrategy[SiblingSet]
MakeMinter = Callable[..., Minter]
A, B = Actor("a", 1, 1), Actor("b", 1, 1)
fixtures_ok = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def put(
    minter: Minter, record: Record | None, value: bytes | None, context: Context | None = None
) -> Record:
    return apply_write(
        Rule.SIBLINGS,
        record,
        Write(value, context),
        minter=minter,
        clock=HybridClock(),
        now_ms=1,
    )


def values(siblings: SiblingSet) -> list[bytes]:
    return sorted(live.value for live in resolve(Rule.SIBLINGS, siblings, 1))


# --- laws ------------------------------------------------------------------------------------


@fixtures_ok
@given(data=st.data())
def test_merge_is_commutative_associative_and_idempotent(
    data: st.DataObject, small_set: Sets
) -> None:
    a, b, c = (data.draw(small_set) for _ in range(3))
    assert merge(a, a) == a
    assert merge(a, b) == merge(b, a)
    assert merge(merge(a, b), c) == merge(a, merge(b, c))
    assert merge(merge(a, b), b) == merge(a, b)
    assert merge(a, SiblingSet()) == a
    assert merge_all([c, a, b]) == merge_all([b, c, a])
    encode_set(merge(a, b))


@fixtures_ok
@given(data=st.data())
def test_a_join_has_seen_what_either_has_and_nothing_else(
    data: st.DataObject, small_set: Sets, dots: Callable[[Clock], set[Dot]]
) -> None:
    a, b = data.draw(small_set).clock, data.draw(small_set).clock
    joined = join(a, b)
    assert dots(joined) == dots(a) | dots(b)
    assert joined == join(b, a)
    assert covers_clock(joined, a)
    assert covers_clock(a, b) == (dots(b) <= dots(a))


@fixtures_ok
@given(data=st.data())
def test_a_merge_drops_only_what_was_replaced(data: st.DataObject, small_set: Sets) -> None:
    a, b = data.draw(small_set), data.draw(small_set)
    merged = merge(a, b)
    ours = {version.dot for version in a.versions}
    theirs = {version.dot for version in b.versions}
    kept = {version.dot for version in merged.versions}
    for dot in ours | theirs:
        replaced = (dot not in theirs and b.clock.covers(dot)) or (
            dot not in ours and a.clock.covers(dot)
        )
        assert (dot in kept) == (not replaced)


@fixtures_ok
@given(data=st.data())
def test_shedding_commutes_with_merging(data: st.DataObject, small_set: Sets) -> None:
    """So it does not matter which replica notices first that a value has expired."""
    a, b = data.draw(small_set), data.draw(small_set)
    late = 100
    both = merge(shed_expired(a, late), shed_expired(b, late))
    assert shed_expired(merge(a, b), late) == both
    assert shed_expired(merge(shed_expired(a, late), b), late) == both
    assert not reused_dots(a, shed_expired(a, late))


@fixtures_ok
@given(data=st.data())
def test_the_context_of_an_answer_is_exactly_what_it_saw(
    data: st.DataObject, small_set: Sets, minter: MakeMinter
) -> None:
    """A write with it replaces all of the answer, and nothing that came beside it."""
    seen, beside = data.draw(small_set), data.draw(small_set)
    held = Record(merge(seen, beside))
    after = put(minter("w", 9), held, b"new", context_of(seen))
    for version in held.siblings.versions:
        stays = version.value is not None and not seen.clock.covers(version.dot)
        assert (version in after.siblings.versions) == stays
    assert not covers_clock(seen.clock, after.siblings.clock)


# --- writing and minting ---------------------------------------------------------------------


def test_dots_of_one_actor_have_no_gap(minter: MakeMinter) -> None:
    record, writer = None, minter()
    for n in range(1, 4):
        record = put(writer, record, b"%d" % n)
        assert record.siblings.clock == Clock({A: n})
    assert record is not None
    assert values(record.siblings) == [b"1", b"2", b"3"]
    assert record.epoch == 1


def test_a_write_with_the_readers_context_replaces_what_he_saw(minter: MakeMinter) -> None:
    writer = minter()
    first = put(writer, None, b"1")
    context = context_of(first.siblings)
    meanwhile = put(writer, first, b"2")
    last = put(writer, meanwhile, b"3", context)
    assert values(last.siblings) == [b"2", b"3"]
    assert values(put(writer, last, b"4", context_of(last.siblings)).siblings) == [b"4"]


def test_a_context_may_know_what_the_minter_has_not_seen_yet(minter: MakeMinter) -> None:
    at_a, at_b = put(minter("a"), None, b"old"), put(minter("b"), None, b"other")
    context = context_of(merge(at_a.siblings, at_b.siblings))
    written = put(minter("b"), at_b, b"new", context)
    assert values(merge(written.siblings, at_a.siblings)) == [b"new"]


def test_a_delete_with_context_wins_over_what_it_saw_only(minter: MakeMinter) -> None:
    at_a = put(minter("a"), None, b"seen")
    deleted = put(minter("b"), None, None, context_of(at_a.siblings))
    assert values(merge(at_a.siblings, deleted.siblings)) == []
    concurrent = put(minter("c"), at_a, b"concurrent")
    assert values(merge(deleted.siblings, concurrent.siblings)) == [b"concurrent"]


def test_a_forgotten_record_begins_in_a_new_epoch(minter: MakeMinter) -> None:
    writer = minter()
    assert put(writer, None, b"1").epoch == 1
    assert put(writer, None, b"2").epoch == 2


def test_a_record_that_came_from_others_has_no_epoch_of_ours(minter: MakeMinter) -> None:
    """Even if it knows dots of ours, from before we forgot the key."""
    writer = minter()
    before = put(writer, None, b"1")
    got = receive(None, before.siblings, node=NodeId("a"), incarnation=1, last_epoch=1)
    assert (got.record.epoch, got.changed, got.regressed) == (0, True, False)
    after = put(writer, got.record, b"2")
    assert after.epoch == 2
    assert sorted(after.siblings.clock.base) == [A, Actor("a", 1, 2)]


def test_a_new_incarnation_takes_a_new_epoch_for_an_old_record(minter: MakeMinter) -> None:
    old = put(minter("a", 1), None, b"1")
    new = put(minter("a", 2), old, b"2")
    assert [version.dot.actor for version in new.siblings.versions] == [A, Actor("a", 2, 1)]
    again = put(minter("a", 2), new, b"3")
    assert again.siblings.versions[-1].dot == Dot("a", 2, 1, 2)


def test_a_node_that_others_know_better_than_itself_does_not_mint(minter: MakeMinter) -> None:
    """Its directory was restored and kept its incarnation: an error, not a reused dot."""
    writer = minter()
    backup = put(writer, None, b"1")
    lost = put(writer, backup, b"2")
    with pytest.raises(StaleIncarnationError, match="older than its past"):
        put(writer, backup, b"3", context_of(lost.siblings))
    got = receive(backup, lost.siblings, node=NodeId("a"), incarnation=1, last_epoch=1)
    assert got.regressed
    got = receive(None, lost.siblings, node=NodeId("a"), incarnation=1, last_epoch=0)
    assert got.regressed
    fresh = put(minter("a", 2), got.record, b"3")
    assert values(merge(fresh.siblings, lost.siblings)) == [b"1", b"2", b"3"]


def test_an_epoch_counter_that_went_back_is_noticed(minter: MakeMinter) -> None:
    known = put(minter(), None, b"1")
    record = Record(known.siblings, epoch=0)
    with pytest.raises(StaleIncarnationError):
        minter().mint(record)


def test_receiving_says_what_changed(minter: MakeMinter) -> None:
    ours, theirs = put(minter("a"), None, b"1"), put(minter("b"), None, b"2")
    me = {"node": NodeId("a"), "incarnation": 1, "last_epoch": 1}
    got = receive(ours, theirs.siblings, **me)
    assert got.changed
    assert got.record.epoch == 1
    assert values(got.record.siblings) == [b"1", b"2"]
    again = receive(got.record, theirs.siblings, **me)
    assert not again.changed
    assert again.record == got.record
    assert again.reused == ()


def test_a_reused_dot_is_reported_and_still_converges() -> None:
    clock, dot = Clock({A: 1}), Dot(*A, 1)
    one = SiblingSet((Version(dot, b"one", 5),), clock)
    two = SiblingSet((Version(dot, b"two", 5),), clock)
    assert reused_dots(one, two) == [dot]
    assert merge(one, two) == merge(two, one)
    got = receive(Record(one), two, node=NodeId("c"), incarnation=1, last_epoch=0)
    assert got.reused == (dot,)


def test_an_empty_set_has_an_empty_context() -> None:
    assert context_of(SiblingSet()) == Context(EMPTY_CLOCK, 0)


# --- the four named bugs ---------------------------------------------------------------------


@pytest.mark.parametrize("canary", [None, Canary.MINT_AT_NON_HOLDER])
def test_canary_minting_at_a_node_that_does_not_store_the_key(
    minter: MakeMinter, canary: Canary | None
) -> None:
    """Two clients who read nothing write through the same node, which stores nothing."""
    canaries = frozenset({canary} if canary else ())
    writer = minter("a", 1, canaries)
    held: Record | None = None
    first = put(writer, held, b"first")
    if canary is None:
        held = first
    second = put(writer, held, b"second")
    at_replica = merge(first.siblings, second.siblings, canaries)
    expected = [b"first", b"second"] if canary is None else [b"second"]
    assert values(at_replica) == expected


@pytest.mark.parametrize("canary", [None, Canary.FOLD_OVER_GAP])
def test_canary_folding_a_clock_over_a_gap(canary: Canary | None) -> None:
    """The third change overtakes the second on the way to a replica that has the first."""
    canaries = frozenset({canary} if canary else ())

    def change(n: int, value: bytes) -> SiblingSet:
        dot = Dot(*A, n)
        return SiblingSet((Version(dot, value, n),), with_dot(EMPTY_CLOCK, dot))

    replica = merge(change(1, b"1"), change(3, b"3"), canaries)
    replica = merge(replica, change(2, b"2"), canaries)
    assert values(replica) == ([b"1", b"2", b"3"] if canary is None else [b"1", b"3"])
    if canary is None:
        assert replica.clock == Clock({A: 3})


@pytest.mark.parametrize("canary", [None, Canary.REUSE_AFTER_RESTART])
def test_canary_reusing_dots_after_a_restart_with_a_lost_directory(
    minter: MakeMinter, canary: Canary | None
) -> None:
    canaries = frozenset({canary} if canary else ())
    before = put(minter("a", 1, canaries), None, b"before")
    at_b = before.siblings
    # The directory of a is lost: no record, no counter, a new incarnation.
    after = put(minter("a", 2, canaries), None, b"after")
    merged = merge(at_b, after.siblings, canaries)
    assert len(values(merged)) == (2 if canary is None else 1)


@pytest.mark.parametrize("canary", [None, Canary.REUSE_AFTER_REAP])
def test_canary_reusing_dots_after_a_tombstone_was_reaped(
    minter: MakeMinter, canary: Canary | None
) -> None:
    """A client's context outlives the record that it was given for."""
    canaries = frozenset({canary} if canary else ())
    writer = minter("a", 1, canaries)
    context = context_of(put(writer, None, b"seen by the client").siblings)
    # Deleted, proved, reaped by every replica; then written anew at a, and by the client at b.
    anew = put(writer, None, b"anew")
    at_b = put(minter("b"), None, b"from the client", context)
    merged = merge(anew.siblings, at_b.siblings, canaries)
    expected = [b"anew", b"from the client"] if canary is None else [b"from the client"]
    assert values(merged) == expected
