"""What is asked of leases in a keyspace of several shards. Pure but for the asking.

LeaseLook         at their home: do they live, and in which epoch was that seen
LeaseKeysQuery    in each shard: its keys of a lease
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

from kv.reading import ShardReader
from kv.regime import Strong, ask
from kv.router import HOME, Scope, of_key
from kv.strong.queries import Query, register


class Looked(NamedTuple):
    """`missing`: one that does not live, or 0. raftgroups/lease.py has the epoch."""

    epoch: int
    missing: int


class LeaseLook(Query[Looked], frozen=True, tag="strong.lease_look"):
    Answer: ClassVar[Any] = Looked
    leases: tuple[int, ...]

    def scope(self) -> Scope:
        return HOME

    def __call__(self, reader: ShardReader) -> Looked:
        missing = (lease for lease in self.leases if reader.lease(lease) is None)
        return Looked(reader.lease_epoch, next(missing, 0))


class LeaseKeys(NamedTuple):
    """`end`: of the shard that was asked."""

    keys: list[bytes]
    end: bytes | None


class LeaseKeysQuery(Query[LeaseKeys], frozen=True, tag="strong.lease_keys"):
    """Of the shard that holds `start`: from there on."""

    Answer: ClassVar[Any] = LeaseKeys
    lease: int
    start: bytes

    def scope(self) -> Scope:
        return of_key(self.start)

    def __call__(self, reader: ShardReader) -> LeaseKeys:
        view = reader.view
        view.check_owned(self.start)
        keys = [key for key in reader.lease_keys(self.lease) if key >= self.start]
        return LeaseKeys(keys, view.place.end)


async def keys_of_lease(strong: Strong, lease: int) -> list[bytes]:
    """In all shards, one after the other: not as of one moment. Raises JanusErrors."""
    keys: list[bytes] = []
    start: bytes | None = b""
    while start is not None:
        query = LeaseKeysQuery(lease, start)
        found = await ask(lambda done, query=query: strong.read(query, done))  # type: ignore[misc]
        keys += found.keys
        start = found.end
    return keys


register(LeaseLook, LeaseKeysQuery)
