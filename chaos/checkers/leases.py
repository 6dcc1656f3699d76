"""What hangs on a lease stays while the lease is kept, and goes when it is let go. Pure.

A key is CERTAIN to be there from the answer to its write until the end of what the last answered
renewal covers (counted from when that was asked for, less a slack for wrong clocks), or until its
end was asked for. A look that lies wholly inside must show it. After the run, when every lease that
was let go is long over, none of their keys may be left.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Final

from chaos.checkers.violation import Violation

SHOWN: Final = 10


@dataclass(slots=True)
class Kept:
    """One lease with one key."""

    lease: str
    key: str
    written: float
    covered_until: float
    ended: float | None = None
    gone_at: list[tuple[float, float]] = field(default_factory=list)
    """(asked, answered) of looks, or renewals, that said that it is not there."""


def check_leases(leases: Sequence[Kept], left_over: Collection[str]) -> list[Violation]:
    early, late = [], []
    for each in leases:
        until = each.covered_until if each.ended is None else min(each.ended, each.covered_until)
        early += [
            f"lease {each.lease}: {each.key} was gone in [{asked:.6f} .. {answered:.6f}], and it "
            f"is kept from {each.written:.6f} until {until:.6f}"
            for asked, answered in each.gone_at
            if asked > each.written and answered < until
        ]
        if each.key in left_over:
            late.append(f"lease {each.lease}: {each.key} is still there")
    return [
        Violation("leases", f"{rule}: {len(bad)} times", tuple(bad[:SHOWN]))
        for rule, bad in (("gone too early", early), ("not gone", late))
        if bad
    ]
