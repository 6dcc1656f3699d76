"""Watches of a leaderless keyspace: a query to a watch, messages of the hub to lines; the handler.

    NDJSON   {"type":"created","cursor":"..."}
             {"type":"events","cursor":"...","events":[{"type":"put","key":"a","value":"1",...}]}
    SSE      id: the cursor                 where `Last-Event-ID` goes on from
             data: the same JSON

An event shows the key as it is now, merged from what the nodes have told so far: one value or
siblings, and the context for a write that replaces them. It is told at least once. The cursor of a
line covers that line and all before it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from itertools import groupby
from typing import Final

import msgspec
from aiohttp import web

from kv.api.call import Call
from kv.api.failures import InvalidQueryError
from kv.api.hot import encode
from kv.api.leaderless import hot
from kv.api.leaderless.bodies import WatchedKey
from kv.api.leaderless.face import Face
from kv.api.leaderless.routes import face_of
from kv.api.reply import JSON, Reply
from kv.api.streams import LineStream
from kv.api.text import shown
from kv.api.watching import REVISION_BYTES, SSE, framed_line, http_chunk, keys_of
from kv.errors import OverloadedError, StoppingError
from kv.leaderless.dvv import context_of
from kv.leaderless.rules import resolve
from kv.leaderless.watching import FELL_BEHIND, Tail
from kv.watch.hub import Created
from kv.watch.messages import Cancelled, CancelReason, Encode, EventBatch, Message, Progress
from kv.watch.watcher import WatchRequest
from storage.errors import CompactedError, JanusError
from storage.mvcc_records import Event
from storage.siblings import decode_set

POLL_MAX_BYTES: Final = 1024 * 1024
BUSY_S: Final = 5.0


def encoder_of(face: Face) -> Callable[[Tail], Encode]:
    return lambda tail: partial(_encode_event, face)


def _encode_event(face: Face, event: Event, with_prev: bool) -> bytes:
    """The number of its page, and its JSON."""
    record = event.kv
    siblings = decode_set(record.value)
    now_ms = face.now_ms()
    lives = hot.distinct(resolve(face.space.rule, siblings, now_ms))
    key, key_mark = shown(record.key)
    context = face.codecs.contexts.encode(face.space.number, record.key, context_of(siblings))
    line = WatchedKey("put" if lives else "delete", key, context, key_encoding=key_mark)
    if len(lives) == 1:
        (live,) = lives
        line.value, line.encoding = shown(live.value)
        line.timestamp = live.timestamp >> 16
        line.ttl_remaining = hot.ttl_left_s(live, now_ms)
    elif lives:
        line.siblings = hot.siblings_of(lives, now_ms)
    return record.mod_revision.to_bytes(REVISION_BYTES, "big") + encode(line)


class Lines:
    """A streams.Shown over one tail."""

    def __init__(self, tail: Tail) -> None:
        self._tail = tail

    def created_line(self, created: Created, wanted: WatchRequest, sse: bool) -> bytes:
        start = wanted.start_revision
        cursor = self._tail.cursor_at(start - 1 if start > 0 else created.revision)
        return _line(cursor, sse, type="created")

    def chunk_of(self, message: Message, sse: bool) -> bytes:
        return http_chunk(self.line_of(message, sse))

    def line_of(self, message: Message, sse: bool) -> bytes:
        if isinstance(message, EventBatch):
            return b"".join(
                [
                    _line(cursor, sse, type="events", events=events)
                    for cursor, events in self.pages(message)
                ]
            )
        if isinstance(message, Progress):
            cursor = self._tail.cursor_at(message.revision)
            return _line(cursor, sse, type="progress")
        text = FELL_BEHIND if message.reason is CancelReason.COMPACTED else message.message
        return _line(None, sse, type="cancelled", reason=message.reason.value, message=text)

    def pages(self, batch: EventBatch) -> list[tuple[str | None, msgspec.Raw]]:
        """(cursor, events as a JSON array). All watchers of a batch share what is made of it."""
        made = batch.made
        if not isinstance(made, list):
            groups = groupby(batch.parts, key=lambda part: part[:REVISION_BYTES])
            made = batch.made = [
                (
                    self._tail.cursor_at(int.from_bytes(number, "big")),
                    msgspec.Raw(b"[%b]" % b",".join([part[REVISION_BYTES:] for part in parts])),
                )
                for number, parts in groups
            ]
        return made


def _line(cursor: str | None, sse: bool, **fields: object) -> bytes:
    """A WatchedLine."""
    if cursor is not None:
        fields["cursor"] = cursor
    return framed_line(fields, (cursor or "") if sse else None)


async def watch(call: Call) -> Reply | web.StreamResponse:
    face, request = face_of(call), call.request
    assert face.watching is not None, "whoever serves these routes gives one"
    keys, only, seconds = keys_of(call.query), call.query["filter"], call.query["poll"]
    cursor = request.headers.get("Last-Event-ID") or call.query["from"]
    tail, start = await face.watching.begin(face.space, cursor, encoder_of(face), keys)
    wanted = WatchRequest(
        keys=keys,
        start_revision=start,
        no_put=only == "delete",
        no_delete=only == "put",
        progress=True,
    )
    if seconds is not None:
        return await _poll(tail, wanted, seconds)
    sse = SSE in request.headers.get("Accept", "").lower()
    stream = LineStream(tail.watches, request, sse=sse, shown=Lines(tail))
    made = stream.begin(wanted)
    if isinstance(made, Cancelled):
        raise _refusal(made)
    return await stream.run(made, wanted, {})


async def _poll(tail: Tail, wanted: WatchRequest, seconds: float) -> Reply:
    watches, lines, ready = tail.watches, Lines(tail), asyncio.Event()
    made = watches.create(wanted, ready.set)
    if isinstance(made, Cancelled):
        raise _refusal(made)
    start = wanted.start_revision
    following = tail.cursor_at(start - 1 if start > 0 else made.revision)
    try:
        batches: list[EventBatch] = []
        try:
            async with asyncio.timeout(seconds):
                while not batches:
                    await ready.wait()
                    ready.clear()
                    messages = watches.take(made.identity, POLL_MAX_BYTES)
                    batches = [each for each in messages if isinstance(each, EventBatch)]
                    if messages and isinstance(messages[-1], Cancelled) and not batches:
                        raise _refusal(messages[-1])
                    watches.room(made.identity)
        except TimeoutError:
            pass  # nothing has happened: an answer like any other
        if not batches:
            following = tail.cursor_at(watches.reached((made.identity,))) or following
    finally:
        watches.cancel(made.identity)
    pages = [page for batch in batches for page in lines.pages(batch)]
    for cursor, _ in pages:
        following = cursor or following
    events = [{"cursor": cursor, "events": found} for cursor, found in pages]
    return Reply(200, encode({"events": events, "next": following}), JSON)


def _refusal(cancelled: Cancelled) -> JanusError:
    if cancelled.reason is CancelReason.COMPACTED:
        return CompactedError(FELL_BEHIND, 0)
    if cancelled.reason is CancelReason.LIMIT:
        return OverloadedError(cancelled.message, BUSY_S)
    if cancelled.reason is CancelReason.CLOSED:
        return StoppingError(cancelled.message)
    return InvalidQueryError(cancelled.message)
