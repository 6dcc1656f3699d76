"""The REST face over one machine in memory, served by aiohttp on loopback.

`Direct` is a regime without Raft: commands are applied at once, answers come in the next pass of
the loop. Tests turn its knobs: an answer that fails, time that passes, a compaction.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from io import BytesIO
from random import Random
from typing import Any, NamedTuple

import pytest
from aiohttp import ClientResponse, ClientSession, web
from yarl import URL

from kv.api.admin_bodies import (
    ClusterState,
    NodeState,
    NodeStatus,
    RepairReply,
    RingMember,
    RingState,
    ShardState,
)
from kv.api.app import RUNNER_OPTIONS, make_app
from kv.api.context import Api, ApiSettings, Keyspaces
from kv.api.leaderless.face import Face
from kv.api.leaderless.hot import Codecs
from kv.cluster.mail import Mail
from kv.cluster.tasks import Tasks
from kv.errors import UnavailableError
from kv.leaderless.assembly import Leaderless
from kv.leaderless.context import ContextCodec
from kv.leaderless.keyspace import PLAIN, Keyspace, Wish
from kv.leaderless.listing import Lister
from kv.leaderless.rules import Rule
from kv.leaderless.session import SessionCodec
from kv.leaderless.watching import Watching
from kv.model import PLAIN_READ, PLAIN_WRITE, ReadOptions, WriteOptions
from kv.placement.service import PlacementService
from kv.strong.reader import ReplicaReader
from kv.watch.watcher import WatchLimits
from raftgroups.commands import Command, Expire, Tick, encode
from raftgroups.machine_parts import ShardPlace
from raftgroups.results import Failure, error_of
from raftgroups.transport import FrameHandler, NodeId, PeerHandler
from storage.committer import Committer
from storage.errors import JanusError
from storage.memory import MemoryEngine
from storage.system_clock import SystemClock
from storage.writers import InlineWriter
from tests.unit.kv.direct import DirectShard

SHARD = 3
WALL_MS = 1_700_000_000_000
"""The first write's time; each write's is one later."""


class Direct(DirectShard):
    """A Strong."""

    def __init__(self) -> None:
        super().__init__(ShardPlace(1, SHARD, 1, 1), SystemClock(), WatchLimits())
        self.clock_ms = 1_000
        self.index = 0
        self.commands: list[Command] = []
        self.options: list[Any] = []
        self.fail_writes: Callable[[Command], JanusError | None] = lambda command: None
        self.fail_reads: JanusError | None = None
        self.gone = False

    def now_ms(self) -> int:
        return self.clock_ms

    def write(
        self,
        command: Command,
        done: Callable[[Any], None],
        options: WriteOptions = PLAIN_WRITE,
    ) -> None:
        self.commands.append(command)
        self.options.append(options)
        error = self.fail_writes(command)
        answer = error or self.apply(command, options)
        asyncio.get_running_loop().call_soon(done, answer)

    def apply(self, command: Command, options: WriteOptions = PLAIN_WRITE) -> Any:
        try:
            payload = encode(command, options.token, self.clock_ms, WALL_MS + self.index)
        except JanusError as error:
            return error
        self.index += 1
        answer = self.apply_payload(self.index, payload)
        return error_of(answer) if isinstance(answer, Failure) else answer

    def pass_time(self, seconds: float) -> None:
        """The shard's clock goes on, and what is over is expired."""
        self.clock_ms += round(seconds * 1000)
        self.apply(Tick())
        while (due := self.machine.due(self.clock_ms)) is not None:
            assert isinstance(due, Expire)
            self.apply(due)

    def read(
        self,
        evaluate: Callable[[Any], Any],
        done: Callable[[Any], None],
        options: ReadOptions = PLAIN_READ,
    ) -> None:
        self.options.append(options)
        try:
            answer = self.fail_reads or evaluate(self.local())
        except JanusError as error:
            answer = error
        asyncio.get_running_loop().call_soon(done, answer)

    def local(self) -> ReplicaReader:
        if self.gone:
            raise UnavailableError("there is no replica here yet; try again")
        return self.reader(1)

    @property
    def watchers(self) -> int:
        """That exist now, whatever their state."""
        return sum(sum(hub.statistics()[:5]) for hub in self.hubs)

    @property
    def term(self) -> int:
        return 5


