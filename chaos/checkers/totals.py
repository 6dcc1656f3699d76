"""Money is neither made nor lost, and every look at all accounts is of one moment. Pure.

Each account counts its turns: a transfer adds one to both of its accounts. So what a look shows
tells which transfers it has seen, wherever the accounts live; revisions would not, since shards
count their own. Then:

total     every look adds up to what was there at the start, and no account is below zero
whole     every look shows every account
moment    looks are of moments that follow each other: of two, one has seen everything that the
          other has, and two that have seen the same show the same; of a transfer they see both
          turns or none
order     a look that was asked for after another was answered has seen all of that one
lasting   a look that was asked for after a transfer was acknowledged has seen it
sober     with `opened`: what a look shows of an account stood there at the start, or was written at
          that turn by a transfer that had begun and was not refused; no turn was given twice
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

from chaos.checkers.violation import Violation
from chaos.history import Result

SHOWN: Final = 10


@dataclass(frozen=True, slots=True)
class Look:
    node: str
    asked: float
    answered: float
    balances: Mapping[str, int]
    turns: Mapping[str, int]

    @property
    def seen(self) -> int:
        """Rises with every transfer."""
        return sum(self.turns.values())

    def __str__(self) -> str:
        turns = ",".join(str(turn) for _, turn in sorted(self.turns.items()))
        return f"[{self.asked:.6f} .. {self.answered:.6f}] at {self.node}, turns {turns}"


@dataclass(frozen=True, slots=True)
class Transfer:
    """One that was acknowledged, or is of unknown outcome, with the turns that it gave."""

    answered: float
    turns: Mapping[str, int]
    balances: Mapping[str, int] = field(default_factory=dict)
    asked: float = 0.0
    result: Result = Result.DONE


def check_totals(
    looks: Sequence[Look],
    accounts: Sequence[str],
    total: int,
    transfers: Sequence[Transfer] = (),
    *,
    opened: int | None = None,
) -> list[Violation]:
    """`opened`: what each account held at the start."""
    found: dict[str, list[str]] = {"total": [], "whole": []}
    whole = []
    for look in looks:
        if set(look.balances) != set(accounts):
            missing = sorted(set(accounts).symmetric_difference(look.balances))
            found["whole"].append(f"{look}: {', '.join(missing)} should (not) be there")
        else:
            whole.append(look)
        total_seen = sum(look.balances.values())
        if total_seen != total:
            found["total"].append(f"{look}: {total_seen} instead of {total}: {dict(look.balances)}")
        elif min(look.balances.values(), default=0) < 0:
            found["total"].append(f"{look}: an account below zero: {dict(look.balances)}")
    found["moment"] = _torn(whole)
    found["order"] = _older(whole)
    done = [each for each in transfers if each.result is Result.DONE]
    found["lasting"] = _lost(whole, done)
    if not found["moment"]:
        found["moment"] = _halved(whole, _certain(transfers))
    if opened is not None:
        found["sober"] = _from_nowhere(whole, _possible(transfers), opened) + _doubled(done)
    return [
        Violation("totals", f"{rule}: {len(bad)} times", tuple(bad[:SHOWN]))
        for rule, bad in found.items()
        if bad
    ]


def _torn(looks: Sequence[Look]) -> list[str]:
    """Neighbours suffice: what follows is transitive."""
    bad = []
    for older, newer in pairwise(sorted(looks, key=lambda look: look.seen)):
        if older.turns == newer.turns:
            if older.balances != newer.balances:
                bad.append(f"{newer} shows something else than {older}")
        elif any(turn > newer.turns[account] for account, turn in older.turns.items()):
            bad.append(f"{older} and {newer} have each seen what the other has not")
    return bad


def _older(looks: Sequence[Look]) -> list[str]:
    """Sweep: the newest that was answered before each look was asked for."""
    bad = []
    answered = sorted(looks, key=lambda look: look.answered)
    newest: Look | None = None
    done = 0
    for look in sorted(looks, key=lambda look: look.asked):
        while done < len(answered) and answered[done].answered < look.asked:
            if newest is None or answered[done].seen > newest.seen:
                newest = answered[done]
            done += 1
        if newest is not None and look.seen < newest.seen:
            bad.append(f"{look} after {newest}")
    return bad


def _lost(looks: Sequence[Look], transfers: Sequence[Transfer]) -> list[str]:
    """Sweep: the last turn of each account that was acknowledged before each look."""
    bad = []
    waiting = sorted(transfers, key=lambda transfer: transfer.answered)
    certain: dict[str, int] = {}
    done = 0
    for look in sorted(looks, key=lambda look: look.asked):
        while done < len(waiting) and waiting[done].answered < look.asked:
            for account, turn in waiting[done].turns.items():
                certain[account] = max(turn, certain.get(account, 0))
            done += 1
        late = {each: turn for each, turn in certain.items() if look.turns[each] < turn}
        if late:
            bad.append(f"{look} has not seen {late}, which was acknowledged before")
    return bad


def _possible(transfers: Sequence[Transfer]) -> list[Transfer]:
    """Without those of unknown outcome whose turn another one was given for certain."""
    given = {
        turn for each in transfers if each.result is Result.DONE for turn in each.turns.items()
    }
    return [
        each
        for each in transfers
        if each.result is Result.DONE or given.isdisjoint(each.turns.items())
    ]


def _certain(transfers: Sequence[Transfer]) -> list[Transfer]:
    """Those of which it is known that they gave their turns, if somebody did."""
    possible = _possible(transfers)
    claims = Counter(turn for transfer in possible for turn in transfer.turns.items())
    return [each for each in possible if all(claims[turn] == 1 for turn in each.turns.items())]


def _halved(looks: Sequence[Look], transfers: Sequence[Transfer]) -> list[str]:
    """Along looks that follow each other, both turns of a transfer are first seen by the same."""
    order = sorted(looks, key=lambda look: look.seen)
    accounts = order[0].turns if order else ()
    turns = {account: [look.turns[account] for look in order] for account in accounts}
    bad = []
    for transfer in transfers:
        first = {
            bisect_left(turns[account], turn)
            for account, turn in transfer.turns.items()
            if account in turns
        }
        if len(first) > 1:
            bad.append(f"{order[min(first)]} has seen one half of {dict(transfer.turns)}")
    return bad


def _from_nowhere(looks: Sequence[Look], transfers: Sequence[Transfer], opened: int) -> list[str]:
    begun: dict[tuple[str, int, int], float] = {}
    """When what stands at a turn of an account can have been written at the earliest."""
    for transfer in transfers:
        for account, turn in transfer.turns.items():
            place = account, turn, transfer.balances[account]
            begun[place] = min(transfer.asked, begun.get(place, transfer.asked))
    bad = []
    for look in looks:
        for account, turn in look.turns.items():
            balance = look.balances[account]
            since = begun.get((account, turn, balance))
            at_start = (turn, balance) == (0, opened)
            if not at_start and (since is None or since > look.answered):
                bad.append(f"{look}: nobody had written {balance} at turn {turn} of {account}")
    return bad


def _doubled(done: Sequence[Transfer]) -> list[str]:
    counts = Counter(turn for transfer in done for turn in transfer.turns.items())
    return [
        f"turn {turn} of {account} was given to {count} transfers"
        for (account, turn), count in sorted(counts.items())
        if count > 1
    ]
