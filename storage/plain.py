"""Plain sets, read off their bytes: one version that lasts, the last change of the only actor.

Nearly every key holds one. What a replica has to know before it stores a copy, and what a reader is
told, then stands at known places, and decoding the set (storage/siblings.py) would cost more than
all else that is done with it.

    clock, one actor, no gap   01 | 01 | size, node | incarnation u64 | epoch | n | 00
    one version, no flags      01 | 00 | n | 00 | timestamp u64 | size, value

`plain_of` gives None for everything else, well formed or not. What it takes is canonical, so
`decode_set` takes it, too, and means the same; a test holds the two against each other. Widths of
numbers are checked as there, except that the few of 64 bits are left to it. This file is pure.
"""

from __future__ import annotations

import re
from struct import Struct
from typing import Final, NamedTuple

from storage.siblings import NODE_ID_MAX_BYTES

CLOCK_AT: Final = 1
_INCARNATION: Final = Struct(">Q")
_ONE_ACTOR: Final = b"\x01\x01"
_POSITIVE: Final = rb"([\x01-\x7f]|[\x80-\xff]{1,7}[\x01-\x7f])"
_NUMBER: Final = rb"([\x00-\x7f]|[\x80-\xff]{1,7}[\x01-\x7f])"
_REST: Final = re.compile(
    _NUMBER + _POSITIVE + rb"\x00\x01\x00\2\x00(.{8})" + _NUMBER,
    re.DOTALL,
)
"""Behind the incarnation: epoch, n, no gaps; one version, of actor 0, n again, no flags; its
timestamp; the size of the value."""


class Plain(NamedTuple):
    actor_end: int
    """Bytes CLOCK_AT.. up to here name the actor."""
    n: int
    clock_end: int
    timestamp: int
    value_at: int
    """From here on, everything is the value."""


def plain_of(data: bytes) -> Plain | None:
    """None: it is no plain set, and perhaps none at all."""
    if len(data) < 3 or not 0 < data[2] <= NODE_ID_MAX_BYTES:
        return None
    at = 11 + data[2]
    found = _REST.match(data, at)
    if found is None or data[:2] != _ONE_ACTOR or not data[3 : at - 8].isascii():
        return None
    value_at = found.end()
    if value_at + _number(found[4]) != len(data):
        return None
    return Plain(
        found.end(1),
        _number(found[2]),
        found.end(2) + 1,
        int.from_bytes(found[3], "big"),
        value_at,
    )


def minted_by(node: str, incarnation: int) -> bytes:
    """What a plain set begins with that was minted there."""
    name = node.encode()
    return b"%b%c%b%b" % (_ONE_ACTOR, len(name), name, _INCARNATION.pack(incarnation))


def replaces(data: bytes, plain: Plain, held: bytes, held_plain: Plain) -> bool:
    """Whether the first is a later change of the actor of the second. Then it has replaced it:
    the only actor that ever wrote the key."""
    return (
        plain.n > held_plain.n
        and plain.actor_end == held_plain.actor_end
        and data[: plain.actor_end] == held[: held_plain.actor_end]
    )


def _number(varint: bytes) -> int:
    if len(varint) == 1:
        return varint[0]
    number = 0
    for byte in reversed(varint):
        number = number << 7 | byte & 0x7F
    return number
