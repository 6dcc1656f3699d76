"""Charts as SVG text. Pure: numbers in, text out.

All charts of a page share one time axis (`Axis`), so bands and marks stand under each other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

WIDTH: Final = 1080
LEFT: Final = 106
"""Room for the longest name of a fault."""
RIGHT: Final = 12
TOP: Final = 10
BOTTOM: Final = 22


@dataclass(frozen=True, slots=True)
class Band:
    start_s: float
    end_s: float
    label: str
    css: str = "band"


@dataclass(frozen=True, slots=True)
class Mark:
    at_s: float
    label: str


@dataclass(frozen=True, slots=True)
class Series:
    """One value a second; None where there is none."""

    name: str
    css: str
    values: Sequence[float | None]


@dataclass(frozen=True, slots=True)
class Axis:
    seconds: float

    def x(self, at_s: float) -> float:
        inside = min(max(at_s, 0.0), self.seconds)
        return LEFT + (WIDTH - LEFT - RIGHT) * inside / max(1e-9, self.seconds)

    def ticks(self) -> list[float]:
        step = next(
            (
                each
                for each in (1, 2, 5, 10, 20, 30, 60, 120, 300, 600)
                if self.seconds / each <= 12
            ),
            1800,
        )
        return [step * number for number in range(int(self.seconds // step) + 1)]


def _open(height: int, label: str) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(label)}" '
        'preserveAspectRatio="none" class="chart">'
    )


def _grid(axis: Axis, height: int) -> list[str]:
    parts = []
    for at_s in axis.ticks():
        x = axis.x(at_s)
        parts.append(
            f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{height - BOTTOM}"/>'
        )
        text = f"{int(at_s) // 60}:{int(at_s) % 60:02}"
        parts.append(
            f'<text class="tick" x="{x:.1f}" y="{height - 6}" text-anchor="middle">{text}</text>'
        )
    return parts


def _bands(axis: Axis, height: int, bands: Sequence[Band]) -> list[str]:
    return [
        f'<rect class="{band.css}" x="{axis.x(band.start_s):.1f}" y="{TOP}" '
        f'width="{max(1.5, axis.x(band.end_s) - axis.x(band.start_s)):.1f}" '
        f'height="{height - TOP - BOTTOM}"><title>{escape(band.label)}</title></rect>'
        for band in bands
    ]


def _marks(axis: Axis, height: int, marks: Sequence[Mark]) -> list[str]:
    return [
        f'<line class="mark" x1="{axis.x(mark.at_s):.1f}" x2="{axis.x(mark.at_s):.1f}" y1="{TOP}" '
        f'y2="{height - BOTTOM}"><title>{escape(mark.label)}</title></line>'
        for mark in marks
    ]


class _Scale:
    """Of the values: linear from 0, or logarithmic between powers of ten."""

    def __init__(self, height: int, values: Sequence[float], *, logarithmic: bool) -> None:
        self._height = height
        self._log = logarithmic
        most = max(values, default=1.0)
        if logarithmic:
            least = min((each for each in values if each > 0), default=0.1)
            self._low = float(math.floor(math.log10(least)))
            self._high = max(self._low + 1, math.ceil(math.log10(max(most, 1e-9))))
        else:
            self._low, self._high = 0.0, nice_ceiling(most)

    def y(self, value: float) -> float:
        at = math.log10(max(value, 10.0**self._low)) if self._log else value
        share = (at - self._low) / (self._high - self._low)
        return TOP + (self._height - TOP - BOTTOM) * (1 - min(max(share, 0.0), 1.0))

    def lines(self, unit: str) -> list[str]:
        if self._log:
            values = [10.0**power for power in range(int(self._low), int(self._high) + 1)]
        else:
            values = [self._high * number / 4 for number in range(5)]
        parts = []
        for value in values:
            y = self.y(value)
            parts.append(
                f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            )
            text = f"{value:g}{unit}"
            parts.append(
                f'<text class="tick" x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{text}</text>'
            )
        return parts


def nice_ceiling(value: float) -> float:
    """The next of 1, 2, 5, 10, 20, ... that is not below it."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1.0, 2.0, 5.0, 10.0) if value <= step * power)


