"""The client SDK on a real cluster while its nodes are killed and frozen: every write once, every
change seen once and in order, leases and locks kept or their loss told."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from itertools import chain
from typing import Any

import pytest

from chaos.servers import Servers
from kv.client import Client, Level, Watch

pytestmark = pytest.mark.integration

WORKERS = 8
KEY = b"counter"


def client_of(servers: Servers, **options: Any) -> Client:
    urls = [f"127.0.0.1:{server.port}" for server in servers.nodes.values()]
    return Client(urls, timeout_s=30.0, try_s=1.5, **options)


async def count_up(client: Client, done: asyncio.Event) -> list[int]:
    """The sums that one worker was told."""
    sums = []
    while not done.is_set():
        sums.append((await client.incr(KEY)).value)
        await asyncio.sleep(0.002)
    return sums


async def see_all(watch: Watch, seen: list[tuple[int, bytes]]) -> None:
    async for change in watch:
        for event in change.events:
            assert event.value is not None
            seen.append((change.revision, event.value))


def disturb(servers: Servers) -> None:
    leader = servers.leader()
    servers.kill(leader)
    servers.leader(servers.others(leader))
    servers.start(leader)
    servers.wait_ready(leader)
    frozen = servers.leader()
    servers.nodes[frozen].signal(signal.SIGSTOP)
    servers.leader(servers.others(frozen))
    servers.nodes[frozen].signal(signal.SIGCONT)
    servers.wait_ready(frozen)


async def test_every_increment_is_done_once_and_seen_once(servers: Servers) -> None:
    done = asyncio.Event()
    seen: list[tuple[int, bytes]] = []
    async with client_of(servers) as client, client_of(servers) as observer:
        lease = await client.grant(5)
        await client.put("alive", "yes", lease=lease.id)
        async with observer.watch(KEY) as watch, asyncio.TaskGroup() as group:
            group.create_task(see_all(watch, seen))
            workers = [group.create_task(count_up(client, done)) for _ in range(WORKERS)]
            await asyncio.to_thread(disturb, servers)
            done.set()
            told = sorted(chain.from_iterable(await asyncio.gather(*workers)))
            record = await client.get(KEY)
            assert record is not None
            async with asyncio.timeout(20):
                while not seen or seen[-1][0] < record.version:  # noqa: ASYNC110 - it tells nobody
                    await asyncio.sleep(0.02)
            await watch.close()
        assert lease.alive
        assert await client.get("alive") is not None
    assert len(told) > 100
    assert told == list(range(1, len(told) + 1))
    assert int(record.value) == len(told)
    assert [int(value) for _, value in seen] == told
    assert [revision for revision, _ in seen] == sorted({revision for revision, _ in seen})


async def test_a_session_reads_its_writes_at_every_node(shared_servers: Servers) -> None:
    async with client_of(shared_servers) as client:
        session = client.session()
        for place in range(30):
            await session.put("mine", str(place))
            for url in client.endpoints:
                async with Client(url, session=session.session_token) as other:
                    record = await other.get("mine", level=Level.SESSION)
                    assert record is not None
                    assert record.value == b"%d" % place


async def test_one_holder_at_a_time_and_tokens_rise(shared_servers: Servers) -> None:
    holders: list[int] = []
    inside = 0

    async def work() -> None:
        nonlocal inside
        async with client_of(shared_servers) as client:
            for _ in range(4):
                async with client.lock("critical", ttl=5) as lock:
                    inside += 1
                    assert inside == 1
                    holders.append(lock.token)
                    await asyncio.sleep(0.005)
                    inside -= 1

    async with asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(work())
    assert len(holders) == 16
    assert holders == sorted(set(holders))


def januskv(servers: Servers, *words: str) -> subprocess.CompletedProcess[str]:
    first = next(iter(servers.nodes.values()))
    return subprocess.run(
        [sys.executable, "-c", "from kv.cli.main import entry; entry()", *words[:1],
         "--endpoints", f"127.0.0.1:{first.port}", *words[1:]],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )  # fmt: skip


def test_the_commands_find_the_whole_cluster_from_one_endpoint(shared_servers: Servers) -> None:
    assert januskv(shared_servers, "put", "told", "by a command").returncode == 0
    assert januskv(shared_servers, "get", "told").stdout == "by a command\n"
    status = januskv(shared_servers, "status")
    assert status.returncode == 0, status.stdout + status.stderr
    head, *rows = status.stdout.splitlines()
    assert head.split()[:4] == ["ENDPOINT", "NODE", "ROLE", "LEADER"]
    assert sorted(row.split()[1] for row in rows) == ["n1", "n2", "n3"]
    assert sorted(row.split()[2] for row in rows) == ["follower", "follower", "leader"]
    assert len({row.split()[3] for row in rows}) == 1
    assert januskv(shared_servers, "health").returncode == 0
    locked = januskv(
        shared_servers,
        "lock",
        "cron",
        "--",
        "sh",
        "-c",
        "test $JANUSKV_LOCK_TOKEN -gt 1; exit $((40 + $?))",
    )
    assert locked.returncode == 40, locked.stderr
