"""Where a watch over several shards is, and who feeds it next. Pure.

A position says of every key of a range up to which revision its events were told:

    [a, f)  told up to 70        [f, q)  told up to 512

That is enough to go on anywhere, because the revisions of ONE key rise along all the shards that it
ever lies in: a split goes on with the parent's number, a merge behind both (storage/mvcc_state.py).
So what is not told yet of a key is what has a larger revision, whichever shard has it now. As text
it is the cursor that clients pass back.

    plan     pieces and the shards that hold them now  -->  feeds

One feed a shard, from where its pieces are, for all of its revisions to come: then each revision of
a shard is told whole. Right after a merge its pieces come from two numberings and stand apart; the
one that is behind is fed up to where the other one waits, and then they go on together. (No
revision up to there touches both: it would have been made after the merge, whose revision is above
both numberings.)
"""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, pairwise
from typing import Final, NamedTuple

import msgspec

from kv.watch.index import KeyRange
from storage.codec import KEY_MAX_BYTES
from storage.errors import InvalidRequestError

FORMAT: Final = 1
PIECES_MAX: Final = 256
"""Shards that one watch may follow: its cursor names a revision for each, in every line."""
_REVISION_MAX: Final = 2**63 - 1


class InvalidWatchCursorError(InvalidRequestError):
    code = "invalid_cursor"


class Piece(NamedTuple):
    """start <= key < end; None is unbounded."""

    start: bytes
    end: bytes | None
    told: int


class Holding(NamedTuple):
    """A shard, as far as it holds keys of the watch."""

    shard: int
    start: bytes
    end: bytes | None


class Feed(NamedTuple):
    """The events of these keys with a revision above `after`; `until` 0: all there will be, else
    up to this one, and then it is done."""

    shard: int
    start: bytes
    end: bytes | None
    after: int
    until: int = 0

    @property
    def keys(self) -> KeyRange:
        return KeyRange(self.start, self.end)


class Position:
    """Invariants: the pieces tile the range in order; neighbours differ in what was told; what was
    told of a key never falls."""

    __slots__ = ("_pieces",)

    def __init__(self, pieces: Iterable[Piece]) -> None:
        self._pieces = _joined(pieces)
        assert self._pieces
        assert all(left.end == right.start for left, right in pairwise(self._pieces))

    @classmethod
    def begin(cls, keys: KeyRange, told: int = 0) -> Position:
        return cls([Piece(keys.start, keys.end, told)])

    @property
    def pieces(self) -> Sequence[Piece]:
        return self._pieces

    @property
    def keys(self) -> KeyRange:
        return KeyRange(self._pieces[0].start, self._pieces[-1].end)

    def advance(self, start: bytes, end: bytes | None, told: int) -> bool:
        """Everything of these keys up to this revision was told. Whether that is news."""
        pieces = self._pieces
        if len(pieces) == 1 and pieces[0][:2] == (start, end):  # by far the most frequent
            if told > pieces[0].told:
                pieces[0] = Piece(start, end, told)
                return True
            return False
        changed, made = False, list[Piece]()
        for piece in pieces:
            inside = _cut(piece, start, end)
            if inside is None or inside.told >= told:
                made.append(piece)
                continue
            changed = True
            if piece.start < inside.start:
                made.append(piece._replace(end=inside.start))
            made.append(inside._replace(told=told))
            if inside.end != piece.end:
                assert inside.end is not None
                made.append(piece._replace(start=inside.end))
        if changed:
            self._pieces = _joined(made)
        return changed

    def within(self, start: bytes, end: bytes | None) -> list[Piece]:
        cut = (_cut(piece, start, end) for piece in self._pieces)
        return [piece for piece in cut if piece is not None]

    # --- as text ---

    def cursor(self, keyspace: int) -> str:
        pieces = self._pieces
        edges = [each for piece in pieces[1:] for each in (piece.start, piece.told)]
        body = (FORMAT, keyspace, pieces[0].start, pieces[-1].end, pieces[0].told, edges)
        return urlsafe_b64encode(_encode(body)).decode().rstrip("=")

    @classmethod
    def of_cursor(cls, text: str, keyspace: int, keys: KeyRange) -> Position:
        """Raises InvalidWatchCursorError if it is none of a watch of these keys."""
        whose, position = _parse(text)
        if whose != keyspace or position.keys != keys:
            raise InvalidWatchCursorError(
                "this cursor is of a watch of other keys, or of another keyspace; give it with the "
                "key, prefix or range that it was given for, or watch without one"
            )
        return position


_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(
    tuple[int, int, bytes, bytes | None, int, list[bytes | int]]
).decode


def _parse(text: str) -> tuple[int, Position]:
    try:
        if not text.isascii():
            raise ValueError
        data = urlsafe_b64decode(text + "=" * (-len(text) % 4))
        version, keyspace, start, end, told, edges = _decode(data)
        if version != FORMAT or len(edges) % 2 or len(edges) > 2 * PIECES_MAX:
            raise ValueError
        return keyspace, Position(_pieces_of(start, end, told, edges))
    except (ValueError, msgspec.DecodeError) as error:
        raise InvalidWatchCursorError(
            f"the cursor {text[:60]!a} is not one that a watch gave; pass back the one of the last "
            "line as it is, or watch without one"
        ) from error


def _pieces_of(
    start: bytes, end: bytes | None, told: int, edges: Sequence[bytes | int]
) -> Iterator[Piece]:
    """Raises ValueError for what no position is."""
    for at in range(0, len(edges) + 2, 2):
        last = at == len(edges)
        edge, following = (end, 0) if last else (edges[at], edges[at + 1])
        if (
            isinstance(edge, int)
            or not isinstance(following, int)
            or len(start) > KEY_MAX_BYTES + 1
            or not (edge is None or (start < edge and len(edge) <= KEY_MAX_BYTES + 1))
            or (edge is None and not last)
            or not 0 <= told <= _REVISION_MAX
        ):
            raise ValueError
        yield Piece(start, edge, told)
        start, told = edge or b"", following


# --- who feeds what ----------------------------------------------------------------------------


def plan(position: Position, holdings: Sequence[Holding]) -> list[Feed]:
    """`holdings` are apart from each other. Pieces that nobody holds wait."""
    feeds: list[Feed] = []
    for shard, low, high in holdings:
        pieces = position.within(low, high)
        if not pieces:
            continue
        levels = sorted({piece.told for piece in pieces})
        if len(levels) == 1:
            feeds.append(Feed(shard, pieces[0].start, pieces[-1].end, levels[0]))
            continue
        for behind, run in groupby(pieces, key=lambda piece: piece.told == levels[0]):
            if behind:
                (piece,) = run  # equal neighbours are one piece
                feeds.append(Feed(shard, piece.start, piece.end, piece.told, levels[1]))
    return feeds


def _cut(piece: Piece, start: bytes, end: bytes | None) -> Piece | None:
    """What of it lies in a range."""
    low = max(piece.start, start)
    high = piece.end if end is None else end if piece.end is None else min(piece.end, end)
    return None if high is not None and high <= low else Piece(low, high, piece.told)


def _joined(pieces: Iterable[Piece]) -> list[Piece]:
    made: list[Piece] = []
    for piece in pieces:
        if made and made[-1].told == piece.told:
            made[-1] = made[-1]._replace(end=piece.end)
        else:
            made.append(piece)
    return made
