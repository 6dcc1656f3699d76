"""The sums with each peer, in memory, so that two equal nodes compare one number.

    leaf changes of each commit --> PeerRoots of the keyspace     merkle.py
    a new ring, a rebuilt leaf  --> load: add up all leaves anew, a slice a pass

A load goes over one snapshot while writes go on: what they change after the snapshot is added as it
comes, and since leaves add up, the order does not matter. Until it is done there is no root and
whoever wants to compare waits (`root` gives None).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Final

from kv.leaderless.keyspace import Keyspace
from kv.leaderless.merkle import PeerRoots
from kv.leaderless.procedure import Procedures
from kv.leaderless.replica import Replica
from kv.leaderless.view import RingView
from raftgroups.transport import NodeId
from storage.buckets import BUCKETS, EMPTY_LEAF, Leaf
from storage.engine import Reader
from storage.objects import scan_leaves
from storage.versions import LeafChange

SLICE: Final = 2_000
PAUSE_S: Final = 0.002


class Roots:
    """Of one keyspace."""

    def __init__(
        self,
        node: NodeId,
        keyspace: Keyspace,
        *,
        view: Callable[[], RingView],
        replica: Replica,
        procedures: Procedures,
    ) -> None:
        self._node = node
        self._keyspace = keyspace
        self._view = view
        self._replica = replica
        self._procedures = procedures
        self._sums: PeerRoots | None = None
        self._loaded = False
        self.loads = 0

    def load(self) -> None:
        """Begin anew: the ring changed, or a leaf was built again."""
        self.loads += 1
        n = self._keyspace.n
        view = self._view()
        sums = self._sums = PeerRoots(partial(view.holders, n=n), self._node)
        self._loaded = False
        name = f"load the roots of keyspace {self._keyspace.number}"
        self._procedures.start(self._load(sums), name)

    async def _load(self, sums: PeerRoots) -> None:
        reader = self._replica.open_snapshot()
        if self._sums is not sums:
            reader.close()
            return
        try:
            await self._add_up(sums, reader)
        finally:
            reader.close()

    async def _add_up(self, sums: PeerRoots, reader: Reader) -> None:
        first = 0
        while first < BUCKETS:
            page = scan_leaves(reader, self._keyspace.number, first, BUCKETS - 1, limit=SLICE)
            if self._sums is not sums:
                return
            for bucket, leaf in page.items:
                sums.change(bucket, EMPTY_LEAF, leaf)
            if page.damaged:
                self._replica.rebuild_leaves(self._keyspace.number, page.damaged)
                return  # the changes that this makes begin a load of their own
            if not page.more:
                break
            first = page.items[-1][0] + 1
            await self._procedures.pause(PAUSE_S)
        if self._sums is sums:
            self._loaded = True

    def changed(self, changes: Iterable[LeafChange]) -> None:
        """What one commit did."""
        number = self._keyspace.number
        known: list[tuple[int, Leaf, Leaf]] = []
        for keyspace, bucket, old, new in changes:
            if keyspace == number:
                if old is None:
                    self.load()
                    return
                known.append((bucket, old, new))
        if self._sums is not None:
            self._sums.change_all(known)

    def root(self, peer: NodeId) -> Leaf | None:
        if self._sums is None or not self._loaded:
            return None
        return self._sums.root(peer)
