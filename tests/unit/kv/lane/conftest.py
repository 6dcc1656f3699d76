"""Two servers over equal machines, one with the fast lane and one without, on transports in memory.

A case is bytes in pieces: both servers get the same pieces, the loop runs until nothing happens any
more, and what came out is compared. No sockets and no time, so thousands of cases take seconds.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from itertools import pairwise
from random import Random
from typing import Any, NamedTuple

import pytest
import uvloop
from aiohttp import web

from kv.api import app as rest
from kv.api.context import Api, ApiSettings
from kv.api.guard import Access
from kv.errors import KeyspaceNotFoundError
from kv.etcd.context import GatewayContext, GatewayLimits, StatusNumbers
from kv.etcd.gateway import add_routes
from kv.lane.assemble import make_lane
from kv.lane.lane import Lane, LaneLimits
from kv.metrics.metrics import Endpoint, Metrics
from kv.model import PLAIN_READ, PLAIN_WRITE, ReadOptions, WriteOptions
from kv.strong.joined import alone
from kv.strong.reader import ReplicaReader
from kv.watch.messages import Encode
from kv.watch.shard_watches import ShardWatches
from raftgroups.commands import Command, encode
from raftgroups.machine import ShardMachine
from raftgroups.machine_parts import ShardPlace
from raftgroups.results import Failure, error_of
from storage.clock import ManualClock
from storage.errors import JanusError
from storage.latest import Latest
from storage.memory import MemoryEngine
from storage.mvcc_events import read_events


@pytest.hookimpl(optionalhook=True)
def pytest_asyncio_loop_factories(
    item: pytest.Item,
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Sockets on both loops that the product runs on."""
    if item.path.name == "test_sockets.py":
        return {"asyncio": asyncio.SelectorEventLoop, "uvloop": uvloop.new_event_loop}
    return {"asyncio": asyncio.SelectorEventLoop}


PLACE = ShardPlace(group=1, shard=3, keyspace=1, segment=1)
QUIET_PASSES = 40
"""Of the loop, without a byte: then nothing more will come. Longer than any answer is delayed."""
REQUEST_MAX_BYTES = 20_000
HEADER_MAX_BYTES = 2_000


class Direct:
    """A Strong without Raft: what is asked is done at once or, with `delays`, some passes later, as
    replication would have it; always in the order asked."""

    term = 5

    def __init__(self, seed: int = 0) -> None:
        self.restart(seed)

    def restart(self, seed: int) -> None:
        self.machine = ShardMachine(Latest(MemoryEngine(), ManualClock()), PLACE)
        self.machine.restored(0)
        self.reader = ReplicaReader(self.machine, PLACE.shard, lambda: 1_000)
        self.reader.term = self.term
        self.delays = Random(seed)
        self.index = 0
        self.down: JanusError | None = None
        self.under_way = 0
        self.most_under_way = 0
        self.hold = False
        self.held: list[Callable[[], None]] = []

    def write(self, command: Command, done: Any, options: WriteOptions = PLAIN_WRITE) -> None:
        self._later(done, self.down or self._apply(command, options))

    def write_each(self, commands: Sequence[Command], dones: Sequence[Any]) -> None:
        for command, done in zip(commands, dones, strict=True):
            self.write(command, done)

    def _apply(self, command: Command, options: WriteOptions) -> Any:
        self.index += 1
        payload = encode(command, options.token, 1_000, 1_700_000_000_000 + self.index)
        answer = self.machine.apply(self.index, payload)
        return error_of(answer) if isinstance(answer, Failure) else answer

    def read(self, evaluate: Any, done: Any, options: ReadOptions = PLAIN_READ) -> None:
        try:
            answer = self.down or evaluate(self.reader)
        except JanusError as error:
            answer = error
        self._later(done, answer)

    def get(self, key: bytes, asker: Any, give: Any) -> None:
        self.read(*alone((key, asker, give)))

    def _later(self, done: Any, answer: Any) -> None:
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        if self.hold:
            self.held.append(partial(self._answer, done, answer))
        else:
            self._wait(self.delays.randrange(4), done, answer)

    def _wait(self, passes: int, done: Any, answer: Any) -> None:
        loop = asyncio.get_running_loop()
        if passes:
            loop.call_soon(self._wait, passes - 1, done, answer)
        else:
            loop.call_soon(self._answer, done, answer)

    def _answer(self, done: Any, answer: Any) -> None:
        self.under_way -= 1
        done(answer)

    def release(self) -> None:
        self.hold = False
        held, self.held = self.held, []
        for call in held:
            call()

    def local(self) -> ReplicaReader:
        return self.reader

    single = True

    def ground(self, watches: object, page: object) -> None:
        """One shard for ever."""

    def shard_of(self, key: bytes) -> int:
        return PLACE.shard

    def watches(self, encode: Encode) -> ShardWatches:
        return ShardWatches(
            encode,
            partial(read_events, self.machine.view),
            revision=self.machine.revision,
            compact_revision=0,
            scheduler=asyncio.get_running_loop(),
            clock=ManualClock(),
        )


