"""The lane on real sockets: TCP and TLS, on asyncio's loop and on uvloop (conftest.py).

What transports in memory cannot show: half-closed connections, a client that reads nothing while
megabytes of answers are due to it, TLS records, and that uvloop's transports do what is asked.
"""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from kv.lane.lane import LaneLimits

RANGE = b"POST /v3/kv/range HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 14\r\n\r\n" + (
    b'{"key":"YQ=="}'
)
PUT = b"PUT /api/v1/keys/a HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 15\r\n\r\n" + (
    b'{"value":"vvv"}'
)
VERSION = b"GET /version HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\n"


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    if shutil.which("openssl") is None:
        pytest.skip("the openssl command is not installed, so no certificate can be made")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-nodes", "-days", "2", "-subj", "/CN=node", "-addext", "subjectAltName=IP:127.0.0.1",
         "-keyout", "key.pem", "-out", "cert.pem"],
        cwd=tmp_path, check=True, capture_output=True,
    )  # fmt: skip
    return tmp_path / "cert.pem"


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def take(self, answers: int) -> bytes:
        """So many answers, whole."""
        out = bytearray()
        async with asyncio.timeout(10):
            for _ in range(answers):
                head = await self.reader.readuntil(b"\r\n\r\n")
                length = head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0]
                out += head + await self.reader.readexactly(int(length))
        return bytes(out)

    async def ended(self) -> bool:
        async with asyncio.timeout(10):
            return await self.reader.read() == b""

    async def close(self) -> None:
        self.writer.close()
        await asyncio.gather(self.writer.wait_closed(), return_exceptions=True)


@pytest.fixture(params=["tcp", "tls"])
async def port(request: Any, make_server: Any, certificate: Path) -> AsyncIterator[Any]:
    """(server, connect)"""
    server = await make_server(limits=LaneLimits(head_s=0.2, tick_s=0.05))
    serving = own = None
    if request.param == "tls":
        serving = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        serving.load_cert_chain(certificate, certificate.with_name("key.pem"))
        own = ssl.create_default_context(cafile=certificate)
    loop = asyncio.get_running_loop()
    listening = await loop.create_server(server.lane.make_protocol, "127.0.0.1", 0, ssl=serving)
    number = listening.sockets[0].getsockname()[1]
    clients = []

    async def connect() -> Client:
        client = Client(*await asyncio.open_connection("127.0.0.1", number, ssl=own))
        clients.append(client)
        return client

    yield server, connect
    listening.close()
    await server.lane.stop(0.5)
    for client in clients:
        await client.close()


async def test_both_lanes_on_one_connection(port: Any) -> None:
    _, connect = port
    client = await connect()
    client.send(PUT + RANGE)
    assert (await client.take(2)).count(OK) == 2
    client.send(PUT + PUT + VERSION + PUT + RANGE)
    answers = await client.take(5)
    assert answers.count(OK) == 5
    assert b"etcdserver" in answers
    client.send(RANGE)
    assert b'"count":"1"' in await client.take(1)


async def test_drip_and_large_bodies(port: Any) -> None:
    _, connect = port
    client = await connect()
    for byte in RANGE:
        client.send(bytes([byte]))
        await asyncio.sleep(0)
    await client.take(1)
    body = b'{"value":"%b"}' % (b"x" * 15_000)
    head = b"PUT /api/v1/keys/a HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n"
    client = await connect()
    client.send(head % len(body) + body[:5])
    await asyncio.sleep(0.01)
    client.send(body[5:] + RANGE)
    answers = await client.take(2)
    assert answers.count(OK) == 2
    assert len(answers) > 15_000


async def test_a_client_that_reads_nothing_is_not_fed(port: Any) -> None:
    """Megabytes of answers are due; only what fits the buffers is made, and then all arrives."""
    server, connect = port
    client = await connect()
    body = b'{"value":"%b"}' % (b"x" * 15_000)
    head = b"PUT /api/v1/keys/a HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n"
    client.send(head % len(body) + body)
    await client.take(1)
    client.writer.transport.pause_reading()
    asked = 1_000
    client.send(RANGE * asked)
    begun = [0]
    read = server.strong.read

    def counting(*given: Any) -> None:
        begun[0] += 1
        read(*given)

    server.strong.read = counting
    await settled(lambda: begun[0])
    assert begun[0] < asked / 2
    client.writer.transport.resume_reading()
    assert (await client.take(asked)).count(OK) == asked


async def settled(figure: Any) -> None:
    """Until it has stayed the same for a while."""
    async with asyncio.timeout(10):
        seen, since = -1, 0
        while since < 10:
            await asyncio.sleep(0.02)
            now = figure()
            since = since + 1 if now == seen and now else 0
            seen = now


async def test_half_closed(port: Any) -> None:
    server, connect = port
    client = await connect()
    if not client.writer.can_write_eof():
        pytest.skip("TLS has no half-closed connections here")
    server.strong.hold = True
    client.send(PUT + PUT)
    async with asyncio.timeout(5):
        while server.strong.under_way < 2:  # noqa: ASYNC110 - what it looks at tells nobody
            await asyncio.sleep(0.005)
    client.writer.write_eof()
    await asyncio.sleep(0.02)
    server.strong.release()
    assert (await client.take(2)).count(OK) == 2
    assert await client.ended()


async def test_slowloris(port: Any) -> None:
    """On either lane; a good client beside them is served."""
    _, connect = port
    hot, cold, good = [await connect() for _ in range(3)]
    cold.send(VERSION)
    await cold.take(1)
    for byte in RANGE[:30]:
        for slow in (hot, cold):
            if not slow.writer.is_closing():
                slow.send(bytes([byte]))
        good.send(RANGE)
        await good.take(1)
        await asyncio.sleep(0.02)
    for slow in (hot, cold):
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await slow.take(1)


async def test_the_end(port: Any) -> None:
    server, connect = port
    idle, busy = await connect(), await connect()
    for client in (idle, busy):
        client.send(PUT)
        await client.take(1)
    server.strong.hold = True
    busy.send(PUT)
    async with asyncio.timeout(5):
        while not server.strong.under_way:  # noqa: ASYNC110 - what it looks at tells nobody
            await asyncio.sleep(0.005)
    stopping = asyncio.ensure_future(server.lane.stop(5))
    assert await idle.ended()
    server.strong.release()
    assert (await busy.take(1)).count(OK) == 1
    assert await busy.ended()
    await stopping
