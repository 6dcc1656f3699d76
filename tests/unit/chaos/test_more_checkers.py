"""Totals, fencing, leases, sets and gates: by hand, and sets and fencing against brute force."""

from __future__ import annotations

from itertools import pairwise, permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chaos.checkers.fencing import Guarded, Holding, check_fencing
from chaos.checkers.gates import (
    check_loads,
    check_nodes,
    check_rate,
    check_recovery,
    check_replicas,
)
from chaos.checkers.leases import Kept, check_leases
from chaos.checkers.sets import Add, SetLook, check_set
from chaos.checkers.totals import Look, Transfer, check_totals
from chaos.checkers.violation import Violation
from chaos.history import Result


def rules(found: list[Violation]) -> list[str]:
    return [each.message.split(":")[0] for each in found]


# --- totals --------------------------------------------------------------------------------------

ACCOUNTS = ("a", "b")


def look(asked: float, answered: float, turns: tuple[int, int], a: int, b: int) -> Look:
    return Look("n1", asked, answered, {"a": a, "b": b}, dict(zip("ab", turns, strict=True)))


def test_money_that_moves_is_no_violation() -> None:
    looks = [
        look(0, 1, (5, 5), 10, 10),
        look(2, 3, (6, 6), 4, 16),
        look(2.5, 6, (5, 5), 10, 10),
    ]
    transfers = [Transfer(1.9, {"a": 5, "b": 5}), Transfer(2.9, {"a": 6, "b": 6})]
    assert check_totals(looks, ACCOUNTS, 20, transfers) == []


@pytest.mark.parametrize(
    ("looks", "rule"),
    [
        ([look(0, 1, (0, 0), 10, 9)], "total"),
        ([look(0, 1, (0, 0), -1, 21)], "total"),
        ([Look("n1", 0, 1, {"a": 20}, {"a": 0})], "whole"),
        ([look(0, 1, (1, 1), 10, 10), look(0, 1, (1, 1), 9, 11)], "moment"),
        ([look(0, 2, (2, 1), 10, 10), look(1, 3, (1, 3), 10, 10)], "moment"),
        ([look(0, 1, (2, 2), 10, 10), look(2, 3, (1, 1), 9, 11)], "order"),
        ([look(4.6, 5, (2, 2), 10, 10)], "lasting"),
        ([look(4.0, 4.2, (3, 2), 10, 10)], "moment"),
    ],
)
def test_money_that_goes_wrong(looks: list[Look], rule: str) -> None:
    transfers = [Transfer(4.5, {"a": 3, "b": 3})]
    assert rules(check_totals(looks, ACCOUNTS, 20, transfers)) == [rule]


def test_money_that_nobody_moved() -> None:
    transfer = Transfer(4.5, {"a": 1, "b": 1}, {"a": 4, "b": 16}, 4.0)
    shown = look(5, 6, (1, 1), 4, 16)
    assert check_totals([shown], ACCOUNTS, 20, [transfer], opened=10) == []
    other = look(5, 6, (1, 1), 3, 17)
    early = look(2, 3, (1, 1), 4, 16)
    for bad in (other, early):
        assert rules(check_totals([bad], ACCOUNTS, 20, [transfer], opened=10)) == ["sober"]
    twice = [transfer, transfer]
    assert rules(check_totals([shown], ACCOUNTS, 20, twice, opened=10)) == ["sober"]


# --- fencing -------------------------------------------------------------------------------------


def held(token: int, asked: float, granted: float, until: float, ended: float | None) -> Holding:
    return Holding(f"c{token}", token, asked, granted, until, ended)


def test_locks_that_follow_each_other() -> None:
    holdings = [held(3, 0, 1, 4, 2), held(5, 1.5, 2.5, 6, None), held(9, 3, 6.5, 9, 8)]
    writes = [Guarded("c3", 3, 4), Guarded("c5", 5, 6), Guarded("c5", 5, 8), Guarded("c9", 9, 10)]
    assert check_fencing(holdings, writes) == []


def test_a_holder_of_whom_nothing_is_certain_is_not_accused() -> None:
    """It never renewed: from its grant on nobody may rely on it."""
    assert check_fencing([held(3, 0, 1, 1, None), held(5, 0, 1.5, 4, None)], []) == []


