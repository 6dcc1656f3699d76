"""The least that a server can do: what the generator reaches against it is the generator's ceiling.

It answers whatever arrives with one fixed answer, of the size of a real one. A figure of a real
server near the ceiling says more about the generator than about the server. Both get a core of
their own where there are two: the scheduler likes to put two that wake each other on one core.
Run as a program it writes its port and serves until its standard input ends: it ends with its
caller, however that ends.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Final, cast

from kv.leash import environment
from kv.load import wrk
from kv.load.plan import Load, Outcome
from kv.load.worker import Waiting, python, run

_BODY: Final = (
    b'{"header":{"cluster_id":"14841639068965178418","member_id":"10276657743932975437",'
    b'"revision":"10001","raft_term":"2"},"kvs":[{"key":"YmVuY2gvMDAwMDAwMDAwMA==",'
    b'"create_revision":"2","mod_revision":"2","version":"1","value":"%s"}],"count":"1"}'
) % (b"dmFsdWU=" * 17)
ANSWER: Final = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
) % (len(_BODY), _BODY)


class Trivial(asyncio.Protocol):
    """One answer for each piece that arrives: the generator's requests arrive in one piece each."""

    _transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass

    def data_received(self, data: bytes) -> None:
        self._transport.write(ANSWER)


@contextmanager
def trivial_server() -> Iterator[tuple[str, int]]:
    """In a process of its own; its address."""
    process = subprocess.Popen(
        python("kv.load.ceiling"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment(),
    )
    try:
        assert process.stdout is not None
        yield "127.0.0.1", int(process.stdout.readline())
    finally:
        process.kill()
        process.communicate()


def measure(load: Load, waiting: Waiting, wrk_binary: str | None = None) -> Outcome:
    """The load (its endpoints do not matter) against the trivial server, from wrk if it is given.
    The server is one process: wrk's threads have nothing to share out here."""
    with trivial_server() as address:
        load = replace(load, endpoints=(address,), core=cores()[0])
        if wrk_binary is not None:
            return wrk.run(wrk_binary, replace(load, seconds=1.0, warm_up_s=0.0), waiting)
        return run(load, 1, waiting)


def cores() -> tuple[int, int]:
    """(the generator's, the server's)"""
    allowed = sorted(os.sched_getaffinity(0))
    return allowed[0], allowed[-1]


async def serve() -> None:
    os.sched_setaffinity(0, {cores()[1]})
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Trivial, "127.0.0.1", 0)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()


def make_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        return asyncio.SelectorEventLoop()
    return uvloop.new_event_loop()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=make_loop) as runner:
        runner.run(serve())
