"""Leases: granted, looked at, kept alive, run out, revoked."""

from __future__ import annotations

import pytest

from .conftest import Rest

LEASES = "/api/v1/leases"


async def test_a_life(rest: Rest) -> None:
    made = await rest.post(LEASES, {"ttl": 9.2})
    lease = made.body["id"]
    assert made.body == {"id": lease, "ttl": 10}
    assert 0 < int(lease) < 2**63
    await rest.put("/api/v1/keys/a", lease=lease)
    await rest.put("/api/v1/keys/b", lease=int(lease))
    assert (await rest.get("/api/v1/keys/a")).body["lease"] == lease
    rest.strong.pass_time(4)
    state = await rest.get(f"{LEASES}/{lease}?keys=true")
    assert state.body == {"id": lease, "ttl": 10, "ttl_remaining": 6.0, "keys": ["a", "b"]}
    assert "keys" not in (await rest.get(f"{LEASES}/{lease}")).body
    kept = await rest.post(f"{LEASES}/{lease}/keepalive")
    assert kept.body == {"id": lease, "ttl": 10}
    assert (await rest.get(f"{LEASES}/{lease}")).body["ttl_remaining"] == 10.0
    rest.strong.pass_time(10)
    assert (await rest.get("/api/v1/keys/a")).status == 404
    for method, path in (
        ("GET", ""),
        ("POST", "/keepalive"),
        ("DELETE", ""),
    ):
        assert await rest.refused(method, f"{LEASES}/{lease}{path}") == (404, "lease_not_found")


async def test_a_revoked_lease_takes_its_keys(rest: Rest) -> None:
    await rest.post(LEASES, {"ttl": 60, "id": "77"})
    await rest.put("/api/v1/keys/%FF", lease=77)
    await rest.put("/api/v1/keys/a", lease=77)
    state = await rest.get(f"{LEASES}/77?keys=true")
    assert (state.body["keys"], state.body["key_encoding"]) == (["YQ==", "/w=="], "base64")
    assert (await rest.ask("DELETE", f"{LEASES}/77")).body == {"id": "77", "revoked": True}
    assert (await rest.get("/api/v1/count")).body["count"] == 0


async def test_pages(rest: Rest) -> None:
    for lease in range(1, 6):
        await rest.post(LEASES, {"ttl": 60, "id": lease})
    first = await rest.get(f"{LEASES}?limit=2")
    assert [entry["id"] for entry in first.body["leases"]] == ["1", "2"]
    second = await rest.get(f"{LEASES}?limit=3&cursor={first.body['cursor']}")
    assert [entry["id"] for entry in second.body["leases"]] == ["3", "4", "5"]
    assert (second.body["has_more"], second.body["cursor"]) == (False, None)


async def test_a_retried_grant_is_one_lease(rest: Rest) -> None:
    first = await rest.post(LEASES, {"ttl": 60}, Idempotency_Key="me:1")
    again = await rest.post(LEASES, {"ttl": 60}, Idempotency_Key="me:1")
    assert first.body == again.body
    assert len((await rest.get(LEASES)).body["leases"]) == 1


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("POST", LEASES, {}, 400, "invalid_body"),
        ("POST", LEASES, {"ttl": 0}, 400, "invalid_body"),
        ("POST", LEASES, {"ttl": "9"}, 400, "invalid_body"),
        ("POST", LEASES, {"ttl": 9_000_000_001}, 400, "invalid_body"),
        ("POST", LEASES, {"ttl": 9, "id": 0}, 400, "invalid_body"),
        ("POST", LEASES, {"ttl": 9, "id": "0"}, 400, "invalid_body"),
        ("POST", LEASES, {"ttl": 9, "id": 5}, 409, "lease_exists"),
        ("GET", LEASES + "/x", None, 400, "invalid_path"),
        ("GET", LEASES + "/0", None, 400, "invalid_path"),
        ("GET", LEASES + "/9223372036854775808", None, 400, "invalid_path"),
        ("GET", LEASES + "/6", None, 404, "lease_not_found"),
        ("GET", LEASES + "?limit=0", None, 400, "invalid_query"),
        ("GET", LEASES + "?cursor=x", None, 400, "invalid_cursor"),
        ("POST", LEASES + "/6/keepalive", None, 404, "lease_not_found"),
        ("GET", LEASES + "/6/keepalive", None, 405, "method_not_allowed"),
        ("GET", LEASES + "/6/other", None, 404, "no_such_route"),
        ("DELETE", LEASES + "/6", None, 404, "lease_not_found"),
    ],
)
async def test_bad_calls_are_refused(
    rest: Rest, method: str, path: str, body: object, status: int, code: str
) -> None:
    await rest.post(LEASES, {"ttl": 60, "id": 5})
    assert await rest.refused(method, path, body) == (status, code)
