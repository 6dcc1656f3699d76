"""The reads of locks as values (kv/strong/queries.py). Pure.

All keys of a lock's queue begin with its name and a slash. Where a keyspace is split within them,
the lock is refused as any call that touches two shards.
"""

from __future__ import annotations

from typing import Any, ClassVar

from kv.api import lockplan
from kv.api.reply import Reply
from kv.reading import ShardReader
from kv.router import HOME, Scope, of_key
from kv.strong.queries import Query, register
from storage.codec import prefix_end


class LockLook(Query[lockplan.Look], frozen=True, tag="api.lock_look"):
    Answer: ClassVar[Any] = lockplan.Look
    name: bytes
    key: bytes
    place: int

    def scope(self) -> Scope:
        return _queue_of(self.name)

    def __call__(self, reader: ShardReader) -> lockplan.Look:
        return lockplan.look(reader, self.name, self.key, self.place)


class LockQuery(Query[Reply], frozen=True, tag="api.lock"):
    Answer: ClassVar[Any] = Reply
    name: bytes

    def scope(self) -> Scope:
        return _queue_of(self.name)

    def __call__(self, reader: ShardReader) -> Reply:
        return lockplan.lock_state(reader, self.name)


class LeaseTtl(Query[int | None], frozen=True, tag="api.lease_ttl"):
    """As it was granted; None: there is no such lease."""

    Answer: ClassVar[Any] = int | None
    lease: int

    def scope(self) -> Scope:
        return HOME

    def __call__(self, reader: ShardReader) -> int | None:
        found = reader.lease(self.lease)
        return None if found is None else found.granted_s


class IsThere(Query[bool], frozen=True, tag="api.is_there"):
    Answer: ClassVar[Any] = bool
    key: bytes

    def scope(self) -> Scope:
        return of_key(self.key)

    def __call__(self, reader: ShardReader) -> bool:
        return reader.get(self.key) is not None


def _queue_of(name: bytes) -> Scope:
    prefix = lockplan.prefix_of(name)
    return prefix, prefix_end(prefix)


register(LockLook, LockQuery, LeaseTtl, IsThere)
