"""Ranges that were done, in any order, against a set of keys."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kv.strong.coverage import Coverage

KEYS = [bytes([letter]) for letter in b"abcdefgh"]
starts = st.just(b"") | st.sampled_from(KEYS)
ranges = st.tuples(starts, st.none() | st.sampled_from(KEYS))


@given(st.lists(ranges, max_size=10))
def test_gaps_are_the_keys_of_no_range(done: list[tuple[bytes, bytes | None]]) -> None:
    coverage = Coverage()
    left = set(KEYS)
    for start, end in done:
        if end is not None and end <= start:
            continue
        coverage.add(start, end)
        left -= {key for key in KEYS if start <= key and (end is None or key < end)}
        found = {
            key
            for key in KEYS
            for low, high in coverage.gaps
            if low <= key and (high is None or key < high)
        }
        assert found == left
    assert not (coverage.whole and left)


def test_all_of_it_is_whole() -> None:
    coverage = Coverage()
    coverage.add(b"m", None)
    assert coverage.gaps == [(b"", b"m")]
    coverage.add(b"", b"m")
    assert coverage.whole
