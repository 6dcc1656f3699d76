"""Calls over HTTP beyond what was recorded: trouble of the node, limits, side endpoints."""

from __future__ import annotations

import asyncio
import json
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest

from kv.errors import (
    OutcomeUnknownError,
    OverloadedError,
    StoppingError,
    UnavailableError,
)
from kv.etcd.alarms import NOSPACE, Alarms
from kv.etcd.auth import UserBook
from kv.etcd.context import GatewayLimits, Member, uint64_of
from raftgroups.commands import Compact, LeaseGrant, LeaseKeepAlive
from storage.errors import CorruptRecordError, JanusError, NoSpaceError, WrongShardError

Talker = Callable[..., Any]
A = b64encode(b"a").decode()
CALLS = {
    "/v3/kv/range": {"key": A},
    "/v3/kv/put": {"key": A},
    "/v3/kv/deleterange": {"key": A},
    "/v3/kv/txn": {"success": [{"request_put": {"key": A}}]},
    "/v3/kv/compaction": {"revision": 1},
    "/v3/lease/grant": {"TTL": 10},
    "/v3/lease/revoke": {"ID": 5},
    "/v3/lease/timetolive": {"ID": 5},
    "/v3/lease/leases": {},
    "/v3/lease/keepalive": {"ID": 5},
}
TROUBLE = [
    (UnavailableError("no majority"), 503, 14, "etcdserver: no leader"),
    (OutcomeUnknownError("lost"), 503, 14, "etcdserver: request timed out"),
    (StoppingError("bye"), 503, 14, "etcdserver: server stopped"),
    (OverloadedError("full"), 429, 8, "etcdserver: too many requests"),
    (NoSpaceError("full"), 429, 8, "etcdserver: mvcc: database space exceeded"),
    (CorruptRecordError("bad", b"k"), 500, 15, "etcdserver: corrupt cluster"),
    (WrongShardError("use the REST call"), 400, 9, "use the REST call"),
]


@pytest.mark.parametrize(("error", "status", "code", "message"), TROUBLE)
async def test_trouble_has_the_answers_of_etcd(
    talk: Talker, error: JanusError, status: int, code: int, message: str
) -> None:
    one = await talk()
    one.strong.down = error
    for path, body in CALLS.items():
        answer = await one.post(path, body)
        assert answer == (status, {"error": message, "code": code, "message": message}), path


async def test_both_ways_in_answer_the_same_bytes(talk: Talker) -> None:
    """The fast lane calls what the handler calls."""
    one, other = await talk(), await talk()
    bodies = [
        ("/v3/kv/put", {"key": A, "value": A}),
        ("/v3/kv/put", {"key": A, "prev_kv": True}),
        ("/v3/kv/put", {"key": "?"}),
        ("/v3/kv/range", {"key": A}),
        ("/v3/kv/range", {"key": A, "revision": 99}),
        ("/v3/kv/txn", {"success": [{"request_put": {"key": A}}, {"request_range": {"key": A}}]}),
        ("/v3/kv/txn", {"success": [{"request_range": {"key": A}}]}),
        ("/v3/kv/deleterange", {"key": A, "prev_kv": True}),
        ("/v3/kv/compaction", {"revision": 2}),
    ]
    for path, body in bodies:
        data = json.dumps(body).encode()
        answered: asyncio.Future[tuple[int, bytes]] = asyncio.get_running_loop().create_future()
        other.gateway.hot.by_path[path](
            data, lambda status, shown, _=None, /, *, it=answered: it.set_result((status, shown))
        )
        async with one.client.post(path, data=data) as response:
            assert (response.status, await response.read()) == await answered


# --- limits -----------------------------------------------------------------------------------


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_over_the_limit_is_refused(talk: Talker, chunked: bool) -> None:
    one = await talk(limits=GatewayLimits(request_bytes=1000, overhead_bytes=200))

    async def parts() -> AsyncIterator[bytes]:
        for _ in range(30):
            yield b" " * 100

    status, answer = await one.post("/v3/kv/put", parts() if chunked else b" " * 3000)
    assert (status, answer["code"]) == (429, 8)
    assert "larger than max" in answer["message"]
    assert one.strong.written == []


async def test_a_value_over_the_limit_is_not_proposed(talk: Talker) -> None:
    one = await talk()
    value = b64encode(bytes(2**20 + 1)).decode()
    puts = {"success": [{"request_put": {"key": A, "value": value}}]}
    for path, body in (("/v3/kv/put", {"key": A, "value": value}), ("/v3/kv/txn", puts)):
        status, answer = await one.post(path, body)
        assert (status, answer["message"]) == (400, "etcdserver: request is too large")
    big = b64encode(bytes(2**19)).decode()
    many = [{"request_put": {"key": b64encode(b"%d" % n).decode(), "value": big}} for n in range(4)]
    status, answer = await one.post("/v3/kv/txn", {"success": many})
    assert status in (400, 429)
    assert one.strong.written == []


