"""The other side of repair: what this node answers to peers that compare with it.

    Compare    sums of the same segments: equal, or how many keys are here
    ListKeys   keys and digests of segments, a bounded number of them
    Fetch      sets, as many as fit
    Holds      whether exactly this is held of each key

Nothing is kept between two questions, and a bounded number of them is worked on at once.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from functools import partial
from typing import Final

from kv.leaderless import frames
from kv.leaderless.frames import Compare, Fetch, Holds, ListKeys, Status
from kv.leaderless.merkle import Segment, SharedBuckets, answer_compare
from kv.leaderless.messenger import SendReply
from kv.leaderless.parts import Parts
from kv.leaderless.procedure import Procedures
from kv.leaderless.scanning import Scanner
from raftgroups.transport import NodeId
from storage.buckets import DIGEST_BYTES, LEAF_BYTES, Leaf
from storage.errors import CorruptRecordError
from storage.objects import read_digest

SERVING_MAX: Final = 8
"""Compares and listings of all peers that are worked on at once; the next is put off."""
LISTED_MAX: Final = 4_096
"""Keys in one answer, beyond which it ends with the bucket."""


class Answering:
    def __init__(
        self,
        parts: Parts,
        procedures: Procedures,
        scanner: Scanner,
        keyspaces: Container[int],
        *,
        fetch_bytes: int,
    ) -> None:
        self._parts = parts
        self._procedures = procedures
        self._scanner = scanner
        self._keyspaces = keyspaces
        self._fetch_bytes = fetch_bytes
        self._serving = 0

    def serve(self, peer: NodeId, request: Compare | ListKeys, reply: SendReply) -> None:
        if request.ring != self._parts.view().epoch:
            reply(Status.OTHER_RING, b"")
        elif request.keyspace not in self._keyspaces:
            reply(Status.FAILED, b"it does not know this keyspace")
        elif self._serving >= SERVING_MAX:
            reply(Status.LATER, b"50")
        else:
            n = self._parts.keyspaces.n_of(request.keyspace)
            shared = SharedBuckets(self._parts.view().shared(self._parts.node, peer, n))
            segments = [Segment(first, end) for first, end in request.segments]
            if not _fit(segments, shared.root.end):
                reply(Status.FAILED, b"these are no segments of what is shared")
                return
            self._serving += 1
            work = partial(self._served, peer, request, shared, segments, reply)
            self._procedures.start(work, f"compare with {peer}")

    async def _served(
        self,
        peer: NodeId,
        request: Compare | ListKeys,
        shared: SharedBuckets,
        segments: list[Segment],
        reply: SendReply,
    ) -> None:
        try:
            if isinstance(request, ListKeys):
                found, until = await self._scanner.keys(
                    request.keyspace, shared, segments, limit=LISTED_MAX
                )
                listed = [(key, digest.to_bytes(DIGEST_BYTES, "big")) for key, digest in found]
                reply(Status.LISTED, frames.encode_body((listed, until)))
                return
            theirs = [Leaf.from_bytes(each) for each in request.sums if len(each) == LEAF_BYTES]
            if len(theirs) != len(segments):
                reply(Status.FAILED, b"it takes one sum a segment")
                return
            ours = await self._scanner.sums(request.keyspace, shared, segments, peer)
            if ours is None:
                reply(Status.LATER, b"100")
            else:
                reply(Status.COMPARED, frames.encode_body(answer_compare(theirs, ours)))
        finally:
            self._serving -= 1

    def fetch(self, request: Fetch, reply: SendReply) -> None:
        """As many sets as fit, at least one."""
        sets: list[bytes] = []
        size = 0
        for key in request.keys:
            encoded = self._parts.replica.read_encoded(request.keyspace, key)
            sets.append(encoded if isinstance(encoded, bytes) else b"")
            size += len(sets[-1])
            if size >= self._fetch_bytes:
                break
        reply(Status.FETCHED, frames.encode_body(sets))

    def holds(self, request: Holds, reply: SendReply) -> None:
        reader = self._parts.replica.reader()
        answers: list[int] = []
        for key, digest in zip(request.keys, request.digests, strict=False):
            try:
                held = read_digest(reader, request.keyspace, key)
            except CorruptRecordError:
                held = None
            answers.append(int(held is not None and held == int.from_bytes(digest, "big")))
        reply(Status.HOLDS, frames.encode_body(answers))


def _fit(segments: Sequence[Segment], end: int) -> bool:
    """In order, apart, not empty, within what is shared."""
    last = 0
    for segment in segments:
        if segment.first < last or segment.end <= segment.first:
            return False
        last = segment.end
    return bool(segments) and last <= end
