"""Latencies counted in bounded memory. Pure.

Buckets of one microsecond up to 16,384 us; above, each doubling is cut into 8,192 buckets, so that
a figure is never off by more than a microsecond or 0.013 %. Counts of several processes add up.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from typing import Final

LINEAR_US: Final = 16_384
_BITS: Final = LINEAR_US.bit_length() - 1
_STEPS: Final = LINEAR_US // 2
LARGEST_US: Final = (1 << 28) - 1
"""Some four minutes: longer ones count as this."""


def bucket_of(us: int) -> int:
    if us < LINEAR_US:
        return max(us, 0)
    us = min(us, LARGEST_US)
    shift = us.bit_length() - _BITS
    return LINEAR_US + (shift - 1) * _STEPS + (us >> shift) - _STEPS


def lowest_of(bucket: int) -> int:
    """The shortest latency, in microseconds, that falls into the bucket."""
    if bucket < LINEAR_US:
        return bucket
    doublings, step = divmod(bucket - LINEAR_US, _STEPS)
    return (_STEPS + step) << (doublings + 1)


BUCKETS: Final = bucket_of(LARGEST_US) + 1


class Histogram:
    def __init__(self, pairs: Iterable[tuple[int, int]] = ()) -> None:
        self.counts = array("Q", bytes(8 * BUCKETS))
        """One a bucket; the generator's inner loop counts here itself."""
        for bucket, count in pairs:
            self.counts[bucket] += count

    def add(self, us: int, times: int = 1) -> None:
        self.counts[bucket_of(us)] += times

    def merge(self, other: Histogram) -> None:
        for bucket, count in other.pairs():
            self.counts[bucket] += count

    def pairs(self) -> list[tuple[int, int]]:
        """(bucket, count) of the buckets that have any: how a histogram travels."""
        return [(bucket, count) for bucket, count in enumerate(self.counts) if count]

    @property
    def total(self) -> int:
        return sum(self.counts)

    def percentile_us(self, percent: float) -> int:
        """The smallest latency that at least so many percent of all did not exceed."""
        assert 0 < percent <= 100
        wanted = self.total * percent / 100
        seen = 0
        for bucket, count in self.pairs():
            seen += count
            if seen >= wanted:
                return lowest_of(bucket)
        return 0