async def test_a_key_over_the_limit_is_named(talk: Talker) -> None:
    one = await talk()
    status, answer = await one.post("/v3/kv/put", {"key": b64encode(b"k" * 433).decode()})
    assert (status, answer["code"]) == (400, 3)
    assert "over the limit of 432 bytes" in answer["message"]
    assert one.strong.written == []


async def test_what_cannot_be_right_is_not_proposed(talk: Talker) -> None:
    one = await talk()
    put = {"request_put": {"key": A}}
    for path, body in (
        ("/v3/kv/put", {}),
        ("/v3/kv/put", {"key": A, "value": A, "ignore_value": True}),
        ("/v3/kv/deleterange", {}),
        ("/v3/kv/txn", {"success": [put, put]}),
        ("/v3/kv/txn", {"failure": [put] * 129}),
        ("/v3/lease/grant", {"TTL": 9_000_000_001}),
    ):
        status, _ = await one.post(path, body)
        assert status == 400, path
    assert one.strong.written == []


# --- heads ------------------------------------------------------------------------------------


async def test_other_origins_only_where_they_are_let_in(talk: Talker) -> None:
    one = await talk(any_origin=False)
    for method, path in (("POST", "/v3/kv/range"), ("OPTIONS", "/v3/kv/range"), ("GET", "/health")):
        async with one.client.request(method, path, data=json.dumps({"key": A})) as response:
            assert response.status == 200
            assert "Access-Control-Allow-Origin" not in response.headers


# --- side endpoints ---------------------------------------------------------------------------


async def test_health_and_readiness(talk: Talker) -> None:
    one = await talk()

    async def get(path: str) -> tuple[int, str]:
        async with one.client.get(path) as response:
            return response.status, await response.text()

    assert await get("/readyz?verbose") == (200, "[+]linearizable_read ok\nok\n")
    assert await get("/livez?verbose") == (200, "[+]serializable_read ok\nok\n")
    one.node.leader = 0
    assert await get("/health") == (503, '{"health":"false","reason":"RAFT NO LEADER"}\n')
    assert await get("/health?serializable=true") == (200, '{"health":"true","reason":""}')
    one.node.has_replica = False  # then a read tells, which others answer
    assert await get("/health") == (200, '{"health":"true","reason":""}')
    one.node.leader, one.node.has_replica = 1, True
    one.strong.down = UnavailableError("no majority answers")
    status, text = await get("/health")
    assert (status, json.loads(text)["reason"]) == (503, "READ ERROR: no majority answers")
    assert await get("/readyz") == (
        503,
        "[-]linearizable_read failed: READ ERROR: no majority answers\n",
    )
    async with one.client.post("/livez") as response:
        assert (response.status, response.headers["Allow"]) == (405, "GET")


async def test_a_disk_that_is_nearly_full_is_an_alarm(talk: Talker) -> None:
    found = [(5, NOSPACE)]
    one = await talk(alarms=Alarms(lambda: found))
    _, answer = await one.post("/v3/maintenance/alarm", {"action": "GET"})
    assert answer["alarms"] == [{"memberID": "5", "alarm": "NOSPACE"}]
    _, answer = await one.post("/v3/maintenance/status", {})
    assert answer["errors"] == ["memberID:5 alarm:NOSPACE "]
    async with one.client.get("/health") as response:
        assert response.status == 503
        assert await response.text() == '{"health":"false","reason":"ALARM NOSPACE"}\n'
    status, _ = await one.post("/v3/kv/put", {"key": A})
    assert status == 200  # the regime knows better what still fits
    clear = {"action": "DEACTIVATE", "memberID": 5, "alarm": "NOSPACE"}
    _, answer = await one.post("/v3/maintenance/alarm", clear)
    assert "alarms" not in answer
    found.clear()
    async with one.client.get("/health") as response:
        assert response.status == 200


# --- leases -----------------------------------------------------------------------------------


async def test_ids_that_the_server_chooses_differ(talk: Talker) -> None:
    one = await talk()
    ids = {(await one.post("/v3/lease/grant", {"TTL": 60}))[1]["ID"] for _ in range(20)}
    assert len(ids) == 20
    assert all(0 < int(lease) < 2**63 for lease in ids)


async def test_keeping_alive_while_the_body_goes_on(talk: Talker) -> None:
    one = await talk()
    one.strong.apply(LeaseGrant(7, 600))
    given: asyncio.Queue[bytes | None] = asyncio.Queue()

    async def body() -> AsyncIterator[bytes]:
        while (part := await given.get()) is not None:
            yield part

    given.put_nowait(b'{"ID":7}')
    stream = await one.open("/v3/lease/keepalive", body())
    assert (await stream.result())["TTL"] == "600"
    for part in (b'{"I', b'D":"7"}'):
        given.put_nowait(part)
    assert (await stream.result())["TTL"] == "600"
    given.put_nowait(None)
    assert await stream.next() is None
    assert one.strong.written[1:] == [LeaseKeepAlive((7,))] * 2


