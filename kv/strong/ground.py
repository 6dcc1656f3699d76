"""The shards of one keyspace as a merged watch sees them (kv/watch/merged.py Ground).

What a replica here holds, it knows best itself: its own range, not the map's, says which keys its
hub tells of. A replica that is behind a split still tells of all of them up to there, and then ends
those watchers. For the rest the map names shards, and a page of events is a read that finds its way
like any other (routed.py); a wrong map costs another try.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from kv.model import Level, ReadOptions, SessionToken
from kv.strong.queries import Query
from kv.watch.index import KeyRange
from kv.watch.keyspace_watches import KeyspaceWatches
from kv.watch.merged import Hub, Pulled
from kv.watch.position import Feed, Holding
from kv.watch.watcher import WatchRequest
from storage.errors import JanusError

if TYPE_CHECKING:
    from kv.strong.keyspace import Keyspace

WAIT_S: Final = 10.0
"""For something to happen in a shard that has no replica here."""

Page = Callable[[Feed, WatchRequest], Query[Pulled]]
"""The query of a page of events, as a face shows them."""


class KeyspaceGround:
    def __init__(self, keyspace: Keyspace, watches: KeyspaceWatches, page: Page) -> None:
        self._keyspace = keyspace
        self._watches = watches
        self._page = page

    @property
    def keyspace(self) -> int:
        return self._keyspace.keyspace

    @property
    def closed(self) -> str:
        return self._watches.closed

    def hub(self, shard: int, keys: KeyRange) -> Hub | None:
        """By an old map these may be keys that a replica here has just parted with: its hub would
        never tell of them."""
        for holding in self._here():
            inside = holding.end is None or (keys.end is not None and keys.end <= holding.end)
            if holding.shard == shard and holding.start <= keys.start and inside:
                return self._watches.hub_of(shard)
        return None

    def holdings(self, keys: KeyRange) -> list[Holding]:
        found: list[Holding] = []
        at, end = keys
        for holding in sorted(self._here(), key=lambda each: each.start):
            if holding.end is not None and holding.end <= at:
                continue
            if end is not None and holding.start >= end:
                break
            if holding.start > at:
                found += self._elsewhere(at, holding.start)
            found.append(holding._replace(start=max(at, holding.start)))
            if holding.end is None:
                return found
            at = holding.end
        if end is None or at < end:
            found += self._elsewhere(at, end)
        return found

    def mapped(self, keys: KeyRange) -> list[Holding]:
        return self._elsewhere(keys.start, keys.end)

    def _here(self) -> list[Holding]:
        found = []
        for shard in self._keyspace.local_shards:
            group, own = shard.group.group_id, shard.machine.shard.view.segments.own
            empty = own.end is not None and own.end <= own.start  # it waits for its snapshot
            if shard.group.readable and not empty and self._watches.hub_of(group) is not None:
                found.append(Holding(group, own.start, own.end))
        return found

    def _elsewhere(self, start: bytes, end: bytes | None) -> list[Holding]:
        """By the map, without the edges."""
        found = []
        for record in self._keyspace.table.overlapping(start, end):
            bounds = [each for each in (record.end, end) if each is not None]
            low, high = max(start, record.start), min(bounds, default=None)
            found.append(Holding(record.shard, low, high))
        return found

    def pull(
        self, feed: Feed, wanted: WatchRequest, done: Callable[[Pulled | JanusError], None]
    ) -> None:
        """The level SESSION makes the replica wait until it has the next revision."""
        options = ReadOptions(Level.SESSION, SessionToken({feed.shard: feed.after + 1}), WAIT_S)
        self._keyspace.read(self._page(feed, wanted), done, options)
