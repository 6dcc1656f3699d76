"""Requests over aiohttp: the only file of this package that knows it.

Two pools of connections: one for calls that are answered soon, bounded for each endpoint, and one
without bound for those that stay (watches, waiting for locks), which would starve the first.

What can go wrong without a reply is one of two things, and the difference is the whole point:

    NotSentError    nothing was written (refused, no name, no connection in time): no server saw it
    LostError       everything else: a server may have seen it

aiohttp repeats a PUT or DELETE by itself when a kept connection turns out to be closed. Then a
refused second connection would look as if nothing had been sent, so `_told` stops it: whether to
repeat is decided in one place only (retries.py).
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import aiohttp
from yarl import URL

from kv.client.replies import Reply
from storage.errors import JanusError, Outcome

CONNECT_S: Final = 2.0
LEAST_SHARE: Final = 0.2
"""Of a try's time, for the exchange itself, when it had to wait for a connection."""
LEAST_S: Final = 0.001
POOL: Final = 64
KEPT_S: Final = 30.0
"""An idle connection is closed before the server would: a request never meets a closed one."""
PROBE_AFTER_S: Final = 15
PROBE_EVERY_S: Final = 5
PROBES: Final = 3
CHUNK_BYTES: Final = 256 * 1024

ReadChunk = Callable[[], Awaitable[bytes]]


class NotSentError(JanusError):
    code = "not_sent"
    retryable = True


class BusyError(NotSentError):
    """All connections to this endpoint were in use; nothing is wrong with it."""

    code = "busy"


class LostError(JanusError):
    code = "lost"
    outcome = Outcome.UNKNOWN


class Transport:
    def __init__(
        self,
        *,
        tls: ssl.SSLContext | None = None,
        connect_s: float = CONNECT_S,
        pool: int = POOL,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._tls = tls
        self._connect_s = connect_s
        self._pool = pool
        self._headers = dict(headers or {})
        self._free: dict[str, asyncio.Semaphore] = {}
        self._short: aiohttp.ClientSession | None = None
        self._long: aiohttp.ClientSession | None = None

    async def send(
        self,
        url: str,
        method: str,
        headers: Mapping[str, str],
        body: bytes,
        time_s: float,
        *,
        stays: bool = False,
    ) -> Reply:
        """Raises NotSentError, LostError."""
        if stays:
            return await self._exchange(url, method, headers, body, time_s, True)
        wanted = URL(url, encoded=True)
        free = self._free.setdefault(f"{wanted.host}:{wanted.port}", asyncio.Semaphore(self._pool))
        loop = asyncio.get_running_loop()
        until = loop.time() + time_s
        try:
            async with asyncio.timeout_at(until - LEAST_SHARE * time_s):
                await free.acquire()
        except TimeoutError as error:
            raise BusyError(
                f"all {self._pool} connections were in use for {time_s:.3g} s; fewer calls at once "
                "may help"
            ) from error
        try:
            left_s = max(LEAST_S, until - loop.time())
            return await self._exchange(url, method, headers, body, left_s, False)
        finally:
            free.release()

    async def _exchange(
        self,
        url: str,
        method: str,
        headers: Mapping[str, str],
        body: bytes,
        time_s: float,
        stays: bool,
    ) -> Reply:
        session = self._session(stays)
        timeout = aiohttp.ClientTimeout(total=time_s, connect=min(self._connect_s, time_s))
        mark = _Mark()
        try:
            async with session.request(
                method,
                URL(url, encoded=True),
                data=body or None,
                headers=headers,
                timeout=timeout,
                allow_redirects=False,
                trace_request_ctx=mark,
            ) as response:
                return Reply(response.status, response.headers, await response.read())
        except (aiohttp.ClientError, OSError) as error:  # also TimeoutError
            raise _failure(error, mark, time_s) from error

    @asynccontextmanager
    async def stream(
        self, url: str, headers: Mapping[str, str], time_s: float
    ) -> AsyncIterator[tuple[Reply, ReadChunk]]:
        """A reply whose body comes bit by bit (b"" at its end; a wait may be cancelled and begun
        again); a refusal comes whole. `time_s`: until its head. Raises NotSentError, LostError,
        also out of the block."""
        timeout = aiohttp.ClientTimeout(total=None, connect=min(self._connect_s, time_s))
        mark = _Mark()
        try:
            async with asyncio.timeout(time_s):
                response = await self._session(True).get(
                    URL(url, encoded=True),
                    headers=headers,
                    timeout=timeout,
                    allow_redirects=False,
                    trace_request_ctx=mark,
                )
        except (aiohttp.ClientError, OSError) as error:  # also TimeoutError
            raise _failure(error, mark, time_s) from error
        try:
            whole = b"" if response.status == 200 else await response.read()
            yield Reply(response.status, response.headers, whole), response.content.readany
        except (aiohttp.ClientError, OSError) as error:
            raise LostError(_why(error)) from error
        finally:
            response.close()

    async def close(self) -> None:
        sessions, self._short, self._long = (self._short, self._long), None, None
        for session in sessions:
            if session is not None:
                await session.close()

    def _session(self, stays: bool) -> aiohttp.ClientSession:
        found = self._long if stays else self._short
        if found is None:
            found = self._open()
            if stays:
                self._long = found
            else:
                self._short = found
        return found

    def _open(self) -> aiohttp.ClientSession:
        options: dict[str, Any] = {} if self._tls is None else {"ssl": self._tls}
        connector = aiohttp.TCPConnector(
            limit=0,
            keepalive_timeout=KEPT_S,
            socket_factory=_probed_socket,
            **options,
        )
        tracing = aiohttp.TraceConfig()
        tracing.on_request_headers_sent.append(_sending)
        return aiohttp.ClientSession(
            connector=connector,
            trace_configs=[tracing],
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=self._headers,
            middlewares=(_told,),
            read_bufsize=CHUNK_BYTES,
        )


class _Mark:
    """Of one request: its first byte is about to go out, or has."""

    __slots__ = ("sent",)

    def __init__(self) -> None:
        self.sent = False


async def _sending(session: aiohttp.ClientSession, context: Any, facts: Any) -> None:
    """aiohttp calls this before it writes."""
    context.trace_request_ctx.sent = True


def _failure(error: Exception, mark: _Mark, time_s: float) -> NotSentError | LostError:
    if not mark.sent:
        return NotSentError(_why(error))
    if isinstance(error, TimeoutError):
        return LostError(f"no answer within {time_s:.3g} s")
    return LostError(_why(error))


async def _told(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """A lost connection is told to the caller, never repeated unseen."""
    try:
        return await handler(request)
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise LostError(_why(error)) from error


def _probed_socket(address: aiohttp.AddrInfoType) -> socket.socket:
    """The kernel finds out that a machine is gone, also while nothing is to be said."""
    family, kind, protocol, _, _ = address
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", PROBE_AFTER_S),
        ("TCP_KEEPINTVL", PROBE_EVERY_S),
        ("TCP_KEEPCNT", PROBES),
    ):
        option = getattr(socket, name, None)
        if option is not None:
            made.setsockopt(socket.IPPROTO_TCP, option, value)
    return made


def _why(error: BaseException) -> str:
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "the connection was closed before an answer came"
    if isinstance(error, TimeoutError):
        return "no connection in time"
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return f"its certificate is not trusted ({error.certificate_error})"
    if isinstance(error, aiohttp.ClientConnectorError):
        number = error.os_error.errno
        reason = os.strerror(number) if number is not None and number > 0 else str(error.os_error)
        return f"no connection ({reason})"
    return str(error) or type(error).__name__
