"""The outer edge: who may call, how errors look, what goes on the wire."""

from __future__ import annotations

import asyncio
import gzip
import json
from typing import Any

import pytest

from kv.api.context import ApiSettings
from kv.api.failures import STATUSES, defect_reply, error_reply
from kv.api.guard import Access, host_name
from kv.errors import (
    OutcomeUnknownError,
    OverloadedError,
    StoppingError,
    UnavailableError,
    WrongRegimeError,
)
from raftgroups.refusals import AnswerNotKeptError, TokenTooOldError
from storage.errors import (
    CompactedError,
    CorruptRecordError,
    FutureRevisionError,
    JanusError,
    NoSpaceError,
    WrongShardError,
)

from .conftest import MakeRest, Rest

KEY = "/api/v1/keys/a"


# --- errors ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "status", "outcome", "retryable"),
    [
        (UnavailableError("x"), 503, "none", True),
        (StoppingError("x"), 503, "none", True),
        (OutcomeUnknownError("x"), 504, "unknown", False),
        (TokenTooOldError("x"), 409, "unknown", False),
        (AnswerNotKeptError("x"), 409, "unknown", False),
        (OverloadedError("x", 2.6), 429, "none", True),
        (NoSpaceError("x"), 507, "none", True),
        (CompactedError("x", 7), 410, "none", False),
        (FutureRevisionError("x"), 400, "none", False),
        (WrongShardError("x"), 503, "none", True),
        (CorruptRecordError("x", b"k"), 500, "none", False),
    ],
)
async def test_what_the_regime_answers(
    rest: Rest, error: JanusError, status: int, outcome: str, retryable: bool
) -> None:
    rest.strong.fail_writes = lambda command: error
    answer = await rest.put(KEY)
    assert answer.status == status
    assert answer.status in STATUSES
    assert answer.body["error"] == error.code
    assert (answer.body["outcome"], answer.body["retryable"]) == (outcome, retryable)
    if status == 429:
        assert answer.headers["Retry-After"] == "3"
    if status in (503, 507):
        assert answer.headers["Retry-After"] == "1"
    rest.strong.fail_reads = error
    assert (await rest.get(KEY)).status == status


async def test_a_defect_is_answered_and_logged(
    rest: Rest, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("nobody foresaw this")

    monkeypatch.setattr(rest.strong, "write", broken)
    monkeypatch.setattr(rest.strong, "read", broken)
    answer = await rest.put(KEY)
    assert (answer.status, answer.body["error"]) == (500, "internal")
    assert answer.body["outcome"] == "unknown"
    assert (await rest.get(KEY)).body["outcome"] == "none"
    assert "nobody foresaw this" in caplog.text
    assert "nobody foresaw" not in str(answer.body)


def test_every_error_class_has_a_documented_status() -> None:
    waiting, seen = [JanusError], 0
    while waiting:
        kind = waiting.pop()
        waiting += kind.__subclasses__()
        error = kind.__new__(kind)
        for name, value in (
            ("compact_revision", 1),
            ("version", 1),
            ("near", ()),
            ("allowed", ("GET",)),
            ("retry_after_s", 1.0),
            ("got", 1),
            ("required", 2),
        ):
            setattr(error, name, value)
        reply = error_reply(error)
        body = json.loads(reply.body)
        assert reply.status in STATUSES
        assert body["error"] == kind.code
        assert (body["outcome"] == "unknown") >= (reply.status == 504)
        seen += 1
    assert seen > 40
    assert defect_reply("PUT").status == 500


async def test_a_node_without_a_replica_yet(rest: Rest) -> None:
    rest.strong.gone = True
    assert await rest.refused("GET", "/api/v1/watch?key=a") == (503, "unavailable")
    assert await rest.refused("GET", KEY) == (503, "unavailable")


# --- browsers --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("127.0.0.1:80", True),
        ("localhost", True),
        ("LOCALHOST:7400", True),
        ("[::1]:7400", True),
        ("10.1.2.3", True),
        ("kv.example.org:1", True),
        ("evil.example:7400", False),
        ("127.0.0.1.evil.example", False),
        ("localhost.evil.example", False),
        ("", False),
    ],
)
async def test_hosts(make_rest: MakeRest, host: str, allowed: bool) -> None:
    rest = await make_rest(ApiSettings(Access(hosts=("kv.example.org",))))
    await rest.put(KEY)
    if allowed:
        assert (await rest.get(KEY, Host=host)).status == 200
    else:
        assert await rest.refused("GET", KEY, Host=host) == (403, "host_refused")


def test_host_names() -> None:
    assert host_name("A.b:80") == "a.b"
    assert host_name("[::1]:80") == "::1"
    assert host_name("a") == "a"


