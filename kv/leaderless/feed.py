"""What one node's commits changed, numbered, as far back as its bounds allow; and positions in the
feeds of all nodes. Pure.

    committed turn --> Feed.add       1, 2, 3 ...    one entry a key and turn: its whole set
    a reader       --> Feed.page(boot, after)        what came behind that number

Numbers are of one run of the process (`boot`): a feed lives in memory. A page says `lost` if not
everything behind the position that was asked for is in it: another boot, or dropped by the bounds.

A cursor is the position in every node's feed, as text for clients. It carries no data and no
rights, so it is not sealed. `open` in it: what the node lost may not have come from others yet.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Final, NamedTuple

import msgspec

from storage.errors import InvalidRequestError

ENTRIES_MAX: Final = 65_536
SIZE_MAX_BYTES: Final = 32 * 1024 * 1024
LOOKED_MAX: Final = 4096
"""Entries that one page looks at, wanted or not: a page must not hold up the loop."""
CURSOR_MAX_CHARS: Final = 8192
_VERSION: Final = 1

Number = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]


class Changed(NamedTuple):
    keyspace: int
    key: bytes
    encoded: bytes
    """The set that the node holds now, in its canonical bytes."""


class Position(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """Everything up to `number` of this boot was read."""

    boot: Number
    number: Number
    open: bool = False


class FeedPage(NamedTuple):
    boot: int
    number: int
    """Where the page ends."""
    items: list[Changed]
    lost: bool


class Feed:
    def __init__(
        self, boot: int, *, entries_max: int = ENTRIES_MAX, size_max_bytes: int = SIZE_MAX_BYTES
    ) -> None:
        self.boot: Final = boot
        self._entries_max = entries_max
        self._size_max_bytes = size_max_bytes
        self._entries: dict[int, tuple[int, bytes, bytes]] = {}
        """By number, without holes: the first of them is the oldest."""
        self._size_bytes = 0
        self.last = 0
        """The number of the newest entry."""

    def add(self, changes: Iterable[tuple[int, bytes, bytes]]) -> None:
        """What is on the disk, as fields of Changed: few of them are ever asked for."""
        for change in changes:
            self.last += 1
            self._entries[self.last] = change
            self._size_bytes += _size(change)
        while self._entries and (
            len(self._entries) > self._entries_max or self._size_bytes > self._size_max_bytes
        ):
            self._size_bytes -= _size(self._entries.pop(self.last - len(self._entries) + 1))

    def page(
        self,
        after: Position | None,
        *,
        max_entries: int,
        max_bytes: int,
        wanted: Callable[[Changed], bool] = lambda _: True,
        max_looked: int = LOOKED_MAX,
    ) -> FeedPage:
        """Those that are wanted, among the next `max_looked`. `after` None: no entries, only where
        it stands; lost, since nobody knows what was before."""
        if after is None:
            return FeedPage(self.boot, self.last, [], True)
        held_after = self.last - len(self._entries)
        lost = after.boot != self.boot or not held_after <= after.number <= self.last
        at = held_after if lost else after.number
        items: list[Changed] = []
        size_bytes = 0
        until = min(self.last, at + max_looked)
        while at < until and len(items) < max_entries and size_bytes < max_bytes:
            at += 1
            change = Changed(*self._entries[at])
            if wanted(change):
                items.append(change)
                size_bytes += _size(change)
        return FeedPage(self.boot, at, items, lost)


def _size(change: tuple[int, bytes, bytes]) -> int:
    return len(change[1]) + len(change[2]) + 64


# --- cursors ---------------------------------------------------------------------------------

Positions = Mapping[str, Position]


class InvalidCursorError(InvalidRequestError):
    code = "invalid_cursor"


class _Cursor(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    version: int
    keyspace: int
    positions: dict[str, Position]


_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(_Cursor).decode


def cursor_text(keyspace: int, positions: Positions) -> str:
    body = _encode(_Cursor(_VERSION, keyspace, dict(positions)))
    return urlsafe_b64encode(body).decode().rstrip("=")


def positions_of(keyspace: int, cursor: str) -> dict[str, Position]:
    """Raises InvalidCursorError."""
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        decoded = _decode(urlsafe_b64decode(padded))
    except (ValueError, msgspec.DecodeError, RecursionError):
        decoded = None
    if decoded is None or decoded.version != _VERSION or decoded.keyspace != keyspace:
        raise InvalidCursorError(
            "this is no cursor of a watch of this keyspace; give one exactly as a line of the "
            "stream had it, or none to watch from now on"
        )
    return decoded.positions


def is_behind(positions: Positions, others: Positions) -> bool:
    """Whether everything read at `positions` was read at `others`, too."""
    for node, position in positions.items():
        other = others.get(node)
        if other is None or other.boot != position.boot or other.number < position.number:
            return False
        if position.open and not other.open:
            return False
    return positions.keys() == others.keys()
