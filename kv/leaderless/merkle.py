"""Anti-entropy: how two nodes find the keys in which they differ, asking as little as possible.

Two nodes compare only the buckets that both store. Those may be any set of ranges of the ring, so
they are numbered through, 0..size-1, alike on both sides (same ring epoch, same N), and the tree of
the comparison stands on the numbers, not on the ring:

    [0 ........................................ size)      root: one sum, kept in memory
    [0 ..)[..)[..)  ... fanout parts ...                   only parts whose sums differ are cut
       [..)[..) ...
         bucket                                            few keys: ask for keys and digests

Leaves add up (storage/buckets.py), so the sum of any part is the sum of its keys' digests, and
neither leaves nor inner nodes are stored. Two equal nodes compare one sum, whatever the ring looks
like.

    initiator                                   responder
    exchange = Exchange(shared)
    segments = exchange.next_segments()
    ours = sums of them             -- compare -->   theirs = sums; for each: equal, or their count
    exchange.on_compared(...)       <-------------
    ... until next_segments() is empty
    segments = exchange.next_key_segments()
    our keys and digests            -- keys ----->   theirs
    difference(ours, theirs)        <-------------   then push, pull and merge sets

The responder keeps nothing between two questions. Every message carries the ring epoch; a node with
another one refuses, because the numbers would mean other buckets. Writes go on meanwhile: a key
that changes between two questions is found or not, and if not, the next exchange finds it. This
file is pure; pacing, messages and scanning are the shell's.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby, pairwise
from operator import itemgetter
from typing import Final

from kv.cluster.ring import BucketRange, Ring
from raftgroups.transport import NodeId
from storage.buckets import EMPTY_LEAF, Leaf

DEFAULT_FANOUT: Final = 32
DEFAULT_DIRECT_KEYS: Final = 8
DEFAULT_BATCH: Final = 512


@dataclass(frozen=True, slots=True, order=True)
class Segment:
    """The shared buckets number first..end-1."""

    first: int
    end: int

    def __len__(self) -> int:
        return self.end - self.first

    def split(self, fanout: int) -> list[Segment]:
        """Up to `fanout` parts of nearly equal width, in order."""
        parts = min(fanout, len(self))
        edges = [self.first + len(self) * part // parts for part in range(parts + 1)]
        return [Segment(first, end) for first, end in pairwise(edges)]


class SharedBuckets:
    """The buckets that two nodes both store, numbered through. Invariant: the ranges are in order
    and apart."""

    def __init__(self, ranges: Iterable[BucketRange]) -> None:
        self.ranges = tuple(ranges)
        self._firsts = [found.first for found in self.ranges]
        self._offsets = [0, *accumulate(len(found) for found in self.ranges)]

    @classmethod
    def of(cls, ring: Ring, a: NodeId, b: NodeId, n: int) -> SharedBuckets:
        return cls(ring.shared(a, b, n))

    @property
    def root(self) -> Segment:
        return Segment(0, self._offsets[-1])

    def number_of(self, bucket: int) -> int | None:
        """The bucket's number; None if it is not shared."""
        place = bisect_right(self._firsts, bucket) - 1
        if place < 0 or bucket > self.ranges[place].last:
            return None
        return self._offsets[place] + bucket - self._firsts[place]

    def ranges_of(self, segment: Segment) -> list[BucketRange]:
        """Which buckets to scan for a segment, in order."""
        found = []
        place = bisect_right(self._offsets, segment.first) - 1
        at = segment.first
        while at < segment.end:
            first = self._firsts[place] + at - self._offsets[place]
            end = min(segment.end, self._offsets[place + 1])
            found.append(BucketRange(first, first + end - at - 1))
            at, place = end, place + 1
        return found


class SegmentSums:
    """Sums of some segments, fed a page at a time, so that a long scan can be done in pieces."""

    def __init__(self, shared: SharedBuckets, segments: Sequence[Segment]) -> None:
        assert all(a.end <= b.first for a, b in pairwise(segments)), (
            "segments overlap or are out of order"
        )
        self._shared = shared
        self._segments = segments
        self._firsts = [segment.first for segment in segments]
        self.sums: list[Leaf] = [EMPTY_LEAF] * len(segments)

    def ranges(self) -> list[BucketRange]:
        """What to scan."""
        return [part for segment in self._segments for part in self._shared.ranges_of(segment)]

    def add_keys(self, keys: Iterable[tuple[int, bytes, int]]) -> None:
        """(bucket, key, digest) in the order of buckets. Keys outside the segments are passed
        over."""
        for bucket, same in groupby(keys, itemgetter(0)):
            place = self._place(bucket)
            if place is not None:
                digests = [digest for _, _, digest in same]
                self.sums[place] = self.sums[place].plus(len(digests), sum(digests))

    def _place(self, bucket: int) -> int | None:
        number = self._shared.number_of(bucket)
        if number is None:
            return None
        place = bisect_right(self._firsts, number) - 1
        return place if place >= 0 and number < self._segments[place].end else None


