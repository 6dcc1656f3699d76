"""One key: every route, good and bad input."""

from __future__ import annotations

import pytest

from .conftest import WALL_MS, Rest

KEY = "/api/v1/keys/a"


async def test_put_get_delete(rest: Rest) -> None:
    put = await rest.put(KEY, "one")
    assert put.status == 200
    assert put.body == {"key": "a", "version": 2, "timestamp": WALL_MS, "status": "created"}
    assert put.headers["ETag"] == '"2"'
    assert put.headers["Revision"] == "2"
    assert put.headers["Session-Token"] == "3:2"
    assert put.headers["Consistency-Level"] == "LINEARIZABLE"
    assert put.headers["Content-Type"] == "application/json"
    again = await rest.put(KEY, "two")
    assert again.body["status"] == "updated"
    assert again.body["version"] == 3
    got = await rest.get(KEY)
    assert got.body == {
        "key": "a",
        "value": "two",
        "version": 3,
        "timestamp": WALL_MS + 1,
        "ttl_remaining": None,
    }
    assert got.headers["ETag"] == '"3"'
    past = await rest.get(KEY + "?revision=2")
    assert (past.body["value"], past.body["version"]) == ("one", 2)
    gone = await rest.ask("DELETE", KEY)
    assert gone.body == {"key": "a", "deleted": True, "version": 4}
    nothing = await rest.ask("DELETE", KEY)
    assert nothing.body == {"key": "a", "deleted": False, "version": 0}
    absent = await rest.get(KEY)
    assert (absent.status, absent.body["error"]) == (404, "key_not_found")
    assert absent.headers["Session-Token"] == "3:4"


async def test_the_largest_value(rest: Rest) -> None:
    value = "x" * (1024 * 1024)
    assert (await rest.put(KEY, value)).status == 200
    assert (await rest.get(KEY)).body["value"] == value
    assert len((await rest.get(KEY + "?encoding=base64")).raw) > 4 * 1024 * 1024 // 3


async def test_head(rest: Rest) -> None:
    await rest.put(KEY)
    there = await rest.ask("HEAD", KEY)
    assert (there.status, there.raw, there.headers["ETag"]) == (200, b"", '"2"')
    absent = await rest.ask("HEAD", "/api/v1/keys/b")
    assert (absent.status, absent.raw) == (404, b"")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "invalid_body"),
        (b"{", 400, "invalid_body"),
        (b"null", 400, "invalid_body"),
        (b"[" * 100_000, 400, "invalid_body"),
        (b'{"value":' + b"[" * 100_000, 400, "invalid_body"),
        (b'{"value":"\xff"}', 400, "invalid_body"),
        (b'{"value":"\\ud800"}', 400, "invalid_body"),
        ({"value": 5}, 400, "invalid_body"),
        ({"value": "v", "tttl": 5}, 400, "invalid_body"),
        ({"value": "?", "encoding": "base64"}, 400, "invalid_body"),
        ({"value": "YQ", "encoding": "base64"}, 400, "invalid_body"),
        ({"value": "YQ==", "encoding": "hex"}, 400, "invalid_body"),
        ({"value": "v", "ttl": 0}, 400, "invalid_body"),
        ({"value": "v", "ttl": -1}, 400, "invalid_body"),
        ({"value": "v", "ttl": 1e300}, 400, "invalid_body"),
        ({"value": "v", "lease": "x"}, 400, "invalid_body"),
        ({"value": "v", "lease": 2**63}, 400, "invalid_body"),
        ({"value": "v", "lease": "9999999999999999999"}, 400, "invalid_body"),
        ({"value": "v", "lease": "77"}, 404, "lease_not_found"),
        ({"value": "x" * (1024 * 1024 + 1)}, 413, "value_too_large"),
        ({"value": "x" * (1536 * 1024)}, 413, "body_too_large"),
    ],
)
async def test_a_bad_put_is_refused(rest: Rest, body: object, status: int, code: str) -> None:
    await rest.put(KEY)
    assert await rest.refused("PUT", KEY, body) == (status, code)


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"Consistency_Level": "STRONGEST"}, "invalid_level"),
        ({"Session_Token": "x"}, "invalid_session"),
        ({"Request_Timeout": "0"}, "invalid_header"),
        ({"Request_Timeout": "nan"}, "invalid_header"),
        ({"Request_Timeout": "301"}, "invalid_header"),
        ({"Idempotency_Key": "no colon"}, "invalid_header"),
        ({"Idempotency_Key": "a:1:2"}, "invalid_header"),
        ({"Idempotency_Key": "a:99999999999999999999"}, "invalid_header"),
        ({"Idempotency_Key": "x" * 65 + ":1"}, "invalid_header"),
        ({"If_Match": "2"}, "invalid_header"),
        ({"If_Match": "*"}, "invalid_header"),
        ({"If_None_Match": '"2"'}, "invalid_header"),
        ({"If_Match": '"2"', "If_None_Match": "*"}, "invalid_header"),
    ],
)
async def test_a_bad_header_is_refused(rest: Rest, headers: dict[str, str], code: str) -> None:
    assert await rest.refused("PUT", KEY, {"value": "v"}, **headers) == (400, code)


