"""Every node is restarted in turn, under load: who retries sees no failure, and nothing is lost or
done twice."""

from __future__ import annotations

import asyncio
import time

import pytest

from chaos.http import HttpClient
from chaos.retrying import SHARED, Counts, Incrementer
from chaos.servers import Servers

pytestmark = [pytest.mark.integration, pytest.mark.slow]

CLIENTS = 6
STOP_MAX_S = 8.0
"""Less than the drain timeout: nothing may have been waited for in vain."""


def restart_all(servers: Servers, rounds: int) -> None:
    for _ in range(rounds):
        for name in servers.nodes:
            began = time.monotonic()
            assert servers.stop(name) == 0
            assert time.monotonic() - began < STOP_MAX_S, f"{name} took long to stop"
            servers.start(name)
            servers.wait_ready(name)


async def restart_under_load(servers: Servers, rounds: int) -> tuple[Counts, list[Incrementer]]:
    counts, nodes = Counts(), list(servers.nodes.values())
    clients = [Incrementer(number, nodes, counts, "rolling") for number in range(CLIENTS)]
    async with asyncio.TaskGroup() as group:
        for client in clients:
            group.create_task(client.run(0.01))
        try:
            await asyncio.to_thread(restart_all, servers, rounds)
        finally:
            for client in clients:
                client.stopping = True
    return counts, clients


async def counter(servers: Servers, node: str, key: str) -> int:
    client = HttpClient(servers.nodes[node].host, servers.nodes[node].port)
    try:
        return int((await client.call("GET", f"/api/v1/keys/{key}")).json()["value"])
    finally:
        client.close()


def test_a_rolling_restart_fails_no_request(servers: Servers, rounds: int) -> None:
    counts, clients = asyncio.run(restart_under_load(servers, rounds))
    print(
        f"{counts.increments} increments, slowest {counts.slowest_s:.2f} s, "
        f"retries {dict(counts.retries)}"
    )
    assert counts.failures == []
    assert counts.increments > 100
    for node in servers.nodes:
        for client in clients:
            assert asyncio.run(counter(servers, node, client.key)) == client.own
        assert asyncio.run(counter(servers, node, SHARED)) == counts.shared
    print(servers.equal_digests())
