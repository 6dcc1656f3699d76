"""What nodes know merges to the same everywhere; the dead stay dead; rings have numbers."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kv.cluster.membership import Death, Membership, NodeInfo, Status, Version
from kv.cluster.phi import Health
from kv.cluster.ring import Member, Ring
from raftgroups.transport import NodeId

A, B, C = (NodeId(name) for name in "abc")


def info(name: str, heartbeat: int = 1, *, generation: int = 1, **fields: object) -> NodeInfo:
    status = fields.pop("status", Status.NORMAL)
    return NodeInfo(NodeId(name), generation, heartbeat, status, **fields)  # type: ignore[arg-type]


def exchange(one: Membership, other: Membership) -> int:
    """A whole round between two nodes; gives how many records travelled."""
    answer = other.answer(one.digest())
    wanted = one.records(answer.wanted)
    one.apply(answer.newer, answer.deaths)
    other.apply(wanted, one.deaths.values())
    return len(answer.newer) + len(wanted)


def known(view: Membership) -> tuple[object, ...]:
    return (sorted(view.infos.items()), sorted(view.deaths))


@st.composite
def news(draw: st.DrawFn) -> NodeInfo:
    """Versions of three nodes; a version has one content, as every node speaks with one voice."""
    name = draw(st.sampled_from("xyz"))
    generation, heartbeat = draw(st.integers(1, 2)), draw(st.integers(0, 3))
    status = [Status.JOINING, Status.NORMAL, Status.LEAVING][heartbeat % 3]
    return info(name, heartbeat, generation=generation, status=status, ring_version=1 + heartbeat)


DEATHS = st.builds(
    Death, st.sampled_from([NodeId("x"), NodeId("y")]), st.just(A), st.just("by hand")
)


@given(st.lists(st.one_of(news(), DEATHS), max_size=12), st.randoms(use_true_random=False))
def test_the_order_of_news_does_not_matter(
    items: list[NodeInfo | Death], rng: random.Random
) -> None:
    views = []
    for _ in range(2):
        view = Membership(info("a"))
        for item in [*items, *rng.sample(items, len(items) // 2)]:
            if isinstance(item, Death):
                view.apply(deaths=[item])
            else:
                view.apply([item])
        views.append(view)
        rng.shuffle(items)
    assert known(views[0]) == known(views[1])
    assert views[0].ring_epoch() == views[1].ring_epoch()
    assert not views[0].infos.keys() & views[0].deaths.keys()


@given(st.lists(st.one_of(news(), DEATHS), max_size=8))
def test_the_ring_epoch_only_rises(items: list[NodeInfo | Death]) -> None:
    view, before = Membership(info("a")), 0
    for item in items:
        ring = (view.serving(), view.arriving())
        epoch = view.ring_epoch()
        learned = view.apply(*(([], [item]) if isinstance(item, Death) else ([item],)))
        after = view.ring_epoch()
        assert learned.ring_changed == (after != epoch)
        if (view.serving(), view.arriving()) != ring:
            assert learned.ring_changed
        if not isinstance(item, Death) and item.generation == 2:
            return  # a ring version that went back with a generation is not what nodes do
        assert after.number >= before
        before = after.number


def test_two_nodes_know_the_same_after_one_exchange() -> None:
    one, other = Membership(info("a")), Membership(info("b"))
    one.apply([info("c", 5), info("d", 1)])
    other.apply([info("c", 7), info("e", 2)], [Death(NodeId("d"), B, "by hand")])
    assert exchange(one, other) == 4  # a to b; b, c and e to a; d is dead
    assert known(one) == known(other)
    assert sorted(one.infos) == ["a", "b", "c", "e"]
    assert exchange(one, other) == 0


def test_news_say_who_was_heard_and_who_is_new() -> None:
    view = Membership(info("a"))
    learned = view.apply([info("b", 1), info("c", 1)])
    assert (learned.heard, learned.joined, learned.ring_changed) == ([B, C], [B, C], True)
    learned = view.apply([info("b", 2), info("c", 1)])
    assert (learned.heard, learned.joined, learned.ring_changed) == ([B], [], False)
    learned = view.apply([info("b", 0, generation=2)])
    assert learned.heard == [B]
    assert view.infos[B].version == Version(2, 0)


def test_the_dead_stay_dead() -> None:
    view = Membership(info("a"), [info("b")])
    death = view.declare_dead(B, "disk burnt")
    assert (death.declared_by, death.reason) == (A, "disk burnt")
    learned = view.apply([info("b", 99, generation=9)])
    assert learned.heard == []
    assert B not in view.infos
    assert view.answer({B: Version(9, 99)}).wanted == ()
    other = Membership(info("c"), [info("b")])
    exchange(view, other)
    assert B in other.deaths


def test_a_node_learns_that_it_was_declared_dead() -> None:
    view = Membership(info("b"))
    learned = view.apply(deaths=[Death(B, A, "by hand")])
    assert learned.declared_dead
    assert B in view.infos


def test_a_node_that_has_left_says_so_itself() -> None:
    leaving, other = Membership(info("b")), Membership(info("a"), [info("b")])
    other.apply(deaths=[leaving.last_words()])
    assert other.deaths[B].reason == "left"
    with pytest.raises(AssertionError, match="tells the others"):
        leaving.declare_dead(B, "me")


def test_a_copied_directory_is_noticed() -> None:
    view = Membership(info("a", 5, generation=3))
    assert not view.apply([info("a", 5, generation=3)]).usurped
    assert not view.apply([info("a", 99, generation=2)]).usurped
    assert view.apply([info("a", 6, generation=3)]).usurped
    assert view.mine.heartbeat == 5


def test_changes_of_our_own_raise_the_ring_version_only_where_the_ring_is_concerned() -> None:
    view = Membership(info("a", status=Status.JOINING))
    view.beat()
    assert view.mine.version == Version(1, 2)
    before = view.ring_epoch()
    view.change_mine(address="10.0.0.1:7401")
    assert (view.mine.ring_version, view.ring_epoch()) == (1, before)
    after = view.change_mine(status=Status.NORMAL)
    assert (after.ring_version, after.heartbeat) == (2, 4)
    assert view.ring_epoch().number == before.number + 1
    assert view.ring_epoch().as_int() != before.as_int()


def test_concurrent_changes_have_equal_numbers_and_different_fingerprints() -> None:
    one, other = (Membership(info(name), [info("c"), info("d")]) for name in "ab")
    exchange(one, other)
    one.apply([info("c", 2, status=Status.LEAVING, ring_version=2)])
    other.apply([info("d", 2, status=Status.LEAVING, ring_version=2)])
    ours, theirs = one.ring_epoch(), other.ring_epoch()
    assert ours.number == theirs.number
    assert ours.fingerprint != theirs.fingerprint
    exchange(one, other)
    assert one.ring_epoch() == other.ring_epoch()
    assert one.ring_epoch().number == ours.number + 1


def test_reads_use_the_ring_as_it_is_and_writes_also_the_one_to_come() -> None:
    view = Membership(info("a"), [info("b", status=Status.JOINING)])
    view.apply([info("c", status=Status.LEAVING, vnodes=16, rack="r")])
    assert {member.node for member in view.serving()} == {A, C}
    assert {member.node for member in view.arriving()} == {A, B}
    assert Member(C, 16, "r") in view.serving()
    assert Ring(view.serving()).preference(0, 3)


@pytest.mark.parametrize(
    ("members", "alive", "may"), [(5, 3, True), (5, 2, False), (4, 2, False), (2, 1, False)]
)
def test_only_a_majority_may_declare_by_deadline(members: int, alive: int, may: bool) -> None:
    """So two halves never declare each other dead, and in two equal ones nobody declares."""
    view = Membership(info("n0"), [info(f"n{number}") for number in range(1, members)])
    healths = {NodeId(f"n{number}"): Health.ALIVE for number in range(1, alive)}
    assert view.may_declare(healths) == may
    healths[NodeId("n1")] = Health.SUSPICIOUS if alive > 1 else Health.DOWN
    assert view.may_declare(healths) == may


def test_targets_are_alive_and_now_and_then_one_that_is_down() -> None:
    view = Membership(info("a"), [info(name) for name in "bcdef"])
    healths = dict.fromkeys(map(NodeId, "bcde"), Health.ALIVE)
    rng, seen = random.Random(1), []
    for _ in range(300):
        chosen = view.targets(healths, rng, fanout=2)
        assert len(set(chosen)) == len(chosen)
        assert sum(node in healths for node in chosen) == 2
        seen += chosen
    counts = {name: seen.count(NodeId(name)) for name in "bcdef"}
    assert "a" not in seen
    assert all(100 < counts[name] < 200 for name in "bcde")
    assert 20 < counts["f"] < 100
    assert view.targets({}, rng) != []
    assert Membership(info("a")).targets({}, rng) == []


def _rounds_until_all_know(size: int, seed: int) -> int:
    """Everybody knows everybody; one changes its record; one exchange a node a round."""
    rng = random.Random(seed)
    infos = [info(f"n{number}") for number in range(size)]
    views = [Membership(mine, infos) for mine in infos]
    names = {view.me: view for view in views}
    healths = dict.fromkeys(names, Health.ALIVE)
    views[0].change_mine(status=Status.LEAVING)
    target, rounds = views[0].ring_epoch(), 0
    while any(view.infos[views[0].me].status is not Status.LEAVING for view in views):
        rounds += 1
        for view in views:
            for peer in view.targets(healths, rng):
                exchange(view, names[peer])
    assert all(view.ring_epoch() == target for view in views)
    return rounds


def test_news_spread_in_logarithmic_rounds() -> None:
    found = {}
    for size in (8, 32, 128):
        rounds = max(_rounds_until_all_know(size, seed) for seed in range(2))
        found[size] = rounds
        assert rounds <= 2 * math.log2(size) + 2
    print(f"rounds until all know: {found}")


def test_records_can_be_asked_for_that_are_gone_meanwhile() -> None:
    view = Membership(info("a"), [info("b")])
    assert view.records([B, C]) == (info("b"),)
    assert replace(info("b"), heartbeat=2).version == Version(1, 2)
