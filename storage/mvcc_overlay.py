"""Changes that were applied but are not on the disk yet, in memory, as every read sees them.

A Layer is what some consecutive revisions changed: the newest record of each key they touched,
their events, and which keys they attached to or took from a lease. A shard reads through one
or two layers and then the engine:

    active     applied since the last prepare; an open write scope changes it in place
    sealed     the same, from before a split or a merge since then: of another segment. Seldom there
    frozen     given to a batch that is being committed; dropped by after_commit
    engine     everything up to the base revision of the lowest layer

Since a layer is dropped only after its batch is committed, a reader opened before the commit and
one opened after it both give the right answer through the stack. A crash loses the layers; the
group's log is replayed from the persisted applied index.

A revision is open_revision, then any number of change, then close_revision or roll_back. Changing
in place with an undo map costs 1.7 us less a put than a layer of its own that is merged at commit.
A plain put is a whole revision of one change that nothing undoes: Shard.put_each adds those itself.

Invariants: a layer's revisions are base + 1, base + 2, ... without gaps, each with at least one
event (but for the open one); between two roll-backs keys are only ever added to `current`, so its
insertion order tells which are new. A layer stacked upon another begins where that one ends, or,
after a merge, above it. A sealed layer of a shard that was split holds keys of both sides.

The current table is written in full with every batch. To fold it in later and more rarely, keep the
folded layers' `current` stacked beneath `frozen` and let recovery read the event log from the
revision folded last; nothing above the stack would change.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from itertools import islice
from typing import Final

from storage.codec import Table, key_u32, key_u32_u64, key_u64, seal, seal_all
from storage.engine import Batch
from storage.mvcc_records import LOCATION, pack_event


class Layer:
    __slots__ = (
        "_lease_undo",
        "_sorted",
        "_undo",
        "base",
        "current",
        "events",
        "leases",
        "segment",
        "starts",
    )

    def __init__(self, base: int, segment: int) -> None:
        self.base: Final = base
        """The revision before the first of this layer."""
        self.segment: Final = segment
        """Where its events belong."""
        self.current: dict[bytes, bytes] = {}
        """Key -> body of its newest record."""
        self.events: list[bytes] = []
        """Event bodies in order; `sub` is the place within the revision."""
        self.starts: list[int] = []
        """Where the events of revision base + 1 + i begin."""
        self.leases: dict[int, dict[bytes, bool]] = {}
        """Lease -> key -> attached or taken away."""
        self._sorted: list[bytes] = []
        self._undo: dict[bytes, bytes | None] = {}
        self._lease_undo: list[tuple[dict[bytes, bool], bytes, bool | None]] = []

    @property
    def last_revision(self) -> int:
        return self.base + len(self.starts)

    # --- one revision ---

    def open_revision(self) -> None:
        self.starts.append(len(self.events))

    def change(self, key: bytes, new: bytes, previous: bytes | None) -> None:
        """One change of the open revision: the key's new record instead of its newest one."""
        if key not in self._undo:
            self._undo[key] = self.current.get(key)
        self.current[key] = new
        self.events.append(pack_event(key, new, previous))

    def attach(self, lease: int, key: bytes, attached: bool) -> None:
        """A key is now attached to a lease, or no longer. Lease 0 is none."""
        if lease:
            keys = self.leases.setdefault(lease, {})
            self._lease_undo.append((keys, key, keys.get(key)))
            keys[key] = attached

    def close_revision(self) -> bool:
        """Keep the open revision. False if it changed nothing: then it does not exist."""
        if self.starts[-1] == len(self.events):
            self.starts.pop()
            return False
        self._undo.clear()
        self._lease_undo.clear()
        return True

    def roll_back(self) -> list[bytes]:
        """Undo everything since open_revision. Returns the keys that this changed back."""
        del self.events[self.starts.pop() :]
        for key, old in self._undo.items():
            if old is None:
                del self.current[key]
            else:
                self.current[key] = old
        for keys, key, was in reversed(self._lease_undo):
            if was is None:
                del keys[key]
            else:
                keys[key] = was
        changed_back = list(self._undo)
        if changed_back:
            self._sorted = []
        self._undo.clear()
        self._lease_undo.clear()
        return changed_back

    # --- reading ---

    def event(self, revision: int, sub: int) -> bytes | None:
        """The event at a place of this layer."""
        first, end = self._places(revision)
        return self.events[first + sub] if first + sub < end else None

    def events_of(self, revision: int) -> list[bytes]:
        """All events of a revision of this layer, in order."""
        first, end = self._places(revision)
        return self.events[first:end]

    def _places(self, revision: int) -> tuple[int, int]:
        nth, starts = revision - self.base - 1, self.starts
        return starts[nth], starts[nth + 1] if nth + 1 < len(starts) else len(self.events)

    def numbered_events(self, from_revision: int) -> Iterator[tuple[int, int, bytes]]:
        """(revision, sub, event body) of the revisions from one on, in order."""
        events, starts = self.events, self.starts
        for nth in range(max(0, from_revision - self.base - 1), len(starts)):
            first = starts[nth]
            end = starts[nth + 1] if nth + 1 < len(starts) else len(events)
            for at in range(first, end):
                yield self.base + 1 + nth, at - first, events[at]

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

    def write(self, batch: Batch, keyspace: int) -> None:
        """Add everything to a batch: the current table in key order, so that who folds many batches
        has less to sort at once; events at the end of their segment."""
        prefix, current, keys = key_u32(Table.CURRENT, keyspace), self.current, self.keys()
        stored = [prefix + key for key in keys]
        batch.put_columns(stored, seal_all(stored, [current[key] for key in keys]))
        log, events = key_u64(Table.EVENT, self.segment), self.events
        place = LOCATION.pack
        if len(self.starts) == len(events):  # one event a revision: nearly always
            first = self.base + 1
            stored = [log + place(revision, 0) for revision in range(first, first + len(events))]
        else:
            numbered = self.numbered_events(self.base + 1)
            stored = [log + place(revision, sub) for revision, sub, _ in numbered]
        batch.put_columns(stored, seal_all(stored, events))
        for lease, attachments in self.leases.items():
            for key, attached in attachments.items():
                row = key_u32_u64(Table.LEASE_KEY, keyspace, lease, key)
                if attached:
                    batch.put(row, seal(row, b""))
                else:
                    batch.delete(row)
