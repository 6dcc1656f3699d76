"""Listings, counts, scans, batches and transactions."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from kv.api import listing
from kv.errors import OutcomeUnknownError
from raftgroups.commands import BatchWrite, Command, Put
from storage.errors import JanusError

from .conftest import WALL_MS, Rest


async def fill(rest: Rest, *keys: str) -> None:
    operations = [{"key": key, "value": key.upper()} for key in keys]
    answer = await rest.post("/api/v1/batch/put", {"operations": operations})
    assert answer.body["success_count"] == len(keys)


async def pages(rest: Rest, path: str, query: str, name: str = "cursor") -> list[Any]:
    found = []
    answer = await rest.get(f"{path}?{query}")
    while True:
        assert answer.status == 200, answer.body
        found.append(answer.body)
        if answer.body[name] is None:
            return found
        answer = await rest.get(f"{path}?{query}&cursor={answer.body[name]}")


# --- listings --------------------------------------------------------------------------------


async def test_listing(rest: Rest) -> None:
    await fill(rest, "a", "b/1", "b/2", "b/3", "c")
    everything = await rest.get("/api/v1/keys")
    assert [item["key"] for item in everything.body["keys"]] == ["a", "b/1", "b/2", "b/3", "c"]
    assert everything.body["keys"][0] == {"key": "a", "version": 2}
    assert (everything.body["has_more"], everything.body["cursor"]) == (False, None)
    assert everything.body["revision"] == 6
    some = await rest.get("/api/v1/keys?prefix=b%2F&values=true")
    assert some.body["keys"][1] == {
        "key": "b/2",
        "version": 4,
        "value": "B/2",
        "timestamp": WALL_MS + 2,
    }
    back = await rest.get("/api/v1/keys?start=b&end=c&reverse=true")
    assert [item["key"] for item in back.body["keys"]] == ["b/3", "b/2", "b/1"]
    forced = await rest.get("/api/v1/keys?prefix=a&values=true&encoding=base64&key_encoding=base64")
    (item,) = forced.body["keys"]
    assert (item["key"], item["key_encoding"]) == ("YQ==", "base64")
    assert (item["value"], item["encoding"]) == ("QQ==", "base64")
    past = await rest.get("/api/v1/keys?revision=3")
    assert [item["key"] for item in past.body["keys"]] == ["a", "b/1"]


@pytest.mark.parametrize("query", ["limit=2", "limit=2&prefix=k", "limit=2&reverse=true&start=k"])
async def test_pages_are_one_picture(rest: Rest, query: str) -> None:
    keys = [f"k{number}" for number in range(7)]
    await fill(rest, *keys)
    first = await rest.get(f"/api/v1/keys?{query}")
    assert first.body["has_more"] is True
    await fill(rest, "k1x", "k5x")
    await rest.ask("DELETE", "/api/v1/keys/k3")
    found = [item["key"] for item in first.body["keys"]]
    cursor = first.body["cursor"]
    while cursor is not None:
        page = (await rest.get(f"/api/v1/keys?limit=2&cursor={cursor}")).body
        assert page["revision"] == first.body["revision"]
        assert len(page["keys"]) <= 2
        found += [item["key"] for item in page["keys"]]
        cursor = page["cursor"]
    assert found == (keys[::-1] if "reverse" in query else keys)


async def test_a_cursor_stays_in_its_range(rest: Rest) -> None:
    await fill(rest, "a1", "a2", "a3", "b1")
    first = await rest.get("/api/v1/keys?prefix=a&limit=2")
    rest_of_it = await rest.get(f"/api/v1/keys?cursor={first.body['cursor']}")
    assert [item["key"] for item in rest_of_it.body["keys"]] == ["a3"]
    path = f"/api/v1/keys?cursor={first.body['cursor']}"
    assert await rest.refused("GET", path + "&prefix=b") == (400, "invalid_query")
    assert await rest.refused("GET", path + "&revision=2") == (400, "invalid_query")
    scanned = path.replace("/keys?", "/scan?")
    assert await rest.refused("GET", scanned) == (400, "invalid_cursor")


async def test_a_cursor_that_was_compacted_away(rest: Rest) -> None:
    await fill(rest, "a", "b", "c")
    first = await rest.get("/api/v1/keys?limit=1")
    await fill(rest, "d")
    await rest.post("/api/v1/admin/compact", {"revision": 5})
    path = f"/api/v1/keys?cursor={first.body['cursor']}"
    assert await rest.refused("GET", path) == (410, "compacted")


async def test_an_eventual_page_waits_for_what_the_first_one_saw(rest: Rest) -> None:
    await fill(rest, "a", "b", "c")
    first = await rest.get("/api/v1/keys?limit=1", Consistency_Level="EVENTUAL")
    assert rest.strong.options[-1].level == "EVENTUAL"
    second = await rest.get(
        f"/api/v1/keys?limit=1&cursor={first.body['cursor']}", Consistency_Level="EVENTUAL"
    )
    assert rest.strong.options[-1].level == "SESSION"
    assert rest.strong.options[-1].session.revisions == {3: first.body["revision"]}
    assert second.headers["Consistency-Level"] == "SESSION"


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("limit=0", "invalid_query"),
        ("limit=1001", "invalid_query"),
        ("limit=x", "invalid_query"),
        ("reverse=1", "invalid_query"),
        ("prefix=a&start=b", "invalid_query"),
        ("cursor=", "invalid_cursor"),
        ("cursor=xyz", "invalid_cursor"),
        ("cursor=%C3%BC", "invalid_query"),
        ("cursor=lgA", "invalid_cursor"),
        ("encoding=hex", "invalid_query"),
        ("revision=99", "future_revision"),
    ],
)
async def test_a_bad_listing_is_refused(rest: Rest, query: str, code: str) -> None:
    assert await rest.refused("GET", f"/api/v1/keys?{query}") == (400, code)


async def test_count_in_parts(rest: Rest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "PAGE_MAX_EXAMINED", 2)
    await fill(rest, "a", "b1", "b2", "b3", "b4", "b5", "c")
    answer = await rest.get("/api/v1/count?prefix=b", Consistency_Level="SESSION")
    assert answer.body == {"count": 5, "revision": 8}
    assert answer.headers["Consistency-Level"] == "SESSION"
    assert [options.level for options in rest.strong.options[-3:]] == [
        "SESSION",
        "EVENTUAL",
        "EVENTUAL",
    ]
    assert (await rest.get("/api/v1/count")).body["count"] == 7
    assert (await rest.get("/api/v1/count?start=b2&end=c&revision=5")).body["count"] == 2
    assert await rest.refused("GET", "/api/v1/count?revision=99") == (400, "future_revision")


async def test_a_page_with_nothing_in_it_is_not_the_end(
    rest: Rest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "PAGE_MAX_EXAMINED", 2)
    await fill(rest, "a", "b", "c", "d", "e")
    for key in "abc":
        await rest.ask("DELETE", f"/api/v1/keys/{key}")
    found = await pages(rest, "/api/v1/keys", "limit=5")
    assert found[0]["keys"] == []
    assert found[0]["has_more"] is True
    assert [item["key"] for page in found for item in page["keys"]] == ["d", "e"]


async def test_scan(rest: Rest) -> None:
    keys = [f"k{number}" for number in range(7)]
    await fill(rest, *keys)
    found = await pages(rest, "/api/v1/scan", "count=3", "next_cursor")
    assert [page["done"] for page in found] == [False, False, True]
    assert [item["key"] for page in found for item in page["keys"]] == keys
    first = await rest.get("/api/v1/scan?count=3&prefix=k")
    await fill(rest, "k0", "k9")
    await rest.post("/api/v1/admin/compact", {"revision": rest.strong.machine.revision})
    second = await rest.get(f"/api/v1/scan?count=9&cursor={first.body['next_cursor']}")
    assert [item["key"] for item in second.body["keys"]] == ["k3", "k4", "k5", "k6", "k9"]


# --- batches ---------------------------------------------------------------------------------


async def test_batch_get(rest: Rest) -> None:
    await fill(rest, "a", "b")
    answer = await rest.post("/api/v1/batch/get", {"keys": ["a", "x", "b"]})
    assert answer.body["revision"] == 3
    assert answer.body["results"] == [
        {"key": "a", "found": True, "value": "A", "version": 2, "timestamp": WALL_MS},
        {"key": "x", "found": False, "value": None, "version": 0, "timestamp": 0},
        {"key": "b", "found": True, "value": "B", "version": 3, "timestamp": WALL_MS + 1},
    ]
    coded = await rest.post(
        "/api/v1/batch/get", {"keys": ["YQ=="], "key_encoding": "base64", "encoding": "base64"}
    )
    (result,) = coded.body["results"]
    assert (result["key"], result["value"]) == ("YQ==", "QQ==")


async def test_a_batch_get_of_too_much(rest: Rest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "ANSWER_MAX_BYTES", 3)
    await fill(rest, "aa", "bb")
    path = "/api/v1/batch/get"
    assert await rest.refused("POST", path, {"keys": ["aa", "bb"]}) == (400, "answer_too_large")
    assert (await rest.post(path, {"keys": ["aa"]})).status == 200


async def test_a_batch_of_separate_writes(rest: Rest) -> None:
    await fill(rest, "a", "b")
    operations = [
        {"key": "a", "value": "1", "ttl": 9},
        {"op": "delete", "key": "b"},
        {"op": "delete", "key": "x"},
        {"key": "c", "value": "1", "expected_version": 7},
        {"key": "/w==", "key_encoding": "base64", "value": "1", "lease": "5"},
        {"op": "delete", "key": "a", "expected_version": 4},
    ]
    answer = await rest.post("/api/v1/batch/put", {"operations": operations})
    assert answer.status == 200
    results = answer.body["results"]
    assert answer.body["success_count"] == 4
    assert answer.body["failed_keys"] == ["c", "/w=="]
    assert [result["success"] for result in results] == [True, True, True, False, False, True]
    assert [result["version"] for result in results] == [4, 5, 0, 0, 0, 6]
    assert results[3]["error"]["error"] == "version_mismatch"
    assert results[4]["error"]["error"] == "lease_not_found"
    assert results[4]["key_encoding"] == "base64"
    assert answer.headers["Revision"] == "6"


async def test_one_write_of_a_batch_may_fail_alone(rest: Rest) -> None:
    def fail(command: Command) -> JanusError | None:
        if isinstance(command, Put) and command.key == b"b":
            return OutcomeUnknownError("the leader was lost; read the key")
        return None

    rest.strong.fail_writes = fail
    operations = [{"key": key, "value": "1"} for key in "abc"]
    answer = await rest.post("/api/v1/batch/put", {"operations": operations})
    assert answer.body["success_count"] == 2
    assert answer.body["failed_keys"] == ["b"]
    assert answer.body["results"][1]["error"]["outcome"] == "unknown"


async def test_a_retried_batch_repeats_nothing(rest: Rest) -> None:
    operations: list[dict[str, Any]] = [{"key": key, "value": "1"} for key in "abc"]
    for atomic in (False, True):
        body = {"operations": operations, "atomic": atomic}
        key = f"me:{10 + 10 * atomic}"
        first = await rest.post("/api/v1/batch/put", body, Idempotency_Key=key)
        again = await rest.post("/api/v1/batch/put", body, Idempotency_Key=key)
        assert again.body == first.body
    assert rest.strong.machine.revision == 5
    tokens = [options.token for options in rest.strong.options[:3]]
    assert tokens == [(b"me", 10, 0), (b"me", 11, 0), (b"me", 12, 0)]
    late = await rest.refused(
        "POST", "/api/v1/batch/put", body | {"atomic": False}, Idempotency_Key=f"me:{2**63 - 2}"
    )
    assert late == (400, "invalid_header")


async def test_an_atomic_batch(rest: Rest) -> None:
    operations = [{"key": "a", "value": "1"}, {"key": "b", "value": "2", "expected_version": 0}]
    done = await rest.post("/api/v1/batch/put", {"operations": operations, "atomic": True})
    assert done.body["success_count"] == 2
    assert [result["version"] for result in done.body["results"]] == [2, 2]
    assert isinstance(rest.strong.commands[-1], BatchWrite)
    lost = await rest.post("/api/v1/batch/put", {"operations": operations, "atomic": True})
    assert lost.status == 200
    assert lost.body["success_count"] == 0
    assert lost.body["failed_keys"] == ["a", "b"]
    assert [result["error"]["error"] for result in lost.body["results"]] == [
        "not_done",
        "version_mismatch",
    ]
    assert lost.body["results"][1]["version"] == 2
    assert rest.strong.machine.revision == 2
    bad = [{"key": "c", "value": "1"}, {"key": "d", "value": "1", "lease": 9}]
    path = "/api/v1/batch/put"
    refused = await rest.refused("POST", path, {"operations": bad, "atomic": True})
    assert refused == (404, "lease_not_found")


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("put", {}, 400, "invalid_body"),
        ("put", {"operations": []}, 400, "invalid_body"),
        ("put", {"operations": [{"key": "a"}]}, 400, "invalid_body"),
        ("put", {"operations": [{"key": "", "value": "1"}]}, 400, "invalid_body"),
        ("put", {"operations": [{"key": "k" * 433, "value": "1"}]}, 400, "key_too_long"),
        ("put", {"operations": [{"op": "delete", "key": "a", "ttl": 1}]}, 400, "invalid_body"),
        ("put", {"operations": [{"op": "get", "key": "a"}]}, 400, "invalid_body"),
        ("put", {"operations": [{"key": "a", "value": "1"}] * 1001}, 400, "invalid_body"),
        (
            "put",
            {"operations": [{"key": "a", "value": "?", "encoding": "base64"}]},
            400,
            "invalid_body",
        ),
        ("get", {"keys": []}, 400, "invalid_body"),
        ("get", {"keys": ["a"] * 1001}, 400, "invalid_body"),
        ("get", {"keys": ["a", 5]}, 400, "invalid_body"),
        ("get", {"keys": ["?"], "key_encoding": "base64"}, 400, "invalid_body"),
        ("get", {"keys": ["k" * 433]}, 400, "key_too_long"),
    ],
)
async def test_a_bad_batch_is_refused(
    rest: Rest, path: str, body: object, status: int, code: str
) -> None:
    assert await rest.refused("POST", f"/api/v1/batch/{path}", body) == (status, code)


# --- transactions ----------------------------------------------------------------------------


async def test_txn(rest: Rest) -> None:
    await fill(rest, "a", "p/1", "p/2")
    body = {
        "compare": [
            {"key": "a", "target": "version", "op": "=", "operand": 2},
            {"key": "a", "target": "mod", "op": "<", "operand": 9},
            {"key": "a", "target": "create", "op": ">", "operand": 1},
            {"key": "a", "target": "value", "op": "!=", "operand": "B"},
            {"key": "a", "target": "value", "op": "=", "operand": "QQ==", "encoding": "base64"},
            {"key": "a", "target": "lease", "op": "=", "operand": "0"},
        ],
        "then": [
            {"op": "put", "key": "n", "value": "/w==", "encoding": "base64", "ttl": 5},
            {"op": "get", "key": "n"},
            {"op": "get", "key": "x"},
            {"op": "range", "prefix": "p/", "limit": 1},
            {"op": "range", "start": "p/", "end": "q", "reverse": True, "values": False},
            {"op": "delete", "prefix": "p/"},
            {"op": "range", "values": False},
        ],
        "else": [{"op": "get", "key": "a"}],
    }
    answer = await rest.post("/api/v1/txn", body)
    assert answer.status == 200, answer.body
    assert (answer.body["succeeded"], answer.body["revision"]) == (True, 5)
    put, got, missing, first, back, deleted, left = answer.body["results"]
    assert put == {"op": "put", "key": "n", "version": 5}
    assert (got["found"], got["value"], got["encoding"]) == (True, "/w==", "base64")
    assert missing == {
        "op": "get",
        "key": "x",
        "found": False,
        "value": None,
        "version": 0,
        "timestamp": 0,
    }
    assert (first["keys"][0]["value"], first["has_more"], first["count"]) == ("P/1", True, 2)
    assert [item["key"] for item in back["keys"]] == ["p/2", "p/1"]
    assert "value" not in back["keys"][0]
    assert deleted == {"op": "delete", "deleted": 2}
    assert [item["key"] for item in left["keys"]] == ["a", "n"]
    again = await rest.post("/api/v1/txn", body | {"compare": [body["compare"][0] | {"op": "!="}]})
    assert again.body["succeeded"] is False
    assert again.body["results"][0]["value"] == "A"
    assert rest.strong.machine.revision == 5


async def test_a_txn_that_only_reads_is_a_read(rest: Rest) -> None:
    await fill(rest, "a")
    writes = len(rest.strong.commands)
    answer = await rest.post(
        "/api/v1/txn",
        {"then": [{"op": "get", "key": "a", "encoding": "base64"}]},
        Consistency_Level="EVENTUAL",
    )
    assert answer.body["results"][0]["value"] == "QQ=="
    assert answer.headers["Consistency-Level"] == "EVENTUAL"
    assert len(rest.strong.commands) == writes
    past = {"then": [{"op": "get", "key": "a", "revision": 1}]}
    assert (await rest.post("/api/v1/txn", past)).body["results"][0]["found"] is False
    future = {"then": [{"op": "get", "key": "a", "revision": 9}]}
    assert await rest.refused("POST", "/api/v1/txn", future) == (400, "future_revision")
    empty = await rest.post("/api/v1/txn", {})
    assert empty.body == {"succeeded": True, "revision": 2, "results": []}


PUT = {"op": "put", "key": "a", "value": "1"}


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"then": [PUT, PUT]}, 400, "duplicate_key"),
        ({"then": [PUT | {"lease": 9}]}, 404, "lease_not_found"),
        ({"then": [PUT, {"op": "get", "key": "a", "revision": 9}]}, 400, "future_revision"),
        ({"then": [{"op": "put", "key": "a"}]}, 400, "invalid_body"),
        ({"then": [{"op": "bump", "key": "a"}]}, 400, "invalid_body"),
        ({"then": [{"op": "delete"}]}, 400, "invalid_body"),
        ({"then": [{"op": "delete", "key": "a", "prefix": "b"}]}, 400, "invalid_body"),
        ({"then": [{"op": "delete", "key": ""}]}, 400, "empty_key"),
        ({"then": [{"op": "range", "prefix": "a", "start": "b"}]}, 400, "invalid_body"),
        ({"then": [{"op": "range", "limit": 1001}]}, 400, "invalid_body"),
        ({"then": [PUT | {"key": f"k{n}"} for n in range(129)]}, 400, "invalid_body"),
        ({"then": [PUT | {"key": "k" * 433}]}, 400, "key_too_long"),
        ({"unless": []}, 400, "invalid_body"),
        (
            {"compare": [{"key": "a", "target": "value", "op": "=", "operand": 5}]},
            400,
            "invalid_body",
        ),
        (
            {"compare": [{"key": "a", "target": "version", "op": "=", "operand": "5"}]},
            400,
            "invalid_body",
        ),
        (
            {"compare": [{"key": "a", "target": "lease", "op": "=", "operand": str(2**63)}]},
            400,
            "invalid_body",
        ),
        (
            {"compare": [{"key": "a", "target": "version", "op": "~", "operand": 5}]},
            400,
            "invalid_body",
        ),
    ],
)
async def test_a_bad_txn_is_refused(rest: Rest, body: object, status: int, code: str) -> None:
    assert await rest.refused("POST", "/api/v1/txn", body) == (status, code)


async def test_a_retried_txn_answers_the_same(rest: Rest) -> None:
    body = {
        "compare": [{"key": "a", "target": "version", "op": "=", "operand": 0}],
        "then": [PUT],
        "else": [{"op": "get", "key": "a"}],
    }
    first = await rest.post("/api/v1/txn", body, Idempotency_Key="me:1")
    again = await rest.post("/api/v1/txn", body, Idempotency_Key="me:1")
    assert first.body["succeeded"] is True
    assert again.body == first.body


async def test_a_cursor_is_only_a_text(rest: Rest) -> None:
    """What it holds is what a query could hold; nonsense in it is refused."""
    await fill(rest, "a", "b")
    cursor = (await rest.get("/api/v1/keys?limit=1")).body["cursor"]
    data = bytearray(base64.urlsafe_b64decode(cursor + "=="))
    for place in range(len(data)):
        changed = bytes(data[:place]) + bytes([data[place] ^ 1]) + bytes(data[place + 1 :])
        text = base64.urlsafe_b64encode(changed).decode().rstrip("=")
        answer = await rest.get(f"/api/v1/keys?cursor={text}")
        assert answer.status in (200, 400, 410), (place, answer)
        assert json.loads(answer.raw)