async def test_origins(make_rest: MakeRest) -> None:
    rest = await make_rest(ApiSettings(Access(origins=("https://app.example",))))
    evil = await rest.refused("PUT", KEY, {"value": "v"}, Origin="https://evil.example")
    assert evil == (403, "origin_refused")
    assert await rest.refused("GET", KEY, Origin="null") == (403, "origin_refused")
    listed = await rest.ask("PUT", KEY, {"value": "v"}, Origin="https://app.example")
    assert listed.status == 200
    assert listed.headers["Access-Control-Allow-Origin"] == "https://app.example"
    assert "ETag" in listed.headers["Access-Control-Expose-Headers"]
    assert listed.headers["Vary"] == "Origin"
    own = await rest.get(KEY, Origin=f"http://127.0.0.1:{rest.port}")
    assert own.status == 200
    assert "Access-Control-Allow-Origin" not in own.headers
    missing = await rest.get("/api/v1/keys/b", Origin="https://app.example")
    assert missing.headers["Access-Control-Allow-Origin"] == "https://app.example"
    async with rest.stream("/api/v1/watch?key=a", Origin="https://app.example") as response:
        assert response.headers["Access-Control-Allow-Origin"] == "https://app.example"


async def test_preflight(make_rest: MakeRest) -> None:
    rest = await make_rest(ApiSettings(Access(origins=("https://app.example",))))
    asked = await rest.ask(
        "OPTIONS", KEY, Origin="https://app.example", Access_Control_Request_Method="PUT"
    )
    assert asked.status == 204
    assert "PUT" in asked.headers["Access-Control-Allow-Methods"]
    assert "POST" in asked.headers["Access-Control-Allow-Methods"]
    assert "Idempotency-Key" in asked.headers["Access-Control-Allow-Headers"]
    plain = await rest.ask("OPTIONS", "/api/v1/status")
    assert (plain.status, plain.headers["Allow"]) == (204, "GET")
    assert "Access-Control-Allow-Methods" not in plain.headers


async def test_cors_for_anyone_or_nobody(make_rest: MakeRest) -> None:
    anyone = await make_rest(ApiSettings(Access(cors="any")))
    answer = await anyone.ask("PUT", KEY, {"value": "v"}, Origin="https://any.example")
    assert (answer.status, answer.headers["Access-Control-Allow-Origin"]) == (200, "*")
    off = await make_rest(ApiSettings(Access(origins=("https://app.example",), cors="off")))
    answer = await off.ask("PUT", KEY, {"value": "v"}, Origin="https://app.example")
    assert answer.status == 200
    assert "Access-Control-Allow-Origin" not in answer.headers


# --- the wire --------------------------------------------------------------------------------


async def raw(rest: Rest, *pieces: bytes) -> tuple[int, dict[str, str], bytes]:
    """One exchange as bytes; the answer must say how long it is."""
    reader, writer = await asyncio.open_connection("127.0.0.1", rest.port)
    for piece in pieces:
        writer.write(piece)
        await writer.drain()
    async with asyncio.timeout(5):
        head = await reader.readuntil(b"\r\n\r\n")
        status_line, *lines = head.decode().splitlines()
        headers = dict(line.split(": ", 1) for line in lines if line)
        body = await reader.readexactly(int(headers.get("Content-Length", "0")))
    writer.close()
    return int(status_line.split()[1]), headers, body


HEAD = b"PUT /api/v1/keys/a HTTP/1.1\r\nHost: localhost\r\n"


async def test_a_declared_oversized_body_is_refused_at_once(rest: Rest) -> None:
    status, _, body = await raw(rest, HEAD + b"Content-Length: 99999999\r\n\r\n")
    assert (status, json.loads(body)["error"]) == (413, "body_too_large")


async def test_a_chunked_oversized_body_is_refused(rest: Rest) -> None:
    chunk = b"%x\r\n%b\r\n" % (2**20, b"x" * 2**20)
    status, _, body = await raw(rest, HEAD + b"Transfer-Encoding: chunked\r\n\r\n", chunk, chunk)
    assert (status, json.loads(body)["error"]) == (413, "body_too_large")


async def test_a_small_body_that_unpacks_to_a_large_one_is_refused(rest: Rest) -> None:
    bomb = gzip.compress(b"x" * 2**24)
    status, _, body = await raw(
        rest, HEAD + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(bomb), bomb
    )
    assert (status, json.loads(body)["error"]) == (413, "body_too_large")
    not_gzip = b"Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\nxxxx"
    status, _, _ = await raw(rest, HEAD + not_gzip)
    assert status == 400
    assert rest.strong.machine.revision == 1


async def test_a_body_in_pieces(rest: Rest) -> None:
    status, _, body = await raw(
        rest,
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n",
        b'9\r\n{"value":\r\n',
        b'4\r\n"v"}\r\n0\r\n\r\n',
    )
    assert (status, json.loads(body)["status"]) == (200, "created")


