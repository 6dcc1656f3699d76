"""The sums with each peer, in memory, so that two equal nodes compare one number.

    leaf changes of each commit --> PeerRoots of the keyspace     merkle.py
    a new ring, damage          --> load: add up the index anew, a slice a pass

A load goes bucket by bucket while writes go on. `_summed` says how far it is: a change below it is
added as it comes, one beyond it will be found in the index, which a slice sees as of the last
commit that was told. So a load needs no snapshot, however long it takes. Until it is done there is
no root and whoever wants to compare waits (`root` gives None).
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
from storage.buckets import BUCKETS, Leaf
from storage.objects import scan_index

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
        self._summed = 0
        """Buckets below this one are in the sums."""
        self.loads = 0

    def load(self) -> None:
        """Begin anew: the ring changed, or what was lost is in no sum."""
        self.loads += 1
        sums = self._sums = PeerRoots(partial(self._view().holders, n=self._keyspace.n), self._node)
        self._summed = 0
        name = f"load the roots of keyspace {self._keyspace.number}"
        self._procedures.start(partial(self._add_up, sums), name)

    async def _add_up(self, sums: PeerRoots) -> None:
        number = self._keyspace.number
        while self._sums is sums:
            page = scan_index(
                self._replica.reader(), number, self._summed, BUCKETS - 1, limit=SLICE
            )
            if page.damaged:
                self._replica.mend_index(number, page.damaged)
            sums.change_all([(bucket, 1, digest) for bucket, _, digest in page.items])
            self._summed = BUCKETS if page.next is None else page.next
            if page.next is None:
                return
            await self._procedures.pause(PAUSE_S)

    def changed(self, changes: Iterable[tuple[int, int, int]]) -> None:
        """(bucket, keys, total): what one commit did."""
        if self._sums is not None:
            summed = self._summed
            self._sums.change_all([change for change in changes if change[0] < summed])

    def root(self, peer: NodeId) -> Leaf | None:
        if self._sums is None or self._summed < BUCKETS:
            return None
        return self._sums.root(peer)
