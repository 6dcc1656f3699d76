"""Which buckets a node may answer reads for: those whose data it surely has. Pure.

A node that becomes an owner (it joined, another one left or died, its disk was lost) has not got
the buckets yet. Until it has them, "I hold nothing of this key" would be a lie that counts towards
a read quorum, so it does not answer reads there: they count it as failed and ask others. Writes it
takes from the first moment on.

    lacking = what the view says it is to have - what it has        fetched by comparing with others

A range is had once it was compared with `needed` of its sources, the owners of today. A write that
was acknowledged by W of N is then among what it got, as far as R + W > N promises that to a reader:
a quorum of sources meets every quorum of writers. What it no longer holds it no longer has; if it
becomes an owner again, it fetches again. What a node has is kept on its disk with the members.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from kv.cluster.ring import BucketRange
from kv.leaderless.ranges import Ranges, common, holds, joined, without
from kv.leaderless.view import RingView
from raftgroups.transport import NodeId


class Filling:
    """Of one keyspace. Invariant: `has` is within `held`, the buckets of the view."""

    def __init__(self, node: NodeId, n: int, has: Ranges) -> None:
        self._node = node
        self._n = n
        self.has = has
        self.lacking: Ranges = ()
        self._view: RingView | None = None

    def look(self, view: RingView) -> None:
        """Go by this view."""
        held = view.held(self._node, self._n)
        self._view = view
        self.has = common(self.has, held)
        self.lacking = without(held, self.has)

    def may_read(self, bucket: int) -> bool:
        return not self.lacking or not holds(self.lacking, bucket)

    def sources(self) -> frozenset[NodeId]:
        """Whom to compare with."""
        return frozenset(
            node
            for found, owners in self._parts()
            for node in owners
            if common([found], self.lacking)
        )

    def compared_with(self, done: Collection[NodeId]) -> bool:
        """Take as had what was compared with enough of its sources; whether nothing lacks."""
        filled = [
            part
            for found, owners in self._parts()
            if sum(node in done for node in owners) >= needed(len(owners), self._n)
            for part in common([found], self.lacking)
        ]
        self.has = joined([*self.has, *filled])
        self.lacking = without(self.lacking, self.has)
        return not self.lacking

    def _parts(self) -> list[tuple[BucketRange, tuple[NodeId, ...]]]:
        assert self._view is not None, "it was given no view"
        return [
            (found, tuple(node for node in owners if node != self._node))
            for found, owners, _ in self._view.parts(self._n)
        ]


def needed(sources: int, n: int) -> int:
    """With how many sources to compare."""
    return min(sources, n // 2 + 1)


def all_has(node: NodeId, view: RingView, counts: Mapping[int, int]) -> dict[int, Ranges]:
    """What a founder has: everything, since there is nothing yet. `counts`: N by keyspace."""
    return {number: view.held(node, n) for number, n in counts.items()}
