"""What a shard's machine consists of, and its way to the disk and back from there. Pure.

    parts     the shard (storage/mvcc.py), leases, TTLs, remembered answers (dedupe.py), the locks
              of transactions (intents.py), and the clock
    turn      what entries changed waits in the parts; `prepare` puts it into one batch, with the
              machine's own rows (machine_rows.py) and those of shards that were divided off or
              absorbed; `after_commit` renews `source`, the newest committed state: the parts read
              from it
    snapshot  `owned_ranges` are its rows; `reset` forgets the parts, `restored` reads them again

What entries do to the parts: machine.py, which is the whole machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from raftgroups.dedupe import Dedupe, Limits
from raftgroups.intents import Intents
from raftgroups.keyttl import KeyTtls
from raftgroups.lease import Leases
from raftgroups.lineage import Change
from raftgroups.machine_rows import MachineRows
from raftgroups.refusals import ReplicaAheadError
from storage.engine import Batch, Reader
from storage.mvcc import Divided, Shard
from storage.mvcc_recent import GENERATION_BYTES
from storage.slices import Range as RowRange

NO_KEYSPACE: Final = 0


class CommittedState(Protocol):
    """storage/latest.py."""

    def __call__(self) -> Reader: ...

    def renew(self) -> None: ...


@dataclass(frozen=True, slots=True)
class ShardPlace:
    """Which shard of which group; the rest is for a shard that is new: one that the engine holds
    is as it stands there."""

    group: int
    shard: int
    keyspace: int
    segment: int
    start: bytes = b""
    end: bytes | None = None

    @classmethod
    def stored(cls, shard: int) -> ShardPlace:
        """A shard whose group has the same number, and that is never formed here: it was, or it was
        born by a split, or it joins and waits for its snapshot. Until then it holds no key, and its
        machine owns no rows of any keyspace."""
        return cls(shard, shard, NO_KEYSPACE, 0, b"", b"")


class MachineParts:
    def __init__(self, source: CommittedState, place: ShardPlace, limits: Limits | None) -> None:
        """As the engine holds them, or empty; `restored` reads them again."""
        self._source = source
        self._place = place
        self._limits = limits
        self._rows: Final = MachineRows(place.group)
        self._ranges: tuple[RowRange, ...] = ()
        self._births: list[Batch] = []
        """The rows of the shards that were divided off or absorbed since the last prepare."""
        self._change: Change | None = None
        self._gated = False
        """Frozen, or something is locked (twophase.py): entries are looked at more closely."""
        self._recent_bytes = GENERATION_BYTES
        self._load()

    def _load(self) -> None:
        place, source = self._place, self._source
        reader = source()
        self.shard = Shard.load(source, place.shard) or self._new_shard()
        self.shard.recent.limit(self._recent_bytes)
        keyspace = self.shard.state.keyspace
        self.leases = Leases(keyspace)
        if self.is_home:
            self.leases.load(reader)
        self.ttls = KeyTtls(source, keyspace)
        self._bound()
        self.dedupe = Dedupe(place.shard, self._limits)
        self.dedupe.load(reader)
        self.intents = Intents(place.shard)
        self.intents.load(reader)
        self.gate()
        self.clock_ms = 0
        head, self.leases.epoch = self._rows.load(reader)
        if head is not None:
            self.clock_ms, self.ttls.count, self.dedupe.next_order, self.dedupe.forgotten = head

    def remember(self, generation_bytes: int) -> None:
        """So much of what was read or written lately stays in memory (storage/mvcc_recent.py)."""
        self._recent_bytes = generation_bytes
        self.shard.recent.limit(generation_bytes)

    @property
    def is_home(self) -> bool:
        """The keyspace's first shard has its leases."""
        own = self.shard.view.segments.own
        return own.start == b"" != own.end

    def _bound(self) -> None:
        own = self.shard.view.segments.own
        self.ttls.bound(own.start, own.end)

    def _new_shard(self) -> Shard:
        place = self._place
        return Shard.create(
            self._source,
            shard=place.shard,
            keyspace=place.keyspace,
            segment=place.segment,
            start=place.start,
            end=place.end,
        )

    def gate(self) -> None:
        """After what may have changed whether it is frozen, or anything locked."""
        self._gated = bool(self.shard.state.frozen_by) or bool(self.intents)

    # --- splits and merges (lineage.py) ---

    def born(self, right: Divided, ttls: int) -> None:
        """By a split, from what this machine is now."""
        batch = Batch()
        right.write(batch)
        shard = right.state.shard
        parts = self.intents.divide(right.segments.own.start, shard)
        dedupe, epoch = self.dedupe, self.leases.epoch
        for key, record in (*dedupe.rows_for(shard), *parts):
            batch.put(key, record)
        rows = MachineRows(shard)
        rows.write(batch, epoch, self.clock_ms, ttls, dedupe.next_order, dedupe.forgotten)
        self._births.append(batch)
        self._changed(Change(born=(shard,)))
        self._bound()

    def ended(self, right: MachineParts) -> None:
        """By a merge: what was that shard's alone goes with this one's next batch."""
        batch = Batch()
        Divided(right.shard.state, right.shard.view.segments).erase(batch)
        batch.delete_range(*right.dedupe.owned_range())
        batch.delete_range(*right.intents.owned_range())
        right._rows.erase(batch)
        self._births.append(batch)
        self.leases.epoch = max(self.leases.epoch, right.leases.epoch)
        self._changed(Change(ended=(right.shard.state.shard,)))
        self._bound()

    def _changed(self, more: Change) -> None:
        before = self._change or Change()
        self._change = Change((*before.born, *more.born), (*before.ended, *more.ended))

    def take_change(self) -> Change | None:
        change, self._change = self._change, None
        return change

    @property
    def absorbed(self) -> Sequence[int]:
        return self.shard.state.absorbed

    @property
    def frozen(self) -> bool:
        return bool(self.shard.state.frozen_by)

    def why_no_change(self) -> str | None:
        state = self.shard.state
        if not (state.frozen_by or state.merging_with):
            return None
        return f"shard {state.shard} takes part in a merge; finish or abort that first"

    def close(self) -> None:
        self._source.renew()

    # --- the turn, snapshots ---

    def prepare(self, batch: Batch) -> None:
        self.shard.prepare(batch)
        self.leases.write(batch)
        self.ttls.write(batch)
        self.dedupe.write(batch)
        self.intents.write(batch)
        for birth in self._births:
            batch.extend(birth)
        self._births.clear()
        dedupe, epoch, ttls = self.dedupe, self.leases.epoch, self.ttls.count
        self._rows.write(batch, epoch, self.clock_ms, ttls, dedupe.next_order, dedupe.forgotten)

    def after_commit(self) -> None:
        self._source.renew()
        self.shard.after_commit()
        self.ttls.after_commit()

    def owned_ranges(self) -> Sequence[RowRange]:
        if self._ranges:
            return self._ranges
        if self.shard.state.keyspace == NO_KEYSPACE:
            return []
        ranges = [*self.shard.owned_ranges(), *self.ttls.owned_ranges(), *self._rows.owned_ranges()]
        if self.is_home:
            ranges += self.leases.owned_ranges()
        return sorted([*ranges, self.dedupe.owned_range(), self.intents.owned_range()])

    def reset(self) -> None:
        """Until `restored` there is nothing here to read; owned_ranges are those of the old data,
        which is about to be removed."""
        self._ranges = tuple(self.owned_ranges())
        place = self._place
        self.shard = self._new_shard()
        self.leases = Leases(place.keyspace)
        self.ttls = KeyTtls(self._source, place.keyspace)
        self._bound()
        self.dedupe = Dedupe(place.shard, self._limits)
        self.intents = Intents(place.shard)
        self.gate()
        self.clock_ms = 0
        self._births.clear()
        self._change = None

    def restored(self, index: int) -> None:
        self._ranges = ()
        self._source.renew()
        self._load()
        if self.shard.state.applied_index > index:
            raise ReplicaAheadError(
                f"shard {self._place.shard} holds entry {self.shard.state.applied_index} of the "
                f"log, but its group only {index}; restore this replica from another one"
            )
