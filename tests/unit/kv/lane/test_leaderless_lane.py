"""The leaderless lane: the same bytes with it and without it give the same answers.

The regime is one record store in memory whose dots and times are counted, so that two servers that
were asked the same answer the same, contexts included.
"""

from __future__ import annotations

import asyncio
import json
from random import Random
from typing import Any

import pytest

from kv.api.context import Api, ApiSettings
from kv.api.guard import Access
from kv.api.leaderless.face import Face
from kv.api.leaderless.hot import Codecs
from kv.api.leaderless.side import add_side_routes
from kv.errors import KeyspaceNotFoundError, OverloadedError
from kv.lane.assemble import make_leaderless_lane
from kv.lane.lane import LaneLimits
from kv.leaderless.context import ContextCodec
from kv.leaderless.dvv import Minter, context_of
from kv.leaderless.get_core import GetResult
from kv.leaderless.hlc import HybridClock
from kv.leaderless.keyspace import PLAIN, Keyspace, Wish, read_quorum, write_quorum
from kv.leaderless.put_core import Written
from kv.leaderless.quorum import Level, WriteQuorumError
from kv.leaderless.rules import Write, apply_write
from kv.leaderless.session import SessionCodec
from raftgroups.transport import NodeId
from storage.clock import ManualClock
from storage.errors import JanusError
from storage.objects import Record
from storage.siblings import SiblingSet

from .conftest import (
    HEADER_MAX_BYTES,
    REQUEST_MAX_BYTES,
    Direct,
    Pair,
    Server,
    cut_as_lane,
)

NODES = (NodeId("n1"), NodeId("n2"), NodeId("n3"))
NOW_MS = 1_700_000_000_000


class Counted(Direct):
    """A leaderless regime. It stands where the lane's tests have their strong one, too, so that
    they can begin it anew for each case."""

    def restart(self, seed: int) -> None:
        super().restart(seed)
        self.records: dict[bytes, Record] = {}
        self.epochs = 0
        self.hybrid = HybridClock()
        self.refusal: JanusError | None = None

    def _epoch(self) -> int:
        self.epochs += 1
        return self.epochs

    def put(self, keyspace: int, key: bytes, change: Any, done: Any, wish: Wish = PLAIN) -> None:
        self._later(done, self._put(key, change, wish))

    def _put(self, key: bytes, change: Any, wish: Wish) -> Written | JanusError:
        try:
            write_quorum(SPACE, wish, 3)
            record = apply_write(
                SPACE.rule,
                self.records.get(key),
                change,
                minter=Minter(NODES[0], 1, self._epoch),
                clock=self.hybrid,
                now_ms=NOW_MS,
            )
        except JanusError as error:
            return error
        if key == b"busy":
            return OverloadedError("nothing was done: 8192 requests are under way on this node")
        if key == b"alone":
            return WriteQuorumError("1 of 2 replicas have this write", got=1, required=2)
        self.records[key] = record
        assert isinstance(change, Write)
        return Written(context_of(record.siblings), NODES[:2], (), Level.QUORUM)

    def get(self, keyspace: int, key: bytes, done: Any, wish: Wish = PLAIN, **more: Any) -> None:
        try:
            read_quorum(SPACE, wish, 3)
            record = self.records.get(key)
            found = SiblingSet() if record is None else record.siblings
            answer: Any = GetResult(found, NODES[:2], NODES[1:2], Level.QUORUM)
        except JanusError as error:
            answer = error
        self._later(done, answer)


SPACE = Keyspace()
SECRET = [b"the cluster's"]


class LeaderlessServer(Server):
    def __init__(self, access: Access) -> None:
        super().__init__(access, cors_any=False)
        self.strong = Counted()
        codecs = Codecs(ContextCodec(SECRET), SessionCodec(SECRET))
        clock = ManualClock()
        clock.advance(NOW_MS / 1000)
        self.face = Face(self.strong, SPACE, codecs, clock)  # type: ignore[arg-type]
        self.carts = Face(self.strong, Keyspace(2), codecs, clock)  # type: ignore[arg-type]
        node: Any = None
        self.api = Api(
            self.strong,
            node,
            clock=self.clock,
            rng=Random(1),
            settings=ApiSettings(access, REQUEST_MAX_BYTES),
            leaderless=self.face,
            others=self._named,
        )
        from aiohttp import web

        from kv.api import app as rest

        self.app = web.Application(client_max_size=REQUEST_MAX_BYTES)
        rest.install_guard(self.app, access, rest.add_routes(self.app, self.api).router)
        add_side_routes(self.app, lambda: "")
        self.runner = web.AppRunner(
            self.app,
            handler_cancellation=True,
            access_log=None,
            max_line_size=HEADER_MAX_BYTES,
            max_field_size=HEADER_MAX_BYTES,
            shutdown_timeout=0.1,
        )

    def _named(self, name: str) -> Any:
        if name == "carts":
            return self.carts
        raise KeyspaceNotFoundError(f"there is no keyspace {name!a}")

    async def start(self, *, lane: bool, limits: LaneLimits | None = None) -> None:
        await self.runner.setup()
        assert self.runner.server is not None
        if lane:
            self.lane = make_leaderless_lane(
                loop=asyncio.get_running_loop(),
                api=self.api,
                face=self.face,
                server=self.runner.server,
                endpoint=self.endpoint,
                limits=limits or LaneLimits(),
            )
            self.lane.start()
            self._hand_over, self.lane.hand_over = self.lane.hand_over, self._handed  # type: ignore