class Wire(asyncio.Transport):
    """A transport in memory. `written` is what the client would see."""

    def __init__(self) -> None:
        super().__init__()
        self.protocol: Any = None
        self.written = bytearray()
        self.writes = 0
        self.closed = False
        self.aborted = False
        self.reading = True
        self.lost = False

    def start(self, protocol: Any) -> Wire:
        self.protocol = protocol
        protocol.connection_made(self)
        return self

    def write(self, data: Any) -> None:
        if not self.closed:
            self.written += data
            self.writes += 1

    def writelines(self, parts: Any) -> None:
        self.write(b"".join(parts))

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            asyncio.get_running_loop().call_soon(self._lose)

    def abort(self) -> None:
        self.aborted = True
        self.close()

    def _lose(self) -> None:
        if not self.lost:
            self.lost = True
            self.protocol.connection_lost(None)

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def is_reading(self) -> bool:
        return self.reading

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol

    def get_protocol(self) -> Any:
        return self.protocol

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 40_000) if name == "peername" else default

    def get_write_buffer_size(self) -> int:
        return 0


class Outcome(NamedTuple):
    answers: bytes
    """Without dates."""
    closed: bool
    revision: int


class Server:
    """One of the two. `lane` is None in the one without it."""

    def __init__(self, access: Access, *, cors_any: bool) -> None:
        self.strong = Direct()
        self.metrics = Metrics()
        self.clock = ManualClock()
        self.endpoints: dict[tuple[str, str], Endpoint] = {}
        settings = ApiSettings(access, REQUEST_MAX_BYTES)
        node: Any = None
        self.api = Api(
            self.strong,
            node,
            clock=self.clock,
            rng=Random(1),
            settings=settings,
            others=self._keyspace,
        )
        self.context = GatewayContext(
            strong=self.strong,
            cluster_id=11,
            member_id=12,
            members=list,
            status=lambda: StatusNumbers(12, 1, 1, 1, 1),
            rng=Random(1),
            any_origin=cors_any,
            limits=GatewayLimits(request_bytes=REQUEST_MAX_BYTES, overhead_bytes=2048),
        )
        self.app = web.Application(client_max_size=REQUEST_MAX_BYTES)
        face = rest.add_routes(self.app, self.api)
        rest.install_guard(self.app, access, face.router)
        self.gateway = add_routes(self.app, self.context)
        self.runner = web.AppRunner(
            self.app,
            handler_cancellation=True,
            access_log=None,
            max_line_size=HEADER_MAX_BYTES,
            max_field_size=HEADER_MAX_BYTES,
            shutdown_timeout=0.1,
        )
        self.lane: Lane | None = None
        self.given = 0
        self.handed = range(0)
        """The piece of the last case that was handed over; empty, at its end: all was answered by
        the lane."""

    async def start(self, *, lane: bool, limits: LaneLimits | None = None) -> None:
        await self.runner.setup()
        assert self.runner.server is not None
        if lane:
            self.lane = make_lane(
                loop=asyncio.get_running_loop(),
                api=self.api,
                gateway=self.gateway,
                context=self.context,
                server=self.runner.server,
                endpoint=self.endpoint,
                limits=limits or LaneLimits(),
            )
            self.lane.start()
            self._hand_over, self.lane.hand_over = self.lane.hand_over, self._handed  # type: ignore

    def _keyspace(self, name: str) -> Any:
        """One more there is, with the keys of the first."""
        if name != "other":
            raise KeyspaceNotFoundError(f"there is no keyspace {name!a}")
        return self.strong

    def _handed(self, connection: Any, transport: Any, data: bytes, *, paused: bool) -> None:
        self.handed = range(self.given - len(data), self.given)
        self._hand_over(connection, transport, data, paused=paused)

    def endpoint(self, route: str, method: str) -> Endpoint:
        return self.endpoints.setdefault((route, method), self.metrics.endpoint(route, method, ""))

    def connect(self) -> Wire:
        protocol: Any = self.runner.server() if self.lane is None else self.lane.make_protocol()
        return Wire().start(protocol)

    async def run(self, pieces: Sequence[bytes]) -> Outcome:
        wire = self.connect()
        self.given, size = 0, sum(map(len, pieces))
        self.handed = range(size, size)
        for piece in pieces:
            await until_quiet([wire], 1 if len(pieces) > 8 else 3)
            while not wire.reading and not wire.closed:
                await until_quiet([wire])
            if wire.closed:
                break
            self.given += len(piece)
            wire.protocol.data_received(piece)
        await until_quiet([wire])
        outcome = Outcome(without_dates(wire.written), wire.closed, self.strong.machine.revision)
        wire.abort()
        await asyncio.sleep(0)
        return outcome

    async def stop(self) -> None:
        self.gateway.stop("the test is over")
        if self.lane is not None:
            await self.lane.stop(0.1)
        await self.runner.cleanup()


