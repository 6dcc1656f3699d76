"""A node answers reads only for what it surely has; views of rings that change."""

from __future__ import annotations

import random

from kv.cluster.membership import Death, Membership, NodeInfo, Status
from kv.cluster.ring import BucketRange
from kv.leaderless.filling import Filling, all_has, needed
from kv.leaderless.ranges import common, without
from kv.leaderless.view import RingView
from raftgroups.transport import NodeId
from storage.buckets import BUCKETS

A, B, C, D, E = (NodeId(name) for name in "abcde")
N = 3


def view_of(**statuses: Status) -> RingView:
    infos = [
        NodeInfo(NodeId(name), 1, status=status, vnodes=8) for name, status in statuses.items()
    ]
    return RingView.of(Membership(infos[0], infos[1:]))


FOUR = view_of(a=Status.NORMAL, b=Status.NORMAL, c=Status.NORMAL, d=Status.NORMAL)
FIVE = view_of(a=Status.NORMAL, b=Status.NORMAL, c=Status.NORMAL, d=Status.NORMAL, e=Status.NORMAL)
E_JOINS = view_of(
    a=Status.NORMAL, b=Status.NORMAL, c=Status.NORMAL, d=Status.NORMAL, e=Status.JOINING
)


def test_a_founder_lacks_nothing_and_a_joining_node_all_that_it_gets() -> None:
    founder = Filling(A, N, all_has(A, FOUR, {1: N})[1])
    founder.look(FOUR)
    assert not founder.lacking
    founder.look(E_JOINS)
    assert not founder.lacking, "whoever loses buckets lacks none"
    joiner = Filling(E, N, ())
    joiner.look(E_JOINS)
    assert joiner.lacking == E_JOINS.held(E, N)
    assert joiner.sources() == {A, B, C, D}
    assert not joiner.may_read(joiner.lacking[0].first)


def test_a_range_is_had_after_enough_of_its_sources() -> None:
    joiner = Filling(E, N, ())
    joiner.look(E_JOINS)
    assert not joiner.compared_with({A})
    before = joiner.lacking
    joiner.compared_with({A, B})
    assert joiner.lacking != before, "ranges of A and B are had"
    assert joiner.compared_with({A, B, C, D})
    assert joiner.has == E_JOINS.held(E, N)
    joiner.look(FIVE)
    assert not joiner.lacking, "the switch changes nothing for it"


def test_after_a_death_only_the_gained_ranges_lack() -> None:
    founder = Filling(A, N, all_has(A, FIVE, {1: N})[1])
    founder.look(FIVE)
    founder.look(FOUR)
    gained = without(FOUR.held(A, N), FIVE.held(A, N))
    assert founder.lacking == gained
    assert gained
    assert founder.may_read(common(FOUR.held(A, N), FIVE.held(A, N))[0].first)


def test_what_a_node_no_longer_holds_it_no_longer_has() -> None:
    founder = Filling(A, N, all_has(A, FOUR, {1: N})[1])
    founder.look(FOUR)
    founder.look(FIVE)
    founder.look(FOUR)
    assert founder.lacking == without(FOUR.held(A, N), FIVE.held(A, N))


def test_a_majority_of_the_sources_is_needed_if_there_are_so_many() -> None:
    assert [needed(count, 3) for count in range(5)] == [0, 1, 2, 2, 2]
    assert needed(5, 5) == 3


def test_the_parts_of_a_changing_ring_agree_with_the_places() -> None:
    rng = random.Random(3)
    bounds = [found for found, _, _ in E_JOINS.parts(N)]
    assert bounds[0].first == 0
    assert bounds[-1].last == BUCKETS - 1
    for found, owners, arrivals in E_JOINS.parts(N):
        bucket = rng.randint(found.first, found.last)
        assert E_JOINS.holders(bucket, N) == owners + arrivals
        assert owners == E_JOINS.ring.preference(bucket, N)
        assert set(arrivals) <= {E}
    place = E_JOINS.place(b"key", N)
    assert not {*place.owners, *place.fallbacks} & {*place.arrivals}
    assert E_JOINS.shared(A, E, N) == common(E_JOINS.held(A, N), E_JOINS.held(E, N))


def test_a_ring_of_nobody_has_no_place() -> None:
    alone = RingView.of(Membership(NodeInfo(A, 1)))
    assert alone.place(b"key", N).owners == ()
    assert alone.held(A, N) == ()
    dead = Membership(NodeInfo(A, 1, status=Status.NORMAL), [NodeInfo(B, 1)], [Death(B, A, "")])
    assert RingView.of(dead).members == {A}
    assert RingView.of(dead).held(A, N) == (BucketRange(0, BUCKETS - 1),)
