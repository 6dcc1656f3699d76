"""Ranges, look-ups, bytes."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftgroups.meta.view import MetaView, decode_view, encode_view, even_ranges
from tests.unit.raftgroups.meta.conftest import after, bootstrap


@given(st.integers(1, 1024))
def test_even_ranges_cover_everything_once(count: int) -> None:
    ranges = even_ranges(count)
    assert len(ranges) == count
    assert ranges[0][0] == b""
    assert ranges[-1][1] is None
    assert all(left[1] == right[0] for left, right in pairwise(ranges))
    starts = [start for start, _ in ranges]
    assert starts == sorted(set(starts))


def test_even_ranges_are_even_over_printable_pairs() -> None:
    pairs = [bytes((a, b)) for a in range(0x20, 0x7F) for b in range(0x20, 0x7F)]
    for count in (2, 8, 13):
        sizes = [
            sum(start <= pair and (end is None or pair < end) for pair in pairs)
            for start, end in even_ranges(count)
        ]
        assert max(sizes) - min(sizes) <= 1


@given(st.integers(1, 40), st.binary(max_size=4), st.binary(max_size=4))
def test_look_ups_agree_with_the_ranges(count: int, a: bytes, b: bytes) -> None:
    view = after(MetaView(), bootstrap(count))
    table = view.table(1)
    assert table is not None
    assert table.of_key(a).holds(a)
    start, end = sorted((a, b))
    wanted = [
        each
        for each in table.shards
        if (end > each.start) and (each.end is None or start < each.end)
    ]
    if start < end:
        assert list(table.overlapping(start, end)) == wanted
        assert table.before(end) == wanted[-1]
    assert table.overlapping(start, None)[0].holds(start)
    assert table.before(None) is table.shards[-1]


def test_a_view_survives_its_bytes(begun: MetaView) -> None:
    assert decode_view(encode_view(begun)) == begun
    for damaged in (b"", b"\xc0", encode_view(begun)[:-1], b"\x97\x09" + encode_view(begun)[2:]):
        with pytest.raises(ValueError, match=r"view"):
            decode_view(damaged)