@pytest.mark.parametrize(
    ("holdings", "writes", "rule"),
    [
        ([held(3, 0, 1, 4, 2), held(3, 3, 4, 6, 5)], [], "unique"),
        ([held(5, 0, 1, 4, 2), held(3, 3, 4, 6, 5)], [], "rising"),
        ([held(3, 0, 1, 4, None), held(5, 0, 2, 6, None)], [], "single"),
        ([], [Guarded("c5", 5, 6), Guarded("c3", 3, 7)], "fenced"),
    ],
)
def test_locks_that_lie(holdings: list[Holding], writes: list[Guarded], rule: str) -> None:
    assert rule in rules(check_fencing(holdings, writes))


@st.composite
def holdings(draw: st.DrawFn) -> list[Holding]:
    found = []
    for _ in range(draw(st.integers(1, 6))):
        asked = draw(st.integers(0, 12))
        granted = asked + draw(st.integers(1, 4))
        until = granted + draw(st.integers(0, 4))
        ended = draw(st.none() | st.integers(granted, granted + 5))
        found.append(held(draw(st.integers(1, 8)), asked, granted, until, ended))
    return found


@given(holdings())
def test_fencing_agrees_with_looking_at_all_pairs(found: list[Holding]) -> None:
    pairs = list(permutations(found, 2))
    expected = set()
    if any(a.token == b.token for a, b in pairs):
        expected.add("unique")
    if any(a.granted < b.asked and b.token <= a.token for a, b in pairs):
        expected.add("rising")
    sure = [each for each in found if each.certain_until > each.granted]
    if any(
        max(a.granted, b.granted) < min(a.certain_until, b.certain_until)
        for a, b in permutations(sure, 2)
    ):
        expected.add("single")
    assert set(rules(check_fencing(found, []))) == expected


# --- leases --------------------------------------------------------------------------------------


def test_leases() -> None:
    kept = Kept("1", "k", 1.0, 5.0)
    kept.gone_at = [(0.5, 2.0), (4.0, 5.5), (6.0, 7.0)]
    assert check_leases([kept], []) == []
    kept.gone_at.append((2.0, 3.0))
    assert rules(check_leases([kept], [])) == ["gone too early"]
    ended = Kept("1", "k", 1.0, 5.0, ended=2.0, gone_at=[(2.0, 3.0)])
    assert check_leases([ended], []) == []
    assert rules(check_leases([ended], ["k"])) == ["not gone"]


def test_a_lease_that_was_refused_is_lost_as_its_key_is() -> None:
    refused = Kept("1", "k", 1.0, 5.0, refused_at=[(2.0, 3.0)])
    assert rules(check_leases([refused], [])) == ["gone too early"]


def test_a_lease_that_is_over_does_not_come_back() -> None:
    def ended() -> Kept:
        return Kept("1", "k", 1.0, 5.0, ended=2.0, over=3.0)

    renewed, shown, gone = ended(), ended(), Kept("1", "k", 1.0, 5.0, gone_at=[(6.0, 7.0)])
    renewed.renewed(4.0, 4.5, 4.0)
    shown.there_at.append((4.0, 4.5))
    gone.there_at.append((8.0, 9.0))
    for each in (renewed, shown, gone):
        assert rules(check_leases([each], [])) == ["back"]
    elsewhere = ended()
    elsewhere.there_at.append((4.0, 4.5))
    assert check_leases([elsewhere], [], one_shard=False) == [], "a moment later"


def test_who_holds_a_lock_is_not_told_that_it_is_lost() -> None:
    holding = held(3, 0, 1, 4, None)
    holding.lost_at = [(3.5, 4.5)]
    assert check_fencing([holding], []) == []
    holding.lost_at = [(2.0, 3.0)]
    assert rules(check_fencing([holding], [])) == ["kept"]


# --- sets ----------------------------------------------------------------------------------------


def shown(asked: float, answered: float, *members: str) -> SetLook:
    return SetLook("n1", asked, answered, frozenset(members))


