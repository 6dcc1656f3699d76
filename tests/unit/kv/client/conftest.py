"""A client against the REST face over one machine in memory, and a server that misbehaves."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import AsyncIterator
from typing import Any

import pytest

from kv.client import Client


@pytest.fixture
async def client(rest: Any) -> AsyncIterator[Client]:
    async with Client(f"127.0.0.1:{rest.port}", timeout_s=5) as made:
        yield made


class Faulty:
    """A server in front of the face that does what `plan` says, a word a request:

    pass    what the face answers          refuse  a 503 that says that nothing was done
    eat     the request is never handed on, the connection closed
    lose    the face does it, its answer is lost
    hang    nothing happens until the client goes away

    After the plan: pass. `cut` ends every connection, `stop` listening."""

    def __init__(self, port: int) -> None:
        self._upstream = port
        self.plan: list[str] = []
        self.requests: list[bytes] = []
        self.port = 0
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def start(self, port: int = 0, tls: ssl.SSLContext | None = None) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port, ssl=tls)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        await self.cut()

    async def cut(self) -> None:
        for task in list(self._connections):
            task.cancel()
        if self._connections:
            await asyncio.wait(self._connections)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            while await self._request(reader, writer):
                pass
        except (asyncio.CancelledError, asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._connections.discard(task)
            writer.close()

    async def _request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        self.requests.append(head)
        body = await reader.readexactly(_length(head))
        what = self.plan.pop(0) if self.plan else "pass"
        if what == "eat":
            return False
        if what == "hang":
            await reader.read()
            return False
        if what == "refuse":
            said = (
                b'{"error":"unavailable","message":"no leader","outcome":"none","retryable":true}'
            )
            writer.write(b"HTTP/1.1 503 No\r\nContent-Length: %d\r\n\r\n%b" % (len(said), said))
            return True
        above, up = await asyncio.open_connection("127.0.0.1", self._upstream)
        try:
            up.write(head + body)
            answer = await above.readuntil(b"\r\n\r\n")
            if b"chunked" in answer:  # a stream
                writer.write(answer)
                while data := await above.read(65536):
                    writer.write(data)
                return False
            answer += await above.readexactly(_length(answer))
            if what == "lose":
                return False
            writer.write(answer)
            return True
        finally:
            up.close()

    def sent(self, name: str) -> list[str]:
        """What a header had in the requests that had it."""
        found = re.findall(rb"(?i)\r\n%b: ([^\r]*)" % name.encode(), b"".join(self.requests))
        return [value.decode() for value in found]


def _length(head: bytes) -> int:
    found = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
    return int(found[1]) if found else 0


@pytest.fixture
async def faulty(rest: Any) -> AsyncIterator[Faulty]:
    made = Faulty(rest.port)
    await made.start()
    yield made
    await made.stop()
