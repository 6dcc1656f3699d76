"""Leaderless writes survive, are replaced only by whoever saw them, and all nodes agree. Pure.

Values are unique, so a value names its write. A write carries the context of a read, and `replaced`
says which values that read had shown. `final` is what each node shows of each key at the end, once
nothing changes any more.

converged   every node shows the same
lost        an acknowledged value is there, unless a write that may have happened replaced it
back        a value is not there if a write replaced it that was acknowledged, or whose own value is
            there
nowhere     a value that nobody wrote, or whose write was surely not done, is never shown
session     a client that carries its token sees its own last acknowledged write of a key, or what
            may have replaced it, and nothing that this write, or deletion, had replaced

A write of unknown outcome is whole, too: it cannot have replaced one value while another one that
it replaced is there. So which ones may have happened is told by all of a key's values together.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from chaos.checkers.violation import Violation
from chaos.history import Result

SHOWN: Final = 10
Values = frozenset[str]


@dataclass(slots=True)
class Write:
    """`value` None: a deletion."""

    client: str
    key: str
    value: str | None
    replaced: Values
    asked: float
    answered: float | None = None
    result: Result = Result.UNKNOWN

    def __str__(self) -> str:
        what = f"deletes {sorted(self.replaced)}" if self.value is None else f"writes {self.value}"
        return f"[{self.asked:.6f}] {self.client} {what} on {self.key}, {self.result.value}"


@dataclass(frozen=True, slots=True)
class SessionRead:
    client: str
    key: str
    door: str
    asked: float
    answered: float
    values: Values
    own: str | None
    """This client's last acknowledged value of the key, written before; None: it deleted."""
    gone: Values = frozenset()
    """What that last write or deletion replaced."""


def check_survival(
    writes: Sequence[Write],
    final: Mapping[str, Mapping[str, Values]],
    session_reads: Sequence[SessionRead] = (),
) -> list[Violation]:
    """`final`: by key, by node."""
    replacers: dict[tuple[str, str], list[Write]] = {}
    for write in writes:
        for value in write.replaced:
            if value != write.value:
                replacers.setdefault((write.key, value), []).append(write)
    known = {write.value: write for write in writes if write.value is not None}
    there = {key: frozenset().union(*nodes.values()) for key, nodes in final.items()}
    found = {
        "converged": _differing(final),
        "lost": _lost(writes, there, replacers, _possible(writes, there, replacers)),
        "back": _back(there, replacers),
        "nowhere": _nowhere(there, known),
        "session": _unseen(session_reads, replacers),
    }
    return [
        Violation("survival", f"{rule}: {len(bad)} times", tuple(bad[:SHOWN]))
        for rule, bad in found.items()
        if bad
    ]


def _differing(final: Mapping[str, Mapping[str, Values]]) -> list[str]:
    return [
        f"{key}: " + "; ".join(f"{node} {sorted(values)}" for node, values in sorted(nodes.items()))
        for key, nodes in sorted(final.items())
        if len(set(nodes.values())) > 1
    ]


Replacers = Mapping[tuple[str, str], Sequence[Write]]


def _possible(
    writes: Sequence[Write], there: Mapping[str, Values], replacers: Replacers
) -> set[int]:
    """By `id`, those that may have happened: nothing that they replaced is there, and what they
    wrote is there or was replaced by another one that may have happened."""
    possible = {
        id(write): write
        for write in writes
        if write.result is not Result.FAILED
        and not (write.replaced - {write.value}) & there.get(write.key, frozenset())
    }
    while True:
        out = [
            number
            for number, write in possible.items()
            if write.value is not None
            and write.value not in there.get(write.key, frozenset())
            and not any(id(by) in possible for by in replacers.get((write.key, write.value), ()))
        ]
        if not out:
            return set(possible)
        for number in out:
            del possible[number]


def _lost(
    writes: Sequence[Write],
    there: Mapping[str, Values],
    replacers: Replacers,
    possible: Collection[int],
) -> list[str]:
    bad = []
    for write in writes:
        if write.value is None or write.result is not Result.DONE:
            continue
        if write.value in there.get(write.key, frozenset()):
            continue
        by = replacers.get((write.key, write.value), ())
        if not any(id(each) in possible for each in by):
            bad.append(f"{write}; it is not there, and nobody can have replaced it")
    return bad


def _back(there: Mapping[str, Values], replacers: Replacers) -> list[str]:
    return [
        f"{key}: {value} is there again; {write}"
        for key, values in sorted(there.items())
        for value in sorted(values)
        for write in replacers.get((key, value), ())
        if write.result is Result.DONE or (write.result is Result.UNKNOWN and write.value in values)
    ]


def _nowhere(there: Mapping[str, Values], known: Mapping[str, Write]) -> list[str]:
    bad = []
    for key, values in sorted(there.items()):
        for value in sorted(values):
            write = known.get(value)
            if write is None or write.key != key:
                bad.append(f"{key}: {value} is there, and nobody wrote it")
            elif write.result is Result.FAILED:
                bad.append(f"{key}: {value} is there; {write}")
    return bad


def _unseen(reads: Sequence[SessionRead], replacers: Replacers) -> list[str]:
    bad = []
    for read in reads:
        back = read.gone & read.values
        if back:
            bad.append(
                f"[{read.asked:.6f}] {read.client} at {read.door} sees {sorted(back)} of "
                f"{read.key} again, which it had replaced itself"
            )
        if read.own is None or read.own in read.values:
            continue
        by = replacers.get((read.key, read.own), ())
        if not any(each.result is not Result.FAILED and each.asked < read.answered for each in by):
            bad.append(
                f"[{read.asked:.6f}] {read.client} at {read.door} sees {sorted(read.values)} of "
                f"{read.key}, and not its own {read.own}"
            )
    return bad


def check_counters(
    counts: Mapping[str, tuple[int, int]], final: Mapping[str, Mapping[str, int]]
) -> list[Violation]:
    """`counts`: by counter, how much was acknowledged and how much is of unknown outcome."""
    bad = []
    for key, (certain, unknown) in sorted(counts.items()):
        if certain and not final.get(key):
            bad.append(f"{key}: {certain} was acknowledged, and no node was asked for it")
        for node, value in sorted(final.get(key, {}).items()):
            if not certain <= value <= certain + unknown:
                bad.append(
                    f"{key} is {value} at {node}; {certain} was acknowledged, {unknown} is unknown"
                )
        if len(set(final.get(key, {}).values())) > 1:
            bad.append(f"{key} differs: {dict(final[key])}")
    return [Violation("counters", f"{len(bad)} times", tuple(bad[:SHOWN]))] if bad else []
