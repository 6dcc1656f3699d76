"""Locks and elections: queues of keys under one prefix, in the order of their creation.

    enter      txn: if my key (kv/lock_keys.py) does not exist, put it with its lease
    wait       until no key of the prefix is older than mine: watch the next older one's deletion
    own it     my key still exists, so the lease still lives

Whoever hangs up while waiting leaves the queue: the key that this call made is deleted, unless
another call of this node waits with the same key. A lease that the server made for a caller goes
with it.

etcd's services are clients of their own server, so every error of theirs is of code 2 (gateway.py
translates); here errors are what they are.
"""

from __future__ import annotations

from collections import Counter
from typing import Final, NamedTuple

from kv.errors import StoppingError
from kv.etcd.alarms import Alarms
from kv.etcd.asking import read, write
from kv.etcd.errors import EtcdError, Grpc
from kv.etcd.follow import Follow, ending, event_parts
from kv.etcd.presence import Caller
from kv.etcd.queries import RangeQuery
from kv.lock_keys import place_key, queue_of
from kv.regime import Strong
from kv.watch.index import one_key
from kv.watch.messages import CancelReason
from kv.watch.watcher import WatchRequest
from kv.watch.watches import Watches
from raftgroups.commands import (
    Compare,
    CompareTarget,
    Delete,
    LeaseRevoke,
    Put,
    Range,
    SortOrder,
    SortTarget,
    Txn,
    TxnOperation,
)
from raftgroups.results import RangeAnswer, TxnResult
from storage.codec import prefix_end
from storage.errors import JanusError
from storage.mvcc_records import KeyValue

SESSION_TTL_S: Final = 60


class HungUpError(JanusError):
    """The client went away while it waited; nobody hears this."""

    code = "hung_up"


class Place(NamedTuple):
    """In a queue. `revision`: the store's when it was entered; `existing`: the key was there."""

    key: bytes
    create_revision: int
    revision: int
    existing: KeyValue | None
    is_first: bool


def oldest(prefix: bytes) -> Range:
    """Who owns the queue of this prefix."""
    return Range(
        prefix,
        prefix_end(prefix) or b"\x00",
        limit=1,
        sort_order=SortOrder.ASCEND,
        sort_target=SortTarget.CREATE,
    )


def created_at(key: bytes, revision: int) -> Compare:
    """Revision 0: the key does not exist."""
    return Compare(key, target=CompareTarget.CREATE, operand=revision)


class Queues:
    def __init__(self, strong: Strong, watches: Watches, alarms: Alarms) -> None:
        self._strong: Final = strong
        self._watches: Final = watches
        self._alarms: Final = alarms
        self._waiting: Counter[bytes] = Counter()
        """How many calls of this node wait with each key."""

    async def txn(
        self,
        compare: Compare,
        then: tuple[TxnOperation, ...],
        otherwise: tuple[TxnOperation, ...] = (),
    ) -> TxnResult:
        command = Txn((compare,), then, otherwise)
        self._alarms.check(command)
        return await write(self._strong, command, TxnResult)

    async def range(self, operation: Range) -> RangeAnswer:
        return (await read(self._strong, RangeQuery(operation))).answer

    async def take(self, caller: Caller, name: bytes, lease: int, value: bytes = b"") -> Place:
        """Enter the queue and wait until it is ours. Raises HungUpError, EtcdError, JanusError."""
        prefix = queue_of(name)
        key = place_key(prefix, lease)
        self._waiting[key] += 1
        place: Place | None = None
        is_ours = False
        try:
            place = await self._enter(key, prefix, lease, value)
            if not place.is_first:
                await self._wait(caller, prefix, place.create_revision)
            is_ours = not caller.is_gone
        finally:
            self._waiting[key] -= 1
            if not self._waiting[key]:
                del self._waiting[key]
            if not is_ours and (place is None or place.existing is None):
                self._leave(key, place)
        if not is_ours:
            raise HungUpError("the client hung up while it waited for its turn")
        return place

    async def _enter(self, key: bytes, prefix: bytes, lease: int, value: bytes) -> Place:
        owner = oldest(prefix)
        result = await self.txn(
            created_at(key, 0), (Put(key, value, lease), owner), (Range(key), owner)
        )
        mine, first = result.responses
        assert isinstance(first, RangeAnswer)
        existing = mine.items[0] if isinstance(mine, RangeAnswer) else None
        created = result.revision if existing is None else existing.create_revision
        is_first = bool(first.items) and first.items[0].key == key
        return Place(key, created, result.revision, existing, is_first)

    async def _wait(self, caller: Caller, prefix: bytes, create_revision: int) -> None:
        """Until nobody before this place is left, or the client is gone."""
        before = oldest(prefix)
        before = Range(
            before.key,
            before.range_end,
            limit=1,
            sort_order=SortOrder.DESCEND,
            sort_target=SortTarget.CREATE,
            max_create_revision=create_revision - 1,
        )
        while not caller.is_gone:
            answer = await self.range(before)
            if not answer.items:
                return
            await self._deleted(caller, answer.items[0].key, answer.revision)

    async def _deleted(self, caller: Caller, key: bytes, after_revision: int) -> None:
        """Until the key was deleted after this revision, the client is gone, or it is time to look
        again."""
        request = WatchRequest(one_key(key), start_revision=after_revision + 1, no_put=True)
        follow = Follow(self._watches, request, caller)
        try:
            messages = await follow.next()
            while messages and not event_parts(messages):
                end = ending(messages)
                if end is not None and end.reason is CancelReason.COMPACTED:
                    return
                if end is not None:
                    raise StoppingError(end.message)
                messages = await follow.next()
        finally:
            follow.close()

    def _leave(self, key: bytes, place: Place | None) -> None:
        """Nobody waits for the answer. Without a place it is not known whether there is one."""
        if self._waiting[key]:
            return
        del self._waiting[key]  # a Counter keeps what was only looked at
        if place is None:
            self._strong.write(Delete(key), _ignored)
        else:
            leave = Txn((created_at(key, place.create_revision),), (Delete(key),))
            self._strong.write(leave, _ignored)

    def revoke(self, lease: int) -> None:
        """A lease that was made for a caller who is gone."""
        self._strong.write(LeaseRevoke(lease), _ignored)

    async def still_there(self, place: Place) -> int:
        """The revision at which it was seen. Raises EtcdError if the place was lost."""
        answer = await self.range(Range(place.key, keys_only=True))
        if not answer.items or answer.items[0].create_revision != place.create_revision:
            raise EtcdError(Grpc.UNKNOWN, "mutex: session is expired")
        return answer.revision


def _ignored(answer: object) -> None:
    """Its keys end with their lease at the latest."""
