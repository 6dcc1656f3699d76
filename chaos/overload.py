"""Far more than a node can do: many connections that send ahead without waiting for answers.

Each connection keeps `ahead` PUTs under way; what comes back is only counted. So the load does not
fall when the node gets slower, unlike that of clients that wait for each answer.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from chaos.server import Server
from chaos.servers import CLOCK

LARGE_BYTES: Final = 64 * 1024
_STATUS: Final = re.compile(rb"HTTP/1\.1 (\d{3}) [^\n]*\n((?:[^\r\n]+\r\n)*)\r\n")


@dataclass(slots=True)
class Flood:
    """What came of it."""

    answers: Counter[int] = field(default_factory=Counter)
    without_retry_after: int = 0
    """Of the 429s."""
    broken: int = 0
    """Connections that did not live to the end."""
    seconds: float = 0.0

    @property
    def rate(self) -> float:
        return self.answers[200] / self.seconds if self.seconds else 0.0


class _Sender(asyncio.Protocol):
    def __init__(self, flood: Flood, request: bytes, ahead: int) -> None:
        self._flood, self._request, self._ahead = flood, request, ahead
        self._transport: asyncio.Transport | None = None
        self._rest = b""
        self._under_way = 0
        self._paused = False
        self.stopping = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.set_write_buffer_limits(4 * len(self._request))
        self._send()

    def _send(self) -> None:
        """One write a request, so that the transport's limit holds."""
        assert self._transport is not None
        while not (self._paused or self.stopping) and self._under_way < self._ahead:
            self._under_way += 1
            self._transport.write(self._request)

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._send()

    def data_received(self, data: bytes) -> None:
        data = self._rest + data
        end = 0
        for found in _STATUS.finditer(data):
            status = int(found[1])
            self._flood.answers[status] += 1
            self._under_way -= 1
            if status == 429 and b"retry-after" not in found[2].lower():
                self._flood.without_retry_after += 1
            end = found.end()
        self._rest = data[end:]
        self._send()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.stopping:
            self._flood.broken += 1
            self.stopping = True

    def close(self) -> None:
        self.stopping = True
        if self._transport is not None:
            self._transport.abort()


def put_request(server: Server, key: str, size: int) -> bytes:
    """Large values as raw bytes, which nothing in front of the server's last face takes apart."""
    if size > LARGE_BYTES:
        head = f"PUT /v1/kv/{key} HTTP/1.1\r\nHost: {server.host}:{server.port}\r\n"
        return f"{head}Content-Length: {size}\r\n\r\n".encode() + b"v" * size
    body = json.dumps({"value": "v" * size}).encode()
    head = f"PUT /api/v1/keys/{key} HTTP/1.1\r\nHost: {server.host}:{server.port}\r\n"
    return (
        f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        + body
    )


async def flood(
    server: Server, *, connections: int, ahead: int, value_bytes: int, seconds: float
) -> Flood:
    """Write so many values at once to keys of its own (`flood/N`) for so long."""
    loop = asyncio.get_running_loop()
    result = Flood()
    senders = []
    began = CLOCK.monotonic()
    try:
        for number in range(connections):
            request = put_request(server, f"flood/{number}", value_bytes)
            sender = _Sender(result, request, ahead)
            await loop.create_connection(lambda sender=sender: sender, server.host, server.port)  # type: ignore[misc]
            senders.append(sender)
        await asyncio.sleep(max(0.0, seconds - (CLOCK.monotonic() - began)))
    finally:
        result.seconds = CLOCK.monotonic() - began
        for sender in senders:
            sender.close()
    return result