class OneNode:
    """A Node."""

    def __init__(self) -> None:
        self.asked: list[tuple[str | None, float | None]] = []
        self.refusal: JanusError | None = None
        self.repairs = True

    def status(self) -> NodeStatus:
        return NodeStatus(
            node_id="n1",
            name="one",
            version="0",
            mode="strong",
            role="leader",
            leader="n1",
            term=5,
            revision=1,
            compact_revision=0,
            applied_index=9,
            commit_index=9,
            lag=0,
            uptime_s=1.5,
            data_bytes=10,
            memory_used_mb=1.0,
            keys_count=1,
            watchers=0,
            problems=[],
        )

    async def cluster(self) -> ClusterState:
        node = NodeState("n1", "one", "127.0.0.1:7400", "alive", "leader", 1, 1.0, 0)
        return ClusterState("c", [node], [ShardState(SHARD, "n1", 5, 1, ["n1"])], 1, 1)

    def repair(self, done: Callable[[RepairReply], None]) -> bool:
        if self.refusal is not None:
            raise self.refusal
        if self.repairs:
            done(RepairReply(2, 1, 3, 4, 5, 600, 0, {}))
        return self.repairs

    def ring(self) -> RingState:
        if self.refusal is not None:
            raise self.refusal
        member = RingMember("n1", "one", "A", 1.0, 256, True)
        return RingState("00", 3, [member], "A" * 16)

    async def transfer_leader(self, target: str | None, deadline_s: float | None) -> str:
        self.asked.append((target, deadline_s))
        if self.refusal is not None:
            raise self.refusal
        return target or "n2"


class NoLink:
    """A Link of a node that has no peers."""

    def send(self, peer: NodeId, channel: str, frame: bytes, *, at_once: bool = False) -> bool:
        return False

    def push(self) -> None:
        pass

    def connected(self, peer: NodeId) -> bool:
        return False

    def subscribe(self, channel: str, handler: FrameHandler) -> None:
        pass

    def on_peer_change(self, handler: PeerHandler) -> None:
        pass

    def set_peer(self, peer: NodeId, address: tuple[str, int]) -> None:
        pass

    def remove_peer(self, peer: NodeId) -> None:
        pass


class Single:
    """A leaderless node in memory, alone. `fail`: what the next calls are answered with instead."""

    def __init__(self, rule: Rule = Rule.SIBLINGS) -> None:
        loop, clock, rng = asyncio.get_running_loop(), SystemClock(), Random(11)
        engine = MemoryEngine(clock=clock)
        committer = Committer(
            engine,
            InlineWriter(clock),
            loop,
            clock,
            on_fatal=lambda error: self.fatal.append(error),
        )
        self.fatal: list[BaseException] = []
        self.space = Keyspace(rule=rule)
        self.own = Leaderless(
            node=NodeId("n1"),
            directory_incarnation=1,
            engine=engine,
            committer=committer,
            link=NoLink(),
            post=Mail(NoLink(), loop),
            clock=clock,
            scheduler=loop,
            rng=rng,
            keyspaces={self.space.number: self.space},
        )
        self.own.start([NodeId("n1")])
        self.fail: JanusError | None = None
        self.wishes: list[Wish] = []
        codecs = Codecs(ContextCodec([b"secret"]), SessionCodec([b"secret"]))
        look = Mail(NoLink(), loop, "look")
        self.tasks = Tasks(loop, lambda _, error: self.fatal.append(error))
        self.watching = Watching(self.own, look, self.tasks, loop, clock)
        self.face = Face(self, self.space, codecs, clock, Lister(self.own, look), self.watching)

    def put(self, keyspace: int, key: bytes, change: Any, done: Any, wish: Wish = PLAIN) -> None:
        self.wishes.append(wish)
        if self.fail is not None:
            asyncio.get_running_loop().call_soon(done, self.fail)
            return
        self.own.coordinator.put(keyspace, key, change, done, wish)

    def get(self, keyspace: int, key: bytes, done: Any, wish: Wish = PLAIN, **more: Any) -> None:
        self.wishes.append(wish)
        if self.fail is not None:
            asyncio.get_running_loop().call_soon(done, self.fail)
            return
        self.own.coordinator.get(keyspace, key, done, wish, **more)

    async def stop(self) -> None:
        self.own.stop()
        await self.tasks.close()
        assert self.fatal == []


