"""What a watch over several shards asks of a shard, as values (kv/strong/queries.py). Pure.

    EventsQuery    a page of its log, shown as this face shows events
    OriginQuery    where it is, and in which segments an older revision may lie
"""

from __future__ import annotations

from itertools import groupby
from operator import attrgetter
from typing import Any, ClassVar, Final, NamedTuple

from kv.api.watching import encode_event
from kv.reading import ShardReader
from kv.router import Scope
from kv.strong.queries import Query, register
from kv.watch.merged import Pulled
from kv.watch.position import Feed
from kv.watch.watcher import WatchRequest
from storage.mvcc_events import read_events
from storage.mvcc_records import Event
from storage.mvcc_view import View

PAGE_EVENTS: Final = 500
PAGE_BYTES: Final = 64 * 1024
PAGE_EXAMINED: Final = 2_000
_revision: Final = attrgetter("kv.mod_revision")


class EventsQuery(Query[Pulled], frozen=True, tag="api.events"):
    """Events with a revision above `after`; `until` 0: as many as a page has, else none above."""

    Answer: ClassVar[Any] = Pulled
    start: bytes
    end: bytes | None
    after: int
    until: int = 0
    no_put: bool = False
    no_delete: bool = False
    with_prev: bool = False

    def scope(self) -> Scope:
        return self.start, self.end

    def __call__(self, reader: ShardReader) -> Pulled:
        view = reader.view
        check_holds(view, self.start, self.end)
        page = read_events(
            view,
            self.after + 1,
            self.start,
            self.end,
            max_events=PAGE_EVENTS,
            max_bytes=PAGE_BYTES,
            max_examined=PAGE_EXAMINED,
            segment=view.segments.own.segment,  # so that events below a merge are found
        )
        told = page.next_revision - 1
        if self.until:
            told = min(told, self.until)
        revisions = [
            (revision, [encode_event(event, self.with_prev) for event in events])
            for revision, group in groupby(page.events, key=_revision)
            if revision <= told and (events := [each for each in group if self._wants(each)])
        ]
        return Pulled(max(told, self.after), revisions)

    def _wants(self, event: Event) -> bool:
        return not (self.no_delete if event.is_delete else self.no_put)


def page_of(feed: Feed, wanted: WatchRequest) -> EventsQuery:
    return EventsQuery(
        feed.start,
        feed.end,
        feed.after,
        feed.until,
        wanted.no_put,
        wanted.no_delete,
        wanted.prev_kv,
    )


class Origin(NamedTuple):
    """`segments`: those in which the revision that was asked for lies, of any of the keys."""

    revision: int
    segments: tuple[int, ...]


class OriginQuery(Query[Origin], frozen=True, tag="api.origin"):
    Answer: ClassVar[Any] = Origin
    start: bytes
    end: bytes | None
    revision: int

    def scope(self) -> Scope:
        return self.start, self.end

    def __call__(self, reader: ShardReader) -> Origin:
        view = reader.view
        check_holds(view, self.start, self.end)
        sources = (view.segments.own, *view.segments.ancestors)
        found = {
            source.segment
            for source in sources
            if source.first_revision <= self.revision <= source.last_revision
            and source.meets(self.start, self.end)
        }
        return Origin(reader.revision, tuple(sorted(found)))


def check_holds(view: View, start: bytes, end: bytes | None) -> None:
    """Raises WrongShardError."""
    place = view.place
    below = place.end is None or (end is not None and end <= place.end)
    if place.frozen or start < place.start or not below:
        raise view.wrong_shard(f"the range from {start!r} to {end!r} is")


register(EventsQuery, OriginQuery)
