"""MVCC for one shard of the strong regime: revisions, a transaction-style write, compaction.

A Shard turns operations into changes held in memory (mvcc_overlay.py) and hands them to a batch
when the turn commits:

    scope = shard.begin(wall_ms)     operations share one revision and see each other's effects
    scope.put(...); scope.delete(...)
    scope.commit()                   all of them take effect, in memory; or scope.abort(): none
    shard.mark_applied(index)        the entry of the log is done
    shard.prepare(batch)             everything applied so far goes into the turn's batch ...
    shard.after_commit()             ... and is dropped from memory once the batch is on the disk

Changes applied between prepare and after_commit stay for the next batch. `shard.view` reads
(mvcc_view.py, mvcc_events.py): it always sees everything applied.

Rules, as in etcd: an empty shard is at revision 1, revisions are dense, a scope that changes
nothing does not take one. A put without lease detaches the old one. Version counts from 1 and
begins again after a delete, as does the create revision. Compaction to R refuses reads below R.

Everything here is deterministic: two shards that apply the same operations hold the same records
and events. This file does not know the group's log, leases beyond their number, or time: the wall
time of a write is a number that the caller gives, that reads give back, and that no rule looks at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final, NamedTuple, TypeVar

from storage.codec import (
    KEY_MAX_BYTES,
    VALUE_MAX_BYTES,
    Table,
    check_key,
    check_value,
    key_u32,
    key_u64,
    prefix_end,
)
from storage.engine import Batch
from storage.errors import CorruptRecordError
from storage.mvcc_compaction import SWEEP_EVENTS, restart_sweep, sweep, sweep_pending
from storage.mvcc_overlay import Layer
from storage.mvcc_recent import BODY_MAX_BYTES, ENTRY_BYTES, Recent
from storage.mvcc_records import (
    EVENT_HEAD,
    LEASE,
    NO_LEASE,
    TOMBSTONE,
    KeyValue,
    key_value,
    put_record,
)
from storage.mvcc_scope import WriteScope
from storage.mvcc_state import (
    ABSORBED_MAX,
    EMPTY_REVISION,
    OPEN,
    Segments,
    ShardState,
    Source,
)
from storage.mvcc_view import ReaderSource, View
from storage.slices import IN_EVENT, Range, part

COUNT_STEP: Final = 2_000
"""Keys that one batch counts after a split."""

PlainPut = tuple[bytes, bytes, int, bool]
"""A put without lease: (key, value, wall_ms, want_previous)."""
Answer = TypeVar("Answer")


class Shard:
    """One shard's data. At most one write scope is open, and none during prepare.

    Invariants: the active layer ends at `state.revision`; each layer below it ends where the next
    one begins (a merge leaves out revisions between); below the lowest the engine holds everything.
    """

    __slots__ = (
        "_active",
        "_dirty",
        "_frozen",
        "_scope",
        "_sealed",
        "_segments_dirty",
        "recent",
        "source",
        "state",
        "view",
    )

    def __init__(
        self, source: ReaderSource, state: ShardState, segments: Segments, *, stored: bool
    ) -> None:
        self.source: Final = source
        self.state: Final = state
        self._active = Layer(state.revision, state.segment)
        self._sealed: tuple[Layer, ...] = ()
        self._frozen: tuple[Layer, ...] = ()
        """These two newest first."""
        self._scope: WriteScope | None = None
        self._dirty = self._segments_dirty = not stored
        self.recent: Final = Recent()
        self.view = View(source, (self._active,), state, segments, self.recent)
        """Reads of everything applied. Take it anew for each read: it changes with each turn."""

    @classmethod
    def create(
        cls,
        source: ReaderSource,
        *,
        shard: int,
        keyspace: int,
        segment: int,
        start: bytes = b"",
        end: bytes | None = None,
    ) -> Shard:
        """A new, empty shard; the next prepare writes its records. With an empty `end` it holds no
        key: there is no such shard, and nothing is written before something else was loaded."""
        own = Source(segment, EMPTY_REVISION + 1, OPEN, start, end)
        stored = end == b""  # it waits for what it is to hold, so there is nothing to write
        return cls(source, ShardState(shard, keyspace, segment), Segments(own), stored=stored)

    @classmethod
    def load(cls, source: ReaderSource, shard: int) -> Shard | None:
        """The shard as the engine holds it, or None if it does not. Then replay the log's entries
        after `state.applied_index`."""
        reader = source()
        record = reader.get(key_u64(Table.SHARD, shard))
        if record is None:
            return None
        state = ShardState.decode(shard, record)
        segment_key = key_u64(Table.SEGMENT, state.segment)
        segment_record = reader.get(segment_key)
        if segment_record is None:  # both records are written in one batch
            raise CorruptRecordError(
                f"shard {shard} has no segment record under {segment_key!r}; restore this replica "
                "from another one or from a backup",
                segment_key,
            )
        return cls(source, state, Segments.decode(state.segment, segment_record), stored=True)

    # --- writing ---

    def begin(self, wall_ms: int = 0) -> WriteScope:
        """wall_ms: what its records say of when they were written; 0 if that is not known."""
        assert self._scope is None, "one write scope at a time"
        self._scope = WriteScope(self.view, self._end_scope, wall_ms)
        return self._scope

    def put(
        self, key: bytes, value: bytes, wall_ms: int = 0, want_previous: bool = False
    ) -> KeyValue | None:
        """What a scope with one put without lease does."""
        replaced: list[KeyValue | None] = []
        self.put_each(((key, value, wall_ms, want_previous),), replaced, _replaced)
        return replaced[0]

    def put_each(
        self,
        puts: Iterable[PlainPut],
        answers: list[Answer],
        answer: Callable[[int, KeyValue | None, int], Answer],
    ) -> None:
        """What as many scopes with one put without lease each do, in this order, for the most
        frequent write of all: each put is a revision of its own and sees those before it. Each adds
        to `answers` what `answer` makes of its revision, of what the scope's put returns, and of
        its wall time. Raises what the first of them raises that is refused: those before it are
        done, it and those behind it are not.

        It is written out, with as few calls for each put as may be."""
        assert self._scope is None, "one write scope at a time"
        view, state, active = self.view, self.state, self._active
        low, high = view.start, view.end
        current, events, starts = active.current, active.events, active.starts
        compacted, head = state.compact_revision, EVENT_HEAD.pack
        recent, grown = self.recent, 0
        young, old = recent.young, recent.old
        try:
            for key, value, wall_ms, want_previous in puts:
                size = len(key)
                if not 0 < size <= KEY_MAX_BYTES or len(value) > VALUE_MAX_BYTES:
                    check_key(key)
                    check_value(value)
                if key < low or (high is not None and key >= high):
                    view.check_owned(key)
                known = young.get(key)
                previous = old.get(key) if known is None else known
                if previous is None or previous[0] >= TOMBSTONE:
                    previous = view.newest(key)  # not in memory, or passed by compaction
                    young, old = recent.young, recent.old
                    known = young.get(key)
                if previous is None or previous[0] >= TOMBSTONE:
                    state.keys += state.counts(key)
                    before = None
                elif previous[LEASE] != NO_LEASE:
                    with self.begin(wall_ms) as scope:
                        before = scope.put(key, value, want_previous=want_previous)
                    young, old = recent.young, recent.old
                    answers.append(answer(state.revision, before, wall_ms))
                    continue
                else:
                    before = key_value(key, previous) if want_previous else None
                state.revision = revision = state.revision + 1
                new = put_record(previous, value, 0, revision, 0, compacted, wall_ms)
                length = len(new)
                current[key] = new
                if length > BODY_MAX_BYTES:  # `Recent.know`
                    recent.drop(key)
                else:
                    young[key] = new
                    grown += ENTRY_BYTES + size + length if known is None else length - len(known)
                starts.append(len(events))
                parts = (head(size, length), key, new, previous or b"")  # `pack_event`
                events.append(b"".join(parts))
                answers.append(answer(revision, before, wall_ms))
                self._dirty = True
        finally:
            recent.grow(grown)

    def _end_scope(self, changed: bool, keys: int) -> None:
        self._scope = None
        if changed:
            self.state.revision += 1
            self.state.keys += keys
            self._dirty = True

    def mark_applied(self, index: int) -> None:
        """The entry with this index of the group's log has had all its effects."""
        assert self._scope is None
        assert index > self.state.applied_index
        self.state.applied_index = index
        self._dirty = True

    def compact(self, revision: int) -> None:
        """Refuse reads below a revision from now on; prepare removes rows step by step."""
        assert self._scope is None
        self.state.check_compactable(revision)
        segments = restart_sweep(self.view.segments, self.state)
        self.state.compact_revision = revision
        self._dirty = True
        self._set_segments(segments)

    # --- the turn ---

    @property
    def dirty(self) -> bool:
        """Whether prepare has anything to write, sweeping aside."""
        return self._dirty

    @property
    def sweep_pending(self) -> bool:
        """Whether compaction still has rows to remove: give it turns, without hurry."""
        return sweep_pending(self.view.segments, self.state)

    def prepare(self, batch: Batch, *, sweep_events: int = SWEEP_EVENTS) -> None:
        """Add everything applied, and a step of compaction, to the batch."""
        assert self._scope is None
        assert not self._frozen, "after_commit of the last batch has not been called"
        state = self.state
        layers = (self._active, *self._sealed)
        assert layers[0].last_revision == state.revision
        if self.sweep_pending and sweep_events > 0:
            old, stored_to = self.view.segments, layers[-1].base
            new = sweep(self.source(), old, state, stored_to, batch, max_events=sweep_events)
            if new != old:
                self._set_segments(new)
        if state.counted is not None:
            self._count_on()
        for layer in reversed(layers):
            layer.write(batch, state.keyspace)
        if self._segments_dirty:
            batch.put(*self.view.segments.encode())
        if self._dirty:
            batch.put(*state.encode())
        self._dirty = self._segments_dirty = False
        self._frozen, self._sealed = layers, ()
        self._active = Layer(state.revision, state.segment)
        self._restack()

    def after_commit(self) -> None:
        """The batch of the last prepare is on the disk."""
        self._frozen = ()
        self._restack()

    def _restack(self, segments: Segments | None = None) -> None:
        layers = (self._active, *self._sealed, *self._frozen)
        segments = segments or self.view.segments
        self.view = View(self.source, layers, self.state, segments, self.recent)

    def _set_segments(self, segments: Segments) -> None:
        self._segments_dirty = True
        self._restack(segments)

    def _count_on(self) -> None:
        """After a split: count some more of the keys that are there."""
        state, end = self.state, self.view.segments.own.end
        if state.frozen_by:
            return
        page = self.view.count(state.counted or b"", end, max_examined=COUNT_STEP)
        state.keys += page.total
        state.counted = page.resume
        self._dirty = True

    # --- splits and merges (raftgroups/lineage.py has the rules) ---

    def divide(self, key: bytes, right: int, segments: tuple[int, int]) -> Divided:
        """End at `key` from now on. Returns what the shard of the keys from there begins with."""
        assert self._scope is None
        state = self.state
        state.epoch += 1
        low, high = self.view.segments.divided(key, state.revision, *segments)
        other = replace(state, shard=right, segment=segments[1], applied_index=0, last_merge=0)
        if state.counted is None and state.keys <= COUNT_STEP:
            other.keys = self.view.count(key, self.view.segments.own.end).total
            state.keys -= other.keys
        else:
            state.keys = other.keys = 0
            state.counted, other.counted = low.own.start, key
        self._enter(low)
        return Divided(other, high)

    def absorb(self, right: Divided, segment: int) -> None:
        """Take in the right neighbour, all of whose rows are on the disk."""
        assert self._scope is None
        state, other = self.state, right.state
        mine, theirs = self.view.segments, right.segments
        assert mine.own.end == theirs.own.start, "only neighbours merge"
        revision = max(state.revision, other.revision) + 1
        before = sorted(
            (*mine.kept(state), *theirs.kept(other)),
            key=lambda source: (-source.last_revision, source.start),
        )
        own = Source(segment, revision + 1, OPEN, mine.own.start, theirs.own.end)
        if state.counted is None and other.counted is None:
            state.keys += other.keys
        else:
            state.keys, state.counted = 0, mine.own.start
        state.revision = state.compact_revision = state.merge_revision = revision
        state.epoch = max(state.epoch, other.epoch) + 1
        state.merging_with = state.merge = 0
        absorbed = dict.fromkeys((*other.absorbed, *state.absorbed, other.shard))
        state.absorbed = tuple(absorbed)[-ABSORBED_MAX:]
        self._enter(Segments(own, tuple(before)))

    def _enter(self, segments: Segments) -> None:
        """Go on in another segment, with other keys."""
        self.recent.forget()
        if self._active.starts:
            self._sealed = (self._active, *self._sealed)
        self.state.segment = segments.own.segment
        self._active = Layer(self.state.revision, self.state.segment)
        self._dirty = True
        self._set_segments(segments)

    def set_frozen(self, by: int, merge: int) -> None:
        """0: not frozen."""
        self.state.frozen_by, self.state.frozen_merge = by, merge
        self._dirty = True
        self._restack()

    def set_merging(self, right: int, merge: int) -> None:
        """0: not merging."""
        self.state.merging_with, self.state.merge = right, merge
        self._dirty = True

    # --- for snapshots of a replica ---

    def owned_ranges(self) -> list[Range]:
        """The engine's rows that make up this shard."""
        keyspace, segments = self.state.keyspace, self.view.segments
        own = segments.own
        current = key_u32(Table.CURRENT, keyspace)
        leases = key_u32(Table.LEASE_KEY, keyspace)
        shard, segment = self.state.shard, own.segment
        ranges: list[Range] = [
            (key_u64(Table.SHARD, shard), key_u64(Table.SHARD, shard + 1)),
            (key_u64(Table.SEGMENT, segment), key_u64(Table.SEGMENT, segment + 1)),
            (current + own.start, _end_of(current) if own.end is None else current + own.end),
            part(leases, _end_of(leases), len(leases) + 8, own.start, own.end),
            (key_u64(Table.EVENT, segment), key_u64(Table.EVENT, segment + 1)),
        ]
        for source in segments.ancestors:
            log = key_u64(Table.EVENT, source.segment)
            following = key_u64(Table.EVENT, source.segment + 1)
            ranges.append(part(log, following, IN_EVENT, source.start, source.end))
        return sorted(each for each in ranges if each[0] < each[1])


class Divided(NamedTuple):
    """The counters and segments of a shard that another one begins or ends as."""

    state: ShardState
    segments: Segments

    def write(self, batch: Batch) -> None:
        batch.put(*self.segments.encode())
        batch.put(*self.state.encode())

    def erase(self, batch: Batch) -> None:
        """The two records; the rest of its rows belongs to the shard that took it in."""
        batch.delete(self.segments.encode()[0])
        batch.delete(self.state.encode()[0])


def _replaced(revision: int, replaced: KeyValue | None, wall_ms: int) -> KeyValue | None:
    return replaced


def _end_of(prefix: bytes) -> bytes:
    end = prefix_end(prefix)
    assert end is not None, "no table tag is 0xff"
    return end
