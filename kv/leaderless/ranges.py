"""Sets of buckets as ranges in order: what a node stores, has, and lacks. Pure.

Invariant of every result: the ranges are in order, apart, and none touches the next.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence

from kv.cluster.ring import BucketRange

Ranges = tuple[BucketRange, ...]


def joined(ranges: Iterable[BucketRange]) -> Ranges:
    """Any ranges, overlapping ones too, made one set."""
    found: list[BucketRange] = []
    for each in sorted(ranges, key=lambda r: r.first):
        if found and each.first <= found[-1].last + 1:
            found[-1] = BucketRange(found[-1].first, max(found[-1].last, each.last))
        else:
            found.append(each)
    return tuple(found)


def without(ranges: Sequence[BucketRange], taken: Sequence[BucketRange]) -> Ranges:
    """The buckets of `ranges` that are in none of `taken`; both are sets as above."""
    left: list[BucketRange] = []
    place = 0
    for each in ranges:
        first = each.first
        while place < len(taken) and taken[place].last < first:
            place += 1
        at = place
        while at < len(taken) and taken[at].first <= each.last:
            if taken[at].first > first:
                left.append(BucketRange(first, taken[at].first - 1))
            first = taken[at].last + 1
            at += 1
        if first <= each.last:
            left.append(BucketRange(first, each.last))
    return tuple(left)


def common(a: Sequence[BucketRange], b: Sequence[BucketRange]) -> Ranges:
    return without(a, without(a, b))


def holds(ranges: Sequence[BucketRange], bucket: int) -> bool:
    place = bisect_right(ranges, bucket, key=lambda each: each.first) - 1
    return place >= 0 and bucket <= ranges[place].last
