"""Levels and their refusals."""

from __future__ import annotations

import pytest

from kv.leaderless.quorum import (
    Level,
    LevelError,
    Quorum,
    UnavailableError,
    level_met,
    parse_count,
    refuse_hopeless,
)
from storage.errors import Outcome


@pytest.mark.parametrize(
    ("n", "counts"), [(1, (1, 1, 1)), (2, (1, 2, 2)), (3, (1, 2, 3)), (5, (1, 3, 5))]
)
def test_levels_by_name(n: int, counts: tuple[int, ...]) -> None:
    assert tuple(parse_count(level, n, name="R", least=1) for level in Level) == counts
    assert parse_count(" quorum ", n, name="R", least=1) == counts[1]
    assert parse_count("1", n, name="R", least=1) == 1


@pytest.mark.parametrize(
    ("wanted", "why"),
    [
        (4, "R=4 is not between 1 and N=3"),
        (0, "R=0 is not between 1 and N=3"),
        (-1, "R=-1"),
        ("4", "R=4 is not"),
        ("MOST", "R='MOST' is no level; give ONE, QUORUM, ALL or a number up to N=3"),
        ("", "no level"),
        ("²", "no level"),
        ("9" * 5_000, "no level"),
    ],
)
def test_impossible_levels_say_what_is_possible(wanted: int | str, why: str) -> None:
    with pytest.raises(LevelError, match=why) as caught:
        Quorum.of(3, wanted)
    assert caught.value.outcome is Outcome.NONE


def test_a_quorum_of_a_request() -> None:
    assert Quorum.of(3, "QUORUM") == Quorum(3, 2, 0)
    assert Quorum.of(3, 1, owners="ALL", name="W") == Quorum(3, 3, 3)
    with pytest.raises(LevelError, match="PW=4"):
        Quorum.of(3, 1, owners=4, name="W")


def test_the_level_that_was_met() -> None:
    assert [level_met(3, count) for count in range(5)] == [
        None,
        Level.ONE,
        Level.QUORUM,
        Level.ALL,
        Level.ALL,
    ]
    assert level_met(1, 1) is Level.ALL


@pytest.mark.parametrize(
    ("quorum", "owners", "others", "why"),
    [
        (Quorum(3, 2), 1, 1, None),
        (Quorum(3, 2), 0, 2, None),
        (Quorum(3, 2), 1, 0, "1 nodes of this key can be reached and 2 are required"),
        (Quorum(3, 2, 2), 1, 5, "1 owners of this key can be reached and 2 are required"),
        (Quorum(3, 2, 0, strict=True), 1, 5, "1 owners"),
        (Quorum(3, 2, 0, strict=True), 2, 0, None),
    ],
)
def test_what_cannot_be_reached_is_refused_before_anything_is_sent(
    quorum: Quorum, owners: int, others: int, why: str | None
) -> None:
    if why is None:
        refuse_hopeless(quorum, owners=owners, others=others)
        return
    with pytest.raises(UnavailableError, match=f"{why}.*nothing was done") as caught:
        refuse_hopeless(quorum, owners=owners, others=others)
    assert caught.value.outcome is Outcome.NONE
    assert caught.value.retryable
