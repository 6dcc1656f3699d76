"""A shard's own two records: its counters, and the segments in which its events lie.

ShardState changes with every turn. `Segments` changes when a shard is split or merged and when
compaction gets on. Both are written in the same batch as the data that they speak of.

Segments. A shard writes its events into its own segment. What it inherited (a split gives both
children the parent's log, a merge gives one child both logs) stays in read-only ancestor segments.
Each source says which part of its segment counts for this shard: a range of keys and an interval of
revisions. A change of key k at revision r lies in the first source, own segment first, that covers
both.

    own       segment 9   revisions 51..      keys [m, -)
    ancestor  segment 4   revisions 1..50     keys [m, -)     its other half belongs to a sibling

Invariants: the own source is first and open-ended; ancestors end before it begins. `swept_*` is
the first event of the source that compaction has not examined (mvcc_compaction.py).

A split at a revision gives both children that revision, the sources cut to their keys, and a new
segment each. A merge makes the larger revision + 1 out of two numberings; below it the same number
meant something else on either side, so reads there are refused as compacted. The events stay, and
cursors (segment -> revision) still find them: the revisions of ONE key rise along all the segments
that it ever lay in.

    own       segment 12  revisions 802..     keys [c, -)
    ancestor  segment 9   revisions 51..70    keys [m, -)     what was absorbed
    ancestor  segment 8   revisions 51..801   keys [c, m)

`kept_from` says for such an ancestor from which revision on its events are there: the one numbering
had been compacted to another revision than the other.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from struct import Struct
from typing import Final

from storage.codec import Table, key_u64, seal, unseal
from storage.errors import CompactedError, FutureRevisionError

EMPTY_REVISION: Final = 1
"""The revision of a shard that was never written; the first write makes 2, as in etcd."""
NEVER_COMPACTED: Final = -1
"""So that a first compaction to 0 is allowed and a second is not, as in etcd."""
OPEN: Final = 2**64 - 1
"""The last revision of a source that is still written to."""
SUB_MAX: Final = 2**32 - 1

ABSORBED_MAX: Final = 64
"""How many absorbed shards a shard remembers."""

_STATE: Final = Struct(">IQQqQQ")
_LINEAGE: Final = Struct(">QQQQQQQBHH")
_U64: Final = Struct(">Q")
_SOURCE: Final = Struct(">QQQQIHBH")
_HAS_END: Final = 1
_HAS_KEPT: Final = 2


@dataclass(slots=True)
class ShardState:
    """Counters of one shard. revision: of the last change; dense. applied_index: of the last entry
    of the group's log whose effects are included. keys: how many there are now, of those below
    `counted`."""

    shard: int
    keyspace: int
    segment: int
    revision: int = EMPTY_REVISION
    compact_revision: int = NEVER_COMPACTED
    applied_index: int = 0
    keys: int = 0
    counted: bytes | None = None
    """After a split: up to where keys were counted anew (each replica at its own pace)."""
    epoch: int = 0
    """Rises with each split and merge."""
    merge_revision: int = 0
    """Of the last merge. While compact_revision is the same, the events below it are kept."""
    frozen_by: int = 0
    """The left neighbour that is about to absorb this shard; 0: not frozen."""
    frozen_merge: int = 0
    merging_with: int = 0
    """The right neighbour that is about to be absorbed; 0: none."""
    merge: int = 0
    last_merge: int = 0
    """The attempt that ended with the last absorption."""
    absorbed: tuple[int, ...] = ()
    """The shards that ended in this one or in those before it, the latest last."""

    def counts(self, key: bytes) -> bool:
        """Whether this key is among those that were counted."""
        return self.counted is None or key < self.counted

    def encode(self) -> tuple[bytes, bytes]:
        key = key_u64(Table.SHARD, self.shard)
        body = _STATE.pack(
            self.keyspace,
            self.segment,
            self.revision,
            self.compact_revision,
            self.applied_index,
            self.keys,
        )
        if self.epoch or self.frozen_by or self.merging_with:
            body += self._encode_lineage()
        return key, seal(key, body)

    def _encode_lineage(self) -> bytes:
        """Only there once a shard has a history of this kind: older programs read the rest."""
        counted = self.counted or b""
        fixed = _LINEAGE.pack(
            self.epoch,
            self.merge_revision,
            self.frozen_by,
            self.frozen_merge,
            self.merging_with,
            self.merge,
            self.last_merge,
            self.counted is not None,
            len(counted),
            len(self.absorbed),
        )
        return fixed + counted + b"".join(map(_U64.pack, self.absorbed))

    @classmethod
    def decode(cls, shard: int, record: bytes) -> ShardState:
        body = unseal(key_u64(Table.SHARD, shard), record)
        state = cls(shard, *_STATE.unpack_from(body))
        if len(body) > _STATE.size:
            *numbers, counting, size, absorbed = _LINEAGE.unpack_from(body, _STATE.size)
            state.epoch, state.merge_revision, state.frozen_by, state.frozen_merge = numbers[:4]
            state.merging_with, state.merge, state.last_merge = numbers[4:]
            at = _STATE.size + _LINEAGE.size
            state.counted = body[at : at + size] if counting else None
            at += size
            state.absorbed = tuple(
                _U64.unpack_from(body, at + 8 * place)[0] for place in range(absorbed)
            )
        return state

    def kept_from(self, source: Source) -> int:
        """From which revision on a source's events are there."""
        if 0 < self.merge_revision == self.compact_revision:
            return source.kept_from
        return max(self.compact_revision, 0)

    def keeps(self, source: Source) -> bool:
        """A merge has made the revisions of this source unreadable, and compaction none of them:
        its events are left for cursors."""
        return source.last_revision < self.merge_revision == self.compact_revision

    def check_readable(self, revision: int) -> None:
        if revision > self.revision:
            raise FutureRevisionError(
                f"revision {revision} is in the future: shard {self.shard} is at {self.revision}"
            )
        if revision < self.compact_revision:
            raise CompactedError(
                f"revision {revision} was compacted; shard {self.shard} can be read from "
                f"revision {self.compact_revision} on",
                self.compact_revision,
            )

    def check_compactable(self, revision: int) -> None:
        if revision <= self.compact_revision:
            raise CompactedError(
                f"shard {self.shard} was already compacted to revision {self.compact_revision}; "
                f"compacting to {revision} changes nothing",
                self.compact_revision,
            )
        if revision > self.revision:
            raise FutureRevisionError(
                f"cannot compact to revision {revision}: shard {self.shard} is at {self.revision}"
            )


