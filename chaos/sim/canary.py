"""Known bugs, put back one at a time, to prove that the simulation still catches them.

Each canary names a set of faults that provokes it and a bounded number of seeds. Where dice miss a
bug for thousands of runs, a directed schedule (chaos/sim/directed.py) lays it bare instead.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from chaos.sim.directed import SCRIPTS
from chaos.sim.patches import GOVERNED, PATCHED, SERVED
from chaos.sim.runner import Summary, run_seeds
from chaos.sim.settings import SimConfig
from chaos.sim.simulation import SeedResult

CRASHES: Final = frozenset({"crash", "powercut", "restartall", "slowsync"})
NETWORK: Final = frozenset({"latency", "reorder", "stall", "reset", "oneway", "partition"})


@dataclass(frozen=True, slots=True)
class Hunt:
    """Where to look for one canary."""

    faults: frozenset[str]
    seeds: int = 300
    nodes: int = 3
    seconds: float = 30.0
    first: int = 0
    """Seed."""
    groups: int = 2
    dense: bool = False
    stuck_counts: bool = False
    """Whether a run that gets stuck is what this bug does."""


_BANK: Final = frozenset({"bank", "splits", "merges", "crash"})

_DEATHS: Final = frozenset({"deaths", "joins", "crash"})
_SERVED: Final = frozenset({"leases", "moves", "splits", "crash"})
_SOON: Final = {
    "leases-not-renewed": 4,
    "listed-elsewhere": 2,
    "locks-dropped-at-split": 2,
    "phantoms-not-locked": 1,
}
"""Which seed shows it first, where that is not 0."""

HUNTS: Final[dict[str, Hunt]] = {
    "no-write-barrier": Hunt(CRASHES | NETWORK),
    "commit-beside-sync-unsynced": Hunt(CRASHES | NETWORK, first=100),
    "no-suffix-filter": Hunt(CRASHES | NETWORK),
    "no-backup-rule": Hunt(CRASHES | NETWORK, stuck_counts=True),
    "read-index-without-own-term": Hunt(CRASHES | NETWORK),
    "read-joins-probe-in-flight": Hunt(CRASHES | NETWORK),
    "vote-before-sync": Hunt(CRASHES | NETWORK),
    "level-before-all": Hunt(CRASHES | {"upgrade"}),
    "dedupe-not-inherited": Hunt(CRASHES | NETWORK | {"splits"}, first=84),
    "absorb-unchecked": Hunt(CRASHES | NETWORK | {"splits", "merges"}),
    **{
        name: Hunt(
            _BANK,
            seeds=20,
            seconds=18.0,
            first=_SOON.get(name, 0),
            groups=1,
            dense=True,
            stuck_counts=True,
        )
        for name in PATCHED.keys() - SERVED.keys() - GOVERNED.keys()
    },
    **{
        name: Hunt(_SERVED, seeds=20, seconds=20.0, first=_SOON.get(name, 0), stuck_counts=True)
        for name in SERVED
    },
    **{name: Hunt(_DEATHS, seeds=20, seconds=20.0, stuck_counts=True) for name in GOVERNED},
    "locks-dropped-at-merge": Hunt(_BANK, seconds=25.0, first=2, stuck_counts=True),
}


CANARIES: Final = frozenset(HUNTS) | frozenset(SCRIPTS)


@dataclass(frozen=True, slots=True)
class CanaryVerdict:
    canary: str
    caught: bool
    seed: int | None
    text: str
    evidence: tuple[str, ...] = field(default=())


def catch(canary: str, jobs: int) -> CanaryVerdict:
    """Play its script, or run seeds until the bug shows itself."""
    return _play(canary) if canary in SCRIPTS else _hunt(canary, jobs)


def _play(canary: str) -> CanaryVerdict:
    """The script must find the bug, and must find nothing without it."""
    script = SCRIPTS[canary]
    innocent = script(())
    if innocent:
        text = f"{canary}: its directed schedule accuses the correct code: {innocent[0].message}"
        return CanaryVerdict(canary, False, None, text, innocent[0].details)
    found = script({canary})
    if not found:
        return CanaryVerdict(canary, False, None, f"{canary}: NOT CAUGHT by its directed schedule")
    text = f"{canary}: caught by {found[0].invariant} (directed schedule): {found[0].message}"
    return CanaryVerdict(canary, True, None, text, found[0].details)


def _hunt(canary: str, jobs: int) -> CanaryVerdict:
    hunt = HUNTS[canary]
    config = SimConfig(
        seed=0,
        nodes=hunt.nodes,
        groups=hunt.groups,
        dense=hunt.dense,
        seconds=hunt.seconds,
        faults=hunt.faults,
        canaries=frozenset({canary}),
    )
    caught: list[SeedResult] = []

    def each(result: SeedResult, summary: Summary) -> bool:
        if result.violations or (hunt.stuck_counts and result.stuck):
            caught.append(result)
        return not caught

    summary = run_seeds(config, range(hunt.first, hunt.first + hunt.seeds), jobs=jobs, each=each)
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
