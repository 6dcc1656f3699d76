"""Many storms by seed, in several processes: `januskv sim --mode leaderless`. A shell: it prints.

One seed is one storm (leaderless_storm.py) with all that its dice draw: the number of nodes,
whether there are hints, faults, joins, leaves, deletes; then the calm and the judgement. What was
violated is printed with the last lines of its trace and the command that replays it.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from chaos.sim.leaderless import LeaderlessCluster
from chaos.sim.leaderless_canary import CANARIES, STRICT, put_back
from chaos.sim.leaderless_schedules import SCHEDULES
from chaos.sim.leaderless_storm import live, storm
from chaos.sim.world import SpinError
from kv import leash
from storage.system_clock import SystemClock

KEYSPACES: Final = "keyspaces"
"""The fault that has to be asked for."""
CANARY_SEEDS: Final = 60
PROGRESS_S: Final = 10.0
TRACE_LINES: Final = 40


@dataclass(slots=True)
class StormResult:
    seed: int
    violation: str = ""
    virtual_s: float = 0.0
    cpu_s: float = 0.0
    events: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    trace_hash: str = ""
    recent: tuple[str, ...] = ()


def run_storm(
    seed: int,
    *,
    seconds: float = 20.0,
    canary: str | None = None,
    hints: bool | None = None,
    keyspaces: bool = False,
) -> StormResult:
    result = StormResult(seed)
    started = time.process_time()
    clusters: list[LeaderlessCluster] = []
    with put_back(canary) as reaping:
        try:
            workload = storm(
                seed,
                seconds=seconds,
                drawn=True,
                members=True,
                hints=hints,
                keyspaces=keyspaces,
                canaries=reaping,
                began=clusters.append,
            )
            workload.check()
            workload.merge_all()
            result.counts["writes"] = len(workload.attempts)
            acknowledged = [each for each in workload.attempts.values() if each.acknowledged]
            result.counts["acknowledged"] = len(acknowledged)
            result.counts["deletes acknowledged"] = sum(each.delete for each in acknowledged)
            result.counts["session reads"] = workload.session_reads
            if workload.made is not None:
                result.counts["strict reads"] = workload.made.reads
                result.counts["acknowledged in made keyspaces"] = len(workload.made.acknowledged)
        except (AssertionError, SpinError) as error:
            result.violation = str(error) or repr(error)
    (cluster,) = clusters
    for machine in cluster.running:
        regime = live(machine)
        result.counts["hints replayed"] += regime.handoff.replayed
        result.counts["keys reaped"] += regime.replica.reaped
        result.counts["sets repaired"] += regime.maintenance.exchanger.totals.fetched
        result.counts["sets repaired"] += regime.maintenance.exchanger.totals.pushed
    result.faults = cluster.faults
    result.virtual_s = cluster.world.now
    result.events = cluster.world.events
    result.trace_hash = cluster.world.trace_hash()
    result.recent = tuple(cluster.world.recent)
    result.cpu_s = time.process_time() - started
    return result


def run_all(seeds: range, *, seconds: float, jobs: int, keyspaces: bool = False) -> int:
    """Exit code 0, or 1 if anything was violated."""
    clock = SystemClock()
    started_s = told_s = clock.monotonic()
    results: list[StormResult] = []
    for result in _results(seeds, seconds, jobs, keyspaces):
        results.append(result)
        if result.violation:
            _print_failure(result, seconds, keyspaces)
        now_s = clock.monotonic()
        if now_s - told_s > PROGRESS_S:
            told_s = now_s
            bad = sum(bool(each.violation) for each in results)
            sys.stderr.write(f"{len(results)}/{len(seeds)} seeds, {bad} violated\n")
    if len(seeds) == 1:
        print(f"trace hash {results[0].trace_hash}")
    print(_describe(results, clock.monotonic() - started_s, jobs))
    return int(any(result.violation for result in results))


def run_canaries(name: str, *, seconds: float) -> int:
    """Each must be caught by one of the first seeds, or by the schedule made for it."""
    missed = 0
    for canary in sorted(CANARIES) if name == "all" else [name]:
        if canary in SCHEDULES:
            with put_back(canary):
                violation = SCHEDULES[canary]()
            missed += not violation
            print(f"{canary}: {f'caught by its schedule: {violation}' if violation else 'MISSED'}")
            continue
        for seed in range(CANARY_SEEDS):
            result = run_storm(seed, seconds=seconds, canary=canary, keyspaces=canary in STRICT)
            if result.violation:
                print(f"{canary}: caught at seed {seed}: {result.violation[:160]}", flush=True)
                break
        else:
            missed += 1
            print(f"{canary}: NOT CAUGHT in {CANARY_SEEDS} seeds", flush=True)
    return int(missed > 0)


def _results(seeds: range, seconds: float, jobs: int, keyspaces: bool) -> Iterator[StormResult]:
    run = partial(run_storm, seconds=seconds, keyspaces=keyspaces)
    if jobs <= 1 or len(seeds) == 1:
        yield from map(run, seeds)
        return
    with leash.pool(jobs) as pool:
        yield from pool.map(run, seeds)


def _print_failure(result: StormResult, seconds: float, keyspaces: bool) -> None:
    print(f"seed {result.seed}: VIOLATED: {result.violation}")
    for line in result.recent[-TRACE_LINES:]:
        print(f"    {line[:160]}")
    print(
        f"  replay: januskv sim --mode leaderless --seed {result.seed} --seconds {seconds:g}"
        + (f" --faults all,{KEYSPACES}" if keyspaces else ""),
        flush=True,
    )


def _describe(results: list[StormResult], wall_s: float, jobs: int) -> str:
    counts: Counter[str] = Counter()
    faults: Counter[str] = Counter()
    for result in results:
        counts.update(result.counts)
        faults.update(result.faults)
    virtual_s = sum(result.virtual_s for result in results)
    cpu_s = sum(result.cpu_s for result in results)
    rows = [
        ("seeds", f"{len(results)}"),
        ("virtual time", f"{virtual_s:.0f} s"),
        ("processor time", f"{cpu_s:.0f} s; real time {wall_s:.0f} s with {jobs} jobs"),
        ("events", f"{sum(result.events for result in results)}"),
        *((name, f"{count}") for name, count in sorted(counts.items())),
        ("faults", ", ".join(f"{name} {count}" for name, count in sorted(faults.items()))),
        ("violations", f"{sum(bool(result.violation) for result in results)}"),
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)
