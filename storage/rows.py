"""Rows of any length, and the changes of one turn that its own reads see.

An engine's value ends at 4 MiB, and a sibling set may be longer: values go to 1 MiB and replicas
that were apart each kept some. A body longer than PART_BYTES continues in rows of the table PART:

    row key                  ->  varint count of further parts | first PART_BYTES of the body
    PART, row key, u16 1..   ->  the following PART_BYTES each

Each row is sealed under its own key (codec.py), and all of a body are written in one batch.

`RowChanges` holds what one turn wants written. Its `get` sees the changes before the snapshot;
`collect` hands them to a batch. It reads what it overwrites, because the parts of the old body must
go. This file is pure.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from storage.codec import Table, seal, unseal
from storage.engine import Batch, Reader
from storage.errors import CorruptRecordError
from storage.siblings import read_varint, write_varint

PART_BYTES: Final = 3 * 1024 * 1024
_U16: Final = Struct(">H")
_ALONE: Final = b"\x00"


def part_key(row_key: bytes, part: int) -> bytes:
    return bytes((Table.PART,)) + row_key + _U16.pack(part)


def put_row(batch: Batch, key: bytes, body: bytes, old_parts: int = 0) -> None:
    """Write a body whose predecessor had `old_parts` further parts."""
    if len(body) <= PART_BYTES:
        batch.put(key, seal(key, _ALONE + body))
        parts = 0
    else:
        parts = (len(body) - 1) // PART_BYTES
        head = bytearray()
        write_varint(head, parts)
        batch.put(key, seal(key, bytes(head) + body[:PART_BYTES]))
        for part in range(1, parts + 1):
            rest_key = part_key(key, part)
            rest = body[part * PART_BYTES : (part + 1) * PART_BYTES]
            batch.put(rest_key, seal(rest_key, rest))
    for part in range(parts + 1, old_parts + 1):
        batch.delete(part_key(key, part))


def delete_row(batch: Batch, key: bytes, parts: int = 0) -> None:
    batch.delete(key)
    for part in range(1, parts + 1):
        batch.delete(part_key(key, part))


def split_row(key: bytes, record: bytes) -> tuple[bytes, int]:
    """The first part of a body, verified, and how many parts follow."""
    first = unseal(key, record)
    if first[:1] == _ALONE:
        return first[1:], 0
    try:
        parts, at = read_varint(first, 0)
    except IndexError:
        raise CorruptRecordError(f"the record of key {key!r} is cut short", key) from None
    return first[at:], parts


def join_row(reader: Reader, key: bytes, record: bytes) -> tuple[bytes, int]:
    """The whole body of a row that was read, and how many further parts it has."""
    first, parts = split_row(key, record)
    if not parts:
        return first, 0
    bodies = [first]
    for part in range(1, parts + 1):
        rest_key = part_key(key, part)
        rest = reader.get(rest_key)
        try:
            bodies.append(unseal(rest_key, rest or b""))
        except CorruptRecordError:
            raise CorruptRecordError(
                f"the record of key {key!r} is damaged: its part {part} of {parts} is "
                f"{'missing' if rest is None else 'damaged'}; repair fetches it from a replica",
                key,
            ) from None
    return b"".join(bodies), parts


def read_row(reader: Reader, key: bytes) -> bytes | None:
    """The body of a row, verified; None if there is no row."""
    record = reader.get(key)
    return None if record is None else join_row(reader, key, record)[0]


class RowChanges:
    """Changes of rows over a reader. Invariant: every changed row has its old count of parts."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self._pending: dict[bytes, bytes | None] = {}
        self._parts: dict[bytes, int] = {}

    def __bool__(self) -> bool:
        return bool(self._pending)

    def get(self, key: bytes) -> bytes | None:
        if key in self._pending:
            return self._pending[key]
        record = self.reader.get(key)
        if record is None:
            self._parts[key] = 0
            return None
        body, self._parts[key] = join_row(self.reader, key, record)
        return body

    def put(self, key: bytes, body: bytes) -> None:
        self._learn_parts(key)
        self._pending[key] = body

    def put_new(self, key: bytes, body: bytes) -> None:
        """A row that is not there or is short: it is not read, and no parts are removed."""
        self._parts.setdefault(key, 0)
        self._pending[key] = body

    def delete(self, key: bytes) -> None:
        self._learn_parts(key)
        self._pending[key] = None

    def delete_blind(self, key: bytes) -> None:
        """Delete a row of a table without parts, or one that cannot be read: then parts of it may
        stay behind as waste, which nothing refers to."""
        self._parts.setdefault(key, 0)
        self._pending[key] = None

    def _learn_parts(self, key: bytes) -> None:
        if key not in self._parts:
            record = self.reader.get(key)
            self._parts[key] = 0 if record is None else split_row(key, record)[1]

    def forget(self, key: bytes) -> None:
        """Do not write this row after all."""
        self._pending.pop(key, None)

    def collect(self, batch: Batch) -> None:
        for key, body in self._pending.items():
            if body is None:
                delete_row(batch, key, self._parts[key])
            else:
                put_row(batch, key, body, self._parts[key])
