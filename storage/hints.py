"""Hinted handoff on the disk: writes held for a node that could not be reached.

A hint is a sibling set kept for a target node. There is at most one a (target, key): a later one is
merged into it and gets a NEW sequence, so a sequence always names the same content, and the
acknowledgement of an older sequence never removes what was added since. Sequences come from one
persisted counter of the node and are never used twice. Replay reads a target's hints in the order
of their sequences.

    HINT        target, sequence              -> keyspace, queued at, key, sibling set
    HINT_INDEX  keyspace, bucket, target, key -> sequence, size of the hint
    HINT_USAGE  target                        -> count, bytes, overflowed
    COUNTER     "hint-sequence"               -> the last one used

The index finds the hint of a key to merge with, and answers whether any hint of a bucket is left,
which the reaping of tombstones asks. The usage row bounds each target by count and bytes: a hint
that does not fit is refused and counted as overflow, which stays until a repair with that target
was run. Usage is exactly the sum over the rows.

A damaged hint is given up (`discard`) and counted as overflow too: the target is repaired instead.
This file is pure; merging is the caller's rule.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from struct import Struct
from typing import Final

from storage.buckets import bucket_of
from storage.codec import RECORD_OVERHEAD_BYTES, Table, check_key, prefix_end, unseal
from storage.engine import Reader, iterate
from storage.errors import CorruptRecordError
from storage.rows import RowChanges, join_row, read_row
from storage.siblings import (
    NODE_ID_MAX_BYTES,
    MalformedSetError,
    SiblingSet,
    decode_set,
    encode_set,
    read_varint,
    write_varint,
)

Merge = Callable[[SiblingSet, SiblingSet], SiblingSet]

HINT_SEQUENCE: Final = bytes((Table.COUNTER,)) + b"hint-sequence"
_U64: Final = Struct(">Q")
_HEAD: Final = Struct(">IQ")
_PLACE: Final = Struct(">BII")


@dataclass(frozen=True, slots=True)
class HintLimits:
    """Of one target. Bytes are those of the hints' bodies."""

    count: int = 100_000
    size_bytes: int = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class HintUsage:
    count: int = 0
    size_bytes: int = 0
    overflowed: int = 0
    """Hints refused since the last repair with the target."""


NO_USAGE: Final = HintUsage()


@dataclass(frozen=True, slots=True)
class Hint:
    target: str
    sequence: int
    keyspace: int
    key: bytes
    siblings: SiblingSet
    queued_ms: int
    """When the oldest part of it was queued, as the caller's wall clock said."""
    size_bytes: int


class HintOutcome(StrEnum):
    STORED = "stored"
    MERGED = "merged"
    UNCHANGED = "unchanged"
    """What was there already held all of it."""
    OVERFLOWED = "overflowed"
    """Not stored: the target is at its limit. An older hint of the key stays as it was."""


# --- rows ------------------------------------------------------------------------------------


def _framed(target: str) -> bytes:
    node = target.encode()
    assert 0 < len(node) <= NODE_ID_MAX_BYTES, f"node id {target!r} is not 1 to 64 bytes"
    return bytes((len(node),)) + node


def hint_key(target: str, sequence: int) -> bytes:
    return bytes((Table.HINT,)) + _framed(target) + _U64.pack(sequence)


def index_key(keyspace: int, bucket: int, target: str, key: bytes) -> bytes:
    return _PLACE.pack(Table.HINT_INDEX, keyspace, bucket) + _framed(target) + key


def usage_key(target: str) -> bytes:
    return bytes((Table.HINT_USAGE,)) + target.encode()


def _encode_hint(keyspace: int, queued_ms: int, key: bytes, siblings: SiblingSet) -> bytes:
    out = bytearray(_HEAD.pack(keyspace, queued_ms))
    write_varint(out, len(key))
    return bytes(out) + key + encode_set(siblings)


