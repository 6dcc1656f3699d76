"""What watchers cost the writers: `januskv bench watchers`.

For each round and system, on three nodes:

1. writers alone: puts to keys that nobody watches, at full speed;
2. the watchers begin, all of one prefix, spread over the nodes;
3. the same writers while events are put under that prefix at a fixed rate: what do they keep of
   their rate? then wait until every watcher had every event: a missing one is no result;
4. the ceiling: a burst of events with nothing else going on, from the first delivery to the last.

Idle watchers: all of them on the first node, and no events in step 3. The few of step 4 show that
all of them are still there. The memory of the first node is told before and after they came.
"""

from __future__ import annotations

import http.client
import json
import subprocess
import threading
from base64 import b64encode
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from shutil import rmtree
from time import perf_counter_ns, sleep
from typing import Any, Final

from kv.leash import environment
from kv.load import worker
from kv.load.plan import Load, Operation
from kv.load.watching import WATCHED, Deliveries, Face, Watching, stamp
from kv.load.worker import GeneratorFailedError, python
from kv.peers import gateway, processes
from kv.peers.cluster import Node, System
from kv.peers.measuring import START_S, Report

PUTTERS: Final = 8
"""Threads that put events, so that one slow answer does not hold up the rate."""
EVENT_KEYS: Final = 100
IDLE_BURST: Final = 3
REQUEST_MAX_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Plan:
    watchers: int = 1_000
    events_per_second: int = 100
    seconds: float = 10.0
    warm_up_s: float = 1.0
    rounds: int = 1
    writers: int = 64
    keys: int = 10_000
    value_bytes: int = 100
    burst: int = 200
    patience_s: float = 30.0
    """For events that are late, before they count as missing."""
    face: str = Face.ETCD
    """What the watchers talk; writers and events come over /v3."""
    idle: bool = False

    def estimate_s(self, systems: int) -> float:
        return self.rounds * systems * (2 * START_S + 2 * (self.seconds + self.warm_up_s))


@dataclass(frozen=True, slots=True)
class Round:
    system: str
    number: int
    alone_per_second: float
    watched_per_second: float
    """The writers' rate without and with the watchers at work."""
    events_per_second: float
    delivered_per_second: float
    p50_us: int
    p99_us: int
    """From the put of an event to its arrival at a watcher."""
    ceiling_per_second: float
    anonymous_before_bytes: int
    anonymous_after_bytes: int
    """RssAnon of the first node without and with its watchers."""
    problem: str | None

    @property
    def kept(self) -> float:
        return self.watched_per_second / self.alone_per_second if self.alone_per_second else 0.0

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "kept": self.kept}


class Crowd:
    """The watchers' process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def report(self, events: int) -> Deliveries:
        """Once every watcher had so many events, or too much time has passed."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{events}\n")
        self._process.stdin.flush()
        return Deliveries.from_json(json.loads(self.line()))

    def line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            assert self._process.stderr is not None
            said = self._process.stderr.read().strip().splitlines() or ["nothing said"]
            raise GeneratorFailedError(f"the watchers ended: {said[-1]}")
        return line


