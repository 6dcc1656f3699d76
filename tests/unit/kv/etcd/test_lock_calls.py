"""Locks and elections: the order of the queue, and everybody who leaves it in some way."""

from __future__ import annotations

import asyncio
import contextlib
from base64 import b64decode, b64encode
from collections.abc import Callable
from typing import Any

from raftgroups.commands import Compact, LeaseGrant, LeaseRevoke
from storage.clock import ManualClock

Talker = Callable[..., Any]
LOCK, UNLOCK = "/v3/lock/lock", "/v3/lock/unlock"
CAMPAIGN, OBSERVE = "/v3/election/campaign", "/v3/election/observe"
NAME = b64encode(b"m").decode()


def key_of(answer: dict[str, Any]) -> bytes:
    return b64decode(answer["key"])


def queue(one: Any) -> list[bytes]:
    """The keys of the queue, by age."""
    items = one.strong.machine.view.read_range(b"m/", b"m0").items
    return [item.key for item in sorted(items, key=lambda item: item.create_revision)]


async def granted(one: Any, *leases: int) -> None:
    for lease in leases:
        one.strong.apply(LeaseGrant(lease, 600))


async def waiting(one: Any, path: str, lease: int, expected: int, **more: Any) -> Any:
    """A call that has entered the queue, as its next place."""
    body = {"name": NAME, "lease": lease} | more
    task = asyncio.get_running_loop().create_task(one.post(path, body))
    await one.until(lambda: len(queue(one)) == expected, "the call is in the queue")
    return task


async def hang_up(task: Any) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def test_the_lock_goes_round_in_the_order_of_arrival(talk: Talker) -> None:
    one = await talk()
    await granted(one, 9, 5, 7)
    status, first = await one.post(LOCK, {"name": NAME, "lease": 9})
    assert (status, key_of(first)) == (200, b"m/9")
    waiters = [await waiting(one, LOCK, lease, at) for at, lease in ((2, 5), (3, 7))]
    holder = first
    for waiter, expected in zip(waiters, (b"m/5", b"m/7"), strict=True):
        assert not waiter.done()
        await one.post(UNLOCK, {"key": holder["key"]})
        status, holder = await waiter
        assert (status, key_of(holder)) == (200, expected)
    assert one.watchers == 0


async def test_who_hangs_up_leaves_the_queue(talk: Talker) -> None:
    one = await talk()
    await granted(one, 1, 2, 3)
    await one.post(LOCK, {"name": NAME, "lease": 1})
    second = await waiting(one, LOCK, 2, 2)
    third = await waiting(one, LOCK, 3, 3)
    await hang_up(second)
    await one.until(lambda: queue(one) == [b"m/1", b"m/3"], "the second has left")
    one.strong.apply(LeaseRevoke(1))
    status, answer = await third
    assert (status, key_of(answer)) == (200, b"m/3")
    assert one.watchers == 0
    assert len(one.gateway._presence) == 0


async def test_a_lease_made_for_a_caller_goes_with_him(talk: Talker) -> None:
    one = await talk()
    _, first = await one.post(LOCK, {"name": NAME})
    assert len(one.strong.machine.leases) == 1
    second = await waiting(one, LOCK, 0, 2)
    assert len(one.strong.machine.leases) == 2
    await hang_up(second)
    await one.until(lambda: len(one.strong.machine.leases) == 1, "his lease is gone")
    assert queue(one) == [key_of(first)]


async def test_another_call_with_the_same_lease_keeps_the_place(talk: Talker) -> None:
    one = await talk()
    await granted(one, 1, 2)
    _, first = await one.post(LOCK, {"name": NAME, "lease": 1})
    gone = await waiting(one, LOCK, 2, 2)
    kept = await waiting(one, LOCK, 2, 2)
    await one.until(lambda: one.watchers == 2, "both wait")
    await hang_up(gone)
    await one.until(lambda: one.watchers == 1, "one waits")
    assert queue(one) == [b"m/1", b"m/2"]
    await one.post(UNLOCK, {"key": first["key"]})
    status, answer = await kept
    assert (status, key_of(answer)) == (200, b"m/2")


async def test_who_lost_his_lease_while_waiting_does_not_get_the_lock(
    talk: Talker, clock: ManualClock
) -> None:
    one = await talk()
    await granted(one, 1)
    one.strong.apply(LeaseGrant(2, 5))
    _, first = await one.post(LOCK, {"name": NAME, "lease": 1})
    second = await waiting(one, LOCK, 2, 2)
    clock.advance(6)
    one.strong.expire()
    assert queue(one) == [b"m/1"]
    await one.post(UNLOCK, {"key": first["key"]})
    status, answer = await second
    assert (status, answer["code"]) == (500, 2)
    assert answer["message"] == "mutex: session is expired"


