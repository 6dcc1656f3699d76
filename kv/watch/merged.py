"""One watch over all the shards of a range, through splits, merges, moves and changes of leaders.

    the shards of the range now --> plan (position.py) --> a feed each:
        the replica is here     a watcher of its hub, which ends when the shard gets other keys
        else, or below a merge  pages of the log, asked of a node that has it; an answer waits there
                                until there is something to tell
    what a feed gives --> Told, with the cursor as of then
    a feed ends       --> plan anew, from where its keys are

It tells every event once, the events of a key in order, and each revision of a shard whole: one
Told. (A revision that was made before a split and is told after it comes in two, one from each
half.) Nothing is said of the order of different shards.

Like a hub it owns no loop and no connection: `wake` says that there is something to take. It takes
from the hubs only what somebody takes from it, so a slow reader is theirs to hold back; pages are
asked for one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, NamedTuple, Protocol

from kv.errors import KeyspaceNotFoundError
from kv.watch.hub import Created
from kv.watch.index import KeyRange
from kv.watch.messages import Cancelled, CancelReason, EventBatch, Message
from kv.watch.position import PIECES_MAX, Feed, Holding, Position, plan
from kv.watch.shard_watches import Wake
from kv.watch.watcher import WatchRequest
from storage.clock import Scheduler, Timer
from storage.errors import CompactedError, JanusError

RETRY_S: Final = 0.02
RETRY_MAX_S: Final = 0.5
PROGRESS_S: Final = 60.0
"""A cursor that nothing moves ages with the log, and would be compacted at last."""


class Told(NamedTuple):
    """The events of one revision of a shard, encoded; with the cursor everything up to them was
    told."""

    cursor: str
    revision: int
    parts: tuple[bytes, ...]


class Reached(NamedTuple):
    """Nothing happened up to here."""

    cursor: str


Bounds = tuple[bytes, bytes | None]


class PulledRevision(NamedTuple):
    """`of`: the keys for which the revision is one, where two numberings lie side by side below a
    merge; empty: all that were asked for."""

    revision: int
    parts: list[bytes]
    of: list[Bounds]


class Pulled(NamedTuple):
    """A page of the log: everything of these keys up to `told`."""

    told: int
    revisions: list[PulledRevision]


class Hub(Protocol):
    """As much of ShardWatches as is used here."""

    def create(self, request: WatchRequest, wake: Wake) -> Created | Cancelled: ...

    def cancel(self, identity: int) -> bool: ...

    def take(self, identity: int, max_bytes: int = 0) -> list[Message]: ...

    def room(self, identity: int) -> None: ...

    def reached(self, identities: tuple[int, ...]) -> int: ...

    @property
    def compact_revision(self) -> int: ...


class Ground(Protocol):
    """The shards of a keyspace, as they are now (kv/strong/ground.py)."""

    @property
    def keyspace(self) -> int: ...

    @property
    def closed(self) -> str:
        """Why this node watches nothing any more, or nothing."""
        ...

    def holdings(self, keys: KeyRange) -> list[Holding]:
        """Who holds them, apart from each other: replicas here by what they hold themselves, the
        rest by the map. Raises JanusError if that cannot be known now."""
        ...

    def mapped(self, keys: KeyRange) -> list[Holding]:
        """The same, by the map alone."""
        ...

    def hub(self, shard: int, keys: KeyRange) -> Hub | None:
        """Of a replica here that holds these keys itself, whatever a map says."""
        ...

    def pull(
        self, feed: Feed, wanted: WatchRequest, done: Callable[[Pulled | JanusError], None]
    ) -> None:
        """A page, from wherever a replica is. Once there is something behind `feed.after`, or an
        error after a while. `done` is never called from inside."""
        ...


_Key = tuple[int, bytes, bytes | None, int]


class _Source:
    """Who feeds some keys: a watcher of a hub, or pages."""

    __slots__ = ("ended", "feed", "hub", "identity", "page", "pulling", "taken")

    def __init__(self, feed: Feed) -> None:
        self.feed: Final = feed
        self.hub: Hub | None = None
        self.identity = -1
        self.pulling = False
        self.page: Pulled | None = None
        self.taken = False
        """Something was taken of the hub since the last `room`."""
        self.ended = False


class MergedWatch:
    """For the node's loop only."""

    def __init__(
        self,
        ground: Ground,
        wanted: WatchRequest,
        position: Position,
        wake: Wake,
        *,
        scheduler: Scheduler,
        progress_s: float = PROGRESS_S,
    ) -> None:
        """`wanted.start_revision` means nothing: `position` does."""
        assert position.keys == wanted.keys
        self.position: Final = position
        self._ground = ground
        self._wanted = wanted
        self._wake = wake
        self._scheduler = scheduler
        self._progress_s = progress_s
        self._sources: dict[_Key, _Source] = {}
        self._ready: dict[_Source, None] = {}
        self._end_with: Cancelled | None = None
        self._progress_due = False
        """Something must be said; its cursor is made when it is taken."""
        self._moved = False
        """The position has, since it was told last."""
        self._failures = 0
        self._plan_timer: Timer | None = None
        self._over = False
        self._progress: Timer | None = scheduler.call_later(progress_s, self._say_progress)
        self._plan_after(0.0)

    # --- for the connection -------------------------------------------------------------------

    def take(self, max_bytes: int = 0) -> list[Told | Reached | Cancelled]:
        """What there is; Cancelled is the last ever. Empty: `wake` will say when."""
        taken: list[Told | Reached | Cancelled] = []
        size_bytes = 0
        for source in list(self._ready):
            if source.page is not None:
                self._take_page(source, taken)
            elif source.hub is not None:
                size_bytes += self._take_of_hub(source, max_bytes, taken)
            if 0 < max_bytes <= size_bytes:
                return taken
        if self._end_with is not None:
            taken.append(self._end_with)
            self._end_with = None
        elif self._progress_due and not taken:
            taken.append(Reached(self.cursor()))
        self._progress_due = False
        return taken

    def room(self) -> None:
        """All that was taken is out."""
        for source in list(self._sources.values()):
            if source.taken and source.hub is not None:
                source.taken = False
                source.hub.room(source.identity)

    def cursor(self) -> str:
        """As of everything that was taken."""
        self._look_around(None)
        return self.position.cursor(self._ground.keyspace)

    def close(self) -> None:
        """Nothing more comes."""
        self._over = True
        for source in list(self._sources.values()):
            self._drop(source)
        for timer in (self._plan_timer, self._progress):
            if timer is not None:
                timer.cancel()
        self._plan_timer = self._progress = None

    # --- what feeds give ----------------------------------------------------------------------

    def _take_of_hub(
        self, source: _Source, max_bytes: int, taken: list[Told | Reached | Cancelled]
    ) -> int:
        """Their raw bytes."""
        hub, feed = source.hub, source.feed
        assert hub is not None
        messages = hub.take(source.identity, max_bytes)
        if not messages:
            self._ready.pop(source, None)
            return 0
        source.taken = True
        self._look_around(source)
        size_bytes = 0
        for message in messages:
            if isinstance(message, EventBatch):
                size_bytes += message.size_bytes
                for revision, parts in message.revisions:
                    taken.append(self._tell([feed.keys], revision, parts))
            elif isinstance(message, Cancelled):
                self._hub_ended(source, message)
        return size_bytes

    def _take_page(self, source: _Source, taken: list[Told | Reached | Cancelled]) -> None:
        page, source.page = source.page, None
        assert page is not None
        self._ready.pop(source, None)
        feed = source.feed
        self._look_around(source)
        for revision, parts, of in page.revisions:
            taken.append(self._tell(of or [feed.keys], revision, tuple(parts)))
        self._moved |= self.position.advance(feed.start, feed.end, page.told)
        self._plan_after(0.0)  # perhaps its shard can be watched here now, or it has caught up

    def _tell(self, of: Sequence[Bounds], revision: int, parts: tuple[bytes, ...]) -> Told:
        for start, end in of:
            self.position.advance(start, end, revision)
        self._moved = False
        return Told(self.position.cursor(self._ground.keyspace), revision, parts)

    def _look_around(self, but: _Source | None) -> None:
        """What the hubs have told of keys to which nothing happened."""
        for source in self._sources.values():
            if source.hub is not None and source is not but:
                reached = source.hub.reached((source.identity,))
                feed = source.feed
                self._moved |= self.position.advance(feed.start, feed.end, reached)

    def _hub_ended(self, source: _Source, end: Cancelled) -> None:
        source.ended = True
        self._drop(source)
        if end.reason in (CancelReason.LIMIT, CancelReason.INVALID):
            self._end(end)
        else:  # other keys, not here any more, or below a merge: the next plan knows
            self._plan_after(0.0)

    # --- who feeds what -----------------------------------------------------------------------

    def _plan_after(self, delay_s: float) -> None:
        if self._over:
            return
        if self._plan_timer is not None:
            if delay_s > 0:
                return
            self._plan_timer.cancel()
        self._plan_timer = self._scheduler.call_later(delay_s, self._plan)

    def _plan(self) -> None:
        self._plan_timer = None
        if self._over:
            return
        ground = self._ground
        if ground.closed:
            self._end(Cancelled(CancelReason.CLOSED, ground.closed))
            return
        self._look_around(None)
        try:
            holdings = ground.holdings(self._wanted.keys)
        except KeyspaceNotFoundError as error:
            self._end(Cancelled(CancelReason.CLOSED, str(error)))
            return
        except JanusError:
            self._plan_after(self._pause())
            return
        feeds = {feed[:3] + feed[4:]: feed for feed in plan(self.position, holdings)}
        if len(feeds) > PIECES_MAX:
            self._end(
                Cancelled(
                    CancelReason.LIMIT,
                    f"these keys lie in {len(feeds)} shards, and a watch follows up to "
                    f"{PIECES_MAX}; watch smaller ranges",
                )
            )
            return
        for key, source in list(self._sources.items()):
            if key not in feeds:
                self._drop(source)
        for key, feed in feeds.items():
            self._feed(key, feed)

    def _feed(self, key: _Key, feed: Feed) -> None:
        if self._over:
            return  # the one before could not be watched
        source = self._sources.get(key)
        if source is not None and (source.hub is not None or source.pulling or source.page):
            return
        hub = self._ground.hub(feed.shard, feed.keys) if not feed.until else None
        if hub is not None and feed.after + 1 >= hub.compact_revision:
            if source is not None:
                self._drop(source)
            self._watch(key, feed, hub)
            return
        if source is None:
            source = self._sources[key] = _Source(feed)
        source.pulling = True
        self._ground.pull(feed, self._wanted, partial(self._pulled, source))

    def _watch(self, key: _Key, feed: Feed, hub: Hub) -> None:
        wanted = self._wanted
        request = WatchRequest(
            feed.keys,
            feed.after + 1,
            no_put=wanted.no_put,
            no_delete=wanted.no_delete,
            prev_kv=wanted.prev_kv,
            whole=True,
        )
        source = _Source(feed)
        made = hub.create(request, partial(self._hub_woke, source))
        if isinstance(made, Cancelled):
            self._end(made)
            return
        source.hub, source.identity = hub, made.identity
        self._sources[key] = source
        self._failures = 0

    def _hub_woke(self, source: _Source) -> None:
        if not (source.ended or self._over):
            self._ready[source] = None
            self._wake()

    def _pulled(self, source: _Source, answer: Pulled | JanusError) -> None:
        source.pulling = False
        if source.ended or self._over:
            return
        if isinstance(answer, Pulled):
            if answer.revisions or answer.told > self._told_of(source.feed):
                self._failures = 0
                source.page = answer
                self._ready[source] = None
                self._wake()
            else:
                self._plan_after(self._pause())
        elif isinstance(answer, CompactedError):
            self._end(
                Cancelled(
                    CancelReason.COMPACTED,
                    f"this watch was told everything up to a place that was compacted ({answer}); "
                    "read the keys anew and watch from that moment on",
                    max(0, answer.compact_revision),
                )
            )
        else:
            self._plan_after(self._pause())

    def _told_of(self, feed: Feed) -> int:
        return min(piece.told for piece in self.position.within(feed.start, feed.end))

    def _pause(self) -> float:
        self._failures += 1
        return min(RETRY_MAX_S, RETRY_S * float(1 << min(self._failures - 1, 10)))

    def _drop(self, source: _Source) -> None:
        source.ended = True
        self._ready.pop(source, None)
        if source.hub is not None:
            source.hub.cancel(source.identity)
        feed = source.feed
        key = feed[:3] + feed[4:]
        if self._sources.get(key) is source:
            del self._sources[key]

    # --- progress, end ------------------------------------------------------------------------

    def _say_progress(self) -> None:
        self._progress = self._scheduler.call_later(self._progress_s, self._say_progress)
        self._look_around(None)
        if (self._moved or self._wanted.progress) and not self._ready:
            self._moved = False
            self._progress_due = True
            self._wake()

    def _end(self, end: Cancelled) -> None:
        """The last thing that is taken."""
        if not self._over:
            self.close()
            self._end_with = end
            self._scheduler.call_soon(self._wake)
