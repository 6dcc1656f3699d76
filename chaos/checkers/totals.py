"""Money is neither made nor lost, and every look at all accounts is of one moment. Pure.

A look reads all accounts at one revision. Then:

total     every look adds up to what was there at the start, and no account is below zero
whole     every look shows every account
moment    two looks at one revision show the same
order     a look that was asked for after another was answered is not older
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from chaos.checkers.violation import Violation

SHOWN: Final = 10


@dataclass(frozen=True, slots=True)
class Look:
    node: str
    asked: float
    answered: float
    revision: int
    balances: Mapping[str, int]

    def __str__(self) -> str:
        return f"[{self.asked:.6f} .. {self.answered:.6f}] at {self.node}, revision {self.revision}"


def check_totals(looks: Sequence[Look], accounts: Sequence[str], total: int) -> list[Violation]:
    found: dict[str, list[str]] = {"total": [], "whole": [], "moment": [], "order": []}
    at_revision: dict[int, Look] = {}
    for look in looks:
        if set(look.balances) != set(accounts):
            missing = sorted(set(accounts).symmetric_difference(look.balances))
            found["whole"].append(f"{look}: {', '.join(missing)} should (not) be there")
        total_seen = sum(look.balances.values())
        if total_seen != total:
            found["total"].append(f"{look}: {total_seen} instead of {total}: {dict(look.balances)}")
        elif min(look.balances.values(), default=0) < 0:
            found["total"].append(f"{look}: an account below zero: {dict(look.balances)}")
        same = at_revision.setdefault(look.revision, look)
        if same.balances != look.balances:
            found["moment"].append(f"{look} shows something else than {same}")
    found["order"] = _older(looks)
    return [
        Violation("totals", f"{rule}: {len(bad)} times", tuple(bad[:SHOWN]))
        for rule, bad in found.items()
        if bad
    ]


def _older(looks: Sequence[Look]) -> list[str]:
    """Sweep: the newest revision that was answered before each look was asked for."""
    bad = []
    answered = sorted(looks, key=lambda look: look.answered)
    newest: Look | None = None
    done = 0
    for look in sorted(looks, key=lambda look: look.asked):
        while done < len(answered) and answered[done].answered < look.asked:
            if newest is None or answered[done].revision > newest.revision:
                newest = answered[done]
            done += 1
        if newest is not None and look.revision < newest.revision:
            bad.append(f"{look} after {newest}")
    return bad