class Answer(NamedTuple):
    status: int
    body: Any
    headers: Any
    raw: bytes


class Rest:
    """A served face and a client; paths go out exactly as they are written."""

    def __init__(self, strong: Direct, node: OneNode, api: Api, port: int) -> None:
        self.strong = strong
        self.node = node
        self.api = api
        self.port = port
        self.session = ClientSession(auto_decompress=False)
        self.observed: list[tuple[str, str, int, float, str]] = []

    def url(self, path: str) -> URL:
        return URL(f"http://127.0.0.1:{self.port}{path}", encoded=True)

    async def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """`body`: bytes as they are, anything else as JSON. Underscores in header names are
        hyphens."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        sent = BytesIO(data) if data else None  # large bytes by themselves make aiohttp warn
        async with self.session.request(
            method, self.url(path), data=sent, headers=named
        ) as response:
            raw = await response.read()
            kind = response.headers.get("Content-Type", "")
            parsed = json.loads(raw) if raw and kind.startswith("application/json") else None
            return Answer(response.status, parsed, response.headers, raw)

    async def get(self, path: str, **headers: str) -> Answer:
        return await self.ask("GET", path, **headers)

    async def put(self, path: str, value: str = "v", **fields: Any) -> Answer:
        return await self.ask("PUT", path, {"value": value, **fields})

    async def post(self, path: str, body: Any = None, **headers: str) -> Answer:
        return await self.ask("POST", path, body, **headers)

    async def refused(
        self, method: str, path: str, body: Any = None, **headers: str
    ) -> tuple[int, str]:
        """Status and code of an error, which must have every field and have changed nothing."""
        revision = self.strong.machine.revision
        answer = await self.ask(method, path, body, **headers)
        assert answer.status >= 400, answer
        assert answer.body["outcome"] == "none", answer.body
        assert isinstance(answer.body["retryable"], bool)
        assert len(answer.body["message"]) > 10
        assert self.strong.machine.revision == revision
        return answer.status, answer.body["error"]

    @asynccontextmanager
    async def stream(self, path: str, **headers: str) -> AsyncIterator[ClientResponse]:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.session.get(self.url(path), headers=named) as response:
            yield response

    @asynccontextmanager
    async def lines(self, path: str) -> AsyncIterator[Callable[[], Awaitable[Any]]]:
        """The next line of an NDJSON stream; None at its end."""
        async with self.stream(path) as response:
            assert response.status == 200, await response.read()

            async def following() -> Any:
                line = await asyncio.wait_for(response.content.readline(), 5)
                return json.loads(line) if line else None

            yield following

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not condition():  # noqa: ASYNC110 - what it looks at tells nobody
                await asyncio.sleep(0.005)


MakeRest = Callable[..., Awaitable[Rest]]


@pytest.fixture
async def make_rest() -> AsyncIterator[MakeRest]:
    made: list[tuple[Rest, web.AppRunner]] = []

    async def make(
        settings: ApiSettings | None = None,
        leaderless: Single | None = None,
        placement: PlacementService | None = None,
        keyspaces: Keyspaces | None = None,
    ) -> Rest:
        strong, node = Direct(), OneNode()
        observed: list[tuple[str, str, int, float, str]] = []
        api = Api(
            strong,
            node,
            clock=SystemClock(),
            rng=Random(7),
            settings=settings,
            observe=lambda *facts: observed.append(facts),
            leaderless=None if leaderless is None else leaderless.face,
            placement=placement,
            keyspaces=keyspaces,
        )
        runner = web.AppRunner(make_app(api), shutdown_timeout=1.0, **RUNNER_OPTIONS)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        rest = Rest(strong, node, api, runner.addresses[0][1])
        rest.observed = observed
        made.append((rest, runner))
        return rest

    yield make
    for rest, runner in made:
        await rest.session.close()
        await runner.cleanup()
        rest.strong.stop()


@pytest.fixture
async def rest(make_rest: MakeRest) -> Rest:
    return await make_rest()
