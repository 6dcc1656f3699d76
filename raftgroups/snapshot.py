"""Snapshots as values: what is offered, how rows travel in chunks, what may be accepted. Pure.

A snapshot is the rows of a machine's ranges at one applied index, streamed from an engine snapshot
in key order. Nothing is dumped and nothing is held in memory but a few chunks.

    leader                                   follower
    Offer(id, index, config, ranges)  --->   refuse if it has that already (hazard n2)
             <---  OfferReply(next chunk)    what is on the disk already is not sent again
    Chunk 0, 1, 2, ...                --->   checked; staged or placed, synced
             <---  OfferReply(next chunk)
    Chunk last                        --->   all there: the switch (snapshot_receive.py)
             <---  Ack(index + 1)            entries follow

The rows of a chunk are the engine's, as they are: PACKED and msgpack of [[key, record], ...], made
and read by one call each, 0.4 us a row for both where cbor takes 2. Peers below `PACKED_LEVEL`
(levels.py) are sent cbor, and both are read.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final
from zlib import crc32

import cbor2
import msgspec

from raftgroups.messages import LineageOffer, MalformedError, Offer
from storage.codec import Table, key_u64, table_range
from storage.engine import ENGINE_KEY_MAX_BYTES, ENGINE_VALUE_MAX_BYTES
from storage.slices import EVERY_ROW, Range, Slice, as_slice

PART_BYTES: Final = 2 * 1024 * 1024
Row = tuple[bytes, bytes]
AnyOffer = Offer | LineageOffer

PACKED: Final = b"\x00"
"""Before msgpack; in cbor it would be a number."""
_pack: Final = msgspec.msgpack.Encoder().encode
_unpack: Final = msgspec.msgpack.Decoder(list[tuple[bytes, bytes]]).decode

_RAFT_TABLES: Final = [
    table_range(table)
    for table in (
        Table.NODE_META,
        Table.JOURNAL,
        Table.JOURNAL_META,
        Table.HARD_STATE,
        Table.GROUP_CONFIG,
        Table.APPLIED_INDEX,
        Table.SNAPSHOT_STATE,
    )
]


class Phase(IntEnum):
    STAGING = 0
    MOVING = 1
    PLACING = 2


@dataclass(frozen=True, slots=True)
class Incoming:
    """A snapshot being received, as it stands in the engine. Invariants: in phase MOVING all chunks
    are checked and staged or in place, the log has already given way, and chunks below `moved` are
    in place. In phase PLACING rows of the ranges are worth nothing, and nobody else's."""

    snapshot: int
    last_index: int
    last_term: int
    config_index: int
    config: bytes
    ranges: tuple[Range, ...]
    phase: Phase = Phase.STAGING
    chunks: int = 0
    """How many there are in all, once the last one is on the disk."""
    moved: int = 0
    absorbed: tuple[int, ...] = ()
    """Groups that ended in this one."""

    @classmethod
    def of(cls, offer: AnyOffer) -> Incoming:
        return cls(
            offer.snapshot,
            offer.last_index,
            offer.last_term,
            offer.config_index,
            offer.config,
            tuple(read_range(*parts) for parts in offer.ranges),
            absorbed=tuple(offer.absorbed) if isinstance(offer, LineageOffer) else (),
        )

    def encode(self) -> bytes:
        return cbor2.dumps(
            [
                self.snapshot,
                self.last_index,
                self.last_term,
                self.config_index,
                self.config,
                [list(pair) for pair in self.ranges],
                int(self.phase),
                self.chunks,
                self.moved,
                *([list(self.absorbed)] if self.absorbed else ()),
            ]
        )

    @classmethod
    def decode(cls, data: bytes) -> Incoming:
        snapshot, index, term, config_index, config, ranges, phase, chunks, moved, *more = (
            cbor2.loads(data)
        )
        owned = tuple(read_range(*parts) for parts in ranges)
        absorbed = tuple(more[0]) if more else ()
        return cls(
            snapshot,
            index,
            term,
            config_index,
            config,
            owned,
            Phase(phase),
            chunks,
            moved,
            absorbed,
        )


