"""What transactions over several shards hold in one shard, and the records of those decided here.

    Part      of one transaction: the spans it has locked here, and the operations it will execute
              here if it is committed
    Record    of a transaction whose anchor key is this shard's: pending or committed. None: it was
              aborted, or it is over (twophase.py)

All of it is in memory, changes wait for the next batch, as dedupe.py does it. There is one row a
part, not one a span: a part is written, cut and dropped as a whole.

    TXN   shard u64, PART u8,   grouped client, number u64 -> part
          shard u64, RECORD u8, grouped client, number u64 -> record

A split cuts the parts at its key and gives the records to the side of their anchor; a merge unites
them. Bounded in number and in bytes; beyond that a Prepare is refused.

Invariants: `_points` and `_ranges` are the spans of `parts`. No two parts have spans that meet, of
which one writes: `conflicts` is asked before `add`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from raftgroups.commands import Bounds, Piece
from raftgroups.footprint import Span, cut_pieces, cut_spans, meet
from raftgroups.txnref import TxnId, TxnRef
from storage.codec import Table, group_bytes, key_u64, prefix_end, seal, unseal
from storage.engine import Batch, Reader, iterate

PARTS_MAX: Final = 4_096
PART_BYTES_MAX: Final = 64 * 1024 * 1024
"""Of all parts of a shard together."""
RECORDS_MAX: Final = 16_384

_PART: Final = b"\x01"
_RECORD: Final = b"\x02"
_KIND_AT: Final = 1 + 8

_encode: Final = msgspec.msgpack.Encoder().encode


class Part(msgspec.Struct, frozen=True, array_like=True, gc=False):
    txn: TxnRef
    spans: tuple[Span, ...]
    pieces: tuple[Piece, ...]
    since_ms: int
    """The shard's clock when it was prepared; for whoever looks for abandoned ones."""

    @property
    def writes(self) -> bool:
        return any(span[2] for span in self.spans)

    def within(self, bounds: Bounds) -> Part | None:
        spans = cut_spans(self.spans, bounds)
        pieces = cut_pieces(self.pieces, bounds)
        return Part(self.txn, spans, pieces, self.since_ms) if spans else None

    def joined(self, other: Part) -> Part:
        pieces = sorted((*self.pieces, *other.pieces), key=lambda piece: piece.place)
        return Part(self.txn, (*self.spans, *other.spans), tuple(pieces), self.since_ms)


class Record(msgspec.Struct, frozen=True, array_like=True, gc=False):
    txn: TxnRef
    deadline_ms: int
    """By the shard's clock; after it, anybody may abort it while it is pending."""
    asked: tuple[bytes, int, int] | None = None
    committed: bool = False
    taken: bool = False
    participants: tuple[Bounds, ...] = ()


_decode_part: Final = msgspec.msgpack.Decoder(Part).decode
_decode_record: Final = msgspec.msgpack.Decoder(Record).decode