@dataclass(frozen=True, slots=True)
class Source:
    """The part of a segment that counts for a shard. Ends are inclusive for revisions, exclusive
    for keys; end None is unbounded."""

    segment: int
    first_revision: int
    last_revision: int
    start: bytes
    end: bytes | None
    swept_revision: int = 0
    swept_sub: int = 0
    kept_from: int = 0
    """See the head of this file."""

    def holds_key(self, key: bytes) -> bool:
        return key >= self.start and (self.end is None or key < self.end)

    def meets(self, start: bytes, end: bytes | None) -> bool:
        """Whether it may hold keys of a range."""
        below = self.end is None or start < self.end
        return below and (end is None or self.start < end)

    def cut(self, start: bytes, end: bytes | None) -> Source | None:
        """What of it lies in a range of keys."""
        if not self.meets(start, end):
            return None
        low = max(self.start, start)
        high = min((bound for bound in (self.end, end) if bound is not None), default=None)
        return replace(self, start=low, end=high)

    def is_part(self, other: Source) -> bool:
        """The same source, perhaps with another position of the sweep."""
        return (self.segment, self.start) == (other.segment, other.start)

    def closed(self, revision: int) -> Source:
        """As an ancestor that ends at a revision. One into which nothing was written stays, too:
        cursors may name it."""
        return replace(self, last_revision=min(self.last_revision, revision))

    @property
    def empty(self) -> bool:
        return self.first_revision > self.last_revision


