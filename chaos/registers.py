"""`python -m chaos.registers`: a real three-node cluster, mixed register load, and kill -9.

Clients read, write, compare and set a few registers through all nodes; the leader is killed every
so often and started again; watchers of both faces listen at every node. Judged at the end:

- every register is linearizable (unknown outcomes are unknown), and no client's session goes back
- no watcher lost an event, was told one twice, out of order, in halves, or what was never written
- the replicas hold the same at the same applied index
- enough was done at all

Results on standard output (a table, or JSON with --json), progress to standard error.
Exit codes: 0 all held; 1 something did not; 3 something got stuck.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from statistics import median
from threading import Event as Flag
from typing import Any, Final

from chaos.checkers.linearizability import check_history
from chaos.checkers.sessions import check_sessions
from chaos.checkers.watch import Event, Written, check_watches
from chaos.history import Result, count_results
from chaos.http import HttpClient, LostError, NotSentError
from chaos.raftcluster import StuckError
from chaos.register_clients import PREFIX, Record, RegisterClient
from chaos.servers import CLOCK, Servers
from chaos.watchers import EtcdWatcher, RestWatcher, Watcher

KEYS: Final = tuple(f"{PREFIX}r{number}" for number in range(5))
FIRST_REVISION: Final = 2
"""Of an empty cluster: the first write."""
CATCH_UP_S: Final = 30.0
SETTLE_S: Final = 30.0
SHOWN: Final = 10

Progress = Callable[[str], None]


class Fault(StrEnum):
    LEADER = "leader"
    """kill -9 of the leader."""
    ALL = "all"
    """kill -9 of all nodes at once."""
    FREEZE = "freeze"
    """SIGSTOP of the leader: its connections stay open, and it wakes believing that it leads."""


@dataclass(frozen=True, slots=True)
class Plan:
    seconds: float
    kill_every_s: float
    down_s: float
    """How long a killed or frozen node stays away."""
    fault: Fault = Fault.LEADER
    clients: int = 8
    pause_s: float = 0.01
    """Of a client between two calls, on average."""
    minimum_rate: float = 20.0
    """Answered operations a second, below which the run proves nothing."""
    seed: int = 1


@dataclass(slots=True)
class Report:
    seconds: float = 0.0
    operations: int = 0
    results: dict[str, int] = field(default_factory=dict)
    answers: dict[str, int] = field(default_factory=dict)
    session_reads: int = 0
    revisions: int = 0
    watchers: int = 0
    watch_breaks: int = 0
    kills: int = 0
    gaps_s: list[float] = field(default_factory=list)
    """From each kill to the first acknowledgement of a write asked for after it."""
    digest: str = ""
    violations: list[str] = field(default_factory=list)

    @property
    def rate(self) -> float:
        return self.results.get("done", 0) / self.seconds if self.seconds else 0.0

    def as_json(self) -> dict[str, Any]:
        gaps = sorted(self.gaps_s)
        figures = {"gap_median_s": median(gaps), "gap_max_s": gaps[-1]} if gaps else {}
        names = [name for name in self.__slots__ if name != "gaps_s"]
        fields = {name: getattr(self, name) for name in names}
        return {**fields, "rate": round(self.rate, 1), **figures}


class Registers:
    """One run over a cluster that serves and is empty. Sections: load, faults, judgement."""

    def __init__(self, servers: Servers, plan: Plan, progress: Progress) -> None:
        self.servers, self.plan, self.progress = servers, plan, progress
        self.record = Record()
        self.report = Report()
        self.kills_at: list[float] = []
        nodes = list(servers.nodes.values())
        self.clients = [
            RegisterClient(number, nodes, KEYS, self.record, str(plan.seed))
            for number in range(plan.clients)
        ]
        kinds = (RestWatcher, EtcdWatcher)
        self.watchers: list[Watcher] = [
            kind(server, PREFIX, FIRST_REVISION) for kind in kinds for server in nodes
        ]

    async def run(self) -> Report:
        async with asyncio.TaskGroup() as group:
            listening = [group.create_task(watcher.run()) for watcher in self.watchers]
            await self._load()
            await asyncio.to_thread(self.servers.wait_ready, *self.servers.nodes)
            upto = await self._mark()
            await self._caught_up(upto)
            for task in listening:
                task.cancel()
        await asyncio.to_thread(self.judge, upto)
        return self.report

    async def _load(self) -> None:
        began = CLOCK.monotonic()
        over = Flag()
        faults = asyncio.to_thread(self._faults, over)
        async with asyncio.TaskGroup() as group:
            killer = group.create_task(faults)
            running = [group.create_task(client.run(self.plan.pause_s)) for client in self.clients]
            await asyncio.wait({killer}, timeout=self.plan.seconds)
            over.set()
            await killer
            for client in self.clients:
                client.stopping = True
            await asyncio.wait(running)
        self.report.seconds = CLOCK.monotonic() - began

    # --- faults -----------------------------------------------------------------------------

    def _faults(self, over: Flag) -> None:
        """In a thread of its own. Ends with all nodes started."""
        dice = random.Random(self.plan.seed)
        killed_at = CLOCK.monotonic()
        while True:
            until = killed_at + self.plan.kill_every_s * dice.uniform(0.9, 1.1)
            if over.wait(max(0.1, until - CLOCK.monotonic())):
                return
            leader = self.servers.leader()
            killed_at = CLOCK.monotonic()
            if self.plan.fault is Fault.FREEZE:
                self._freeze(leader, over)
            else:
                all_of_them = self.plan.fault is Fault.ALL
                self._kill(list(self.servers.nodes) if all_of_them else [leader], over)
            self.kills_at.append(killed_at)
            done = len(self.record.history.operations)
            self.progress(f"fault {len(self.kills_at)} at {leader}, {done} operations so far")

    def _kill(self, victims: Sequence[str], over: Flag) -> None:
        self.servers.kill(*victims)
        over.wait(self.plan.down_s)
        self.servers.start(*victims)
        self.servers.wait_ready(*victims)

    def _freeze(self, victim: str, over: Flag) -> None:
        server = self.servers.nodes[victim]
        server.signal(signal.SIGSTOP)
        try:
            over.wait(self.plan.down_s)
        finally:
            server.signal(signal.SIGCONT)
        self.servers.wait_ready(victim)

    # --- the end ----------------------------------------------------------------------------

    async def _mark(self) -> int:
        """A last write, which every watcher must be told. Returns its revision."""
        first = next(iter(self.servers.nodes.values()))
        client = HttpClient(first.host, first.port)
        end = CLOCK.monotonic() + SETTLE_S
        number = 0
        try:
            while CLOCK.monotonic() < end:
                number += 1
                events = (Event(f"{PREFIX}mark", f"mark-{number}"),)
                result, revision = Result.UNKNOWN, None
                try:
                    body = {"value": events[0].value}
                    answer = await client.call("PUT", f"/api/v1/keys/{PREFIX}mark", body)
                    if answer.status == 200:
                        result, revision = Result.DONE, int(answer.json()["version"])
                except (NotSentError, LostError):
                    await asyncio.sleep(0.1)
                self.record.written.append(Written(f"mark-{number}", events, result, revision))
                if revision is not None:
                    return revision
        finally:
            client.close()
        raise StuckError(f"no write was done after the load\n{self.servers.logs()}")

    async def _caught_up(self, upto: int) -> None:
        loop = asyncio.get_running_loop()
        waiting = {
            loop.create_task(watcher.told_up_to(upto)): watcher.name for watcher in self.watchers
        }
        _, late = await asyncio.wait(waiting, timeout=CATCH_UP_S)
        for task in late:
            task.cancel()
        if late:
            names = ", ".join(sorted(waiting[task] for task in late))
            self.report.violations.append(
                f"not told revision {upto} within {CATCH_UP_S:g} s: {names}"
            )

    def judge(self, upto: int) -> None:
        record, report = self.record, self.report
        record.settle_lost_cas()
        operations = record.history.operations
        report.operations = len(operations)
        report.results = count_results(operations)
        report.answers = dict(record.answers)
        report.session_reads = sum(each.what == "SESSION read" for each in record.seen)
        report.revisions, report.watchers = upto, len(self.watchers)
        report.watch_breaks = sum(watcher.breaks for watcher in self.watchers)
        report.kills, report.gaps_s = len(self.kills_at), self._gaps()
        found = [
            violation
            for _, of_key in record.history.by_key()
            for violation in check_history(of_key)
        ]
        found += check_sessions(record.seen)
        told = {watcher.name: watcher.batches for watcher in self.watchers}
        found += check_watches(told, record.written, upto=upto, since=FIRST_REVISION)
        report.violations += [str(each) for each in found]
        report.violations += record.defects[:SHOWN]
        if report.rate < self.plan.minimum_rate:
            report.violations.append(
                f"{report.rate:.1f} operations a second were answered, and at least "
                f"{self.plan.minimum_rate:g} are needed"
            )
        try:
            report.digest = self.servers.equal_digests()
        except AssertionError as error:
            report.violations.append(str(error))

    def _gaps(self) -> list[float]:
        gaps = []
        for killed_at in self.kills_at:
            after = [end for begin, end in self.record.acknowledged_at if begin > killed_at]
            if after:
                gaps.append(min(after) - killed_at)
        return gaps


def run(directory: Path, plan: Plan, progress: Progress, *, extra: str = "") -> Report:
    with Servers(directory, extra=extra) as servers:
        try:
            return asyncio.run(Registers(servers, plan, progress).run())
        except* StuckError as errors:
            raise StuckError(str(errors.exceptions[0])) from errors


# --- the command --------------------------------------------------------------------------------


def table(report: Report) -> str:
    figures = report.as_json()
    violations = figures.pop("violations")
    lines = []
    for name, value in figures.items():
        if isinstance(value, dict):
            value = ", ".join(f"{number} {what}" for what, number in value.items())
        elif isinstance(value, float):
            value = f"{value:.2f}"
        lines.append(f"{name.replace('_', ' '):<16} {value}")
    verdict = f"{len(violations)} VIOLATIONS" if violations else "all held"
    return "\n".join([*lines, f"{'verdict':<16} {verdict}", *violations])


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m chaos.registers", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--minutes", type=float, default=5.0, help="of load (5)")
    parser.add_argument("--kill-every", type=float, default=20.0, metavar="S", help="(20 s)")
    parser.add_argument(
        "--down", type=float, default=5.0, metavar="S", help="how long a node stays away (5 s)"
    )
    parser.add_argument(
        "--fault",
        type=Fault,
        choices=list(Fault),
        default=Fault.LEADER,
        help="kill the leader (default), kill all nodes at once, or freeze the leader",
    )
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--data", metavar="DIR", help="kept; else a temporary one, removed")
    parser.add_argument("--json", action="store_true", help="JSON instead of a table")
    return parser.parse_args(arguments)


def say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def main(arguments: Sequence[str]) -> int:
    args = parse(arguments)
    directory = Path(args.data or tempfile.mkdtemp(prefix="januskv-registers-"))
    plan = Plan(
        args.minutes * 60,
        args.kill_every,
        args.down,
        fault=args.fault,
        clients=args.clients,
        seed=args.seed,
    )
    try:
        report = run(directory, plan, say)
    except StuckError as error:
        say(f"stuck: {error}\nthe nodes' data and logs stay in {directory}")
        return 3
    text = json.dumps(report.as_json()) if args.json else table(report)
    sys.stdout.write(text + "\n")
    if report.violations:
        say(f"the nodes' data and logs stay in {directory}")
        return 1
    if not args.data:
        shutil.rmtree(directory)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
