"""Changes that were applied but are not on the disk yet, in memory, as every read sees them.

A Layer is what some consecutive revisions changed: the newest record of each key they touched,
their events, and which keys they attached to or took from a lease. A shard reads through a short
stack of layers, newest first, and then the engine:

    scope      of the write scope that is open (mvcc.py); dropped if it aborts
    active     applied since the last prepare
    frozen     given to a batch that is being committed; dropped by after_commit
    engine     everything up to the base revision of the lowest layer

Since a layer is dropped only after its batch is committed, a reader opened before the commit and
one opened after it both give the right answer through the stack. A crash loses the layers; the
group's log is replayed from the persisted applied index.

Invariants: a layer's revisions are base + 1, base + 2, ... without gaps, each with at least one
event; keys are only ever added to `current`, so its insertion order tells which are new. A layer
stacked upon another begins where that one ends.

The current table is written in full with every batch. To fold it in later and more rarely, keep the
folded layers' `current` stacked beneath `frozen` and let recovery read the event log from the
revision folded last; nothing above the stack would change.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from itertools import islice
from typing import Final

from storage.codec import Table, key_u32, key_u32_u64, key_u64_u64_u32, seal
from storage.engine import Batch


class Layer:
    __slots__ = ("_sorted", "base", "current", "events", "leases", "starts")

    def __init__(self, base: int) -> None:
        self.base: Final = base
        """The revision before the first of this layer."""
        self.current: dict[bytes, bytes] = {}
        """Key -> body of its newest record."""
        self.events: list[bytes] = []
        """Event bodies in order; `sub` is the place within the revision."""
        self.starts: list[int] = []
        """Where the events of revision base + 1 + i begin."""
        self.leases: dict[int, dict[bytes, bool]] = {}
        """Lease -> key -> attached or taken away."""
        self._sorted: list[bytes] = []

    @property
    def last_revision(self) -> int:
        return self.base + len(self.starts)

    def absorb(self, scope: Layer) -> None:
        """Take over the one revision of a write scope."""
        assert scope.base == self.last_revision
        assert scope.events
        self.starts.append(len(self.events))
        self.events += scope.events
        self.current.update(scope.current)
        for lease, keys in scope.leases.items():
            self.leases.setdefault(lease, {}).update(keys)

    def event(self, revision: int, sub: int) -> bytes | None:
        """The event at a place of this layer."""
        nth = revision - self.base - 1
        at = self.starts[nth] + sub
        end = self.starts[nth + 1] if nth + 1 < len(self.starts) else len(self.events)
        return self.events[at] if at < end else None

    def keys(self) -> list[bytes]:
        """The keys of `current` in order."""
        if len(self._sorted) < len(self.current):
            self._sorted.extend(islice(self.current, len(self._sorted), None))
            self._sorted.sort()
        return self._sorted

    def window(
        self, start: bytes, end: bytes | None, edge: bytes | None, reverse: bool, limit: int
    ) -> list[bytes]:
        """The first `limit` keys of start <= key < end in the order of the scan, none beyond
        `edge` (which is included)."""
        keys = self.keys()
        low = bisect_left(keys, start)
        high = len(keys) if end is None else bisect_left(keys, end)
        if reverse:
            if edge is not None:
                low = max(low, bisect_left(keys, edge))
            return keys[max(low, high - limit) : high][::-1]
        if edge is not None:
            high = min(high, bisect_right(keys, edge))
        return keys[low : min(high, low + limit)]

    def write(self, batch: Batch, keyspace: int, segment: int) -> None:
        """Add everything to a batch: the current table in key order, because neighbours share
        pages; events at the end of their segment."""
        prefix = key_u32(Table.CURRENT, keyspace)
        current = self.current
        put = batch.put
        for key in self.keys():
            stored = prefix + key
            put(stored, seal(stored, current[key]))
        for nth, start in enumerate(self.starts):
            revision = self.base + 1 + nth
            end = self.starts[nth + 1] if nth + 1 < len(self.starts) else len(self.events)
            for at in range(start, end):
                stored = key_u64_u64_u32(Table.EVENT, segment, revision, at - start)
                put(stored, seal(stored, self.events[at]))
        for lease, keys in self.leases.items():
            for key, attached in keys.items():
                stored = key_u32_u64(Table.LEASE_KEY, keyspace, lease, key)
                if attached:
                    put(stored, seal(stored, b""))
                else:
                    batch.delete(stored)
