"""The ring in the map, and what a keyspace owes to whom."""

from __future__ import annotations

import pytest

from kv.cluster.ring import Member, Ring
from kv.leaderless.founding import (
    keyspace_of,
    members_of,
    options_of,
    owned,
    seats_of_nodes,
    seats_of_ring,
)
from kv.leaderless.keyspace import Keyspace, Keyspaces
from kv.leaderless.ranges import holds
from kv.leaderless.rules import Rule, SetLimits
from raftgroups.meta.records import MERGE_RULES, KeyspaceRecord, NodeRecord, NodeState, Regime
from raftgroups.transport import NodeId

A, B, C, D = (NodeId(name) for name in "abcd")


def node(name: str, state: NodeState = NodeState.ACTIVE, weight: float = 1.0) -> NodeRecord:
    return NodeRecord(name, 1, name, ("h", 1), weight=weight, state=state, rack="r")


def test_who_drains_or_is_dead_founds_no_ring_and_weights_count() -> None:
    nodes = [
        node("b", weight=2.0),
        node("a"),
        node("c", NodeState.DRAINING),
        node("d", NodeState.DEAD),
    ]
    seats = seats_of_nodes(nodes, 16)
    assert [(seat.node, seat.vnodes) for seat in seats] == [("a", 16), ("b", 32)]
    assert {seat.rack for seat in seats} == {"r"}
    assert seats_of_ring(members_of(seats)) == seats


def test_what_a_node_owned_is_what_the_ring_says() -> None:
    members = [Member(each, 16) for each in (A, B, C, D)]
    seats = seats_of_ring(members)
    ring = Ring(members)
    mine = owned(B, seats, 2)
    for bucket in range(0, 1 << 20, 4099):
        assert holds(mine, bucket) == (B in ring.preference(bucket, 2))
    assert owned(NodeId("late"), seats, 2) == ()
    assert owned(A, (), 2) == ()


def test_the_map_and_the_regime_mean_the_same() -> None:
    space = Keyspace(4, "x", Rule.LWW, 5, 2, 4, strict=True, limits=SetLimits(siblings=9))
    record = KeyspaceRecord(4, "x", Regime.LEADERLESS, options_of(space))
    assert keyspace_of(record) == space
    assert tuple(rule.value for rule in Rule) == MERGE_RULES


def test_n_of_a_dropped_keyspace_is_known_and_may_not_change() -> None:
    spaces = Keyspaces({1: Keyspace()})
    spaces.put(Keyspace(2, "x", n=5))
    spaces.drop(2)
    assert 2 not in spaces
    assert spaces.n_of(2) == 5
    with pytest.raises(AssertionError):
        spaces.put(Keyspace(1, "default", n=4))
