"""Sets, clocks and a merge for the tests of the leaderless tables."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import strategies as st

from storage.siblings import Actor, Clock, Dot, SiblingSet, Version

NODES = ("a", "b", "node-ü", "z" * 64)
U64 = st.integers(0, (1 << 64) - 1)
ACTORS = st.builds(
    Actor, st.sampled_from(NODES), st.sampled_from([0, 1, 1 << 63]), st.integers(0, 300)
)


@st.composite
def clocks(draw: st.DrawFn) -> Clock:
    base: dict[Actor, int] = {}
    beyond: dict[Actor, tuple[int, ...]] = {}
    for actor in draw(st.sets(ACTORS, max_size=4)):
        reached = draw(st.one_of(st.integers(0, 5), st.integers(0, 1 << 40)))
        steps = draw(st.lists(st.integers(0, 200), max_size=3))
        past, floor = [], reached + 2
        for step in steps:
            past.append(floor + step)
            floor = past[-1] + 1
        if reached:
            base[actor] = reached
        if past:
            beyond[actor] = tuple(past)
    return Clock(base, beyond)


@st.composite
def sibling_sets(draw: st.DrawFn) -> SiblingSet:
    clock = draw(clocks().filter(bool))
    seen: list[Dot] = []
    for actor in clock.actors():
        reached = clock.base.get(actor, 0)
        numbers = {n for n in (1, reached // 2, reached) if 0 < n <= reached}
        seen += [Dot(*actor, n) for n in numbers | set(clock.beyond.get(actor, ()))]
    dots = draw(st.sets(st.sampled_from(seen), max_size=4)) if seen else set()
    plain, part = st.binary(max_size=300), st.integers().filter(_fits).map(b"%d".__mod__)
    versions = [
        Version(
            dot,
            draw(st.one_of(st.none(), part if (is_part := draw(st.booleans())) else plain)),
            draw(U64),
            draw(st.one_of(st.just(0), st.integers(1, 1 << 42))),
            is_part,
        )
        for dot in sorted(dots)
    ]
    return SiblingSet(tuple(versions), clock)


def _fits(number: int) -> bool:
    return abs(number) < 10**40


def simple_merge(a: SiblingSet, b: SiblingSet) -> SiblingSet:
    """Enough for sets without gaps: what either replaced is gone, clocks take the larger."""
    base = {
        actor: max(a.clock.base.get(actor, 0), b.clock.base.get(actor, 0))
        for actor in a.clock.base.keys() | b.clock.base.keys()
    }
    kept = {v.dot: v for v in a.versions if v in b.versions or not b.clock.covers(v.dot)}
    kept |= {v.dot: v for v in b.versions if v in a.versions or not a.clock.covers(v.dot)}
    return SiblingSet(tuple(kept[dot] for dot in sorted(kept)), Clock(base))


def one(
    node: str, n: int, value: bytes | None, *, expiry_ms: int = 0, epoch: int = 1
) -> SiblingSet:
    """The n-th write of one actor, which replaced all before it."""
    actor = Actor(node, 7, epoch)
    version = Version(Dot(*actor, n), value, n << 16, expiry_ms)
    return SiblingSet((version,), Clock({actor: n}))


@pytest.fixture
def merge() -> Callable[[SiblingSet, SiblingSet], SiblingSet]:
    return simple_merge


@pytest.fixture
def write_of() -> Callable[..., SiblingSet]:
    return one


@pytest.fixture
def any_set() -> st.SearchStrategy[SiblingSet]:
    return sibling_sets()


@pytest.fixture
def any_clock() -> st.SearchStrategy[Clock]:
    return clocks()
