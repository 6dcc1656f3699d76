"""Two nodes find exactly what differs between them, and equal ones compare one sum."""

from __future__ import annotations

import random
from functools import partial
from hashlib import blake2b
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kv.cluster.ring import BucketRange, Member, Ring
from kv.leaderless.merkle import (
    Difference,
    Exchange,
    PeerRoots,
    Segment,
    SegmentSums,
    SharedBuckets,
    answer_compare,
    difference,
)
from raftgroups.transport import NodeId
from storage.buckets import BUCKETS, EMPTY_LEAF, Leaf, bucket_of

A, B = NodeId("n0"), NodeId("n1")


def _ring(nodes: int, vnodes: int) -> Ring:
    return Ring(Member(NodeId(f"n{number}"), vnodes) for number in range(nodes))


def _digest(number: int) -> int:
    """As wide as real ones: the sums of small numbers may be equal by chance."""
    return int.from_bytes(blake2b(b"%d" % number, digest_size=16).digest(), "big")


class Store:
    """Keys with digests, as the token index has them."""

    def __init__(self) -> None:
        self.digests: dict[bytes, int] = {}
        self.scanned = 0

    def put(self, key: bytes, digest: int | None) -> tuple[int, int, int]:
        """What it does to the leaf of its bucket."""
        old = self.digests.pop(key, None)
        if digest is not None:
            self.digests[key] = digest
        keys = (digest is not None) - (old is not None)
        return bucket_of(key), keys, (digest or 0) - (old or 0)

    def sums(self, shared: SharedBuckets, segments: list[Segment]) -> list[Leaf]:
        sums = SegmentSums(shared, segments)
        for part in sums.ranges():
            found = [
                (bucket_of(key), key, digest)
                for key, digest in self.digests.items()
                if part.first <= bucket_of(key) <= part.last
            ]
            self.scanned += len(found)
            sums.add_keys(sorted(found))
        return sums.sums

    def listed(self, shared: SharedBuckets, segments: list[Segment]) -> list[tuple[bytes, int]]:
        parts = [part for segment in segments for part in shared.ranges_of(segment)]
        return [
            (key, digest)
            for key, digest in self.digests.items()
            if any(part.first <= bucket_of(key) <= part.last for part in parts)
        ]


def _exchange(
    ours: Store, theirs: Store, shared: SharedBuckets, **options: int
) -> tuple[Exchange, Difference, int]:
    exchange, questions = Exchange(shared, **options), 0
    found = Difference((), (), ())
    while segments := exchange.next_segments():
        questions += 1
        our_sums, their_sums = ours.sums(shared, segments), theirs.sums(shared, segments)
        exchange.on_compared(our_sums, answer_compare(our_sums, their_sums))
    while segments := exchange.next_key_segments():
        questions += 1
        part = difference(ours.listed(shared, segments), theirs.listed(shared, segments))
        found = Difference(found.push + part.push, found.pull + part.pull, found.both + part.both)
    assert exchange.done
    return exchange, found, questions


@pytest.mark.parametrize("vnodes", [16, 256])
def test_two_equal_nodes_compare_their_roots_only(vnodes: int) -> None:
    shared = SharedBuckets.of(_ring(6, vnodes), A, B, 3)
    assert len(shared.ranges) > 5
    ours, theirs = Store(), Store()
    for number in range(200):
        for store in (ours, theirs):
            store.put(b"%d" % number, number)
    exchange, found, questions = _exchange(ours, theirs, shared)
    assert (exchange.compared, questions) == (1, 1)
    assert found == Difference((), (), ())


@given(
    data=st.data(),
    ranges=st.lists(st.integers(0, BUCKETS - 1), min_size=2, max_size=8, unique=True),
    fanout=st.integers(2, 40),
    direct_keys=st.integers(0, 10),
    batch=st.integers(1, 50),
)
def test_exactly_the_differences_are_found(
    data: st.DataObject, ranges: list[int], fanout: int, direct_keys: int, batch: int
) -> None:
    edges = sorted(ranges)
    shared = SharedBuckets(
        BucketRange(first, last) for first, last in zip(edges[::2], edges[1::2], strict=False)
    )
    ours, theirs = Store(), Store()
    rng = random.Random(data.draw(st.integers(0, 1 << 32)))
    for number in range(60):
        kind = rng.choice(["same", "same", "push", "pull", "both"])
        key = b"%d" % number
        if kind != "pull":
            ours.put(key, _digest(number))
        if kind != "push":
            theirs.put(key, _digest(number + (1_000 if kind == "both" else 0)))
    _, found, _ = _exchange(
        ours, theirs, shared, fanout=fanout, direct_keys=direct_keys, batch=batch
    )

    def shared_keys(store: Store) -> dict[bytes, int]:
        return {
            k: d for k, d in store.digests.items() if shared.number_of(bucket_of(k)) is not None
        }

    expected = difference(shared_keys(ours).items(), shared_keys(theirs).items())
    assert (set(found.push), set(found.pull), set(found.both)) == (
        set(expected.push),
        set(expected.pull),
        set(expected.both),
    )
    assert len(found.both) == len(expected.both)


