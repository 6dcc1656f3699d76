"""The changes of a shard in order of revision: what watches and replays are fed from.

One scan over the event log gives values and previous records alike. A page ends only between two
revisions, so that whoever applies it always stands at a revision that existed; one revision that is
larger than the bounds comes whole, in a page of its own.

Revisions up to the base of the lowest layer are read from the engine, segment by segment (an
ancestor's only where it counts for this shard); later ones from the layers. A committed layer that
was not dropped yet is in both, and is read once.
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import merge
from itertools import chain, groupby
from operator import itemgetter
from typing import Final, NamedTuple

from storage.codec import Table, key_u64_u64_u32, unseal
from storage.errors import CompactedError
from storage.mvcc_overlay import Layer
from storage.mvcc_records import Event, event_key_of, event_of
from storage.mvcc_state import OPEN, Source
from storage.mvcc_view import PAGE_BYTES, PAGE_KEYS, View

DEFAULT_EVENTS: Final = 1_000
DEFAULT_EVENT_BYTES: Final = 1024 * 1024
DEFAULT_EXAMINED: Final = 10_000


class EventPage(NamedTuple):
    """All events of the range asked for, from the revision asked for up to, but without,
    `next_revision`: go on from there. There is nothing further if it is above the shard's
    revision."""

    events: list[Event]
    next_revision: int


def read_events(
    view: View,
    from_revision: int,
    start: bytes = b"",
    end: bytes | None = None,
    *,
    max_events: int = DEFAULT_EVENTS,
    max_bytes: int = DEFAULT_EVENT_BYTES,
    max_examined: int = DEFAULT_EXAMINED,
    segment: int | None = None,
) -> EventPage:
    """A page of the events of start <= key < end. `max_examined` bounds the work where few events
    are of that range: the page may then be short or empty though more follow.

    `segment`: the revision is one of a cursor that names it as of this segment, and the range lies
    within `segment_range(view, segment)`; so it may be older than the last merge."""
    if segment is not None:
        _check_kept(view, from_revision, start, end)
    elif from_revision < view.state.compact_revision:
        raise CompactedError(
            f"the events of revision {from_revision} were compacted; shard {view.state.shard} has "
            f"them from revision {view.state.compact_revision} on",
            view.state.compact_revision,
        )
    events: list[Event] = []
    size = examined = 0
    for revision, bodies in groupby(_from(view, from_revision), key=itemgetter(0)):
        group: list[Event] = []
        for _, body in bodies:
            examined += 1
            key = event_key_of(body)
            if key >= start and (end is None or key < end):
                group.append(event_of(body))
                size += len(body)
        if events and (len(events) + len(group) > max_events or size > max_bytes):
            return EventPage(events, revision)
        events += group
        if len(events) >= max_events or size >= max_bytes or examined >= max_examined:
            return EventPage(events, revision + 1)
    return EventPage(events, max(from_revision, view.state.revision + 1))


def key_at(view: View, revision: int) -> bytes | None:
    """The key that a revision of the shard's own segment changed first; None if its events are not
    there, or not any more."""
    own = view.segments.own
    if revision < own.first_revision:
        return None
    for layer in view.layers:
        if layer.segment == own.segment and layer.base < revision <= layer.last_revision:
            event = layer.event(revision, 0)
            return None if event is None else event_key_of(event)
    stored = key_u64_u64_u32(Table.EVENT, own.segment, revision, 0)
    record = view.source().get(stored)
    return None if record is None else event_key_of(unseal(stored, record))


def segment_range(view: View, segment: int) -> tuple[bytes, bytes | None]:
    """The keys for which a cursor of this segment speaks, as far as they are this shard's: go on
    with read_events from its revision + 1, over this range. For other keys of the shard the cursor
    says nothing: they need another one, or a new beginning. Raises CompactedError if this shard
    does not descend from the segment, or compaction has passed it."""
    found = view.segments.of_segment(segment)
    if not found:
        raise CompactedError(
            f"segment {segment} is none of shard {view.state.shard}, or was compacted; begin anew",
            view.state.compact_revision,
        )
    ends = [source.end for source in found]
    end = None if None in ends else max(bound for bound in ends if bound is not None)
    return min(source.start for source in found), end


def _check_kept(view: View, from_revision: int, start: bytes, end: bytes | None) -> None:
    """The revisions of one key rise along its segments, so it is enough that each source which
    holds keys of the range, and ends no earlier than the revision, still has its events."""
    state = view.state
    sources = (view.segments.own, *view.segments.ancestors)
    for source in sources:
        lost = from_revision < min(state.kept_from(source), source.last_revision + 1)
        if lost and source.meets(start, end):
            raise CompactedError(
                f"the events of revision {from_revision} in segment {source.segment} were "
                f"compacted; begin anew from shard {state.shard} as it is now",
                state.compact_revision,
            )


def _from(view: View, from_revision: int) -> Iterator[tuple[int, bytes]]:
    """(revision, event body) from a revision on, in order."""
    stored_to = {layer.segment: layer.base for layer in view.layers}  # the lowest of each is last
    streams = []
    for source in view.segments.oldest_first():
        first = max(from_revision, source.first_revision)
        last = min(stored_to.get(source.segment, OPEN), source.last_revision)
        if first <= last:
            streams.append(_stored(view, source, first, last))
    streams += [_unwritten(view, layer, from_revision) for layer in reversed(view.layers)]
    if view.state.merge_revision:  # two numberings lie side by side below it
        return merge(*streams, key=itemgetter(0))
    return chain.from_iterable(streams)


def _stored(view: View, source: Source, first: int, last: int) -> Iterator[tuple[int, bytes]]:
    is_own = source is view.segments.own
    low = key_u64_u64_u32(Table.EVENT, source.segment, first, 0)
    high = key_u64_u64_u32(Table.EVENT, source.segment, min(last + 1, OPEN), 0)
    more = True
    while more:
        page = view.source().scan(low, high, limit=PAGE_KEYS, max_bytes=PAGE_BYTES)
        for stored, record in page.items:
            body = unseal(stored, record)
            if is_own or source.holds_key(event_key_of(body)):
                yield int.from_bytes(stored[9:17], "big"), body
        more = page.more
        if more:
            low = page.items[-1][0] + b"\x00"


def _unwritten(view: View, layer: Layer, from_revision: int) -> Iterator[tuple[int, bytes]]:
    own = view.segments.own
    is_own = layer.segment == own.segment
    for revision, _, body in layer.numbered_events(from_revision):
        if is_own or own.holds_key(event_key_of(body)):
            yield revision, body
