"""Keys that sort and records that prove themselves: what every part of an environment shares.

Keys. One environment holds the tables of several parts, so every key begins with one tag byte, and
all tags stand in `Table` below: no two parts can collide. After the tag come fixed-width big-endian
numbers, which sort as numbers do, and at most one byte string:

    last component      the raw bytes; nothing follows, so they sort as they are
    followed by more    `group_bytes`: groups of eight, each closed by a marker byte, so that
                        neither a zero byte nor a prefix can be mistaken for the end

        b"abc"          61 62 63 00 00 00 00 00 | fa             marker = 0xff - padding
        b"12345678"     31 32 33 34 35 36 37 38 | ff             0xff: another group follows
                        00 00 00 00 00 00 00 00 | f7             which here is empty

The longest user key is 432 bytes because tag + keyspace + grouped key + revision is then
1 + 4 + 495 + 8 = 508 bytes, within the engine's 511.

Records. A stored value is `version | crc32 | body`. The checksum covers the version, the key (with
its table tag, so the kind of the record is bound too) and the body: a record that was damaged, or
read under another key, raises CorruptRecordError that names the key. Every later version keeps
these five bytes and the same cover, so that a newer format (UnknownFormatError) can be told from a
damaged version byte.

This file knows nothing of what the tables mean.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import IntEnum
from struct import Struct
from typing import Final
from zlib import crc32

from storage.errors import (
    CorruptRecordError,
    EmptyKeyError,
    KeyTooLongError,
    UnknownFormatError,
    ValueTooLargeError,
)

KEY_MAX_BYTES: Final = 432
VALUE_MAX_BYTES: Final = 1024 * 1024
FORMAT_VERSION: Final = 1
RECORD_OVERHEAD_BYTES: Final = 5


class Table(IntEnum):
    """The first byte of every key. Add a line here to reserve a tag; never reuse one."""

    # The node itself (both environments).
    NODE_META = 0x01
    """name -> value: directory stamp, incarnation, counters."""
    KEYSPACE_META = 0x02
    """keyspace u32 -> its settings."""

    # Raft groups.
    JOURNAL = 0x10
    """group u64, index u64 -> log entry."""
    JOURNAL_META = 0x11
    """group u64 -> first index and term of the journal."""
    HARD_STATE = 0x12
    """group u64 -> term, vote."""
    GROUP_CONFIG = 0x13
    """group u64 -> members."""
    APPLIED_INDEX = 0x14
    """group u64 -> index."""
    SNAPSHOT_STATE = 0x15
    """group u64 -> progress of a snapshot being received."""
    ERASED_REPLICA = 0x16
    """group u64 -> nothing: a replica of it was erased here."""

    # The strong regime's data (mvcc*.py).
    SHARD = 0x20
    """shard u64 -> keyspace, segment, revision, compact revision, applied index."""
    SEGMENT = 0x21
    """segment u64 -> key range and ancestor segments."""
    CURRENT = 0x22
    """keyspace u32, raw key -> newest record of the key, tombstones included."""
    EVENT = 0x23
    """segment u64, revision u64, sub u32 -> key, new record, previous record."""
    LEASE_KEY = 0x24
    """keyspace u32, lease u64, raw key -> nothing: the keys attached to a lease."""
    LEASE = 0x25
    """keyspace u32, lease u64 -> time to live."""
    DEDUPE = 0x26
    """shard u64, grouped client id, then sequence u64 -> a remembered answer; or nothing -> the
    client's floor."""
    MACHINE = 0x27
    """group u64, raw name -> other state of a group's machine (clock; the meta group's tables)."""
    KEY_TTL = 0x28
    """keyspace u32, raw key -> the key's own deadline."""
    KEY_TTL_DUE = 0x29
    """keyspace u32, deadline u64, raw key -> nothing."""
    LEASE_ENDED = 0x2A
    """keyspace u32, lease u64 -> epoch: it is over, and other shards do not know it yet."""
    TXN = 0x2B
    """shard u64, kind u8, grouped client, number u64 -> what a transaction over several shards has
    locked here, or how it stands."""

    # The leaderless regime's data (versions.py, hints.py).
    OBJECT = 0x30
    """keyspace u32, raw key -> sibling set and clock."""
    TOKEN_INDEX = 0x31
    """keyspace u32, bucket u32, raw key -> nothing."""
    HINT = 0x32
    """target node, sequence u64 -> the record held for it."""
    MERKLE_LEAF = 0x33  # of earlier versions; storage/upgrades.py removes it
    """keyspace u32, bucket u32 -> 128-bit combination."""
    COUNTER = 0x34
    """name -> persisted node-wide counter (key epochs, hint sequences)."""
    REAP = 0x35
    """keyspace u32, due u64, raw key -> nothing: the keys that are, or will be, only tombstones."""
    PART = 0x36
    """whole key of a row, part u16 -> the rest of a body too large for one row (rows.py)."""
    HINT_INDEX = 0x37
    """keyspace u32, bucket u32, target node, raw key -> sequence of the hint."""
    HINT_USAGE = 0x38
    """target node -> count, bytes and overflow of its hints."""


# --- limits ----------------------------------------------------------------------------------


