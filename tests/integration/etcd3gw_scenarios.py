"""What the real client etcd3gw does with a gateway: scenarios for one node or a cluster.

Each takes a client and a prefix of its own for its keys, and leaves nothing behind that another
one could trip over. `SCENARIOS` has them by name.
"""

from __future__ import annotations

import threading
from base64 import b64encode
from collections.abc import Callable
from itertools import islice
from typing import Any, Final

import pytest
from etcd3gw import exceptions

from tests.polling import until

DEADLINE_S: Final = 15.0


def b64(text: str) -> str:
    return b64encode(text.encode()).decode()


def put_get_delete(client: Any, prefix: str) -> None:
    key = f"{prefix}k"
    assert client.get(key) == []
    assert client.put(key, "one") is True
    assert client.get(key) == [b"one"]
    ((value, about),) = client.get(key, metadata=True)
    assert (value, about["version"], about["key"]) == (b"one", "1", key.encode())
    assert client.put(key, "two") is True
    ((_, later),) = client.get(key, metadata=True)
    assert int(later["mod_revision"]) > int(about["mod_revision"])
    assert later["create_revision"] == about["create_revision"]
    assert client.delete(key) is True
    assert client.delete(key) is False
    assert client.get(key) == []


def ranges(client: Any, prefix: str) -> None:
    for name in ("b", "a", "c"):
        client.put(f"{prefix}{name}", name)
    assert [value for value, _ in client.get_prefix(prefix)] == [b"a", b"b", b"c"]
    found = client.get_prefix(prefix, sort_order="descend", sort_target="mod")
    assert [value for value, _ in found] == [b"c", b"a", b"b"]
    keys = {about["key"] for _, about in client.get_all()}
    assert {f"{prefix}{name}".encode() for name in "abc"} <= keys
    assert client.delete_prefix(prefix) is True
    assert client.get_prefix(prefix) == []


def create_and_replace(client: Any, prefix: str) -> None:
    key = f"{prefix}k"
    assert client.create(key, "one") is True
    assert client.create(key, "again") is False
    assert client.replace(key, "wrong", "two") is False
    assert client.replace(key, "one", "two") is True
    assert client.get(key) == [b"two"]
    client.delete(key)


def transactions(client: Any, prefix: str) -> None:
    key = b64(f"{prefix}k")
    txn = {
        "compare": [{"key": key, "result": "EQUAL", "target": "VERSION", "version": 0}],
        "success": [{"request_put": {"key": key, "value": b64("first")}}],
        "failure": [{"request_range": {"key": key}}],
    }
    assert client.transaction(txn)["succeeded"] is True
    second = client.transaction(txn)
    assert "succeeded" not in second
    (response,) = second["responses"]
    assert response["response_range"]["kvs"][0]["value"] == b64("first")
    with pytest.raises(exceptions.Etcd3Exception):
        client.transaction({"success": [{"request_put": {"key": ""}}]})
    client.delete(f"{prefix}k")


def leases(client: Any, prefix: str) -> None:
    lease = client.lease(600)
    key = f"{prefix}k"
    client.put(key, "held", lease=lease)
    assert lease.keys() == [key.encode()]
    assert 590 <= lease.ttl() <= 600
    assert lease.refresh() == 600
    assert lease.revoke() is True
    assert client.get(key) == []
    assert lease.ttl() == -1
    assert lease.refresh() == -1


def a_lease_that_ends(client: Any, prefix: str) -> None:
    lease = client.lease(2)
    key = f"{prefix}k"
    client.put(key, "held", lease=lease)
    assert client.get(key) == [b"held"]
    until(lambda: client.get(key) == [], "the lease ends and takes its key with it")


def locks(client: Any, prefix: str) -> None:
    mine, other = client.lock(f"{prefix}l", ttl=60), client.lock(f"{prefix}l", ttl=60)
    assert mine.acquire() is True
    assert other.acquire() is False
    assert (mine.is_acquired(), other.is_acquired()) == (True, False)
    assert mine.refresh() == 60
    assert mine.release() is True
    assert other.acquire() is True
    assert other.release() is True
    with client.lock(f"{prefix}l", ttl=60) as held:
        assert held.is_acquired()


def watches(client: Any, prefix: str) -> None:
    events, cancel = client.watch_prefix(prefix)
    try:
        for number in range(3):
            client.put(f"{prefix}{number}", str(number))
        client.delete(f"{prefix}1")
        seen = [(each.get("type"), each["kv"]["key"]) for each in islice(events, 4)]
    finally:
        cancel()
    keys = [f"{prefix}{number}".encode() for number in (0, 1, 2, 1)]
    assert seen == list(zip((None, None, None, "DELETE"), keys, strict=True))
    client.delete_prefix(prefix)


def watch_once(client: Any, prefix: str) -> None:
    key = f"{prefix}k"
    with pytest.raises(exceptions.WatchTimedOut):
        client.watch_once(key, timeout=0.1)
    writer = threading.Timer(0.1, client.put, (key, "now"))
    writer.start()
    try:
        event = client.watch_once(key, timeout=DEADLINE_S)
    finally:
        writer.join()
    assert event["kv"]["value"] == b"now"
    revision = int(event["kv"]["mod_revision"])
    again = client.watch_once(key, timeout=DEADLINE_S, start_revision=revision)
    assert again["kv"] == event["kv"]
    client.delete(key)


def members_and_status(client: Any, prefix: str) -> None:
    members = client.members()
    assert members
    assert all(member["clientURLs"] for member in members)
    status = client.status()
    assert status["header"]["raft_term"] == status["raftTerm"]
    assert status["leader"] in {member["ID"] for member in members}


SCENARIOS: Final[dict[str, Callable[[Any, str], None]]] = {
    scenario.__name__: scenario
    for scenario in (
        put_get_delete,
        ranges,
        create_and_replace,
        transactions,
        leases,
        a_lease_that_ends,
        locks,
        watches,
        watch_once,
        members_and_status,
    )
}
