"""Failover measured on real processes, and proof that nothing acknowledged is lost on the way.

    python -m chaos.failover [--rounds 20] [--crash-rounds 20] [--only kill,stop,crash] [--json]

kill    kill -9 of the leader -> the first write that the others acknowledge
stop    SIGSTOP of the leader -> the same; then it wakes with reads that were asked meanwhile in its
        socket, and is asked on: a linearizable read that shows the past is STALE
crash   kill -9 of ALL nodes at once under load, restart, compare: an acknowledged operation that is
        missing is LOST, a refused one that is there is a LIE, one applied twice is REPEATED

Every operation of kill and stop goes into a history that the linearizability checker judges. What
crash shows is atomicity and restart; that acknowledged data survives a power cut is shown by the
simulation, since the page cache of this machine survives kill -9.

Times are from the moment before the signal is sent to the moment the acknowledgement is read.
Figures go to standard output (a table, or JSON with --json), progress to standard error.
Exit codes: 0 all held; 1 something was lost, stale, repeated or a lie; 3 something got stuck.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Final

from chaos.checkers.linearizability import check_history
from chaos.history import History, Kind, Operation
from chaos.load import Load
from chaos.raftcluster import CLOCK, Cluster, Gone, NodeProcess, StuckError, wait_for
from chaos.raftnode import CANARIES
from chaos.sim.machine import Action

RETRY_S: Final = 0.005
FAILOVER_LIMIT_S: Final = 20.0
KEY: Final = "register"
READS_IN_THE_SOCKET: Final = 20
ASKED_AWAKE_S: Final = 0.3
"""How long a woken leader is asked on, one read after the other."""
SHOWN: Final = 10
"""Of the violations of one kind in one scenario."""

Progress = Callable[[str], None]


@dataclass(slots=True)
class Report:
    """Plain numbers of one scenario."""

    name: str
    rounds: int = 0
    seconds: list[float] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)

    def count(self, what: str, number: int) -> None:
        self.counts[what] = self.counts.get(what, 0) + number

    def as_json(self) -> dict[str, Any]:
        times = sorted(self.seconds)
        figures = (
            {"median_s": median(times), "min_s": times[0], "max_s": times[-1]} if times else {}
        )
        return {
            "scenario": self.name,
            "rounds": self.rounds,
            **figures,
            **self.counts,
            "violations": self.violations,
        }


class Register:
    """One register in the cluster, and the history of all that was asked of it."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.history = History()
        self._numbers = itertools.count(1)

    def _begin(self, node: NodeProcess, kind: Kind, value: str | None = None) -> Operation:
        number = next(self._numbers)
        operation = Operation(
            f"op-{number}", f"client-{number}", node.name, KEY, kind, CLOCK.monotonic(), value
        )
        return self.history.invoke(operation)

    def ask_write(self, node: NodeProcess) -> tuple[int, Operation]:
        operation = self._begin(node, Kind.WRITE)
        operation.value = operation.id
        command = [operation.id, Action.WRITE, KEY, operation.value, None]
        return node.client.send({"op": "propose", "command": command}), operation

    def ask_read(self, node: NodeProcess) -> tuple[int, Operation]:
        operation = self._begin(node, Kind.READ)
        return node.client.send({"op": "read", "key": KEY}), operation

    def settle(self, operation: Operation, answer: dict[str, Any]) -> bool:
        """Note an answer. True if the operation was done."""
        now = CLOCK.monotonic()
        outcome = answer["outcome"]
        if outcome == "applied":
            self.history.done(operation, now, operation.value)
        elif outcome == "ready":
            self.history.done(operation, now, answer["value"])
        elif outcome == "refused":
            self.history.failed(operation, now, answer["reason"])
        else:
            self.history.unknown(operation, answer["reason"])
        return outcome in ("applied", "ready")

    def write_somewhere(self, nodes: list[NodeProcess]) -> Operation:
        """Offer writes to these nodes until one acknowledges."""
        asked: dict[str, tuple[int, Operation] | None] = {node.name: None for node in nodes}
        retry_at = dict.fromkeys(asked, 0.0)

        def probe() -> Operation | None:
            for node in nodes:
                waiting = asked[node.name]
                if waiting is None:
                    if CLOCK.monotonic() >= retry_at[node.name]:
                        asked[node.name] = self.ask_write(node)
                    continue
                answer = node.client.receive(0.0005)
                if answer is None:
                    continue
                assert answer["id"] == waiting[0]
                asked[node.name] = None
                if self.settle(waiting[1], answer):
                    return waiting[1]
                retry_at[node.name] = CLOCK.monotonic() + RETRY_S
            return None

        found = wait_for(probe, "a write is acknowledged", FAILOVER_LIMIT_S, poll_s=0.0005)
        for (
            node
        ) in nodes:  # what the others were asked is still answered, and belongs in the history
            waiting = asked[node.name]
            if waiting is not None:
                answer = node.client.receive(FAILOVER_LIMIT_S)
                if answer is not None:
                    self.settle(waiting[1], answer)
        return found

    def judge(self, report: Report) -> None:
        report.count("operations", len(self.history.operations))
        for violation in check_history(self.history.operations):
            report.violations.append(str(violation))


