"""The rows that are a machine's own, beside those of its parts. Pure.

    MACHINE   group u64, "head"  -> clock u64, TTL count u64, next token order u64, forgotten id
              group u64, "lease" -> epoch u64 (lease.py)

Each is written where it differs from what was written last; of a shard that is just born nothing
was, so both are.
"""

from __future__ import annotations

from struct import Struct
from typing import Final, NamedTuple

from storage.codec import Table, key_u64, seal, unseal
from storage.engine import Batch, Reader
from storage.slices import Range as RowRange

HEAD: Final = b"head"
EPOCH: Final = b"lease"
_NUMBERS: Final = Struct(">QQQ")


class Head(NamedTuple):
    clock_ms: int
    ttls: int
    next_order: int
    forgotten: bytes


class MachineRows:
    __slots__ = ("_epoch_key", "_head_key", "_written", "_written_epoch")

    def __init__(self, group: int) -> None:
        self._head_key: Final = key_u64(Table.MACHINE, group, HEAD)
        self._epoch_key: Final = key_u64(Table.MACHINE, group, EPOCH)
        self._written = b""
        """The body of the head; empty: none."""
        self._written_epoch: int | None = None
        """None: nothing was written or read yet."""

    def load(self, reader: Reader) -> tuple[Head | None, int]:
        """(None if it was never written, the epoch)."""
        record = reader.get(self._epoch_key)
        epoch = 0 if record is None else int.from_bytes(unseal(self._epoch_key, record), "big")
        self._written_epoch = epoch
        record = reader.get(self._head_key)
        if record is None:
            self._written = b""
            return None, epoch
        self._written = body = unseal(self._head_key, record)
        clock_ms, ttls, next_order = _NUMBERS.unpack_from(body)
        return Head(clock_ms, ttls, next_order, body[_NUMBERS.size :]), epoch

    def write(
        self,
        batch: Batch,
        epoch: int,
        clock_ms: int,
        ttls: int,
        next_order: int,
        forgotten: bytes,
    ) -> None:
        if epoch != self._written_epoch:
            batch.put(self._epoch_key, seal(self._epoch_key, epoch.to_bytes(8, "big")))
            self._written_epoch = epoch
        body = _NUMBERS.pack(clock_ms, ttls, next_order) + forgotten
        if body != self._written:
            batch.put(self._head_key, seal(self._head_key, body))
            self._written = body

    def erase(self, batch: Batch) -> None:
        batch.delete(self._head_key)
        batch.delete(self._epoch_key)

    def owned_ranges(self) -> list[RowRange]:
        return [(key, key + b"\x00") for key in (self._head_key, self._epoch_key)]
