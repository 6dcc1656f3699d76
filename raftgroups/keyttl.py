"""Keys with a time to live of their own, in the shard's clock.

Not a lease each: a TTL must not show in etcd's list of leases nor in a key's lease field. A TTL is
a deadline that is bound to one version of the key (its mod revision). Any later change of the key
makes another version, so the TTL is over without being looked for; that is why a put without TTL
costs nothing here. What is left of it is removed when its deadline comes.

    KEY_TTL       keyspace u32, raw key               -> deadline u64, mod revision u64
    KEY_TTL_DUE   keyspace u32, deadline u64, raw key -> nothing

The shards of a keyspace that are on one node share both tables: KEY_TTL in stretches, KEY_TTL_DUE
row by row, so what is read of it is looked through for the own keys. A split moves no row; a merge
writes those of the right side anew if the two clocks differ.

A million sessions would not fit in memory, so the rows are read where they lie: changes wait in
two dictionaries for the next batch and are laid over what is read until after_commit. Only their
number is kept (`count`, part of the machine's own record), because the shard's clock must go on
while there is any.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import Final, NamedTuple

from raftgroups.lease import MAXIMUM_TTL_S
from raftgroups.refusals import TtlTooLargeError
from storage.codec import Table, key_u32, key_u32_u64, prefix_end, seal, unseal
from storage.engine import Batch, Reader, iterate
from storage.errors import InvalidOptionError
from storage.slices import Range, part

MAXIMUM_TTL_MS: Final = 1000 * MAXIMUM_TTL_S
DUE_LIMIT: Final = 256

_ROW: Final = Struct(">QQ")
_DUE_KEY_AT: Final = 1 + 4 + 8


class KeyTtl(NamedTuple):
    deadline_ms: int
    mod_revision: int


def check_ttl_ms(ttl_ms: int) -> None:
    """0 is none."""
    if ttl_ms < 0:
        raise InvalidOptionError(f"a TTL of {ttl_ms} ms is not possible; give at least 1, or none")
    if ttl_ms > MAXIMUM_TTL_MS:
        raise TtlTooLargeError(
            f"a TTL of {ttl_ms} ms is over the limit of {MAXIMUM_TTL_MS} ms; give a shorter one"
        )


class KeyTtls:
    """Invariant: both tables, with the changes laid over, name the same keys and deadlines, `count`
    of them."""

    __slots__ = ("_due", "_end", "_keyspace", "_rows", "_source", "_start", "count")

    def __init__(self, source: Callable[[], Reader], keyspace: int) -> None:
        self._source = source
        self._keyspace = keyspace
        self._start = b""
        self._end: bytes | None = None
        self._rows: dict[bytes, KeyTtl | None] = {}
        self._due: dict[bytes, bool] = {}
        """Row of KEY_TTL_DUE -> there or not."""
        self.count = 0

    def bound(self, start: bytes, end: bytes | None) -> None:
        """Whose keys' deadlines these are: the rows of other shards lie between."""
        self._start, self._end = start, end

    def _holds(self, key: bytes) -> bool:
        return key >= self._start and (self._end is None or key < self._end)

    def get(self, key: bytes) -> KeyTtl | None:
        """As set last. Compare its mod revision with the key's."""
        if not self.count:
            return None
        if key in self._rows:
            return self._rows[key]
        stored = key_u32(Table.KEY_TTL, self._keyspace, key)
        record = self._source().get(stored)
        return None if record is None else KeyTtl(*_ROW.unpack(unseal(stored, record)))

    def set(self, key: bytes, ttl: KeyTtl) -> None:
        self.remove(key)
        self._rows[key] = ttl
        self._due[self._due_row(ttl.deadline_ms, key)] = True
        self.count += 1

    def remove(self, key: bytes) -> None:
        old = self.get(key)
        if old is not None:
            self._rows[key] = None
            self._due[self._due_row(old.deadline_ms, key)] = False
            self.count -= 1

    # --- for the leader ---

    def due(self, clock_ms: int, limit: int = DUE_LIMIT) -> list[bytes]:
        """Keys whose deadline has passed, the earliest first, whether or not it still binds."""
        return [row[_DUE_KEY_AT:] for row in self._due_rows(clock_ms, limit)] if self.count else []

    def next_deadline_ms(self) -> int | None:
        rows = self._due_rows(2**64 - 1, 1) if self.count else []
        return int.from_bytes(rows[0][5:_DUE_KEY_AT], "big") if rows else None

    def _due_rows(self, clock_ms: int, limit: int) -> list[bytes]:
        start = key_u32(Table.KEY_TTL_DUE, self._keyspace)
        end = _end_of(start) if clock_ms >= 2**64 - 1 else self._due_row(clock_ms + 1, b"")
        # Each change can hide at most one row, so this many rows are surely enough.
        wanted = limit + len(self._due)
        rows: set[bytes] = set()
        edge: bytes | None = start
        while edge is not None and len(rows) < wanted:
            page = self._source().scan(edge, end, limit=wanted, max_bytes=2**63)
            rows.update(stored for stored, _ in page.items if self._holds(stored[_DUE_KEY_AT:]))
            edge = page.items[-1][0] + b"\x00" if page.more else None
        for row, present in self._due.items():
            if (
                row >= end
                or (edge is not None and row >= edge)
                or not self._holds(row[_DUE_KEY_AT:])
            ):
                continue
            if present:
                rows.add(row)
            else:
                rows.discard(row)
        return sorted(rows)[:limit]

    def _due_row(self, deadline_ms: int, key: bytes) -> bytes:
        return key_u32_u64(Table.KEY_TTL_DUE, self._keyspace, deadline_ms, key)

    # --- splits and merges ---

    def _rows_of(self, start: bytes, end: bytes | None) -> dict[bytes, KeyTtl]:
        prefix = key_u32(Table.KEY_TTL, self._keyspace)
        high = _end_of(prefix) if end is None else prefix + end
        found = {
            stored[len(prefix) :]: KeyTtl(*_ROW.unpack(unseal(stored, record)))
            for stored, record in iterate(self._source(), prefix + start, high)
        }
        for key, ttl in self._rows.items():
            if key >= start and (end is None or key < end):
                if ttl is None:
                    found.pop(key, None)
                else:
                    found[key] = ttl
        return found

    def count_in(self, start: bytes, end: bytes | None) -> int:
        return len(self._rows_of(start, end)) if self.count else 0

    def take_in(self, start: bytes, end: bytes | None, count: int, shift_ms: int) -> None:
        """The deadlines of these keys, `count` of them, are ours from now on, by another clock."""
        self.count += count
        if count and shift_ms:
            for key, ttl in sorted(self._rows_of(start, end).items()):
                self.set(key, ttl._replace(deadline_ms=max(0, ttl.deadline_ms + shift_ms)))

    # --- rows ---

    def owned_ranges(self) -> list[Range]:
        rows, due = (key_u32(table, self._keyspace) for table in (Table.KEY_TTL, Table.KEY_TTL_DUE))
        high = _end_of(rows) if self._end is None else rows + self._end
        return [
            (rows + self._start, high),
            part(due, _end_of(due), _DUE_KEY_AT, self._start, self._end),
        ]

    def write(self, batch: Batch) -> None:
        for key, ttl in self._rows.items():
            stored = key_u32(Table.KEY_TTL, self._keyspace, key)
            if ttl is None:
                batch.delete(stored)
            else:
                batch.put(stored, seal(stored, _ROW.pack(*ttl)))
        for row, present in self._due.items():
            if present:
                batch.put(row, seal(row, b""))
            else:
                batch.delete(row)

    def after_commit(self) -> None:
        self._rows.clear()
        self._due.clear()


def _end_of(start: bytes) -> bytes:
    end = prefix_end(start)
    assert end is not None, "no table tag is 0xff"
    return end
