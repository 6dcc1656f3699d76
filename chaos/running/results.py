"""What came of a run: plain values, written as run.json and read again for the reports. Pure.

Times are seconds since the load began.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from statistics import median
from typing import Final

from chaos.history import Result

FORMAT: Final = 1
HELD: Final = "held"
VIOLATED: Final = "violated"
STUCK: Final = "stuck"
FAILOVER_KINDS: Final = frozenset({"kill", "freeze", "power-cut", "partition", "broken-disk"})


@dataclass(slots=True)
class FaultSpan:
    kind: str
    what: str
    at_s: float
    lasted_s: float
    gap_s: float | None = None
    """From when it was in force until the first write was acknowledged that was asked for after
    that."""
    in_force_s: float = 0.0
    """When it was: cutting many links takes a moment, a rolling restart much longer."""


@dataclass(slots=True)
class Second:
    """One bin of the timeline."""

    done: int = 0
    failed: int = 0
    unknown: int = 0
    p50_ms: float | None = None
    p99_ms: float | None = None


@dataclass(slots=True)
class Outcome:
    scenario: str
    about: str
    mode: str
    nodes: int
    seed: int
    minutes: float
    version: str
    verdict: str = STUCK
    started: str = ""
    load_s: float = 0.0
    """Under faults; what follows in the timeline is the calm."""
    counts: dict[str, int] = field(default_factory=dict)
    answers: dict[str, int] = field(default_factory=dict)
    works: dict[str, dict[str, int]] = field(default_factory=dict)
    faults: list[FaultSpan] = field(default_factory=list)
    turned_away: int = 0
    """Faults whose target another one held at that moment."""
    leaders: list[tuple[float, str]] = field(default_factory=list)
    recovery_s: dict[str, float | None] = field(default_factory=dict)
    digest: str = ""
    violations: list[str] = field(default_factory=list)
    seconds: list[Second] = field(default_factory=list)
    p50_ms: float | None = None
    p99_ms: float | None = None
    versions: dict[str, str] = field(default_factory=dict)
    history: str = ""
    """The file's name, beside this one."""
    starved_s: float = 0.0
    """The longest time for which the run itself got no turn: a machine that is too busy looks like
    a slow cluster."""
    machine_load: float = 0.0
    """Processes that wanted a core, on average over the last minutes of the run."""
    shards: list[tuple[float, int]] = field(default_factory=list)
    """When their number was seen to change, and to what."""
    splits: int = 0
    merges: int = 0

    @property
    def operations(self) -> int:
        return sum(self.counts.values())

    @property
    def title(self) -> str:
        return f"{self.scenario}, {self.mode}, {self.nodes} nodes"

    @property
    def failovers_s(self) -> list[float]:
        """Of faults that began while no other one of these kinds was in force: two at once may
        leave no majority, and then the gap is as long as the faults."""
        alone = [
            each
            for each in self.faults
            if each.kind in FAILOVER_KINDS
            and not any(
                other is not each
                and other.kind in FAILOVER_KINDS
                and other.at_s < each.at_s + (each.gap_s or 0.0)
                and each.at_s < other.at_s + other.lasted_s
                for other in self.faults
            )
        ]
        return sorted(each.gap_s for each in alone if each.gap_s is not None)

    def failover_text(self) -> str:
        """Median and worst."""
        found = self.failovers_s
        return f"{median(found):.2f} s, {found[-1]:.2f} s" if found else "-"

    def to_json(self) -> str:
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1)

    @staticmethod
    def from_json(text: str) -> Outcome:
        table = json.loads(text)
        if not isinstance(table, dict) or table.get("format") != FORMAT:
            raise ValueError(f"this is no run of format {FORMAT}")
        known = {each.name for each in fields(Outcome)}
        values = {name: value for name, value in table.items() if name in known}
        values["faults"] = [FaultSpan(**each) for each in table["faults"]]
        values["seconds"] = [Second(**each) for each in table["seconds"]]
        values["leaders"] = [(float(at), str(node)) for at, node in table["leaders"]]
        values["shards"] = [(float(at), int(number)) for at, number in table.get("shards", ())]
        return Outcome(**values)


def timeline(calls: Sequence[tuple[float, float, Result]], began: float) -> list[Second]:
    """`calls`: when each ended, how long it took, what came of it."""
    bins: dict[int, list[tuple[float, Result]]] = {}
    for ended, took_s, result in calls:
        bins.setdefault(max(0, int(ended - began)), []).append((took_s, result))
    return [_second(bins.get(number, [])) for number in range(max(bins, default=-1) + 1)]


def _second(calls: Sequence[tuple[float, Result]]) -> Second:
    counts = {result: sum(each == result for _, each in calls) for result in Result}
    took = [took_s for took_s, result in calls if result is Result.DONE]
    p50, p99 = percentiles(took)
    return Second(counts[Result.DONE], counts[Result.FAILED], counts[Result.UNKNOWN], p50, p99)


def percentiles(took_s: Sequence[float]) -> tuple[float | None, float | None]:
    """p50 and p99 in milliseconds."""
    if not took_s:
        return None, None
    ordered = sorted(took_s)
    return tuple(  # type: ignore[return-value]
        round(ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1e3, 2)
        for share in (0.5, 0.99)
    )


def gaps(
    faults: Sequence[float], acknowledged: Sequence[tuple[float, float]]
) -> list[float | None]:
    """From each moment to the first acknowledgement of a write that was asked for after it."""
    by_asking = sorted(acknowledged)
    earliest: list[float] = [0.0] * len(by_asking)
    best = float("inf")
    for number in range(len(by_asking) - 1, -1, -1):
        best = min(best, by_asking[number][1])
        earliest[number] = best
    asked = [each[0] for each in by_asking]
    found: list[float | None] = []
    for moment in faults:
        at = bisect_right(asked, moment)
        found.append(earliest[at] - moment if at < len(asked) else None)
    return found


def summary_line(outcome: Outcome) -> str:
    verdict = {HELD: "all held", VIOLATED: f"{len(outcome.violations)} VIOLATIONS", STUCK: "STUCK"}
    rate = outcome.counts.get("done", 0) / outcome.load_s if outcome.load_s else 0.0
    return (
        f"{outcome.title}: {verdict[outcome.verdict]}; {outcome.operations} operations "
        f"({rate:.0f} a second done), {len(outcome.faults)} faults, failover (median, worst) "
        f"{outcome.failover_text()}"
    )
