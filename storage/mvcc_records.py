"""What the strong regime stores: the bytes of records and events, and what they mean.

A *record* is one version of one key. The same bytes ("body") stand in the current table, in the
event that made it, and, as the previous record, in the event that replaced it; so it is encoded
once. Bodies are inside a seal (codec.py), which is checked before anything here looks at them.

    record   flags u8 | create u64 | mod u64 | sub u32 | version u64 | lease u64 | depth u32
             | modified u64 | jumps: (mod u64, sub u32) each | value
    event    key length u16 | new length u32 | key | new record | previous record (may be missing)

- (mod, sub) is where the record's event lies in the log: `sub` numbers the changes of a revision.
- A tombstone is a record with the flag and without value, lease, version and create revision. It
  stays in the current table until compaction, because a deleted key's history hangs on it.
- depth counts the records of a key's chain of previous records; 1 has none before it. It begins
  again behind compaction: a record whose previous one is at or below the compact revision has depth
  2, since no read goes further back.
- modified is the wall time of the write in milliseconds since the epoch, 0 if it is not known; of a
  tombstone, of the delete. It is told to people and decides nothing: wall clocks jump, also back.

Jumps. Following previous records one by one from the newest to revision r costs a read a version:
30 ms for a key overwritten 10,000 times, 0.16 ms with jumps. So a record also carries, for each
level L from 1, where the nearest earlier record lies whose depth is a multiple of 16**L, if there
is one: at most 16 steps a level, and no bytes at all for a key with fewer than 17 versions. They
follow from the previous record alone (`_jumps_after`), so writing them reads nothing more.

This file does no reading or writing and knows no revisions but those in the bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from typing import Final, NamedTuple

TOMBSTONE: Final = 0x80
JUMP_COUNT: Final = 0x0F
JUMP_BASE: Final = 16
MAX_JUMPS: Final = 7  # depth is a u32 and 16**8 is beyond it

HEAD: Final = Struct(">BQQIQQIQ")
HEAD_BYTES: Final = HEAD.size
_PREVIOUS: Final = Struct(">BQQIQ8xI")
"""What the next record needs of the head: flags, create, mod, sub, version, depth."""
_SHOWN: Final = Struct(">xQQ4xQQ4xQ").unpack_from
"""What is told of a record: create, mod, version, lease, modified."""
LEASE: Final = slice(29, 37)
"""Where a record has its lease."""
NO_LEASE: Final = bytes(8)
LOCATION: Final = Struct(">QI")
LOCATION_BYTES: Final = LOCATION.size
EVENT_HEAD: Final = Struct(">HI")
EVENT_HEAD_BYTES: Final = EVENT_HEAD.size


class KeyValue(NamedTuple):
    """A live record as callers see it: etcd's fields, and when it was written (0: unknown)."""

    key: bytes
    create_revision: int
    mod_revision: int
    version: int
    lease: int
    value: bytes
    modified_ms: int = 0


Fields = tuple[bytes, int, int, int, int, bytes, int]
"""Those of a KeyValue as a tuple without names, where thousands a second are made."""
_new: Final = tuple.__new__
"""Makes a named tuple at a third of the price: every read and write makes one."""


class Event(NamedTuple):
    """One change. A deletion has `kv` with key, mod_revision and modified_ms only. `prev` is None
    if the key did not exist before."""

    is_delete: bool
    kv: KeyValue
    prev: KeyValue | None


class Head(NamedTuple):
    """The fixed part of a record."""

    flags: int
    create: int
    mod: int
    sub: int
    version: int
    lease: int
    depth: int
    modified_ms: int


def head_of(body: bytes) -> Head:
    return Head(*HEAD.unpack_from(body))


def is_tombstone(body: bytes) -> bool:
    return body[0] >= TOMBSTONE


def mod_of(body: bytes) -> int:
    return int.from_bytes(body[9:17], "big")


def lease_of(body: bytes) -> int:
    return int.from_bytes(body[LEASE], "big")


def key_value(key: bytes, body: bytes, keys_only: bool = False) -> KeyValue:
    """A record as callers see it; of a tombstone, only key, mod_revision and modified_ms mean
    something."""
    flags, create, mod, _, version, lease, _, modified_ms = HEAD.unpack_from(body)
    value = b"" if keys_only else body[HEAD_BYTES + LOCATION_BYTES * (flags & JUMP_COUNT) :]
    return _new(KeyValue, (key, create, mod, version, lease, value, modified_ms))


