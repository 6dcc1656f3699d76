"""Small worlds for the clocks: a handful of dots whose versions are known."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import strategies as st

from kv.leaderless.dvv import Canaries, Minter
from raftgroups.transport import NodeId
from storage.siblings import Actor, Clock, Dot, SiblingSet, Version

ACTORS = (Actor("a", 1, 1), Actor("a", 1, 2), Actor("b", 1, 1))
DOTS = [Dot(*actor, n) for actor in ACTORS for n in range(1, 5)]


def clock_of(dots: set[Dot]) -> Clock:
    base: dict[Actor, int] = {}
    beyond: dict[Actor, tuple[int, ...]] = {}
    for actor in {dot.actor for dot in dots}:
        numbers = sorted(dot.n for dot in dots if dot.actor == actor)
        reached = 0
        while reached + 1 in numbers:
            reached += 1
        if reached:
            base[actor] = reached
        if numbers[reached:]:
            beyond[actor] = tuple(numbers[reached:])
    return Clock(base, beyond)


def dots_of(clock: Clock) -> set[Dot]:
    counted = {Dot(*a, n) for a, reached in clock.base.items() for n in range(1, reached + 1)}
    return counted | {Dot(*a, n) for a, past in clock.beyond.items() for n in past}


def version_of(dot: Dot, *, shed: bool = False) -> Version:
    """What was written under a dot; every third write expires."""
    expiry_ms = 100 if dot.n == 3 else 0
    value = None if shed and expiry_ms else repr(dot).encode()
    return Version(dot, value, dot.n << 16, expiry_ms)


@st.composite
def small_sets(draw: st.DrawFn) -> SiblingSet:
    seen = draw(st.sets(st.sampled_from(DOTS)))
    kept = draw(st.sets(st.sampled_from(sorted(seen)))) if seen else set()
    versions = tuple(version_of(dot, shed=draw(st.booleans())) for dot in sorted(kept))
    return SiblingSet(versions, clock_of(seen))


class Epochs:
    """The counter of one node, as its disk has it."""

    def __init__(self) -> None:
        self.last = 0

    def next(self) -> int:
        self.last += 1
        return self.last


@pytest.fixture
def minter() -> Callable[..., Minter]:
    def make(
        node: str = "a",
        incarnation: int = 1,
        canaries: Canaries = frozenset(),
        epochs: Epochs | None = None,
    ) -> Minter:
        return Minter(NodeId(node), incarnation, (epochs or Epochs()).next, canaries)

    return make


@pytest.fixture
def epochs() -> type[Epochs]:
    return Epochs


@pytest.fixture
def small_set() -> st.SearchStrategy[SiblingSet]:
    return small_sets()


@pytest.fixture
def dots() -> Callable[[Clock], set[Dot]]:
    return dots_of


@pytest.fixture
def clock() -> Callable[[set[Dot]], Clock]:
    return clock_of
