"""/v3/lock and /v3/election: the calls around the queues (queues.py).

lock       take a place in the queue of a name, wait, answer its key
campaign   the same with a value; a further campaign of the leader proclaims the new value
proclaim   if I still lead: put
resign     if I still lead: delete
leader     the oldest key of the queue
observe    every value of every leader, as a stream
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Final

from aiohttp import web

from kv.errors import StoppingError
from kv.etcd.answers import Headers, encode_bytes, encode_kv, encode_message
from kv.etcd.asking import write
from kv.etcd.errors import EtcdError, Grpc
from kv.etcd.follow import Follow, ending
from kv.etcd.presence import Caller, Presence
from kv.etcd.protojson import Message, Schema, binary, decode, int64, message
from kv.etcd.queues import (
    SESSION_TTL_S,
    Place,
    Queues,
    created_at,
    oldest,
)
from kv.etcd.unary import UnaryCalls
from kv.lock_keys import queue_of
from kv.regime import Strong
from kv.watch.index import KeyRange, one_key, with_prefix
from kv.watch.messages import CancelReason, EventBatch
from kv.watch.watcher import WatchRequest
from kv.watch.watches import Watches
from raftgroups.commands import Delete, Put
from raftgroups.results import DeleteResult
from storage.mvcc_records import KeyValue

LockCall = Callable[[web.BaseRequest, bytes], Awaitable[bytes]]

_LOCK: Final[Schema] = {"name": binary, "lease": int64}
_UNLOCK: Final[Schema] = {"key": binary}
_LEADER_KEY: Final[Schema] = {"name": binary, "key": binary, "rev": int64, "lease": int64}
_CAMPAIGN: Final[Schema] = {"name": binary, "lease": int64, "value": binary}
_PROCLAIM: Final[Schema] = {"leader": message(_LEADER_KEY), "value": binary}
_RESIGN: Final[Schema] = {"leader": message(_LEADER_KEY)}
_NAME: Final[Schema] = {"name": binary}

NO_LEADER: Final = EtcdError(Grpc.UNKNOWN, "election: no leader")


class LockCalls:
    def __init__(
        self,
        strong: Strong,
        watches: Watches,
        headers: Headers,
        presence: Presence,
        queues: Queues,
        unary: UnaryCalls,
    ) -> None:
        self._strong: Final = strong
        self._watches: Final = watches
        self._headers: Final = headers
        self._presence: Final = presence
        self._queues: Final = queues
        self._unary: Final = unary
        self.by_path: Final[dict[str, LockCall]] = {
            "/v3/lock/lock": self.lock,
            "/v3/lock/unlock": self.unlock,
            "/v3/election/campaign": self.campaign,
            "/v3/election/proclaim": self.proclaim,
            "/v3/election/leader": self.leader,
            "/v3/election/resign": self.resign,
        }

    def _answer(self, revision: int, fields: bytes = b"") -> bytes:
        return b"%b%b}" % (self._headers.opening(revision, self._strong.term), fields)

    async def _take(self, request: web.BaseRequest, given: Message) -> tuple[Place, int]:
        """A place that is first, and its lease."""
        name, lease = given.get("name", b""), given.get("lease", 0)
        made_lease = 0
        try:
            if not lease:
                lease = made_lease = (await self._unary.grant(0, SESSION_TTL_S)).lease
            with self._presence.of(request) as caller:
                place = await self._queues.take(caller, name, lease, given.get("value", b""))
        except BaseException:
            if made_lease:
                self._queues.revoke(made_lease)
            raise
        return place, lease

    async def lock(self, request: web.BaseRequest, body: bytes) -> bytes:
        place, _ = await self._take(request, decode(_LOCK, body))
        revision = place.revision if place.is_first else await self._queues.still_there(place)
        return self._answer(revision, b',"key":"%b"' % encode_bytes(place.key))

    async def unlock(self, request: web.BaseRequest, body: bytes) -> bytes:
        command = Delete(decode(_UNLOCK, body).get("key", b""))
        result = await write(self._strong, command, DeleteResult)
        return self._answer(result.revision)

    async def campaign(self, request: web.BaseRequest, body: bytes) -> bytes:
        given = decode(_CAMPAIGN, body)
        name, value = given.get("name", b""), given.get("value", b"")
        place, lease = await self._take(request, given)
        if not place.is_first:
            await self._queues.still_there(place)
        if place.existing is not None and place.existing.value != value:
            await self._proclaim(place.key, place.create_revision, lease, value)
        leader: Message = {
            "name": name,
            "key": place.key,
            "rev": place.create_revision,
            "lease": lease,
        }
        return self._answer(place.revision, b',"leader":%b' % encode_message(leader))

    async def proclaim(self, request: web.BaseRequest, body: bytes) -> bytes:
        given = decode(_PROCLAIM, body)
        leader = _leader_of(given)
        revision = await self._proclaim(
            _key_of(leader), leader.get("rev", 0), leader.get("lease", 0), given.get("value", b"")
        )
        return self._answer(revision)

    async def _proclaim(self, key: bytes, created: int, lease: int, value: bytes) -> int:
        result = await self._queues.txn(created_at(key, created), (Put(key, value, lease),))
        if not result.succeeded:
            raise EtcdError(Grpc.UNKNOWN, "election: not leader")
        return result.revision

    async def resign(self, request: web.BaseRequest, body: bytes) -> bytes:
        leader = _leader_of(decode(_RESIGN, body))
        key = _key_of(leader)
        result = await self._queues.txn(created_at(key, leader.get("rev", 0)), (Delete(key),))
        return self._answer(result.revision)

    async def leader(self, request: web.BaseRequest, body: bytes) -> bytes:
        name = decode(_NAME, body).get("name", b"")
        answer = await self._queues.range(oldest(queue_of(name)))
        if not answer.items:
            raise NO_LEADER
        return self._answer(answer.revision, _kv_field(answer.items[0]))

    # --- observe ---

    async def observe(self, caller: Caller, body: bytes) -> AsyncGenerator[bytes, None]:
        """Messages of the stream, until the client is gone."""
        prefix = queue_of(decode(_NAME, body).get("name", b""))
        while not caller.is_gone:
            answer = await self._queues.range(oldest(prefix))
            if answer.items:
                leader = answer.items[0]
                yield self._answer(answer.revision, _kv_field(leader))
                values = self._values(caller, one_key(leader.key), answer.revision)
                async with aclosing(values):
                    async for value in values:
                        yield value
            else:
                await self._appears(caller, with_prefix(prefix), answer.revision)

    async def _values(
        self, caller: Caller, keys: KeyRange, revision: int
    ) -> AsyncGenerator[bytes, None]:
        """What the leader proclaims after this revision, until its key is deleted."""
        follow = Follow(self._watches, WatchRequest(keys, start_revision=revision + 1), caller)
        try:
            while messages := await follow.next():
                for told in messages:
                    if not isinstance(told, EventBatch):
                        continue
                    for part in told.parts:
                        if not part.startswith(b'{"kv":'):
                            return
                        yield self._answer(told.revision, b"," + part[1:-1])
                end = ending(messages)
                if end is not None and end.reason is CancelReason.COMPACTED:
                    return
                if end is not None:
                    raise StoppingError(end.message)
        finally:
            follow.close()

    async def _appears(self, caller: Caller, keys: KeyRange, revision: int) -> None:
        """Until something is put after this revision."""
        request = WatchRequest(keys, start_revision=revision + 1, no_delete=True)
        follow = Follow(self._watches, request, caller)
        try:
            end = ending(await follow.next())
            if end is not None and end.reason is not CancelReason.COMPACTED:
                raise StoppingError(end.message)
        finally:
            follow.close()


def _leader_of(given: Message) -> Message:
    leader: Message | None = given.get("leader")
    if leader is None:
        raise EtcdError(Grpc.UNKNOWN, '"leader" field must be provided')
    return leader


def _key_of(leader: Message) -> bytes:
    key: bytes = leader.get("key", b"")
    return key


def _kv_field(kv: KeyValue) -> bytes:
    return b',"kv":%b' % encode_kv(kv)