def test_a_set_that_grows() -> None:
    adds = [Add("a", 0, 1, Result.DONE), Add("b", 0), Add("c", 2, None, Result.FAILED)]
    looks = [shown(0.5, 0.6), shown(2, 3, "a"), shown(2, 3, "a", "b"), shown(4, 5, "a", "b")]
    assert check_set(adds, looks) == []


@pytest.mark.parametrize(
    ("looks", "rule"),
    [
        ([shown(2, 3)], "complete"),
        ([shown(2, 3, "a", "b"), shown(4, 5, "a")], "lasting"),
        ([shown(2, 3, "a", "c")], "sober"),
        ([shown(2, 3, "a", "d")], "sober"),
    ],
)
def test_a_set_that_lies(looks: list[SetLook], rule: str) -> None:
    adds = [Add("a", 0, 1, Result.DONE), Add("b", 0), Add("c", 2, None, Result.FAILED)]
    assert rules(check_set(adds, looks)) == [rule]


@st.composite
def set_histories(draw: st.DrawFn) -> tuple[list[Add], list[SetLook]]:
    adds, looks = [], []
    for name in "abc":
        asked = draw(st.integers(0, 8))
        result = draw(st.sampled_from(Result))
        answered = asked + draw(st.integers(1, 4)) if result is Result.DONE else None
        adds.append(Add(name, asked, answered, result))
    for _ in range(draw(st.integers(1, 3))):
        asked = draw(st.integers(0, 12))
        members = draw(st.sets(st.sampled_from("abc")))
        looks.append(shown(asked, asked + draw(st.integers(1, 3)), *members))
    return adds, looks


@given(set_histories())
def test_sets_agree_with_trying_every_order(history: tuple[list[Add], list[SetLook]]) -> None:
    """Each member by itself is a register that is set once, so orders of one member suffice."""
    adds, looks = history
    possible = all(_explained(add, looks) for add in adds)
    assert (check_set(adds, looks) == []) == possible


def _explained(add: Add, looks: list[SetLook]) -> bool:
    """Is there a moment of the add (or none) that every look agrees with? Looks see it if they take
    effect later; each has any moment between its call and its answer. Quarters stand between the
    whole numbers, since equal times count as concurrent."""
    moments: list[float | None] = [] if add.result is Result.DONE else [None]
    if add.result is not Result.FAILED:
        end = 20.0 if add.answered is None else add.answered
        moments += [add.asked + n / 4 for n in range(int((end - add.asked) * 4) + 1)]
    return any(_agree(add.member, moment, looks) for moment in moments)


def _agree(member: str, moment: float | None, looks: list[SetLook]) -> bool:
    for each in looks:
        if member in each.members:
            if moment is None or moment > each.answered:
                return False
        elif moment is not None and moment < each.asked:
            return False
    return True


# --- gates ---------------------------------------------------------------------------------------


def test_gates() -> None:
    assert check_rate(100, 4.0, 25) == []
    assert len(check_rate(99, 4.0, 25)) == 1
    assert len(check_rate(0, 0.0, 1)) == 1
    assert check_loads({"lock": 6, "lease": 9}, 120.0) == []
    assert check_loads({"lock": 5, "lease": 9}, 120.0)[0].details == ("lock: 5",)
    assert len(check_loads({"lock": 0}, 1.0)) == 1
    assert check_recovery({"n1": 1.0, "n2": 2.0}, 2.0) == []
    assert check_recovery({"n1": 3.0, "n2": None}, 2.0)[0].details == (
        "n1: after 3.0 s",
        "n2: not at all",
    )
    assert check_replicas({"n1": "x", "n2": "x"}) == []
    assert len(check_replicas({"n1": "x", "n2": "y"})) == 1
    assert check_nodes([]) == []
    assert len(check_nodes(["n1 ended with code 70"])) == 1


def test_looks_in_a_row_are_never_older() -> None:
    """The sweep of the order rule against all pairs."""
    looks = [look(n, n + 0.5, (seen, seen), 10, 10) for n, seen in enumerate([3, 4, 4, 9, 8, 9])]
    bad = [1 for a, b in pairwise(looks) if b.seen < a.seen]
    assert len(check_totals(looks, ACCOUNTS, 20)) == len(bad) == 1
