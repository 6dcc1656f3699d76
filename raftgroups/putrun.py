"""Plain puts, the most frequent command of all, read as a run: the beginning of a replica's apply.

A put is plain if it is of the first version, without token, and asks for nothing but its value and
perhaps what it replaces. Ten that follow one another in an entry are read, applied and answered in
one loop each (machine.py: apply_each), which asks once what is the same for all of them.

Only what every program writes for a plain put is taken here: all fields, in the shortest form of
their number and kind. Whatever else there is, odd bytes of a plain put included, ends the run, and
is for commands.py to read: so this can only miss a put, never take something else for one. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from typing import Final

import msgspec

from raftgroups.commands import CLOCK_MAX_MS, FIRST_VERSION, Put
from storage.mvcc import PlainPut

_OPENING: Final = Struct(">BQQBH")
"""Version, clock, wall time, the length of the client's name, and what the body of a put begins
with: an array of all its fields, its tag first."""
_BODY_AT: Final = 18
_PUT: Final = int.from_bytes(msgspec.msgpack.encode(Put(b""))[:2], "big")
_decode: Final = msgspec.msgpack.Decoder(Put).decode


def plain_puts(payloads: Sequence[bytes], first: int = 0) -> tuple[list[PlainPut], int]:
    """The plain puts that follow one another from this payload on, and the latest of their clocks.
    None, if it is not one itself."""
    puts: list[PlainPut] = []
    latest_ms = 0
    unpack, size = _OPENING.unpack_from, _OPENING.size
    for payload in payloads[first:] if first else payloads:
        if len(payload) < size:
            break
        version, clock_ms, wall_ms, client, opening = unpack(payload)
        if (
            version != FIRST_VERSION
            or client
            or opening != _PUT
            or clock_ms | wall_ms > CLOCK_MAX_MS
        ):
            break
        try:
            put = _decode(payload[_BODY_AT:])
        except msgspec.DecodeError:
            break
        if put.lease or put.ttl_ms or put.ignore_value or put.ignore_lease:
            break
        puts.append((put.key, put.value, wall_ms, put.want_previous))
        if clock_ms > latest_ms:
            latest_ms = clock_ms
    return puts, latest_ms
