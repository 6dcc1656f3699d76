"""The measurement: systems in turn, round by round, each cell with the same load.

    for each round                      A B A B ..., so that a drift of the machine meets both
      for each system                   never two at once
        start three nodes in a new directory of the same disk; put every key once
        for each operation, target and number of connections
          warm up, measure              kv/load, in a process of its own
          check that the work was real
        end the nodes, remove the directory

The check: after puts, the store's revision has moved by exactly the puts that were acknowledged
(each put is one), and it has as many keys as before. Gets are checked answer by answer: each must
hold a key. A run with an error, or that fails its check, is no result; it is shown as what it was.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kv.load import ceiling, worker, wrk
from kv.load.plan import Load, Operation, Outcome
from kv.peers import gateway, processes
from kv.peers.cells import Cell, Memory, Result
from kv.peers.cluster import NODES, Node, System
from kv.peers.gateway import Contents

ALL: Final = "all"
LEADER: Final = "leader"
START_S: Final = 6.0
"""What a start and a fill count for on the progress bar."""
CEILING_S: Final = 1.0
FIXED_WORK: Final = 200_000

Report = Callable[[float, str], None]
"""Told how many seconds of the plan were just done, and of what."""


@dataclass(frozen=True, slots=True)
class Plan:
    seconds: float = 5.0
    warm_up_s: float = 1.0
    rounds: int = 3
    connections: Sequence[int] = (1, 16, 64, 256)
    operations: Sequence[Operation] = (Operation.PUT, Operation.GET)
    targets: Sequence[str] = (ALL,)
    keys: int = 10_000
    value_bytes: int = 100
    processes: int = 1
    wrk: str | None = None
    """The path of wrk, where it is to be the generator."""

    @property
    def cells(self) -> list[tuple[Operation, str, int]]:
        """Gets first: puts leave work behind (compaction, page writes) that would slow them."""
        return [
            (operation, target, connections)
            for operation in sorted(self.operations)
            for target in self.targets
            for connections in self.connections
        ]

    def estimate_s(self, systems: int) -> float:
        of_cells = len(self.cells) * (self.warm_up_s + self.seconds)
        return len(self.ceiling_cells) * CEILING_S + self.rounds * systems * (START_S + of_cells)

    @property
    def ceiling_cells(self) -> list[tuple[Operation, int]]:
        return [(operation, count) for operation in self.operations for count in self.connections]

    def load(
        self, operation: Operation, connections: int, endpoints: Sequence[Node], seed: int
    ) -> Load:
        return Load(
            operation=operation,
            endpoints=tuple((node.host, node.port) for node in endpoints),
            connections=connections,
            seconds=self.seconds,
            warm_up_s=self.warm_up_s,
            keys=self.keys,
            value_bytes=self.value_bytes,
            seed=seed,
        )


def measure(systems: Sequence[System], plan: Plan, scratch: Path, report: Report) -> Result:
    result = Result(about={system.name: system.about for system in systems})
    for operation, connections in plan.ceiling_cells:
        result.ceilings[operation, connections] = _ceiling(plan, operation, connections)
        report(CEILING_S, "the generator's own ceiling")
    for number in range(1, plan.rounds + 1):
        for system in systems:
            directory = scratch / f"{system.name}-{number}"
            directory.mkdir()
            with system.running(directory) as nodes:
                gateway.fill(gateway.leader(nodes), plan.keys, plan.value_bytes)
                report(START_S, f"round {number}: {system.name} is filled")
                for cell in plan.cells:
                    result.cells.append(_cell(system.name, nodes, plan, number, cell, report))
                pids = [node.pid for node in nodes]
                anonymous = processes.anonymous_bytes(pids)
                result.memory.append(Memory(system.name, number, anonymous))
            shutil.rmtree(directory)
    return result


def _ceiling(plan: Plan, operation: Operation, connections: int) -> float:
    load = Load(
        operation=operation,
        endpoints=(),
        connections=connections,
        seconds=min(plan.seconds, 0.8 * CEILING_S),
        warm_up_s=0.1,
        keys=min(plan.keys, 1_000),
        value_bytes=plan.value_bytes,
    )
    binary = plan.wrk if connections >= NODES else None
    return ceiling.measure(load, lambda _: None, binary).per_second


def _cell(
    system: str,
    nodes: Sequence[Node],
    plan: Plan,
    number: int,
    cell: tuple[Operation, str, int],
    report: Report,
) -> Cell:
    operation, target, connections = cell
    what = f"round {number}: {system} {operation} to {target}, {connections} connections"
    leader = gateway.leader(nodes)
    load = plan.load(operation, connections, nodes if target == ALL else [leader], number)
    pids = [node.pid for node in nodes]
    core_ms = fixed_work_ms()
    before, meter = gateway.contents(leader), Meter(pids)
    told = 0.0

    def waiting(seconds: float) -> None:
        nonlocal told
        step = min(seconds, load.warm_up_s + load.seconds - told)
        told += step
        report(step, what)

    outcome, generator = _drive(plan, load, waiting)
    cpu_s, other_cores = meter.read()
    report(load.warm_up_s + load.seconds - told, what)
    return Cell(
        system=system,
        operation=operation,
        target=target,
        connections=connections,
        round=number,
        generator=generator,
        per_second=outcome.per_second,
        p50_us=outcome.histogram.percentile_us(50),
        p99_us=outcome.histogram.percentile_us(99),
        errors=outcome.errors,
        problem=problem_of(operation, outcome, before, gateway.contents(leader)),
        node_cpu_us=cpu_s * 1e6 / max(outcome.acknowledged, 1),
        generator_cpu_share=outcome.cpu_s / outcome.seconds if outcome.seconds else 0.0,
        other_cores=other_cores,
        core_ms=(core_ms + fixed_work_ms()) / 2,
    )


def fixed_work_ms() -> float:
    """How long this core needs for it now."""
    began = time.perf_counter()
    total = 0
    for number in range(FIXED_WORK):
        total += number
    return (time.perf_counter() - began) * 1e3


class Meter:
    """Processor time from now on: of these processes, and of all that is not this measurement."""

    def __init__(self, pids: Sequence[int]) -> None:
        self._pids = pids
        self._started = self._now()

    def read(self) -> tuple[float, float]:
        """(seconds of the processes, cores that others kept busy)"""
        at, nodes_s, ours_s, machine_s = (
            now - then for now, then in zip(self._now(), self._started, strict=True)
        )
        return nodes_s, max(0.0, machine_s - nodes_s - ours_s) / at

    def _now(self) -> tuple[float, float, float, float]:
        times = os.times()
        ours_s = times.user + times.system + times.children_user + times.children_system
        nodes_s = processes.cpu_s(self._pids)
        return times.elapsed, nodes_s, ours_s, processes.machine_busy_s()


def _drive(plan: Plan, load: Load, waiting: worker.Waiting) -> tuple[Outcome, str]:
    if plan.wrk is not None and wrk.can_play(load):
        return wrk.run(plan.wrk, load, waiting), "wrk"
    return worker.run(load, plan.processes, waiting), "own"


def problem_of(
    operation: Operation, outcome: Outcome, before: Contents, after: Contents
) -> str | None:
    if outcome.errors:
        return ", ".join(f"{count} x {what}" for what, count in sorted(outcome.errors.items()))
    if outcome.answered == 0:
        return "nothing was answered"
    if after.keys != before.keys:
        return f"there were {before.keys} keys, now {after.keys}"
    done = after.revision - before.revision
    least = outcome.acknowledged if operation is Operation.PUT else 0
    most = least + (outcome.unsettled if operation is Operation.PUT else 0)
    if not least <= done <= most:
        return f"{least} puts were acknowledged, but the revision moved by {done}"
    return None
