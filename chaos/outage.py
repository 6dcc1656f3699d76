"""A peer that is down for long under full write load: what the others' memory does meanwhile.

    python -m chaos.outage [--seconds 150] [--hints 2000] [--value-bytes 512] [--every 10]

Three leaderless nodes; one is killed, and writes of ever new keys go on as fast as they can. Over
time: writes, hints kept and refused, RssAnon of the larger of the two others.

The limit of hints is scaled down, so that it is met in the first seconds: what the others keep for
the dead one is bounded by it on the disk (leaderless.hints, hints_bytes), and in memory hints have
only pages. An outage of hours is the time after the limit is met, in which nothing more is kept but
a number of refused ones; if memory does not rise then, it does not rise with the length of the
outage. What else fills up to a limit, outage or not, is scaled down, too, so that minutes are
enough: RocksDB's memtables and block cache. The feed of changes for watches takes its 32 MiB with
the first ten thousands of writes.

Exit codes: 0 the median of the last third is at most 10 % (and 16 MiB) above that of the third
before it; 1 it is more, or no hint was refused; 3 it got stuck.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Final, NamedTuple

from chaos.http import HttpClient
from chaos.raftcluster import StuckError
from chaos.server import Server
from chaos.servers import CLOCK, Servers
from kv.config.sections import LEADERLESS
from kv.peers.processes import anonymous_bytes

WRITERS: Final = 32
"""On each node."""
MIB: Final = 1 << 20
EXTRA: Final = """
[leaderless]
hints = {hints}
[storage.rocks]
write_buffer_bytes = "2 MiB"
block_cache_bytes = "8 MiB"
"""
RISE_MAX: Final = 1.1
RISE_MAX_BYTES: Final = 16 * MIB


class Sample(NamedTuple):
    seconds: float
    writes: int
    failed: int
    hints: int
    overflowed: int
    memory_bytes: int
    """RssAnon of the larger node."""


class Load:
    def __init__(self, value_bytes: int) -> None:
        self._value_bytes = value_bytes
        self.writes = self.failed = 0
        self.over = False

    async def write(self, server: Server, number: int) -> None:
        dice = random.Random(number)
        client = HttpClient(server.host, server.port)
        try:
            while not self.over:
                key = f"{dice.getrandbits(64):x}"
                body = {"value": dice.randbytes(self._value_bytes // 2).hex()}
                try:
                    answer = await client.call("PUT", f"/api/v1/keys/{key}", body)
                except OSError:
                    self.failed += 1
                    continue
                self.writes += answer.status == 200
                self.failed += answer.status != 200
        finally:
            client.close()


def sample(servers: list[Server], load: Load, began_s: float) -> Sample:
    hints = overflowed = 0
    for server in servers:
        status = server.status()
        if status is not None:
            peers = status["leaderless"]["peers"]
            hints += sum(peer["hints"] for peer in peers)
            overflowed += sum(peer["overflowed"] for peer in peers)
    memory_bytes = anonymous_bytes([server.pid for server in servers])
    seconds = CLOCK.monotonic() - began_s
    return Sample(seconds, load.writes, load.failed, hints, overflowed, memory_bytes)


async def watch(servers: list[Server], args: argparse.Namespace) -> list[Sample]:
    load = Load(args.value_bytes)
    samples: list[Sample] = []
    began_s = CLOCK.monotonic()
    print("SECONDS  WRITES  FAILED  HINTS  REFUSED  RSSANON")
    async with asyncio.TaskGroup() as writing:
        for number in range(WRITERS * len(servers)):
            writing.create_task(load.write(servers[number % len(servers)], number))
        while CLOCK.monotonic() - began_s < args.seconds:
            await asyncio.sleep(args.every)
            found = await asyncio.to_thread(sample, servers, load, began_s)
            samples.append(found)
            print(
                f"{found.seconds:7.0f} {found.writes:7} {found.failed:7} {found.hints:6} "
                f"{found.overflowed:8} {found.memory_bytes / MIB:6.1f} MiB",
                flush=True,
            )
        load.over = True
    return samples


def judge(samples: list[Sample]) -> str | None:
    """What is wrong, if anything is."""
    third = len(samples) // 3
    if not third or not samples[third].overflowed:
        return "the limit of hints was not met in the first third; run longer or lower --hints"
    before = median(each.memory_bytes for each in samples[third : 2 * third])
    after = median(each.memory_bytes for each in samples[2 * third :])
    if after > before * RISE_MAX and after > before + RISE_MAX_BYTES:
        return f"memory went on rising: {before / MIB:.1f} to {after / MIB:.1f} MiB"
    return None


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m chaos.outage", description=__doc__)
    parser.add_argument("--seconds", type=float, default=150.0)
    parser.add_argument("--every", type=float, default=10.0)
    parser.add_argument("--hints", type=int, default=2_000)
    parser.add_argument("--value-bytes", type=int, default=512)
    args = parser.parse_args(arguments)
    extra = EXTRA.format(hints=args.hints)
    try:
        with (
            tempfile.TemporaryDirectory() as directory,
            Servers(Path(directory), mode=LEADERLESS, extra=extra) as servers,
        ):
            *others, dead = servers.nodes
            servers.kill(dead)
            samples = asyncio.run(watch([servers.nodes[name] for name in others], args))
    except StuckError as error:
        print(error, file=sys.stderr)
        return 3
    wrong = judge(samples)
    print(wrong or "memory does not rise with the length of the outage")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
