"""A lock is held by one at a time, and its token rises from holder to holder. Pure.

A holding is CERTAIN from the answer that granted it until its end was asked for, or until the last
renewal that was answered no longer covers it (counted from when that renewal was asked for, a share
`slack` less, since clocks may run wrong). Outside of that nothing is known.

unique    no token is given twice
rising    a lock asked for after another was granted has the larger token
single    two certain holdings do not overlap
kept      nobody is told inside of its certain holding that it holds the lock no longer
fenced    what was written under a token stands before what was written under a larger one
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from chaos.checkers.violation import Violation

SHOWN: Final = 10


@dataclass(slots=True)
class Holding:
    holder: str
    token: int
    asked: float
    granted: float
    covered_until: float
    """By the last renewal that was answered."""
    ended: float | None = None
    """When its end was asked for."""
    lost_at: list[tuple[float, float]] = field(default_factory=list)
    """(asked, answered) of renewals and guarded writes that were told that it is lost."""

    @property
    def certain_until(self) -> float:
        return self.covered_until if self.ended is None else min(self.ended, self.covered_until)

    def __str__(self) -> str:
        return (
            f"{self.holder} token {self.token}, asked {self.asked:.6f}, granted "
            f"{self.granted:.6f}, certain until {self.certain_until:.6f}"
        )


@dataclass(frozen=True, slots=True)
class Guarded:
    """A write that was done under a token, at this revision."""

    holder: str
    token: int
    revision: int


def check_fencing(holdings: Sequence[Holding], writes: Sequence[Guarded]) -> list[Violation]:
    found = {
        "unique": _doubled(holdings),
        "rising": _falling(holdings),
        "single": _shared(holdings),
        "kept": _lost(holdings),
        "fenced": _late(writes),
    }
    return [
        Violation("fencing", f"{rule}: {len(bad)} times", tuple(bad[:SHOWN]))
        for rule, bad in found.items()
        if bad
    ]


def _doubled(holdings: Sequence[Holding]) -> list[str]:
    seen: dict[int, Holding] = {}
    bad = []
    for each in holdings:
        other = seen.setdefault(each.token, each)
        if other is not each:
            bad.append(f"{each}; and {other}")
    return bad


def _falling(holdings: Sequence[Holding]) -> list[str]:
    bad = []
    granted = sorted(holdings, key=lambda each: each.granted)
    newest: Holding | None = None
    done = 0
    for each in sorted(holdings, key=lambda each: each.asked):
        while done < len(granted) and granted[done].granted < each.asked:
            if newest is None or granted[done].token > newest.token:
                newest = granted[done]
            done += 1
        if newest is not None and each.token <= newest.token:
            bad.append(f"{each}; after {newest}")
    return bad


def _shared(holdings: Sequence[Holding]) -> list[str]:
    bad = []
    before: Holding | None = None
    for each in sorted(holdings, key=lambda each: each.granted):
        if each.certain_until <= each.granted:
            continue
        if before is not None and each.granted < before.certain_until:
            bad.append(f"{each}; while {before}")
        if before is None or each.certain_until > before.certain_until:
            before = each
    return bad


def _lost(holdings: Sequence[Holding]) -> list[str]:
    return [
        f"{each}; told in [{asked:.6f} .. {answered:.6f}] that it is lost"
        for each in holdings
        for asked, answered in each.lost_at
        if each.granted < asked and answered < each.certain_until
    ]


def _late(writes: Sequence[Guarded]) -> list[str]:
    bad = []
    largest: Guarded | None = None
    for write in sorted(writes, key=lambda write: write.revision):
        if largest is not None and write.token < largest.token:
            bad.append(f"{write} behind {largest}")
        if largest is None or write.token > largest.token:
            largest = write
    return bad
