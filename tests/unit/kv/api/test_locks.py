"""Locks: order, fencing tokens, waiting, leaving the queue."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from kv.errors import UnavailableError
from raftgroups.commands import Command, Delete, LeaseRevoke, Put, Txn
from storage.errors import JanusError

from .conftest import Answer, Rest

LOCK = "/api/v1/locks/job"


def queue(rest: Rest, name: bytes = b"job") -> list[bytes]:
    page = rest.strong.machine.view.range(name + b"/", name + b"0")
    return [record.key for record in sorted(page.items, key=lambda item: item.create_revision)]


async def waiter(rest: Rest, **fields: Any) -> asyncio.Task[Answer]:
    """A caller that waits in the queue."""
    before = len(queue(rest))
    task = asyncio.ensure_future(rest.post(LOCK, {"wait_seconds": 30, **fields}))
    await rest.until(lambda: len(queue(rest)) == before + 1)
    await rest.until(lambda: rest.strong.watchers == before)  # all of them but the holder
    return task


async def test_hold_and_let_go(rest: Rest) -> None:
    held = await rest.post(LOCK, {"ttl": 20, "owner": "me"})
    assert held.status == 200
    lease, token = held.body["lease"], held.body["token"]
    assert held.body == {
        "name": "job",
        "key": f"job/{int(lease):x}",
        "token": token,
        "lease": lease,
    }
    seen = await rest.get(LOCK)
    assert seen.body == {
        "name": "job",
        "holder": {"key": held.body["key"], "token": token, "lease": lease, "owner": "me"},
        "waiting": 0,
    }
    assert (await rest.get(f"/api/v1/leases/{lease}")).body["ttl"] == 20
    busy = await rest.post(LOCK)
    assert (busy.status, busy.body["error"], busy.body["retryable"]) == (409, "lock_held", True)
    assert queue(rest) == [held.body["key"].encode()]
    assert len(rest.strong.local().leases()) == 1
    gone = await rest.ask("DELETE", f"{LOCK}?lease={lease}")
    assert gone.body == {"name": "job", "released": True}
    assert rest.strong.local().leases() == []
    again = await rest.ask("DELETE", f"{LOCK}?lease={lease}")
    assert again.body["released"] is False
    assert (await rest.get(LOCK)).body == {"name": "job", "holder": None, "waiting": 0}
    assert (await rest.post(LOCK)).body["token"] > token


async def test_the_queue_is_in_order_and_tokens_rise(rest: Rest) -> None:
    first = (await rest.post(LOCK)).body
    second = await waiter(rest)
    third = await waiter(rest)
    assert (await rest.get(LOCK)).body["waiting"] == 2
    await rest.ask("DELETE", f"{LOCK}?key={first['key']}")
    held = (await second).body
    assert held["token"] > first["token"]
    assert not third.done()
    rest.strong.apply(LeaseRevoke(int(held["lease"])))
    last = (await third).body
    assert last["token"] > held["token"]
    assert queue(rest) == [last["key"].encode()]
    await rest.until(lambda: rest.strong.watchers == 0)


async def test_a_holder_that_dies_loses_it(rest: Rest) -> None:
    await rest.post(LOCK, {"ttl": 5})
    second = await waiter(rest, ttl=3600)
    rest.strong.pass_time(6)
    answer = await second
    assert answer.status == 200
    lease = await rest.get(f"/api/v1/leases/{answer.body['lease']}")
    assert lease.body["ttl_remaining"] == 3600.0


async def test_who_waits_is_kept_alive(rest: Rest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lease is short, the wait is long: without the server's keepalives it would be lost."""
    held = (await rest.post(LOCK, {"ttl": 3600})).body
    second = await waiter(rest, ttl=2)  # a keepalive every 0.67 s
    kept = rest.strong.index
    rest.strong.pass_time(1.5)
    await rest.until(lambda: rest.strong.index > kept + 1)
    rest.strong.pass_time(1.5)
    await rest.ask("DELETE", f"{LOCK}?key={held['key']}")
    assert (await second).status == 200


async def test_who_waits_and_loses_the_lease_is_told(rest: Rest) -> None:
    held = (await rest.post(LOCK)).body
    second = await waiter(rest)
    mine = int(queue(rest)[1].split(b"/")[1], 16)
    rest.strong.apply(LeaseRevoke(mine))
    await rest.ask("DELETE", f"{LOCK}?key={held['key']}")
    answer = await second
    assert (answer.status, answer.body["error"]) == (409, "lock_lost")


