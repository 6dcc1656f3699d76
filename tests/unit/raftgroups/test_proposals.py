"""Who is answered for which operation: once each, whatever comes first."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest

from raftgroups.outcomes import EachResult
from raftgroups.proposals import Proposals


def one(_: Sequence[Any], __: EachResult) -> None:
    pass


def other(_: Sequence[Any], __: EachResult) -> None:
    pass


def make(**limits: int) -> Proposals:
    return Proposals(**{"max_operations": 10, "max_bytes": 1000, **limits})


def queue(proposals: Proposals, *names: str, until: float = 5.0, done: Any = one) -> list[str]:
    """Operations whose payloads and askers are their names."""
    payloads = [name.encode() for name in names]
    size = sum(map(len, payloads))
    return list(proposals.queue(payloads, size, names, done, until))


def asked(waiting: Sequence[tuple[Any, Sequence[Any]]]) -> list[str]:
    return [asker for _, askers in waiting for asker in askers]


def test_operations_of_one_entry_are_told_their_own_results() -> None:
    proposals = make()
    assert queue(proposals, "a", "b") == queue(proposals, "c") == []
    assert proposals.take(1000) == (1, [b"a", b"b", b"c"])
    queue(proposals, "d", until=6.0)
    assert proposals.take(1000) == (4, [b"d"])
    assert (proposals.queued, len(proposals)) == (0, 4)
    assert proposals.applied(1, [1, 2, 3]) == [(one, ["a", "b", "c"], [1, 2, 3])]
    assert proposals.applied(1, [1, 2, 3]) == [], "they were told"
    assert proposals.applied(99, [1]) == []
    assert (len(proposals), proposals.deadline()) == (1, 6.0)


def test_who_asked_in_turns_is_told_in_turns() -> None:
    proposals = make()
    queue(proposals, "a")
    queue(proposals, "b")
    queue(proposals, "c", "d", done=other)
    queue(proposals, "e")
    proposals.take(1000)
    told = proposals.applied(1, "ABCDE")
    assert told == [(one, ["a", "b"], "AB"), (other, ["c", "d"], "CD"), (one, ["e"], "E")]


def test_an_entry_holds_at_least_one_operation_and_no_more_than_fits() -> None:
    proposals = make()
    for size in (300, 100, 100, 100):
        assert not queue(proposals, "x" * size)
    assert [len(payload) for payload in proposals.take(250)[1]] == [300]
    assert proposals.take(250) == (2, [b"x" * 100, b"x" * 100])
    assert proposals.take(250) == (4, [b"x" * 100])
    assert not queue(proposals, "x" * 1000), "its bytes were counted off"


def test_a_run_is_cut_where_an_entry_is_full() -> None:
    proposals = make()
    names = [letter * 100 for letter in "abcde"]
    queue(proposals, *names[:4])
    queue(proposals, names[4])
    takes = [proposals.take(250)[1] for _ in range(3)]
    assert [len(payloads) for payloads in takes] == [2, 2, 1]
    assert proposals.queued == 0
    told = [each for first in (1, 3, 5) for each in proposals.applied(first, takes[first // 2])]
    assert asked([each[:2] for each in told]) == names
    assert [bytes(result).decode() for each in told for result in each[2]] == names


def test_both_bounds_hold() -> None:
    proposals = make(max_operations=3, max_bytes=100)
    assert queue(proposals, "a") == queue(proposals, "b") == []
    assert proposals.queued == 2
    proposals.take(100)
    assert queue(proposals, "x" * 101) == ["x" * 101]
    assert queue(proposals, "c") == []
    assert queue(proposals, "d") == ["d"], "appended ones count as well"


def test_of_a_run_those_are_queued_for_which_there_is_room() -> None:
    proposals = make(max_operations=4, max_bytes=100)
    large, small = "x" * 99, "yy"
    assert queue(proposals, "a", large, small, "b") == [small, "b"]
    assert proposals.take(200) == (1, [b"a", large.encode()])
    assert queue(proposals, "cc", large, "d", "e") == [large, "e"], "a smaller one may fit again"
    assert proposals.take(200) == (3, [b"cc", b"d"])
    assert proposals.applied(3, "CD") == [(one, ["cc", "d"], "CD")]


def test_those_that_waited_too_long_are_handed_out_and_the_others_still_told() -> None:
    proposals = make()
    queue(proposals, "a", until=1.0)
    queue(proposals, "b", "c", until=2.0)
    queue(proposals, "d", until=3.0)
    proposals.take(1000)
    queue(proposals, "e", until=4.0)
    proposals.take(1000)
    queue(proposals, "f", "g", until=5.0)
    queued, appended = proposals.expire(2.0)
    assert (queued, asked(appended)) == ([], ["a", "b", "c"])
    assert (proposals.deadline(), len(proposals)) == (3.0, 4)
    assert proposals.applied(1, "ABCD") == [(one, ["d"], "D")]
    queued, appended = proposals.expire(5.0)
    assert (asked(queued), asked(appended)) == (["f", "g"], ["e"])
    assert (len(proposals), proposals.queued, proposals.deadline()) == (0, 0, float("inf"))
    assert proposals.applied(5, ["E"]) == []


@pytest.mark.parametrize("seed", range(20))
def test_each_operation_is_answered_once(seed: int) -> None:
    dice, proposals = random.Random(seed), make(max_operations=50, max_bytes=500)
    taken: list[str] = []
    answered: list[str] = []
    entries: list[tuple[int, list[bytes]]] = []
    now = 0.0
    for number in range(400):
        now += dice.random()
        match dice.randrange(6):
            case 0 | 1 | 2:
                names = [f"{number}.{part}" for part in range(dice.choice([1, 1, 3, 9]))]
                full = queue(proposals, *names, until=now + 20.0, done=dice.choice([one, other]))
                taken += [name for name in names if name not in full]
            case 3 if proposals.queued:
                entries.append(proposals.take(dice.choice([3, 12, 30, 500])))
            case 4 if entries:
                first, payloads = entries.pop(0)
                for _, askers, results in proposals.applied(first, payloads):
                    assert askers == [bytes(result).decode() for result in results]
                    answered += askers
            case 5:
                queued, appended = proposals.expire(now)
                answered += asked(appended + queued)
        assert len(proposals) == len(taken) - len(answered)
    answered += asked(proposals.drop_appended() + proposals.drop_queued())
    assert sorted(answered) == sorted(taken)
    assert len(proposals) == 0
