"""Which links a partition cuts."""

from __future__ import annotations

from random import Random

import pytest

from chaos.faults.shapes import cut_pairs
from chaos.scenarios.menu import FAULTS

FIVE = ["n1", "n2", "n3", "n4", "n5"]
SYMMETRIC = sorted({*FAULTS["partition"].options["shape"].choices} - {"one-way", "deaf"})


def neighbours(names: list[str], cut: list[tuple[str, str]]) -> dict[str, set[str]]:
    return {a: {b for b in names if b != a and (a, b) not in cut} for a in names}


@pytest.mark.parametrize("shape", SYMMETRIC)
@pytest.mark.parametrize("names", [FIVE, FIVE[:3], FIVE[:4]])
def test_what_is_cut_is_cut_both_ways_and_not_everything_is(shape: str, names: list[str]) -> None:
    for seed in range(20):
        cut = cut_pairs(shape, names, [names[0]], Random(seed))
        assert len(set(cut)) == len(cut)
        assert all((b, a) in cut for a, b in cut)
        assert len(cut) > 0


def test_apart_and_one_way_and_deaf() -> None:
    dice = Random(1)
    assert sorted(cut_pairs("one-way", FIVE[:3], ["n1"], dice)) == [("n1", "n2"), ("n1", "n3")]
    assert sorted(cut_pairs("deaf", FIVE[:3], ["n1"], dice)) == [("n2", "n1"), ("n3", "n1")]
    apart = neighbours(FIVE, cut_pairs("apart", FIVE, ["n1", "n2"], dice))
    assert apart["n1"] == {"n2"}
    assert apart["n3"] == {"n4", "n5"}


def test_a_bridge_has_one_node_that_reaches_all() -> None:
    for seed in range(20):
        reached = neighbours(FIVE, cut_pairs("bridge", FIVE, [], Random(seed)))
        assert sorted(map(len, reached.values())) == [2, 2, 2, 2, 4]


def test_in_a_ring_each_reaches_its_neighbours() -> None:
    for seed in range(20):
        reached = neighbours(FIVE, cut_pairs("ring", FIVE, [], Random(seed)))
        assert {len(each) for each in reached.values()} == {2}
        assert all(a in reached[b] for a, each in reached.items() for b in each)


def test_a_swizzle_leaves_somebody_whole() -> None:
    for seed in range(20):
        cut = cut_pairs("swizzle", FIVE, [], Random(seed))
        touched = {name for pair in cut for name in pair}
        assert touched == set(FIVE)
        chosen = [name for name in FIVE if not neighbours(FIVE, cut)[name]]
        assert 0 < len(chosen) <= 5
