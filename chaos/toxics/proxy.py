"""One proxy: a listener, its connections, and the toxics between them. The asyncio shell of
toxics.py; it holds no rules of its own.

A connection is two streams. Each has a reader, which asks the toxics what becomes of what it read,
and a writer, which lets each piece leave at its moment; the queue between them is bounded, so a
slow stream pushes back on its source as a slow network does. A third task a stream ends the
connection when a toxic says so. All six live in one task group: whichever fails or ends takes the
connection with it.

When the toxics change, pieces that wait for an old toxic leave at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Iterable
from typing import Any, Final

from chaos.toxics.toxics import (
    STREAMS,
    Ending,
    Piece,
    StreamState,
    Toxic,
    close_delay_s,
    ends_at,
    removal_ends,
    shape,
)
from storage.clock import Clock, Rng
from storage.errors import InvalidRequestError

READ_BYTES: Final = 64 * 1024
QUEUED_PIECES: Final = 256
CONNECT_TIMEOUT_S: Final = 5.0
_LINGER_NONE: Final = struct.pack("ii", 1, 0)


class ConnectionEndedError(Exception):
    """A toxic ended the connection."""

    def __init__(self, ending: Ending) -> None:
        super().__init__(ending.value)
        self.ending = ending


class Stream:
    """One direction of one connection."""

    def __init__(
        self,
        proxy: Proxy,
        direction: str,
        source: asyncio.StreamReader,
        target: asyncio.StreamWriter,
    ) -> None:
        self.state = StreamState(proxy.rng)
        self._proxy = proxy
        self._direction = direction
        self._source = source
        self._target = target
        self._queue: asyncio.Queue[Piece | Ending | None] = asyncio.Queue(QUEUED_PIECES)
        self._changed = asyncio.Event()

    @property
    def toxics(self) -> tuple[Toxic, ...]:
        return self._proxy.toxics_of(self._direction)

    def toxics_changed(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def read(self) -> None:
        while data := await self._source.read(READ_BYTES):
            pieces, ending = shape(self.state, self.toxics, data, self._proxy.clock.monotonic())
            for piece in pieces:
                await self._queue.put(piece)
            if ending is not None:
                await self._queue.put(ending)
        await self._queue.put(None)

    async def write(self) -> None:
        while (item := await self._queue.get()) is not None:
            if isinstance(item, Ending):
                raise ConnectionEndedError(item)
            await self._wait_until(item.leave_at)
            self._target.write(item.data)
            await self._target.drain()
        now = self._proxy.clock.monotonic()
        await self._wait_until(now + close_delay_s(self.state, self.toxics))
        if self._target.can_write_eof():
            self._target.write_eof()

    async def watch_for_the_end(self) -> None:
        """Ends when the toxics say so; is cancelled when the connection is over."""
        while True:
            changed = self._changed
            moment = ends_at(self.state, self.toxics, self._proxy.clock.monotonic())
            if moment is None:
                await changed.wait()
                continue
            left_s = moment[0] - self._proxy.clock.monotonic()
            if left_s <= 0:
                raise ConnectionEndedError(moment[1])
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(changed.wait(), left_s)

    async def _wait_until(self, moment: float) -> None:
        left_s = moment - self._proxy.clock.monotonic()
        if left_s <= 0:
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), None if left_s == float("inf") else left_s)


class Connection:
    """Two streams and what ends them."""

    def __init__(self, proxy: Proxy, client: asyncio.StreamWriter) -> None:
        self._proxy = proxy
        self._sides = [client]
        self.streams: list[Stream] = []

    async def run(self, client_reader: asyncio.StreamReader) -> None:
        host, port = split_address(self._proxy.upstream)
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                reader, writer = await asyncio.open_connection(host, port)
        except OSError:  # TimeoutError is one
            self.end(Ending.CLOSE)
            return
        client = self._sides[0]
        self._sides.append(writer)
        self.streams = [
            Stream(self._proxy, "upstream", client_reader, writer),
            Stream(self._proxy, "downstream", reader, client),
        ]
        ending = Ending.CLOSE
        try:
            async with asyncio.TaskGroup() as group:
                watchers = [group.create_task(s.watch_for_the_end()) for s in self.streams]
                async with asyncio.TaskGroup() as pumps:
                    for stream in self.streams:
                        pumps.create_task(stream.read())
                        pumps.create_task(stream.write())
                for watcher in watchers:
                    watcher.cancel()
        except* ConnectionEndedError as ended:
            ending = _first(ended).ending
        except* OSError:
            # One side is gone, so the other goes too, as it would without a proxy.
            ending = Ending.RESET
        finally:
            self.end(ending)

    def end(self, ending: Ending) -> None:
        for writer in self._sides:
            if ending is Ending.RESET:
                plug = writer.get_extra_info("socket")
                if plug is not None and plug.fileno() >= 0:
                    plug.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NONE)
                writer.transport.abort()
            else:
                writer.close()


def _first(group: BaseExceptionGroup[ConnectionEndedError]) -> ConnectionEndedError:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            return _first(error)
        return error
    raise AssertionError("an exception group is never empty")


class Proxy:
    """Invariant: it listens exactly while it is enabled, always on the same address."""

    def __init__(self, name: str, listen: str, upstream: str, *, clock: Clock, rng: Rng) -> None:
        split_address(upstream)
        split_address(listen)
        self.name = name
        self.listen = listen
        self.upstream = upstream
        self.clock = clock
        self.rng = rng
        self.toxics: dict[str, Toxic] = {}
        self._connections: set[Connection] = set()
        self._server: asyncio.Server | None = None

    @property
    def enabled(self) -> bool:
        return self._server is not None

    def toxics_of(self, direction: str) -> tuple[Toxic, ...]:
        assert direction in STREAMS
        return tuple(toxic for toxic in self.toxics.values() if toxic.stream == direction)

    async def enable(self) -> None:
        if self._server is not None:
            return
        host, port = split_address(self.listen)
        self._server = await asyncio.start_server(self._accept, host, port)
        bound = self._server.sockets[0].getsockname()
        self.listen = f"{host}:{bound[1]}"

    async def disable(self) -> None:
        """Stop listening and drop every connection."""
        if self._server is None:
            return
        server, self._server = self._server, None
        server.close()
        for connection in list(self._connections):
            connection.end(Ending.RESET)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self.enabled:
            writer.transport.abort()
            return
        connection = Connection(self, writer)
        self._connections.add(connection)
        try:
            await connection.run(reader)
        finally:
            self._connections.discard(connection)

    def set_toxic(self, toxic: Toxic) -> None:
        self.toxics[toxic.name] = toxic
        self._toxics_changed()

    def remove_toxics(self, names: Iterable[str]) -> None:
        for name in list(names):
            toxic = self.toxics.pop(name)
            for connection in list(self._connections):
                if any(removal_ends(stream.state, toxic) for stream in connection.streams):
                    connection.end(Ending.CLOSE)
        self._toxics_changed()

    def _toxics_changed(self) -> None:
        for connection in self._connections:
            for stream in connection.streams:
                stream.toxics_changed()

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "listen": self.listen,
            "upstream": self.upstream,
            "enabled": self.enabled,
            "toxics": [toxic.as_json() for toxic in self.toxics.values()],
        }


def split_address(address: str) -> tuple[str, int]:
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 65535:
        raise InvalidRequestError(f"{address!r} is not an address; write host:port")
    return host.strip("[]") or "127.0.0.1", int(port)
