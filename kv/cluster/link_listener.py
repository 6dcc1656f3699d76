"""The open door of a peer link: who dialed us and is not authenticated yet.

Strangers are bounded in number: when there are too many the one that has waited longest goes, so
that a crowd of half-open handshakes keeps no real peer out. In time: the connection's own deadline
runs from the moment it was accepted, TLS included. In bytes: the decoder's small buffer; nothing is
read before TLS begins.

TLS is put on top of the accepted connection here, rather than by the event loop's listener, because
connections that the loop itself holds in their TLS handshake could be neither counted nor ended.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable

from kv.cluster.link_config import Address, LinkConfig
from kv.cluster.link_connection import Connection, State
from kv.cluster.link_tls import LinkTls
from kv.cluster.said_once import SaidOnce
from kv.cluster.tasks import TaskOwner


class Listener:
    def __init__(
        self,
        config: LinkConfig,
        tls: LinkTls | None,
        accept: Callable[[], Connection],
        *,
        loop: asyncio.AbstractEventLoop,
        tasks: TaskOwner,
        said: SaidOnce,
    ) -> None:
        self._config = config
        self._tls = tls
        self._accept = accept
        self._loop = loop
        self._tasks = tasks
        self._said = said
        self._server: asyncio.Server | None = None
        self._strangers: dict[int, Connection] = {}
        """By key, the oldest first."""

    async def start(self) -> Address:
        self._server = await self._loop.create_server(self._accept, *self._config.listen)
        address = self.address
        assert address is not None
        return address

    @property
    def address(self) -> Address | None:
        if self._server is None or not self._server.sockets:
            return None
        host, port = self._server.sockets[0].getsockname()[:2]
        return host, port

    @property
    def strangers(self) -> int:
        return len(self._strangers)

    def close(self) -> None:
        if self._server is not None:
            self._server.close()

    async def closed(self) -> None:
        """Once every connection is gone: wait until the door is really shut."""
        if self._server is not None:
            await self._server.wait_closed()
            self._server = None

    def connected(self, connection: Connection, connections: int) -> None:
        """Somebody is at the door; there are so many connections, this one included."""
        config = self._config
        if self._server is None or connections > config.max_connections:
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
        if self._tls is None:
            connection.begin()
            return
        connection.transport.pause_reading()
        self._tasks.spawn(self._secure(connection, self._tls.server), f"tls {connection.remote}")

    def forget(self, connection: Connection) -> None:
        """It is authenticated, or gone."""
        self._strangers.pop(connection.key, None)

    def _turn_away(self, connection: Connection, reason: str, sentence: str) -> None:
        self._said.warn("listener", reason, f"{connection.remote} {sentence}")
        self._strangers.pop(connection.key, None)
        connection.abort()

    async def _secure(self, connection: Connection, context: ssl.SSLContext) -> None:
        error: OSError | None = None
        transport = None
        try:
            transport = await self._loop.start_tls(
                connection.transport,
                connection,
                context,
                server_side=True,
                ssl_handshake_timeout=self._config.handshake_timeout_s,
            )
        except OSError as failure:  # ssl.SSLError and timeouts are OSErrors too
            error = failure
            self._said.warn(
                connection.host,
                "tls",
                f"the TLS handshake with {connection.remote} failed ({error}); a peer must speak "
                "TLS and show a certificate of the cluster's authority",
            )
        if transport is None:
            connection.abort()
            connection.connection_lost(error)
        elif connection.state is State.OVER:
            transport.abort()
        else:
            connection.secured(transport)
            connection.begin()
