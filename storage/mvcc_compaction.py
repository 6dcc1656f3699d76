"""Removing what compaction to revision R made unreadable, in bounded steps.

Compacting is a counter: from that moment reads below R are refused and tombstones at or below R
count as absent (mvcc_view.py), on every replica at the same entry of its log. The rows go later, at
each replica's own pace, and no read can tell how far that is:

    event of a revision below R      nothing walks to it any more: removed
    event at R                       kept, because a watch may start at R
    tombstone at or below R          its row of the current table is removed

A step examines the next events of each source up to R, oldest source first. A delete event names a
key whose current row may be a tombstone; that is how tombstones are found without a table of them.
In the own segment everything before the position goes by one delete-range. An ancestor is shared
with sibling shards, so each removes only the events of its own keys, and forgets the ancestor once
compaction has passed its last revision.

The position is part of the segment record and is written in the batch of the step, so a crash
repeats at most one step; repeating is harmless. Only revisions that the engine already holds are
examined, never those in the layer that the same batch writes; that layer's rows come later in the
batch than the step's removals, so they stay.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from storage.codec import Table, key_u32, key_u64_u64_u32, unseal
from storage.engine import Batch, Reader
from storage.mvcc_records import TOMBSTONE, is_tombstone, mod_of, unpack_event
from storage.mvcc_state import OPEN, Segments, ShardState, Source

SWEEP_EVENTS: Final = 1_000
SWEEP_BYTES: Final = 1024 * 1024


def restart_sweep(segments: Segments, old: ShardState) -> Segments:
    """Where the sweep begins once the compact revision rises above that of `old`: the events kept
    there are now to be removed, so a sweep that had passed them goes back to them."""
    for source in (segments.own, *segments.ancestors):
        back = min(source.swept_revision, old.kept_from(source))
        segments = segments.with_source(replace(source, swept_revision=back, swept_sub=0))
    return segments


def sweep_pending(segments: Segments, state: ShardState) -> bool:
    """Whether there is anything left to examine. What only a merge made unreadable stays."""
    compact_revision = state.compact_revision

    def waits(source: Source) -> bool:
        if state.keeps(source):
            return False
        if source.empty:
            return source.last_revision < compact_revision
        return source.first_revision <= compact_revision and (
            source.swept_revision <= min(compact_revision, source.last_revision)
        )

    return any(map(waits, (segments.own, *segments.ancestors)))


def sweep(
    reader: Reader,
    segments: Segments,
    state: ShardState,
    stored_to: int,
    batch: Batch,
    *,
    max_events: int = SWEEP_EVENTS,
) -> Segments:
    """One step. The engine holds the revisions up to `stored_to`; what the same batch adds to them
    must be put into it after this."""
    for source in segments.oldest_first():
        if source.empty and source.last_revision < state.compact_revision:
            segments = segments if state.keeps(source) else segments.without(source)
            continue
        upto = min(state.compact_revision, source.last_revision, stored_to)
        if max(source.first_revision, source.swept_revision) > upto or state.keeps(source):
            continue
        if max_events <= 0:
            break
        examined, swept = _sweep_source(reader, source, state, upto, batch, max_events)
        max_events -= examined
        if source.last_revision != OPEN and source.last_revision < min(
            state.compact_revision, swept.swept_revision
        ):
            segments = segments.without(source)
        else:
            segments = segments.with_source(swept)
    return segments


def _sweep_source(
    reader: Reader,
    source: Source,
    state: ShardState,
    upto: int,
    batch: Batch,
    max_events: int,
) -> tuple[int, Source]:
    """Examine the next events of a source; returns how many, and the source with its position."""
    keep = key_u64_u64_u32(Table.EVENT, source.segment, state.compact_revision, 0)
    page = reader.scan(
        key_u64_u64_u32(Table.EVENT, source.segment, source.swept_revision, source.swept_sub),
        key_u64_u64_u32(Table.EVENT, source.segment, upto + 1, 0),
        limit=max_events,
        max_bytes=SWEEP_BYTES,
    )
    is_own = source.last_revision == OPEN
    current = key_u32(Table.CURRENT, state.keyspace)
    for stored, record in page.items:
        key, new, _ = unpack_event(unseal(stored, record))
        if not is_own and not source.holds_key(key):
            continue
        if is_tombstone(new):
            _remove_tombstone(reader, current + key, state.compact_revision, batch)
        if not is_own and stored < keep:
            batch.delete(stored)
    if page.more:
        last = page.items[-1][0]
        position = int.from_bytes(last[9:17], "big"), int.from_bytes(last[17:21], "big") + 1
    else:
        position = upto + 1, 0
    if is_own:
        batch.delete_range(
            key_u64_u64_u32(Table.EVENT, source.segment, 0, 0),
            min(keep, key_u64_u64_u32(Table.EVENT, source.segment, *position)),
        )
    return len(page.items), replace(source, swept_revision=position[0], swept_sub=position[1])


def _remove_tombstone(reader: Reader, stored: bytes, compact_revision: int, batch: Batch) -> None:
    record = reader.get(stored)
    if record is None:
        return
    body = unseal(stored, record)
    if body[0] >= TOMBSTONE and mod_of(body) <= compact_revision:
        batch.delete(stored)
