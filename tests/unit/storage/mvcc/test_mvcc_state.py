"""A shard's counters and segments, as bytes and as rules."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.errors import CompactedError, CorruptRecordError, FutureRevisionError
from storage.mvcc_state import OPEN, Segments, ShardState, Source

U64 = st.integers(0, 2**64 - 1)
BOUND = st.binary(max_size=12)


@given(U64, st.integers(0, 2**32 - 1), U64, U64, st.integers(-1, 2**63 - 1), U64)
def test_state_comes_back(
    shard: int, keyspace: int, segment: int, revision: int, compact: int, applied: int
) -> None:
    state = ShardState(shard, keyspace, segment, revision, compact, applied)
    _, record = state.encode()
    assert ShardState.decode(shard, record) == state
    with pytest.raises(CorruptRecordError):
        ShardState.decode(shard ^ 1, record)


def sources(last: st.SearchStrategy[int]) -> st.SearchStrategy[Source]:
    ends = st.one_of(st.none(), BOUND)
    return st.builds(Source, U64, U64, last, BOUND, ends, U64, st.integers(0, 2**32 - 1))


@given(sources(st.just(OPEN)), st.lists(sources(st.integers(0, 50)), max_size=4))
def test_segments_come_back(own: Source, ancestors: list[Source]) -> None:
    if own.first_revision <= 50:
        return
    segments = Segments(own, tuple(ancestors))
    _, record = segments.encode()
    assert Segments.decode(own.segment, record) == segments


def test_a_change_is_found_in_the_segment_of_its_time_and_key() -> None:
    """A shard that was split off at m, merged with its neighbour, and split off again at q."""
    own = Source(9, 51, OPEN, b"q", None)
    segments = Segments(
        own,
        (
            Source(7, 31, 50, b"q", None),
            Source(4, 1, 30, b"q", b"t"),
            Source(5, 1, 28, b"t", None),
        ),
    )
    assert segments.locate(b"q", 51) == 9
    assert segments.locate(b"z", 50) == 7
    assert segments.locate(b"r", 30) == 4
    assert segments.locate(b"t", 28) == 5
    assert segments.locate(b"t", 29) is None
    assert [source.segment for source in segments.oldest_first()] == [4, 5, 7, 9]
    assert segments.without(segments.ancestors[1]).locate(b"r", 30) is None


def test_ancestors_that_overlap_the_own_segment_are_refused() -> None:
    with pytest.raises(AssertionError):
        Segments(Source(2, 5, OPEN, b"", None), (Source(1, 1, 5, b"", None),))


def test_which_revisions_can_be_read() -> None:
    state = ShardState(3, 1, 1, revision=20, compact_revision=10)
    state.check_readable(10)
    state.check_readable(20)
    with pytest.raises(CompactedError, match="shard 3 can be read from revision 10") as refused:
        state.check_readable(9)
    assert refused.value.compact_revision == 10
    with pytest.raises(FutureRevisionError, match="shard 3 is at 20"):
        state.check_readable(21)


def test_which_revisions_can_be_compacted_to() -> None:
    fresh = ShardState(3, 1, 1)
    fresh.check_compactable(0)  # etcd accepts this once
    state = ShardState(3, 1, 1, revision=20, compact_revision=10)
    state.check_compactable(11)
    state.check_compactable(20)
    with pytest.raises(CompactedError) as refused:
        state.check_compactable(10)
    assert refused.value.compact_revision == 10
    with pytest.raises(FutureRevisionError):
        state.check_compactable(21)
