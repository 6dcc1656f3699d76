"""Watches of the strong regime as one connection has them: of one shard by revisions, of several by
a cursor, and from the one to the other when the shard is split.

    NDJSON   {"type":"created","cursor":"..."}
             {"type":"events","revision":8,"cursor":"...","events":[...]}     of one shard, whole
    SSE      id: the cursor                 where `Last-Event-ID` goes on from
             data: the same JSON
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final

from kv.api.live_bodies import WatchLine
from kv.api.streams import Revisions
from kv.api.watch_queries import Origin, OriginQuery
from kv.api.watching import REVISION_BYTES, framed_line, http_chunk
from kv.model import LOCAL_READ
from kv.regime import Strong, ask
from kv.router import CrossShardError
from kv.watch.hub import Created
from kv.watch.keyspace_watches import KeyspaceWatches
from kv.watch.merged import Ground, MergedWatch, Reached, Told
from kv.watch.messages import Cancelled, CancelReason, EventBatch, Message, Progress
from kv.watch.position import Holding, Piece, Position
from kv.watch.shard_watches import Wake
from kv.watch.watcher import WatchRequest
from kv.watch.watches import Watches
from storage.clock import Scheduler
from storage.errors import JanusError, WrongShardError

BEGIN_S: Final = 5.0
AGAIN_S: Final = 0.02
FIRST_REVISIONS: Final = 1
"""Every shard that was never written is at this one: up to here nothing was told, whose it be."""
AnyMessage = Message | Told | Reached


class OneWatch:
    """What a LineStream needs of Watches, for one watcher."""

    def __init__(
        self,
        watches: Watches,
        ground: Ground | None,
        position: Position | None,
        scheduler: Scheduler,
    ) -> None:
        """`position`: follow several shards from there; None: the one that has all the keys."""
        assert position is None or ground is not None
        self._watches = watches
        self._ground = ground
        self._position = position
        self._scheduler = scheduler
        self._merged: MergedWatch | None = None
        self._wanted: WatchRequest | None = None
        self._wake: Wake | None = None
        self._told = 0

    @property
    def merged(self) -> MergedWatch | None:
        return self._merged

    def create(self, request: WatchRequest, wake: Wake) -> Created | Cancelled:
        self._wanted, self._wake = request, wake
        if self._position is not None:
            if isinstance(self._watches, KeyspaceWatches):
                refused = self._watches.over_quota()
                if refused is not None:
                    return refused
            self._follow(self._position)
            return Created(0, 0)
        made = self._watches.create(request, wake)
        if isinstance(made, Created):
            self._told = told_before(request, made)
        return made

    def _follow(self, position: Position) -> None:
        assert self._ground is not None
        assert self._wanted is not None
        assert self._wake is not None
        self._merged = MergedWatch(
            self._ground, self._wanted, position, self._wake, scheduler=self._scheduler
        )

    def take(self, identity: int, max_bytes: int = 0) -> list[AnyMessage]:
        if self._merged is not None:
            return [*self._merged.take(max_bytes)]
        messages: list[AnyMessage] = [*self._watches.take(identity, max_bytes)]
        if self._ground is None or not messages:
            return messages
        for message in messages:
            if isinstance(message, EventBatch | Progress):
                self._told = message.revision
        last = messages[-1]
        if isinstance(last, Cancelled) and last.reason is CancelReason.SPLIT:
            assert self._wanted is not None
            del messages[-1]
            self._follow(Position.begin(self._wanted.keys, self._told))
        return messages

    def room(self, identity: int) -> None:
        if self._merged is not None:
            self._merged.room()
        else:
            self._watches.room(identity)

    def cancel(self, identity: int) -> bool:
        if self._merged is not None:
            self._merged.close()
        return self._watches.cancel(identity)


class Cursors:
    """A streams.Shown: by revision as long as that says it all, then by cursor."""

    def __init__(self, position: Position | None, keyspace: int) -> None:
        self._cursor = None if position is None else position.cursor(keyspace)

    def created_line(self, created: Created, wanted: WatchRequest, sse: bool) -> bytes:
        if self._cursor is None:
            return Revisions.created_line(created, wanted, sse)
        line = WatchLine("created", cursor=self._cursor)
        return framed_line(line, self._cursor if sse else None)

    def chunk_of(self, message: AnyMessage, sse: bool) -> bytes:
        if isinstance(message, Told | Reached):
            return http_chunk(merged_line(message, sse))
        return Revisions.chunk_of(message, sse)

    def line_of(self, message: AnyMessage, sse: bool) -> bytes:
        if isinstance(message, Told | Reached):
            return merged_line(message, sse)
        return Revisions.line_of(message, sse)


def told_before(request: WatchRequest, created: Created) -> int:
    return request.start_revision - 1 if request.start_revision > 0 else created.revision


def merged_line(message: Told | Reached, sse: bool) -> bytes:
    cursor = message.cursor.encode()
    if isinstance(message, Reached):
        body = b'{"type":"progress","cursor":"%b"}' % cursor
    else:
        body = b'{"type":"events","revision":%d,"cursor":"%b","events":%b}' % (
            message.revision,
            cursor,
            events_of(message.parts),
        )
    return b"id: %b\ndata: %b\n\n" % (cursor, body) if sse else body + b"\n"


def events_of(parts: Iterable[bytes]) -> bytes:
    return b"[%b]" % b",".join([part[REVISION_BYTES:] for part in parts])


# --- where it begins ---------------------------------------------------------------------------


async def begin(strong: Strong, ground: Ground, wanted: WatchRequest) -> Position:
    """Of a watch that names a revision, or none: as of now. Raises CrossShardError if the revision
    does not say what was told, and what asking the shards raises."""
    give_up_at = asyncio.get_running_loop().time() + BEGIN_S
    if 0 < wanted.start_revision <= FIRST_REVISIONS + 1:
        return Position.begin(wanted.keys)
    while True:
        try:
            holdings = ground.mapped(wanted.keys)
            origins = [await _origin(strong, each, wanted.start_revision - 1) for each in holdings]
        except (CrossShardError, WrongShardError, JanusError) as error:
            again = isinstance(error, CrossShardError | WrongShardError) or error.retryable
            if not again or asyncio.get_running_loop().time() >= give_up_at:
                raise
            await asyncio.sleep(AGAIN_S)  # the map is being changed
            continue
        return _position_of(wanted, holdings, origins)


async def _origin(strong: Strong, holding: Holding, revision: int) -> Origin:
    query = OriginQuery(holding.start, holding.end, max(0, revision))
    return await ask(lambda done: strong.read(query, done, LOCAL_READ))


def _position_of(wanted: WatchRequest, holdings: list[Holding], origins: list[Origin]) -> Position:
    start = wanted.start_revision
    if start <= 0:
        told = zip(holdings, origins, strict=True)
        return Position([Piece(each.start, each.end, origin.revision) for each, origin in told])
    segments = {segment for origin in origins for segment in origin.segments}
    if len(segments) > 1:
        raise CrossShardError(
            f"revision {start} names no place of this watch: its keys lie in {len(holdings)} "
            "shards, which count their revisions apart; go on with the cursor of the last line, or "
            "read the keys and watch from now on (from=1: everything that is kept)"
        )
    return Position.begin(wanted.keys, start - 1)


def of_cursor(text: str, ground: Ground, wanted: WatchRequest) -> Position:
    """Raises InvalidWatchCursorError."""
    return Position.of_cursor(text, ground.keyspace, wanted.keys)
