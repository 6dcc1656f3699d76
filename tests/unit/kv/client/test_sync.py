"""The blocking client: it has every method of the asynchronous one, and they do the same."""

from __future__ import annotations

import asyncio
import inspect
import threading
from typing import Any

import pytest

from kv.client import client, leases, locks, sync, watches
from kv.client.failures import InvalidEndpointError, LeaseLostError
from raftgroups.refusals import LeaseNotFoundError

PAIRS = [
    (client.Client, sync.Client),
    (leases.Lease, sync.Lease),
    (locks.Lock, sync.Lock),
    (watches.Watch, sync.Watch),
]


def _public(kind: type) -> set[str]:
    return {name for name in dir(kind) if not name.startswith("_")}


@pytest.mark.parametrize(("asynchronous", "blocking"), PAIRS)
def test_it_has_every_public_name_with_the_same_parameters(
    asynchronous: type, blocking: type
) -> None:
    assert _public(blocking) >= _public(asynchronous) - {"id", "name", "connections"}
    for name in _public(asynchronous):
        method = inspect.getattr_static(asynchronous, name)
        if not inspect.isfunction(method) or (asynchronous, name) == (watches.Watch, "next"):
            continue
        mine = inspect.signature(getattr(blocking, name)).parameters
        assert mine == inspect.signature(method).parameters, name
        assert not inspect.iscoroutinefunction(inspect.unwrap(getattr(blocking, name))) or hasattr(
            getattr(blocking, name), "__wrapped__"
        )


async def test_a_thread_without_a_loop_uses_all_of_it(rest: Any) -> None:
    await asyncio.to_thread(_use, rest.port)
    assert "januskv client" not in {thread.name for thread in threading.enumerate()}


def _use(port: int) -> None:
    with sync.Client(f"127.0.0.1:{port}") as made:
        put = made.put("k", "v")
        record = made.get("k")
        assert record is not None
        assert record.value == b"v"
        assert made.session_token == f"3:{put.version}"
        assert [entry.key for entry in made.list("k")] == [b"k"]
        assert made.session().get("k") == record
        with made.watch(prefix="") as watch:
            with pytest.raises(TimeoutError):
                watch.next(timeout_s=0.05)
            made.delete("k")
            assert next(watch).events[0].type == "delete"
        with pytest.raises(StopIteration):
            next(watch)
        with made.grant(30) as lease:
            assert lease.alive
            lease.check()
            made.put("held", "1", lease=lease.id)
        assert made.get("held") is None
        with made.lock("door") as lock:
            assert lock.alive
            assert lock.token > put.version
        with pytest.raises(LeaseLostError):
            lock.check()
        with pytest.raises(LeaseNotFoundError):
            made.keep(12345)
        assert [each.id for each in made.leases()] == []


def test_a_wrong_call_leaves_no_thread_behind() -> None:
    with pytest.raises(InvalidEndpointError):
        sync.Client("ftp://x")
    assert "januskv client" not in {thread.name for thread in threading.enumerate()}
