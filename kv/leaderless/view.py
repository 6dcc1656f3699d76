"""Who stores what, as one node sees it now: the ring, the ring to come, their epoch. Pure.

    serving    the ring that reads use: all members but those that are joining
    arriving   the ring as it will be: all members but those that are leaving; None if that is the
               same ring

A key's owners are those of the serving ring. While a change is under way its `arrivals` are the
owners in the ring to come that are none now: they get every write too, so that nothing is missing
when the change is done. `holders` are both. A view is immutable: gossip
(kv/cluster/membership.py) makes a new one with each change, and operations under way go on with
theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Final

import msgspec

from kv.cluster.membership import Membership, RingEpoch
from kv.cluster.ring import DEFAULT_VNODES, BucketRange, Member, Ring
from kv.leaderless.ranges import Ranges, joined
from raftgroups.transport import NodeId
from storage.buckets import BUCKETS, bucket_of

EPOCH_BYTES: Final = 16
PLACES_OF_MEMBERS: Final = 32
"""In larger rings a place names too many nodes to be kept for each token."""

Reachable = Callable[[NodeId], bool]


class Place(msgspec.Struct, frozen=True, gc=False):
    """Where one key lives."""

    owners: tuple[NodeId, ...]
    """The preference list, nearest first."""
    fallbacks: tuple[NodeId, ...]
    """The nodes past it, in the order of the walk."""
    arrivals: tuple[NodeId, ...] = ()
    """Who will be an owner when the change of members that is under way is done."""

    @property
    def all(self) -> tuple[NodeId, ...]:
        return self.owners + self.fallbacks

    @property
    def holders(self) -> tuple[NodeId, ...]:
        """Who is to have the key: owners now or soon."""
        return self.owners + self.arrivals


@dataclass(frozen=True, slots=True)
class RingView:
    ring: Ring
    epoch: bytes
    """RingEpoch.as_int() in 16 bytes; compared for equality."""
    arriving: Ring | None = None
    members: frozenset[NodeId] = frozenset()
    """All that are not declared dead, whatever they do."""
    _known: dict[tuple[NodeId, NodeId, int], Ranges] = field(
        default_factory=dict, compare=False, repr=False
    )
    """Answers of `shared`, which a large ring makes dear."""

    _places: dict[tuple[int, int | None, int], Place] = field(
        default_factory=dict, compare=False, repr=False
    )
    """By where the walks begin: as many as the ring has tokens, at most."""

    @classmethod
    def of_nodes(cls, nodes: Iterable[NodeId], vnodes: int = DEFAULT_VNODES) -> RingView:
        """All normal and alike: for tests."""
        members = sorted(set(nodes))
        text = "\n".join([str(vnodes), *members]).encode()
        fingerprint = int.from_bytes(blake2b(text, digest_size=8).digest(), "big")
        epoch = RingEpoch(len(members), fingerprint).as_int().to_bytes(EPOCH_BYTES, "big")
        ring = Ring(Member(node, vnodes) for node in members)
        return cls(ring, epoch, None, frozenset(members))

    @classmethod
    def of(cls, membership: Membership) -> RingView:
        # In one order everywhere, so that two runs of one seed do the same.
        serving = sorted(membership.serving(), key=lambda member: member.node)
        arriving = sorted(membership.arriving(), key=lambda member: member.node)
        epoch = membership.ring_epoch().as_int().to_bytes(EPOCH_BYTES, "big")
        return cls(
            Ring(serving),
            epoch,
            None if serving == arriving else Ring(arriving),
            frozenset(membership.infos),
        )

    @property
    def epoch_number(self) -> int:
        return int.from_bytes(self.epoch, "big")

    def place(self, key: bytes, n: int) -> Place:
        bucket = bucket_of(key)
        if len(self.ring.members) > PLACES_OF_MEMBERS:
            return self._place(bucket, n)
        arriving = None if self.arriving is None else self.arriving.start_of(bucket)
        walks = self.ring.start_of(bucket), arriving, n
        place = self._places.get(walks)
        if place is None:
            place = self._places[walks] = self._place(bucket, n)
        return place

    def _place(self, bucket: int, n: int) -> Place:
        owners = self.ring.preference(bucket, n)
        arrivals: tuple[NodeId, ...] = ()
        if self.arriving is not None:
            arrivals = tuple(
                node for node in self.arriving.preference(bucket, n) if node not in owners
            )
        if len(owners) == len(self.ring.members):
            return Place(owners, (), arrivals)
        fallbacks = self.ring.fallbacks(bucket, n)
        if arrivals:
            fallbacks = (node for node in fallbacks if node not in arrivals)
        return Place(owners, tuple(fallbacks), arrivals)

    def holders(self, bucket: int, n: int) -> tuple[NodeId, ...]:
        owners = self.ring.preference(bucket, n)
        if self.arriving is None:
            return owners
        after = self.arriving.preference(bucket, n)
        return owners + tuple(node for node in after if node not in owners)

    def holds_all(self, node: NodeId, n: int) -> bool:
        """Whether the ring is so small, and still, that the node is an owner of every key."""
        members = self.ring.members
        return self.arriving is None and len(members) <= n and node in members

    def parts(self, n: int) -> Iterator[tuple[BucketRange, tuple[NodeId, ...], tuple[NodeId, ...]]]:
        """The whole ring in order, cut where owners or arrivals change: (range, owners, arrivals).
        Nothing while nobody serves."""
        if not self.ring.members:
            return
        if self.arriving is None:
            for found, owners in self.ring.ranges(n):
                yield found, owners, ()
            return
        theirs = self.arriving.ranges(n) if self.arriving.members else iter(())
        everything = BucketRange(0, BUCKETS - 1)
        their_range, after = next(theirs, (everything, ()))
        for our_range, owners in self.ring.ranges(n):
            first = our_range.first
            while first <= our_range.last:
                last = min(our_range.last, their_range.last)
                arrivals = tuple(node for node in after if node not in owners)
                yield BucketRange(first, last), owners, arrivals
                first = last + 1
                if their_range.last < first < BUCKETS:
                    their_range, after = next(theirs)

    def held(self, node: NodeId, n: int) -> Ranges:
        """The buckets that a node is to have, now or soon."""
        return self.shared(node, node, n)

    def shared(self, a: NodeId, b: NodeId, n: int) -> Ranges:
        """The buckets that both are to have: what they can repair with each other."""
        known = self._known.get((a, b, n))
        if known is None:
            known = self._known[a, b, n] = joined(
                found
                for found, owners, arrivals in self.parts(n)
                if a in owners + arrivals and b in owners + arrivals
            )
        return known
