"""Answers of a transaction's parts: what may be taken for the whole."""

from __future__ import annotations

import pytest

from kv.strong.parts import _is_tiled
from raftgroups.commands import TO_THE_END, Piece, Range
from raftgroups.results import PartAnswer, RangeAnswer

EMPTY = RangeAnswer(1, (), False, 0)


def _answers(*spans: tuple[bytes, bytes]) -> dict[bytes, PartAnswer]:
    return {start: PartAnswer(0, start, EMPTY, end) for start, end in spans}


@pytest.mark.parametrize(
    ("range_end", "spans", "whole"),
    [
        (b"m", [(b"a", b"m")], True),
        (b"m", [(b"a", b"c"), (b"c", b"m")], True),
        (b"m", [(b"a", b"c"), (b"d", b"m")], False),  # a gap
        (b"m", [(b"a", b"c")], False),  # it ends too early
        (b"m", [(b"c", b"m")], False),  # it begins too late
        (TO_THE_END, [(b"a", b"c"), (b"c", TO_THE_END)], True),
        (TO_THE_END, [(b"a", b"c")], False),
        (b"", [(b"a", b"")], True),
        (b"", [], False),
    ],
)
def test_an_answer_with_a_gap_is_not_whole(
    range_end: bytes, spans: list[tuple[bytes, bytes]], whole: bool
) -> None:
    piece = Piece(0, True, Range(b"a", range_end))
    assert _is_tiled(piece, _answers(*spans)) is whole