async def test_the_absolute_form(rest: Rest) -> None:
    await rest.put(KEY)
    status, _, body = await raw(
        rest, b"GET http://localhost/api/v1/keys/a HTTP/1.1\r\nHost: localhost\r\n\r\n"
    )
    assert (status, json.loads(body)["value"]) == (200, "v")


async def test_a_304_has_no_body_and_the_connection_goes_on(rest: Rest) -> None:
    await rest.put(KEY)
    reader, writer = await asyncio.open_connection("127.0.0.1", rest.port)
    get = b"GET /api/v1/keys/a HTTP/1.1\r\nHost: localhost\r\n"
    writer.write(get + b'If-None-Match: "2"\r\n\r\n' + get + b"\r\n")
    async with asyncio.timeout(5):
        first = await reader.readuntil(b"\r\n\r\n")
        second = await reader.readuntil(b"\r\n\r\n")
    assert first.startswith(b"HTTP/1.1 304")
    assert second.startswith(b"HTTP/1.1 200")
    writer.close()


# --- administration, metrics -----------------------------------------------------------------


async def test_status(rest: Rest) -> None:
    assert (await rest.get("/api/v1/status")).body["node_id"] == "n1"
    cluster = (await rest.get("/api/v1/admin/cluster/status")).body
    assert cluster["nodes"][0]["status"] == "alive"
    assert cluster["replication_factor"] == 1
    assert await rest.refused("GET", "/api/v1/status?x=1") == (400, "invalid_query")


async def test_leader_transfer(rest: Rest) -> None:
    path = "/api/v1/admin/leader/transfer"
    assert (await rest.post(path)).body == {"leader": "n2"}
    moved = await rest.post(path, {"target": "n3"}, Request_Timeout="3")
    assert moved.body == {"leader": "n3"}
    assert rest.node.asked == [(None, None), ("n3", 3.0)]
    rest.node.refusal = UnavailableError("no other node is up")
    assert await rest.refused("POST", path) == (503, "unavailable")
    for body in ({"to": "n3"}, {"target": 3}, {"target": ""}, b"["):
        assert await rest.refused("POST", path, body) == (400, "invalid_body")
    assert await rest.refused("POST", path + "?to=n3") == (400, "invalid_query")
    assert await rest.refused("POST", path, Request_Timeout="soon") == (400, "invalid_header")
    assert len(rest.node.asked) == 3


@pytest.mark.parametrize("body", [None, {}, {"revision": 0}, {"revision": "4"}, {"upto": 4}, b"{"])
async def test_a_compaction_names_a_revision(rest: Rest, body: object) -> None:
    answer = await rest.refused("POST", "/api/v1/admin/compact", body)
    assert answer == (400, "invalid_body")


async def test_the_ring_is_shown_and_repaired(rest: Rest) -> None:
    ring = await rest.get("/api/v1/admin/ring")
    assert (ring.status, ring.body["n"]) == (200, 3)
    assert [member["name"] for member in ring.body["members"]] == ["one"]
    report = await rest.post("/api/v1/admin/repair")
    assert (report.status, report.body["exchanges"]) == (200, 2)
    rest.node.repairs = False
    busy = await rest.ask("POST", "/api/v1/admin/repair")
    assert (busy.status, busy.body["error"]) == (429, "overloaded")
    assert busy.headers["Retry-After"]
    for method, path in (("GET", "/api/v1/admin/ring"), ("POST", "/api/v1/admin/repair")):
        assert await rest.refused(method, path + "?of=a") == (400, "invalid_query")
    rest.node.refusal = WrongRegimeError("nothing is leaderless here")
    for method, path in (("GET", "/api/v1/admin/ring"), ("POST", "/api/v1/admin/repair")):
        assert await rest.refused(method, path) == (400, "wrong_regime")


@pytest.mark.parametrize("depth", [5_000, 100_000])
@pytest.mark.parametrize("field", ["value", "more"])
async def test_a_body_that_nests_too_deep_is_refused(rest: Rest, field: str, depth: int) -> None:
    body = b'{"%b":' % field.encode() + b"[" * depth + b"]" * depth + b"}"
    assert await rest.refused("PUT", "/api/v1/keys/a", body) == (400, "invalid_body")


async def test_every_request_is_observed_once(rest: Rest) -> None:
    await rest.put(KEY)
    await rest.get("/api/v1/keys/b")
    await rest.get("/api/v1/nothing")
    async with rest.lines("/api/v1/watch?key=a") as line:
        await line()
    await rest.until(lambda: len(rest.observed) == 4)
    seen = [(*facts[:3], facts[4]) for facts in rest.observed]
    assert seen == [
        ("/api/v1/keys/{key}", "PUT", 200, "linearizable"),
        ("/api/v1/keys/{key}", "GET", 404, "linearizable"),
        ("unknown", "GET", 404, ""),
        ("/api/v1/watch", "GET", 499, ""),
    ]
    assert all(0 <= facts[3] < 5 for facts in rest.observed)
