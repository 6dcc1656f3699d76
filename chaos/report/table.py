"""The runs as a table in Markdown, as README has it. Pure.

One row for each scenario, regime and number of nodes; of several runs the newest counts, whatever
came of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Final

from chaos.running.results import HELD, Outcome
from chaos.scenarios.scenario import Scenario

TITLES: Final = (
    "scenario",
    "regime, nodes",
    "operations (unknown outcome)",
    "faults",
    "failover: median, worst",
    "verdict",
)
Run = tuple[str, str, int]
"""Scenario, mode, nodes."""


def run_of(outcome: Outcome) -> Run:
    return outcome.scenario, outcome.mode, outcome.nodes


def newest(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """One each, in order of their names."""
    found: dict[Run, Outcome] = {}
    for each in sorted(outcomes, key=lambda each: each.started):
        found[run_of(each)] = each
    return [found[run] for run in sorted(found)]


def missing(outcomes: Iterable[Outcome], scenarios: Mapping[str, Scenario]) -> list[str]:
    """What `chaos run --all` would run, and is not there."""
    there = {run_of(each) for each in outcomes}
    return [
        f"{scenario.name}-{mode}-{nodes}"
        for scenario in scenarios.values()
        for mode, sizes in scenario.sizes.items()
        for nodes in sizes
        if (scenario.name, mode, nodes) not in there
    ]


def markdown_table(outcomes: Sequence[Outcome]) -> str:
    lines = [_line(TITLES), "|---" * len(TITLES) + "|"]
    lines += [_line(_cells(each)) for each in outcomes]
    return "\n".join(lines)


def totals_line(outcomes: Sequence[Outcome]) -> str:
    held = sum(each.verdict == HELD for each in outcomes)
    loads = [each.machine_load for each in outcomes]
    return (
        f"{held} of {len(outcomes)} runs held: {sum(each.operations for each in outcomes):,} "
        f"operations, {sum(len(each.faults) for each in outcomes):,} faults. Processes that wanted "
        f"a core, in the median run and in the busiest: {median(loads):.1f}, {max(loads):.1f}."
    )


def _cells(outcome: Outcome) -> tuple[str, ...]:
    about = outcome.about.rstrip(".").replace("|", "\\|")
    unknown = outcome.counts.get("unknown", 0)
    return (
        f"{outcome.scenario}, {outcome.minutes:g} min: {about}",
        f"{outcome.mode}, {outcome.nodes}",
        f"{outcome.operations:,} ({unknown:,})",
        f"{len(outcome.faults)}",
        outcome.failover_text(),
        outcome.verdict,
    )


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
