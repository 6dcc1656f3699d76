"""One real cluster, three nodes: a real etcd client, frozen minorities, a woken leader, overload."""

from __future__ import annotations

import http.client
import json
import select
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import etcd3gw
import pytest

from chaos.raftcluster import wait_for
from chaos.servers import Server, Servers
from tests.integration.etcd3gw_scenarios import SCENARIOS

pytestmark = [pytest.mark.integration]

MEBIBYTE = 1024 * 1024
RECOVERY_S = 15.0


def call(
    server: Server,
    method: str,
    path: str,
    body: object = None,
    *,
    timeout_s: float = 20.0,
    **headers: str,
) -> tuple[int, Any, dict[str, str]]:
    """Header names with underscores for hyphens."""
    connection = http.client.HTTPConnection(server.host, server.port, timeout=timeout_s)
    try:
        payload = None if body is None else json.dumps(body)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, payload, named)
        answer = connection.getresponse()
        text = answer.read()
        return answer.status, json.loads(text or b"null"), dict(answer.getheaders())
    finally:
        connection.close()


@contextmanager
def frozen(servers: Servers, *names: str) -> Iterator[None]:
    for name in names:
        servers.nodes[name].signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for name in names:
            servers.nodes[name].signal(signal.SIGCONT)


def writes(server: Server, key: str, value: str, within_s: float = RECOVERY_S) -> int:
    """Until it is done. Returns the version."""

    def probe() -> int | None:
        try:
            status, told, _ = call(server, "PUT", f"/api/v1/keys/{key}", {"value": value})
        except OSError:
            return None
        return int(told["version"]) if status == 200 else None

    return wait_for(probe, f"{server.name} writes {key}", within_s, poll_s=0.05)


# --- a real client --------------------------------------------------------------------------


@pytest.mark.parametrize("through", ["leader", "follower"])
def test_etcd3gw(shared_servers: Servers, through: str) -> None:
    leader = shared_servers.leader()
    name = leader if through == "leader" else shared_servers.others(leader)[0]
    server = shared_servers.nodes[name]
    client = etcd3gw.client(host=server.host, port=server.port, timeout=20)
    try:
        for scenario_name, scenario in SCENARIOS.items():
            scenario(client, f"{through}/{scenario_name}/")
    finally:
        client.session.close()


def test_etcd3gw_through_two_nodes(shared_servers: Servers) -> None:
    """What one client holds and writes, another sees at another node at once."""
    leader = shared_servers.leader()
    one, two = (
        etcd3gw.client(host=server.host, port=server.port, timeout=20)
        for server in (shared_servers.nodes[name] for name in shared_servers.others(leader))
    )
    try:
        for number in range(20):
            one.put("two/k", str(number))
            assert two.get("two/k") == [str(number).encode()]
        mine, other = one.lock("two/l", ttl=60), two.lock("two/l", ttl=60)
        assert mine.acquire() is True
        assert other.acquire() is False
        assert mine.release() is True
        assert other.acquire() is True
        assert other.release() is True
        lease = one.lease(60)
        one.put("two/leased", "x", lease=lease)
        events, cancel = two.watch("two/leased")
        try:
            lease.revoke()
            # A watch begins where its node stands, which may be before the put, as with etcd.
            assert next(event for event in events if "type" in event)["type"] == "DELETE"
        finally:
            cancel()
    finally:
        one.session.close()
        two.session.close()


# --- without a majority ---------------------------------------------------------------------


