"""Who is answered for which operation: once each, whatever comes first."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from raftgroups.proposals import Proposals


def nobody(_: Any) -> None:
    pass


class Dones:
    """A callback of its own for each operation, and its name."""

    def __init__(self) -> None:
        self._names: dict[Callable[[Any], None], str] = {}

    def of(self, name: str) -> Callable[[Any], None]:
        def done(_: Any) -> None:
            pass

        self._names[done] = name
        return done

    def names(self, dones: list[Callable[[Any], None]]) -> list[str]:
        return [self._names[done] for done in dones]


def make(**limits: int) -> Proposals:
    return Proposals(**{"max_operations": 10, "max_bytes": 1000, **limits})


def test_operations_of_one_entry_are_told_their_own_results() -> None:
    proposals, dones = make(), Dones()
    for name in "abc":
        assert proposals.queue(name.encode(), dones.of(name), 5.0)
    assert proposals.take(1000) == (1, [b"a", b"b", b"c"])
    proposals.queue(b"d", dones.of("d"), 6.0)
    assert proposals.take(1000) == (4, [b"d"])
    assert (proposals.queued, len(proposals)) == (0, 4)
    told = proposals.applied(1, [1, 2, 3])
    assert dones.names([done for done, _ in told]) == ["a", "b", "c"]
    assert [result for _, result in told] == [1, 2, 3]
    assert proposals.applied(1, [1, 2, 3]) == [], "they were told"
    assert proposals.applied(99, [1]) == []
    assert (len(proposals), proposals.deadline()) == (1, 6.0)


def test_an_entry_holds_at_least_one_operation_and_no_more_than_fits() -> None:
    proposals = make()
    for size in (300, 100, 100, 100):
        assert proposals.queue(b"x" * size, nobody, 5.0)
    assert [len(payload) for payload in proposals.take(250)[1]] == [300]
    assert proposals.take(250) == (2, [b"x" * 100, b"x" * 100])
    assert proposals.take(250) == (4, [b"x" * 100])
    assert proposals.queue(b"x" * 1000, nobody, 5.0), "its bytes were counted off"


def test_both_bounds_hold() -> None:
    proposals = make(max_operations=3, max_bytes=100)
    assert [proposals.queue(b"x", nobody, 5.0) for _ in range(2)] == [1, 2]
    proposals.take(100)
    assert proposals.queue(b"x" * 101, nobody, 5.0) == 0
    assert proposals.queue(b"x", nobody, 5.0) == 1
    assert proposals.queue(b"x", nobody, 5.0) == 0, "appended ones count as well"


def test_those_that_waited_too_long_are_handed_out_and_the_others_still_told() -> None:
    proposals, dones = make(), Dones()
    for name, deadline in (("a", 1.0), ("b", 2.0), ("c", 3.0)):
        proposals.queue(name.encode(), dones.of(name), deadline)
    proposals.take(1000)
    proposals.queue(b"d", dones.of("d"), 4.0)
    proposals.take(1000)
    proposals.queue(b"e", dones.of("e"), 5.0)
    queued, appended = proposals.expire(2.0)
    assert (queued, dones.names(appended)) == ([], ["a", "b"])
    assert proposals.deadline() == 3.0
    told = proposals.applied(1, ["A", "B", "C"])
    assert (dones.names([told[0][0]]), told[0][1], len(told)) == (["c"], "C", 1)
    queued, appended = proposals.expire(5.0)
    assert (dones.names(queued), dones.names(appended)) == (["e"], ["d"])
    assert (len(proposals), proposals.deadline()) == (0, float("inf"))
    assert proposals.applied(4, ["D"]) == []


@pytest.mark.parametrize("seed", range(20))
def test_each_operation_is_answered_once(seed: int) -> None:
    dice, proposals, dones = random.Random(seed), make(max_operations=50, max_bytes=500), Dones()
    asked: list[str] = []
    answered: list[str] = []
    entries: list[tuple[int, list[bytes]]] = []
    now = 0.0
    for number in range(400):
        now += dice.random()
        match dice.randrange(6):
            case 0 | 1 | 2:
                name = str(number)
                if proposals.queue(name.encode(), dones.of(name), now + 20.0):
                    asked.append(name)
            case 3 if proposals.queued:
                entries.append(proposals.take(dice.choice([3, 6, 500])))
            case 4 if entries:
                first, payloads = entries.pop(0)
                for done, result in proposals.applied(first, payloads):
                    assert dones.names([done]) == [bytes(result).decode()]
                    answered += dones.names([done])
            case 5:
                queued, appended = proposals.expire(now)
                answered += dones.names(appended + queued)
        assert len(proposals) == len(asked) - len(answered)
    answered += dones.names(proposals.drop_appended() + proposals.drop_queued())
    assert sorted(answered) == sorted(asked)
    assert len(proposals) == 0