def ask(method: str, target: str, body: Any = None, *headers: str) -> bytes:
    raw = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"{method} {target} HTTP/1.1", "Host: 127.0.0.1:7400", *headers]
    if body is not None:
        lines.append(f"Content-Length: {len(raw)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + raw


def put(key: str = "a", value: str = "1", *headers: str, **fields: Any) -> bytes:
    return ask("PUT", f"/api/v1/keys/{key}", {"value": value, **fields}, *headers)


def get(key: str = "a", *headers: str) -> bytes:
    return ask("GET", f"/api/v1/keys/{key}", None, *headers)


HOT = {
    "put and get": put() + get(),
    "siblings": put() + put(value="2") + get(),
    "equal siblings": put() + put() + get(),
    "delete": put() + ask("DELETE", "/api/v1/keys/a") + get(),
    "nothing there": get("none"),
    "levels": put("a", "1", "Consistency-Level: ALL") + get("a", "Consistency-Level: one"),
    "session": put("a", "1", "Session-Token: new") + get("a", "Session-Token: new"),
    "bad session": get("a", "Session-Token: zzzz"),
    "bad context": put("a", "1", "X-Causal-Context: AAAA"),
    "no context": put(context="!"),
    "ttl": put(ttl=50) + get(),
    "lease": put(lease="7"),
    "bad json": ask("PUT", "/api/v1/keys/a", b"{"),
    "too long a key": put("k" * 500),
    "binary": put("%FF", "/wA=", encoding="base64") + get("%FF"),
    "slashes": put("a%2Fb/c.d") + get("a/b/c.d"),
    "overload": put("busy") + get("busy"),
    "too few": put("alone") + get("alone"),
    "of a keyspace": ask("PUT", "/api/v1/keys/a?keyspace=carts", {"value": "1"})
    + ask("GET", "/api/v1/keys/a?keyspace=carts")
    + ask("DELETE", "/api/v1/keys/a?keyspace=carts"),
    "many puts": b"".join(put(f"k{number}") for number in range(40)) + get("k7"),
}
HANDED = {
    "unknown level": get("a", "Consistency-Level: LINEARIZABLE"),
    "condition": put("a", "1", 'If-Match: "7"'),
    "idempotency": put("a", "1", "Idempotency-Key: c:1"),
    "query": ask("GET", "/api/v1/keys/a?r=ALL"),
    "query beyond": ask("GET", "/api/v1/keys/a?r=4"),
    "of an unknown keyspace": ask("GET", "/api/v1/keys/a?keyspace=none"),
    "cas in a keyspace": ask("POST", "/api/v1/keys/a/cas?keyspace=carts", {"new_value": "1"}),
    "level in a keyspace": ask(
        "GET", "/api/v1/keys/a?keyspace=carts", None, "Consistency-Level: LINEARIZABLE"
    ),
    "cas": ask("POST", "/api/v1/keys/a/cas", {"new_value": "1", "expected_version": 0}),
    "increment": ask("POST", "/api/v1/keys/n/incr", {"delta": "x"}),
    "delete with a body": put() + ask("DELETE", "/api/v1/keys/a", {}) + get(),
    "head": put() + ask("HEAD", "/api/v1/keys/a"),
    "etcd": ask("POST", "/v3/kv/range", {"key": "YQ=="}),
    "elsewhere": put() + ask("GET", "/readyz") + get(),
}


@pytest.fixture
async def pair() -> Any:
    with_lane, without = LeaderlessServer(Access()), LeaderlessServer(Access())
    await with_lane.start(lane=True)
    await without.start(lane=False)
    yield Pair(with_lane, without)
    for server in (with_lane, without):
        await server.stop()


@pytest.mark.parametrize("name", [*HOT, *HANDED])
async def test_both_lanes_answer_alike(pair: Any, name: str) -> None:
    raw = {**HOT, **HANDED}[name]
    outcome = await pair.same(raw)
    assert outcome.answers.startswith(b"HTTP/1.1 ")


@pytest.mark.parametrize("name", HOT)
async def test_the_hot_ones_are_answered_by_the_lane(pair: Any, name: str) -> None:
    """Else the comparison would compare aiohttp with itself."""
    await pair.same(HOT[name])
    wire = pair.with_lane.connect()
    wire.protocol.data_received(HOT[name])
    assert type(wire.protocol).__name__ == "Connection"
    wire.abort()


async def test_split_at_every_byte(pair: Any) -> None:
    raw = HOT["siblings"]
    for at in range(1, len(raw), 3):
        await pair.same(raw[:at], raw[at:], seed=at)
    assert cut_as_lane([raw], range(len(raw), len(raw)))
