"""The rows of the leaderless regime's objects, and the reads of what is committed.

The tables are drawn in versions.py, which changes them; every byte stands in FORMAT-versions.md.
Reads here are functions over any Reader: they see what it sees and nothing that a turn still holds.
Single reads raise CorruptRecordError on a record that fails its checksum; page reads go on and name
the damaged keys, so that one bad block never hides what comes after it. This file is pure.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from struct import Struct
from typing import Final, Generic, NamedTuple, TypeVar

import msgspec

from storage.buckets import BUCKETS, DIGEST_BYTES, EMPTY_LEAF, Leaf, bucket_of, set_digest
from storage.codec import Table, key_u32, prefix_end, unseal
from storage.engine import Reader, iterate
from storage.errors import CorruptRecordError
from storage.rows import join_row, read_row, split_row
from storage.siblings import (
    MalformedSetError,
    SiblingSet,
    decode_set,
    read_varint,
    write_varint,
)

_PLACE: Final = Struct(">BII")
_KEYSPACE: Final = Struct(">BI")
_OBJECT: Final = int(Table.OBJECT)
_TOKEN_INDEX: Final = int(Table.TOKEN_INDEX)
"""As plain numbers: packing a member of an enumeration takes twice as long."""
_INDEXED_KEY_AT: Final = _PLACE.size
_DUE: Final = Struct(">BIQ")
T = TypeVar("T")


class Record(msgspec.Struct, frozen=True, gc=False):
    """What this node holds of one key."""

    siblings: SiblingSet
    epoch: int = 0
    """The epoch under which this node mints for the key while it holds this record; 0 while it has
    not minted. Local: not part of the digest and never sent."""


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    items: list[T]
    more: bool
    """Exactly if something of the range was left out: ask again after the last item."""
    damaged: list[bytes] = field(default_factory=list)
    """What of this page cannot be read, by key."""


# --- rows ------------------------------------------------------------------------------------


def object_key(keyspace: int, key: bytes) -> bytes:
    return _KEYSPACE.pack(_OBJECT, keyspace) + key


def token_key(keyspace: int, bucket: int, key: bytes) -> bytes:
    return _PLACE.pack(_TOKEN_INDEX, keyspace, bucket) + key


def digest_body(digest: int) -> bytes:
    """Of an index row. Those that were written before there were digests in them are empty."""
    return digest.to_bytes(DIGEST_BYTES, "big")


def reap_key(keyspace: int, due_ms: int, key: bytes) -> bytes:
    return _DUE.pack(Table.REAP, keyspace, due_ms) + key


_OF_KEYSPACES: Final = (Table.OBJECT, Table.TOKEN_INDEX, Table.REAP)


def keyspace_rows(keyspace: int) -> list[tuple[bytes, bytes | None]]:
    """Where all that is kept of a keyspace lies, but for hints: start <= row < end."""
    prefixes = [key_u32(table, keyspace) for table in _OF_KEYSPACES]
    return [(prefix, prefix_end(prefix)) for prefix in prefixes]


def keyspaces_held(reader: Reader) -> list[int]:
    """Those that have keys here. A seek for each of them."""
    found: list[int] = []
    start, end = key_u32(Table.OBJECT, 0), bytes((Table.OBJECT + 1,))
    while start < end:
        row = next(iterate(reader, start, end, page_limit=1), None)
        if row is None:
            break
        keyspace = int.from_bytes(row[0][1:5], "big")
        found.append(keyspace)
        start = prefix_end(key_u32(Table.OBJECT, keyspace)) or end
    return found


def object_body(epoch: int, digest: int, encoded: bytes) -> bytes:
    if epoch < 0x80:
        return b"%c%b%b" % (epoch, digest.to_bytes(DIGEST_BYTES, "big"), encoded)
    head = bytearray()
    write_varint(head, epoch)
    return bytes(head) + digest.to_bytes(DIGEST_BYTES, "big") + encoded


def split_object(row_key: bytes, body: bytes) -> tuple[int, int, bytes]:
    """Epoch, digest, the set as its bytes. Raises CorruptRecordError."""
    try:
        epoch, at = read_varint(body, 0)
    except (MalformedSetError, IndexError) as error:
        raise unreadable_object(row_key, error) from None
    set_at = at + DIGEST_BYTES
    return epoch, int.from_bytes(body[at:set_at], "big"), body[set_at:]


def decode_object(row_key: bytes, body: bytes) -> tuple[Record, int]:
    epoch, digest, encoded = split_object(row_key, body)
    try:
        return Record(decode_set(encoded), epoch), digest
    except MalformedSetError as error:
        raise unreadable_object(row_key, error) from None


def unreadable_object(row_key: bytes, error: Exception) -> CorruptRecordError:
    return CorruptRecordError(f"the object of key {row_key[5:]!r} cannot be read: {error}", row_key)


# --- reading what is committed ---------------------------------------------------------------


def read_record(reader: Reader, keyspace: int, key: bytes) -> Record | None:
    row_key = object_key(keyspace, key)
    body = read_row(reader, row_key)
    return None if body is None else decode_object(row_key, body)[0]


def read_encoded(reader: Reader, keyspace: int, key: bytes) -> bytes | None:
    """The key's sibling set as its bytes: verified by their checksum, and not decoded."""
    row_key = object_key(keyspace, key)
    body = read_row(reader, row_key)
    return None if body is None else split_object(row_key, body)[2]