async def test_waiting_survives_a_compaction(talk: Talker) -> None:
    one = await talk()
    await granted(one, 1, 2)
    _, first = await one.post(LOCK, {"name": NAME, "lease": 1})
    second = await waiting(one, LOCK, 2, 2)
    await one.put("other")
    one.strong.apply(Compact(one.strong.machine.revision))
    await one.post(UNLOCK, {"key": first["key"]})
    status, answer = await second
    assert (status, key_of(answer)) == (200, b"m/2")


async def test_a_node_that_stops_sends_the_waiting_away(talk: Talker) -> None:
    one = await talk()
    await granted(one, 1, 2)
    await one.post(LOCK, {"name": NAME, "lease": 1})
    second = await waiting(one, LOCK, 2, 2)
    await one.until(lambda: one.watchers == 1, "it waits")
    one.gateway.stop("the node stops")
    status, answer = await second
    assert (status, answer["code"]) == (500, 2)
    assert answer["message"] == "etcdserver: server stopped"
    assert queue(one) == [b"m/1"]


# --- elections --------------------------------------------------------------------------------


async def test_a_candidate_without_a_lease_any_more_does_not_lead(
    talk: Talker, clock: ManualClock
) -> None:
    one = await talk()
    await granted(one, 1)
    one.strong.apply(LeaseGrant(2, 5))
    _, first = await one.post(CAMPAIGN, {"name": NAME, "lease": 1, "value": "YQ=="})
    second = await waiting(one, CAMPAIGN, 2, 2, value="Yg==")
    clock.advance(6)
    one.strong.expire()
    await one.post("/v3/election/resign", {"leader": first["leader"]})
    status, answer = await second
    assert (status, answer["code"]) == (500, 2)


async def test_only_the_leader_proclaims(talk: Talker) -> None:
    one = await talk()
    await granted(one, 1, 2)
    _, answer = await one.post(CAMPAIGN, {"name": NAME, "lease": 1, "value": "YQ=="})
    leader = answer["leader"]
    other = leader | {"rev": str(int(leader["rev"]) + 1)}
    for claimed, expected in ((leader, 200), (other, 500)):
        status, answer = await one.post(
            "/v3/election/proclaim", {"leader": claimed, "value": "Yg=="}
        )
        assert status == expected
    status, answer = await one.post("/v3/election/leader", {"name": NAME})
    assert (status, answer["kv"]["value"]) == (200, "Yg==")


async def test_observers_see_every_value_of_every_leader(talk: Talker) -> None:
    one = await talk()
    await granted(one, 1, 2)
    early = await asyncio.wait_for(_opened(one), 10)
    _, answer = await one.post(CAMPAIGN, {"name": NAME, "lease": 1, "value": "YQ=="})
    first = await early
    assert (await first.result())["kv"]["value"] == "YQ=="
    for value in ("Yg==", "Yw=="):
        await one.post("/v3/election/proclaim", {"leader": answer["leader"], "value": value})
    assert [(await first.result())["kv"]["value"] for _ in range(2)] == ["Yg==", "Yw=="]
    second = await waiting(one, CAMPAIGN, 2, 2, value="ZA==")
    await one.post("/v3/election/resign", {"leader": answer["leader"]})
    await second
    assert (await first.result())["kv"]["value"] == "ZA=="
    first.close()
    await one.until(lambda: one.watchers == 0, "the observer is gone")


async def _opened(one: Any) -> Any:
    """An observer that has begun to wait. Its head comes with the first leader."""
    task = asyncio.get_running_loop().create_task(one.open(OBSERVE, {"name": NAME}))
    await one.until(lambda: one.watchers == 1, "the observer waits")
    return task


async def test_observers_are_told_that_the_node_stops(talk: Talker) -> None:
    one = await talk()
    await granted(one, 1)
    await one.post(CAMPAIGN, {"name": NAME, "lease": 1, "value": "YQ=="})
    stream = await one.open(OBSERVE, {"name": NAME})
    await stream.result()
    await one.until(lambda: one.watchers == 1, "the observer follows")
    one.gateway.stop("the node stops")
    error = (await stream.next())["error"]
    assert error["message"] == "etcdserver: server stopped"
    assert (error["grpc_code"], error["http_code"]) == (14, 503)
    assert await stream.next() is None
