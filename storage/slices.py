"""Which rows of an environment belong to one shard, where rows of several shards lie side by side.

Most tables begin with what divides shards: a shard's or a segment's number, or the keyspace and the
user's key. There a shard owns plain ranges [start, end) of the engine's keys. Three do not:

    LEASE_KEY, KEY_TTL_DUE   keyspace, number, user key    the user's key ends the engine's key
    EVENT of an ancestor     segment, revision, sub        the user's key stands in the record

There a shard owns a Slice: the rows of a range whose user key lies in [low, high). Two shards of a
keyspace then share the range and no row. A split or a merge moves nothing; whoever streams or
removes a shard's rows looks at each row of such a range.

Pure. Invariant: `overlaps` is true if there can be a row that both hold.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from storage.codec import RECORD_OVERHEAD_BYTES
from storage.engine import Batch, Reader, iterate
from storage.mvcc_records import event_key_of

EVERY_ROW: Final = 0
IN_EVENT: Final = 0xFFFF
"""Values of `key_at`; any other is the place in the engine's key where the user's key begins."""


class Slice(NamedTuple):
    start: bytes
    end: bytes
    key_at: int = EVERY_ROW
    low: bytes = b""
    high: bytes | None = None

    def holds(self, key: bytes, record: bytes) -> bool:
        if not self.start <= key < self.end:
            return False
        if self.key_at == EVERY_ROW:
            return True
        if self.key_at == IN_EVENT:
            user_key = event_key_of(record[RECORD_OVERHEAD_BYTES:])
        else:
            user_key = key[self.key_at :]
        return user_key >= self.low and (self.high is None or user_key < self.high)

    def overlaps(self, other: Slice) -> bool:
        if not (self.start < other.end and other.start < self.end):
            return False
        if EVERY_ROW in (self.key_at, other.key_at):
            return True
        below = self.high is None or other.low < self.high
        return below and (other.high is None or self.low < other.high)


Range = tuple[bytes, bytes] | Slice
"""A pair is all rows of start <= key < end."""


def as_slice(owned: Range) -> Slice:
    return owned if isinstance(owned, Slice) else Slice(*owned)


def part(start: bytes, end: bytes, key_at: int, low: bytes, high: bytes | None) -> Range:
    """The rows of user keys low <= key < high; the plain range if those are all."""
    return (start, end) if low == b"" and high is None else Slice(start, end, key_at, low, high)


def remove(batch: Batch, reader: Reader, ranges: Iterable[Range]) -> None:
    """Delete every row of the ranges. `reader` shows what the batch will find."""
    for owned in ranges:
        if not isinstance(owned, Slice) or owned.key_at == EVERY_ROW:
            batch.delete_range(owned[0], owned[1])
            continue
        for key, record in iterate(reader, owned.start, owned.end):
            if owned.holds(key, record):
                batch.delete(key)