def answer_compare(theirs: Sequence[Leaf], ours: Sequence[Leaf]) -> list[int | None]:
    """The responder's answer: for each segment None if the sums are equal, else its own number of
    keys in it."""
    assert len(theirs) == len(ours), "a comparison has one sum a segment on both sides"
    return [None if their == our else our.keys for their, our in zip(theirs, ours, strict=True)]


class Exchange:
    """The initiator's side of one comparison. Invariant: every shared bucket that may differ lies
    in exactly one of `_open` (to be compared) and `_few` (to be listed)."""

    def __init__(
        self,
        shared: SharedBuckets,
        *,
        fanout: int = DEFAULT_FANOUT,
        direct_keys: int = DEFAULT_DIRECT_KEYS,
        batch: int = DEFAULT_BATCH,
    ) -> None:
        """`direct_keys`: a segment with at most so many keys on both sides together is listed
        instead of cut, and so is one in which one side has nothing: a node that joins is filled in
        the order of buckets. `batch`: segments a message."""
        self._fanout = fanout
        self._direct_keys = direct_keys
        self._batch = batch
        self._open = [shared.root] if len(shared.root) else []
        self._few: list[Segment] = []
        self.compared = 0
        """Sums compared so far."""

    def next_segments(self) -> list[Segment]:
        """What to compare now, in order; empty once all differences are narrowed down."""
        return self._open[: self._batch]

    def on_compared(self, ours: Sequence[Leaf], answer: Sequence[int | None]) -> None:
        """The answer for exactly the segments of `next_segments`."""
        asked = self.next_segments()
        assert len(asked) == len(ours) == len(answer), "an answer to another question"
        self.compared += len(asked)
        following: list[Segment] = []
        for segment, our, their_keys in zip(asked, ours, answer, strict=True):
            if their_keys is None:
                continue
            few = our.keys + their_keys <= self._direct_keys
            if few or len(segment) == 1 or not our.keys or not their_keys:
                self._few.append(segment)
            else:
                following += segment.split(self._fanout)
        # The parts of the segments just compared come before all the others, so the order holds.
        self._open = following + self._open[len(asked) :]

    def next_key_segments(self) -> list[Segment]:
        """Where to list keys, in order; each is given once."""
        self._few.sort()
        given, self._few = self._few[: self._batch], self._few[self._batch :]
        return given

    @property
    def done(self) -> bool:
        return not self._open and not self._few


@dataclass(frozen=True, slots=True)
class Difference:
    push: tuple[bytes, ...]
    """Keys that only we have: send our set."""
    pull: tuple[bytes, ...]
    """Keys that only they have: ask for their set."""
    both: tuple[bytes, ...]
    """Keys that differ: send our set, they merge and answer what they have if it is more."""


def difference(
    ours: Iterable[tuple[bytes, int]], theirs: Iterable[tuple[bytes, int]]
) -> Difference:
    """What differs between two lists of (key, digest)."""
    mine, other = dict(ours), dict(theirs)
    return Difference(
        tuple(sorted(mine.keys() - other.keys())),
        tuple(sorted(other.keys() - mine.keys())),
        tuple(sorted(key for key in mine.keys() & other.keys() if mine[key] != other[key])),
    )


class PeerRoots:
    """The root with each peer, kept as leaves change: what two equal nodes compare.

    Invariant: `roots[peer]` is the sum of this node's leaves of all buckets that it shares with the
    peer. A new ring needs a new one, added up from the index.
    """

    def __init__(self, holders: Callable[[int], tuple[NodeId, ...]], me: NodeId) -> None:
        """`holders`: who is to have a bucket."""
        self._holders = holders
        self._me = me
        self.roots: dict[NodeId, Leaf] = {}

    def change_all(self, changes: Iterable[tuple[int, int, int]]) -> None:
        """(bucket, keys, total) that come to many leaves, or go if they are negative; those of the
        same owners are added up first. Buckets that this node does not store (it holds them for
        others) belong to no root."""
        sums: dict[tuple[NodeId, ...], tuple[int, int]] = {}
        holders = self._holders
        for bucket, more_keys, more in changes:
            owners = holders(bucket)
            keys, total = sums.get(owners, (0, 0))
            sums[owners] = keys + more_keys, total + more
        for owners, (keys, total) in sums.items():
            if self._me not in owners:
                continue
            for peer in owners:
                if peer != self._me:
                    root = self.roots.get(peer, EMPTY_LEAF)
                    self.roots[peer] = root.plus(keys, total)

    def root(self, peer: NodeId) -> Leaf:
        return self.roots.get(peer, EMPTY_LEAF)
