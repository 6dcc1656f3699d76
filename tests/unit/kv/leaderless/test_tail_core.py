"""The feeds of all nodes as one stream: what is told, and when something may have been missed."""

from __future__ import annotations

from kv.leaderless.feed import Changed, FeedPage, Position
from kv.leaderless.tail_core import SETTLED_S, TailCore
from storage.siblings import Actor, Clock, Dot, SiblingSet, Version, encode_set

NODES = frozenset(("a", "b", "c"))


def written(node: str, *values: bytes) -> SiblingSet:
    """The values of one node, each replacing the one before."""
    actor = Actor(node, 1, 1)
    dot = Dot(*actor, len(values))
    return SiblingSet((Version(dot, values[-1], len(values)),), Clock({actor: len(values)}))


def page(number: int, *sets: SiblingSet, boot: int = 1, lost: bool = False) -> FeedPage:
    return FeedPage(boot, number, [Changed(1, b"k", encode_set(each)) for each in sets], lost)


def take(
    core: TailCore, node: str, got: FeedPage, now_s: float = 1.0
) -> list[tuple[bytes, list[bytes | None]]]:
    fresh = core.take(node, got, asked_s=now_s, now_s=now_s, members=NODES)
    return [(key, sorted(version.value for version in found.versions)) for key, found in fresh]  # type: ignore[type-var]


def begun() -> TailCore:
    return TailCore(1, {node: Position(1, 0) for node in NODES})


def test_copies_are_told_once_and_old_ones_never_after_new_ones() -> None:
    core = begun()
    assert take(core, "a", page(1, written("a", b"1"))) == [(b"k", [b"1"])]
    assert take(core, "b", page(1, written("a", b"1"))) == []
    assert take(core, "a", page(2, written("a", b"1", b"2"))) == [(b"k", [b"2"])]
    assert take(core, "c", page(2, written("a", b"1"), written("a", b"1", b"2"))) == []


def test_concurrent_writes_of_two_nodes_are_told_as_siblings() -> None:
    core = begun()
    assert take(core, "a", page(1, written("a", b"x"))) == [(b"k", [b"x"])]
    assert take(core, "b", page(1, written("b", b"y"))) == [(b"k", [b"x", b"y"])]


def test_other_keyspaces_are_passed_over_and_read() -> None:
    core = begun()
    other = FeedPage(1, 4, [Changed(2, b"k", encode_set(written("a", b"1")))], False)
    assert take(core, "a", other) == []
    assert core.position("a") == Position(1, 4)


def test_what_was_told_is_forgotten_within_bounds_and_told_again() -> None:
    core = TailCore(1, {node: Position(1, 0) for node in NODES}, told_keys=0)
    assert take(core, "a", page(1, written("a", b"1"))) == [(b"k", [b"1"])]
    assert take(core, "b", page(1, written("a", b"1"))) == [(b"k", [b"1"])]


def test_fewer_gaps_than_owners_miss_nothing() -> None:
    core = begun()
    for node in ("a", "b"):
        take(core, node, page(0, boot=2, lost=True))
        assert not core.is_broken(3, NODES)
    take(core, "c", page(0, boot=2, lost=True))
    assert core.is_broken(3, NODES)


def test_an_only_node_that_began_anew_has_missed_something() -> None:
    core = TailCore(1, {"a": Position(1, 5)})
    core.take("a", page(0, boot=2, lost=True), asked_s=1, now_s=1, members=frozenset("a"))
    assert core.is_broken(3, frozenset("a"))


def test_a_gap_closes_when_all_others_were_read_once_it_has_settled() -> None:
    core = begun()
    take(core, "a", page(0, boot=2, lost=True), 1.0)
    take(core, "b", page(1), SETTLED_S)
    take(core, "c", page(1), SETTLED_S)
    assert core.gaps == {"a"}, "asked before every write of the hole had its answer"
    take(core, "b", page(1), SETTLED_S + 1)
    assert core.gaps == {"a"}
    take(core, "c", page(1), SETTLED_S + 1)
    assert core.gaps == frozenset()


def test_open_gaps_travel_with_the_cursor() -> None:
    core = begun()
    take(core, "a", page(0, boot=2, lost=True))
    again = TailCore(1, core.positions)
    assert again.gaps == {"a"}
    take(again, "b", page(0, boot=2, lost=True))
    take(again, "c", page(0, boot=2, lost=True))
    assert again.is_broken(3, NODES)


def test_a_node_that_left_has_handed_over_what_it_had() -> None:
    core = begun()
    take(core, "a", page(0, boot=2, lost=True))
    assert not core.is_broken(3, frozenset(("b", "c")))
    assert core.gaps == frozenset()
    assert core.position("a") is None