class Intents:
    __slots__ = (
        "_bytes",
        "_pending",
        "_points",
        "_prefix",
        "_ranges",
        "_sizes",
        "parts",
        "records",
    )

    def __init__(self, shard: int) -> None:
        self._prefix = key_u64(Table.TXN, shard)
        self.parts: dict[TxnId, Part] = {}
        self.records: dict[TxnId, Record] = {}
        self._points: dict[bytes, dict[TxnId, bool]] = {}
        """Key -> who has locked exactly it, and whether to write."""
        self._ranges: list[tuple[Span, TxnId]] = []
        self._sizes: dict[TxnId, int] = {}
        self._bytes = 0
        self._pending: dict[bytes, bytes | None] = {}

    def __bool__(self) -> bool:
        """Whether anything is locked."""
        return bool(self.parts)

    # --- locks ---

    def conflicts(self, spans: Iterable[Span], own: TxnId | None = None) -> list[TxnRef]:
        """Who holds what these must not meet, in the order of their age."""
        found: set[TxnId] = set()
        for span in spans:
            found.update(self._meeting(span))
        found.discard(own)
        return sorted((self.parts[each].txn for each in found), key=lambda txn: txn.age)

    def _meeting(self, span: Span) -> Iterable[TxnId]:
        start, end, writes = span
        if end == start + b"\x00":
            held = self._points.get(start)
            if held is not None:
                yield from (txn for txn, held_to_write in held.items() if writes or held_to_write)
        else:
            for key, holders in self._points.items():
                if key >= start and (end is None or key < end):
                    yield from (txn for txn, to_write in holders.items() if writes or to_write)
        for (low, high, to_write), txn in self._ranges:
            if (writes or to_write) and meet((start, end), (low, high)):
                yield txn

    def written_in(self, bounds: Bounds) -> list[TxnRef]:
        """Those who may be about to change what a read of these keys has seen."""
        return self.conflicts([(*bounds, False)])

    @property
    def is_full(self) -> bool:
        return (
            len(self.parts) >= PARTS_MAX
            or self._bytes >= PART_BYTES_MAX
            or len(self.records) >= RECORDS_MAX
        )

    # --- changes, all of them entries of the log ---

    def add(self, part: Part) -> None:
        """Takes the place of one of the same transaction."""
        txn = part.txn.id
        self._unlock(txn)
        body = _encode(part)
        self._lock(part, len(body))
        self._put(_PART, txn, body)

    def remove(self, txn: TxnId) -> Part | None:
        part = self.parts.get(txn)
        if part is not None:
            self._unlock(txn)
            self._pending[self._row(_PART, txn)] = None
        return part

    def record(self, record: Record) -> None:
        self.records[record.txn.id] = record
        self._put(_RECORD, record.txn.id, _encode(record))

    def forget(self, txn: TxnId) -> None:
        if self.records.pop(txn, None) is not None:
            self._pending[self._row(_RECORD, txn)] = None

    def _lock(self, part: Part, size: int) -> None:
        txn = part.txn.id
        self.parts[txn] = part
        self._sizes[txn] = size
        self._bytes += size
        for start, end, writes in part.spans:
            if end == start + b"\x00":
                holders = self._points.setdefault(start, {})
                holders[txn] = writes or holders.get(txn, False)
            else:
                self._ranges.append(((start, end, writes), txn))

    def _unlock(self, txn: TxnId) -> None:
        part = self.parts.pop(txn, None)
        if part is None:
            return
        self._bytes -= self._sizes.pop(txn)
        ranged = False
        for start, end, _ in part.spans:
            if end != start + b"\x00":
                ranged = True
                continue
            holders = self._points.get(start)
            if holders is not None:
                holders.pop(txn, None)
                if not holders:
                    del self._points[start]
        if ranged:
            self._ranges = [each for each in self._ranges if each[1] != txn]

    # --- splits and merges ---

    def divide(self, key: bytes, right: int) -> list[tuple[bytes, bytes]]:
        """End at `key` from now on. Returns the rows of the shard of the keys from there."""
        twin = Intents(right)
        for txn, part in sorted(self.parts.items()):
            left, moved = part.within((b"", key)), part.within((key, None))
            if moved is None:
                continue
            twin.add(moved)
            if left is None:
                self.remove(txn)
            else:
                self.add(left)
        for txn, record in sorted(self.records.items()):
            if record.txn.anchor >= key:
                twin.record(record)
                self.forget(txn)
        return [(row, body) for row, body in twin._pending.items() if body is not None]

    def unite(self, other: Intents, shift_ms: int) -> None:
        """Take in those of the right neighbour, whose clock is behind by `shift_ms`."""
        for txn, part in sorted(other.parts.items()):
            own = self.parts.get(txn)
            since_ms = max(0, part.since_ms + shift_ms)
            part = Part(part.txn, part.spans, part.pieces, since_ms)
            self.add(part if own is None else own.joined(part))
        for record in other.records.values():
            deadline_ms = max(0, record.deadline_ms + shift_ms)
            self.record(msgspec.structs.replace(record, deadline_ms=deadline_ms))

    # --- rows ---

    def _row(self, kind: bytes, txn: TxnId) -> bytes:
        client, number = txn
        return self._prefix + kind + group_bytes(client) + number.to_bytes(8, "big")

    def _put(self, kind: bytes, txn: TxnId, body: bytes) -> None:
        row = self._row(kind, txn)
        self._pending[row] = seal(row, body)

    def owned_range(self) -> tuple[bytes, bytes]:
        end = prefix_end(self._prefix)
        assert end is not None, "no table tag is 0xff"
        return self._prefix, end

    def write(self, batch: Batch) -> None:
        for row, record in self._pending.items():
            if record is None:
                batch.delete(row)
            else:
                batch.put(row, record)
        self._pending.clear()

    def load(self, reader: Reader) -> None:
        """What the engine holds, into a new table."""
        for row, stored in iterate(reader, *self.owned_range()):
            body = unseal(row, stored)
            if row[_KIND_AT : _KIND_AT + 1] == _PART:
                self._lock(_decode_part(body), len(body))
            else:
                record = _decode_record(body)
                self.records[record.txn.id] = record