async def until_quiet(wires: Sequence[Wire], passes: int = QUIET_PASSES) -> None:
    """Until so many passes of the loop brought no byte."""
    quiet, seen = 0, -1
    while quiet < passes:
        await asyncio.sleep(0)
        now = sum(len(wire.written) + wire.closed for wire in wires)
        quiet, seen = (quiet + 1, seen) if now == seen else (0, now)


def without_dates(raw: bytes | bytearray) -> bytes:
    """Header lines sorted, the date out: order of headers means nothing. Of aiohttp's word on what
    it cannot parse only the head, since the rest shows the bytes as they were cut."""
    out, rest = [], bytes(raw)
    while rest:
        head, end, rest = rest.partition(b"\r\n\r\n")
        first, *lines = head.split(b"\r\n")
        kept = sorted(line for line in lines if not line.startswith(b"Date: "))
        length = next(
            (int(line[16:]) for line in lines if line.lower().startswith(b"content-length: ")), None
        )
        if first == b"HTTP/1.0 400 Bad Request":
            out.append(first)
            rest = rest[length or 0 :]
            continue
        out.append(b"\r\n".join([first, *kept]) + end)
        if length is None and b"chunked" in head.lower():
            out.append(rest)
            break
        out.append(rest[: length or 0])
        rest = rest[length or 0 :]
    return b"".join(out)


_LENGTH = re.compile(rb"\r\nContent-Length: ([0-9]{1,6})\r\n")


def cut_as_lane(pieces: Sequence[bytes], handed: range) -> list[bytes]:
    """The same bytes, cut where a request ends that the lane has answered, and whole where it was
    handed over: aiohttp forgets the good requests before a bad one if they come in the same piece,
    and TCP may cut anywhere."""
    raw = b"".join(pieces)
    cuts, at = {0, len(raw)}, 0
    for piece in pieces:
        at += len(piece)
        cuts.add(at)
    at = 0
    while (end := raw.find(b"\r\n\r\n", at) + 4) >= 4:
        head = raw[at:end]
        length = _LENGTH.search(head)
        at = end + (int(length[1]) if length else 0)
        if at > handed.start or at >= len(raw) or b"Transfer-Encoding" in head:
            break
        cuts.add(at)
    cuts.add(handed.start)
    ordered = sorted(cut for cut in cuts if not handed.start < cut < handed.stop)
    return [raw[a:b] for a, b in pairwise(ordered)]


class Pair:
    def __init__(self, with_lane: Server, without: Server) -> None:
        self.with_lane = with_lane
        self.without = without
        self.cases = 0

    async def same(self, *pieces: bytes, seed: int = 0) -> Outcome:
        """Both answer this alike; what they answered."""
        self.cases += 1
        self.with_lane.strong.restart(seed)
        self.without.strong.restart(seed + 1)
        one = await self.with_lane.run(pieces)
        cut = cut_as_lane(pieces, self.with_lane.handed)
        other = await self.without.run(cut)
        assert one == other, f"pieces: {pieces!r}"
        return one


@pytest.fixture(autouse=True)
def _hush() -> None:
    """aiohttp logs every bad request with its stack."""
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)


MakePair = Callable[..., Awaitable[Pair]]
MakeServer = Callable[..., Awaitable[Server]]


@pytest.fixture
async def make_server() -> AsyncIterator[MakeServer]:
    made: list[Server] = []

    async def make(
        *,
        lane: bool = True,
        access: Access | None = None,
        cors_any: bool = False,
        limits: LaneLimits | None = None,
    ) -> Server:
        server = Server(access or Access(), cors_any=cors_any)
        made.append(server)
        await server.start(lane=lane, limits=limits)
        return server

    yield make
    for server in made:
        await server.stop()


@pytest.fixture
async def make_pair(make_server: MakeServer) -> MakePair:
    async def make(**how: Any) -> Pair:
        return Pair(await make_server(lane=True, **how), await make_server(lane=False, **how))

    return make


@pytest.fixture
def quiet() -> Callable[..., Awaitable[None]]:
    return until_quiet
