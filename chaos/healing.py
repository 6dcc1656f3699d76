"""Five leaderless nodes, a partition with conflicting writes on both sides: how soon it heals.

    python -m chaos.healing [--writes 10000] [--seconds 60] [--value-bytes 1024] [--without-hints]
    python -m chaos.healing --simulated [--seed 1] ...      on virtual time (chaos/sim/healing.py)

Real processes behind proxies, cut into three and two nodes. Every key is written once on either
side. After the cut: the seconds until no node keeps a write for another one, and the bytes that all
nodes sent until then. Then each node is told to repair with all others; that must find nothing, or
the replicas were not equal.

Without hints there is no room for any (`hints = 0`): writes go out with w=1, those that only nodes
without a copy could take are refused, and what owners lack comes by Merkle repair alone.

Exit codes: 0 healed within the limits; 1 not, or replicas differ; 3 it got stuck.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final
from urllib.request import urlopen

from chaos.http import HttpClient
from chaos.links import Links, toxics_server
from chaos.raftcluster import StuckError
from chaos.server import Server
from chaos.servers import CLOCK, Servers, pause
from chaos.sim.healing import CUT, NODES, REPAIR_S, heal
from kv.config.sections import LEADERLESS

TAG: Final = "partition"
WRITERS: Final = 8
"""On each side."""
LIMIT_S: Final = 10.0
"""With hints; with repair alone a period."""
FACTOR_MAX: Final = 3.0
WAIT_S: Final = 120.0
SENT: Final = "januskv_link_sent_bytes_total"


async def write_on(
    servers: list[Server], keys: list[str], value_bytes: int, seconds: float, query: str
) -> int:
    """Each key once, spread over the time and these nodes; how many were acknowledged."""
    waiting = list(reversed(keys))
    began_s, done = CLOCK.monotonic(), 0

    async def writer(server: Server, dice: random.Random) -> None:
        nonlocal done
        client = HttpClient(server.host, server.port)
        try:
            while waiting:
                ahead = (len(keys) - len(waiting)) / len(keys) * seconds
                await asyncio.sleep(max(0.0, began_s + ahead - CLOCK.monotonic()))
                if not waiting:
                    return
                body = {"value": dice.randbytes(value_bytes // 2).hex()}
                try:
                    path = f"/api/v1/keys/{waiting.pop()}{query}"
                    answer = await client.call("PUT", path, body, timeout_s=10.0)
                except (OSError, TimeoutError):
                    continue
                done += answer.status == 200
        finally:
            client.close()

    writers = [
        writer(servers[number % len(servers)], random.Random(f"{servers[0].port}/{number}"))
        for number in range(WRITERS)
    ]
    await asyncio.gather(*writers)
    return done


def sent_bytes(servers: Servers) -> int:
    total = 0.0
    for server in servers.nodes.values():
        with urlopen(f"http://{server.host}:{server.port}/metrics", timeout=10.0) as answer:
            for line in answer.read().decode().splitlines():
                if line.startswith(SENT):
                    total += float(line.rpartition(" ")[2])
    return int(total)


def waits(servers: Servers, *, healed: bool = True) -> int | None:
    """Writes that nodes keep for others, or could not keep; None: somebody does not answer."""
    total = 0
    for server in servers.nodes.values():
        status = server.status()
        if status is None:
            return None
        peers = status["leaderless"]["peers"]
        if healed and not all(peer["connected"] for peer in peers):
            return None
        total += sum(peer["hints"] + peer["overflowed"] for peer in peers)
    return total


def repair_all(servers: Servers) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, server in servers.nodes.items():
        answer = server.ask("/api/v1/admin/repair", {}, timeout_s=WAIT_S)
        if answer is None or answer[0] != 200:
            raise StuckError(f"{name} did not repair: {answer}")
        found[name] = answer[1]
    return found


def real(args: argparse.Namespace) -> dict[str, Any]:
    extra = "[leaderless]\nhints = 0" if args.without_hints else ""
    keys = [f"heal/{number}" for number in range(args.writes // 2)]
    with tempfile.TemporaryDirectory() as directory, toxics_server(args.seed) as url:
        links = Links(url)
        with Servers(
            Path(directory), nodes=NODES, mode=LEADERLESS, extra=extra, links=links
        ) as servers:
            names = list(servers.nodes)
            sides = names[:CUT], names[CUT:]
            pairs = [(a, b) for a in sides[0] for b in sides[1]]
            links.cut(TAG, [*pairs, *[(b, a) for a, b in pairs]], refuse=True)
            pause(3.0)
            began_s = CLOCK.monotonic()
            query = "?w=1" if args.without_hints else ""

            async def write() -> list[int]:
                return await asyncio.gather(
                    *(
                        write_on(
                            [servers.nodes[name] for name in side],
                            keys,
                            args.value_bytes,
                            0.9 * args.seconds,
                            query,
                        )
                        for side in sides
                    )
                )

            acknowledged = sum(asyncio.run(write()))
            pause(max(0.0, began_s + args.seconds - CLOCK.monotonic()))
            kept, before = waits(servers, healed=False), sent_bytes(servers)
            links.heal(TAG)
            healed_at_s = CLOCK.monotonic()
            servers.wait(
                lambda: True if waits(servers) == 0 else None, "nothing waits any more", WAIT_S
            )
            healed_s = CLOCK.monotonic() - healed_at_s
            transferred = sent_bytes(servers) - before
            repairs = repair_all(servers)
    moved = sum(each["fetched"] + each["pushed"] for each in repairs.values())
    # A key's two values: every owner lacks one of them, whichever side it was on.
    lacking_bytes = 3 * len(keys) * args.value_bytes
    return {
        "writes": args.writes,
        "acknowledged": acknowledged,
        "kept_for_others": kept,
        "healed_s": round(healed_s, 2),
        "transferred_bytes": transferred,
        "lacking_bytes": lacking_bytes,
        "factor": round(transferred / lacking_bytes, 2),
        "differences_afterwards": moved,
        "broken_off": {name: each["broken_off"] for name, each in repairs.items()},
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m chaos.healing", description=__doc__)
    parser.add_argument("--writes", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--value-bytes", type=int, default=1024)
    parser.add_argument("--without-hints", action="store_true")
    parser.add_argument("--simulated", action="store_true")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args(arguments)
    limit_s = 1.25 * REPAIR_S if args.without_hints else LIMIT_S
    try:
        if args.simulated:
            healing = heal(
                args.seed,
                hints=not args.without_hints,
                writes=args.writes,
                value_bytes=args.value_bytes,
                partition_s=args.seconds,
            )
            found = {**asdict(healing), "factor": round(healing.factor, 2)}
            found["differences_afterwards"] = 0 if healing.healed_s < float("inf") else -1
        else:
            found = real(args)
    except StuckError as error:
        print(error, file=sys.stderr)
        return 3
    print(json.dumps(found, indent=2))
    good = (
        found["healed_s"] <= limit_s
        and found["factor"] < FACTOR_MAX
        and found["differences_afterwards"] == 0
    )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
