"""Watch streams: from a hub to a connection, without a task's turn for each message.

The hub's `wake` writes straight to the transport: what a delivery costs is one send, since a batch
is made a chunk once for all its watchers. Only a connection that does not keep up needs its
handler: the transport's buffer is over STUCK_BYTES, the hub hears nothing (`room` is not called),
and the handler waits until the buffer has drained.

    wake --> take --> transport.write --> room          while the client keeps up
                          | buffer full
                          v
                handler: drain --> room --> take ...    the hub holds the rest back, or catches up

The handler ends when the watch was cancelled, when the client is gone (the composition root lets
aiohttp cancel the handler then), or when the node stops.
"""

from __future__ import annotations

import asyncio
from typing import Final, Generic, Protocol, TypeVar

from aiohttp import web
from aiohttp.http import HttpVersion11

from kv.api.watching import NDJSON, SSE, chunk_of, created_line, line_of
from kv.watch.hub import Created
from kv.watch.messages import Cancelled
from kv.watch.shard_watches import Wake
from kv.watch.watcher import WatchRequest

STUCK_BYTES: Final = 64 * 1024
TAKE_BYTES: Final = 256 * 1024


M = TypeVar("M")
"""What a watcher is given; a Cancelled is the last of it."""
M_in = TypeVar("M_in", contravariant=True)


class Source(Protocol[M]):
    """As much of Watches as is used here."""

    def create(self, request: WatchRequest, wake: Wake) -> Created | Cancelled: ...

    def cancel(self, identity: int) -> bool: ...

    def take(self, identity: int, max_bytes: int = 0) -> list[M]: ...

    def room(self, identity: int) -> None: ...


class Shown(Protocol[M_in]):
    """How a regime shows what happens in a watch."""

    def created_line(self, created: Created, wanted: WatchRequest, sse: bool) -> bytes: ...

    def chunk_of(self, message: M_in, sse: bool) -> bytes: ...

    def line_of(self, message: M_in, sse: bool) -> bytes: ...


class Revisions:
    """By revision: the strong regime's."""

    chunk_of = staticmethod(chunk_of)
    line_of = staticmethod(line_of)

    @staticmethod
    def created_line(created: Created, wanted: WatchRequest, sse: bool) -> bytes:
        told = wanted.start_revision - 1 if wanted.start_revision > 0 else created.revision
        return created_line(created.revision, told, sse)


class LineStream(Generic[M]):
    """One watcher on one connection. `run` is called once."""

    def __init__(
        self, watches: Source[M], request: web.Request, *, sse: bool, shown: Shown[M]
    ) -> None:
        self._watches = watches
        self._request = request
        self._sse = sse
        self._forms = shown
        chunked = request.version >= HttpVersion11
        self._shown = self._forms.chunk_of if chunked else self._forms.line_of
        self._transport = request.transport
        self._identity = -1
        self._stuck = True
        """Nothing may be written now; the handler goes on when it can."""
        self._ended = False
        self._look = asyncio.Event()
        """The handler has something to do."""

    def begin(self, wanted: WatchRequest) -> Created | Cancelled:
        made = self._watches.create(wanted, self._wake)
        if isinstance(made, Created):
            self._identity = made.identity
        return made

    async def run(
        self, created: Created, wanted: WatchRequest, headers: dict[str, str]
    ) -> web.StreamResponse:
        """Serve until it ends."""
        response = web.StreamResponse(
            headers={
                **headers,
                "Content-Type": SSE if self._sse else NDJSON,
                "Cache-Control": "no-store",
                "X-Accel-Buffering": "no",
            }
        )
        try:
            writer = await response.prepare(self._request)
            assert writer is not None
            await response.write(self._forms.created_line(created, wanted, self._sse))
            self._stuck = False
            self._pump()
            while not self._ended:
                await self._look.wait()
                self._look.clear()
                if self._stuck and not self._ended:
                    await writer.drain()
                    self._watches.room(self._identity)
                    self._stuck = False
                    self._pump()
            await response.write_eof()
        except ConnectionError:
            pass  # the client went away; there is nobody left to tell
        finally:
            self._ended = True
            self._watches.cancel(self._identity)
        return response

    def _wake(self) -> None:
        if not (self._stuck or self._ended):
            self._pump()

    def _pump(self) -> None:
        """Write what there is, as long as the connection takes it."""
        transport = self._transport
        while messages := self._watches.take(self._identity, TAKE_BYTES):
            if transport is None or transport.is_closing():
                self._end()
                return
            if len(messages) == 1:
                transport.write(self._shown(messages[0], self._sse))
            else:
                transport.write(b"".join([self._shown(each, self._sse) for each in messages]))
            if isinstance(messages[-1], Cancelled):
                self._end()
                return
            if transport.get_write_buffer_size() > STUCK_BYTES:
                self._stuck = True
                self._look.set()
                return
            self._watches.room(self._identity)

    def _end(self) -> None:
        self._ended = True
        self._look.set()
