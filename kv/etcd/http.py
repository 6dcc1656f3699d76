"""What all handlers of the gateway share of HTTP: heads, bodies within limits, streams of lines.

A stream sends exactly one message in each HTTP chunk: real clients parse chunk by chunk.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Final

from aiohttp import HttpVersion11, web
from aiohttp.http_exceptions import HttpProcessingError

from kv.etcd.context import GatewayContext
from kv.etcd.errors import EtcdError, Grpc, encode_error
from kv.etcd.protojson import MalformedBodyError, Splitter
from storage.errors import JanusError

JSON: Final = "application/json"
PLAIN: Final = "text/plain; charset=utf-8"
GRPC: Final = "Grpc-Metadata-Content-Type"
ANY_ORIGIN: Final = "Access-Control-Allow-Origin"
STUCK_BYTES: Final = 64 * 1024
"""In a connection's buffer: more, and its client does not keep up."""

HUNG_UP: Final = (OSError, HttpProcessingError, web.RequestPayloadError)
"""What reading from or writing to a client raises that went away or speaks no HTTP."""


class Heads:
    """Response heads: with or without the leave for browsers of any origin."""

    def __init__(self, context: GatewayContext) -> None:
        shared = {ANY_ORIGIN: "*"} if context.any_origin else {}
        self.bare: Final[Mapping[str, str]] = shared
        self._good: Final = {"Content-Type": JSON, GRPC: "application/grpc", **shared}
        self._bad: Final = {"Content-Type": JSON, **shared}
        self._plain: Final = {"Content-Type": PLAIN, **shared}

    def json(self, status: int, body: bytes) -> web.Response:
        return web.Response(
            status=status, body=body, headers=self._good if status == 200 else self._bad
        )

    def headers_of(self, status: int) -> Mapping[str, str]:
        """For a lane that writes them itself."""
        return self._good if status == 200 else self._bad

    def error(self, error: JanusError) -> web.Response:
        return self.json(*encode_error(error))

    def local_json(self, body: bytes) -> web.Response:
        """Of an endpoint that is no call of the protocol."""
        return web.Response(body=body, headers=self._bad)

    def plain(self, status: int, words: str, allow: str = "") -> web.Response:
        headers = {**self._plain, "Allow": allow} if allow else self._plain
        return web.Response(status=status, body=words.encode(), headers=headers)

    def stream(self, request: web.BaseRequest, *, has_messages: bool = True) -> web.StreamResponse:
        response = web.StreamResponse(headers=self._good if has_messages else self._bad)
        if is_chunked(request):
            response.enable_chunked_encoding()
        return response


def is_chunked(request: web.BaseRequest) -> bool:
    """HTTP/1.0 knows no chunks: there the stream is lines until the connection ends."""
    return request.version >= HttpVersion11


def chunk(message: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(message), message)


class Lines:
    """Messages on their way out, each in a chunk of its own. Those that are ready together leave in
    one write: a system call costs more than everything else about a message."""

    __slots__ = ("_request", "_transport", "_waiting", "is_chunked")

    def __init__(self, request: web.BaseRequest) -> None:
        """The head must be on its way: `prepare` was awaited."""
        self._request: Final = request
        self._transport: Final = request.transport
        self.is_chunked: Final = is_chunked(request)
        self._waiting: list[bytes] = []
        request.writer.send_headers()

    def add(self, message: bytes) -> None:
        self.add_framed(chunk(message) if self.is_chunked else message)

    def add_framed(self, shown: bytes) -> None:
        """A chunk already, or a line for a client that knows no chunks."""
        self._waiting.append(shown)

    def write(self) -> bool:
        """At once. False: the client does not keep up or is gone, and `flush` is next."""
        transport, waiting = self._transport, self._waiting
        if transport is None or transport.is_closing():
            return False
        transport.write(waiting[0] if len(waiting) == 1 else b"".join(waiting))
        waiting.clear()
        return transport.get_write_buffer_size() <= STUCK_BYTES

    async def flush(self) -> None:
        """Returns once the client keeps up. Raises ConnectionResetError if it is gone."""
        transport = self._transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client hung up")
        if self._waiting:
            self.write()
        await self._request.writer.drain()


async def read_body(request: web.BaseRequest, limit_bytes: int) -> bytes:
    """Raises EtcdError if it is larger than the limit."""
    declared = request.content_length
    if declared is not None and declared > limit_bytes:
        raise _too_large(declared, limit_bytes)
    parts: list[bytes] = []
    size = 0
    async for part in request.content.iter_any():
        size += len(part)
        if size > limit_bytes:
            raise _too_large(size, limit_bytes)
        parts.append(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _too_large(size: int, limit: int) -> EtcdError:
    return EtcdError(
        Grpc.RESOURCE_EXHAUSTED,
        f"grpc: received message larger than max ({size} vs. {limit})",
    )


async def read_messages(request: web.BaseRequest, limit_bytes: int) -> AsyncIterator[bytes]:
    """Each object of the body, as it comes. Raises MalformedBodyError where it is none."""
    splitter = Splitter(limit_bytes)
    async for part in request.content.iter_any():
        for document in splitter.feed(part):
            yield document
    splitter.finish()


def unreadable(error: MalformedBodyError) -> EtcdError:
    """What a stream answers whose first message cannot be read."""
    return EtcdError(Grpc.UNKNOWN, str(error))
