"""A digest of what a shard holds, to compare replicas that stand at the same applied index.

It covers every live key in order with all of its record (create and mod revision, version, lease,
value, time of modification), as of one revision; not the event log and not tombstones, because how
far compaction has removed rows differs between replicas. The walk is made of bounded steps at a
fixed revision, so writes may go on meanwhile; if compaction overtakes it, CompactedError ends it
and it has to be begun anew.
"""

from __future__ import annotations

from hashlib import blake2b
from struct import Struct
from typing import Final, NamedTuple

from storage.mvcc_view import View

_FIXED: Final = Struct(">HQQQQIQ")
DIGEST_BYTES: Final = 16


class ShardDigest(NamedTuple):
    """Two replicas with equal revision and unequal digest have diverged."""

    applied_index: int
    revision: int
    keys: int
    digest: bytes


class ShardHash:
    """One walk, as of a revision (0: the newest). Call `step` until it returns the digest."""

    __slots__ = ("_applied_index", "_hash", "_keys", "_next", "_revision")

    def __init__(self, view: View, revision: int = 0) -> None:
        self._applied_index = view.state.applied_index
        self._revision = revision or view.state.revision
        self._hash = blake2b(digest_size=DIGEST_BYTES)
        self._next: bytes = view.segments.own.start
        self._keys = 0

    def step(self, view: View, *, max_keys: int = 1_000) -> ShardDigest | None:
        """Take in the next keys, as `view` (of the same shard, maybe later) shows them."""
        page = view.range(
            self._next,
            view.segments.own.end,
            self._revision,
            limit=max_keys,
            max_examined=max_keys,
        )
        for key, create, mod, version, lease, value, modified_ms in page.items:
            fixed = _FIXED.pack(len(key), create, mod, version, lease, len(value), modified_ms)
            self._hash.update(fixed)
            self._hash.update(key)
            self._hash.update(value)
        self._keys += len(page.items)
        if page.resume is not None:
            self._next = page.resume
            return None
        return ShardDigest(self._applied_index, self._revision, self._keys, self._hash.digest())
