"""Both regimes beside each other: the same REST load on three nodes of each, also with one dead.

    for each round, each system (strong and leaderless, LMDB and RocksDB)
      start three nodes; put every key once
      gets and puts at each number of connections           "healthy"
      kill -9 one node; wait until the others serve
      gets and puts at half of that, paced                  "one down"; no error may occur

Puts go to new keys, so that the leaderless regime makes no siblings and both do the same work; an
answer of the leaderless one counts only if it names two replicas. Paced: each connection waits
before a request as long as it takes to come to half of what was measured whole.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import shutil
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import sleep
from typing import Any, Final

from kv.load import worker, wrk
from kv.load.plan import Load, Operation, Outcome, Speech
from kv.load.rest import path_of
from kv.peers.cluster import POLL_S, START_MAX_S, ClusterFailedError, Node
from kv.peers.janus import JanusKV
from kv.peers.measuring import START_S, Meter
from storage.system_clock import SystemClock

STRONG: Final = "strong"
LEADERLESS: Final = "leaderless"
ENGINES: Final = ("lmdb", "rocksdb")
HEALTHY: Final = "healthy"
ONE_DOWN: Final = "one down, half of that"
FILL_BATCH: Final = 500
WISHED: Final = {Operation.PUT: 0.6, Operation.GET: 0.4}
"""Of the strong regime's throughput, at 64 and 256 connections."""
TIMEOUT_S: Final = 30.0

Report = Callable[[float, str], None]


@dataclass(frozen=True, slots=True)
class RegimePlan:
    seconds: float = 5.0
    warm_up_s: float = 1.0
    rounds: int = 1
    connections: Sequence[int] = (64, 256)
    engines: Sequence[str] = ENGINES
    keys: int = 10_000
    value_bytes: int = 100
    wrk: str | None = None

    def estimate_s(self) -> float:
        cell_s = self.seconds + self.warm_up_s
        loads = 2 * len(Operation) * len(self.connections)
        return self.rounds * 2 * len(self.engines) * (2 * START_S + loads * cell_s)


@dataclass(frozen=True, slots=True)
class RegimeCell:
    regime: str
    engine: str
    state: str
    operation: Operation
    connections: int
    round: int
    generator: str
    per_second: float
    p50_us: int
    p99_us: int
    node_cpu_us: float
    errors: dict[str, int]
    offered: float
    """Requests a second that were aimed at; 0: as many as it can."""


def systems(plan: RegimePlan, command: Sequence[str] = ()) -> list[tuple[str, str, JanusKV]]:
    return [
        (
            regime,
            engine,
            JanusKV(
                command,
                name=f"{regime}-{engine}",
                options=("--mode", regime, "--engine", engine),
                healthy=all_ready,
            ),
        )
        for engine in plan.engines
        for regime in (STRONG, LEADERLESS)
    ]


def measure(
    plan: RegimePlan, scratch: Path, report: Report, command: Sequence[str] = ()
) -> list[RegimeCell]:
    cells: list[RegimeCell] = []
    for number in range(1, plan.rounds + 1):
        for regime, engine, system in systems(plan, command):
            directory = scratch / f"{system.name}-{number}"
            directory.mkdir()
            with system.running(directory) as nodes:
                run = _Run(plan, regime, engine, number, report)
                fill(nodes[0], plan)
                report(START_S, f"round {number}: {system.name} is filled")
                whole = run.healthy(nodes)
                os.kill(nodes[-1].pid, signal.SIGKILL)
                left = nodes[:-1]
                wait_until_served(left)
                report(START_S, f"round {number}: {system.name} has lost a node")
                cells += [*whole, *run.one_down(left, whole)]
            shutil.rmtree(directory)
    return cells


