"""Locks as leases and keys: what is written, what is read, who holds it. Pure.

    key     a place in the queue (kv/lock_keys.py); its value is the owner's text
    queue   the keys of that prefix, by create revision; the first one holds the lock
    token   the holder's create revision: rises from holder to holder, so whatever is guarded by
            the lock can refuse a holder that does not know yet that it is none any more

It is etcd's lock: holders through /v3/lock and through here exclude each other.

    enter     txn: if my key is absent, put it; either way read it: its create revision is my place
    look      is there a key of the prefix with a smaller create revision? None: the lock is mine.
              Otherwise wait until the nearest one before me is deleted, and look again
"""

from __future__ import annotations

from typing import NamedTuple

from kv.api.failures import InvalidPathError, InvalidQueryError
from kv.api.hot import encode
from kv.api.live_bodies import LockHolder, LockReply, LockState, UnlockReply
from kv.api.reply import Reply
from kv.api.text import shown
from kv.lock_keys import DIGITS_MAX, place_at, place_key, queue_of
from kv.reading import ShardReader
from kv.watch.index import one_key
from kv.watch.watcher import WatchRequest
from raftgroups.commands import (
    TO_THE_END,
    Compare,
    CompareTarget,
    Comparison,
    Put,
    Range,
    SortOrder,
    SortTarget,
    Txn,
)
from raftgroups.results import PutResult, RangeAnswer, Result, TxnResult
from storage.codec import KEY_MAX_BYTES, prefix_end
from storage.mvcc_records import KeyValue


def prefix_of(name: bytes) -> bytes:
    """Raises InvalidPathError."""
    longest = KEY_MAX_BYTES - DIGITS_MAX - len(queue_of(b""))
    if not 0 < len(name) <= longest:
        raise InvalidPathError(f"the name of a lock has 1 to {longest} bytes, not {len(name)}")
    return queue_of(name)


def key_of(name: bytes, lease: int) -> bytes:
    return place_key(prefix_of(name), lease)


def enter(key: bytes, lease: int, owner: bytes) -> Txn:
    mine = Range(key, keys_only=True)
    absent = Compare(key, b"", CompareTarget.CREATE, Comparison.EQUAL, 0)
    return Txn((absent,), (Put(key, owner, lease),), (mine,))


def place_of(result: Result) -> int:
    """My create revision."""
    assert isinstance(result, TxnResult)
    answer = result.responses[0]
    if isinstance(answer, PutResult):
        return answer.revision
    assert isinstance(answer, RangeAnswer)
    return answer.items[0].create_revision


class Look(NamedTuple):
    """`mine`: my key is still there. `before`: the nearest one before me."""

    mine: bool
    before: bytes | None
    revision: int


def look(reader: ShardReader, name: bytes, key: bytes, place: int) -> Look:
    """Evaluated by the regime."""
    record = reader.get(key)
    mine = record is not None and record.create_revision == place
    found = reader.range(
        Range(
            *_range_of(name),
            limit=1,
            sort_order=SortOrder.DESCEND,
            sort_target=SortTarget.CREATE,
            keys_only=True,
            max_create_revision=place - 1,
        )
    )
    before = found.items[0].key if found.items else None
    return Look(mine, before, reader.revision)


def until_gone(before: bytes, revision: int) -> WatchRequest:
    return WatchRequest(one_key(before), revision + 1, no_put=True)


def _range_of(name: bytes) -> tuple[bytes, bytes]:
    prefix = prefix_of(name)
    return prefix, prefix_end(prefix) or TO_THE_END


# --- replies ---------------------------------------------------------------------------------


def lock_reply(name: bytes, key: bytes, token: int, lease: int, shard: int = 0) -> Reply:
    text, name_mark = shown(name)
    key_text, key_mark = shown(key)
    body = LockReply(text, key_text, token, str(lease), name_mark, key_mark)
    return Reply(200, encode(body), shard=shard, revision=token)


def lock_state(reader: ShardReader, name: bytes) -> Reply:
    """Who holds it and how many wait. Evaluated by the regime."""
    found = reader.range(
        Range(*_range_of(name), sort_order=SortOrder.ASCEND, sort_target=SortTarget.CREATE, limit=1)
    )
    text, mark = shown(name)
    holder = _holder(found.items[0]) if found.items else None
    body = LockState(text, holder, max(0, found.count - 1), mark)
    return Reply(200, encode(body), shard=reader.shard, revision=reader.revision)


def _holder(record: KeyValue) -> LockHolder:
    key, mark = shown(record.key)
    owner = record.value.decode(errors="replace")
    return LockHolder(key, record.create_revision, str(record.lease), owner, mark)


def unlock_reply(name: bytes, released: bool, revision: int, shard: int = 0) -> Reply:
    text, mark = shown(name)
    body = UnlockReply(text, released, mark)
    return Reply(200, encode(body), shard=shard, revision=revision)


def key_to_release(name: bytes, key: bytes | None, lease: int | None) -> bytes:
    """Raises InvalidQueryError."""
    if (key is None) == (lease is None):
        raise InvalidQueryError("give key= or lease= of the answer that gave you the lock")
    if key is None:
        return key_of(name, lease or 0)
    place = place_at(key)
    if place is None or place.queue != prefix_of(name):
        raise InvalidQueryError(f"{key!r} is no key of the lock {name!r}; give the answer's key")
    return key