# --- the leader is killed, or frozen ------------------------------------------------------------


def kill_leader(cluster: Cluster, rounds: int, progress: Progress) -> Report:
    report, register = Report("kill -9 of the leader"), Register(cluster)
    for number in range(1, rounds + 1):
        leader = cluster.leader()
        register.write_somewhere([cluster.nodes[leader]])
        others = list(cluster.others(leader))
        began = CLOCK.monotonic()
        cluster.nodes[leader].signal(signal.SIGKILL)
        register.write_somewhere(others)
        report.seconds.append(CLOCK.monotonic() - began)
        cluster.nodes[leader].bury()
        cluster.start(leader)
        cluster.converged()
        report.rounds = number
        progress(f"{report.name}: {number}/{rounds}, {report.seconds[-1] * 1000:.0f} ms")
    register.judge(report)
    return report


def stop_leader(cluster: Cluster, rounds: int, progress: Progress) -> Report:
    report, register = Report("SIGSTOP of the leader"), Register(cluster)
    for number in range(1, rounds + 1):
        leader = cluster.leader()
        frozen = cluster.nodes[leader]
        register.write_somewhere([frozen])
        others = list(cluster.others(leader))
        began = CLOCK.monotonic()
        frozen.signal(signal.SIGSTOP)
        # Its control socket is the first thing that it finds readable on waking: the reads that
        # come in there later are served before it hears of any newer leader.
        frozen.client.send({"op": "status"})
        newest = register.write_somewhere(others)
        report.seconds.append(CLOCK.monotonic() - began)
        _wake_with_reads(register, frozen, newest, report)
        cluster.leader()
        cluster.converged()
        report.rounds = number
        progress(f"{report.name}: {number}/{rounds}, {report.seconds[-1] * 1000:.0f} ms")
    register.judge(report)
    return report


def _wake_with_reads(
    register: Register, frozen: NodeProcess, newest: Operation, report: Report
) -> None:
    """The first thing that it finds on waking are reads that came after the newer write."""
    waiting = dict(register.ask_read(frozen) for _ in range(READS_IN_THE_SOCKET))
    asked = READS_IN_THE_SOCKET
    frozen.signal(signal.SIGCONT)
    woken = CLOCK.monotonic()
    end = woken + FAILOVER_LIMIT_S
    served = stale = 0
    while waiting:
        if CLOCK.monotonic() > end:
            raise StuckError(f"{frozen.name} did not answer its reads after it woke up")
        answer = frozen.client.receive(0.01)
        if answer is None or answer["id"] not in waiting:
            continue
        operation = waiting.pop(answer["id"])
        if register.settle(operation, answer):
            served += 1
            if operation.observed != newest.value:
                stale += 1
                if stale <= SHOWN:
                    report.violations.append(f"STALE: {operation}; newest was {newest.value}")
        if not waiting and CLOCK.monotonic() - woken < ASKED_AWAKE_S:
            asked += 1
            sent, operation = register.ask_read(frozen)
            waiting[sent] = operation
    report.count("reads", asked)
    report.count("reads_served", served)
    report.count("stale", stale)


# --- all nodes at once --------------------------------------------------------------------------


def crash_all(cluster: Cluster, rounds: int, progress: Progress, *, load_s: float) -> Report:
    report = Report("kill -9 of all nodes")
    dice = random.Random(2)
    for what in ("acknowledged", "unknown", "lost", "lies", "repeated"):
        report.count(what, 0)
    for number in range(1, rounds + 1):
        cluster.leader()
        prefix = f"round-{number}-"
        load = Load(cluster, prefix)
        load.run_for(load_s * dice.uniform(0.5, 1.5))
        names = dice.sample(sorted(cluster.nodes), len(cluster.nodes))
        cluster.kill(*names)
        load.stop()
        began = CLOCK.monotonic()
        cluster.start(*names)
        found = _all_operations(cluster, prefix)
        report.seconds.append(CLOCK.monotonic() - began)
        _compare(cluster, load, found, report)
        report.rounds = number
        progress(f"{report.name}: {number}/{rounds}, {report.counts['acknowledged']} acknowledged")
    return report


