"""Splits and merges as they show in maps of different ages."""

from __future__ import annotations

from random import Random

import pytest

from chaos.checkers.gates import check_division
from chaos.running.ranges import Ranges


def test_a_split_and_a_merge_are_counted_once() -> None:
    ranges = Ranges()
    ranges.look(0.0, {})  # a node that knows no map yet
    ranges.look(1.0, {1: 1})
    ranges.look(2.0, {1: 2, 2: 1})
    ranges.look(3.0, {1: 1})  # from a node that is behind
    ranges.look(4.0, {1: 2, 2: 1})
    ranges.look(5.0, {1: 3})
    ranges.look(6.0, {1: 2, 2: 1})
    assert (ranges.splits, ranges.merges) == (1, 1)
    assert ranges.shards == [(1.0, 1), (2.0, 2), (5.0, 1)]


@pytest.mark.parametrize("seed", range(20))
def test_what_really_happened_is_counted_whichever_maps_are_seen(seed: int) -> None:
    """As long as the last one is seen, and none begins and ends between two looks."""
    dice = Random(seed)
    maps: list[list[tuple[int, int]]] = [[(1, 1)]]
    splits, merges, newest = 0, 0, 1
    for _ in range(30):
        shards = list(maps[-1])
        at = dice.randrange(len(shards))
        if at + 1 < len(shards) and dice.random() < 0.5:
            shards[at : at + 2] = [(shards[at][0], shards[at][1] + 1)]
            merges += 1
        else:
            newest += 1
            shards[at : at + 1] = [(shards[at][0], shards[at][1] + 1), (newest, 1)]
            splits += 1
        maps.append(shards)
    ranges = Ranges()
    for number in range(len(maps)):
        ranges.look(float(number), dict(maps[number]))
        ranges.look(float(number), dict(maps[dice.randrange(number + 1)]))
    assert (ranges.splits, ranges.merges) == (splits, merges)


def test_a_run_that_did_not_divide_is_no_pass() -> None:
    assert check_division(3, 1, (3, 1)) == []
    (found,) = check_division(3, 0, (3, 1))
    assert "3 splits and 0 merges of shards were seen, and at least 3 and 1" in str(found)
    assert check_division(2, 5, (3, 1))
