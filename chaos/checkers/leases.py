"""What hangs on a lease stays while the lease is kept, and goes when it is over. Pure.

gone too early   a key is CERTAIN to be there from the answer to its write until the end of what the
                 last answered renewal covers (counted from when that was asked for, less a slack
                 for wrong clocks), or until its end was asked for; its lease is as certain to live.
                 No look or renewal that lies wholly inside may say otherwise
back             what is over stays so: no renewal succeeds that was asked for after somebody was
                 told that the lease, or its key, is gone, or that its end was done; no look shows
                 the key that was asked for after another one did not, nor, where one shard holds
                 both, after the answer that its end was done (elsewhere it goes a moment later)
not gone         after the run, when every lease that was let go is long over, none of their keys
                 are left

A lease that was refused a renewal may keep its keys for a moment: its time was over, and the end of
it has yet to be applied.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Final

from chaos.checkers.violation import Violation

SHOWN: Final = 10

Span = tuple[float, float]
"""(asked, answered)"""


@dataclass(slots=True)
class Kept:
    """One lease with one key."""

    lease: str
    key: str
    written: float
    covered_until: float
    ended: float | None = None
    """When its end was asked for."""
    gone_at: list[Span] = field(default_factory=list)
    """Looks that did not show the key."""
    refused_at: list[Span] = field(default_factory=list)
    """Renewals, or writes under it, that were told that there is no such lease."""
    there_at: list[Span] = field(default_factory=list)
    """Looks that showed the key."""
    renewed_at: list[Span] = field(default_factory=list)
    over: float | None = None
    """When its end was acknowledged."""

    def renewed(self, asked: float, answered: float, covers_s: float) -> None:
        self.renewed_at.append((asked, answered))
        self.covered_until = max(self.covered_until, asked + covers_s)

    @property
    def certain_until(self) -> float:
        return self.covered_until if self.ended is None else min(self.ended, self.covered_until)


def check_leases(
    leases: Sequence[Kept], left_over: Collection[str], *, one_shard: bool = True
) -> list[Violation]:
    """`one_shard`: leases and all of their keys lie in one."""
    found = {
        "gone too early": [line for each in leases for line in _early(each)],
        "back": [line for each in leases for line in _back(each, one_shard)],
        "not gone": [
            f"lease {each.lease}: {each.key} is still there"
            for each in leases
            if each.key in left_over
        ],
    }
    return [
        Violation("leases", f"{rule}: {len(bad)} times", tuple(bad[:SHOWN]))
        for rule, bad in found.items()
        if bad
    ]


def _early(each: Kept) -> list[str]:
    until = each.certain_until
    return [
        f"lease {each.lease}: {what} was gone in [{asked:.6f} .. {answered:.6f}], and it is kept "
        f"from {each.written:.6f} until {until:.6f}"
        for what, spans in ((each.key, each.gone_at), ("itself", each.refused_at))
        for asked, answered in spans
        if asked > each.written and answered < until
    ]


def _back(each: Kept, one_shard: bool) -> list[str]:
    over = inf if each.over is None else each.over
    gone = [answered for asked, answered in each.gone_at if asked > each.written]
    refused = [answered for asked, answered in each.refused_at if asked > each.written]
    key_over = min([*gone, over if one_shard else inf])
    lease_over = min([*gone, *refused, over])
    return [
        f"lease {each.lease}: {what} in [{asked:.6f} .. {answered:.6f}], and it is over since "
        f"{since:.6f}"
        for what, spans, since in (
            (f"{each.key} is there", each.there_at, key_over),
            ("it was renewed", each.renewed_at, lease_over),
        )
        for asked, answered in spans
        if asked > since
    ]
