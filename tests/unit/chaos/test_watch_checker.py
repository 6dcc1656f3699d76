"""The checkers of watches and sessions, on good and bad histories made by hand."""

from __future__ import annotations

import pytest

from chaos.checkers.sessions import Seen, check_sessions
from chaos.checkers.watch import Batch, Event, Written, check_watches
from chaos.history import Result

DONE, FAILED, UNKNOWN = Result.DONE, Result.FAILED, Result.UNKNOWN


def write(
    name: str, result: Result = DONE, revision: int | None = None, keys: str = "a"
) -> Written:
    return Written(name, tuple(Event(key, f"{name}.{key}") for key in keys), result, revision)


def batch(revision: int, name: str, keys: str = "a") -> Batch:
    return Batch(revision, tuple(Event(key, f"{name}.{key}") for key in keys))


WRITES = [
    write("w1", DONE, 2),
    write("w2", DONE, 3, "ab"),
    write("w3", UNKNOWN),
    write("w4", FAILED),
    write("w5", DONE, 5),
]
GOOD = [batch(2, "w1"), batch(3, "w2", "ab"), batch(4, "w3"), batch(5, "w5")]


def judge(*told: list[Batch], writes: list[Written] = WRITES, upto: int = 5) -> str:
    streams = {f"watcher {number}": batches for number, batches in enumerate(told)}
    return "\n".join(str(each) for each in check_watches(streams, writes, upto=upto, since=2))


def test_what_is_complete_is_not_accused() -> None:
    assert judge(GOOD, list(GOOD)) == ""


def test_an_unknown_write_may_have_happened_nowhere() -> None:
    writes = [write("w1", DONE, 2), write("w3", UNKNOWN)]
    assert judge([batch(2, "w1")], writes=writes, upto=2) == ""


def test_the_order_of_events_within_a_revision_is_free() -> None:
    swapped = [GOOD[0], batch(3, "w2", "ba"), *GOOD[2:]]
    assert judge(GOOD, swapped) == ""


def test_what_lies_behind_the_last_common_revision_is_not_judged() -> None:
    later = [*GOOD, batch(6, "w6")]
    writes = [*WRITES, write("w6", DONE, 6), write("w7", DONE, 7)]
    assert judge(GOOD, later, writes=writes) == ""


@pytest.mark.parametrize(
    ("told", "complaint"),
    [
        ([GOOD[0], *GOOD[2:]], "was not told revision 3"),
        ([GOOD[0], GOOD[0], *GOOD[1:]], "revision 2 came again"),
        ([GOOD[1], GOOD[0], *GOOD[2:]], "revision 2 came after 3"),
        ([GOOD[0], batch(3, "w2", "a"), batch(3, "w2", "b"), *GOOD[2:]], "revision 3 came again"),
        ([GOOD[0], batch(3, "w2", "aab"), *GOOD[2:]], "revision 3 has an event twice"),
        ([GOOD[0], batch(3, "w2", "a"), *GOOD[2:]], "revision 3 is a=w2.a; another"),
        (GOOD[:-1], "was not told revision 5"),
    ],
    ids=["lost", "doubled", "disordered", "split", "twice in one", "half", "end lost"],
)
def test_one_watcher_that_differs_is_found(told: list[Batch], complaint: str) -> None:
    assert complaint in judge(GOOD, told)


@pytest.mark.parametrize(
    ("told", "complaint"),
    [
        ([GOOD[0], *GOOD[2:]], "w2: acknowledged at 3, told nowhere"),
        ([GOOD[0], GOOD[1], batch(4, "w4"), GOOD[3]], "w4: was refused and stands at 4"),
        ([GOOD[0], GOOD[1], batch(4, "w9"), GOOD[3]], "revision 4: nobody wrote a=w9.a"),
        ([GOOD[0], GOOD[1], batch(4, "w5"), batch(5, "w3")], "w5: acknowledged at 5, told at 4"),
        ([*GOOD[:3], batch(5, "w3")], "w3: done at each of the revisions [4, 5]"),
        ([GOOD[0], batch(3, "w2", "a"), *GOOD[2:]], "w2: revision 3 is a=w2.a, it wrote"),
        ([*GOOD[:2], GOOD[3]], "dense: 1 times\n  revision 4 was told to nobody"),
    ],
    ids=["lost", "lie", "stranger", "moved", "twice", "half", "gap"],
)
def test_what_all_watchers_are_told_wrongly_is_found(told: list[Batch], complaint: str) -> None:
    """Equal on every node, and false."""
    assert complaint in judge(told, list(told))


def test_a_deletion_that_nobody_asked_for_is_found() -> None:
    """Also where one was acknowledged: it stands at its own revision."""
    deleted = Written("d", (Event("a", None),), DONE, 3)
    told = [batch(2, "w1"), Batch(3, (Event("a", None),)), Batch(4, (Event("a", None),))]
    writes = [write("w1", DONE, 2), deleted]
    assert "revision 4: nobody deleted a=None" in judge(told, list(told), writes=writes, upto=4)
    writes.append(Written("e", (Event("a", None),), UNKNOWN))
    assert judge(told, list(told), writes=writes, upto=4) == ""


def test_history_that_is_said_to_be_gone_was_compacted() -> None:
    told = {"one": GOOD[1:], "two": GOOD}
    gaps = {"one": [(2, 2)]}
    assert check_watches(told, WRITES, upto=5, gaps=gaps, compacted=2) == []
    (violation,) = check_watches(told, WRITES, upto=5, gaps=gaps, compacted=1)
    assert violation.message == "gap: 1 times"


def test_what_was_compacted_before_anybody_could_be_told_is_not_missed() -> None:
    told = {"one": GOOD[1:], "two": GOOD[1:]}
    gaps = {"one": [(2, 2)], "two": [(1, 2)]}
    assert check_watches(told, WRITES, upto=5, since=2, gaps=gaps, compacted=2) == []


def seen(client: str, version: int, what: str = "read", key: str = "k") -> Seen:
    return Seen(client, key, version, "n1", what, 0.0)


def test_sessions_may_stand_still_and_others_may_be_behind() -> None:
    good = [seen("a", 3), seen("b", 2), seen("a", 3), seen("a", 0, key="other"), seen("b", 5)]
    assert check_sessions(good) == []


@pytest.mark.parametrize("second", [2, 0])
def test_a_session_that_goes_back_is_found(second: int) -> None:
    (violation,) = check_sessions([seen("a", 3, "write"), seen("b", 9), seen("a", second)])
    assert "1 answers went back" in violation.message
    assert "after [0.000000] write of k at n1: version 3" in violation.details[0]
