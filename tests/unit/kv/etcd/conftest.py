"""The gateway over a shard's machine in memory, without Raft: applied directly, served over HTTP.

`DirectStrong` is the protocol Strong of kv/regime.py: a command is applied when it is asked for and
its answer comes later from the loop; leases run by a ManualClock, or by the real time if `ticks`
is given. `Served` runs an application with the gateway on a free port in a thread of its own, for
clients that block.
"""

from __future__ import annotations

import asyncio
import json
import random
import threading
import time
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from io import BytesIO
from typing import Any

import pytest
from aiohttp import ClientResponse, web
from aiohttp.test_utils import TestClient, TestServer

from kv.errors import UnavailableError
from kv.etcd.answers import Headers
from kv.etcd.auth import UserBook
from kv.etcd.context import GatewayContext, GatewayLimits, Member, SnapshotPart, StatusNumbers
from kv.etcd.gateway import Gateway, add_routes
from kv.model import PLAIN_READ, PLAIN_WRITE, ReadOptions, WriteOptions
from kv.regime import Done, ShardReader
from kv.strong.admission import check
from kv.strong.reader import ReplicaReader
from kv.watch.watcher import WatchLimits
from raftgroups.commands import Command, encode
from raftgroups.machine_parts import ShardPlace
from raftgroups.results import Failure, error_of
from storage.clock import Clock, ManualClock
from storage.engine import Batch
from storage.errors import JanusError
from storage.system_clock import SystemClock
from tests.unit.kv.direct import DirectShard

CLUSTER = 2**63 + 11
MEMBER = 2**64 - 5
TERM = 3
PLACE = ShardPlace(group=1, shard=1, keyspace=7, segment=3)


class DirectStrong(DirectShard):
    """`down`: every call is answered with this."""

    def __init__(self, clock: Clock, watch_limits: WatchLimits | None = None) -> None:
        super().__init__(PLACE, clock, watch_limits)
        self._index = 0
        self.down: JanusError | None = None
        self.written: list[Command] = []

    term = TERM

    def apply(self, command: Command) -> Any:
        self._index += 1
        self.written.append(command)
        result = self.apply_payload(self._index, encode(command, clock_ms=self.now_ms()))
        if self._index % 3 == 0:  # some of it is in the engine, some in the overlay
            batch = Batch()
            self.machine.prepare(batch)
            self.engine.write(batch, sync=True)
            self.machine.after_commit()
        return error_of(result) if isinstance(result, Failure) else result

    def expire(self) -> None:
        """What a leader does about deadlines."""
        due = self.machine.due(self.now_ms())
        if due is not None:
            self.apply(due)

    # --- Strong ---

    def write(self, command: Command, done: Done[Any], options: WriteOptions = PLAIN_WRITE) -> None:
        answer = self.down
        if answer is None:
            try:
                check(command)
                answer = self.apply(command)
            except JanusError as error:
                answer = error
        asyncio.get_running_loop().call_soon(done, answer)

    def read(
        self,
        evaluate: Callable[[ReplicaReader], Any],
        done: Done[Any],
        options: ReadOptions = PLAIN_READ,
    ) -> None:
        answer: Any
        try:
            answer = self.down or evaluate(self.local())
        except JanusError as error:
            answer = error
        asyncio.get_running_loop().call_soon(done, answer)

    def local(self) -> ShardReader:
        if isinstance(self.down, UnavailableError):
            raise self.down
        return self.reader(TERM)


class Node:
    """A context over a DirectStrong, and what a test may turn."""

    def __init__(self, strong: DirectStrong, **changes: Any) -> None:
        self.strong = strong
        self.leader = MEMBER
        self.has_replica = True
        given: dict[str, Any] = {
            "strong": strong,
            "cluster_id": CLUSTER,
            "member_id": MEMBER,
            "members": self.members,
            "status": self.status,
            "rng": random.Random(7),
            "snapshot": self.snapshot,
            "users": UserBook(),
            "any_origin": True,
            "limits": GatewayLimits(gone_after_s=0.05, health_deadline_s=0.5),
        }
        self.context = GatewayContext(**(given | changes))

    def members(self) -> list[Member]:
        urls = ("http://127.0.0.1:7401",), ("http://127.0.0.1:7400",)
        return [Member(MEMBER, "default", *urls)]

    def status(self) -> StatusNumbers:
        return StatusNumbers(self.leader, 12, 11, 4096, 1024, has_replica=self.has_replica)

    async def snapshot(self) -> AsyncIterator[SnapshotPart]:
        yield SnapshotPart(3, b"abc")
        yield SnapshotPart(0, b"def")

    def application(self) -> tuple[web.Application, Gateway]:
        app = web.Application()
        gateway = add_routes(app, self.context)
        app.router.add_route("*", "/{tail:.*}", gateway.not_found)
        return app, gateway


