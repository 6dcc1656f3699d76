"""One version of everything the meta group knows: immutable, with its bytes; key -> shard. Pure.

A view is what nodes cache: replicas of group 0 have it from their machine, the others are sent its
bytes. A larger version is a later state of the same cluster, never another branch: only committed
entries make versions.

Invariant (`check_whole`): the ranges of a strong keyspace's shards cover all keys, each once.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

import msgspec

from raftgroups.meta.records import (
    META_KEYSPACE,
    META_SHARD,
    KeyspaceRecord,
    NodeRecord,
    OperationRecord,
    Regime,
    RingRecord,
    ShardRecord,
)

VIEW_VERSION: Final = 1
FIRST_PRINTABLE: Final = 0x20
PRINTABLE: Final = 0x7F - FIRST_PRINTABLE
"""Printable ASCII, the space among it."""
SHARDS_MAX: Final = 1024
"""That a keyspace may begin with."""

Bounds = tuple[bytes, bytes | None]


def even_ranges(shards: int) -> list[Bounds]:
    """All keys cut into so many ranges, evenly over the keys that begin with two printable
    characters. Each edge is such a pair."""
    assert 0 < shards <= SHARDS_MAX
    edges = [_pair(place * PRINTABLE**2 // shards) for place in range(1, shards)]
    return list(zip([b"", *edges], [*edges, None], strict=True))


def _pair(number: int) -> bytes:
    first, second = divmod(number, PRINTABLE)
    return bytes((FIRST_PRINTABLE + first, FIRST_PRINTABLE + second))


class Counters(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The next ids."""

    shard: int = 1
    segment: int = 1
    keyspace: int = 1
    operation: int = 1


FIRST_IDS: Final = Counters()


class ShardTable:
    """The shards of one keyspace, by range."""

    __slots__ = ("_starts", "shards")

    def __init__(self, shards: Sequence[ShardRecord]) -> None:
        self.shards: Final = tuple(sorted(shards, key=lambda shard: shard.start))
        self._starts = [shard.start for shard in self.shards]

    def of_key(self, key: bytes) -> ShardRecord:
        return self.shards[bisect_right(self._starts, key) - 1]

    def before(self, end: bytes | None) -> ShardRecord:
        """The shard with the last keys below `end`."""
        if end is None:
            return self.shards[-1]
        return self.shards[max(0, _first_at_least(self._starts, end) - 1)]

    def overlapping(self, start: bytes, end: bytes | None) -> tuple[ShardRecord, ...]:
        """In order. Of an empty range: the shard of its start."""
        first = bisect_right(self._starts, start) - 1
        last = len(self._starts) if end is None else _first_at_least(self._starts, end)
        return self.shards[first : max(last, first + 1)]

    def check_whole(self) -> None:
        shards = self.shards
        assert shards[0].start == b""
        assert shards[-1].end is None
        for left, right in pairwise(shards):
            assert left.end == right.start, (left, right)
            assert left.start < right.start, (left, right)


def _first_at_least(starts: list[bytes], key: bytes) -> int:
    place = bisect_right(starts, key)
    return place - 1 if place and starts[place - 1] == key else place


@dataclass(frozen=True, slots=True)
class MetaView:
    version: int = 0
    """Of the group's state; 0: nothing is known, the cluster has not begun."""
    nodes: Mapping[str, NodeRecord] = field(default_factory=dict)
    keyspaces: Mapping[int, KeyspaceRecord] = field(default_factory=dict)
    shards: Mapping[int, ShardRecord] = field(default_factory=dict)
    operations: Mapping[int, OperationRecord] = field(default_factory=dict)
    next: Counters = FIRST_IDS
    ring: RingRecord | None = None
    """None: no keyspace was ever leaderless."""
    _tables: dict[int, ShardTable] = field(
        default_factory=dict, compare=False, repr=False, hash=False
    )

    def keyspace_named(self, name: str) -> KeyspaceRecord | None:
        return next((each for each in self.keyspaces.values() if each.name == name), None)

    def table(self, keyspace: int) -> ShardTable | None:
        """By range; None for a keyspace without shards."""
        found = self._tables.get(keyspace)
        if found is None:
            shards = self.shards_of(keyspace)
            if not shards:
                return None
            found = self._tables[keyspace] = ShardTable(shards)
            found.check_whole()
        return found

    def shards_of(self, keyspace: int) -> list[ShardRecord]:
        """In order of their ranges; the meta group is nobody's."""
        found = [
            each
            for each in self.shards.values()
            if each.keyspace == keyspace and each.shard != META_SHARD
        ]
        return sorted(found, key=lambda shard: shard.start)

    def is_over(self, shard: int) -> bool:
        """It was absorbed or dropped, for good: a number is given out once, and what is over in one
        view is in every later one. (One that this view has not heard of yet, or that a split is
        about to make, is not.)"""
        made = 0 < shard < self.next.shard and shard not in self.shards
        return made and not any(shard in each.new_shards for each in self.operations.values())

    def shards_on(self, node: str) -> Iterator[ShardRecord]:
        return (each for each in self.shards.values() if node in each.replicas)

    @property
    def leaderless(self) -> list[KeyspaceRecord]:
        """The keyspaces of that regime, the oldest first."""
        found = [each for each in self.keyspaces.values() if each.regime is Regime.LEADERLESS]
        return sorted(found, key=lambda each: each.keyspace)

    @property
    def meta_replicas(self) -> tuple[str, ...]:
        meta = self.shards.get(META_SHARD)
        return () if meta is None else meta.replicas

    def operation_of(self, shard: int) -> OperationRecord | None:
        return next((each for each in self.operations.values() if shard in each.shards), None)


def meta_shard(replicas: tuple[str, ...]) -> ShardRecord:
    return ShardRecord(META_SHARD, META_KEYSPACE, b"", None, 0, replicas=replicas)


class _Encoded(msgspec.Struct, array_like=True, gc=False):
    format: int
    version: int
    next: Counters
    nodes: list[NodeRecord]
    keyspaces: list[KeyspaceRecord]
    shards: list[ShardRecord]
    operations: list[OperationRecord]
    ring: RingRecord | None = None


_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(_Encoded).decode


def encode_view(view: MetaView) -> bytes:
    return _encode(
        _Encoded(
            VIEW_VERSION,
            view.version,
            view.next,
            list(view.nodes.values()),
            list(view.keyspaces.values()),
            list(view.shards.values()),
            list(view.operations.values()),
            view.ring,
        )
    )


def decode_view(data: bytes) -> MetaView:
    """Raises ValueError for bytes that are none, or of a later version."""
    try:
        found = _decode(data)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError("these bytes are no view of the meta group") from error
    if found.format != VIEW_VERSION:
        raise ValueError(f"a view of format {found.format}; this program reads {VIEW_VERSION}")
    return MetaView(
        found.version,
        {each.node: each for each in found.nodes},
        {each.keyspace: each for each in found.keyspaces},
        {each.shard: each for each in found.shards},
        {each.operation: each for each in found.operations},
        found.next,
        found.ring,
    )
