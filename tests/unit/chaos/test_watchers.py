"""Watchers of the harness go on behind what was compacted, however they are told of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from chaos.http import HttpClient, NoStreamError
from chaos.links import Door
from chaos.workloads.watchers import RestWatcher

GONE = json.dumps({"error": "compacted", "compact_revision": 20}).encode()


def answer(status: str, body: bytes, *, chunked: bool = False) -> bytes:
    if chunked:
        head, body = "Transfer-Encoding: chunked", b"%x\r\n%b\r\n" % (len(body), body)
    else:
        head = f"Content-Length: {len(body)}"
    return f"HTTP/1.1 {status}\r\n{head}\r\n\r\n".encode() + body


@asynccontextmanager
async def door(paths: list[str]) -> AsyncIterator[Door]:
    """A node that has forgotten everything up to revision 20, and then one event."""
    serving: list[asyncio.Task[None]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = (await reader.readuntil(b"\r\n\r\n")).split()[1].decode()
        paths.append(path)
        task = asyncio.current_task()
        assert task is not None
        serving.append(task)
        if "from=21" in path:
            event = {"type": "events", "revision": 21, "events": [{"key": "k", "value": "v"}]}
            writer.write(answer("200 OK", json.dumps(event).encode() + b"\n", chunked=True))
        else:
            writer.write(answer("410 Gone", GONE))
        await writer.drain()
        await reader.read()  # until the client hangs up
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield Door("n1", *server.sockets[0].getsockname()[:2])
    server.close()
    await asyncio.gather(*serving)


async def test_a_refused_stream_tells_its_status() -> None:
    async with door([]) as node:
        client = HttpClient(node.host, node.port)
        with pytest.raises(NoStreamError) as refused:
            async with client.stream("GET", "/?from=5", headers={}):
                raise AssertionError("there is no stream")
        assert (refused.value.status, refused.value.body) == (410, GONE)


async def test_a_watcher_that_is_refused_goes_on_behind_the_gap() -> None:
    paths: list[str] = []
    async with door(paths) as node:
        watcher = RestWatcher(node, "k", 5)
        watching = asyncio.ensure_future(watcher.run())
        try:
            await asyncio.wait_for(watcher.told_up_to(21), 10)
        finally:
            watching.cancel()
            await asyncio.wait([watching])
    assert watcher.gaps == [(5, 20)]
    assert [each.revision for each in watcher.batches] == [21]
    assert len(paths) == 2, paths