def read_range(start: bytes, end: bytes, *part: Any) -> Range:
    """A range out of the list that it travels and is stored as."""
    return Slice(start, end, *part) if part else (start, end)


def encode_rows(rows: Sequence[Row], *, packed: bool = True) -> tuple[bytes, int]:
    """The bytes of a chunk and their checksum."""
    data = PACKED + _pack(rows) if packed else cbor2.dumps([list(row) for row in rows])
    return data, crc32(data)


def decode_rows(data: bytes) -> list[Row]:
    """Raises MalformedError for anything that is no list of rows."""
    if data[:1] == PACKED:
        try:
            return _unpack(memoryview(data)[1:])
        except msgspec.DecodeError as error:
            raise MalformedError(f"a chunk does not hold rows: {error}") from None
    try:
        rows = cbor2.loads(data)
    except Exception as error:  # noqa: BLE001 - the decoder raises many things on hostile bytes
        raise MalformedError(f"a chunk is not cbor: {error}") from None
    if type(rows) is not list or not all(
        type(row) is list and len(row) == 2 and type(row[0]) is bytes and type(row[1]) is bytes
        for row in rows
    ):
        raise MalformedError("a chunk does not hold rows")
    return [(key, value) for key, value in rows]


def checked_rows(data: bytes, checksum: int, ranges: Iterable[Range]) -> list[Row] | str:
    """The rows of a chunk; or why it must not be taken: damaged, or with rows outside of what was
    offered, or that no engine takes."""
    if crc32(data) != checksum:
        return "snapshot-chunk-damaged"
    try:
        rows = decode_rows(data)
    except MalformedError:
        return "snapshot-chunk-malformed"
    if not rows:
        return rows
    keys, records = zip(*rows, strict=True)
    sizes = list(map(len, keys))
    if not 0 < min(sizes) <= max(sizes) <= ENGINE_KEY_MAX_BYTES or (
        max(map(len, records)) > ENGINE_VALUE_MAX_BYTES
    ):
        return "snapshot-chunk-malformed"
    slices = [as_slice(owned) for owned in ranges]
    if _in_order(keys) and _lie_within(rows, keys, slices):
        return rows
    if all(any(owned.holds(key, record) for owned in slices) for key, record in rows):
        return rows
    return "snapshot-row-out-of-range"


def _in_order(keys: Sequence[bytes]) -> bool:
    return list(keys) == sorted(keys)


def _lie_within(rows: Sequence[Row], keys: Sequence[bytes], slices: Sequence[Slice]) -> bool:
    """Whether each of these sorted rows lies in the first range that may have it: no look at a row
    of a plain range."""
    at = 0
    for owned in sorted(slices, key=lambda each: each.start):
        first = bisect_left(keys, owned.start, at)
        if first > at:
            return False
        at = bisect_left(keys, owned.end, first)
        if owned.key_at != EVERY_ROW and not all(owned.holds(*row) for row in rows[first:at]):
            return False
    return at == len(keys)


def offer_fault(offer: AnyOffer) -> str | None:
    """Why these ranges are none of a machine."""
    for parts in offer.ranges:
        start, end = parts[0], parts[1]
        if not start < end:
            return "snapshot-range-malformed"
    if overlap((read_range(*parts) for parts in offer.ranges), _RAFT_TABLES):
        return "snapshot-overlaps"
    return None


def overlap(ranges: Iterable[Range], others: Iterable[Range]) -> bool:
    """Whether a snapshot would write rows of another replica."""
    wanted = [as_slice(owned) for owned in ranges]
    return any(each.overlaps(as_slice(other)) for other in others for each in wanted)


def meta_row(group: int) -> bytes:
    return key_u64(Table.SNAPSHOT_STATE, group)


def chunk_row(group: int, number: int, part: int = 0) -> bytes:
    return key_u64(
        Table.SNAPSHOT_STATE, group, b"\x01" + number.to_bytes(4, "big") + part.to_bytes(2, "big")
    )


def parts(data: bytes) -> list[bytes]:
    """A chunk with a very large row does not fit into one value of the engine."""
    return [data[at : at + PART_BYTES] for at in range(0, len(data), PART_BYTES)] or [b""]
