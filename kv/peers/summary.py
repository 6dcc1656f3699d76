"""What the rounds say: medians, ratios, and whether what was wished for holds. Pure.

A median is that of the rounds that are results; beside it stands how many of all they were.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, Final

from kv.load.plan import Operation
from kv.peers.cells import Cell

JANUSKV: Final = "januskv"
ETCD: Final = "etcd"
WISHED_RATIO: Final = {
    (Operation.PUT, 64): 2.0,
    (Operation.PUT, 256): 2.0,
    (Operation.GET, 64): 5.0,
    (Operation.GET, 256): 5.0,
}
WISHED_P99_US: Final = {(Operation.PUT, 64): 20_000, (Operation.GET, 64): 10_000}
OTHER_CORES_MAX: Final = 0.3
"""The kernel's own work for disk and network is a part of it, so it is never 0."""
WISHED_P50_NOT_ABOVE_ETCD: Final = ((Operation.PUT, 1),)


@dataclass(frozen=True, slots=True)
class Figures:
    """Medians over the rounds of one system under one load, where nothing else is said."""

    per_second: float
    p50_us: float
    p99_us: float
    node_cpu_us: float
    other_cores: float
    """The most that it was in a round."""
    busy_rounds: int
    """In which it was more than OTHER_CORES_MAX."""
    rounds: int
    good_rounds: int
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Row:
    operation: Operation
    target: str
    connections: int
    generator: str
    figures: dict[str, Figures]
    """By system; one without a good round is only known by its problems."""

    @property
    def ratio(self) -> float | None:
        """JanusKV's throughput divided by etcd's."""
        ours, theirs = self._both()
        return ours.per_second / theirs.per_second if ours and theirs else None

    def wishes(self) -> Iterator[tuple[bool, str]]:
        """(it holds, what was wished), of those that could be judged."""
        ours, theirs = self._both()
        at = (self.operation, self.connections)
        if (wished := WISHED_RATIO.get(at)) and self.ratio is not None:
            yield self.ratio >= wished, f"ratio {wished:.0f}"
        if at in WISHED_P50_NOT_ABOVE_ETCD and ours and theirs:
            yield ours.p50_us <= theirs.p50_us, "p50 not above etcd's"
        if (most_us := WISHED_P99_US.get(at)) and ours:
            yield ours.p99_us < most_us, f"p99 under {most_us // 1_000} ms"

    def _both(self) -> tuple[Figures | None, Figures | None]:
        ours, theirs = self.figures.get(JANUSKV), self.figures.get(ETCD)
        return (
            ours if ours and ours.good_rounds else None,
            theirs if theirs and theirs.good_rounds else None,
        )

    def as_json(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "ratio": self.ratio,
            "wishes": [{"holds": holds, "wished": wished} for holds, wished in self.wishes()],
        }


def rows(cells: Sequence[Cell]) -> list[Row]:
    """One a load, in the order in which they were measured, puts first."""
    loads = dict.fromkeys((cell.operation, cell.target, cell.connections) for cell in cells)
    found = []
    for load in sorted(loads, key=lambda load: load[0] is not Operation.PUT):
        of_load = [c for c in cells if (c.operation, c.target, c.connections) == load]
        systems = dict.fromkeys(cell.system for cell in of_load)
        figures = {
            system: _figures([cell for cell in of_load if cell.system == system])
            for system in systems
        }
        found.append(Row(*load, of_load[0].generator, figures))
    return found


def _figures(cells: Sequence[Cell]) -> Figures:
    good = [cell for cell in cells if cell.problem is None]
    return Figures(
        per_second=median(cell.per_second for cell in good) if good else 0.0,
        p50_us=median(cell.p50_us for cell in good) if good else 0.0,
        p99_us=median(cell.p99_us for cell in good) if good else 0.0,
        node_cpu_us=median(cell.node_cpu_us for cell in good) if good else 0.0,
        other_cores=max((cell.other_cores for cell in cells), default=0.0),
        busy_rounds=sum(cell.other_cores > OTHER_CORES_MAX for cell in cells),
        rounds=len(cells),
        good_rounds=len(good),
        problems=tuple(dict.fromkeys(cell.problem for cell in cells if cell.problem)),
    )
