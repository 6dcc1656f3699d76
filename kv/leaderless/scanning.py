"""The token index as a comparison needs it, on both sides: sums of segments, keys with digests.

Every scan goes a slice a pass of the loop, each slice over what is committed by then; writes go on
in between, and what they change is found or not (merkle.py). Roots come from memory (roots.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from kv.leaderless.merkle import Segment, SegmentSums, SharedBuckets
from kv.leaderless.parts import Parts
from kv.leaderless.procedure import Procedures
from kv.leaderless.roots import Roots
from raftgroups.transport import NodeId
from storage.buckets import Leaf
from storage.objects import IndexPage, scan_index

ROOT_TRIES: Final = 200
ROOT_PAUSE_S: Final = 0.1
SCAN_COST: Final = 20
"""What a scan costs, empty or not, in rows."""
LISTED_MIN: Final = 64
"""Rows that are looked at in one go at least."""


class Scanner:
    def __init__(
        self,
        parts: Parts,
        procedures: Procedures,
        roots: Mapping[int, Roots],
        *,
        slice_rows: int,
        pause_s: float,
    ) -> None:
        """`slice_rows` in one pass of the loop, `pause_s` after each."""
        self._parts = parts
        self._procedures = procedures
        self._roots = roots
        self._slice = slice_rows
        self._pause_s = pause_s
        self._scanned = 0

    async def sums(
        self, keyspace: int, shared: SharedBuckets, segments: Sequence[Segment], peer: NodeId
    ) -> list[Leaf] | None:
        """One a segment; None: the roots are still being added up."""
        if list(segments) == [shared.root]:
            root = await self._root(keyspace, peer)
            return None if root is None else [root]
        sums = SegmentSums(shared, segments)
        for part in sums.ranges():
            first: int | None = part.first
            while first is not None:
                page = self._page(keyspace, first, part.last, self._slice)
                sums.add_keys(page.items)
                first = page.next
                await self._breathe()
        return sums.sums

    async def keys(
        self,
        keyspace: int,
        shared: SharedBuckets,
        segments: Sequence[Segment],
        *,
        limit: int | None,
    ) -> tuple[list[tuple[bytes, int]], int]:
        """Keys and digests of whole buckets, at most about `limit`, and the number up to which. A
        key of which nothing can be read is left out: the other side sends it."""
        found: list[tuple[bytes, int]] = []
        for segment in segments:
            for part in shared.ranges_of(segment):
                first: int | None = part.first
                while first is not None:
                    rows = self._slice
                    if limit is not None:
                        rows = min(rows, max(LISTED_MIN, limit - len(found)))
                    page = self._page(keyspace, first, part.last, rows)
                    found += [(key, digest) for _, key, digest in page.items]
                    first = page.next
                    if limit is not None and len(found) >= limit:
                        number = shared.number_of(part.last if first is None else first - 1)
                        assert number is not None, "a bucket of a shared range"
                        return found, number + 1
                    await self._breathe()
        return found, segments[-1].end if segments else 0

    def _page(self, keyspace: int, first: int, last: int, rows: int) -> IndexPage:
        replica = self._parts.replica
        page = scan_index(replica.reader(), keyspace, first, last, limit=rows)
        if page.damaged:
            replica.mend_index(keyspace, page.damaged)
        self._scanned += len(page.items) + SCAN_COST
        return page

    async def _breathe(self) -> None:
        if self._scanned >= self._slice:
            self._scanned = 0
            await self._procedures.pause(self._pause_s)

    async def _root(self, keyspace: int, peer: NodeId) -> Leaf | None:
        for _ in range(ROOT_TRIES):
            roots = self._roots.get(keyspace)
            if roots is None:
                return None
            root = roots.root(peer)
            if root is not None:
                return root
            await self._procedures.pause(ROOT_PAUSE_S)
        return None