async def test_levels_sessions_and_deadlines_reach_the_regime(rest: Rest) -> None:
    answer = await rest.get(
        KEY, Consistency_Level="session", Session_Token="3:1,9:4", Request_Timeout="2.5"
    )
    options = rest.strong.options[-1]
    assert options.level == "SESSION"
    assert options.session.revisions == {3: 1, 9: 4}
    assert options.deadline_s == 2.5
    assert answer.headers["Consistency-Level"] == "SESSION"
    assert answer.headers["Session-Token"] == "3:1,9:4"
    await rest.ask(
        "PUT", KEY, {"value": "v"}, Idempotency_Key="me:7:3", Consistency_Level="EVENTUAL"
    )
    assert rest.strong.options[-1].token == (b"me", 7, 3)


async def test_a_retry_with_the_same_key_answers_the_same(rest: Rest) -> None:
    await rest.put(KEY, "x" * 100_000)
    first = await rest.ask("PUT", KEY, {"value": "v"}, Idempotency_Key="me:1")
    await rest.put(KEY, "w")
    again = await rest.ask("PUT", KEY, {"value": "v"}, Idempotency_Key="me:1")
    assert again.body == first.body
    assert again.body["status"] == "updated"
    created = await rest.ask("PUT", "/api/v1/keys/new", {"value": "v"}, Idempotency_Key="me:2")
    assert created.body["status"] == "created"
    assert (await rest.get(KEY)).body["value"] == "w"


async def test_a_key_used_for_another_request_is_refused(rest: Rest) -> None:
    """The first answer cannot be the second one's; before, this was a defect (500)."""
    await rest.ask("PUT", KEY, {"value": "v"}, Idempotency_Key="me:1")
    incr = await rest.refused("POST", KEY + "/incr", Idempotency_Key="me:1")
    assert incr == (409, "token_reused")
    for body in (
        {"operations": [{"key": "a", "value": "1"}]},
        {"operations": [{"key": "a", "value": "1"}], "atomic": True},
    ):
        answer = await rest.post("/api/v1/batch/put", body, Idempotency_Key="me:1")
        error = answer.body["results"][0]["error"] if answer.status == 200 else answer.body
        assert error["error"] == "token_reused"
    txn = {"then": [{"op": "delete", "key": "a"}]}
    assert (await rest.post("/api/v1/txn", txn, Idempotency_Key="me:1")).status == 409
    await rest.post("/api/v1/batch/put", body, Idempotency_Key="me:2")
    two = {"operations": body["operations"] * 2, "atomic": True}
    assert (await rest.post("/api/v1/batch/put", two, Idempotency_Key="me:2")).status == 409
    assert rest.strong.machine.revision == 3


