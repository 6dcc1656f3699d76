"""Nodes that come, go and die under load, on real processes: figures, and proof that nothing fails.

    python -m chaos.placement [--shards 8] [--seconds 6] [--rate 200] [--keys 0] [--json]

calm    puts at a fixed rate from retrying clients: their p99
join    a fourth node joins; until every replica is where it should be
drain   the first node is drained, removed, and ends by itself
kill    the second node is killed for good; after `--dead-after` all replicas are made anew

With --keys N, so many keys of 200 bytes are written first, and the join tells MB/s of the copies.
Exit codes: 0 all held; 1 a client failed, or replicas are not even in the end; 3 it got stuck.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import sys
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from chaos.joining import joining
from chaos.raftcluster import StuckError
from chaos.server import Server
from chaos.servers import CLOCK, Servers
from kv.cli.cluster import Member
from kv.client import Client
from kv.peers.cluster import free_ports
from storage.errors import JanusError

CLUSTER: Final = "/api/v1/admin/cluster"
SETTLE_S: Final = 60.0
VALUE: Final = "v" * 200
BATCH: Final = 100


@dataclass(slots=True)
class Phase:
    name: str
    seconds: float = 0.0
    latencies_s: list[float] = field(default_factory=list)
    failures: int = 0

    def as_json(self) -> dict[str, Any]:
        times = sorted(self.latencies_s)
        at = {name: times[int(len(times) * part)] * 1000 if times else 0.0
              for name, part in (("p50_ms", 0.5), ("p99_ms", 0.99))}  # fmt: skip
        return {"phase": self.name, "seconds": self.seconds, "puts": len(times),
                "failures": self.failures, **at}  # fmt: skip


class Load:
    """Puts at a fixed rate, each retried by the client until its deadline."""

    def __init__(self, urls: list[str], rate: float) -> None:
        self._client = Client(",".join(urls), timeout_s=30.0)
        self._rate = rate
        self._under_way: set[asyncio.Task[None]] = set()
        self.phase = Phase("")

    async def run(self) -> None:
        began, number = CLOCK.monotonic(), 0
        while True:
            number += 1
            await asyncio.sleep(max(0.0, began + number / self._rate - CLOCK.monotonic()))
            if len(self._under_way) < 256:
                task = asyncio.get_running_loop().create_task(self._put(number))
                self._under_way.add(task)
                task.add_done_callback(self._under_way.discard)

    async def _put(self, number: int) -> None:
        phase, began = self.phase, CLOCK.monotonic()
        try:
            await self._client.put(f"{chr(32 + number % 95)}{number % 1000}", VALUE)
        except JanusError:
            phase.failures += 1
        phase.latencies_s.append(CLOCK.monotonic() - began)

    async def close(self) -> None:
        await asyncio.gather(*self._under_way, return_exceptions=True)
        await self._client.close()


async def scenario(args: argparse.Namespace, directory: Path) -> dict[str, Any]:
    extra = f'[strong]\ndead_after = "{args.dead_after} s"\n'
    servers = Servers(directory, nodes=3, extra=extra, shards=args.shards)
    with servers:
        fourth = _fourth(servers, directory)
        urls = [server.member.url for server in servers.nodes.values()]
        async with Client(",".join(urls), timeout_s=30.0) as operator:
            await _fill(operator, args.keys)
            load = Load(urls, args.rate)
            running = asyncio.get_running_loop().create_task(load.run())
            try:
                phases = await _phases(args, servers, fourth, operator, load)
            finally:
                running.cancel()
                await load.close()
            nodes = (await operator.admin("GET", f"{CLUSTER}/nodes"))["nodes"]
    counts = [len(n["replicas"]) for n in nodes if n["state"] == "active"]
    return {"phases": [phase.as_json() for phase in phases], "replicas": counts}


def _fourth(servers: Servers, directory: Path) -> Server:
    port = free_ports([0, 1])
    member = Member("n4", directory / "data/n4", f"127.0.0.1:{port}", f"127.0.0.1:{port + 1}")
    member.home.mkdir()
    first = next(iter(servers.nodes.values())).member
    text = joining(
        first.config.read_text(),
        [first.peer],
        name="n4",
        data=str(member.home.resolve() / "data"),
        listen=member.client,
        peer_listen=member.peer,
    )
    member.config.write_text(text)
    return Server(member)


async def _fill(operator: Client, keys: int) -> None:
    for first in range(0, keys, BATCH):
        last = min(keys, first + BATCH)
        puts = [{"key": _key(number), "value": VALUE} for number in range(first, last)]
        await operator.admin("POST", "/api/v1/batch/put", {"operations": puts, "atomic": False})


def _key(number: int) -> str:
    """Spread over all shards."""
    return f"{chr(32 + number % 95)}-{number:08d}"


async def _phases(
    args: argparse.Namespace, servers: Servers, fourth: Server, operator: Client, load: Load
) -> list[Phase]:
    phases: list[Phase] = []

    async def phase(name: str, work: Callable[[], Awaitable[object]]) -> None:
        load.phase = Phase(name)
        phases.append(load.phase)
        began = CLOCK.monotonic()
        await work()
        load.phase.seconds = CLOCK.monotonic() - began

    async def join() -> None:
        servers.nodes["n4"] = fourth
        servers.start("n4")
        await _settled(
            operator, lambda nodes: len(nodes) == 4 and all(n["replicas"] for n in nodes)
        )

    async def drain() -> None:
        await operator.admin("POST", f"{CLUSTER}/drain", {"node_address": "n1"})
        await _settled(operator, lambda nodes: not _named(nodes, "n1")["replicas"])
        await operator.admin("DELETE", f"{CLUSTER}/nodes", {"node_address": "n1"})
        await asyncio.to_thread(servers.wait, lambda: not servers.nodes["n1"].running, "n1 ends")
        first = servers.nodes.pop("n1")
        fresh = _again(first, list(servers.nodes.values()))
        servers.nodes["n1"] = fresh
        servers.start("n1")
        await _settled(
            operator, lambda nodes: len(nodes) == 4 and all(n["replicas"] for n in nodes)
        )

    async def kill() -> None:
        servers.kill("n2")
        await _settled(operator, lambda nodes: not _named(nodes, "n2")["replicas"])

    await phase("calm", lambda: asyncio.sleep(args.seconds))
    await phase("join", join)
    await phase("drain, remove, come back empty", drain)
    await phase("kill for good", kill)
    return phases


def _again(server: Server, others: list[Server]) -> Server:
    """The same machine with an empty directory, and `join` instead of `initial`."""
    member = server.member
    shutil.rmtree(member.home / "data")
    peers = [each.member.peer for each in others]
    member.config.write_text(joining(member.config.read_text(), peers))
    return Server(member)


def _named(nodes: list[dict[str, Any]], name: str) -> dict[str, Any]:
    return next(node for node in nodes if node["name"] == name)


async def _settled(operator: Client, done: Callable[[list[dict[str, Any]]], bool]) -> None:
    until = CLOCK.monotonic() + SETTLE_S
    nodes: list[dict[str, Any]] = []
    while CLOCK.monotonic() < until:
        try:
            nodes = (await operator.admin("GET", f"{CLUSTER}/nodes"))["nodes"]
            if done(nodes) and (await operator.admin("GET", f"{CLUSTER}/moves"))["settled"]:
                return
        except JanusError:
            pass
        await asyncio.sleep(0.1)
    raise StuckError(f"not settled within {SETTLE_S:g} s: {nodes}")


def main() -> int:
    parser = argparse.ArgumentParser(description="Join, drain and kill nodes under load.")
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=6.0, help="of the calm phase")
    parser.add_argument("--rate", type=float, default=200.0, help="puts a second")
    parser.add_argument("--keys", type=int, default=0, help="written before, 200 bytes each")
    parser.add_argument("--dead-after", type=int, default=5, help="seconds of silence")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="januskv-placement-") as directory:
        try:
            result = asyncio.run(scenario(args, Path(directory)))
        except StuckError as error:
            sys.stderr.write(f"{error}\n")
            return 3
    if args.json:
        sys.stdout.write(json.dumps(result) + "\n")
    else:
        for phase in result["phases"]:
            sys.stdout.write(
                f"{phase['phase']:<32}{phase['seconds']:7.1f} s {phase['puts']:6} puts "
                f"p50 {phase['p50_ms']:7.1f} ms  p99 {phase['p99_ms']:7.1f} ms  "
                f"{phase['failures']} failed\n"
            )
        sys.stdout.write(f"replicas of the active nodes: {result['replicas']}\n")
    counts = result["replicas"]
    held = max(counts) - min(counts) <= 1 and not any(p["failures"] for p in result["phases"])
    return 0 if held else 1


if __name__ == "__main__":
    raise SystemExit(main())
