"""How a place in the queue of a lock, or of an election, looks: made and recognised here. Pure.

    queue    NAME /         all keys of the lock begin with it
    place    NAME / lease   the lease on which the key hangs, in lower hexadecimal digits

They are etcd's, so both faces and clients of the real one's libraries share their locks.

Invariants: the queue and the lease make one key, and `place_at` gives back both. Digits never begin
with 0, as `%x` writes them, so keys with padded numbers are no places. Other keys may look like one
by accident: whoever has the record knows it for certain, since a place hangs on its lease.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

DIGITS_MAX: Final = 16
"""Leases have 63 bits."""
_PLACE: Final = re.compile(rb"(.*/)([1-9a-f][0-9a-f]{0,15})", re.DOTALL)


class Place(NamedTuple):
    queue: bytes
    lease: int


def queue_of(name: bytes) -> bytes:
    return name + b"/"


def place_key(queue: bytes, lease: int) -> bytes:
    return b"%b%x" % (queue, lease)


def place_at(key: bytes) -> Place | None:
    """What the key would be a place of; None if it cannot be one."""
    found = _PLACE.fullmatch(key)
    return None if found is None else Place(found[1], int(found[2], 16))