async def test_conditions(rest: Rest) -> None:
    made = await rest.ask("PUT", KEY, {"value": "1"}, If_None_Match="*")
    assert (made.status, made.body["status"]) == (200, "created")
    lost = await rest.ask("PUT", KEY, {"value": "2"}, If_None_Match="*")
    assert (lost.status, lost.body["error"], lost.body["version"]) == (412, "version_mismatch", 2)
    assert lost.headers["ETag"] == '"2"'
    taken = await rest.put(KEY, "2", if_not_exists=True)
    assert (taken.status, taken.body["error"], taken.body["version"]) == (409, "key_exists", 2)
    right = await rest.ask("PUT", KEY, {"value": "2"}, If_Match='"2"')
    assert (right.status, right.body["status"], right.body["version"]) == (200, "updated", 3)
    wrong = await rest.ask("DELETE", KEY, If_Match='"2"')
    assert (wrong.status, wrong.body["version"]) == (412, 3)
    assert (await rest.ask("DELETE", KEY, If_Match='"3"')).body["deleted"] is True
    absent = await rest.ask("PUT", KEY, {"value": "2"}, If_Match='"3"')
    assert (absent.status, absent.body["version"]) == (412, 0)
    assert await rest.refused("DELETE", KEY, If_None_Match="*") == (400, "invalid_header")
    both = await rest.refused("PUT", KEY, {"value": "v", "if_not_exists": True}, If_Match='"3"')
    assert both == (400, "invalid_header")
    fresh = await rest.put(KEY, "3", if_not_exists=True)
    assert fresh.body["status"] == "created"


async def test_a_read_of_what_the_caller_has_is_304(rest: Rest) -> None:
    await rest.put(KEY)
    same = await rest.get(KEY, If_None_Match='"2"')
    assert (same.status, same.raw, same.headers["ETag"]) == (304, b"", '"2"')
    assert (await rest.get(KEY, If_None_Match='"1"')).status == 200


async def test_cas(rest: Rest) -> None:
    cas = KEY + "/cas"
    made = await rest.post(cas, {"expected_version": 0, "new_value": "1"})
    assert made.body == {"success": True, "new_version": 2, "current_version": 2}
    lost = await rest.post(cas, {"expected_version": 0, "new_value": "x"})
    assert lost.status == 200
    assert lost.body == {"success": False, "new_version": None, "current_version": 2}
    by_value = await rest.post(
        cas, {"expected_value": "MQ==", "new_value": "/w==", "encoding": "base64", "ttl": 5}
    )
    assert by_value.body["new_version"] == 3
    got = await rest.get(KEY)
    assert (got.body["value"], got.body["encoding"]) == ("/w==", "base64")
    assert got.body["ttl_remaining"] == 5.0
    both = await rest.post(cas, {"expected_version": 3, "expected_value": "no", "new_value": "x"})
    assert both.body["success"] is False
    gone = await rest.post(cas, {"expected_version": 3, "delete": True})
    assert gone.body == {"success": True, "new_version": 0, "current_version": 0}
    assert (await rest.get(KEY)).status == 404


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"new_value": "x"},
        {"expected_version": 1},
        {"expected_version": 1, "new_value": "x", "delete": True},
        {"expected_version": 1, "delete": True, "ttl": 5},
        {"expected_version": -1, "new_value": "x"},
        {"expected_version": "1", "new_value": "x"},
        {"expected_value": "?", "new_value": "x", "encoding": "base64"},
    ],
)
async def test_a_bad_cas_is_refused(rest: Rest, body: object) -> None:
    assert await rest.refused("POST", KEY + "/cas", body) == (400, "invalid_body")


async def test_time_to_live(rest: Rest) -> None:
    await rest.put(KEY, "v", ttl=10.5)
    assert (await rest.get(KEY)).body["ttl_remaining"] == 10.5
    rest.strong.pass_time(4)
    assert (await rest.get(KEY)).body["ttl_remaining"] == 6.5
    longer = await rest.post(KEY + "/ttl", {"ttl_seconds": 60})
    assert longer.body == {"key": "a", "version": 2, "ttl_remaining": 60.0}
    for nothing in (0, None):
        await rest.post(KEY + "/ttl", {"ttl_seconds": 60})
        assert (await rest.post(KEY + "/ttl", {"ttl_seconds": nothing})).body[
            "ttl_remaining"
        ] is None
        assert (await rest.get(KEY)).body["ttl_remaining"] is None
    await rest.post(KEY + "/ttl", {"ttl_seconds": 1})
    rest.strong.pass_time(2)
    assert (await rest.get(KEY)).status == 404
    missing = await rest.refused("POST", KEY + "/ttl", {"ttl_seconds": 1})
    assert missing == (404, "key_not_found")
    for body in ({}, {"ttl_seconds": -1}, {"ttl_seconds": "1"}):
        assert await rest.refused("POST", KEY + "/ttl", body) == (400, "invalid_body")


