"""Balance, movement, spread and stability of the ring."""

from __future__ import annotations

import json
import random
import statistics
import subprocess
import sys
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kv.cluster.ring import BucketRange, Member, Ring, tokens_of, weighted_vnodes
from raftgroups.transport import NodeId
from storage.buckets import BUCKETS

ROOT = Path(__file__).resolve().parents[4]
GOLDEN = json.loads((ROOT / "tests/golden/ring.json").read_text())


def _members(count: int, *, seed: object = "s", vnodes: int = 256) -> list[Member]:
    return [Member(NodeId(f"{seed}-{number}"), vnodes) for number in range(count)]


def _deviation(loads: Iterable[float]) -> float:
    values = list(loads)
    return statistics.pstdev(values) / statistics.mean(values)


@st.composite
def placed_members(draw: st.DrawFn) -> list[Member]:
    names = draw(st.sets(st.integers(0, 99), min_size=1, max_size=9))
    return [
        Member(
            NodeId(f"n{name}"),
            draw(st.sampled_from([1, 3, 8])),
            draw(st.sampled_from(["r1", "r2", "r3"])),
            draw(st.sampled_from(["d1", "d1", "d2"])),
        )
        for name in sorted(names)
    ]


def test_one_hundred_nodes_are_balanced() -> None:
    triple, primary = [], []
    for seed in range(20):
        ring = Ring(_members(100, seed=seed))
        triple.append(_deviation(ring.load(3).values()))
        primary.append(_deviation(ring.load(1).values()))
    print(
        f"standard deviation of load, 100 nodes, 256 vnodes, median of 20 seeds: "
        f"N=3 {statistics.median(triple):.2%}, primary {statistics.median(primary):.2%}"
    )
    assert statistics.median(triple) < 0.05
    assert statistics.median(primary) < 0.08


@pytest.mark.parametrize("vnodes", [16, 256])
def test_three_nodes_with_three_copies_store_the_same(vnodes: int) -> None:
    assert set(Ring(_members(3, vnodes=vnodes)).load(3).values()) == {1 / 3}


def test_a_node_of_twice_the_weight_stores_twice_as_much() -> None:
    shares = []
    for seed in range(10):
        members = _members(9, seed=seed)
        heavy = Member(NodeId("heavy"), weighted_vnodes(2.0))
        shares.append(Ring([*members, heavy]).load(1)[heavy.node])
    assert statistics.mean(shares) == pytest.approx(2 / 11, rel=0.1)
    assert weighted_vnodes(0.5) == 128
    assert weighted_vnodes(0.0001) == 1


def test_a_join_moves_little_more_than_it_must() -> None:
    n, nodes, moved = 3, 10, []
    for seed in range(100):
        members = _members(nodes, seed=seed)
        before, after = Ring(members), Ring([*members, Member(NodeId(f"new-{seed}"))])
        buckets = 0
        for move in before.moves(after, n):
            assert move.gained == (f"new-{seed}",), "a key moved between two old nodes"
            assert len(move.lost) == 1
            buckets += len(move.buckets)
        moved.append(buckets / BUCKETS)
    ideal = n / (nodes + 1)
    print(f"moved by a join: {statistics.mean(moved):.2%} of keys, ideal {ideal:.2%}")
    assert statistics.mean(moved) == pytest.approx(ideal, rel=0.1)


@given(placed_members(), st.integers(1, 5))
def test_a_join_never_moves_a_key_between_old_nodes(members: list[Member], n: int) -> None:
    *old, new = members
    before, after = Ring(old), Ring(members)
    for move in before.moves(after, n):
        assert move.gained == (new.node,)
        assert len(move.lost) == (1 if len(old) >= n else 0)
    for move in after.moves(before, n):
        assert move.lost == (new.node,)


def _expected(ring: Ring, bucket: int, n: int) -> tuple[NodeId, ...]:
    """The rule of the module's docstring, word for word."""
    walk = list(ring.walk(bucket))
    places = {node: (ring.members[node].datacentre, ring.members[node].rack) for node in walk}
    chosen: list[NodeId] = []
    for sort in (lambda place: place[0], lambda place: place, lambda place: None):
        seen = set()
        for node in walk:
            group = sort(places[node])
            if group is None or group not in seen:
                seen.add(group)
                if node not in chosen:
                    chosen.append(node)
    return tuple(node for node in walk if node in chosen[:n])


