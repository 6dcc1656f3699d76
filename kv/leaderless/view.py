"""Who stores what, as one node sees it now: a ring, its epoch, and who can be reached. Pure.

Today the members are the nodes whose cards this node has, all normal and alike (`of_nodes`);
gossip (kv/cluster/membership.py) will make the same value out of what it knows. A view is
immutable: a change of members makes a new one, and operations under way go on with theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

from kv.cluster.membership import RingEpoch
from kv.cluster.ring import DEFAULT_VNODES, Member, Ring
from raftgroups.transport import NodeId
from storage.buckets import bucket_of

EPOCH_BYTES: Final = 16

Reachable = Callable[[NodeId], bool]


@dataclass(frozen=True, slots=True)
class Place:
    """Where one key lives."""

    owners: tuple[NodeId, ...]
    """The preference list, nearest first."""
    fallbacks: tuple[NodeId, ...]
    """The nodes past it, in the order of the walk."""

    @property
    def all(self) -> tuple[NodeId, ...]:
        return self.owners + self.fallbacks


@dataclass(frozen=True, slots=True)
class RingView:
    ring: Ring
    epoch: bytes
    """RingEpoch.as_int() in 16 bytes; compared for equality."""

    @classmethod
    def of_nodes(cls, nodes: Iterable[NodeId], vnodes: int = DEFAULT_VNODES) -> RingView:
        members = sorted(set(nodes))
        text = "\n".join([str(vnodes), *members]).encode()
        fingerprint = int.from_bytes(blake2b(text, digest_size=8).digest(), "big")
        epoch = RingEpoch(len(members), fingerprint).as_int().to_bytes(EPOCH_BYTES, "big")
        return cls(Ring(Member(node, vnodes) for node in members), epoch)

    def place(self, key: bytes, n: int) -> Place:
        bucket = bucket_of(key)
        owners = self.ring.preference(bucket, n)
        if len(owners) == len(self.ring.members):
            return Place(owners, ())
        return Place(owners, tuple(self.ring.fallbacks(bucket, n)))