def _decode_hint(target: str, sequence: int, row_key: bytes, body: bytes) -> Hint:
    try:
        keyspace, queued_ms = _HEAD.unpack_from(body)
        size, at = read_varint(body, _HEAD.size)
        key, siblings = body[at : at + size], decode_set(body[at + size :])
    except MalformedSetError as error:
        raise CorruptRecordError(f"the hint {row_key!r} cannot be read: {error}", row_key) from None
    return Hint(target, sequence, keyspace, key, siblings, queued_ms, len(body))


def _decode_usage(body: bytes | None) -> HintUsage:
    if body is None:
        return NO_USAGE
    count, at = read_varint(body, 0)
    size_bytes, at = read_varint(body, at)
    return HintUsage(count, size_bytes, read_varint(body, at)[0])


def _encode_usage(usage: HintUsage) -> bytes:
    out = bytearray()
    for number in (usage.count, usage.size_bytes, usage.overflowed):
        assert number >= 0, f"hint usage below zero: {usage}"
        write_varint(out, number)
    return bytes(out)


# --- reading what is committed ---------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class HintPage:
    hints: list[Hint]
    damaged: list[int]
    """Sequences whose rows cannot be read: `discard` them."""
    more: bool


def read_hints(
    reader: Reader, target: str, *, after: int = 0, limit: int = 1_000, max_bytes: int = 1 << 20
) -> HintPage:
    """A target's hints with sequences above `after`, in order. At least one if there is one."""
    prefix = hint_key(target, 0)[:-8]
    page = reader.scan(
        hint_key(target, after + 1), prefix_end(prefix), limit=limit, max_bytes=max_bytes
    )
    hints, damaged = [], []
    for row_key, record in page.items:
        (sequence,) = _U64.unpack(row_key[-8:])
        try:
            body, _ = join_row(reader, row_key, record)
            hints.append(_decode_hint(target, sequence, row_key, body))
        except CorruptRecordError:
            damaged.append(sequence)
    return HintPage(hints, damaged, page.more)


def hint_usages(reader: Reader) -> dict[str, HintUsage]:
    """All targets that have hints or an overflow."""
    prefix = bytes((Table.HINT_USAGE,))
    usages = {}
    # One row a node of the cluster: a single page.
    for row_key, record in reader.scan(prefix, prefix_end(prefix)).items:
        body, _ = join_row(reader, row_key, record)
        usages[row_key[1:].decode()] = _decode_usage(body)
    return usages


def bucket_has_hints(reader: Reader, keyspace: int, bucket: int) -> bool:
    prefix = _PLACE.pack(Table.HINT_INDEX, keyspace, bucket)
    return bool(reader.scan(prefix, prefix_end(prefix), limit=1).items)


def key_has_hints(reader: Reader, keyspace: int, key: bytes) -> bool:
    """Whether a hint of this key is held, for any target."""
    prefix = _PLACE.pack(Table.HINT_INDEX, keyspace, bucket_of(key))
    return any(
        entry[_PLACE.size + 1 + entry[_PLACE.size] :] == key
        for entry, _ in iterate(reader, prefix, prefix_end(prefix))
    )


# --- changing --------------------------------------------------------------------------------


