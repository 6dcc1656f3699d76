"""The leaderless face over one node in memory: bodies, contexts, siblings, sessions, refusals."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import AsyncIterator
from email.parser import BytesParser
from typing import Any

import pytest

from kv.errors import OutcomeUnknownError, OverloadedError
from kv.leaderless.quorum import UnavailableError, WriteQuorumError
from kv.leaderless.rules import Rule
from storage.errors import JanusError

from .conftest import Answer, MakeRest, Rest, Single

K = "/api/v1/keys/k"
RAW = "/v1/kv/k"


@pytest.fixture
async def single() -> AsyncIterator[Single]:
    made = Single()
    yield made
    await made.stop()


@pytest.fixture
async def face(make_rest: MakeRest, single: Single) -> Rest:
    return await make_rest(leaderless=single)


async def refused(face: Rest, method: str, path: str, body: Any = None, **headers: str) -> Answer:
    answer = await face.ask(method, path, body, **headers)
    assert answer.status >= 400, answer
    assert len(answer.body["message"]) > 10
    return answer


# --- one key ---------------------------------------------------------------------------------


async def test_a_value_and_its_context_go_round(face: Rest) -> None:
    written = await face.put(K, "1")
    assert written.status == 200
    assert written.headers["Consistency-Level"] == "ALL"
    assert written.body["replicas"] == ["n1"]
    assert written.body["fallbacks"] == []
    assert written.body["level"] == "ALL"
    found = await face.get(K)
    assert found.body["value"] == "1"
    assert found.body["ttl_remaining"] is None
    assert found.body["timestamp"] > 1_600_000_000_000
    assert "siblings" not in found.body
    again = await face.put(K, "2", context=found.body["context"])
    assert (await face.get(K)).body["value"] == "2"
    third = await face.put(K, "3", context=again.body["context"])
    assert (await face.get(K)).body["value"] == "3"
    gone = await face.ask("DELETE", K, {"context": third.body["context"]})
    assert gone.status == 200
    missing = await face.get(K)
    assert missing.status == 404
    assert missing.body["error"] == "key_not_found"
    assert missing.body["context"]


async def test_a_write_without_a_context_makes_siblings_and_one_with_it_settles(
    face: Rest,
) -> None:
    await face.put(K, "1")
    await face.put(K, "2", ttl=100)
    found = await face.get(K)
    assert "value" not in found.body
    one, two = found.body["siblings"]
    assert (one["value"], two["value"]) == ("1", "2")
    assert one["ttl_remaining"] is None
    assert 90 < two["ttl_remaining"] <= 100
    await face.put(K, "both", context=found.body["context"])
    assert (await face.get(K)).body["value"] == "both"


async def test_equal_siblings_are_shown_once_and_covered_twice(face: Rest) -> None:
    await face.put(K, "same")
    await face.put(K, "same", ttl=50)
    found = await face.get(K)
    assert found.body["value"] == "same"
    assert found.body["ttl_remaining"] is None
    await face.ask("DELETE", K, X_Causal_Context=found.body["context"])
    assert (await face.get(K)).status == 404


async def test_bytes_that_are_no_text(face: Rest) -> None:
    value = b64encode(b"\xff\x00").decode()
    await face.ask("PUT", "/api/v1/keys/%FF", {"value": value, "encoding": "base64"})
    found = (await face.get("/api/v1/keys/%FF")).body
    assert (found["value"], found["encoding"], found["key_encoding"]) == (value, "base64", "base64")


async def test_the_raw_face(face: Rest) -> None:
    first = await face.ask("PUT", RAW, b"\xff1")
    assert first.status == 200
    found = await face.get(RAW)
    assert (found.status, found.raw) == (200, b"\xff1")
    context = found.headers["X-Causal-Context"]
    assert found.headers["Replicas"] == "n1"
    await face.ask("PUT", RAW, b"2", X_Causal_Context=context)
    await face.ask("PUT", RAW, b"--x\r\n")
    several = await face.get(RAW)
    assert several.status == 300
    assert [each["value"] for each in several.body["siblings"]] == ["2", "--x\r\n"]
    assert several.body["context"] == several.headers["X-Causal-Context"]
    parts = await face.get(RAW, Accept="multipart/mixed")
    assert parts.status == 300
    head = f"Content-Type: {parts.headers['Content-Type']}\r\n\r\n".encode()
    message = BytesParser().parsebytes(head + parts.raw)
    assert message.is_multipart()
    assert len(message.get_payload()) == 2
    seen = await face.ask("HEAD", RAW)
    assert (seen.status, seen.raw) == (300, b"")
    await face.ask("PUT", RAW + "?ttl=0.001", b"3", X_Causal_Context=context)
    assert (await face.ask("HEAD", "/v1/kv/none")).status == 404


async def test_increments(face: Rest) -> None:
    assert (await face.post(K + "/incr", {"delta": 5})).body["value"] == 5
    added = await face.post(K + "/incr")
    assert added.body["value"] == 6
    assert added.body["level"] == "ALL"
    assert (await face.get(K)).body["value"] == "6"
    await face.put(K, "x")
    assert sorted(each["value"] for each in (await face.get(K)).body["siblings"]) == ["6", "x"]
    answer = await refused(face, "POST", K + "/incr")
    assert (answer.status, answer.body["error"]) == (409, "not_a_counter")


async def test_time_to_live(face: Rest) -> None:
    assert (await face.post(K + "/ttl", {"ttl_seconds": 5})).status == 404
    await face.put(K, "1")
    assert (await face.post(K + "/ttl", {"ttl_seconds": 50})).body["ttl_remaining"] == 50
    assert 40 < (await face.get(K)).body["ttl_remaining"] <= 50
    assert (await face.post(K + "/ttl", {"ttl_seconds": None})).body["ttl_remaining"] is None
    assert (await face.get(K)).body["ttl_remaining"] is None
    await face.put(K, "2")
    answer = await refused(face, "POST", K + "/ttl", {"ttl_seconds": 5})
    assert (answer.status, answer.body["error"]) == (409, "has_siblings")
    await face.post("/api/v1/keys/n/incr")
    answer = await refused(face, "POST", "/api/v1/keys/n/ttl", {"ttl_seconds": 5})
    assert answer.status == 400


async def test_a_value_that_expired_is_gone(face: Rest) -> None:
    await face.put(K, "1", ttl=0.001)

    async def gone() -> bool:
        return (await face.get(K)).status == 404

    for _ in range(200):
        if await gone():
            return
    raise AssertionError("it lives on")


# --- quorum, session, context ----------------------------------------------------------------


async def test_how_a_quorum_is_asked_for(face: Rest, single: Single) -> None:
    await face.put(K, "1")
    for path, headers, wish in (
        (K, {"Consistency_Level": "one"}, ("ONE", None, None, None)),
        (K + "?r=1&pr=ALL&strict=true", {}, ("1", "ALL", True, None)),
        (K, {"Request_Timeout": "2.5"}, (None, None, None, 2.5)),
    ):
        assert (await face.get(path, **headers)).status == 200
        last = single.wishes[-1]
        assert (last.nodes, last.owners, last.strict, last.deadline_s) == wish
    assert (await face.ask("PUT", K + "?w=QUORUM&pw=1", {"value": "2"})).status == 200
    assert (single.wishes[-1].nodes, single.wishes[-1].owners) == ("QUORUM", "1")


@pytest.mark.parametrize(
    ("method", "path", "headers", "code"),
    [
        ("GET", K + "?r=2", {}, "invalid_level"),
        ("GET", K + "?pr=7", {}, "invalid_level"),
        ("PUT", K + "?w=0", {}, "invalid_level"),
        ("PUT", K + "?w=MOST", {}, "invalid_level"),
        ("GET", K, {"Consistency_Level": "LINEARIZABLE"}, "invalid_level"),
        ("GET", K, {"Consistency_Level": "THREE"}, "invalid_level"),
        ("GET", K + "?r=1", {"Consistency_Level": "ONE"}, "invalid_query"),
        ("GET", K + "?w=1", {}, "invalid_query"),
        ("GET", K + "?strict=yes", {}, "invalid_query"),
        ("GET", K + "?keyspace=other", {}, "keyspace_not_found"),
        ("PUT", K, {"X_Causal_Context": "nonsense"}, "invalid_context"),
        ("PUT", K, {"X_Causal_Context": "no!"}, "invalid_context"),
        ("GET", K, {"X_Causal_Context": "AAAA"}, "invalid_header"),
        ("GET", K, {"Session_Token": "1:57"}, "invalid_session"),
        ("GET", K, {"Request_Timeout": "0"}, "invalid_header"),
        ("PUT", K, {"If_Match": '"7"'}, "wrong_regime"),
        ("PUT", K, {"If_None_Match": "*"}, "wrong_regime"),
        ("PUT", K, {"Idempotency_Key": "a:1"}, "wrong_regime"),
    ],
)
async def test_what_cannot_be_is_refused_by_name(
    face: Rest, method: str, path: str, headers: dict[str, str], code: str
) -> None:
    body = {"value": "1"} if method == "PUT" else None
    answer = await refused(face, method, path, body, **headers)
    assert answer.status == (404 if code == "keyspace_not_found" else 400)
    assert answer.body["error"] == code
    assert answer.body["outcome"] == "none"


async def test_a_context_of_another_key_is_refused(face: Rest) -> None:
    other = (await face.put("/api/v1/keys/other")).body["context"]
    answer = await refused(face, "PUT", K, {"value": "1", "context": other})
    assert answer.body["error"] == "invalid_context"
    mine = (await face.put(K)).body["context"]
    both = await face.ask("PUT", K, {"value": "1", "context": mine}, X_Causal_Context=other)
    assert (both.status, both.body["error"]) == (400, "invalid_body")


async def test_a_session_token_is_given_only_to_sessions_and_goes_on(face: Rest) -> None:
    plain = await face.put(K, "1")
    assert "Session-Token" not in plain.headers
    begun = await face.ask("PUT", K, {"value": "2"}, Session_Token="new")
    token = begun.headers["Session-Token"]
    read = await face.get(K, Session_Token=token)
    assert read.status == 200
    other = await face.get("/api/v1/keys/none", Session_Token=read.headers["Session-Token"])
    assert other.status == 404
    assert (await face.get(K, Session_Token=other.headers["Session-Token"])).status == 200


# --- many ------------------------------------------------------------------------------------


async def test_batches(face: Rest) -> None:
    first = await face.post(
        "/api/v1/batch/put",
        {"operations": [{"key": "a", "value": "1"}, {"key": "b", "value": "2", "ttl": 60}]},
    )
    assert first.body["success_count"] == 2
    assert first.body["results"][0]["replicas"] == ["n1"]
    context = first.body["results"][0]["context"]
    await face.put("/api/v1/keys/b", "3")
    found = await face.post("/api/v1/batch/get", {"keys": ["a", "b", "none"]})
    a, b, none = found.body["results"]
    assert (a["value"], a["found"]) == ("1", True)
    assert [each["value"] for each in b["siblings"]] == ["2", "3"]
    assert none["found"] is False
    second = await face.post(
        "/api/v1/batch/put",
        {
            "operations": [
                {"key": "a", "op": "delete", "context": context},
                {"key": "n", "value": "1"},
            ]
        },
    )
    assert second.body["success_count"] == 2
    assert (await face.get("/api/v1/keys/a")).status == 404


async def test_a_batch_says_of_each_key_what_became_of_it(face: Rest, single: Single) -> None:
    single.fail = WriteQuorumError("too few", got=1, required=2)
    answer = await face.post("/api/v1/batch/put", {"operations": [{"key": "a", "value": "1"}]})
    assert answer.body["failed_keys"] == ["a"]
    assert answer.body["results"][0]["error"]["outcome"] == "unknown"
    answer = await face.post("/api/v1/batch/get", {"keys": ["a"]})
    assert answer.body["results"][0]["error"]["error"] == "write_quorum"


@pytest.mark.parametrize(
    "operation",
    [
        {"key": "a"},
        {"key": "a", "op": "delete", "value": "1"},
        {"key": "a", "value": "1", "context": "AAAA"},
        {"key": "", "value": "1"},
    ],
)
async def test_one_bad_operation_refuses_the_batch(face: Rest, operation: dict[str, Any]) -> None:
    operations = [{"key": "good", "value": "1"}, operation]
    answer = await refused(face, "POST", "/api/v1/batch/put", {"operations": operations})
    assert answer.status == 400
    assert (await face.get("/api/v1/keys/good")).status == 404


async def test_listings(face: Rest) -> None:
    for number in range(25):
        await face.put(f"/api/v1/keys/a/{number:02}", str(number))
    await face.put("/api/v1/keys/b", "1")
    await face.put("/api/v1/keys/b", "2")
    await face.ask("DELETE", "/api/v1/keys/a/03", {"context": await context(face, "a/03")})
    found: list[str] = []
    cursor = ""
    while True:
        page = (await face.get(f"/api/v1/keys?prefix=a/&limit=10{cursor}")).body
        found += [each["key"] for each in page["keys"]]
        assert page["level"] == "ALL"
        if not page["has_more"]:
            break
        cursor = f"&cursor={page['cursor']}"
    assert found == [f"a/{number:02}" for number in range(25) if number != 3]
    page = (await face.get("/api/v1/keys?start=b&values=true")).body
    (b,) = page["keys"]
    assert [each["value"] for each in b["siblings"]] == ["1", "2"]
    assert b["context"]
    assert (await face.get("/api/v1/count?prefix=a/")).body["count"] == 24
    scanned, cursor = 0, ""
    while True:
        page = (await face.get(f"/api/v1/scan?count=7{cursor}")).body
        scanned += len(page["keys"])
        if page["done"]:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert scanned == 25
    answer = await refused(face, "GET", f"/api/v1/keys?prefix=c{cursor}")
    assert answer.body["error"] == "invalid_cursor"


async def context(face: Rest, key: str) -> str:
    found: str = (await face.get(f"/api/v1/keys/{key}")).body["context"]
    return found


# --- refusals --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", K + "/cas", {"new_value": "1", "expected_version": 0}),
        ("POST", "/api/v1/txn", {}),
        ("POST", "/api/v1/leases", {"ttl": 5}),
        ("GET", "/api/v1/leases/7", None),
        ("POST", "/api/v1/locks/l", {}),
        ("POST", "/api/v1/admin/compact", {"revision": 5}),
        ("POST", "/api/v1/admin/leader/transfer", {}),
        ("PUT", K, {"value": "1", "lease": "7"}),
        ("PUT", K, {"value": "1", "if_not_exists": True}),
        ("POST", "/api/v1/batch/put", {"operations": [{"key": "a", "value": "1"}], "atomic": True}),
    ],
)
async def test_what_only_the_strong_regime_can_do_names_it(
    face: Rest, method: str, path: str, body: Any
) -> None:
    answer = await refused(face, method, path, body)
    assert (answer.status, answer.body["error"]) == (400, "wrong_regime")
    assert "strong" in answer.body["message"]


@pytest.mark.parametrize(
    ("error", "status", "outcome"),
    [
        (UnavailableError("1 nodes can be reached and 2 are required"), 503, "none"),
        (WriteQuorumError("1 of 2 replicas", got=1, required=2), 504, "unknown"),
        (OutcomeUnknownError("it was forwarded"), 504, "unknown"),
        (OverloadedError("8192 requests"), 429, "none"),
    ],
)
async def test_outcomes(
    face: Rest, single: Single, error: JanusError, status: int, outcome: str
) -> None:
    single.fail = error
    answer = await refused(face, "PUT", K, {"value": "1"})
    assert (answer.status, answer.body["outcome"]) == (status, outcome)
    if isinstance(error, WriteQuorumError):
        assert (answer.body["got"], answer.body["required"]) == (1, 2)
    if status == 429:
        assert answer.headers["Retry-After"] == "1"


async def test_too_many_siblings(face: Rest) -> None:
    for number in range(50):
        await face.put(K, str(number))
    answer = await refused(face, "PUT", K, {"value": "one more"})
    assert (answer.status, answer.body["error"]) == (409, "too_many_siblings")


async def test_a_keyspace_with_another_rule(make_rest: MakeRest) -> None:
    single = Single(Rule.LWW)
    face = await make_rest(leaderless=single)
    await face.put(K, "1")
    await face.put(K, "2")
    assert (await face.get(K)).body["value"] == "2"
    answer = await refused(face, "POST", K + "/incr")
    assert answer.body["error"] == "value_not_for_rule"
    await single.stop()
