"""Whether memory stands still: many keys, a mixed load for minutes, each node's memory meanwhile.

Puts and linearizable gets run side by side, each from a process of its own, over the same keys.
Anonymous memory (RssAnon) is what counts: pages of the data file that the kernel keeps for a node
are the kernel's to take back.

It stands still if the last quarter's largest figure is at most GROWTH_MAX above that of the quarter
after the first: caches and windows fill in the first one.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, Final

from kv.load import worker
from kv.load.plan import Load, Operation, Outcome
from kv.peers import gateway, processes
from kv.peers.cluster import Node, System
from kv.peers.gateway import Contents
from kv.peers.measuring import Report, problem_of

WISHED_BYTES: Final = 150 * 1000 * 1000
GROWTH_MAX: Final = 1.05
SAMPLE_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Plan:
    keys: int = 1_000_000
    value_bytes: int = 100
    seconds: float = 600.0
    connections: int = 32
    """Of the puts, and as many of the gets."""

    def estimate_s(self) -> float:
        return self.seconds + self.keys / 10_000


@dataclass(frozen=True, slots=True)
class Sample:
    at_s: float
    anonymous_bytes: tuple[int, ...]
    """Of each node."""


@dataclass(frozen=True, slots=True)
class Endurance:
    about: str
    samples: Sequence[Sample]
    puts_per_second: float
    gets_per_second: float
    problem: str | None

    @property
    def largest_bytes(self) -> int:
        return _largest(self.samples)

    @property
    def growth(self) -> float:
        quarter = max(1, len(self.samples) // 4)
        early, late = (
            max(max(sample.anonymous_bytes) for sample in part)
            for part in (
                self.samples[quarter : 2 * quarter] or self.samples,
                self.samples[-quarter:],
            )
        )
        return late / early

    @property
    def holds(self) -> bool:
        return self.largest_bytes < WISHED_BYTES and self.growth <= GROWTH_MAX

    def as_json(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "largest_bytes": self.largest_bytes,
            "growth": self.growth,
            "holds": self.holds,
        }


def _largest(samples: Sequence[Sample]) -> int:
    return max(max(sample.anonymous_bytes) for sample in samples)


def measure(system: System, plan: Plan, scratch: Path, report: Report) -> Endurance:
    with system.running(scratch) as nodes:
        leader = gateway.leader(nodes)
        gateway.fill(leader, plan.keys, plan.value_bytes)
        report(plan.keys / 10_000, f"{plan.keys:,} keys are there")
        before = gateway.contents(leader)
        samples, put, got = _under_load(nodes, plan, report)
        return Endurance(
            system.about,
            samples,
            put.per_second,
            got.per_second,
            _problem(put, got, before, gateway.contents(gateway.leader(nodes))),
        )


def _problem(put: Outcome, got: Outcome, before: Contents, after: Contents) -> str | None:
    """Gets move nothing, so what the puts moved can be checked although both ran at once."""
    unmoved = Contents(after.keys, before.revision)
    return problem_of(Operation.PUT, put, before, after) or problem_of(
        Operation.GET, got, before, unmoved
    )


def _under_load(
    nodes: Sequence[Node], plan: Plan, report: Report
) -> tuple[list[Sample], Outcome, Outcome]:
    pids = [node.pid for node in nodes]
    samples: list[Sample] = []
    begun = perf_counter()

    def look(seconds: float) -> None:
        at_s = perf_counter() - begun
        if not samples or at_s - samples[-1].at_s >= SAMPLE_S:
            samples.append(Sample(at_s, tuple(processes.anonymous_bytes([p]) for p in pids)))
        report(seconds, f"mixed load, largest node {max(samples[-1].anonymous_bytes):,} bytes")

    with ThreadPoolExecutor(1) as beside:
        gets = beside.submit(worker.run, _load(Operation.GET, nodes, plan), 1, lambda _: None)
        put = worker.run(_load(Operation.PUT, nodes, plan), 1, look)
        look(0.0)
        return samples, put, gets.result()


def _load(operation: Operation, nodes: Sequence[Node], plan: Plan) -> Load:
    return Load(
        operation=operation,
        endpoints=tuple((node.host, node.port) for node in nodes),
        connections=plan.connections,
        seconds=plan.seconds,
        warm_up_s=0.0,
        keys=plan.keys,
        value_bytes=plan.value_bytes,
    )
