"""Watches: streams of lines, server-sent events, and long polls."""

from __future__ import annotations

import asyncio
from typing import Final

import msgspec
from aiohttp import web

from kv.api import merged
from kv.api.call import Call
from kv.api.failures import InvalidQueryError
from kv.api.hot import encode
from kv.api.merged import Cursors, OneWatch
from kv.api.reply import Reply
from kv.api.streams import LineStream
from kv.api.watch_queries import page_of
from kv.api.watching import SSE, cursor_of, poll_body, watch_of
from kv.errors import OverloadedError, StoppingError
from kv.router import CrossShardError
from kv.watch.merged import Ground, MergedWatch, Told
from kv.watch.messages import Cancelled, CancelReason, EventBatch
from kv.watch.position import Position
from kv.watch.watcher import WatchRequest
from kv.watch.watches import Watches
from storage.errors import CompactedError, JanusError

POLL_MAX_BYTES: Final = 1024 * 1024
BUSY_S: Final = 5.0


async def watch(call: Call) -> Reply | web.StreamResponse:
    request = call.request
    told = request.headers.get("Last-Event-ID")
    wanted, cursor = watch_of(call.query, told), cursor_of(call.query, told)
    watches = call.api.watches()
    ground = call.api.strong.ground(watches, page_of)
    position = await _begin(call, ground, wanted, cursor)
    seconds = call.query["poll"]
    if seconds is not None:
        if position is not None and ground is not None:
            return await _poll_merged(ground, wanted, position, seconds)
        return await _poll(watches, wanted, seconds)
    one = OneWatch(watches, ground, position, asyncio.get_running_loop())
    stream = LineStream(
        one,
        request,
        sse=SSE in request.headers.get("Accept", "").lower(),
        shown=Cursors(position, 0 if ground is None else ground.keyspace),
    )
    made = stream.begin(wanted)
    if isinstance(made, Cancelled):
        raise _refusal(made)
    headers = {"Revision": str(made.revision)} if position is None else {}
    return await stream.run(made, wanted, headers)


async def _begin(
    call: Call, ground: Ground | None, wanted: WatchRequest, cursor: str | None
) -> Position | None:
    """None: a revision says it, of one shard that is here."""
    strong = call.api.strong
    if cursor is not None:
        if ground is None:
            raise InvalidQueryError(
                "a cursor is given by watches over several shards; give from= a revision"
            )
        return merged.of_cursor(cursor, ground, wanted)
    if strong.single or ground is None:
        local = strong.local()
        if 0 < wanted.start_revision < local.compact_revision:
            raise _compacted(wanted.start_revision, local.compact_revision)
        return None
    return await merged.begin(strong, ground, wanted)


async def _poll(watches: Watches, wanted: WatchRequest, seconds: float) -> Reply:
    ready = asyncio.Event()
    made = watches.create(wanted, ready.set)
    if isinstance(made, Cancelled):
        raise _refusal(made)
    try:
        try:
            async with asyncio.timeout(seconds):
                await ready.wait()
        except TimeoutError:
            pass  # nothing has happened: an answer like any other
        messages = watches.take(made.identity, POLL_MAX_BYTES)
        batches = [message for message in messages if isinstance(message, EventBatch)]
        last = messages[-1] if messages else None
        if batches:
            reached = batches[-1].revision
        elif not isinstance(last, Cancelled):
            reached = watches.reached((made.identity,))
        elif last.reason is CancelReason.SPLIT:
            reached = merged.told_before(wanted, made)  # the next poll finds its shards
        else:
            raise _refusal(last)
        following = max(reached + 1, wanted.start_revision)
    finally:
        watches.cancel(made.identity)
    return Reply(200, poll_body(batches, following), revision=made.revision)


async def _poll_merged(
    ground: Ground, wanted: WatchRequest, position: Position, seconds: float
) -> Reply:
    ready = asyncio.Event()
    loop = asyncio.get_running_loop()
    watch = MergedWatch(ground, wanted, position, ready.set, scheduler=loop)
    told: list[Told] = []
    try:
        try:
            async with asyncio.timeout(seconds):
                while not told:
                    await ready.wait()
                    ready.clear()
                    told = _take(watch)
        except TimeoutError:
            pass  # nothing has happened: an answer like any other
        cursor = told[-1].cursor if told else watch.cursor()
    finally:
        watch.close()
    events = [
        {"revision": each.revision, "events": msgspec.Raw(merged.events_of(each.parts))}
        for each in told
    ]
    return Reply(200, encode({"events": events, "cursor": cursor}))


def _take(watch: MergedWatch) -> list[Told]:
    taken = watch.take(POLL_MAX_BYTES)
    told = [each for each in taken if isinstance(each, Told)]
    if taken and isinstance(taken[-1], Cancelled) and not told:
        raise _refusal(taken[-1])
    return told


def _compacted(start: int, compact_revision: int) -> CompactedError:
    return CompactedError(
        f"a watch from revision {start} needs events that were compacted; read the keys again and "
        f"watch from the revision after, or from {compact_revision} on",
        compact_revision,
    )


def _refusal(cancelled: Cancelled) -> JanusError:
    if cancelled.reason is CancelReason.COMPACTED:
        return CompactedError(cancelled.message, cancelled.compact_revision)
    if cancelled.reason is CancelReason.LIMIT:
        return OverloadedError(cancelled.message, BUSY_S)
    if cancelled.reason is CancelReason.CLOSED:
        return StoppingError(cancelled.message)
    if cancelled.reason is CancelReason.SPLIT:
        return CrossShardError(cancelled.message)
    return InvalidQueryError(cancelled.message)
