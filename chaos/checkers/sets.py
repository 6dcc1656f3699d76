"""A set that only grows: nothing acknowledged is missing, nothing comes from nowhere. Pure.

complete   a look that was asked for after an add was acknowledged shows its member
sober      a look shows only members whose add was asked for before it was answered, and never one
           whose add was surely not done
lasting    what a look has shown, every look that is asked for after its answer shows

Every member is added once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from chaos.checkers.violation import Violation
from chaos.history import Result

SHOWN: Final = 10


@dataclass(slots=True)
class Add:
    member: str
    asked: float
    answered: float | None = None
    result: Result = Result.UNKNOWN


@dataclass(frozen=True, slots=True)
class SetLook:
    node: str
    asked: float
    answered: float
    members: frozenset[str]

    def __str__(self) -> str:
        return f"[{self.asked:.6f} .. {self.answered:.6f}] at {self.node}"


def check_set(adds: Sequence[Add], looks: Sequence[SetLook]) -> list[Violation]:
    found: dict[str, list[str]] = {"complete": [], "sober": [], "lasting": []}
    known = {add.member: add for add in adds}
    promised: dict[str, tuple[float, str]] = {}
    """Of each member the earliest moment from which it must be seen, and why."""
    for add in adds:
        if add.result is Result.DONE and add.answered is not None:
            promised[add.member] = (add.answered, "complete")
    for look in looks:
        for member in look.members:
            if member not in promised or look.answered < promised[member][0]:
                promised[member] = (look.answered, "lasting")
    for look in looks:
        for member, (since, rule) in promised.items():
            if since < look.asked and member not in look.members:
                found[rule].append(f"{look}: {member} is missing, certain since {since:.6f}")
        for member in look.members:
            origin = known.get(member)
            if origin is None or origin.asked > look.answered:
                found["sober"].append(f"{look}: nobody had added {member}")
            elif origin.result is Result.FAILED:
                found["sober"].append(f"{look}: {member} is there, and its add was refused")
    return [
        Violation("set", f"{rule}: {len(bad)} times", tuple(bad[:SHOWN]))
        for rule, bad in found.items()
        if bad
    ]
