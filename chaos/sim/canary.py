"""Known bugs, put back one at a time, to prove that the simulation still catches them.

Each canary names a set of faults that provokes it and a bounded number of seeds. Where dice miss a
bug for thousands of runs, a directed schedule (chaos/sim/directed.py) lays it bare instead.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from chaos.sim.runner import Summary, run_seeds
from chaos.sim.settings import SimConfig
from chaos.sim.simulation import SeedResult

CRASHES: Final = frozenset({"crash", "powercut", "restartall", "slowsync"})
NETWORK: Final = frozenset({"latency", "reorder", "stall", "reset", "oneway", "partition"})


@dataclass(frozen=True, slots=True)
class Hunt:
    """Where to look for one canary."""

    faults: frozenset[str]
    seeds: int = 60
    nodes: int = 3
    seconds: float = 30.0
    stuck_counts: bool = False
    """Whether a run that gets stuck is what this bug does."""


CANARIES: Final[dict[str, Hunt]] = {
    "no-write-barrier": Hunt(CRASHES | NETWORK),
    "no-suffix-filter": Hunt(CRASHES | NETWORK),
    "no-backup-rule": Hunt(CRASHES | NETWORK, stuck_counts=True),
    "no-ack-term-check": Hunt(CRASHES | NETWORK),
    "duplicate-votes": Hunt(CRASHES | NETWORK | {"duplicate"}),
    "read-index-without-own-term": Hunt(CRASHES | NETWORK),
    "read-joins-probe-in-flight": Hunt(CRASHES | NETWORK),
    "vote-before-sync": Hunt(CRASHES | NETWORK),
}


@dataclass(frozen=True, slots=True)
class CanaryVerdict:
    canary: str
    caught: bool
    seed: int | None
    text: str
    evidence: tuple[str, ...] = field(default=())


def catch(canary: str, jobs: int) -> CanaryVerdict:
    """Run seeds until the bug shows itself."""
    hunt = CANARIES[canary]
    config = SimConfig(
        seed=0,
        nodes=hunt.nodes,
        seconds=hunt.seconds,
        faults=hunt.faults,
        canaries=frozenset({canary}),
    )
    caught: list[SeedResult] = []

    def each(result: SeedResult, summary: Summary) -> bool:
        if result.violations or (hunt.stuck_counts and result.stuck):
            caught.append(result)
        return not caught

    summary = run_seeds(config, range(hunt.seeds), jobs=jobs, each=each)
    if not caught:
        text = f"{canary}: NOT CAUGHT in {summary.seeds} seeds ({summary.wall_s:.1f} s)"
        return CanaryVerdict(canary, False, None, text)
    result = caught[0]
    violation = (*result.violations, *result.stuck)[0]
    text = (
        f"{canary}: caught at seed {result.seed} by {violation.invariant} "
        f"({summary.seeds} seeds, {summary.wall_s:.1f} s): {violation.message}"
    )
    return CanaryVerdict(canary, True, result.seed, text, violation.details)
