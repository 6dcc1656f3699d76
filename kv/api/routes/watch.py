"""Watches: streams of lines, server-sent events, and long polls."""

from __future__ import annotations

import asyncio
from typing import Final

from aiohttp import web

from kv.api.call import Call
from kv.api.failures import InvalidQueryError
from kv.api.reply import Reply
from kv.api.streams import LineStream
from kv.api.watching import SSE, poll_body, watch_of
from kv.errors import OverloadedError, StoppingError
from kv.router import CrossShardError
from kv.watch.messages import Cancelled, CancelReason, EventBatch
from kv.watch.watcher import WatchRequest
from storage.errors import CompactedError, JanusError

POLL_MAX_BYTES: Final = 1024 * 1024
BUSY_S: Final = 5.0


async def watch(call: Call) -> Reply | web.StreamResponse:
    request = call.request
    wanted = watch_of(call.query, request.headers.get("Last-Event-ID"))
    if call.api.strong.single:
        local = call.api.strong.local()
        if 0 < wanted.start_revision < local.compact_revision:
            raise _compacted(wanted.start_revision, local.compact_revision)
    seconds = call.query["poll"]
    if seconds is not None:
        return await _poll(call, wanted, seconds)
    stream = LineStream(
        call.api.watches(), request, sse=SSE in request.headers.get("Accept", "").lower()
    )
    made = stream.begin(wanted)
    if isinstance(made, Cancelled):
        raise _refusal(made)
    headers = {"Revision": str(made.revision)}
    return await stream.run(made, wanted, headers)


async def _poll(call: Call, wanted: WatchRequest, seconds: float) -> Reply:
    watches = call.api.watches()
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
        if messages and isinstance(messages[-1], Cancelled) and not batches:
            raise _refusal(messages[-1])
        reached = batches[-1].revision if batches else watches.reached((made.identity,))
        following = max(reached + 1, wanted.start_revision)
    finally:
        watches.cancel(made.identity)
    return Reply(200, poll_body(batches, following), revision=made.revision)


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