@given(placed_members(), st.integers(1, 5), st.integers(0, BUCKETS - 1))
def test_copies_are_spread_over_datacentres_then_racks(
    members: list[Member], n: int, bucket: int
) -> None:
    ring = Ring(members)
    found = ring.preference(bucket, n)
    assert found == _expected(ring, bucket, n)
    assert len(set(found)) == len(found) == min(n, len(members))
    assert found[0] == next(ring.walk(bucket))
    rest = list(ring.fallbacks(bucket, n))
    assert sorted([*found, *rest]) == sorted(ring.members)
    datacentres = {member.datacentre for member in members}
    assert len({ring.members[node].datacentre for node in found}) == min(n, len(datacentres))


@given(placed_members(), st.integers(1, 4))
def test_ranges_tell_the_whole_ring_once(members: list[Member], n: int) -> None:
    ring = Ring(members)
    following, rng = 0, random.Random(1)
    for found, owners in ring.ranges(n):
        assert found.first == following
        following = found.last + 1
        for bucket in (found.first, found.last, rng.randint(found.first, found.last)):
            assert ring.preference(bucket, n) == owners
    assert following == BUCKETS
    assert sum(ring.load(n).values()) == pytest.approx(1)
    for node in ring.members:
        owned = {b for part in ring.owned(node, n) for b in (part.first, part.last)}
        assert all(node in ring.preference(bucket, n) for bucket in owned)


def test_shared_ranges_are_what_both_own() -> None:
    ring = Ring(_members(6, vnodes=8))
    a, b = NodeId("s-0"), NodeId("s-1")
    shared = ring.shared(a, b, 3)
    assert shared == ring.shared(b, a, 3)
    inside = sum(len(part) for part in shared)
    assert 0 < inside < sum(len(part) for part in ring.owned(a, 3))
    covered = {bucket for part in shared for bucket in range(part.first, part.last + 1)}
    for bucket in range(0, BUCKETS, 997):
        owners = ring.preference(bucket, 3)
        assert (bucket in covered) == (a in owners and b in owners)
    assert all(one.last + 1 < two.first for one, two in pairwise(shared))


def test_the_order_in_which_members_are_told_changes_nothing() -> None:
    members = _members(7, vnodes=32)
    forward, backward = Ring(members), Ring(reversed(members))
    assert list(forward.ranges(3)) == list(backward.ranges(3))


def test_small_and_empty_rings() -> None:
    empty = Ring([])
    assert empty.preference(5, 3) == ()
    assert list(empty.walk(5)) == []
    assert empty.load(3) == {}
    one = Ring(_members(1, vnodes=1))
    assert one.preference(0, 3) == one.preference(BUCKETS - 1, 3) == ("s-0",)
    assert list(one.ranges(3)) == [(BucketRange(0, BUCKETS - 1), ("s-0",))]
    (move,) = empty.moves(one, 3)
    assert (move.buckets, move.gained) == (BucketRange(0, BUCKETS - 1), ("s-0",))
    assert one.moves(one, 3) == []


def test_tokens_grow_by_adding_only() -> None:
    node = NodeId("node")
    assert tokens_of(node, 64) == tokens_of(node, 256)[:64]


def test_golden_tokens_and_lists() -> None:
    """Written by an earlier version: a ring that moved would lose sight of its data."""
    for node, tokens in GOLDEN["tokens"].items():
        assert tokens_of(NodeId(node), len(tokens)) == tokens
    members = [Member(NodeId(n), v, r, d) for n, v, r, d in GOLDEN["members"]]
    ring = Ring(members)
    for n, bucket, owners in GOLDEN["preference"]:
        assert ring.preference(bucket, n) == tuple(owners)
    assert ring.preference_of_key(b"user:1", 3) == tuple(GOLDEN["user:1"])


def test_another_process_finds_the_same_ring() -> None:
    program = (
        "from kv.cluster.ring import Member, Ring;"
        "r = Ring(Member(f'p{i}', 16) for i in range(5));"
        "print([(b, r.preference(b, 3)) for b in range(0, 1 << 20, 99_991)])"
    )
    result = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={"PYTHONHASHSEED": "12345"},
        capture_output=True,
        text=True,
        check=True,
    )
    ring = Ring(Member(NodeId(f"p{number}"), 16) for number in range(5))
    ours = [(bucket, ring.preference(bucket, 3)) for bucket in range(0, 1 << 20, 99_991)]
    assert result.stdout.strip() == str(ours)