@pytest.mark.parametrize("left", ["leader", "follower"])
def test_a_minority_refuses_what_it_cannot_promise(shared_servers: Servers, left: str) -> None:
    leader = shared_servers.leader()
    alone = leader if left == "leader" else shared_servers.others(leader)[0]
    server = shared_servers.nodes[alone]
    key = f"minority-{left}"
    version = writes(server, key, "before")
    token = {"Session_Token": f"1:{version}"}
    # The replica left alone has what it is asked for later.
    assert (
        call(server, "GET", f"/api/v1/keys/{key}", Consistency_Level="SESSION", **token)[0] == 200
    )
    with frozen(shared_servers, *shared_servers.others(alone)):
        began = time.monotonic()
        status, told, _ = call(server, "GET", f"/api/v1/keys/{key}", Request_Timeout="1")
        assert time.monotonic() - began < 3.0
        assert (status, told["outcome"]) == (503, "none"), "a read changes nothing"

        began = time.monotonic()
        status, told, _ = call(
            server, "PUT", f"/api/v1/keys/{key}", {"value": "during"}, Request_Timeout="1"
        )
        assert time.monotonic() - began < 3.0
        assert (status, told["outcome"]) in ((503, "none"), (504, "unknown"))

        began = time.monotonic()
        status, told, _ = call(server, "GET", f"/api/v1/keys/{key}")
        assert time.monotonic() - began < 10.0, "the node's own deadline holds, too"
        assert (status, told["outcome"]) == (503, "none")

        for level, headers in (("EVENTUAL", {}), ("SESSION", token)):
            began = time.monotonic()
            status, told, answered = call(
                server, "GET", f"/api/v1/keys/{key}", Consistency_Level=level, **headers
            )
            assert time.monotonic() - began < 1.0
            assert (status, told["value"]) == (200, "before")
            assert answered["Consistency-Level"] == level
    after = writes(server, key, "after")
    assert after > version
    for each in shared_servers.nodes.values():
        shared_servers.wait_ready(each.name)
        status, told, _ = call(each, "GET", f"/api/v1/keys/{key}")
        assert (status, told["value"]) == (200, "after")
    print(shared_servers.equal_digests())


def test_a_retried_write_is_not_called_undone(shared_servers: Servers) -> None:
    """With a token the node itself tries again. Its first try was sent to the leader, which died:
    it may have been done, and that the second found nobody to ask changes nothing about it."""
    leader = shared_servers.leader()
    follower, other = shared_servers.others(leader)
    server = shared_servers.nodes[follower]
    writes(server, "retried", "before")
    connection = http.client.HTTPConnection(server.host, server.port, timeout=20)
    shared_servers.nodes[leader].signal(signal.SIGSTOP)
    with frozen(shared_servers, other):
        headers = {"Idempotency-Key": "a-client:1", "Request-Timeout": "3"}
        body = json.dumps({"value": "during"})
        connection.request("PUT", "/api/v1/keys/retried", body, headers)
        # The answer cannot come: what was forwarded lies before a leader that is frozen.
        assert select.select([connection.sock], [], [], 0.5)[0] == []
        shared_servers.kill(leader)
        answer = connection.getresponse()
        told = json.loads(answer.read())
        connection.close()
    shared_servers.start(leader)
    shared_servers.wait_ready(*shared_servers.nodes)
    assert (answer.status, told["outcome"]) == (504, "unknown"), told


def test_a_woken_leader_serves_nothing_stale(shared_servers: Servers, rounds: int) -> None:
    """Its clients' requests wait in its sockets when it wakes: it answers them before it hears of
    the newer leader, unless it asks a majority first."""
    for number in range(max(2, rounds)):
        leader = shared_servers.leader()
        old = shared_servers.nodes[leader]
        others = shared_servers.others(leader)
        key = f"woken-{number}"
        writes(old, key, "old")
        connections = [http.client.HTTPConnection(old.host, old.port) for _ in range(20)]
        for connection in connections:
            connection.connect()
        with frozen(shared_servers, leader):
            shared_servers.leader(others)
            writes(shared_servers.nodes[others[0]], key, "new")
            for connection in connections:
                connection.request("GET", f"/api/v1/keys/{key}")
        answers: Counter[str] = Counter()
        for connection in connections:
            answer = connection.getresponse()
            told = json.loads(answer.read())
            answers[told["value"] if answer.status == 200 else str(answer.status)] += 1
            connection.close()
        print(f"the woken leader answered {dict(answers)}")
        assert answers["old"] == 0
        assert set(answers) <= {"new", "503"}
        shared_servers.wait_ready(leader)
    print(shared_servers.equal_digests())
