"""/v3/watch: one HTTP response that carries the messages of any number of watchers.

    body, object by object ──► requests ──┐
    hub: wake(identity)    ──► ready   ───┼──► one loop writes, one message a chunk
    client hung up         ──► gone    ───┘
                      └─ the loop rests: take, write, room within the wake

Only that loop writes and changes the stream's watchers, so answers come in the order of requests,
and what a watcher was given before its cancellation goes out before it. While it rests, which is
nearly always, a wake does the same without it, because a task's turn costs more than a delivery;
if the client then does not keep up, the loop is woken, waits for it, and calls `room`. `room` is
called when what was taken is out, which is what makes a slow client a victim of its own. What most
watchers of a batch get is framed once for all of them (`EventBatch.made`).

The head waits for the first request: if that cannot be read, the answer is an error; what cannot be
read later ends the reading, not the stream. It ends when the client hangs up or the node closes
the watches.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from typing import Final

from aiohttp import web

from kv.etcd.answers import Headers, quoted
from kv.etcd.context import GatewayLimits
from kv.etcd.http import HUNG_UP, Heads, Lines, chunk, read_messages, unreadable
from kv.etcd.presence import Caller, Presence
from kv.etcd.protojson import (
    MalformedBodyError,
    Message,
    Schema,
    binary,
    boolean,
    decode,
    enum,
    int64,
    message,
    repeated,
    union,
)
from kv.regime import Strong
from kv.watch.index import KeyRange, key_range, one_key
from kv.watch.messages import Cancelled, CancelReason, EventBatch, Progress
from kv.watch.messages import Message as HubMessage
from kv.watch.watcher import WatchRequest
from kv.watch.watches import Watches
from raftgroups.commands import TO_THE_END

NO_PUT: Final = 0
NO_DELETE: Final = 1
NO_WATCH: Final = -1
TAKEN_BYTES: Final = 256 * 1024
"""Raw, before the loop waits for the client to take it."""

_CREATE: Final[Schema] = {
    "key": binary,
    "range_end": binary,
    "start_revision": int64,
    "progress_notify": boolean,
    "filters": repeated(enum(NOPUT=NO_PUT, NODELETE=NO_DELETE), NO_PUT),
    "prev_kv": boolean,
    "watch_id": int64,
    "fragment": boolean,
}
WATCH: Final[Schema] = {
    "create_request": message(_CREATE),
    "cancel_request": message({"watch_id": int64}),
    "progress_request": message({}),
}
_kind: Final = union(*WATCH)


def watched_keys(key: bytes, range_end: bytes) -> KeyRange:
    """An empty key is the first possible one, as in etcd."""
    key = key or b"\x00"
    if not range_end:
        return one_key(key)
    return key_range(key, None if range_end == TO_THE_END else range_end)


def watch_request(given: Message) -> WatchRequest:
    filters = given.get("filters", ())
    return WatchRequest(
        watched_keys(given.get("key", b""), given.get("range_end", b"")),
        start_revision=given.get("start_revision", 0),
        no_put=NO_PUT in filters,
        no_delete=NO_DELETE in filters,
        prev_kv=given.get("prev_kv", False),
        progress=given.get("progress_notify", False),
        fragment=given.get("fragment", False),
    )


class WatchCalls:
    def __init__(
        self,
        strong: Strong,
        watches: Watches,
        headers: Headers,
        heads: Heads,
        presence: Presence,
        limits: GatewayLimits,
    ) -> None:
        self.strong: Final = strong
        self.watches: Final = watches
        self.headers: Final = headers
        self.heads: Final = heads
        self.limits: Final = limits
        self._presence: Final = presence

    async def watch(self, request: web.BaseRequest) -> web.StreamResponse:
        with self._presence.of(request) as caller:
            return await _Stream(self, caller).run()

    def line(self, revision: int, watch_id: int, fields: bytes) -> bytes:
        """One message."""
        opening = self.headers.opening(revision, self.strong.term)
        shown_id = b',"watch_id":"%d"' % watch_id if watch_id else b""
        return b'{"result":%b%b%b}}\n' % (opening, shown_id, fields)


class _Made:
    """What a batch is for the watchers of all streams."""

    __slots__ = ("chunk", "events", "line")

    def __init__(self, batch: EventBatch, calls: WatchCalls) -> None:
        more = b',"fragment":true' if batch.more else b""
        self.events: Final = b'%b,"events":[%b]' % (more, b",".join(batch.parts))
        """Without the head, which depends on the watch."""
        self.line: Final = calls.line(batch.revision, 0, self.events)
        """For watch 0, the only one of most streams,"""
        self.chunk: Final = chunk(self.line)
        """framed."""


class _Wake:
    """Tells a stream that a watcher has something for it."""

    __slots__ = ("_stream", "identity")

    def __init__(self, stream: _Stream) -> None:
        self._stream: Final = stream
        self.identity = 0

    def __call__(self) -> None:
        self._stream.wake(self.identity)


class _Stream:
    def __init__(self, calls: WatchCalls, caller: Caller) -> None:
        self._calls: Final = calls
        self._caller: Final = caller
        self._awake: Final = asyncio.Event()
        caller.notify = self._rouse
        self._resting = False
        """The loop waits, and everything before is out: a wake may write."""
        self._owed = 0
        """The identity whose messages a wake wrote and which had no `room` for them, if any."""
        self._requests: deque[Message] = deque()
        self._refused: MalformedBodyError | None = None
        """Why nothing more is read."""
        self._reading = True
        self._identities: dict[int, int] = {}
        """Watch id -> the hub's identity."""
        self._ids: dict[int, int] = {}
        self._next_id = 0
        self._ready: dict[int, None] = {}
        """Identities with something to take."""
        self._closed = False
        """The node has ended its watches."""
        self._response: web.StreamResponse | None = None
        self._lines: Lines | None = None
        """Once there is a response."""

    async def run(self) -> web.StreamResponse:
        async with asyncio.TaskGroup() as group:
            reader = group.create_task(self._read())
            try:
                with suppress(*HUNG_UP):  # nobody is left to tell
                    await self._serve()
            finally:
                reader.cancel()
                for identity in self._identities.values():
                    self._calls.watches.cancel(identity)
        return await self._end()

    async def _end(self) -> web.StreamResponse:
        if self._response is None:
            if self._refused is not None:
                return self._calls.heads.error(unreadable(self._refused))
            self._response = self._calls.heads.stream(self._caller.request, has_messages=False)
            await self._response.prepare(self._caller.request)
        if not self._caller.is_gone:
            with suppress(*HUNG_UP):  # it may have gone meanwhile
                await self._response.write_eof()
        return self._response

    # --- the body ---

    async def _read(self) -> None:
        limit = self._calls.limits.stream_message_bytes
        try:
            async for document in read_messages(self._caller.request, limit):
                self._requests.append(decode(WATCH, document))
                self._rouse()
        except MalformedBodyError as error:
            self._refused = error
        except HUNG_UP:
            self._caller.is_gone = True
        finally:
            self._reading = False
            self._rouse()

    # --- the loop ---

    async def _serve(self) -> None:
        while not self._caller.is_gone:
            self._awake.clear()
            if self._owed:
                await self._settle()
            while self._requests:
                await self._answer(self._requests.popleft())
            await self._deliver()
            await self._flush()
            if self._closed or (not self._reading and self._response is None):
                return
            if not self._requests and not self._ready:
                self._resting = self._lines is not None
                await self._awake.wait()
                self._resting = False

    def _rouse(self) -> None:
        self._resting = False
        self._awake.set()

    def wake(self, identity: int) -> None:
        """There is something to take."""
        if not self._resting:
            self._ready[identity] = None
            self._awake.set()
            return
        lines, watches = self._lines, self._calls.watches
        assert lines is not None
        while messages := watches.take(identity, TAKEN_BYTES):
            for each in messages:
                self._tell(identity, each)
            if not lines.write():
                self._owed = identity
                self._rouse()
                return
            watches.room(identity)
        if self._closed:
            self._rouse()

    async def _answer(self, given: Message) -> None:
        if self._response is None:
            self._response = self._calls.heads.stream(self._caller.request)
            await self._response.prepare(self._caller.request)
            self._lines = Lines(self._caller.request)
        kind = _kind(given)
        if kind == "create_request":
            self._create(given[kind])
        elif kind == "cancel_request":
            self._cancel(given[kind].get("watch_id", 0))
        elif kind == "progress_request":
            await self._deliver()
            reached = self._calls.watches.reached(self._identities.values())
            self._send(reached, NO_WATCH, b"")

    def _create(self, given: Message) -> None:
        watches = self._calls.watches
        watch_id = given.get("watch_id", 0)
        if watch_id in self._identities and watch_id:
            self._refuse("mvcc: duplicate watch ID provided on the WatchStream")
            return
        if len(self._identities) >= self._calls.limits.watches_a_stream:
            self._refuse(
                f"this stream has {len(self._identities)} watches, which is the limit; open another"
            )
            return
        wake = _Wake(self)
        made = watches.create(watch_request(given), wake)
        if isinstance(made, Cancelled):
            empty = made.reason is CancelReason.INVALID
            self._refuse("mvcc: watcher range is empty" if empty else made.message)
            return
        if not watch_id:
            while self._next_id in self._identities:
                self._next_id += 1
            watch_id, self._next_id = self._next_id, self._next_id + 1
        wake.identity = self._identities[watch_id] = made.identity
        self._ids[made.identity] = watch_id
        self._ready[made.identity] = None
        self._send(made.revision, watch_id, b',"created":true')

    def _refuse(self, reason: str) -> None:
        """There will be no such watcher."""
        fields = b',"created":true,"canceled":true,"cancel_reason":%b' % quoted(reason)
        self._send(self._calls.watches.revision, NO_WATCH, fields)

    def _cancel(self, watch_id: int) -> None:
        identity = self._identities.get(watch_id)
        if identity is None:
            return
        self._calls.watches.cancel(identity)
        self._forget(identity)
        self._send(self._calls.watches.revision, watch_id, b',"canceled":true')

    def _forget(self, identity: int) -> None:
        del self._identities[self._ids.pop(identity)]
        self._ready.pop(identity, None)

    async def _settle(self) -> None:
        """Go on with what a wake began."""
        await self._flush()
        self._calls.watches.room(self._owed)
        self._ready[self._owed] = None
        self._owed = 0

    async def _deliver(self) -> None:
        watches = self._calls.watches
        while self._ready:
            identity = next(iter(self._ready))
            del self._ready[identity]
            while messages := watches.take(identity, TAKEN_BYTES):
                for each in messages:
                    self._tell(identity, each)
                await self._flush()
                watches.room(identity)

    async def _flush(self) -> None:
        if self._lines is not None:
            await self._lines.flush()

    def _tell(self, identity: int, told: HubMessage) -> None:
        watch_id = self._ids[identity]
        if isinstance(told, EventBatch):
            made = told.made
            if not isinstance(made, _Made):
                made = told.made = _Made(told, self._calls)
            if watch_id:
                self._send(told.revision, watch_id, made.events)
            else:
                assert self._lines is not None
                self._lines.add_framed(made.chunk if self._lines.is_chunked else made.line)
        elif isinstance(told, Progress):
            self._send(told.revision, watch_id, b"")
        else:
            self._forget(identity)
            self._send_cancelled(watch_id, told)

    def _send_cancelled(self, watch_id: int, told: Cancelled) -> None:
        if told.reason is CancelReason.COMPACTED:
            fields = b',"canceled":true,"compact_revision":"%d"' % told.compact_revision
            self._send(0, watch_id, fields)
            return
        fields = b',"canceled":true,"cancel_reason":%b' % quoted(told.message)
        self._send(self._calls.watches.revision, watch_id, fields)
        self._closed = self._closed or told.reason is CancelReason.CLOSED

    def _send(self, revision: int, watch_id: int, fields: bytes) -> None:
        """One message, in a chunk of its own."""
        assert self._lines is not None
        self._lines.add(self._calls.line(revision, watch_id, fields))
