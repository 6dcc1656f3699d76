"""The reads of the gateway as values (kv/strong/queries.py), for keyspaces that are split, and for
nodes without a replica: evaluated where the shard is, encoded where the client asked. Pure.

Each stays within one shard; what does not is refused (kv/strong/keyspace.py): never answered
wrongly.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

from kv.reading import ShardReader
from kv.router import EVERYWHERE, HOME, Scope, scope_of
from kv.strong.queries import Query, register
from raftgroups.commands import Range, Txn
from raftgroups.ranges import bounds, check_bounds_key
from raftgroups.results import RangeAnswer, TxnResult


class RangeRead(NamedTuple):
    answer: RangeAnswer
    term: int


class RangeQuery(Query[RangeRead], frozen=True, tag="etcd.range"):
    Answer: ClassVar[Any] = RangeRead
    operation: Range

    def scope(self) -> Scope:
        check_bounds_key(self.operation.key)
        return bounds(self.operation.key, self.operation.range_end)

    def __call__(self, reader: ShardReader) -> RangeRead:
        return RangeRead(reader.range(self.operation), reader.term)


class TxnRead(NamedTuple):
    answer: TxnResult
    term: int


class TxnQuery(Query[TxnRead], frozen=True, tag="etcd.txn"):
    Answer: ClassVar[Any] = TxnRead
    txn: Txn

    def scope(self) -> Scope:
        return scope_of(self.txn)

    def __call__(self, reader: ShardReader) -> TxnRead:
        return TxnRead(reader.read_txn(self.txn), reader.term)


class LeaseRead(NamedTuple):
    """granted_s: -1 if there is no such lease."""

    revision: int
    granted_s: int
    remaining_ms: int
    keys: list[bytes]


class LeaseQuery(Query[LeaseRead], frozen=True, tag="etcd.lease"):
    Answer: ClassVar[Any] = LeaseRead
    lease: int
    with_keys: bool

    def scope(self) -> Scope:
        return HOME

    def reads(self) -> Scope:
        return EVERYWHERE if self.with_keys else HOME

    def __call__(self, reader: ShardReader) -> LeaseRead:
        found = reader.lease(self.lease)
        if found is None:
            return LeaseRead(reader.revision, -1, 0, [])
        keys = reader.lease_keys(self.lease) if self.with_keys else []
        return LeaseRead(reader.revision, found.granted_s, found.remaining_ms, keys)


class LeasesRead(NamedTuple):
    revision: int
    leases: list[int]


class LeasesQuery(Query[LeasesRead], frozen=True, tag="etcd.leases"):
    Answer: ClassVar[Any] = LeasesRead

    def scope(self) -> Scope:
        return HOME

    def __call__(self, reader: ShardReader) -> LeasesRead:
        return LeasesRead(reader.revision, reader.leases())


class HomeQuery(Query[int], frozen=True, tag="etcd.home"):
    """Whether the first shard can be read: its revision."""

    Answer: ClassVar[Any] = int

    def scope(self) -> Scope:
        return HOME

    def __call__(self, reader: ShardReader) -> int:
        return reader.revision


register(RangeQuery, TxnQuery, LeaseQuery, LeasesQuery, HomeQuery)
