"""The space-saving counter: bounded, never too small, finds what is frequent."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from kv.division.heavy import HeavyKeys

streams = st.lists(st.integers(0, 40).map(lambda n: b"%d" % n), max_size=300)


@given(streams, st.integers(1, 12))
def test_counts_are_never_too_small_and_no_more_too_large_than_told(
    stream: list[bytes], capacity: int
) -> None:
    heavy, true = HeavyKeys(capacity), Counter(stream)
    for key in stream:
        heavy.add(key)
    found = heavy.top(100)
    assert len(found) <= capacity
    for each in found:
        assert true[each.key] <= each.amount <= true[each.key] + each.over
    for key, count in true.items():
        if count > len(stream) / capacity:
            assert key in {each.key for each in found}


def test_the_surest_comes_first_and_old_keys_fade() -> None:
    heavy = HeavyKeys(2)
    for key in (b"a", b"b", b"c", b"c"):
        heavy.add(key)
    assert [each.key for each in heavy.top(2)] == [b"c", b"b"]  # c: 3, of which 1 may be another's
    heavy.decay(1e-4)
    assert not heavy.top(2)
    assert heavy.total < 1e-3