async def test_a_node_that_slept_between_its_two_steps_says_that_the_lock_is_lost(
    rest: Rest,
) -> None:
    """Not that a lease is missing, of which its caller never heard."""

    def sleep(command: Command) -> None:
        if isinstance(command, Txn):
            rest.strong.pass_time(60)

    rest.strong.fail_writes = sleep
    told = await rest.post(LOCK, {"ttl": 3})
    assert (told.status, told.body["error"]) == (409, "lock_lost")
    assert (told.body["outcome"], told.body["retryable"]) == ("none", True)
    assert queue(rest) == []


async def test_who_goes_away_leaves_the_queue(rest: Rest) -> None:
    held = (await rest.post(LOCK)).body
    second = await waiter(rest)
    third = await waiter(rest)
    second.cancel()
    await rest.until(lambda: len(queue(rest)) == 2)
    assert len(rest.strong.local().leases()) == 2
    await rest.ask("DELETE", f"{LOCK}?key={held['key']}")
    assert (await third).status == 200


async def test_who_waited_long_enough_leaves_the_queue(rest: Rest) -> None:
    held = (await rest.post(LOCK)).body
    answer = await rest.post(LOCK, {"wait_seconds": 0.05})
    assert (answer.status, answer.body["error"]) == (409, "lock_held")
    assert queue(rest) == [held["key"].encode()]
    assert rest.strong.watchers == 0


async def test_a_lease_that_was_brought(rest: Rest) -> None:
    await rest.post("/api/v1/leases", {"ttl": 60, "id": 255})
    held = (await rest.post(LOCK, {"lease": "255"})).body
    assert held["key"] == "job/ff"
    again = (await rest.post(LOCK, {"lease": 255})).body
    assert again == held  # it is in the queue already, and first
    await rest.post("/api/v1/leases", {"ttl": 60, "id": 5})
    busy = await rest.post(LOCK, {"lease": 5})
    assert busy.status == 409
    assert rest.strong.local().leases() == [5, 255]
    assert queue(rest) == [b"job/ff"]
    assert (await rest.ask("DELETE", f"{LOCK}?key=job/ff")).body["released"] is True
    assert rest.strong.local().leases() == [5, 255]


async def test_leaving_may_fail_too(rest: Rest) -> None:
    await rest.post(LOCK)

    def fail(command: Command) -> JanusError | None:
        return UnavailableError("no leader") if isinstance(command, LeaseRevoke) else None

    rest.strong.fail_writes = fail
    answer = await rest.post(LOCK)
    assert (answer.status, answer.body["error"]) == (409, "lock_held")


async def test_other_keys_are_no_holders(rest: Rest) -> None:
    """A lock's keys begin with its name and a slash; its neighbours are others."""
    rest.strong.apply(Put(b"job", b""))
    rest.strong.apply(Put(b"jobs/1", b""))
    rest.strong.apply(Put(b"job0", b""))
    assert (await rest.post(LOCK)).status == 200
    assert (await rest.post("/api/v1/locks/jobs")).status == 409  # held through /v3, say
    rest.strong.apply(Delete(b"jobs/1"))
    assert (await rest.post("/api/v1/locks/jobs")).status == 200


async def test_any_name(rest: Rest) -> None:
    held = await rest.post("/api/v1/locks/a%2Fb/%FF")
    assert (held.body["name"], held.body["name_encoding"]) == ("YS9iL/8=", "base64")
    assert (await rest.get("/api/v1/locks/a/b/%ff")).body["holder"]["token"] == held.body["token"]


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("POST", "/api/v1/locks/", None, 400, "invalid_path"),
        ("POST", "/api/v1/locks/" + "x" * 416, None, 400, "invalid_path"),
        ("POST", LOCK, {"ttl": 0}, 400, "invalid_body"),
        ("POST", LOCK, {"wait_seconds": 301}, 400, "invalid_body"),
        ("POST", LOCK, {"wait": 3}, 400, "invalid_body"),
        ("POST", LOCK, {"lease": 99}, 404, "lease_not_found"),
        ("POST", LOCK, b"{", 400, "invalid_body"),
        ("DELETE", LOCK, None, 400, "invalid_query"),
        ("DELETE", LOCK + "?key=job/1&lease=1", None, 400, "invalid_query"),
        ("DELETE", LOCK + "?key=other/1", None, 400, "invalid_query"),
        ("DELETE", LOCK + "?key=job/x", None, 400, "invalid_query"),
        ("DELETE", LOCK + "?key=job/01", None, 400, "invalid_query"),
        ("DELETE", LOCK + "?lease=x", None, 400, "invalid_query"),
        ("PUT", LOCK, None, 405, "method_not_allowed"),
    ],
)
async def test_bad_calls_are_refused(
    rest: Rest, method: str, path: str, body: object, status: int, code: str
) -> None:
    assert await rest.refused(method, path, body) == (status, code)
    assert rest.strong.local().leases() == []
