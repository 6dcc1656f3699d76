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

_STATE: Final = Struct(">IQQqQQ")
_SOURCE: Final = Struct(">QQQQIHBH")


@dataclass(slots=True)
class ShardState:
    """Counters of one shard. revision: of the last change; dense. applied_index: of the last entry
    of the group's log whose effects are included. keys: how many there are now."""

    shard: int
    keyspace: int
    segment: int
    revision: int = EMPTY_REVISION
    compact_revision: int = NEVER_COMPACTED
    applied_index: int = 0
    keys: int = 0

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
        return key, seal(key, body)

    @classmethod
    def decode(cls, shard: int, record: bytes) -> ShardState:
        return cls(shard, *_STATE.unpack(unseal(key_u64(Table.SHARD, shard), record)))

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

    def holds_key(self, key: bytes) -> bool:
        return key >= self.start and (self.end is None or key < self.end)


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

    def oldest_first(self) -> list[Source]:
        return sorted((self.own, *self.ancestors), key=lambda source: source.first_revision)

    def with_source(self, changed: Source) -> Segments:
        """The same with one source replaced (by its segment and first revision)."""
        if changed.segment == self.own.segment:
            return replace(self, own=changed)
        return replace(
            self,
            ancestors=tuple(
                changed if (old.segment, old.start) == (changed.segment, changed.start) else old
                for old in self.ancestors
            ),
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
                end is not None,
                len(end or b""),
            )
            parts.append(fixed + start + (end or b""))
        return key, seal(key, b"".join(parts))

    @classmethod
    def decode(cls, segment: int, record: bytes) -> Segments:
        body = unseal(key_u64(Table.SEGMENT, segment), record)
        sources = []
        at = 0
        while at < len(body):
            found, first, last, swept_revision, swept_sub, start_size, has_end, end_size = (
                _SOURCE.unpack_from(body, at)
            )
            at += _SOURCE.size
            start = body[at : at + start_size]
            at += start_size
            end = body[at : at + end_size] if has_end else None
            at += end_size
            sources.append(Source(found, first, last, start, end, swept_revision, swept_sub))
        return cls(sources[0], tuple(sources[1:]))
