"""Watches of a leaderless keyspace: the feeds of all nodes, pulled, and told to watchers by a hub.

    every node's feed --(channel "look": kind "feed", or here at once)--> TailCore --> log
                                                                             |
                        watchers <--- hub (kv/watch) <--- one number a page --'

A tail reads all feeds; its hub (the strong regime's) numbers the pages, keeps outboxes bounded and
lets who fell behind catch up from the tail's log, or ends it with COMPACTED. Commits know nothing
of any of this: they add to the node's own feed. One tail serves all who watch from now on; who
resumes from a cursor joins a tail that knows this position, or gets one that begins there. A tail
of some keys is sent the changes of those alone; at most NARROW_MAX are, then one pulls everything.

A tail ends when nobody has used it for LINGER_S; it ends its watchers when too many feeds have a
hole (tail_core.py). Nobody pulls anything while nobody watches.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Annotated, Final, NamedTuple

import msgspec

from kv.cluster.mail import Mail, NoAnswerError
from kv.cluster.tasks import TaskOwner
from kv.errors import OverloadedError
from kv.leaderless.assembly import Leaderless
from kv.leaderless.feed import (
    Changed,
    FeedPage,
    Number,
    Position,
    cursor_text,
    is_behind,
    positions_of,
)
from kv.leaderless.keyspace import Keyspace
from kv.leaderless.tail_core import TailCore
from kv.watch.index import EVERYTHING, KeyRange
from kv.watch.messages import Encode
from kv.watch.shard_watches import ShardWatches
from kv.watch.watcher import WatchLimits
from raftgroups.transport import NodeId
from storage.clock import Clock, Scheduler
from storage.codec import check_key
from storage.errors import CompactedError, InvalidRequestError
from storage.mvcc_events import EventPage
from storage.mvcc_records import (
    HEAD,
    TOMBSTONE,
    Event,
    event_key_of,
    event_of,
    pack_event,
    put_record,
)
from storage.siblings import MalformedSetError, SiblingSet, encode_set

_log = logging.getLogger(__name__)

KIND: Final = "feed"
TAILS_MAX: Final = 8
NARROW_MAX: Final = 4
"""Tails of some keys; whoever watches others then hangs on one of everything."""
PAGE_KEYS: Final = 256
PAGE_BYTES: Final = 256 * 1024
LOG_PAGES: Final = 10_000
LOG_BYTES: Final = 16 * 1024 * 1024
ANSWER_WITHIN_S: Final = 2.0
PAUSE_S: Final = 0.025
"""Between two looks at a feed that had nothing: what a change waits for on its way to a watcher."""
AWAY_S: Final = 0.2
LINGER_S: Final = 30.0
LIMITS: Final = WatchLimits(progress_interval_s=5.0)
FELL_BEHIND: Final = (
    "changes were missed for good: the nodes no longer have what came after this position; list "
    "the keys again and watch from now on"
)


class _Ask(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    keyspace: Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)]
    after: Position | None
    start: bytes = b""
    end: bytes | None = None
    """Of the keys that are wanted."""


class _Told(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    boot: Number
    number: Number
    items: list[tuple[bytes, bytes]]
    lost: bool


_encode: Final = msgspec.msgpack.Encoder().encode
_decode_ask: Final = msgspec.msgpack.Decoder(_Ask).decode
_decode_told: Final = msgspec.msgpack.Decoder(_Told).decode


class Logged(NamedTuple):
    """One page of a tail: `positions` are those behind it."""

    number: int
    bodies: list[bytes]
    positions: dict[str, Position]
    size_bytes: int


class Watching:
    """All tails of a node, and its answers to the tails of others."""

    def __init__(
        self,
        regime: Leaderless,
        mail: Mail,
        tasks: TaskOwner,
        scheduler: Scheduler,
        clock: Clock,
    ) -> None:
        self.regime = regime
        self.mail = mail
        self.tasks = tasks
        self.scheduler = scheduler
        self.clock = clock
        self._tails: list[Tail] = []
        self._beginning = asyncio.Lock()
        mail.on(KIND, self._serve)

    async def begin(
        self,
        space: Keyspace,
        cursor: str | None,
        encode: Callable[[Tail], Encode],
        keys: KeyRange = EVERYTHING,
    ) -> tuple[Tail, int]:
        """The tail for a watch of these keys, and the number in it to begin with (0: what comes
        next). Raises InvalidCursorError, CompactedError, OverloadedError."""
        wanted = None if cursor is None else positions_of(space.number, cursor)
        async with self._beginning:
            self._tails = [tail for tail in self._tails if not tail.over]
            for tail in self._tails:
                if tail.space.number != space.number or not tail.keys.covers(keys):
                    continue
                if wanted is None and tail.live:
                    return tail.used(), 0
                number = None if wanted is None else tail.number_at(wanted)
                if number is not None:
                    return tail.used(), number + 1
            if len(self._tails) >= TAILS_MAX:
                raise OverloadedError(
                    f"{TAILS_MAX} watches of other keys or from other positions go on on this node "
                    "already, which is the limit; ask another node, or again in a minute"
                )
            narrow = sum(tail.keys != EVERYTHING for tail in self._tails)
            tail = Tail(self, space, keys if narrow < NARROW_MAX else EVERYTHING, wanted, encode)
            await tail.begin()
            self._tails.append(tail)
            return tail, 0 if wanted is None else 1

    async def pull(
        self, node: NodeId, keyspace: int, keys: KeyRange, after: Position | None
    ) -> FeedPage:
        """Raises NoAnswerError."""
        if node == self.regime.node:
            return self._page(keyspace, keys, after)
        body = _encode(_Ask(keyspace, after, keys.start, keys.end))
        try:
            told = _decode_told(await self.mail.ask(node, KIND, body, ANSWER_WITHIN_S))
            for key, _ in told.items:
                check_key(key)
        except (msgspec.DecodeError, InvalidRequestError) as error:
            raise NoAnswerError(f"node {node} answered what cannot be read") from error
        items = [Changed(keyspace, key, encoded) for key, encoded in told.items]
        return FeedPage(told.boot, told.number, items, told.lost)

    @property
    def tails(self) -> int:
        return sum(not tail.over for tail in self._tails)

    def members(self) -> frozenset[str]:
        return frozenset(self.regime.view.ring.members)

    def stop(self) -> None:
        for tail in self._tails:
            tail.stop("this node is stopping; watch at another one, from the last cursor")

    def _page(self, keyspace: int, keys: KeyRange, after: Position | None) -> FeedPage:
        """What nobody there wants stays here."""

        def wanted(change: Changed) -> bool:
            return change.keyspace == keyspace and keys.holds(change.key)

        return self.regime.feed.page(
            after, max_entries=PAGE_KEYS, max_bytes=PAGE_BYTES, wanted=wanted
        )

    def _serve(self, peer: NodeId, body: bytes) -> bytes | None:
        try:
            ask = _decode_ask(body)
        except msgspec.DecodeError:
            return None  # whoever asked has a deadline
        page = self._page(ask.keyspace, KeyRange(ask.start, ask.end), ask.after)
        items = [(change.key, change.encoded) for change in page.items]
        return _encode(_Told(page.boot, page.number, items, page.lost))


class Tail:
    def __init__(
        self,
        watching: Watching,
        space: Keyspace,
        keys: KeyRange,
        wanted: dict[str, Position] | None,
        encode: Callable[[Tail], Encode],
    ) -> None:
        self._watching = watching
        self.space: Final = space
        self.keys: Final = keys
        """What is pulled: a watch of others needs another tail."""
        self.live: Final = wanted is None
        """It began with what came next; else at a cursor."""
        self.over = False
        self._core = TailCore(space.number, wanted or {})
        self._log: deque[Logged] = deque([Logged(0, [], self._core.positions, 0)])
        """The oldest says where the rest begins; its own events are not needed."""
        self._log_bytes = 0
        self._following: set[str] = set()
        self._used_s = watching.clock.monotonic()
        self.watches: Final = ShardWatches(
            encode(self),
            self._read,
            revision=0,
            compact_revision=0,
            scheduler=watching.scheduler,
            clock=watching.clock,
            limits=LIMITS,
        )

    # --- for watchers ---

    def used(self) -> Tail:
        self._used_s = self._watching.clock.monotonic()
        return self

    def number_at(self, wanted: dict[str, Position]) -> int | None:
        """The last page whose all was read at this position, if the log goes on from there."""
        for page in reversed(self._log):
            if is_behind(page.positions, wanted):
                return page.number
        return None

    def cursor_at(self, number: int) -> str | None:
        """What to go on from for who was told everything up to this page."""
        if number == self._log[-1].number:
            return self._core.cursor
        for page in self._log:
            if page.number == number:
                return cursor_text(self.space.number, page.positions)
        return None

    # --- reading feeds ---

    async def begin(self) -> None:
        """Know where every node in reach stands. Raises CompactedError if that is too late."""
        await asyncio.gather(*(self._pull(node) for node in self._reachable()))
        if not self.live and self._is_broken():
            raise CompactedError(FELL_BEHIND, 0)
        if self.live:
            self._log[0] = Logged(0, [], self._core.positions, 0)
        self._follow_all()
        self._watching.tasks.spawn(self._look_after(), "leaderless watch")

    def _reachable(self) -> list[NodeId]:
        regime = self._watching.regime
        return [NodeId(node) for node in self._watching.members() if regime.reachable(NodeId(node))]

    def _follow_all(self) -> None:
        for node in self._watching.members() - self._following:
            self._following.add(node)
            self._watching.tasks.spawn(self._follow(NodeId(node)), f"leaderless feed of {node}")

    async def _look_after(self) -> None:
        clock = self._watching.clock
        while not self.over:
            await asyncio.sleep(1.0)
            self._follow_all()
            if self.watches.watching:
                self.used()
            if self._is_broken():
                self._lose()
            elif clock.monotonic() - self._used_s > LINGER_S:
                self.stop("nobody uses this watch")

    async def _follow(self, node: NodeId) -> None:
        while not self.over and node in self._watching.members():
            if not self._watching.regime.reachable(node):
                await asyncio.sleep(AWAY_S)
            elif not await self._pull(node):
                await asyncio.sleep(PAUSE_S)
            else:
                await asyncio.sleep(0)
        self._following.discard(node)

    async def _pull(self, node: NodeId) -> bool:
        """Whether there was something, so that more may be there."""
        clock, core = self._watching.clock, self._core
        asked_s = clock.monotonic()
        before = core.position(node)
        try:
            page = await self._watching.pull(node, self.space.number, self.keys, before)
        except NoAnswerError:
            return False
        if self.over:
            return False
        if before is None and self.live and not self._following:
            core.begin(node, page)
            return False
        try:
            fresh = core.take(
                node,
                page,
                asked_s=asked_s,
                now_s=clock.monotonic(),
                members=self._watching.members(),
            )
        except MalformedSetError as error:
            _log.warning("node %s gave a set that cannot be read: %s", node, error)
            return False
        if fresh:
            self._tell(fresh)
        if page.lost and self._is_broken():
            self._lose()
        return before is None or page.number != before.number

    def _is_broken(self) -> bool:
        return self._core.is_broken(self.space.n, self._watching.members())

    # --- the log and the hub ---

    def _tell(self, fresh: list[tuple[bytes, SiblingSet]]) -> None:
        number = self._log[-1].number + 1
        now_ms = int(self._watching.clock.wall() * 1000)
        bodies = [_body(number, key, siblings, now_ms) for key, siblings in fresh]
        page = Logged(number, bodies, self._core.positions, sum(map(len, bodies)))
        self._log.append(page)
        self._log_bytes += page.size_bytes
        self.watches.committed(number, bodies)
        trimmed = False
        while len(self._log) > LOG_PAGES or (self._log_bytes > LOG_BYTES and len(self._log) > 2):
            self._log.popleft()
            self._log_bytes -= self._log[0].size_bytes
            self._log[0] = self._log[0]._replace(bodies=[], size_bytes=0)
            trimmed = True
        if trimmed:
            self.watches.compacted(self._log[0].number + 1)

    def _read(
        self,
        from_revision: int,
        start: bytes,
        end: bytes | None,
        *,
        max_events: int,
        max_bytes: int,
    ) -> EventPage:
        """The hub's catch-up: whole pages."""
        floor = self._log[0].number + 1
        if from_revision < floor:
            raise CompactedError(FELL_BEHIND, floor)
        keys, size_bytes = KeyRange(start, end), 0
        events: list[Event] = []
        reached = from_revision
        for place in range(from_revision - floor + 1, len(self._log)):
            page = self._log[place]
            for body in page.bodies:
                if keys.holds(event_key_of(body)):
                    events.append(event_of(body))
                    size_bytes += len(body)
            reached = page.number + 1
            if len(events) >= max_events or size_bytes >= max_bytes:
                break
        return EventPage(events, reached)

    # --- the end ---

    def _lose(self) -> None:
        """Every watcher hears that it missed something; nobody joins."""
        if not self.over:
            self.over = True
            number = self._log[-1].number + 2
            self.watches.jumped(number, number)

    def stop(self, message: str) -> None:
        if not self.over:
            self.over = True
            self.watches.close(message)


def _body(number: int, key: bytes, siblings: SiblingSet, now_ms: int) -> bytes:
    """As an event of the hub: the set is its value; a deletion if nothing of it lives."""
    value = encode_set(siblings)
    if all(version.dead(now_ms) for version in siblings.versions):
        head = HEAD.pack(TOMBSTONE, 0, number, 0, 0, 0, 2, now_ms)
        return pack_event(key, head + value, None)
    return pack_event(key, put_record(None, value, 0, number, 0, 0, now_ms), None)