async def test_trouble_within_a_stream_is_its_last_message(talk: Talker) -> None:
    one = await talk()
    one.strong.apply(LeaseGrant(7, 600))
    given: asyncio.Queue[bytes | None] = asyncio.Queue()

    async def body() -> AsyncIterator[bytes]:
        while (part := await given.get()) is not None:
            yield part

    given.put_nowait(b'{"ID":7}')
    stream = await one.open("/v3/lease/keepalive", body())
    await stream.result()
    one.strong.down = UnavailableError("no majority")
    given.put_nowait(b'{"ID":7}')
    assert (await stream.next())["error"] == {
        "grpc_code": 14,
        "http_code": 503,
        "message": "etcdserver: no leader",
        "http_status": "Service Unavailable",
    }
    given.put_nowait(None)
    assert await stream.next() is None


# --- maintenance ------------------------------------------------------------------------------


async def test_hashes_say_whether_two_stores_are_equal(talk: Talker) -> None:
    one, other = await talk(limits=GatewayLimits(hash_keys_a_step=3)), await talk()

    async def hashed(of: Any, revision: int = 0) -> Any:
        _, answer = await of.post("/v3/maintenance/hashkv", {"revision": revision})
        return answer["hash"], answer["hash_revision"]

    for each in (one, other):
        for number in range(10):
            await each.put(f"k{number}", "v")
    assert await hashed(one) == await hashed(other)
    before = await hashed(one)
    assert before[1] == "11"
    await one.put("k3", "changed")
    assert (await hashed(one))[0] != (await hashed(other))[0]
    assert await hashed(one, 11) == before
    _, answer = await one.post("/v3/maintenance/hash", {})
    assert answer["hash"] == (await hashed(one))[0]
    assert isinstance(answer["hash"], int)
    one.strong.apply(Compact(12))
    status, answer = await one.post("/v3/maintenance/hashkv", {"revision": 11})
    assert (status, answer["code"]) == (400, 11)


async def test_a_snapshot_is_a_stream_of_parts(talk: Talker) -> None:
    one = await talk()
    stream = await one.open("/v3/maintenance/snapshot", {})
    first, last = await stream.result(), await stream.result()
    assert (first["remaining_bytes"], first["blob"]) == ("3", b64encode(b"abc").decode())
    assert "remaining_bytes" not in last
    assert last["blob"] == b64encode(b"def").decode()
    assert await stream.next() is None
    without = await talk(snapshot=None)
    status, answer = await without.post("/v3/maintenance/snapshot", {})
    assert (status, answer["code"]) == (501, 12)


class Changes:
    def __init__(self) -> None:
        self.made: list[Any] = []

    async def add(self, peer_urls: Sequence[str], is_learner: bool) -> Member:
        self.made.append(("add", list(peer_urls), is_learner))
        return Member(99, "", tuple(peer_urls), (), is_learner)

    async def remove(self, member: int) -> None:
        self.made.append(("remove", member))

    async def update(self, member: int, peer_urls: Sequence[str]) -> None:
        self.made.append(("update", member, list(peer_urls)))

    async def promote(self, member: int) -> None:
        raise AssertionError("nobody is a learner")


async def test_members_are_changed_by_whoever_can(talk: Talker) -> None:
    changes = Changes()
    one, without = await talk(change_members=changes), await talk()
    _, answer = await one.post("/v3/cluster/member/list", {})
    me = answer["members"][0]["ID"]
    url = "http://127.0.0.1:7411"
    calls = {
        "add": {"peerURLs": [url], "isLearner": True},
        "update": {"ID": me, "peerURLs": [url]},
        "remove": {"ID": me},
    }
    for name, body in calls.items():
        status, answer = await one.post(f"/v3/cluster/member/{name}", body)
        assert status == 200, answer
        assert "revision" not in answer["header"]
        assert answer.get("member", {}).get("isLearner", False) is (name == "add")
        status, answer = await without.post(f"/v3/cluster/member/{name}", body)
        assert (status, answer["code"]) == (501, 12)
    member = int(me)
    assert changes.made == [("add", [url], True), ("update", member, [url]), ("remove", member)]


async def test_users_are_not_stored_where_nobody_keeps_them(talk: Talker) -> None:
    one = await talk(users=UserBook(read_only=True))
    status, answer = await one.post("/v3/auth/user/add", {"name": "root", "password": "x"})
    assert (status, answer["code"]) == (501, 12)
    status, answer = await one.post("/v3/auth/user/list", {})
    assert (status, "users" in answer) == (200, False)


async def test_leadership_is_moved_by_whoever_can(talk: Talker) -> None:
    moved: list[int] = []

    async def transfer(member: int) -> None:
        moved.append(member)

    one, without = await talk(transfer_leadership=transfer), await talk()
    _, answer = await one.post("/v3/cluster/member/list", {})
    body = {"targetID": answer["members"][0]["ID"]}
    one.node.leader = without.node.leader = 1
    assert await one.post("/v3/maintenance/transfer-leadership", body) == (200, {})
    assert moved == [int(body["targetID"])]
    status, _ = await without.post("/v3/maintenance/transfer-leadership", body)
    assert status == 501


def test_ids_of_nodes_are_stable_numbers() -> None:
    assert uint64_of("node-1") == uint64_of("node-1") != uint64_of("node-2")
    assert 0 < uint64_of("") < 2**64