def check_key(key: bytes) -> None:
    """Refuse what no table could store."""
    if not key:
        raise EmptyKeyError("the key is empty; give a key of 1 to 432 bytes")
    if len(key) > KEY_MAX_BYTES:
        raise KeyTooLongError(
            f"a key of {len(key)} bytes is over the limit of {KEY_MAX_BYTES} bytes; shorten it"
        )


def check_value(value: bytes) -> None:
    if len(value) > VALUE_MAX_BYTES:
        raise ValueTooLargeError(
            f"a value of {len(value)} bytes is over the limit of {VALUE_MAX_BYTES} bytes (1 MiB); "
            "store it in parts"
        )


# --- keys ------------------------------------------------------------------------------------

_U32: Final = Struct(">BI")
_U64: Final = Struct(">BQ")
_U64_U64: Final = Struct(">BQQ")
_U64_U64_U32: Final = Struct(">BQQI")
_U32_U64: Final = Struct(">BIQ")


def key_u32(table: Table, a: int, raw: bytes = b"") -> bytes:
    """tag, u32 (a keyspace), raw bytes last."""
    return _U32.pack(table, a) + raw


def key_u64(table: Table, a: int, raw: bytes = b"") -> bytes:
    """tag, u64 (a group, shard or segment), raw bytes last."""
    return _U64.pack(table, a) + raw


def key_u32_u64(table: Table, a: int, b: int, raw: bytes = b"") -> bytes:
    return _U32_U64.pack(table, a, b) + raw


def key_u64_u64(table: Table, a: int, b: int, raw: bytes = b"") -> bytes:
    return _U64_U64.pack(table, a, b) + raw


def key_u64_u64_u32(table: Table, a: int, b: int, c: int) -> bytes:
    return _U64_U64_U32.pack(table, a, b, c)


def table_range(table: Table) -> tuple[bytes, bytes]:
    """start <= key < end of everything in a table."""
    return bytes((table,)), bytes((table + 1,))


def prefix_end(prefix: bytes) -> bytes | None:
    """The smallest key above every key with this prefix; None if there is none."""
    stripped = prefix.rstrip(b"\xff")
    if not stripped:
        return None
    return stripped[:-1] + bytes((stripped[-1] + 1,))


_GROUP: Final = 8
_MORE: Final = b"\xff"


def group_bytes(raw: bytes) -> bytes:
    """Bytes that something follows: order-preserving, and no result is a prefix of another."""
    full, rest = divmod(len(raw), _GROUP)
    parts = [raw[at : at + _GROUP] for at in range(0, full * _GROUP, _GROUP)]
    parts.append(raw[full * _GROUP :].ljust(_GROUP, b"\x00") + bytes((0xFF - _GROUP + rest,)))
    return _MORE.join(parts)


def ungroup_bytes(key: bytes, at: int = 0) -> tuple[bytes, int]:
    """The grouped bytes that begin at `at`, and where they end."""
    parts = []
    while True:
        group = key[at : at + _GROUP]
        marker = key[at + _GROUP] if at + _GROUP < len(key) else 0
        at += _GROUP + 1
        if marker == 0xFF:
            parts.append(group)
            continue
        used = marker - (0xFF - _GROUP)
        if used < 0 or group[used:].strip(b"\x00"):
            raise CorruptRecordError(f"key {key!r} is not well formed: bad group", key)
        parts.append(group[:used])
        return b"".join(parts), at


# --- records ---------------------------------------------------------------------------------

_HEAD: Final = Struct(">BI")
SEED: Final = crc32(bytes((FORMAT_VERSION,)))
"""Of the checksum: it covers the version, then the key, then the body."""


def seal(key: bytes, body: bytes) -> bytes:
    """The record to store under this key."""
    return _HEAD.pack(FORMAT_VERSION, crc32(body, crc32(key, SEED))) + body


def seal_all(keys: Sequence[bytes], bodies: Iterable[bytes]) -> list[bytes]:
    """The records of as many keys and bodies: a call of `seal` for each costs a half more."""
    pack = _HEAD.pack
    return [
        pack(FORMAT_VERSION, crc32(body, crc32(key, SEED))) + body
        for key, body in zip(keys, bodies, strict=True)
    ]


def unseal(key: bytes, record: bytes) -> bytes:
    """The body of a record that was read under this key, verified."""
    body = record[RECORD_OVERHEAD_BYTES:]
    if record[:RECORD_OVERHEAD_BYTES] != _HEAD.pack(FORMAT_VERSION, crc32(body, crc32(key, SEED))):
        raise _refusal(key, record)
    return body


def _refusal(key: bytes, record: bytes) -> CorruptRecordError | UnknownFormatError:
    """Why a record cannot be believed. Only called once it is known that it cannot."""
    if len(record) >= RECORD_OVERHEAD_BYTES:
        version, checksum = _HEAD.unpack_from(record)
        body = record[RECORD_OVERHEAD_BYTES:]
        if version != FORMAT_VERSION and checksum == crc32(body, crc32(key, crc32(record[:1]))):
            return UnknownFormatError(
                f"the record of key {key!r} has format version {version} and this program reads "
                f"{FORMAT_VERSION}; run the version that wrote it"
            )
    return CorruptRecordError(
        f"the record of key {key!r} is damaged: its checksum does not match ({len(record)} bytes); "
        "restore this replica from another one or from a backup",
        key,
    )
