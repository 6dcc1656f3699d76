"""Positions against a plain map of every key, their text, and who feeds what."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kv.watch.index import EVERYTHING, KeyRange, key_range, with_prefix
from kv.watch.position import Feed, Holding, InvalidWatchCursorError, Piece, Position, plan

KEYS = [bytes([letter]) for letter in b"abcdefgh"]
edges = st.sampled_from(KEYS)


def told_of(position: Position) -> dict[bytes, int]:
    return {
        key: piece.told
        for piece in position.pieces
        for key in KEYS
        if KeyRange(piece.start, piece.end).holds(key)
    }


@given(st.lists(st.tuples(edges, st.none() | edges, st.integers(0, 9)), max_size=12))
def test_it_is_a_revision_for_each_key_that_never_falls(
    moves: list[tuple[bytes, bytes | None, int]],
) -> None:
    position, model = Position.begin(EVERYTHING), dict.fromkeys(KEYS, 0)
    for start, end, told in moves:
        keys = KeyRange(start, end)
        if keys.is_empty:
            continue
        news = any(keys.holds(key) and model[key] < told for key in KEYS)
        assert position.advance(start, end, told) == news
        model = {key: max(old, told) if keys.holds(key) else old for key, old in model.items()}
        assert told_of(position) == model
        pieces = position.pieces
        assert all(left.told != right.told for left, right in pairwise(pieces))
        again = Position.of_cursor(position.cursor(7), 7, EVERYTHING)
        assert again.pieces == position.pieces


@given(st.text(max_size=40) | st.binary(max_size=40).map(lambda data: data.decode("latin-1")))
def test_any_text_is_a_cursor_or_refused(text: str) -> None:
    with pytest.raises(InvalidWatchCursorError, match=r"not one that a watch gave|of other keys"):
        Position.of_cursor(text, 1, with_prefix(b"x"))


def test_a_cursor_of_other_keys_or_another_keyspace_is_refused() -> None:
    cursor = Position.begin(with_prefix(b"x"), 5).cursor(1)
    for keyspace, keys in ((1, EVERYTHING), (2, with_prefix(b"x"))):
        with pytest.raises(InvalidWatchCursorError, match="another keyspace"):
            Position.of_cursor(cursor, keyspace, keys)


def test_each_shard_feeds_its_part() -> None:
    position = Position.begin(key_range(b"b", b"g"), 5)
    shards = [Holding(1, b"", b"c"), Holding(2, b"c", b"e"), Holding(3, b"e", None)]
    assert plan(position, shards) == [
        Feed(1, b"b", b"c", 5),
        Feed(2, b"c", b"e", 5),
        Feed(3, b"e", b"g", 5),
    ]
    assert plan(position, shards[:1]) == [Feed(1, b"b", b"c", 5)]
    assert plan(position, [Holding(4, b"g", None)]) == []


def test_after_a_merge_who_is_behind_comes_up_first() -> None:
    position = Position([Piece(b"", b"c", 40), Piece(b"c", b"e", 70), Piece(b"e", None, 40)])
    merged = [Holding(1, b"", None)]
    assert plan(position, merged) == [Feed(1, b"", b"c", 40, 70), Feed(1, b"e", None, 40, 70)]
    position.advance(b"", b"c", 70)
    assert plan(position, merged) == [Feed(1, b"e", None, 40, 70)]
    position.advance(b"e", None, 70)
    assert plan(position, merged) == [Feed(1, b"", None, 70)]
