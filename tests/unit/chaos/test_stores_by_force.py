"""The checkers of transfers, transactions, sessions, listings and of what survives, against judges
that try every order, and every choice of what happened of the writes of unknown outcome."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, permutations

from hypothesis import event, given
from hypothesis import strategies as st

from chaos.checkers.listings import check_order
from chaos.checkers.serializable import Transaction, check_serializable
from chaos.checkers.sessions import Seen, check_sessions
from chaos.checkers.survival import Write, check_survival
from chaos.checkers.totals import Look, Transfer, check_totals
from chaos.history import Result

DONE, FAILED, UNKNOWN = Result.DONE, Result.FAILED, Result.UNKNOWN

# --- totals: an order of transfers and looks explains what the looks show ------------------------

ACCOUNTS = ("a", "b", "c")
OPENED = 5
TOTAL = OPENED * len(ACCOUNTS)
Step = Transfer | Look


def ends(step: Step) -> float:
    return 1e9 if isinstance(step, Transfer) and step.result is UNKNOWN else step.answered


def has_order(steps: Sequence[Step]) -> bool:
    """By force; nothing comes before what ended before it began."""
    return any(
        _plays(order) and not any(ends(b) < a.asked for a, b in combinations(order, 2))
        for order in permutations(steps)
    )


def _plays(order: Sequence[Step]) -> bool:
    turns, balances = dict.fromkeys(ACCOUNTS, 0), dict.fromkeys(ACCOUNTS, OPENED)
    for step in order:
        if isinstance(step, Look):
            if (step.turns, step.balances) != (turns, balances):
                return False
        elif any(turns[account] + 1 != turn for account, turn in step.turns.items()):
            return False
        else:
            turns |= step.turns
            balances |= step.balances
    return True


def is_bank(looks: Sequence[Look], transfers: Sequence[Transfer]) -> bool:
    certain = [each for each in transfers if each.result is DONE]
    open_ones = [each for each in transfers if each.result is UNKNOWN]
    return any(
        has_order([*looks, *certain, *some])
        for count in range(len(open_ones) + 1)
        for some in combinations(open_ones, count)
    )


@st.composite
def banks(draw: st.DrawFn) -> tuple[list[Look], list[Transfer]]:
    """One after the other, with answers that come late; the last look shows everything."""
    turns, balances = dict.fromkeys(ACCOUNTS, 0), dict.fromkeys(ACCOUNTS, OPENED)
    looks, transfers = [], []
    for number in range(draw(st.integers(1, 4))):
        asked, answered = 2.0 * number - draw(st.integers(0, 3)), 2.0 * number + 1
        if number % 2:
            looks.append(Look("n1", asked, answered, dict(balances), dict(turns)))
            continue
        source, target = draw(st.permutations(ACCOUNTS))[:2]
        amount = draw(st.integers(min(1, balances[source]), balances[source]))
        given_turns = {source: turns[source] + 1, target: turns[target] + 1}
        after = {source: balances[source] - amount, target: balances[target] + amount}
        result = draw(st.sampled_from([DONE, DONE, UNKNOWN]))
        if result is DONE or draw(st.booleans()):
            turns |= given_turns
            balances |= after
        transfers.append(Transfer(answered, given_turns, after, asked, result))
    looks.append(Look("n1", 20, 21, dict(balances), dict(turns)))
    return looks, transfers


def shift(draw: st.DrawFn, look: Look) -> Look:
    """Looks lie."""
    what = draw(st.sampled_from(["turn", "money", "made", "times"]))
    account = draw(st.sampled_from(ACCOUNTS))
    if what == "turn":
        turn = max(0, look.turns[account] + draw(st.sampled_from([-1, 1])))
        return replace(look, turns={**look.turns, account: turn})
    if what == "times":
        asked = look.asked + draw(st.integers(-6, 6))
        return replace(look, asked=asked, answered=asked + draw(st.integers(1, 3)))
    other = draw(st.sampled_from(ACCOUNTS))
    balances = dict(look.balances)
    balances[account] += 1
    if what == "money":
        balances[other] -= 1
    return replace(look, balances=balances)


def accuses(looks: Sequence[Look], transfers: Sequence[Transfer]) -> bool:
    return check_totals(looks, ACCOUNTS, TOTAL, transfers, opened=OPENED) != []


@given(banks(), st.data())
def test_transfers_are_judged_as_by_force(
    bank: tuple[list[Look], list[Transfer]], data: st.DataObject
) -> None:
    looks, transfers = bank
    assert is_bank(looks, transfers)
    assert not accuses(looks, transfers)
    at = data.draw(st.integers(0, len(looks) - 1))
    looks[at] = shift(data.draw, looks[at])
    event(f"good: {is_bank(looks, transfers)}")
    assert accuses(looks, transfers) == (not is_bank(looks, transfers)), bank


# --- serializable: an order of all transactions explains every version that was read -------------


def explains(order: Sequence[Transaction]) -> bool:
    """Versions without a writer among these may have been made at any moment."""
    if any(b.ended < a.began for a, b in combinations(order, 2)):
        return False
    for at, each in enumerate(order):
        earlier = order[:at]
        for key, version in each.writes.items():
            if any(other.writes.get(key, 0) >= version for other in earlier):
                return False
        for key, version in each.reads.items():
            if any(other.writes.get(key, 0) > version for other in earlier):
                return False
            if any(0 < other.writes.get(key, 0) <= version for other in order[at:]):
                return False
    return True


@st.composite
def transactions(draw: st.DrawFn) -> list[Transaction]:
    versions = st.dictionaries(st.sampled_from("ab"), st.integers(0, 3), max_size=2)
    made = []
    for number in range(draw(st.integers(1, 4))):
        began = draw(st.integers(0, 6))
        reads, writes = draw(versions), draw(versions)
        writes = {key: version for key, version in writes.items() if version}
        ended = began + draw(st.integers(1, 6))
        made.append(Transaction(f"t{number}", began, ended, reads, writes))
    return made


@given(transactions())
def test_transactions_are_judged_as_by_force(made: list[Transaction]) -> None:
    possible = any(map(explains, permutations(made)))
    event(f"good: {possible}")
    assert (check_serializable(made) == []) == possible, made


# --- survival: some of the writes of unknown outcome happened ------------------------------------


def outcomes(writes: Sequence[Write]) -> Iterator[frozenset[str]]:
    """What a key can hold in the end."""
    open_ones = [each for each in writes if each.result is UNKNOWN]
    for count in range(len(open_ones) + 1):
        for some in combinations(open_ones, count):
            done = [each for each in writes if each.result is DONE] + [*some]
            values = {each.value for each in done if each.value is not None}
            yield frozenset(values.difference(*(each.replaced - {each.value} for each in done)))


@dataclass
class Kept:
    writes: list[Write]
    shown: frozenset[str]


@st.composite
def kept(draw: st.DrawFn) -> Kept:
    writes: list[Write] = []
    names: list[str] = []
    for number in range(draw(st.integers(1, 5))):
        seen = frozenset(draw(st.sets(st.sampled_from(names)))) if names else frozenset[str]()
        value = None if seen and draw(st.booleans()) else chr(97 + number)
        result = draw(st.sampled_from([DONE, UNKNOWN, UNKNOWN, FAILED]))
        writes.append(Write("c", "k", value, seen, number, number + 1, result))
        names += [value] if value else []
    shown = draw(st.sampled_from([*outcomes(writes)]))
    if draw(st.booleans()):
        shown ^= frozenset(draw(st.sets(st.sampled_from([*names, "stranger"]), min_size=1)))
    return Kept(writes, shown)


@given(kept())
def test_what_survives_is_judged_as_by_force(made: Kept) -> None:
    possible = made.shown in set(outcomes(made.writes))
    event(f"good: {possible}")
    final = {"k": {"n1": made.shown, "n2": made.shown}}
    assert (check_survival(made.writes, final) == []) == possible


# --- sessions and listings: all pairs ------------------------------------------------------------


@given(st.lists(st.tuples(st.sampled_from("xy"), st.sampled_from("ab"), st.integers(0, 3))))
def test_sessions_are_judged_as_by_all_pairs(told: list[tuple[str, str, int]]) -> None:
    seen = [Seen(client, key, version, "n1", "read", 0.0) for client, key, version in told]
    bad = any(a[:2] == b[:2] and b[2] < a[2] for a, b in combinations(told, 2))
    assert (check_sessions(seen) != []) == bad


@given(st.lists(st.sampled_from([b"a", b"b", b"c"]), max_size=4), st.booleans())
def test_listings_are_judged_as_by_sorting(keys: list[bytes], reverse: bool) -> None:
    listed = [(key, "v") for key in keys]
    in_order = keys == sorted(set(keys), reverse=reverse)
    assert (check_order("l", listed, reverse=reverse) == []) == in_order
