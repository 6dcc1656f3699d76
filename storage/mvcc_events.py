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
from itertools import groupby
from operator import itemgetter
from typing import Final, NamedTuple

from storage.codec import Table, key_u64_u64_u32, unseal
from storage.errors import CompactedError
from storage.mvcc_records import Event, event_key_of, event_of
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
) -> EventPage:
    """A page of the events of start <= key < end. `max_examined` bounds the work where few events
    are of that range: the page may then be short or empty though more follow."""
    if from_revision < view.state.compact_revision:
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


def _from(view: View, from_revision: int) -> Iterator[tuple[int, bytes]]:
    """(revision, event body) from a revision on, in order."""
    stored_to = view.layers[-1].base
    for source in view.segments.oldest_first():
        first = max(from_revision, source.first_revision)
        last = min(stored_to, source.last_revision)
        if first > last:
            continue
        is_own = source is view.segments.own
        low = key_u64_u64_u32(Table.EVENT, source.segment, first, 0)
        high = key_u64_u64_u32(Table.EVENT, source.segment, last + 1, 0)
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
    for layer in reversed(view.layers):
        for revision, _, body in layer.numbered_events(from_revision):
            yield revision, body