@contextmanager
def served(**changes: Any) -> Iterator[tuple[int, Node]]:
    """A node with real time on a free port, in a thread of its own."""
    started = threading.Event()
    holder: dict[str, Any] = {}

    async def run() -> None:
        loop = asyncio.get_running_loop()
        node = Node(DirectStrong(SystemClock()), **changes)
        app, gateway = node.application()
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=2.0)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        stop = asyncio.Event()
        port = runner.addresses[0][1]
        holder.update(port=port, node=node, stop=partial(loop.call_soon_threadsafe, stop.set))
        started.set()
        while not stop.is_set():
            node.strong.expire()
            try:
                await asyncio.wait_for(stop.wait(), 0.05)
            except TimeoutError:
                continue
        gateway.stop("the node stops")
        await runner.cleanup()

    def main() -> None:
        try:
            asyncio.run(run())
        except BaseException as error:
            holder["error"] = error
            raise
        finally:
            started.set()

    thread = threading.Thread(target=main, daemon=True)
    thread.start()
    assert started.wait(10)
    try:
        assert "error" not in holder, holder["error"]
        yield holder["port"], holder["node"]
    finally:
        if "stop" in holder:
            holder["stop"]()
        thread.join(10)
    assert not thread.is_alive()
    assert "error" not in holder, holder["error"]


@pytest.fixture
def serve() -> Callable[..., Any]:
    return served


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(100.0)


@pytest.fixture
def headers() -> Headers:
    return Headers(CLUSTER, MEMBER)


@pytest.fixture
def new_node(clock: ManualClock) -> Callable[..., Node]:
    """Within a running loop."""

    def make(watch_limits: WatchLimits | None = None, **changes: Any) -> Node:
        return Node(DirectStrong(clock, watch_limits), **changes)

    return make


class Talk:
    """A client of one node, within the test's loop."""

    def __init__(self, client: TestClient[Any, Any], node: Node, gateway: Gateway) -> None:
        self.client = client
        self.node = node
        self.strong = node.strong
        self.gateway = gateway

    async def post(self, path: str, body: Any = None, **options: Any) -> tuple[int, Any]:
        async with self.client.post(path, data=text_of(body), **options) as response:
            shown = await response.read()
            return response.status, json.loads(shown) if shown.startswith(b"{") else shown

    async def put(self, key: str, value: str = "", **options: Any) -> None:
        status, _ = await self.post("/v3/kv/put", {"key": b64(key), "value": b64(value)} | options)
        assert status == 200

    async def open(self, path: str, body: Any = None) -> Stream:
        response = await self.client.post(path, data=body_of(body))
        return Stream(response)

    async def until(self, happened: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + 10
        while not happened():
            assert time.monotonic() < deadline, what
            await asyncio.sleep(0.005)  # the next look of a poll with a deadline

    @property
    def watchers(self) -> int:
        seen = self.gateway.watches.statistics()
        return seen.future + seen.synced + seen.catching_up + seen.victims


class Stream:
    """An answer in HTTP chunks."""

    def __init__(self, response: ClientResponse) -> None:
        self.response = response

    async def next(self) -> Any:
        """The message in the next chunk, which must be one and whole; None at the end."""
        data = b""
        while True:
            part, is_end = await asyncio.wait_for(self.response.content.readchunk(), 10)
            data += part
            if is_end and data:
                break
            if not part and not is_end:
                assert not data
                return None
        assert data.endswith(b"\n")
        assert data.count(b"\n") == 1
        return json.loads(data)

    async def result(self) -> Any:
        message = await self.next()
        assert message is not None
        return message["result"]

    async def events(self, count: int) -> list[tuple[bytes, bytes]]:
        """(key, value) of so many."""
        seen: list[tuple[bytes, bytes]] = []
        while len(seen) < count:
            for event in (await self.result()).get("events", []):
                kv = event["kv"]
                seen.append((b64decode(kv["key"]), b64decode(kv.get("value", ""))))
        return seen

    def close(self) -> None:
        self.response.close()


def b64(text: str) -> str:
    return b64encode(text.encode()).decode()


def text_of(body: Any) -> Any:
    return BytesIO(json.dumps(body).encode()) if isinstance(body, dict) else body


def body_of(body: Any) -> Any:
    """A list is several objects one after the other."""
    if isinstance(body, list):
        return "".join(json.dumps(each) for each in body)
    return text_of(body)


class Server(TestServer):
    """A server whose handlers are cancelled when their client hangs up, or are not, which is
    aiohttp's default outside of tests."""

    __test__ = False
    cancels = False

    async def _make_runner(self, **options: Any) -> web.BaseRunner[Any]:
        given = options | {"handler_cancellation": self.cancels, "shutdown_timeout": 2.0}
        return await super()._make_runner(**given)


@pytest.fixture(params=[False, True], ids=["left-alone", "cancelled"])
async def talk(
    request: pytest.FixtureRequest,
    new_node: Callable[..., Node],
    aiohttp_client: Callable[..., Any],
) -> Callable[..., Any]:
    """`left-alone`, `cancelled`: what happens to handlers whose client hangs up."""

    async def start(watch_limits: WatchLimits | None = None, **changes: Any) -> Talk:
        node = new_node(watch_limits, **changes)
        app, gateway = node.application()
        server = Server(app)
        server.cancels = request.param
        return Talk(await aiohttp_client(server), node, gateway)

    return start