class _Run:
    """The loads of one system in one round."""

    def __init__(
        self, plan: RegimePlan, regime: str, engine: str, number: int, report: Report
    ) -> None:
        self._plan = plan
        self._regime = regime
        self._engine = engine
        self._number = number
        self._report = report

    def healthy(self, nodes: Sequence[Node]) -> list[RegimeCell]:
        return [
            self._cell(nodes, HEALTHY, operation, connections)
            for operation in sorted(Operation)
            for connections in self._plan.connections
        ]

    def one_down(self, nodes: Sequence[Node], whole: Sequence[RegimeCell]) -> list[RegimeCell]:
        return [
            self._cell(nodes, ONE_DOWN, cell.operation, cell.connections, before=cell)
            for cell in whole
        ]

    def _cell(
        self,
        nodes: Sequence[Node],
        state: str,
        operation: Operation,
        connections: int,
        before: RegimeCell | None = None,
    ) -> RegimeCell:
        plan = self._plan
        offered = 0.0 if before is None else before.per_second / 2
        # Half as many requests a second; each takes about half as long as at full load.
        pause_ms = 0.0
        if before is not None and offered:
            pause_ms = max(1.0, 1000 * connections / offered - before.p50_us / 2000)
        load = Load(
            operation=operation,
            endpoints=tuple((node.host, node.port) for node in nodes),
            connections=connections,
            seconds=plan.seconds,
            warm_up_s=plan.warm_up_s,
            keys=plan.keys,
            value_bytes=plan.value_bytes,
            seed=random.SystemRandom().randrange(1, 1 << 30),
            speech=Speech.QUORUM if self._regime == LEADERLESS else Speech.REST,
            fresh=True,
            pause_ms=pause_ms,
        )
        what = f"{self._regime} on {self._engine}, {state}: {operation}, {connections} connections"
        meter = Meter([node.pid for node in nodes])
        outcome, generator = self._drive(load)
        cpu_s, _ = meter.read()
        self._report(load.warm_up_s + load.seconds, what)
        return RegimeCell(
            self._regime,
            self._engine,
            state,
            operation,
            connections,
            self._number,
            generator,
            outcome.per_second,
            outcome.histogram.percentile_us(50),
            outcome.histogram.percentile_us(99),
            cpu_s * 1e6 / max(outcome.acknowledged, 1),
            {name: count for name, count in outcome.errors.items() if count},
            offered,
        )

    def _drive(self, load: Load) -> tuple[Outcome, str]:
        if self._plan.wrk is not None and wrk.can_play(load):
            return wrk.run(self._plan.wrk, load, _passing), "wrk"
        return worker.run(load, 1, _passing), "own"


def _passing(seconds: float) -> None:
    """A load is reported when it is over."""


# --- a few calls of REST around it -----------------------------------------------------------


def ask(node: Node, method: str, path: str, document: Any = None) -> tuple[int, Any]:
    connection = http.client.HTTPConnection(node.host, node.port, timeout=TIMEOUT_S)
    try:
        body = None if document is None else json.dumps(document)
        connection.request(method, path, body=body)
        answer = connection.getresponse()
        raw = answer.read()
        return answer.status, json.loads(raw) if raw[:1] == b"{" else raw
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise ClusterFailedError(f"{node.name} did not answer {path}: {error!r}") from error
    finally:
        connection.close()


def all_ready(nodes: Sequence[Node]) -> bool:
    try:
        return all(ask(node, "GET", "/readyz")[0] == 200 for node in nodes)
    except ClusterFailedError:
        return False


def wait_until_served(nodes: Sequence[Node]) -> None:
    """Each takes a write and a read."""
    clock = SystemClock()
    deadline_s = clock.monotonic() + START_MAX_S
    while True:
        try:
            statuses = [
                ask(node, "PUT", "/api/v1/keys/probe%2F" + node.name, {"value": "1"})[0]
                for node in nodes
            ]
            if all(status == 200 for status in statuses) and all_ready(nodes):
                return
        except ClusterFailedError:
            pass
        if clock.monotonic() > deadline_s:
            raise ClusterFailedError(
                f"the nodes that were left did not serve within {START_MAX_S:.0f} s"
            )
        sleep(POLL_S)


def fill(node: Node, plan: RegimePlan) -> None:
    value = "x" * plan.value_bytes
    for first in range(0, plan.keys, FILL_BATCH):
        operations = [
            {"key": path_of(number).replace(b"%2F", b"/").decode(), "value": value}
            for number in range(first, min(first + FILL_BATCH, plan.keys))
        ]
        status, answer = ask(node, "POST", "/api/v1/batch/put", {"operations": operations})
        if status != 200 or answer["failed_keys"]:
            raise ClusterFailedError(f"{node.name} did not take the keys: {status} {answer!r:.200}")
