"""What a watch over several shards asks of a shard, as values (kv/strong/queries.py). Pure.

EventsQuery    a page of its log, shown as this face shows events
OriginQuery    where it is, and in which segments an older revision may lie
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from operator import attrgetter
from typing import Any, ClassVar, Final, NamedTuple

from kv.api.watching import encode_event
from kv.reading import ShardReader
from kv.router import Scope
from kv.strong.queries import Query, register
from kv.watch.merged import Bounds, Pulled, PulledRevision
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
    whole_start: bytes = b""
    whole_end: bytes | None = None
    """Of the watch: what of it the shard holds is to be told together."""

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
        until = self.until or self._until_merged(view)
        if until:
            told = min(told, until)
        wanted = [
            event
            for event in page.events
            if event.kv.mod_revision <= told
            and not (self.no_delete if event.is_delete else self.no_put)
        ]
        below_merge = self.after < view.state.merge_revision
        apart = self._by_segment if below_merge else _by_revision
        revisions = [
            PulledRevision(revision, [encode_event(each, self.with_prev) for each in events], of)
            for revision, events, of in apart(view, wanted)
        ]
        return Pulled(max(told, self.after), revisions)

    def _until_merged(self, view: View) -> int:
        """The shard has more of the watch's keys than it had when this was asked for: up to where
        it came to them. 0: it has not."""
        whole = view.segments.own.cut(self.whole_start, self.whole_end)
        if whole is None or (whole.start, whole.end) == (self.start, self.end):
            return 0
        begins = [
            source.first_revision - 1
            for source in (view.segments.own, *view.segments.ancestors)
            if source.first_revision - 1 > self.after and source.meets(self.start, self.end)
        ]
        return min(begins, default=self.after)

    def _by_segment(self, view: View, events: list[Event]) -> Iterator[Group]:
        """Two segments may have the same revision, each its own."""
        sources = (view.segments.own, *view.segments.ancestors)
        for revision, group in groupby(events, key=_revision):
            found: dict[int, list[Event]] = {}
            for event in group:
                segment = view.segments.locate(event.kv.key, revision)
                assert segment is not None, "read_events has just found it there"
                found.setdefault(segment, []).append(event)
            for segment, own in found.items():
                parts = [
                    source.cut(self.start, self.end)
                    for source in sources
                    if source.segment == segment
                    and source.first_revision <= revision <= source.last_revision
                ]
                yield revision, own, [(part.start, part.end) for part in parts if part is not None]


Group = tuple[int, list[Event], list[Bounds]]


def _by_revision(_: View, events: list[Event]) -> Iterator[Group]:
    for revision, group in groupby(events, key=_revision):
        yield revision, list(group), []


def page_of(feed: Feed, wanted: WatchRequest) -> EventsQuery:
    return EventsQuery(
        feed.start,
        feed.end,
        feed.after,
        feed.until,
        wanted.no_put,
        wanted.no_delete,
        wanted.prev_kv,
        *wanted.keys,
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