class HintChanges:
    """The hints of one turn. Every method sees the changes made before it."""

    def __init__(self, rows: RowChanges, limits: HintLimits, merge: Merge) -> None:
        self._rows = rows
        self._limits = limits
        self._merge = merge

    def usage(self, target: str) -> HintUsage:
        return _decode_usage(self._rows.get(usage_key(target)))

    def held(self, target: str, keyspace: int, key: bytes) -> Hint | None:
        """The hint of one key for one target."""
        entry = self._rows.get(index_key(keyspace, bucket_of(key), target, key))
        if entry is None:
            return None
        return self._read(target, _U64.unpack(entry)[0])

    def held_at(self, target: str, sequence: int) -> Hint | None:
        """The hint of this sequence, unless it was merged or removed since."""
        return self._read(target, sequence)

    def add(
        self, target: str, keyspace: int, key: bytes, siblings: SiblingSet, queued_ms: int
    ) -> HintOutcome:
        check_key(key)
        try:
            old = self.held(target, keyspace, key)
        except CorruptRecordError as error:
            old = None
            if error.key[0] == Table.HINT:
                self.discard(target, _U64.unpack(error.key[-8:])[0])
            # Else the index row is damaged: it is overwritten, and the older hint stays beside.
        if old is not None:
            siblings = self._merge(old.siblings, siblings)
            if siblings == old.siblings:
                return HintOutcome.UNCHANGED
            queued_ms = min(queued_ms, old.queued_ms)
        body = _encode_hint(keyspace, queued_ms, key, siblings)
        before = self.usage(target)
        after = HintUsage(
            before.count + (old is None),
            before.size_bytes + len(body) - (old.size_bytes if old else 0),
            before.overflowed,
        )
        if after.count > self._limits.count or after.size_bytes > self._limits.size_bytes:
            self._put_usage(target, replace(before, overflowed=before.overflowed + 1))
            return HintOutcome.OVERFLOWED
        if old is not None:
            self._rows.delete(hint_key(target, old.sequence))
        sequence = self._next_sequence()
        self._rows.put_new(hint_key(target, sequence), body)
        entry = index_key(keyspace, bucket_of(key), target, key)
        self._rows.put_new(entry, _U64.pack(sequence))
        self._put_usage(target, after)
        return HintOutcome.MERGED if old else HintOutcome.STORED

    def remove(self, target: str, sequence: int) -> bool:
        """The target has exactly this hint, synced. False if it was merged or removed since."""
        hint = self._read(target, sequence)
        if hint is None:
            return False
        self._rows.delete(hint_key(target, sequence))
        entry = index_key(hint.keyspace, bucket_of(hint.key), target, hint.key)
        if self._rows.get(entry) == _U64.pack(sequence):
            self._rows.delete(entry)
        before = self.usage(target)
        self._put_usage(
            target,
            replace(before, count=before.count - 1, size_bytes=before.size_bytes - hint.size_bytes),
        )
        return True

    def discard(self, target: str, sequence: int) -> None:
        """Give up a hint that cannot be read. Its key is not known, so its index row is searched
        for through the whole index: damage is rare."""
        row_key = hint_key(target, sequence)
        record = self._rows.reader.get(row_key)
        if record is None:
            return
        self._rows.delete_blind(row_key)
        prefix, wanted = bytes((Table.HINT_INDEX,)), _framed(target)
        for entry, body in iterate(self._rows.reader, prefix, prefix_end(prefix)):
            if entry.startswith(wanted, _PLACE.size) and unseal(entry, body)[1:] == row_key[-8:]:
                self._rows.delete(entry)
                break
        before = self.usage(target)
        size_bytes = len(record) - RECORD_OVERHEAD_BYTES - 1
        self._put_usage(
            target,
            HintUsage(
                max(0, before.count - 1),
                max(0, before.size_bytes - size_bytes),
                before.overflowed + 1,
            ),
        )

    def clear_overflow(self, target: str, repaired: int) -> None:
        """A repair with the target has ended; `repaired` overflows were counted when it began."""
        before = self.usage(target)
        left = max(0, before.overflowed - repaired)
        self._put_usage(target, replace(before, overflowed=left))

    def _read(self, target: str, sequence: int) -> Hint | None:
        row_key = hint_key(target, sequence)
        body = self._rows.get(row_key)
        return None if body is None else _decode_hint(target, sequence, row_key, body)

    def _put_usage(self, target: str, usage: HintUsage) -> None:
        row_key = usage_key(target)
        if usage == NO_USAGE:
            self._rows.delete(row_key)
        else:
            self._rows.put(row_key, _encode_usage(usage))

    def _next_sequence(self) -> int:
        body = self._rows.get(HINT_SEQUENCE)
        sequence = (0 if body is None else _U64.unpack(body)[0]) + 1
        self._rows.put(HINT_SEQUENCE, _U64.pack(sequence))
        return sequence


def last_sequence(reader: Reader) -> int:
    """The last hint sequence that this node used; 0 if none."""
    body = read_row(reader, HINT_SEQUENCE)
    return 0 if body is None else int(_U64.unpack(body)[0])
