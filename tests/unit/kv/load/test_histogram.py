"""The histogram against the exact percentiles of the same samples."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kv.load.histogram import BUCKETS, LARGEST_US, LINEAR_US, Histogram, bucket_of, lowest_of

LATENCIES = st.one_of(st.integers(0, 2 * LINEAR_US), st.integers(0, LARGEST_US))


@given(LATENCIES)
def test_a_bucket_is_as_narrow_as_promised(us: int) -> None:
    bucket = bucket_of(us)
    assert 0 <= bucket < BUCKETS
    lowest = lowest_of(bucket)
    assert lowest <= us
    assert us - lowest <= (0 if us < LINEAR_US else us / 8_192)
    assert bucket_of(lowest) == bucket


def test_buckets_leave_no_gap() -> None:
    for at in (LINEAR_US - 1, LINEAR_US, 2 * LINEAR_US - 1, 2 * LINEAR_US, 4 * LINEAR_US - 1):
        assert bucket_of(at + 1) - bucket_of(at) in (0, 1)
    assert bucket_of(LARGEST_US + 5) == bucket_of(LARGEST_US)
    assert bucket_of(-1) == 0, "a clock that stood still"


@given(st.lists(LATENCIES, min_size=1, max_size=200), st.floats(0.1, 100))
def test_percentiles_are_the_exact_ones(samples: list[int], percent: float) -> None:
    histogram = Histogram()
    for us in samples:
        histogram.add(us)
    rank = max(1, math.ceil(len(samples) * percent / 100))
    exact = sorted(samples)[rank - 1]
    assert histogram.percentile_us(percent) == lowest_of(bucket_of(exact))


def test_counts_of_several_processes_add_up() -> None:
    one, other = Histogram(), Histogram()
    one.add(5)
    one.add(1_000_000, times=2)
    other.add(5)
    other.merge(Histogram(one.pairs()))
    assert other.total == 4
    assert dict(other.pairs()) == {bucket_of(5): 2, bucket_of(1_000_000): 2}


@pytest.mark.parametrize("percent", [50, 99, 100])
def test_of_nothing_it_is_nothing(percent: float) -> None:
    assert Histogram().percentile_us(percent) == 0
