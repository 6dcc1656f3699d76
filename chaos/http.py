"""A small HTTP/1.1 client that knows what it did not send.

Workloads need the one thing that general clients hide: whether a request can have reached the
server. One that retries by itself turns one write into two; one that has one exception for
everything turns `surely not done` into `unknown`. So:

    NotSentError    no connection could be made: surely not done
    LostError       the request was (partly) written and no whole answer came: unknown

One request at a time on one connection. After an error the connection is closed and the next call
makes a new one. Bodies come with a length or in chunks; `stream` gives the lines of an answer that
does not end.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

LINE_MAX: Final = 4 * 1024 * 1024
CONNECT_S: Final = 2.0
NO_HEADERS: Final[Mapping[str, str]] = {}


class NotSentError(ConnectionError):
    """Nobody can have read the request."""


class LostError(ConnectionError):
    """It may have been read."""


class NoStreamError(LostError):
    """It was answered, but not with a stream."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(f"no stream: {status} {body.decode(errors='replace')[:300]}")
        self.status, self.body = status, body


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class HttpClient:
    """A connection to one node, made when it is needed."""

    def __init__(self, host: str, port: int) -> None:
        self.host, self.port = host, port
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None

    async def call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        headers: Mapping[str, str] = NO_HEADERS,
        timeout_s: float = 10.0,
    ) -> Answer:
        """`body`: bytes as they are, anything else as JSON. Raises NotSentError, LostError."""
        await self._connect()
        assert self._reader is not None
        try:
            async with asyncio.timeout(timeout_s):
                self._send(method, path, body, headers)
                answer = await _read_answer(self._reader, method)
        except (OSError, EOFError, TimeoutError, ValueError) as error:
            self.close()
            raise LostError(f"{type(error).__name__} {error}") from error
        except BaseException:  # cancelled: an answer may still come on this connection
            self.close()
            raise
        if answer.headers.get("connection", "").lower() == "close":
            self.close()
        return answer

    async def _connect(self) -> None:
        if self._reader is not None and self._reader.at_eof():
            self.close()  # the server has hung up while nothing was under way
        if self._writer is not None:
            return
        try:
            async with asyncio.timeout(CONNECT_S):
                self._reader, self._writer = await asyncio.open_connection(
                    self.host, self.port, limit=LINE_MAX
                )
        except (OSError, TimeoutError) as error:
            raise NotSentError(f"{type(error).__name__} {error}") from error

    def _send(self, method: str, path: str, body: object, headers: Mapping[str, str]) -> None:
        assert self._writer is not None
        if body is None:
            payload = b""
        else:
            payload = body if isinstance(body, bytes) else json.dumps(body).encode()
        lines = [f"{method} {path} HTTP/1.1", f"Host: {self.host}:{self.port}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        if body is not None:
            lines.append("Content-Type: application/json")
        lines.append(f"Content-Length: {len(payload)}")
        self._writer.write("\r\n".join([*lines, "", ""]).encode() + payload)

    @asynccontextmanager
    async def stream(
        self, method: str, path: str, body: object = None, *, headers: Mapping[str, str]
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """The lines of a chunked answer of status 200. Iterating raises LostError when the
        connection breaks, and ends where the answer ends. Anything else is a LostError, too."""
        await self._connect()
        assert self._reader is not None
        try:
            try:
                self._send(method, path, body, headers)
                status, found = await _read_head(self._reader)
                chunked = "chunked" in found.get("transfer-encoding", "")
                if status != 200 or not chunked:
                    text = await _read_body(self._reader, status, method, found)
                    raise NoStreamError(status, text)
            except NoStreamError:  # which is an OSError itself
                raise
            except (OSError, EOFError, ValueError) as error:
                raise LostError(f"{type(error).__name__} {error}") from error
            yield _lines(self._reader)
        finally:
            self.close()


async def _read_answer(reader: asyncio.StreamReader, method: str) -> Answer:
    status, headers = await _read_head(reader)
    return Answer(status, headers, await _read_body(reader, status, method, headers))


async def _read_head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers: dict[str, str] = {}
    for line in head[1:-2]:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    return int(head[0].split(" ", 2)[1]), headers


async def _read_body(
    reader: asyncio.StreamReader, status: int, method: str, headers: Mapping[str, str]
) -> bytes:
    if method == "HEAD" or status in (204, 304):
        return b""
    if "chunked" in headers.get("transfer-encoding", ""):
        return b"".join([chunk async for chunk in _chunks(reader)])
    return await reader.readexactly(int(headers.get("content-length", "0")))


async def _chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while True:
        size = int((await reader.readuntil(b"\r\n")).split(b";")[0], 16)
        chunk = (await reader.readexactly(size + 2))[:-2]
        if not size:
            return
        yield chunk


async def _lines(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    rest = b""
    try:
        async for chunk in _chunks(reader):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                yield line
    except (OSError, EOFError, ValueError) as error:
        raise LostError(f"{type(error).__name__} {error}") from error