def _all_operations(cluster: Cluster, prefix: str) -> set[str]:
    """What a linearizable read shows, wherever there is one; and every node must agree."""
    request = {"op": "operations", "prefix": prefix}

    def ask(node: NodeProcess) -> set[str] | None:
        answer = node.client.call(request)
        return {"ready", *answer["names"]} if answer["outcome"] == "ready" else None

    def probe() -> set[str] | None:
        for node in cluster.nodes.values():
            found = ask(node)
            if found is not None:
                return found
        return None

    first = wait_for(probe, "a linearizable read after the restart", FAILOVER_LIMIT_S)
    cluster.leader()
    cluster.converged()
    for node in cluster.nodes.values():
        if wait_for(lambda node=node: ask(node), f"a read at {node.name}") != first:  # type: ignore[misc]
            raise StuckError(f"{node.name} shows other operations than the first node asked")
    return first - {"ready"}


def _compare(cluster: Cluster, load: Load, found: set[str], report: Report) -> None:
    lost, lies = load.acknowledged - found, load.refused & found
    repeated = sum(int(cluster.status(name)["repeated"]) for name in cluster.nodes)
    report.count("acknowledged", len(load.acknowledged))
    report.count("unknown", len(load.unknown))
    report.count("unknown_but_done", len(load.unknown & found))
    report.count("lost", len(lost))
    report.count("lies", len(lies))
    report.count("repeated", repeated)
    report.violations += [f"LOST: {name} was acknowledged" for name in sorted(lost)[:SHOWN]]
    report.violations += [f"LIE: {name} was refused and is there" for name in sorted(lies)[:SHOWN]]
    if repeated:
        report.violations.append(f"REPEATED: {repeated} operations were applied twice")


# --- the command --------------------------------------------------------------------------------

SCENARIOS: Final = ("kill", "stop", "crash")


def measure(args: argparse.Namespace, directory: Path, progress: Progress) -> list[Report]:
    reports = []
    with Cluster(
        directory, nodes=args.nodes, engine=args.engine, loop=args.loop, canary=args.canary
    ) as cluster:
        if "kill" in args.only:
            reports.append(kill_leader(cluster, args.rounds, progress))
        if "stop" in args.only:
            reports.append(stop_leader(cluster, args.rounds, progress))
        if "crash" in args.only:
            reports.append(crash_all(cluster, args.crash_rounds, progress, load_s=args.load_s))
    return reports


def table(reports: list[Report]) -> str:
    lines = [f"{'scenario':<24} {'rounds':>6} {'median':>9} {'fastest':>9} {'slowest':>9}"]
    for report in reports:
        figures = report.as_json()
        times = [f"{figures[key] * 1000:>6.0f} ms" for key in ("median_s", "min_s", "max_s")]
        lines.append(f"{report.name:<24} {report.rounds:>6} {' '.join(times)}")
        counts = ", ".join(f"{number} {what}" for what, number in report.counts.items())
        lines.append(f"    {counts}".replace("_", " "))
        lines += [f"    {violation}" for violation in report.violations]
    return "\n".join(lines)


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m chaos.failover", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--rounds", type=int, default=20, help="of kill and of stop (20)")
    parser.add_argument("--crash-rounds", type=int, default=20, help="of crash (20)")
    parser.add_argument("--load-s", type=float, default=1.0, help="load before a crash (1 s)")
    parser.add_argument("--only", default=",".join(SCENARIOS), help="some of kill,stop,crash")
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--engine", choices=["lmdb", "memory"], default="lmdb")
    parser.add_argument("--loop", choices=["uvloop", "asyncio"], default="uvloop")
    parser.add_argument("--canary", choices=CANARIES, default="", help="a bug to be caught")
    parser.add_argument("--data", metavar="DIR", help="kept; else a temporary one, removed")
    parser.add_argument("--json", action="store_true", help="JSON instead of a table")
    args = parser.parse_args(arguments)
    args.only = args.only.split(",")
    unknown = set(args.only) - set(SCENARIOS)
    if unknown:
        parser.error(f"no such scenario: {', '.join(sorted(unknown))}")
    if args.engine == "memory" and set(args.only) != {"stop"}:
        parser.error("the memory engine forgets at a kill; it is for --only stop")
    return args


def say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def main(arguments: list[str]) -> int:
    args = parse(arguments)
    directory = Path(args.data) if args.data else Path(tempfile.mkdtemp(prefix="januskv-failover-"))
    try:
        reports = measure(args, directory, say)
    except (StuckError, Gone) as error:
        say(f"stuck: {error}\nthe nodes' logs stay in {directory}")
        return 3
    text = json.dumps([report.as_json() for report in reports]) if args.json else table(reports)
    sys.stdout.write(text + "\n")
    if any(report.violations for report in reports):
        say(f"the nodes' data and logs stay in {directory}")
        return 1
    if not args.data:
        shutil.rmtree(directory)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
