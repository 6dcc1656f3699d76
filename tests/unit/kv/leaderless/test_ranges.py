"""Sets of buckets as ranges are sets."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from kv.cluster.ring import BucketRange
from kv.leaderless.ranges import Ranges, common, holds, joined, without

SIZE = 40
RANGES = st.lists(
    st.tuples(st.integers(0, SIZE), st.integers(0, 8)).map(lambda p: BucketRange(p[0], sum(p))),
    max_size=8,
)


def members(ranges: Ranges) -> set[int]:
    return {bucket for each in ranges for bucket in range(each.first, each.last + 1)}


def in_order(ranges: Ranges) -> bool:
    return all(a.last + 1 < b.first for a, b in pairwise(ranges)) and all(map(len, ranges))


@given(RANGES, RANGES)
def test_they_are_sets(a: list[BucketRange], b: list[BucketRange]) -> None:
    one, other = joined(a), joined(b)
    assert members(one) == members(tuple(a))
    assert members(without(one, other)) == members(one) - members(other)
    assert members(common(one, other)) == members(one) & members(other)
    assert all(map(in_order, (one, without(one, other), common(one, other))))
    for bucket in range(SIZE + 10):
        assert holds(one, bucket) == (bucket in members(one))
