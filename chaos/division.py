"""What dividing a keyspace costs, on real processes: figures.

    python -m chaos.division shards [--shards 8] [--rounds 3] [--seconds 4] [--connections 256]
    python -m chaos.division pause  [--splits 6] [--rate 400]
    python -m chaos.division move   [--keys 1000000]

shards   puts a second of a keyspace of eight shards beside one of a single shard: two clusters of
         three nodes, in turn, the keys of the load spread over all shards (aim 0.8, least 0.6)
pause    puts at a fixed rate over all keys while shards are split and merged by hand: the longest
         time between two acknowledgements of keys of what changed (aim: under 100 ms of a split),
         which is no shorter than the pause, and the slowest put of all
move     a fourth node joins, and a replica of so many keys of 200 bytes is moved there (30 MB/s)

Exit codes: 0 held; 1 missed, or a client failed; 3 a cluster got stuck.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, Final, NamedTuple

from chaos.raftcluster import StuckError
from chaos.servers import CLOCK, Servers
from kv.client import Client
from kv.load import worker, wrk
from kv.load.plan import Load, Operation, Speech
from kv.load.requests import key
from storage.errors import JanusError

SHARDS: Final = "/api/v1/admin/shards"
KEYS: Final = 20_000
LEAST: Final = 0.6
PAUSE_S: Final = 0.1
FLIGHT_MAX: Final = 256
NODES: Final = "/api/v1/admin/cluster/nodes"
MOVES: Final = "/api/v1/admin/cluster/moves"
BATCH: Final = 500
VALUE_BYTES: Final = 200
MOVE_MB_S: Final = 30.0
SETTLE_S: Final = 120.0


# --- eight shards beside one -------------------------------------------------------------------


async def _divide(servers: Servers, shards: int) -> None:
    """Even parts of the keys of the load, led by all nodes."""
    urls = [server.member.url for server in servers.nodes.values()]
    async with Client(",".join(urls), timeout_s=30.0) as operator:
        for part in range(1, shards):
            found = (await operator.admin("GET", SHARDS))["shards"]
            wanted = {"key": key(part * KEYS // shards).decode()}
            await operator.admin("POST", f"{SHARDS}/{found[-1]['shard']}/split", wanted)
        names = list(servers.nodes)
        for place, each in enumerate((await operator.admin("GET", SHARDS))["shards"]):
            target = {"target": names[place % len(names)]}
            await operator.admin("POST", f"{SHARDS}/{each['shard']}/transfer", target)


def compare(args: argparse.Namespace, directory: Path) -> dict[str, Any]:
    rates: dict[int, list[float]] = {1: [], args.shards: []}
    errors: dict[str, int] = {}
    with Servers(directory / "one") as one, Servers(directory / "many") as many:
        asyncio.run(_divide(many, args.shards))
        clusters = {1: one, args.shards: many}
        for turn in range(args.rounds):
            for shards in sorted(rates, reverse=turn % 2 == 1):
                nodes = clusters[shards].nodes.values()
                load = Load(
                    Operation.PUT,
                    tuple((server.host, server.port) for server in nodes),
                    args.connections,
                    args.seconds,
                    1.0,
                    KEYS,
                    100,
                    seed=turn + 1,
                    speech=Speech.REST,
                )
                binary = wrk.wrk_binary()
                if binary is not None and wrk.can_play(load):
                    outcome = wrk.run(binary, load, _nothing)
                else:
                    outcome = worker.run(load, 1, _nothing)
                rates[shards].append(outcome.per_second)
                for what, count in outcome.errors.items():
                    errors[what] = errors.get(what, 0) + count
    ratios = [many / one for one, many in zip(rates[1], rates[args.shards], strict=True)]
    return {
        "connections": args.connections,
        "rates": {str(shards): [round(each) for each in found] for shards, found in rates.items()},
        "ratios": [round(each, 2) for each in ratios],
        "ratio": round(median(ratios), 2),
        "errors": errors,
        "held": median(ratios) >= LEAST and not errors,
    }


def _nothing(_: float) -> None:
    pass


# --- the pause of a split ----------------------------------------------------------------------


class Pause(NamedTuple):
    silence_s: float
    slowest_s: float


class Puts:
    """At a fixed rate, each key in its turn, each retried by the client until its deadline."""

    def __init__(self, urls: list[str], rate: float) -> None:
        self._client = Client(",".join(urls), timeout_s=20.0)
        self._rate = rate
        self._under_way: set[asyncio.Task[None]] = set()
        self.spans: list[tuple[float, float, int]] = []
        """(asked, acknowledged, number of the key)"""
        self.failures: list[str] = []

    async def run(self) -> None:
        began, number = CLOCK.monotonic(), 0
        while True:
            number += 1
            await asyncio.sleep(max(0.0, began + number / self._rate - CLOCK.monotonic()))
            if len(self._under_way) < FLIGHT_MAX:
                task = asyncio.get_running_loop().create_task(self._put(number * 7919 % KEYS))
                self._under_way.add(task)
                task.add_done_callback(self._under_way.discard)

    async def _put(self, number: int) -> None:
        asked = CLOCK.monotonic()
        try:
            await self._client.put(key(number).decode(), "v" * 100)
        except JanusError as error:
            self.failures.append(str(error))
        else:
            self.spans.append((asked, CLOCK.monotonic(), number))

    async def close(self) -> None:
        await asyncio.gather(*self._under_way, return_exceptions=True)
        await self._client.close()

    def longest_s(self, first_s: float, last_s: float) -> float:
        """Of the puts that were under way at some moment of that time, the slowest."""
        return max(
            (done - asked for asked, done, _ in self.spans if done >= first_s and asked <= last_s),
            default=0.0,
        )

    def silence_s(self, first_s: float, last_s: float, numbers: range) -> float:
        """The longest time without an acknowledgement of one of these keys; they pause no longer,
        but for some milliseconds it may be that none of them was asked for."""
        found = sorted(
            done
            for _, done, number in self.spans
            if first_s <= done <= last_s and number in numbers
        )
        times = [first_s, *found, last_s]
        return max(later - before for before, later in pairwise(times))

    def p99_s(self, first_s: float, last_s: float) -> float:
        found = sorted(done - asked for asked, done, _ in self.spans if first_s <= asked <= last_s)
        return found[int(len(found) * 0.99)] if found else 0.0


async def pauses(args: argparse.Namespace, directory: Path) -> dict[str, Any]:
    splits: list[Pause] = []
    merges: list[Pause] = []
    with Servers(directory) as servers:
        urls = [server.member.url for server in servers.nodes.values()]
        async with Client(",".join(urls), timeout_s=30.0) as operator:
            puts = Puts(urls, args.rate)
            running = asyncio.get_running_loop().create_task(puts.run())
            try:
                await asyncio.sleep(1.0)
                calm_from = CLOCK.monotonic()
                await asyncio.sleep(args.seconds)
                calm_to = CLOCK.monotonic()
                for part in range(args.splits):
                    found = (await operator.admin("GET", SHARDS))["shards"]
                    wanted = {"key": key((part + 1) * KEYS // (args.splits + 1)).decode()}
                    path = f"{SHARDS}/{found[-1]['shard']}/split"
                    keys = range(part * KEYS // (args.splits + 1), KEYS)
                    splits.append(await _timed(puts, operator, path, wanted, keys))
                for part in range(args.splits // 2):
                    found = (await operator.admin("GET", SHARDS))["shards"]
                    path = f"{SHARDS}/{found[0]['shard']}/merge"
                    keys = range((part + 2) * KEYS // (args.splits + 1))
                    merges.append(await _timed(puts, operator, path, {}, keys))
            finally:
                running.cancel()
                await puts.close()
            calm = (puts.longest_s(calm_from, calm_to), puts.p99_s(calm_from, calm_to))
            calm_silence_s = puts.silence_s(calm_from, calm_to, range(KEYS))
    return {
        "rate": args.rate,
        "calm_longest_ms": round(calm[0] * 1000, 1),
        "calm_p99_ms": round(calm[1] * 1000, 1),
        "calm_silence_ms": round(calm_silence_s * 1000, 1),
        "split_ms": [round(each.silence_s * 1000, 1) for each in splits],
        "split_slowest_put_ms": [round(each.slowest_s * 1000, 1) for each in splits],
        "merge_ms": [round(each.silence_s * 1000, 1) for each in merges],
        "merge_slowest_put_ms": [round(each.slowest_s * 1000, 1) for each in merges],
        "failures": puts.failures[:5],
        "held": max(each.silence_s for each in splits) < PAUSE_S and not puts.failures,
    }


# --- a replica that moves ----------------------------------------------------------------------


async def move(args: argparse.Namespace, directory: Path) -> dict[str, Any]:
    with Servers(directory, guests=1) as servers:
        urls = [server.member.url for server in servers.nodes.values()]
        async with Client(",".join(urls), timeout_s=60.0) as operator:
            began = CLOCK.monotonic()
            for first in range(0, args.keys, BATCH):
                numbers = range(first, min(args.keys, first + BATCH))
                puts = [{"key": key(n).decode(), "value": "v" * VALUE_BYTES} for n in numbers]
                body = {"operations": puts, "atomic": False}
                await operator.admin("POST", "/api/v1/batch/put", body)
            filled_s = CLOCK.monotonic() - began
            servers.start(*servers.guests)
            await _until(
                operator,
                NODES,
                lambda told: [node["state"] for node in told["nodes"]] == ["active"] * 4,
            )
            await _until(operator, MOVES, lambda told: told["settled"])
            moved = await _move_one(operator)
    megabytes = args.keys * (VALUE_BYTES + len(key(0))) / 1e6
    rate = megabytes / moved["voter_s"]
    return {
        "keys": args.keys,
        "filled_s": round(filled_s, 1),
        **{name: round(value, 2) for name, value in moved.items()},
        "megabytes": round(megabytes, 1),
        "megabytes_a_second": round(rate, 1),
        "streamed_megabytes_a_second": round(
            moved["streamed_megabytes"] / (moved["voter_s"] - moved["first_s"]), 1
        ),
        "held": rate >= MOVE_MB_S,
    }


async def _move_one(operator: Client) -> dict[str, float]:
    """The shard's replica, from a node that does not lead to the one that has none. Seconds from
    the order until the first rows were there, the copy voted, and all had come to rest."""
    (shard,) = (await operator.admin("GET", SHARDS))["shards"]
    nodes = [node["node_id"] for node in (await operator.admin("GET", NODES))["nodes"]]
    target = next(node for node in nodes if node not in shard["replicas"])
    source = next(node for node in shard["replicas"] if node != shard["leader"])
    began = CLOCK.monotonic()
    path, wanted = f"{SHARDS}/{shard['shard']}/move", {"source": source, "target": target}
    await operator.admin("POST", path, wanted)
    at: dict[str, float] = {}
    streamed = 0

    def is_there(told: dict[str, Any]) -> bool:
        nonlocal streamed
        now_s = CLOCK.monotonic() - began
        streamed = max([streamed, *(each["bytes"] for each in told["moves"])])
        if streamed:
            at.setdefault("first_s", now_s)
        if told["moves"]:
            at.setdefault("learner_s", now_s)
            at.pop("voter_s", None)
        elif at:  # learners are listed, and it is one no more
            at.setdefault("voter_s", now_s)
        return bool(told["settled"] and "voter_s" in at)

    await _until(operator, MOVES, is_there)
    return {
        "learner_s": at["learner_s"],
        "first_s": at.get("first_s", at["learner_s"]),
        "voter_s": at["voter_s"],
        "settled_s": CLOCK.monotonic() - began,
        "streamed_megabytes": streamed / 1e6,
    }


async def _until(operator: Client, path: str, done: Callable[[dict[str, Any]], bool]) -> None:
    until = CLOCK.monotonic() + SETTLE_S
    told: dict[str, Any] = {}
    while CLOCK.monotonic() < until:
        try:
            told = await operator.admin("GET", path)
            if done(told):
                return
        except JanusError:
            pass  # nobody plans at this moment
        await asyncio.sleep(0.05)
    raise StuckError(f"{path} did not come to what it should within {SETTLE_S:g} s: {told}")


async def _timed(
    puts: Puts, operator: Client, path: str, body: dict[str, str], numbers: range
) -> Pause:
    began = CLOCK.monotonic()
    await operator.admin("POST", path, body)
    ended = CLOCK.monotonic()
    await asyncio.sleep(1.0)
    return Pause(puts.silence_s(began, ended + 0.2, numbers), puts.longest_s(began, ended + 0.2))


def main() -> int:
    parser = argparse.ArgumentParser(description="What dividing a keyspace costs.")
    parser.add_argument("what", choices=("shards", "pause", "move"))
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--connections", type=int, default=256)
    parser.add_argument("--splits", type=int, default=6)
    parser.add_argument("--rate", type=float, default=400.0, help="puts a second (pause)")
    parser.add_argument("--keys", type=int, default=1_000_000, help="written first (move)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="januskv-division-") as directory:
        try:
            if args.what == "shards":
                result = compare(args, Path(directory))
            elif args.what == "pause":
                result = asyncio.run(pauses(args, Path(directory)))
            else:
                result = asyncio.run(move(args, Path(directory)))
        except StuckError as error:
            sys.stderr.write(f"{error}\n")
            return 3
    sys.stdout.write(json.dumps(result, indent=2) + "\n")
    return 0 if result["held"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
