"""Many seeds, in several processes, with progress and a summary. A shell: it prints.

Each seed is a task of its own, so any number of processes gives the same results; they are reported
as they come and summed up in order of seeds.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Final, TextIO

from chaos.sim.play import play_seed
from chaos.sim.settings import SimConfig
from chaos.sim.simulation import SeedResult
from kv import leash
from storage.system_clock import SystemClock

AHEAD: Final = 4
"""Seeds handed to each process before its results are asked for."""
PLAIN_EVERY_S: Final = 10.0


@dataclass(slots=True)
class Summary:
    """Sums over all seeds run."""

    seeds: int = 0
    wall_s: float = 0.0
    jobs: int = 1
    cpu_s: float = 0.0
    virtual_s: float = 0.0
    snapshots: int = 0
    changes: Counter[str] = field(default_factory=Counter)
    events: int = 0
    elections: int = 0
    applied: int = 0
    results: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    slowest_recovery_s: float = 0.0
    bad: list[SeedResult] = field(default_factory=list)

    def add(self, result: SeedResult) -> None:
        self.seeds += 1
        self.virtual_s += result.virtual_s
        self.cpu_s += result.cpu_s
        self.snapshots += result.snapshots
        self.changes.update(result.changes)
        self.events += result.events
        self.elections += result.elections
        self.applied += result.applied
        self.results.update(result.results)
        self.faults.update(result.faults)
        self.slowest_recovery_s = max(self.slowest_recovery_s, result.recovered_s or 0.0)
        if not result.ok:
            self.bad.append(result)

    @property
    def violated(self) -> int:
        return sum(1 for result in self.bad if result.violations)

    @property
    def stuck(self) -> int:
        return sum(1 for result in self.bad if result.stuck and not result.violations)

    @property
    def exit_code(self) -> int:
        return 1 if self.violated else 3 if self.stuck else 0


def run_seeds(
    config: SimConfig,
    seeds: Sequence[int],
    *,
    jobs: int,
    each: Callable[[SeedResult, Summary], bool],
) -> Summary:
    """Run every seed; `each` is told of every result and answers whether to go on."""
    clock = SystemClock()
    started = clock.monotonic()
    summary = Summary(jobs=jobs)
    results = _parallel(config, seeds, jobs) if jobs > 1 else _in_order(config, seeds)
    for result in results:
        summary.add(result)
        summary.wall_s = clock.monotonic() - started
        if not each(result, summary):
            break
    summary.bad.sort(key=lambda result: result.seed)
    return summary


def _in_order(config: SimConfig, seeds: Iterable[int]) -> Iterator[SeedResult]:
    for seed in seeds:
        yield run_measured(replace(config, seed=seed))


def run_measured(config: SimConfig) -> SeedResult:
    """One seed, and the processor time that it took."""
    started = time.process_time()
    result = play_seed(config)
    result.cpu_s = time.process_time() - started
    return result


def _parallel(config: SimConfig, seeds: Iterable[int], jobs: int) -> Iterator[SeedResult]:
    pool = leash.pool(jobs)
    remaining = iter(seeds)
    try:
        waiting: set[Future[SeedResult]] = set()
        while True:
            for seed in islice(remaining, jobs * AHEAD - len(waiting)):
                waiting.add(pool.submit(run_measured, replace(config, seed=seed)))
            if not waiting:
                return
            finished, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for future in finished:
                yield future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


class Progress:
    """A bar on a terminal, a plain line now and then elsewhere; always on stderr."""

    def __init__(self, total: int, stream: TextIO | None = None) -> None:
        self._total = total
        self._stream = stream or sys.stderr
        self._tty = self._stream.isatty()
        self._printed_at = 0.0
        self._drawn = False

    def show(self, summary: Summary) -> None:
        every = 0.1 if self._tty else PLAIN_EVERY_S
        if summary.seeds < self._total and summary.wall_s - self._printed_at < every:
            return
        self._printed_at = summary.wall_s
        part = summary.seeds / max(1, self._total)
        text = (
            f"{summary.seeds}/{self._total} seeds, {summary.virtual_s:.0f} s virtual, "
            f"{speed(summary):.0f}x, {summary.violated} violated, {summary.stuck} stuck"
        )
        if self._tty:
            bar = "#" * round(part * 24)
            self._stream.write(f"\r\x1b[2K[{bar:<24}] {text}")
            self._drawn = True
        else:
            self._stream.write(f"{text}\n")
        self._stream.flush()

    def close(self) -> None:
        if self._drawn:
            self._stream.write("\r\x1b[2K")
            self._stream.flush()
            self._drawn = False


def speed(summary: Summary) -> float:
    """Virtual seconds a second of processor time of one core, whatever else the machine does."""
    return summary.virtual_s / max(1e-9, summary.cpu_s)


def describe(summary: Summary) -> str:
    """The table under a run."""
    rows = [
        ("seeds", f"{summary.seeds}"),
        ("virtual time", f"{summary.virtual_s:.0f} s"),
        ("processor time", f"{summary.cpu_s:.1f} s: {speed(summary):.0f} times faster, a core"),
        ("real time", f"{summary.wall_s:.1f} s with {summary.jobs} job{'s' * (summary.jobs > 1)}"),
        ("events", f"{summary.events}"),
        ("leaderships", f"{summary.elections}"),
        ("snapshots installed", f"{summary.snapshots}"),
        ("changes done", ", ".join(f"{n} {c}" for n, c in sorted(summary.changes.items())) or "0"),
        ("operations applied", f"{summary.applied}, over all replicas"),
        *((name, f"{count}") for name, count in sorted(summary.results.items())),
        ("faults", ", ".join(f"{n} {c}" for n, c in sorted(summary.faults.items())) or "none"),
        ("slowest recovery", f"{summary.slowest_recovery_s:.2f} s after the last fault"),
        ("violations", f"{summary.violated}"),
        ("stuck", f"{summary.stuck}"),
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)
