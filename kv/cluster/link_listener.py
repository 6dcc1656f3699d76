"""The open door of a peer link: who dialed us and is not authenticated yet.

Strangers are bounded in number: when there are too many the one that has waited longest goes, so
that a crowd of half-open handshakes keeps no real peer out. In time: the connection's own deadline
runs from the moment it was accepted, TLS included. In bytes: the small buffers that decoder and TLS
begin with.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from kv.cluster.link_config import Address, LinkConfig
from kv.cluster.link_connection import Connection
from kv.cluster.said_once import SaidOnce


class Listener:
    def __init__(
        self,
        config: LinkConfig,
        accept: Callable[[], Connection],
        *,
        loop: asyncio.AbstractEventLoop,
        said: SaidOnce,
    ) -> None:
        self._config = config
        self._accept = accept
        self._loop = loop
        self._said = said
        self._server: asyncio.Server | None = None
        self._shut = False
        self._strangers: dict[int, Connection] = {}
        """By key, the oldest first."""

    async def start(self) -> Address:
        self._server = await self._loop.create_server(self._accept, *self._config.listen)
        address = self.address
        assert address is not None
        return address

    @property
    def address(self) -> Address | None:
        if self._server is None or self._shut or not self._server.sockets:
            return None
        host, port = self._server.sockets[0].getsockname()[:2]
        return host, port

    @property
    def strangers(self) -> int:
        return len(self._strangers)

    def close(self) -> None:
        """From now on nobody is let in: who was just accepted is turned away, and nobody else is
        accepted. (A loop that does not do this by itself, asyncio's, forgets whom it accepted in
        the moment in which the socket is closed, and leaves that connection open.)"""
        self._shut = True
        if self._server is not None:
            for door in self._server.sockets:
                self._loop.remove_reader(door.fileno())

    async def closed(self) -> None:
        """Once every connection is gone, those too that were just coming in: stop listening."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
            await server.wait_closed()

    def connected(self, connection: Connection, connections: int) -> None:
        """Somebody is at the door; there are so many connections, this one included."""
        config = self._config
        if self._shut:
            connection.abort()
            return
        if connections > config.max_connections:
            self._turn_away(
                connection,
                "too_many_connections",
                f"was turned away: there are {config.max_connections} connections already",
            )
            return
        if len(self._strangers) >= config.max_strangers:
            self._turn_away(
                next(iter(self._strangers.values())),
                "too_many_strangers",
                f"was turned away before it said who it is: {config.max_strangers} others wait too",
            )
        self._strangers[connection.key] = connection
        connection.begin()

    def forget(self, connection: Connection) -> None:
        """It is authenticated, or gone."""
        self._strangers.pop(connection.key, None)

    def _turn_away(self, connection: Connection, reason: str, sentence: str) -> None:
        self._said.warn("listener", reason, f"{connection.remote} {sentence}")
        self._strangers.pop(connection.key, None)
        connection.abort()
