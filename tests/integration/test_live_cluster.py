"""One real cluster: a real etcd client, frozen minorities, a woken leader, overload, no space."""

from __future__ import annotations

import asyncio
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

from chaos.overload import Flood, flood
from chaos.raftcluster import wait_for
from chaos.server import Server
from chaos.servers import Servers
from kv.peers.processes import anonymous_bytes
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
    assert call(server, "GET", f"/api/v1/keys/{key}")[0] == 200  # now this replica has it, too
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

        if left == "leader":
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


# --- too much -------------------------------------------------------------------------------


async def flood_and_look(
    servers: Servers, name: str, connections: int = 300, ahead: int = 32, value_bytes: int = 100
) -> tuple[Flood, int]:
    """What came of some seconds of it, and the most memory that a node took meanwhile."""
    pids = [server.pid for server in servers.nodes.values()]
    task = asyncio.ensure_future(
        flood(
            servers.nodes[name],
            connections=connections,
            ahead=ahead,
            value_bytes=value_bytes,
            seconds=2.0,
        )
    )
    most = 0
    while not task.done():
        most = max(most, anonymous_bytes(pids))
        await asyncio.wait({task}, timeout=0.05)
    return task.result(), most


def test_large_bodies_share_a_budget(servers: Servers) -> None:
    """150 connections with a megabyte each under way: without a budget for all of them a node took
    what they sent together."""
    leader = servers.leader()
    server = servers.nodes[leader]
    result, most = asyncio.run(flood_and_look(servers, leader, 200, 3, 1_000_000))
    print(f"{result.rate:.0f}/s, {most >> 20} MiB, {dict(result.answers)}")
    assert result.answers[200] > 0
    assert result.answers[429] > 0
    assert result.without_retry_after == 0
    assert set(result.answers) <= {200, 429, 503, 504}
    assert most < 400 * MEBIBYTE
    writes(server, "after-large-bodies", "small", within_s=10.0)
    assert all(each.running for each in servers.nodes.values())


def test_far_too_much_is_refused_and_survived(shared_servers: Servers) -> None:
    """9,600 writes at a time, where 512 may wait: some are told to come back, none is lost in
    silence, and the second flood takes no more memory than the first."""
    leader = shared_servers.leader()
    server = shared_servers.nodes[leader]
    first, most = asyncio.run(flood_and_look(shared_servers, leader))
    second, most_again = asyncio.run(flood_and_look(shared_servers, leader))
    print(f"{first.rate:.0f}/s and {second.rate:.0f}/s, {most >> 20} and {most_again >> 20} MiB")
    for result in (first, second):
        print(dict(result.answers))
        assert result.answers[200] > 0
        assert result.answers[429] > 0
        assert result.without_retry_after == 0
        assert set(result.answers) <= {200, 429, 503, 504}
        assert result.broken == 0
    assert most_again < most + 32 * MEBIBYTE
    assert most_again < 256 * MEBIBYTE
    for each in (server, shared_servers.nodes[shared_servers.others(leader)[0]]):
        writes(each, "after-the-flood", each.name, within_s=5.0)
        began = time.monotonic()
        status, _, _ = call(each, "GET", "/api/v1/keys/after-the-flood")
        assert status == 200
        assert time.monotonic() - began < 1.0
    assert all(each.running for each in shared_servers.nodes.values())
    print(shared_servers.equal_digests())


# --- no space -------------------------------------------------------------------------------


def restart_with(servers: Servers, name: str, config: str) -> None:
    servers.stop(name)
    servers.nodes[name].member.config.write_text(config)
    servers.start(name)
    servers.wait_ready(name)


def test_a_full_disk_of_one_node_stops_growth_everywhere(shared_servers: Servers) -> None:
    """A reserve larger than the disk is a disk without space. What frees space goes on."""
    name = shared_servers.others(shared_servers.leader())[0]
    server = shared_servers.nodes[name]
    config = server.member.config.read_text()
    for key in ("space-1", "space-2"):
        writes(server, key, "here")
    restart_with(shared_servers, name, config + '\n[storage]\nreserve_bytes = "64 TiB"\n')
    try:
        for each in shared_servers.nodes.values():

            def refused(each: Server = each) -> bool:
                status, told, answered = call(
                    each, "PUT", "/api/v1/keys/space-3", {"value": "more"}
                )
                assert status == 200 or (
                    (status, told["error"], told["outcome"]) == (507, "no_space", "none")
                    and int(answered["Retry-After"]) >= 1
                ), told
                return status == 507

            wait_for(refused, f"{each.name} refuses growth", 10.0)
        status, told, _ = call(server, "GET", "/api/v1/keys/space-1")
        assert (status, told["value"]) == (200, "here")
        status, told, _ = call(server, "DELETE", "/api/v1/keys/space-1")
        assert (status, told["deleted"]) == (200, True)
        status, told, _ = call(server, "GET", "/health")
        assert (status, told["health"]) == (503, "false")
    finally:
        restart_with(shared_servers, name, config)
    writes(server, "space-3", "again")
    assert call(server, "GET", "/health")[0] == 200
    print(shared_servers.equal_digests())