def lines_chart(
    axis: Axis,
    series: Sequence[Series],
    bands: Sequence[Band],
    marks: Sequence[Mark],
    *,
    height: int = 190,
    unit: str = "",
    logarithmic: bool = False,
    filled: bool = False,
) -> str:
    values = [each for line in series for each in line.values if each is not None]
    scale = _Scale(height, values, logarithmic=logarithmic)
    parts = [_open(height, ", ".join(each.name for each in series))]
    parts += _bands(axis, height, bands)
    parts += _grid(axis, height) + scale.lines(unit)
    for line in series:
        for run in _runs(line.values):
            points = [(axis.x(second + 0.5), scale.y(value)) for second, value in run]
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
            if filled:
                floor = height - BOTTOM
                area = f"{points[0][0]:.1f},{floor} {path} {points[-1][0]:.1f},{floor}"
                parts.append(f'<polygon class="area {line.css}" points="{area}"/>')
            parts.append(f'<polyline class="line {line.css}" points="{path}"/>')
    parts += _marks(axis, height, marks)
    return "".join([*parts, "</svg>"])


def _runs(values: Sequence[float | None]) -> list[list[tuple[int, float]]]:
    """Parts without a hole."""
    runs: list[list[tuple[int, float]]] = [[]]
    for second, value in enumerate(values):
        if value is None:
            runs.append([])
        else:
            runs[-1].append((second, value))
    return [run for run in runs if run]


def bars_chart(
    axis: Axis,
    series: Sequence[Series],
    bands: Sequence[Band],
    marks: Sequence[Mark],
    *,
    height: int = 110,
) -> str:
    """Stacked, a bar a second."""
    sums = [
        sum(each or 0 for each in column)
        for column in zip(*(s.values for s in series), strict=True)
    ]
    scale = _Scale(height, sums or [1.0], logarithmic=False)
    parts = [_open(height, ", ".join(each.name for each in series))]
    parts += _bands(axis, height, bands)
    parts += _grid(axis, height) + scale.lines("")
    width = max(1.0, axis.x(1) - axis.x(0) - 1)
    for second in range(len(sums)):
        below = 0.0
        for line in series:
            value = line.values[second] or 0.0
            if value:
                top, floor = scale.y(below + value), scale.y(below)
                parts.append(
                    f'<rect class="bar {line.css}" x="{axis.x(second):.1f}" y="{top:.1f}" '
                    f'width="{width:.1f}" height="{floor - top:.1f}"><title>{value:g} '
                    f"{escape(line.name)}</title></rect>"
                )
                below += value
    parts += _marks(axis, height, marks)
    return "".join([*parts, "</svg>"])


def lanes_chart(axis: Axis, lanes: Sequence[tuple[str, Sequence[Band]]]) -> str:
    """A row a lane; the label of a band stands in it where it fits."""
    row = 24
    height = TOP + row * len(lanes) + BOTTOM
    parts = [_open(height, "who led, and what was broken"), *_grid(axis, height)]
    for number, (name, bands) in enumerate(lanes):
        y = TOP + row * number
        parts.append(
            f'<text class="tick" x="{LEFT - 6}" y="{y + 16}" text-anchor="end">'
            f"{escape(name)}</text>"
        )
        for band in bands:
            x, end = axis.x(band.start_s), axis.x(band.end_s)
            wide = max(2.0, end - x)
            parts.append(
                f'<rect class="lane {band.css}" x="{x:.1f}" y="{y + 3}" width="{wide:.1f}" '
                f'height="{row - 6}" rx="3"><title>{escape(band.label)}</title></rect>'
            )
            short = band.label.split(",")[0]
            if wide > 6.4 * len(short):
                parts.append(
                    f'<text class="inside" x="{x + 5:.1f}" y="{y + 16}">{escape(short)}</text>'
                )
    return "".join([*parts, "</svg>"])
