"""Cursors: where a listing goes on, as a text that callers pass back without looking. Pure.

It holds everything that fixes the rest of the listing (bounds, order, revision), so that all pages
are one consistent picture, and a page cannot stray out of the range that the first one was of. It
is not signed: whoever changes it gets what a query of their own could have got.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Final

import msgspec

from kv.api.failures import InvalidCursorError

CURSOR_MAX_CHARACTERS: Final = 2560
"""Four keys of the longest kind in base64, and a little."""


class Cursor(msgspec.Struct, frozen=True, array_like=True):
    """The keys left: start <= key < end. `whole_*`: of the first page's query."""

    kind: str
    revision: int
    start: bytes
    end: bytes | None
    whole_start: bytes
    whole_end: bytes | None
    reverse: bool = False


_decoder: Final = msgspec.msgpack.Decoder(Cursor)


def pack(cursor: Cursor) -> str:
    return urlsafe_b64encode(msgspec.msgpack.encode(cursor)).decode().rstrip("=")


def unpack(text: str, kind: str) -> Cursor:
    """Raises InvalidCursorError."""
    try:
        if len(text) > CURSOR_MAX_CHARACTERS or not text.isascii():
            raise ValueError
        cursor = _decoder.decode(urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        if cursor.kind != kind or not 0 <= cursor.revision < 2**63:
            raise ValueError
    except (ValueError, msgspec.DecodeError) as error:
        raise InvalidCursorError(
            f"the cursor {text[:60]!r} is not one that this call gave; pass the last one back as "
            "it is, or begin without one"
        ) from error
    return cursor