async def test_increment(rest: Rest) -> None:
    incr = KEY + "/incr"
    assert (await rest.post(incr)).body == {"key": "a", "value": 1, "version": 2}
    assert (await rest.post(incr, {"delta": -5})).body["value"] == -4
    assert (await rest.get(KEY)).body["value"] == "-4"
    assert await rest.refused("POST", incr, {"delta": 2**63}) == (400, "invalid_body")
    assert await rest.refused("POST", incr, {"delta": 1.5}) == (400, "invalid_body")
    await rest.put(KEY, str(2**63 - 1))
    assert await rest.refused("POST", incr) == (400, "integer_overflow")
    await rest.put(KEY, "x")
    assert await rest.refused("POST", incr) == (400, "not_an_integer")


async def test_raw_bytes(rest: Rest) -> None:
    data = bytes(range(256)) * 10
    put = await rest.ask("PUT", "/v1/kv/some/key?ttl=7", data)
    assert put.body["status"] == "created"
    got = await rest.get("/v1/kv/some%2Fkey")
    assert got.raw == data
    assert got.headers["Content-Type"] == "application/octet-stream"
    assert got.headers["ETag"] == '"2"'
    assert (await rest.ask("HEAD", "/v1/kv/some/key")).status == 200
    assert (await rest.post("/v1/kv/some/key", b"")).body["status"] == "updated"
    empty = await rest.get("/v1/kv/some/key")
    assert (empty.status, empty.raw) == (200, b"")
    assert (await rest.get("/api/v1/keys/some/key")).body["value"] == ""
    lost = await rest.ask("PUT", "/v1/kv/some/key", b"x", If_Match='"2"')
    assert lost.status == 412
    assert (await rest.ask("DELETE", "/v1/kv/some/key")).body["deleted"] is True
    assert (await rest.get("/v1/kv/some/key")).body["error"] == "key_not_found"
    assert await rest.refused("PUT", "/v1/kv/k?ttl=0", b"x") == (400, "invalid_query")
    large = await rest.refused("PUT", "/v1/kv/k", b"x" * (1024 * 1024 + 1))
    assert large == (413, "value_too_large")


async def test_revisions_that_cannot_be_read(rest: Rest) -> None:
    for number in range(5):
        await rest.put(KEY, str(number))
    assert await rest.refused("GET", KEY + "?revision=7") == (400, "future_revision")
    compacted = await rest.post("/api/v1/admin/compact", {"revision": 4})
    assert compacted.body == {"revision": 6, "compact_revision": 4}
    assert (await rest.get(KEY + "?revision=4")).body["value"] == "2"
    gone = await rest.get(KEY + "?revision=3")
    assert (gone.status, gone.body["error"], gone.body["compact_revision"]) == (410, "compacted", 4)
    assert await rest.refused("POST", "/api/v1/admin/compact", {"revision": 3}) == (
        410,
        "compacted",
    )
    assert await rest.refused("POST", "/api/v1/admin/compact", {"revision": 99}) == (
        400,
        "future_revision",
    )
    for query in ("revision=-1", "revision=x", "revision=1&revision=2", "rev=1", "revision=%zz"):
        assert await rest.refused("GET", f"{KEY}?{query}") == (400, "invalid_query")


async def test_keyspaces(rest: Rest) -> None:
    assert (await rest.put(KEY + "?keyspace=default")).status == 200
    assert await rest.refused("GET", KEY + "?keyspace=other") == (404, "keyspace_not_found")
    assert await rest.refused("PUT", KEY + "?keyspace=other", {"value": "v"}) == (
        404,
        "keyspace_not_found",
    )
