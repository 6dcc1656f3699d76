"""The one timer of a host: it comes in time, asks only whose moment it is, and is never early for
nothing twice."""

from __future__ import annotations

import random

from raftgroups.deadlines import SLACK_S, Deadlines
from raftgroups.transport import NodeId
from tests.unit.raftgroups.conftest import Life, Network, World


class Groups:
    """Groups whose deadlines a test moves, and a record of what they were asked and told."""

    def __init__(self) -> None:
        self.world = World()
        self.deadlines_s: dict[int, float] = {}
        self.asked: list[int] = []
        self.due: list[tuple[int, float]] = []
        life = Life(self.world, Network(self.world), NodeId("a"))
        self.watched = Deadlines(life, life, deadline_of=self.deadline_of, due=self.is_due)

    def deadline_of(self, group_id: int) -> float:
        self.asked.append(group_id)
        return self.deadlines_s.get(group_id, float("inf"))

    def is_due(self, group_id: int) -> None:
        self.due.append((group_id, self.world.now))

    def set(self, group_id: int, in_s: float) -> None:
        self.deadlines_s[group_id] = self.world.now + in_s
        self.watched.watch(group_id, self.deadlines_s[group_id])


def test_the_nearest_deadline_is_met_and_nobody_else_is_asked() -> None:
    groups = Groups()
    groups.set(1, 0.3)
    groups.set(2, 0.1)
    began = groups.world.now
    groups.world.run(0.2)
    assert groups.due == [(2, began + 0.1 + SLACK_S)]
    assert groups.asked == [2]
    groups.world.run(0.2)
    assert [group for group, _ in groups.due] == [2, 1]


def test_a_deadline_that_moved_on_is_met_where_it_is_now() -> None:
    groups = Groups()
    groups.set(1, 0.1)
    groups.world.run(0.05)
    groups.set(1, 0.5)
    groups.world.run(0.3)
    assert (groups.due, groups.asked) == ([], [1])
    groups.world.run(0.3)
    assert [group for group, _ in groups.due] == [1]


def test_an_earlier_deadline_is_met_in_time() -> None:
    groups = Groups()
    groups.set(1, 0.5)
    groups.world.run(0.1)
    groups.set(1, 0.05)
    groups.world.run(0.06)
    assert [group for group, _ in groups.due] == [1]


def test_a_group_that_is_gone_or_asleep_is_forgotten() -> None:
    groups = Groups()
    groups.set(1, 0.1)
    del groups.deadlines_s[1]
    groups.world.run(1.0)
    assert (groups.due, groups.asked) == ([], [1])


def test_after_the_end_nothing_comes() -> None:
    groups = Groups()
    groups.set(1, 0.1)
    groups.watched.stop()
    groups.world.run(1.0)
    assert groups.asked == []


def test_whatever_moves_every_deadline_is_met_once_it_stands_still() -> None:
    for seed in range(30):
        dice, groups = random.Random(seed), Groups()
        for _ in range(200):
            groups.set(dice.randrange(8), dice.choice([0.002, 0.01, 0.1, 0.5]) * dice.random())
            groups.world.run(0.003 * dice.random())
            for group, at in groups.due:
                assert groups.deadlines_s[group] <= at <= groups.deadlines_s[group] + 2 * SLACK_S
                groups.set(group, dice.random())
            groups.due.clear()
        groups.world.run(2.0)
        assert {group for group, _ in groups.due} == set(groups.deadlines_s)
