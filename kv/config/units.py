"""The kinds of values that have a unit: times and sizes. Pure.

Units stand in the value: times are written "500 ms", "2 s", "1 h 30 min" and become seconds; sizes
are written "1.5 MiB" or as plain numbers of bytes. A plain number for a time is refused, because
nobody can tell which unit was meant. Sums are exact decimals until the end, so what is written out
by `duration_text` and `size_text` is read as the same value.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from kv.config.values import INTEGER, BadValue, complaint, shown, toml_string
from storage.rocks_options import GIB, KIB, MIB

TIB: Final = 1024 * GIB
DURATION_UNITS: Final = {
    "us": Decimal("0.000001"),
    "ms": Decimal("0.001"),
    "s": Decimal(1),
    "m": Decimal(60),
    "min": Decimal(60),
    "h": Decimal(3600),
    "d": Decimal(86400),
}
SIZE_UNITS: Final = {
    "B": 1,
    "kB": 1000,
    "KB": 1000,
    "MB": 1000**2,
    "GB": 1000**3,
    "TB": 1000**4,
    "KiB": KIB,
    "MiB": MIB,
    "GiB": GIB,
    "TiB": TIB,
}
_QUANTITY: Final = re.compile(r"([0-9]{1,20}(?:\.[0-9]{1,9})?)\s*([A-Za-z]+)")


@dataclass(frozen=True, slots=True)
class Duration:
    """Seconds. Written with a unit."""

    least_s: float
    most_s: float
    zero_means: str = ""
    """Zero is allowed besides the range and means this."""

    @property
    def says(self) -> str:
        zero = f', or "0 s" for {self.zero_means}' if self.zero_means else ""
        least, most = duration_text(self.least_s), duration_text(self.most_s)
        return f'a time with its unit, "{least}" to "{most}"{zero}'

    def read(self, value: object) -> float:
        if isinstance(value, int | float) and not isinstance(value, bool):
            raise BadValue(
                f"is {shown(value)} without a unit; write {toml_string(f'{shown(value)} ms')} or "
                f"{toml_string(f'{shown(value)} s')}, whichever is meant"
            )
        if not isinstance(value, str):
            raise complaint(value, self)
        return self.read_text(value)

    def read_text(self, text: str) -> float:
        total = _sum_of(text, DURATION_UNITS)
        if total is None:
            raise BadValue(f"is {shown(text)}, which is no time; write {self.says}")
        seconds = float(total)
        if self.zero_means and seconds == 0:
            return 0.0
        if not self.least_s <= seconds <= self.most_s:
            raise complaint(text, self)
        return seconds

    def render(self, value: float) -> str:
        return toml_string(duration_text(value))


@dataclass(frozen=True, slots=True)
class Size:
    """Bytes. Written with a unit or as a plain number of bytes."""

    least: int
    most: int
    auto: str = ""
    """The word "auto" is allowed, gives None, and means this."""
    zero_means: str = ""

    @property
    def says(self) -> str:
        auto = f', or "auto" for {self.auto}' if self.auto else ""
        zero = f", or 0 for {self.zero_means}" if self.zero_means else ""
        return f'a size, "{size_text(self.least)}" to "{size_text(self.most)}"{auto}{zero}'

    def read(self, value: object) -> int | None:
        if isinstance(value, str):
            return self.read_text(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise complaint(value, self)
        return self._checked(value, value)

    def read_text(self, text: str) -> int | None:
        stripped = text.strip()
        if self.auto and stripped == "auto":
            return None
        if INTEGER.fullmatch(stripped):
            return self._checked(int(stripped.replace("_", "")), text)
        total = _sum_of(text, SIZE_UNITS)
        if total is None:
            raise BadValue(f"is {shown(text)}, which is no size; write {self.says}")
        if total != int(total):
            raise BadValue(
                f"is {shown(text)}, which is no whole number of bytes; write {self.says}"
            )
        return self._checked(int(total), text)

    def _checked(self, size_bytes: int, written: object) -> int:
        if self.zero_means and size_bytes == 0:
            return 0
        if not self.least <= size_bytes <= self.most:
            raise complaint(written, self)
        return size_bytes

    def render(self, value: int | None) -> str:
        return toml_string("auto" if value is None else size_text(value)) if value != 0 else "0"


def _sum_of(text: str, units: dict[str, Any]) -> Decimal | None:
    """The quantities of a text added up ("1 h 30 min"), or None if it is anything else."""
    rest, total = text.strip(), None
    if len(rest) > 64:
        return None
    while rest:
        found = _QUANTITY.match(rest)
        if found is None or found[2] not in units:
            return None
        total = (total or Decimal(0)) + Decimal(found[1]) * units[found[2]]
        rest = rest[found.end() :].lstrip()
    return total


def duration_text(seconds: float) -> str:
    """The shortest exact way to write it."""
    assert math.isfinite(seconds)
    assert seconds >= 0
    exact = Decimal(repr(seconds))
    if exact == 0:
        return "0 s"
    for unit in ("d", "h", "min", "s", "ms", "us"):
        count = exact / DURATION_UNITS[unit]
        if count == int(count) and (unit != "min" or count < 1000):
            return f"{int(count)} {unit}"
    return f"{exact:f} s"


def size_text(size_bytes: int) -> str:
    """The shortest exact way to write it; quarters of a unit may show, as in 1.5 MiB."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        quarters, left = divmod(4 * size_bytes, SIZE_UNITS[unit])
        if quarters >= 4 and left == 0:
            return f"{quarters // 4}{('', '.25', '.5', '.75')[quarters % 4]} {unit}"
    return f"{size_bytes} B"
