"""Survival, convergence, sessions and counters of the leaderless regime, by hand and at random."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chaos.checkers.survival import SessionRead, Write, check_counters, check_survival
from chaos.checkers.violation import Violation
from chaos.history import Result

DONE, FAILED, UNKNOWN = Result.DONE, Result.FAILED, Result.UNKNOWN


def write(value: str | None, replaced: str, result: Result, asked: float = 0.0) -> Write:
    return Write("c1", "k", value, frozenset(replaced), asked, asked + 1, result)


def final(*nodes: str) -> dict[str, dict[str, frozenset[str]]]:
    return {"k": {f"n{number}": frozenset(values) for number, values in enumerate(nodes, 1)}}


def rules(found: list[Violation]) -> list[str]:
    return [each.message.split(":")[0] for each in found]


def test_what_may_be() -> None:
    writes = [
        write("a", "", DONE),
        write("b", "", DONE),
        write("c", "a", DONE),
        write("d", "b", UNKNOWN),
        write("e", "", FAILED),
        write(None, "c", UNKNOWN),
    ]
    for shown in ("bc", "cd", "d", "b"):
        assert check_survival(writes, final(shown, shown)) == []


@pytest.mark.parametrize(
    ("writes", "shown", "rule"),
    [
        ([write("a", "", DONE)], ("a", ""), "converged"),
        ([write("a", "", DONE)], ("", ""), "lost"),
        ([write("a", "", DONE), write("b", "a", FAILED)], ("", ""), "lost"),
        ([write("a", "", DONE), write("b", "a", DONE)], ("ab", "ab"), "back"),
        ([write("a", "", DONE), write(None, "a", DONE)], ("a", "a"), "back"),
        ([write("a", "", UNKNOWN), write("b", "a", UNKNOWN)], ("ab", "ab"), "back"),
        (
            [write("a", "", DONE), write("b", "", DONE), write(None, "ab", UNKNOWN)],
            ("b", "b"),
            "lost",
        ),
        ([write("a", "", FAILED)], ("a", "a"), "nowhere"),
        ([], ("a", "a"), "nowhere"),
    ],
)
def test_what_may_not_be(writes: list[Write], shown: tuple[str, ...], rule: str) -> None:
    assert rules(check_survival(writes, final(*shown))) == [rule]


def test_a_session_sees_its_own_write_or_what_replaced_it() -> None:
    writes = [write("a", "", DONE), write("b", "a", UNKNOWN, asked=5.0)]
    early = SessionRead("c1", "k", "n1", 3.0, 4.0, frozenset("x"), "a")
    late = SessionRead("c1", "k", "n1", 6.0, 7.0, frozenset("b"), "a")
    assert check_survival(writes, final("b"), [late]) == []
    assert rules(check_survival(writes, final("b"), [early])) == ["session"]


def test_a_session_does_not_see_again_what_it_replaced() -> None:
    writes = [write("a", "", UNKNOWN), write(None, "a", DONE)]
    read = SessionRead("c1", "k", "n1", 3.0, 4.0, frozenset("a"), None, frozenset("a"))
    assert rules(check_survival(writes, final(""), [read])) == ["session"]


def test_counters() -> None:
    assert check_counters({"c": (5, 2)}, {"c": {"n1": 6, "n2": 6}}) == []
    assert len(check_counters({"c": (5, 2)}, {"c": {"n1": 4, "n2": 4}})) == 1
    assert len(check_counters({"c": (5, 2)}, {"c": {"n1": 8, "n2": 8}})) == 1
    assert len(check_counters({"c": (5, 2)}, {"c": {"n1": 5, "n2": 6}})) == 1
    assert len(check_counters({"c": (5, 2)}, {})) == 1


@st.composite
def runs(draw: st.DrawFn) -> tuple[list[Write], set[str]]:
    """A correct store of one key, one write after the other: (writes, what it holds at the end)."""
    held: set[str] = set()
    writes = []
    for number in range(draw(st.integers(1, 8))):
        seen = frozenset(draw(st.sets(st.sampled_from(sorted(held))))) if held else frozenset()
        value = None if seen and draw(st.booleans()) else chr(97 + number)
        result = draw(st.sampled_from(Result))
        writes.append(write(value, "".join(seen), result))
        if result is DONE or (result is UNKNOWN and draw(st.booleans())):
            held = (held - seen) | ({value} if value else set())
    return writes, held


@given(runs())
def test_a_correct_store_is_never_accused(run: tuple[list[Write], set[str]]) -> None:
    writes, held = run
    assert check_survival(writes, final("".join(held), "".join(held))) == []


@given(runs(), st.data())
def test_a_store_that_loses_a_value_that_must_be_there_is_caught(
    run: tuple[list[Write], set[str]], data: st.DataObject
) -> None:
    writes, held = run
    certain = {
        each.value
        for each in writes
        if each.value in held
        and each.result is DONE
        and all(other.result is FAILED for other in writes if each.value in other.replaced)
    }
    if certain:
        lost = data.draw(st.sampled_from(sorted(each for each in certain if each)))
        shown = "".join(held - {lost})
        assert "lost" in rules(check_survival(writes, final(shown, shown)))