@contextmanager
def crowd(nodes: Sequence[Node], plan: Plan) -> Iterator[Crowd]:
    process = subprocess.Popen(
        python("kv.load.watching"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    try:
        endpoints = [(node.host, node.port) for node in (nodes[:1] if plan.idle else nodes)]
        watching = Watching(endpoints, plan.watchers, plan.patience_s, plan.face)
        assert process.stdin is not None
        process.stdin.write(json.dumps(asdict(watching)) + "\n")
        process.stdin.flush()
        it = Crowd(process)
        it.line()
        yield it
    finally:
        process.kill()
        process.communicate()


class Events:
    """Puts under the watched prefix, from threads, at a rate or as fast as they go."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self._nodes = nodes
        self._lock = threading.Lock()
        self._taken = 0
        self.done = 0
        self.failed: list[str] = []

    def put(self, count: int, per_second: float | None) -> float:
        """Returns when all are acknowledged; the rate reached."""
        self._taken, begun, before = 0, perf_counter_ns(), self.done
        threads = [
            threading.Thread(target=self._run, args=(at, count, begun, per_second), daemon=True)
            for at in range(PUTTERS)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return (self.done - before) / ((perf_counter_ns() - begun) / 1e9)

    def _run(self, at: int, count: int, begun: int, per_second: float | None) -> None:
        node = self._nodes[at % len(self._nodes)]
        connection = http.client.HTTPConnection(node.host, node.port, timeout=REQUEST_MAX_S)
        try:
            while (number := self._next(count)) is not None:
                if per_second is not None:
                    due_s = number / per_second - (perf_counter_ns() - begun) / 1e9
                    sleep(max(0.0, due_s))
                self._one(connection, number)
        except (OSError, http.client.HTTPException) as error:
            self.failed.append(repr(error))
        finally:
            connection.close()

    def _next(self, count: int) -> int | None:
        with self._lock:
            if self._taken >= count:
                return None
            self._taken += 1
            return self._taken - 1

    def _one(self, connection: http.client.HTTPConnection, number: int) -> None:
        key = b64encode(b"%s%06d" % (WATCHED, number % EVENT_KEYS)).decode()
        body = json.dumps({"key": key, "value": stamp(perf_counter_ns())})
        connection.request("POST", "/v3/kv/put", body=body)
        answer = connection.getresponse()
        answer.read()
        if answer.status != 200:
            raise http.client.HTTPException(f"status {answer.status}")
        with self._lock:
            self.done += 1


def measure(systems: Sequence[System], plan: Plan, scratch: Path, report: Report) -> list[Round]:
    rounds = []
    for number in range(1, plan.rounds + 1):
        for system in systems:
            directory = scratch / f"{system.name}-{number}"
            directory.mkdir()
            with system.running(directory) as nodes:
                gateway.fill(gateway.leader(nodes), plan.keys, plan.value_bytes)
                report(START_S, f"round {number}: {system.name} is filled")
                rounds.append(_round(system.name, nodes, plan, number, report))
            rmtree(directory)
    return rounds


def _round(system: str, nodes: Sequence[Node], plan: Plan, number: int, report: Report) -> Round:
    load = Load(
        operation=Operation.PUT,
        endpoints=tuple((node.host, node.port) for node in nodes),
        connections=plan.writers,
        seconds=plan.seconds,
        warm_up_s=plan.warm_up_s,
        keys=plan.keys,
        value_bytes=plan.value_bytes,
        seed=number,
    )
    events = Events(nodes)
    alone = worker.run(load, 1, lambda s: report(s, f"{system}: writers alone"))
    anonymous = processes.anonymous_bytes([nodes[0].pid])
    with crowd(nodes, plan) as watchers:
        events_per_second = 0 if plan.idle else plan.events_per_second
        count = round((plan.seconds + plan.warm_up_s) * events_per_second)
        rates: list[float] = []
        pace = threading.Thread(
            target=lambda: rates.append(events.put(count, events_per_second)), daemon=True
        )
        pace.start()
        watched = worker.run(load, 1, lambda s: report(s, f"{system}: writers and watchers"))
        pace.join()
        anonymous_after = processes.anonymous_bytes([nodes[0].pid])
        delivered = watchers.report(events.done)
        events.put(IDLE_BURST if plan.idle else plan.burst, None)
        burst = watchers.report(events.done)
        report(START_S, f"{system}: a burst of events")
    problems = [
        *alone.errors,
        *watched.errors,
        *events.failed,
        *_missing(burst, events.done, plan.patience_s),
    ]
    return Round(
        system=system,
        number=number,
        alone_per_second=alone.per_second,
        watched_per_second=watched.per_second,
        events_per_second=rates[0],
        delivered_per_second=delivered.delivered / delivered.seconds if delivered.seconds else 0.0,
        p50_us=delivered.histogram.percentile_us(50),
        p99_us=delivered.histogram.percentile_us(99),
        ceiling_per_second=burst.delivered / burst.seconds if burst.seconds else 0.0,
        anonymous_before_bytes=anonymous,
        anonymous_after_bytes=anonymous_after,
        problem=", ".join(problems) or None,
    )


def _missing(last: Deliveries, events: int, patience_s: float) -> Iterator[str]:
    if last.lost_streams:
        yield f"{last.lost_streams} streams were closed by the server"
    if last.least < events:
        yield f"a watcher had {last.least} of {events} events after {patience_s:g} s"
    if last.most > events:
        yield f"a watcher had {last.most} events, of which there were {events}"