def fields_each(keys: Sequence[bytes], bodies: Sequence[bytes | None]) -> list[Fields | None]:
    """What `key_value` makes of each; None of what is no live record."""
    found: list[Fields | None] = []
    for key, body in zip(keys, bodies, strict=True):
        if body is None or (flags := body[0]) >= TOMBSTONE:
            found.append(None)
            continue
        create, mod, version, lease, modified_ms = _SHOWN(body)
        at = HEAD_BYTES + LOCATION_BYTES * (flags & JUMP_COUNT) if flags else HEAD_BYTES
        found.append((key, create, mod, version, lease, body[at:], modified_ms))
    return found


def value_size(body: bytes) -> int:
    return len(body) - HEAD_BYTES - LOCATION_BYTES * (body[0] & JUMP_COUNT)


def jumps_of(body: bytes) -> list[tuple[int, int]]:
    """(mod, sub) of each jump, nearest first."""
    end = HEAD_BYTES + LOCATION_BYTES * (body[0] & JUMP_COUNT)
    return [LOCATION.unpack_from(body, at) for at in range(HEAD_BYTES, end, LOCATION_BYTES)]


def put_record(
    previous: bytes | None,
    value: bytes,
    lease: int,
    mod: int,
    sub: int,
    compact_revision: int,
    modified_ms: int = 0,
) -> bytes:
    """The record that a put makes out of the key's previous record (a tombstone counts)."""
    if previous is None:
        return HEAD.pack(0, mod, mod, sub, 1, lease, 1, modified_ms) + value
    flags, create, prev_mod, prev_sub, version, depth = _PREVIOUS.unpack_from(previous)
    if flags & TOMBSTONE:
        create = mod
    if prev_mod <= compact_revision:
        return HEAD.pack(0, create, mod, sub, version + 1, lease, 2, modified_ms) + value
    if depth % JUMP_BASE:  # the previous record reaches no level: its jumps are the next one's
        count = flags & JUMP_COUNT
        head = HEAD.pack(count, create, mod, sub, version + 1, lease, depth + 1, modified_ms)
        if not count:
            return head + value
        return head + previous[HEAD_BYTES : HEAD_BYTES + LOCATION_BYTES * count] + value
    count, jumps = _jumps_after(previous, flags, prev_mod, prev_sub, depth)
    head = HEAD.pack(count, create, mod, sub, version + 1, lease, depth + 1, modified_ms)
    return head + jumps + value


def tombstone_record(
    previous: bytes, mod: int, sub: int, compact_revision: int, modified_ms: int = 0
) -> bytes:
    """The record that a delete makes. Its version is 0, so the next put begins at 1."""
    flags, _, prev_mod, prev_sub, _, depth = _PREVIOUS.unpack_from(previous)
    if prev_mod <= compact_revision:
        return HEAD.pack(TOMBSTONE, 0, mod, sub, 0, 0, 2, modified_ms)
    count, jumps = _jumps_after(previous, flags, prev_mod, prev_sub, depth)
    return HEAD.pack(TOMBSTONE | count, 0, mod, sub, 0, 0, depth + 1, modified_ms) + jumps


def _jumps_after(previous: bytes, flags: int, mod: int, sub: int, depth: int) -> tuple[int, bytes]:
    """The jumps of the record after `previous`: those of `previous`, except that `previous` itself
    is now the nearest one on every level whose multiple its depth is."""
    count = flags & JUMP_COUNT
    reached = 0
    while depth % JUMP_BASE == 0 and reached < MAX_JUMPS:
        depth //= JUMP_BASE
        reached += 1
    if not (count or reached):
        return 0, b""
    kept = previous[HEAD_BYTES + LOCATION_BYTES * reached : HEAD_BYTES + LOCATION_BYTES * count]
    return max(count, reached), LOCATION.pack(mod, sub) * reached + kept


def pack_event(key: bytes, new: bytes, previous: bytes | None) -> bytes:
    return EVENT_HEAD.pack(len(key), len(new)) + key + new + (previous or b"")


def event_key_of(body: bytes) -> bytes:
    """The key of an event without decoding the rest."""
    return body[EVENT_HEAD_BYTES : EVENT_HEAD_BYTES + int.from_bytes(body[:2], "big")]


def unpack_event(body: bytes) -> tuple[bytes, bytes, bytes | None]:
    """(key, new record, previous record or None)."""
    key_length, new_length = EVENT_HEAD.unpack_from(body)
    new_at = EVENT_HEAD_BYTES + key_length
    previous_at = new_at + new_length
    return body[EVENT_HEAD_BYTES:new_at], body[new_at:previous_at], body[previous_at:] or None


def event_of(body: bytes) -> Event:
    """An event as callers see it."""
    key, new, previous = unpack_event(body)
    before = None if previous is None or is_tombstone(previous) else key_value(key, previous)
    return Event(is_tombstone(new), key_value(key, new), before)
