"""Hints: one a key and target, bounded, removed only by the sequence that names their content."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from storage.buckets import bucket_of
from storage.codec import Table
from storage.engine import Batch
from storage.hints import (
    HINT_SEQUENCE,
    HintChanges,
    HintLimits,
    HintOutcome,
    HintUsage,
    Merge,
    bucket_has_hints,
    hint_key,
    hint_usages,
    index_key,
    key_has_hints,
    last_sequence,
    read_hints,
)
from storage.memory import MemoryEngine
from storage.rows import RowChanges
from storage.siblings import SiblingSet

WriteOf = Callable[..., SiblingSet]


class Hints:
    def __init__(self, merge: Merge) -> None:
        self.engine = MemoryEngine()
        self.merge = merge
        self.limits = HintLimits(count=3, size_bytes=1_000)

    @contextmanager
    def turn(self) -> Iterator[HintChanges]:
        rows = RowChanges(self.engine.snapshot())
        yield HintChanges(rows, self.limits, self.merge)
        batch = Batch()
        rows.collect(batch)
        self.engine.write(batch, sync=True)

    def add(self, target: str, key: bytes, siblings: SiblingSet, queued_ms: int = 5) -> HintOutcome:
        with self.turn() as turn:
            return turn.add(target, 1, key, siblings, queued_ms)

    def left(self, target: str) -> list[tuple[int, bytes]]:
        page = read_hints(self.engine.snapshot(), target)
        return [(hint.sequence, hint.key) for hint in page.hints]

    def usage(self, target: str) -> HintUsage | None:
        return hint_usages(self.engine.snapshot()).get(target)

    def exact(self) -> None:
        """Usage is the sum over the rows, and the index is the rows."""
        reader = self.engine.snapshot()
        indexed = sum(key[0] == Table.HINT_INDEX for key in self.engine.keys)
        for target, usage in hint_usages(reader).items():
            hints = read_hints(reader, target).hints
            assert usage.count == len(hints)
            assert usage.size_bytes == sum(hint.size_bytes for hint in hints)
            indexed -= len(hints)
        assert indexed == 0

    def damage(self, row_key: bytes) -> None:
        batch = Batch()
        batch.put(row_key, self.engine.values[row_key][:-1] + b"\xfe")
        self.engine.write(batch, sync=True)


@pytest.fixture
def hints(merge: Merge) -> Hints:
    return Hints(merge)


def test_a_hint_comes_back_as_it_was_given(hints: Hints, write_of: WriteOf) -> None:
    assert hints.add("t", b"k", write_of("a", 1, b"v"), queued_ms=77) is HintOutcome.STORED
    (hint,) = read_hints(hints.engine.snapshot(), "t").hints
    assert (hint.target, hint.keyspace, hint.key, hint.queued_ms) == ("t", 1, b"k", 77)
    assert hint.siblings == write_of("a", 1, b"v")
    assert hints.usage("t") == HintUsage(1, hint.size_bytes, 0)
    assert bucket_has_hints(hints.engine.snapshot(), 1, bucket_of(b"k"))
    assert key_has_hints(hints.engine.snapshot(), 1, b"k")
    assert not key_has_hints(hints.engine.snapshot(), 1, b"l")
    assert not key_has_hints(hints.engine.snapshot(), 2, b"k")
    assert not bucket_has_hints(hints.engine.snapshot(), 2, bucket_of(b"k"))
    assert not bucket_has_hints(hints.engine.snapshot(), 1, bucket_of(b"k") ^ 1)
    hints.exact()


def test_a_later_write_of_the_key_joins_the_hint_under_a_new_sequence(
    hints: Hints, write_of: WriteOf
) -> None:
    hints.add("t", b"k", write_of("a", 1, b"v"), queued_ms=10)
    hints.add("t", b"other", write_of("a", 1, b"v"))
    assert hints.add("t", b"k", write_of("b", 1, b"w"), queued_ms=99) is HintOutcome.MERGED
    assert hints.left("t") == [(2, b"other"), (3, b"k")]
    hint = read_hints(hints.engine.snapshot(), "t", after=2).hints[0]
    assert {version.value for version in hint.siblings.versions} == {b"v", b"w"}
    assert hint.queued_ms == 10
    assert hints.add("t", b"k", write_of("a", 1, b"v")) is HintOutcome.UNCHANGED
    hints.exact()


def test_an_acknowledgement_of_older_content_removes_nothing(
    hints: Hints, write_of: WriteOf
) -> None:
    hints.add("t", b"k", write_of("a", 1, b"v"))
    ((sent, _),) = hints.left("t")
    hints.add("t", b"k", write_of("a", 2, b"newer"))
    with hints.turn() as turn:
        assert not turn.remove("t", sent)
    ((current, _),) = hints.left("t")
    with hints.turn() as turn:
        assert turn.remove("t", current)
        assert not turn.remove("t", current)
    assert hints.left("t") == []
    assert hints.usage("t") is None
    assert hints.engine.keys == [HINT_SEQUENCE]


def test_a_sequence_is_never_used_twice(hints: Hints, write_of: WriteOf) -> None:
    """Else a late acknowledgement would remove the hint of another write."""
    hints.add("t", b"k", write_of("a", 1, b"v"))
    with hints.turn() as turn:
        turn.remove("t", 1)
    hints.add("t", b"k", write_of("a", 2, b"w"))
    assert hints.left("t") == [(2, b"k")]
    assert last_sequence(hints.engine.snapshot()) == 2


def test_targets_are_apart_even_if_one_name_begins_with_the_other(
    hints: Hints, write_of: WriteOf
) -> None:
    for target in ("n", "n1", "n\x00"):
        hints.add(target, b"k", write_of("a", 1, target.encode()))
    for target in ("n", "n1", "n\x00"):
        (hint,) = read_hints(hints.engine.snapshot(), target).hints
        assert hint.siblings.versions[0].value == target.encode()
    hints.exact()


@pytest.mark.parametrize("bound", ["count", "bytes"])
def test_a_target_is_bounded_and_says_when_it_overflows(
    hints: Hints, write_of: WriteOf, bound: str
) -> None:
    size = 10 if bound == "count" else 280
    for number in range(3):
        key = b"k%d" % number
        assert hints.add("t", key, write_of("a", 1, b"v" * size)) is HintOutcome.STORED
    assert hints.add("t", b"k3", write_of("a", 1, b"v" * size)) is HintOutcome.OVERFLOWED
    assert hints.add("u", b"k3", write_of("a", 1, b"v" * size)) is HintOutcome.STORED
    usage = hints.usage("t")
    assert usage is not None
    assert (usage.count, usage.overflowed) == (3, 1)
    assert [key for _, key in hints.left("t")] == [b"k0", b"k1", b"k2"]
    hints.exact()
    with hints.turn() as turn:
        turn.remove("t", 1)
    assert hints.add("t", b"k3", write_of("a", 1, b"v")) is HintOutcome.STORED


def test_a_merge_that_does_not_fit_keeps_the_older_hint(hints: Hints, write_of: WriteOf) -> None:
    hints.add("t", b"k", write_of("a", 1, b"v"))
    assert hints.add("t", b"k", write_of("b", 1, b"v" * 2_000)) is HintOutcome.OVERFLOWED
    assert hints.left("t") == [(1, b"k")]
    hints.exact()


def test_overflow_stays_until_a_repair_that_began_after_it(hints: Hints, write_of: WriteOf) -> None:
    hints.add("t", b"k", write_of("a", 1, b"v" * 2_000))
    hints.add("t", b"k", write_of("a", 1, b"v" * 2_000))
    with hints.turn() as turn:
        began_at = turn.usage("t").overflowed
    hints.add("t", b"k", write_of("a", 1, b"v" * 2_000))
    with hints.turn() as turn:
        turn.clear_overflow("t", began_at)
    assert hints.usage("t") == HintUsage(0, 0, 1)
    with hints.turn() as turn:
        turn.clear_overflow("t", 1)
    assert hints.usage("t") is None


def test_one_turn_sees_its_own_hints(hints: Hints, write_of: WriteOf) -> None:
    with hints.turn() as turn:
        turn.add("t", 1, b"k", write_of("a", 1, b"v"), 5)
        turn.add("t", 1, b"k", write_of("b", 1, b"w"), 5)
        held = turn.held("t", 1, b"k")
        assert held is not None
        assert len(held.siblings.versions) == 2
        assert turn.usage("t").count == 1
        assert hints.left("t") == []
        assert turn.remove("t", held.sequence)
        assert turn.held("t", 1, b"k") is None
        turn.add("t", 1, b"k", write_of("a", 2, b"x"), 5)
    assert hints.left("t") == [(3, b"k")]
    hints.exact()


def test_pages_go_on_where_they_ended(hints: Hints, write_of: WriteOf) -> None:
    hints.limits = HintLimits()
    for number in range(7):
        hints.add("t", b"k%d" % number, write_of("a", 1, b"v"))
    seen, after, more = [], 0, True
    while more:
        page = read_hints(hints.engine.snapshot(), "t", after=after, limit=3)
        seen += [hint.key for hint in page.hints]
        after, more = page.hints[-1].sequence, page.more
    assert seen == [b"k%d" % number for number in range(7)]


def test_a_hint_over_the_engines_limit_comes_back(hints: Hints, write_of: WriteOf) -> None:
    hints.limits = HintLimits()
    value = b"v" * 5_000_000
    hints.add("t", b"k", write_of("a", 1, value))
    (hint,) = read_hints(hints.engine.snapshot(), "t").hints
    assert hint.siblings.versions[0].value == value
    with hints.turn() as turn:
        turn.remove("t", hint.sequence)
    assert hints.engine.keys == [HINT_SEQUENCE]


def test_a_damaged_hint_is_named_and_given_up_for_repair(hints: Hints, write_of: WriteOf) -> None:
    hints.add("t", b"k", write_of("a", 1, b"v"))
    hints.add("t", b"l", write_of("a", 1, b"v"))
    hints.damage(hint_key("t", 1))
    page = read_hints(hints.engine.snapshot(), "t")
    assert (page.damaged, [hint.key for hint in page.hints]) == ([1], [b"l"])
    with hints.turn() as turn:
        turn.discard("t", 1)
        turn.discard("t", 99)
    assert read_hints(hints.engine.snapshot(), "t").damaged == []
    usage = hints.usage("t")
    assert usage is not None
    assert (usage.count, usage.overflowed) == (1, 1)
    assert not bucket_has_hints(hints.engine.snapshot(), 1, bucket_of(b"k"))
    hints.exact()


def test_a_damaged_hint_does_not_stop_the_next_write_of_its_key(
    hints: Hints, write_of: WriteOf
) -> None:
    hints.add("t", b"k", write_of("a", 1, b"v"))
    hints.damage(hint_key("t", 1))
    assert hints.add("t", b"k", write_of("a", 2, b"w")) is HintOutcome.STORED
    assert hints.left("t") == [(2, b"k")]
    usage = hints.usage("t")
    assert usage is not None
    assert usage.overflowed == 1
    hints.exact()


def test_a_damaged_index_row_does_not_either(hints: Hints, write_of: WriteOf) -> None:
    hints.add("t", b"k", write_of("a", 1, b"v"))
    hints.damage(index_key(1, bucket_of(b"k"), "t", b"k"))
    assert hints.add("t", b"k", write_of("a", 2, b"w")) is HintOutcome.STORED
    assert hints.left("t") == [(1, b"k"), (2, b"k")]
    with hints.turn() as turn:
        turn.remove("t", 1)
        held = turn.held("t", 1, b"k")
        assert held is not None
        assert held.sequence == 2
    hints.exact()
