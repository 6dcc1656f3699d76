"""The reads of the REST face as values (kv/strong/queries.py): what a page, a key, a lease is asked
for, evaluated on whichever node has the shard. Pure.

Parts of a listing never leave a shard: a part ends at the edge of the shard that it is read in, and
says where the rest lies (listing.py puts parts together).
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

from kv.api import hot, leasing, listing
from kv.api.bodies import BatchGetResult
from kv.api.listing import last_key_before
from kv.api.reply import Reply
from kv.reading import ShardReader
from kv.router import EVERYWHERE, HOME, Scope, joined, of_key, scope_of
from kv.strong.queries import Query, register
from raftgroups.commands import Txn
from raftgroups.results import TxnResult


class KeyQuery(Query[Reply], frozen=True, tag="api.key"):
    Answer: ClassVar[Any] = Reply
    key: bytes
    revision: int = 0
    known: int = -1
    forms: hot.Forms = hot.AS_IS

    def scope(self) -> Scope:
        return of_key(self.key)

    def __call__(self, reader: ShardReader) -> Reply:
        return hot.get_reply(reader, self.key, self.revision, self.known, self.forms)


class RawKeyQuery(Query[Reply], frozen=True, tag="api.raw"):
    Answer: ClassVar[Any] = Reply
    key: bytes
    revision: int = 0
    known: int = -1

    def scope(self) -> Scope:
        return of_key(self.key)

    def __call__(self, reader: ShardReader) -> Reply:
        return hot.get_raw_reply(reader, self.key, self.revision, self.known)


class PartQuery(Query[listing.Part], frozen=True, tag="api.part"):
    """The next part of a listing or scan."""

    Answer: ClassVar[Any] = listing.Part
    page: listing.Page

    def scope(self) -> Scope:
        page = self.page
        return of_key(last_key_before(page.end) if page.reverse else page.start)

    def reads(self) -> Scope:
        return self.page.start, self.page.end

    def __call__(self, reader: ShardReader) -> listing.Part:
        return listing.part_of(reader, self.page)


class CountQuery(Query[listing.Counted], frozen=True, tag="api.count"):
    Answer: ClassVar[Any] = listing.Counted
    start: bytes
    end: bytes | None
    revision: int = 0

    def scope(self) -> Scope:
        return of_key(self.start)

    def reads(self) -> Scope:
        return self.start, self.end

    def __call__(self, reader: ShardReader) -> listing.Counted:
        return listing.count_part(reader, self.start, self.end, self.revision)


class Found(NamedTuple):
    results: list[BatchGetResult]
    shard: int
    revision: int


class KeysQuery(Query[Found], frozen=True, tag="api.keys"):
    """Keys of one shard, as of one moment."""

    Answer: ClassVar[Any] = Found
    keys: tuple[bytes, ...]
    forms: hot.Forms = hot.AS_IS

    def scope(self) -> Scope:
        return joined(map(of_key, self.keys))

    def __call__(self, reader: ShardReader) -> Found:
        found = listing.batch_results(reader, self.keys, self.forms)
        return Found(found, reader.shard, reader.revision)


class TxnRead(NamedTuple):
    result: TxnResult
    shard: int
    revision: int


class TxnQuery(Query[TxnRead], frozen=True, tag="api.txn"):
    """A transaction that cannot write."""

    Answer: ClassVar[Any] = TxnRead
    txn: Txn

    def scope(self) -> Scope:
        return scope_of(self.txn)

    def __call__(self, reader: ShardReader) -> TxnRead:
        return TxnRead(reader.read_txn(self.txn), reader.shard, reader.revision)


class LeaseQuery(Query[Reply], frozen=True, tag="api.lease"):
    Answer: ClassVar[Any] = Reply
    lease: int
    with_keys: bool = False
    force: bool = False

    def scope(self) -> Scope:
        return HOME

    def reads(self) -> Scope:
        return EVERYWHERE if self.with_keys else HOME

    def __call__(self, reader: ShardReader) -> Reply:
        return leasing.lease_state(reader, self.lease, self.with_keys, self.force)


class LeasesQuery(Query[Reply], frozen=True, tag="api.leases"):
    Answer: ClassVar[Any] = Reply
    after: int
    limit: int

    def scope(self) -> Scope:
        return HOME

    def __call__(self, reader: ShardReader) -> Reply:
        return leasing.list_leases(reader, self.after, self.limit)


register(KeyQuery, RawKeyQuery, PartQuery, CountQuery, KeysQuery, TxnQuery, LeaseQuery, LeasesQuery)
