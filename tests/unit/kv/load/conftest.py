"""A server that counts what it was asked and misbehaves on demand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

BODY = b'{"header":{"revision":"7"},"kvs":[{"key":"a"}],"count":"1"}'
PLAIN = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY)
IN_CHUNKS = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"8\r\n%s\r\n%x\r\n%s\r\n0\r\n\r\n" % (BODY[:8], len(BODY) - 8, BODY[8:])
)


@dataclass
class Peer:
    """`answer` is asked for every request (its number among all): bytes, or None to hang up, or
    "silent" to leave it unanswered."""

    answer: Callable[[int], bytes | str | None] = lambda number: PLAIN
    requests: list[bytes] = field(default_factory=list)
    by_connection: list[int] = field(default_factory=list)
    most_under_way: int = 0
    address: tuple[str, int] = ("127.0.0.1", 0)
    _under_way: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        mine = len(self.by_connection)
        self.by_connection.append(0)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0])
                self.requests.append(head + await reader.readexactly(length))
                number = len(self.requests)
                self.by_connection[mine] += 1
                self._under_way += 1
                self.most_under_way = max(self.most_under_way, self._under_way)
                await asyncio.sleep(0)
                answer = self.answer(number)
                if answer is None:
                    return
                if isinstance(answer, bytes):
                    writer.write(answer)
                    self._under_way -= 1
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()


@pytest.fixture
async def peer() -> AsyncIterator[Callable[..., Any]]:
    """Makes peers that serve."""
    servers = []

    async def make(**options: Any) -> Peer:
        one = Peer(**options)
        server = await asyncio.start_server(one.serve, "127.0.0.1", 0)
        servers.append(server)
        one.address = server.sockets[0].getsockname()
        return one

    yield make
    for server in servers:
        server.close()
        await server.wait_closed()