def test_one_difference_costs_a_path_and_not_the_tree() -> None:
    shared = SharedBuckets.of(_ring(3, 256), A, B, 3)
    assert len(shared.root) == BUCKETS
    ours, theirs = Store(), Store()
    for number in range(500):
        for store in (ours, theirs):
            store.put(b"%d" % number, number)
    theirs.put(b"77", 1)
    exchange, found, questions = _exchange(ours, theirs, shared)
    assert found == Difference((), (), (b"77",))
    # 500 keys: the root, one cut into 32, one of these into 32; there it is one key.
    assert exchange.compared <= 1 + 32 + 32
    assert questions <= 4


def test_a_node_without_shared_buckets_has_nothing_to_ask() -> None:
    exchange = Exchange(SharedBuckets([]))
    assert exchange.next_segments() == []
    assert exchange.done


@given(st.integers(0, 100), st.integers(1, 500), st.integers(1, 40))
def test_a_segment_is_cut_into_all_of_itself(first: int, width: int, fanout: int) -> None:
    parts = Segment(first, first + width).split(fanout)
    assert parts[0].first == first
    assert parts[-1].end == first + width
    assert all(a.end == b.first for a, b in pairwise(parts))
    widths = {len(part) for part in parts}
    assert 0 not in widths
    assert max(widths) - min(widths) <= 1
    assert len(parts) == min(fanout, width)


def test_numbers_and_ranges_are_each_others_inverse() -> None:
    ring = _ring(7, 8)
    shared = SharedBuckets.of(ring, A, B, 3)
    numbers = [
        shared.number_of(bucket) for part in shared.ranges for bucket in (part.first, part.last)
    ]
    assert numbers == sorted(numbers)  # type: ignore[type-var]
    assert numbers[0] == 0
    assert numbers[-1] == len(shared.root) - 1
    assert shared.ranges_of(shared.root) == list(shared.ranges)
    outside = next(b for b in range(BUCKETS) if not {A, B} <= set(ring.preference(b, 3)))
    assert shared.number_of(outside) is None
    rng = random.Random(3)
    for _ in range(200):
        first = rng.randrange(len(shared.root))
        segment = Segment(first, rng.randint(first + 1, len(shared.root)))
        parts = shared.ranges_of(segment)
        assert sum(len(part) for part in parts) == len(segment)
        assert shared.number_of(parts[0].first) == segment.first
        assert shared.number_of(parts[-1].last) == segment.end - 1


def test_sums_do_not_take_segments_that_overlap() -> None:
    shared = SharedBuckets([BucketRange(0, 99)])
    with pytest.raises(AssertionError, match="overlap"):
        SegmentSums(shared, [Segment(0, 10), Segment(9, 20)])


def test_roots_follow_the_leaves() -> None:
    """Kept step by step, they equal the sums from nothing, with every peer."""
    ring, n, rng = _ring(5, 16), 3, random.Random(5)
    roots, store = PeerRoots(partial(ring.preference, n=n), A), Store()
    for number in range(400):
        key = b"%d" % rng.randrange(150)
        digest = None if key in store.digests and rng.random() < 0.3 else number
        roots.change_all([store.put(key, digest)])
    for peer in ring.members:
        if peer != A:
            shared = SharedBuckets.of(ring, A, peer, n)
            assert roots.root(peer) == store.sums(shared, [shared.root])[0]
    assert roots.root(NodeId("stranger")) == EMPTY_LEAF


def test_an_answer_to_another_question_is_a_defect() -> None:
    exchange = Exchange(SharedBuckets([BucketRange(0, 99)]))
    with pytest.raises(AssertionError, match="another question"):
        exchange.on_compared([], [])
    with pytest.raises(AssertionError, match="one sum a segment"):
        answer_compare([EMPTY_LEAF], [])