@dataclass(frozen=True, slots=True)
class Segments:
    own: Source
    ancestors: tuple[Source, ...] = ()

    def __post_init__(self) -> None:
        assert self.own.last_revision == OPEN
        assert all(a.last_revision < self.own.first_revision for a in self.ancestors)

    def locate(self, key: bytes, revision: int) -> int | None:
        """The segment with the change of this key at this revision."""
        if revision >= self.own.first_revision:
            return self.own.segment
        for source in self.ancestors:
            if source.first_revision <= revision <= source.last_revision and source.holds_key(key):
                return source.segment
        return None

    # --- splits and merges ---

    def divided(
        self, key: bytes, revision: int, left: int, right: int
    ) -> tuple[Segments, Segments]:
        """Both sides of `key`, each with a segment of its own from the next revision on."""
        own = self.own
        assert own.start < key
        assert own.end is None or key < own.end
        before = (own.closed(revision), *self.ancestors)
        sides = []
        for segment, start, end in ((left, own.start, key), (right, key, own.end)):
            cut = (source.cut(start, end) for source in before)
            ancestors = tuple(source for source in cut if source is not None)
            sides.append(Segments(Source(segment, revision + 1, OPEN, start, end), ancestors))
        return sides[0], sides[1]

    def kept(self, state: ShardState) -> list[Source]:
        """All sources as ancestors of a merged shard; `state` is that of the shard so far."""
        sources = (self.own.closed(state.revision), *self.ancestors)
        return [replace(source, kept_from=state.kept_from(source)) for source in sources]

    def of_segment(self, segment: int) -> list[Source]:
        return [source for source in (self.own, *self.ancestors) if source.segment == segment]

    # --- all of them ---

    def oldest_first(self) -> list[Source]:
        return sorted((self.own, *self.ancestors), key=lambda source: source.first_revision)

    def with_source(self, changed: Source) -> Segments:
        """The same with one source replaced (by its segment and first revision)."""
        if changed.segment == self.own.segment:
            return replace(self, own=changed)
        return replace(
            self,
            ancestors=tuple(changed if old.is_part(changed) else old for old in self.ancestors),
        )

    def without(self, gone: Source) -> Segments:
        assert gone is not self.own
        return replace(self, ancestors=tuple(a for a in self.ancestors if a is not gone))

    def encode(self) -> tuple[bytes, bytes]:
        key = key_u64(Table.SEGMENT, self.own.segment)
        parts = []
        for source in (self.own, *self.ancestors):
            start, end = source.start, source.end
            fixed = _SOURCE.pack(
                source.segment,
                source.first_revision,
                source.last_revision,
                source.swept_revision,
                source.swept_sub,
                len(start),
                (_HAS_END if end is not None else 0) | (_HAS_KEPT if source.kept_from else 0),
                len(end or b""),
            )
            kept = _U64.pack(source.kept_from) if source.kept_from else b""
            parts.append(fixed + start + (end or b"") + kept)
        return key, seal(key, b"".join(parts))

    @classmethod
    def decode(cls, segment: int, record: bytes) -> Segments:
        body = unseal(key_u64(Table.SEGMENT, segment), record)
        sources = []
        at = 0
        while at < len(body):
            found, first, last, swept_revision, swept_sub, start_size, flags, end_size = (
                _SOURCE.unpack_from(body, at)
            )
            at += _SOURCE.size
            start = body[at : at + start_size]
            at += start_size
            end = body[at : at + end_size] if flags & _HAS_END else None
            at += end_size
            kept_from = 0
            if flags & _HAS_KEPT:
                (kept_from,) = _U64.unpack_from(body, at)
                at += _U64.size
            sources.append(
                Source(found, first, last, start, end, swept_revision, swept_sub, kept_from)
            )
        return cls(sources[0], tuple(sources[1:]))
