"""A connection that aiohttp serves: handed over by the lane, still counted and swept by it.

aiohttp closes idle connections itself, but has no limit for a request's head or body. So the
protocol of the transport is this one, which passes everything on and sees when a request began to
come. A request whose answer has begun may go on for as long as it likes: watches and keep-alives
send and receive at the same time.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kv.lane.lane import Lane


class Handed(asyncio.Protocol):
    __slots__ = ("_body_of", "_handler", "_head_since", "_since", "lane", "transport")

    def __init__(self, lane: Lane, transport: asyncio.Transport, handler: Any) -> None:
        """`handler`: aiohttp's RequestHandler, new."""
        self.lane = lane
        self.transport: asyncio.Transport | None = transport
        self._handler = handler
        self._head_since = -1
        self._body_of: Any = None
        """The request whose body was not complete at the last sweep."""
        self._since = 0

    def begin(self, data: bytes, *, paused: bool) -> None:
        assert self.transport is not None
        self.transport.set_protocol(self)
        self._handler.connection_made(self.transport)
        if paused:
            self._handler.pause_writing()
        if data:
            self.data_received(data)

    # --- asyncio.Protocol ---------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        handler = self._handler
        handler.data_received(data)
        if handler._messages or handler._current_request is not None:
            self._head_since = -1
        elif self._head_since < 0:
            self._head_since = self.lane.tick

    def eof_received(self) -> bool | None:
        self._handler.eof_received()
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self._handler.connection_lost(exc)
        self.lane.lost(self)

    def pause_writing(self) -> None:
        self._handler.pause_writing()

    def resume_writing(self) -> None:
        self._handler.resume_writing()

    # --- by the lane ----------------------------------------------------------------------------

    def sweep(self, tick: int) -> None:
        transport, limits = self.transport, self.lane.ticks
        if transport is None:
            return
        request = self._handler._current_request
        if request is None:
            self._body_of = None
            if 0 <= self._head_since < tick - limits.head:
                transport.close()
        elif request.content.is_eof() or request.writer.output_size:
            self._body_of = None
        elif request is not self._body_of:
            self._body_of, self._since = request, tick
        elif tick - self._since > limits.body:
            transport.abort()