def read_digest(reader: Reader, keyspace: int, key: bytes) -> int | None:
    """The digest of what the key holds, without decoding it."""
    row_key = object_key(keyspace, key)
    record = reader.get(row_key)
    if record is None:
        return None
    first, _ = split_row(row_key, record)
    _, at = read_varint(first, 0)
    return int.from_bytes(first[at : at + DIGEST_BYTES], "big")


def scan_objects(
    reader: Reader,
    keyspace: int,
    start: bytes = b"",
    end: bytes | None = None,
    *,
    reverse: bool = False,
    limit: int = 1_000,
    max_bytes: int = 1 << 20,
) -> Page[tuple[bytes, Record]]:
    """Objects of start <= key < end in key order. Resume after the last key, read or damaged."""
    table = key_u32(Table.OBJECT, keyspace)
    page = reader.scan(
        table + start,
        prefix_end(table) if end is None else table + end,
        reverse=reverse,
        limit=limit,
        max_bytes=max_bytes,
    )
    items, damaged = [], []
    for row_key, stored in page.items:
        key = row_key[len(table) :]
        try:
            body, _ = join_row(reader, row_key, stored)
            items.append((key, decode_object(row_key, body)[0]))
        except CorruptRecordError:
            damaged.append(key)
    return Page(items, page.more, damaged)


class Indexed(NamedTuple):
    """One key as the token index has it."""

    bucket: int
    key: bytes
    digest: int


@dataclass(frozen=True, slots=True)
class IndexPage:
    items: list[Indexed]
    next: int | None
    """The bucket to go on with; None: this was all of it."""
    damaged: list[bytes]
    """Keys whose index row cannot be read, for `Turn.mend_index`. Those whose object can be read
    are among the items all the same."""


def scan_index(
    reader: Reader, keyspace: int, first: int, last: int, *, limit: int = 1_000
) -> IndexPage:
    """Keys and digests of the buckets first..last, in order: about `limit`, and whole buckets."""
    end = prefix_end(token_key(keyspace, last, b""))
    page = reader.scan(token_key(keyspace, first, b""), end, limit=limit)
    rows = list(page.items)
    following: int | None = None
    if page.more:
        ending = _bucket_of_row(rows[-1][0])
        if _bucket_of_row(rows[0][0]) < ending:
            following = ending
            while _bucket_of_row(rows[-1][0]) == ending:
                rows.pop()
        else:
            bucket_end = prefix_end(token_key(keyspace, ending, b""))
            rows += iterate(reader, rows[-1][0] + b"\x00", bucket_end)
            following = ending + 1 if ending < last else None
    items: list[Indexed] = []
    damaged: list[bytes] = []
    for row_key, record in rows:
        key = row_key[_INDEXED_KEY_AT:]
        try:
            body = unseal(row_key, record)
        except CorruptRecordError:
            damaged.append(key)
            body = b""
        digest = int.from_bytes(body, "big") if body else _digest_of_object(reader, keyspace, key)
        if digest is not None:
            items.append(Indexed(_bucket_of_row(row_key), key, digest))
    return IndexPage(items, following, damaged)


def _bucket_of_row(row_key: bytes) -> int:
    return int.from_bytes(row_key[5:_INDEXED_KEY_AT], "big")


def _digest_of_object(reader: Reader, keyspace: int, key: bytes) -> int | None:
    """For an index row without one. A record that cannot be read counts as none."""
    try:
        return read_digest(reader, keyspace, key)
    except CorruptRecordError:
        return None


def indexed_digest(reader: Reader, keyspace: int, bucket: int, key: bytes) -> int | None:
    """What the key is counted with; None if it is not indexed. Raises CorruptRecordError."""
    row_key = token_key(keyspace, bucket, key)
    record = reader.get(row_key)
    if record is None:
        return None
    body = unseal(row_key, record)
    return int.from_bytes(body, "big") if body else read_digest(reader, keyspace, key)


def scan_reapable(
    reader: Reader,
    keyspace: int,
    now_ms: int,
    *,
    after: tuple[int, bytes] | None = None,
    limit: int = 1_000,
) -> Page[tuple[int, bytes]]:
    """(due, key) of the keys of which no version lives at `now_ms`, in that order. A stale row is
    possible after damage: `Turn.forget_reapable` removes it."""
    start = key_u32(Table.REAP, keyspace)
    if after is not None:
        start = reap_key(keyspace, *after) + b"\x00"
    page = reader.scan(start, reap_key(keyspace, now_ms + 1, b""), limit=limit)
    items = [(_DUE.unpack_from(row_key)[2], row_key[_DUE.size :]) for row_key, _ in page.items]
    return Page(items, page.more)


def index_leaves(reader: Reader, keyspace: int) -> dict[int, Leaf]:
    """All leaves that the index adds up to."""
    leaves: dict[int, Leaf] = {}
    following: int | None = 0
    while following is not None:
        page = scan_index(reader, keyspace, following, BUCKETS - 1)
        for bucket, _, digest in page.items:
            leaves[bucket] = leaves.get(bucket, EMPTY_LEAF).plus(1, digest)
        following = page.next
    return leaves


def compute_leaves(reader: Reader, keyspace: int) -> dict[int, Leaf]:
    """The same from nothing but the objects: a scrub."""
    leaves: dict[int, Leaf] = {}
    table = key_u32(Table.OBJECT, keyspace)
    for row_key, stored in iterate(reader, table, prefix_end(table)):
        body, _ = join_row(reader, row_key, stored)
        key, siblings = row_key[len(table) :], decode_object(row_key, body)[0].siblings
        bucket = bucket_of(key)
        digest = set_digest(key, siblings)
        leaves[bucket] = leaves.get(bucket, EMPTY_LEAF).plus(1, digest)
    return leaves
