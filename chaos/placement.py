"""Nodes that come, go and die under load, on real processes: figures, and proof that nothing fails.

    python -m chaos.placement [--shards 8] [--seconds 8] [--rate 0] [--keys 20000] [--json]

peak    puts from retrying clients, as fast as they get them done
calm    half of that from here on (or --rate): their p99
join    a fourth node joins; until every replica is where it should be
drain   the first node is drained, removed, and ends by itself
kill    the second node is killed for good; after `--dead-after` all replicas are made anew

The program of a node that joins is loaded before it counts (chaos/prepared.py): such a node has a
machine of its own, elsewhere.

--keys of 200 bytes are written first; the join tells MB/s of the copies. Held: nothing failed; p99
during the join is under three times that of the calm; nodes have as many replicas as each other, or
one more, after the join and in the end; after the kill no shard is short of a replica.
Exit codes: 0 all held; 1 something did not; 3 it got stuck.
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
SHARDS: Final = "/api/v1/admin/shards"
COPIES: Final = 3
SETTLE_S: Final = 60.0
VALUE: Final = "v" * 200
BATCH: Final = 100
FLIGHT_MAX: Final = 256
PEAK_FLIGHT: Final = 64
P99_RATIO: Final = 3.0


@dataclass(slots=True)
class Phase:
    name: str
    seconds: float = 0.0
    latencies_s: list[float] = field(default_factory=list)
    failures: int = 0

    skipped: int = 0
    """Not sent, because so many were under way."""
    replicas: list[int] = field(default_factory=list)
    """Of each active node, at its end."""
    streamed: dict[tuple[int, str], int] = field(default_factory=dict)
    """Bytes of (shard, node), as far as was seen."""

    def at_s(self, part: float) -> float:
        times = sorted(self.latencies_s)
        return times[int(len(times) * part)] if times else 0.0

    def as_json(self) -> dict[str, Any]:
        megabytes = sum(self.streamed.values()) / 1e6
        return {
            "phase": self.name,
            "seconds": round(self.seconds, 2),
            "puts": len(self.latencies_s),
            "puts_a_second": round(len(self.latencies_s) / self.seconds) if self.seconds else 0,
            "failures": self.failures,
            "skipped": self.skipped,
            "p50_ms": round(self.at_s(0.5) * 1000, 1),
            "p99_ms": round(self.at_s(0.99) * 1000, 1),
            "replicas": self.replicas,
            "streamed_megabytes": round(megabytes, 1),
            "megabytes_a_second": round(megabytes / self.seconds, 1) if self.seconds else 0.0,
        }


class Load:
    """Puts at a fixed rate, each retried by the client until its deadline; without a rate, some at
    a time as fast as they are done."""

    def __init__(self, urls: list[str]) -> None:
        self._client = Client(",".join(urls), timeout_s=30.0)
        self.rate: float | None = None
        self._under_way: set[asyncio.Task[None]] = set()
        self.phase = Phase("")

    async def run(self) -> None:
        number = 0
        while self.rate is None:
            number += 1
            if len(self._under_way) >= PEAK_FLIGHT:
                await asyncio.wait(self._under_way, return_when=asyncio.FIRST_COMPLETED)
            self._begin(number)
        began, first = CLOCK.monotonic(), number
        while True:
            number += 1
            due = began + (number - first) / self.rate
            await asyncio.sleep(max(0.0, due - CLOCK.monotonic()))
            if len(self._under_way) < FLIGHT_MAX:
                self._begin(number)
            else:
                self.phase.skipped += 1

    def _begin(self, number: int) -> None:
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
            load = Load(urls)
            running = asyncio.get_running_loop().create_task(load.run())
            try:
                phases = await _phases(args, servers, fourth, operator, load)
            finally:
                running.cancel()
                await load.close()
            nodes = (await operator.admin("GET", f"{CLUSTER}/nodes"))["nodes"]
            shards = (await operator.admin("GET", SHARDS))["shards"]
    counts = _counts(nodes)
    active = {node["node_id"] for node in nodes if node["state"] == "active"}
    whole = all(len(active.intersection(each["replicas"])) == COPIES for each in shards)
    return {
        "rate": round(load.rate or 0),
        "dead_after_s": args.dead_after,
        "phases": [phase.as_json() for phase in phases],
        "replicas": counts,
        "verdicts": _verdicts({phase.name: phase for phase in phases}, counts, whole),
    }


def _counts(nodes: list[dict[str, Any]]) -> list[int]:
    return [len(node["replicas"]) for node in nodes if node["state"] == "active"]


def _verdicts(phases: dict[str, Phase], counts: list[int], whole: bool) -> dict[str, bool]:
    calm, join = phases["calm"], phases["join"]
    even = [phase.replicas for phase in (join, phases["drain, remove, come back empty"])]
    return {
        f"p99 of the join ({join.at_s(0.99) * 1000:.1f} ms) under {P99_RATIO:g} times that of the "
        f"calm ({calm.at_s(0.99) * 1000:.1f} ms)": join.at_s(0.99) < P99_RATIO * calm.at_s(0.99),
        "no put failed": not any(phase.failures for phase in phases.values()),
        "the load was kept up": not any(phase.skipped for phase in (calm, join)),
        "replicas even, but for one": all(max(c) - min(c) <= 1 for c in (*even, counts)),
        "every shard whole on living nodes after the kill": whole,
    }


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
        nodes = (await operator.admin("GET", f"{CLUSTER}/nodes"))["nodes"]
        load.phase.replicas = _counts(nodes)

    async def settled(done: Callable[[list[dict[str, Any]]], bool]) -> None:
        await _settled(operator, done, load.phase)

    async def join() -> None:
        servers.begin(fourth)
        await settled(lambda nodes: len(nodes) == 4 and all(n["replicas"] for n in nodes))

    async def drain() -> None:
        await operator.admin("POST", f"{CLUSTER}/drain", {"node_address": "n1"})
        await settled(lambda nodes: not _named(nodes, "n1")["replicas"])
        await operator.admin("DELETE", f"{CLUSTER}/nodes", {"node_address": "n1"})
        await asyncio.to_thread(servers.wait, lambda: not servers.nodes["n1"].running, "n1 ends")
        first = servers.nodes.pop("n1")
        fresh = _again(first, list(servers.nodes.values()))
        servers.nodes["n1"] = fresh
        await asyncio.to_thread(servers.prepare, fresh)
        servers.begin(fresh)
        await settled(lambda nodes: len(nodes) == 4 and all(n["replicas"] for n in nodes))

    async def kill() -> None:
        servers.kill("n2")
        await settled(lambda nodes: not _named(nodes, "n2")["replicas"])

    servers.nodes["n4"] = fourth
    await asyncio.to_thread(servers.prepare, fourth)
    await phase("peak", lambda: asyncio.sleep(args.seconds))
    peak = load.phase
    load.rate = args.rate or len(peak.latencies_s) / peak.seconds / 2
    await asyncio.sleep(1.0)
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


async def _settled(
    operator: Client, done: Callable[[list[dict[str, Any]]], bool], phase: Phase
) -> None:
    until = CLOCK.monotonic() + SETTLE_S
    nodes: list[dict[str, Any]] = []
    while CLOCK.monotonic() < until:
        try:
            moves = await operator.admin("GET", f"{CLUSTER}/moves")
            for each in moves["moves"]:
                place = (each["shard"], each["node"])
                phase.streamed[place] = max(phase.streamed.get(place, 0), each["bytes"])
            if moves["settled"] and not moves["short"]:
                nodes = (await operator.admin("GET", f"{CLUSTER}/nodes"))["nodes"]
                if done(nodes):
                    return
        except JanusError:
            pass
        await asyncio.sleep(0.05)
    raise StuckError(f"not settled within {SETTLE_S:g} s: {nodes}")


def main() -> int:
    parser = argparse.ArgumentParser(description="Join, drain and kill nodes under load.")
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=8.0, help="of peak and calm")
    parser.add_argument("--rate", type=float, default=0.0, help="puts a second; 0: half the peak")
    parser.add_argument("--keys", type=int, default=20_000, help="written before, 200 bytes each")
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
        sys.stdout.write(_table(result))
    return 0 if all(result["verdicts"].values()) else 1


def _table(result: dict[str, Any]) -> str:
    lines = [f"{result['rate']} puts a second; dead after {result['dead_after_s']} s of silence"]
    lines += [
        f"{phase['phase']:<32}{phase['seconds']:7.1f} s {phase['puts_a_second']:6} puts/s  "
        f"p50 {phase['p50_ms']:7.1f} ms  p99 {phase['p99_ms']:7.1f} ms  "
        f"{phase['failures']} failed  replicas {phase['replicas']}  "
        f"{phase['streamed_megabytes']:.1f} MB streamed, {phase['megabytes_a_second']:.1f} MB/s"
        for phase in result["phases"]
    ]
    lines.append(f"replicas of the active nodes in the end: {result['replicas']}")
    lines += [
        f"{'held  ' if held else 'MISSED'} {what}" for what, held in result["verdicts"].items()
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    raise SystemExit(main())
