"""The calls with one answer that are not key-value calls: leases, cluster, maintenance, auth.

Each takes a body and gives the body of a 200, or raises the JanusError that is its answer. What
etcd keeps in its own store and this node does not (alarms, users) is asked of the context.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final
from urllib.parse import urlsplit

from kv.etcd.alarms import NAMES, name_of
from kv.etcd.answers import Headers, Number32, Present
from kv.etcd.asking import read, write
from kv.etcd.context import (
    CLUSTER_VERSION,
    SERVER_VERSION,
    GatewayContext,
    Member,
    MemberChanges,
)
from kv.etcd.errors import EtcdError, Grpc
from kv.etcd.protojson import (
    Message,
    Schema,
    binary,
    boolean,
    decode,
    enum,
    int64,
    message,
    repeated,
    text,
    uint64,
)
from kv.etcd.queries import LeaseQuery, LeasesQuery
from kv.router import CrossShardError
from raftgroups.commands import LeaseGrant, LeaseRevoke
from raftgroups.lease import LEASE_MAX, ttl_to_grant
from raftgroups.results import LeaseResult
from storage.mvcc_hash import ShardHash

UnaryCall = Callable[[bytes], Awaitable[bytes]]

_GRANT: Final[Schema] = {"TTL": int64, "ID": int64}
_LEASE: Final[Schema] = {"ID": int64}
_TIME_TO_LIVE: Final[Schema] = {"ID": int64, "keys": boolean}
_MEMBER: Final[Schema] = {
    "ID": uint64,
    "peerURLs": repeated(text, ""),
    "isLearner": boolean,
    "linearizable": boolean,
}
_ALARM: Final[Schema] = {
    "action": enum(GET=0, ACTIVATE=1, DEACTIVATE=2),
    "memberID": uint64,
    "alarm": enum(**NAMES),
}
_REVISION: Final[Schema] = {"revision": int64}
_TRANSFER: Final[Schema] = {"targetID": uint64}
_DOWNGRADE: Final[Schema] = {"action": enum(VALIDATE=0, ENABLE=1, CANCEL=2), "version": text}
_PERMISSION: Final[Schema] = {
    "permType": enum(READ=0, WRITE=1, READWRITE=2),
    "key": binary,
    "range_end": binary,
}
_AUTH: Final[Schema] = {
    "name": text,
    "user": text,
    "role": text,
    "password": text,
    "hashedPassword": text,
    "options": message({"no_password": boolean}),
    "perm": message(_PERMISSION),
    "key": binary,
    "range_end": binary,
}
AUTH_CALLS: Final = (
    "status", "authenticate", "enable", "disable",
    "user/add", "user/get", "user/list", "user/delete", "user/changepw", "user/grant",
    "user/revoke", "role/add", "role/get", "role/list", "role/delete", "role/grant", "role/revoke",
)  # fmt: skip


class UnaryCalls:
    def __init__(self, context: GatewayContext, headers: Headers) -> None:
        self._context: Final = context
        self._strong: Final = context.strong
        self._headers: Final = headers
        calls: dict[str, UnaryCall] = {
            "/v3/lease/grant": self.lease_grant,
            "/v3/lease/revoke": self.lease_revoke,
            "/v3/kv/lease/revoke": self.lease_revoke,
            "/v3/lease/timetolive": self.lease_time_to_live,
            "/v3/kv/lease/timetolive": self.lease_time_to_live,
            "/v3/lease/leases": self.lease_list,
            "/v3/kv/lease/leases": self.lease_list,
            "/v3/cluster/member/list": self.member_list,
            "/v3/cluster/member/add": self.member_add,
            "/v3/cluster/member/remove": self.member_remove,
            "/v3/cluster/member/update": self.member_update,
            "/v3/cluster/member/promote": self.member_promote,
            "/v3/maintenance/status": self.status,
            "/v3/maintenance/alarm": self.alarm,
            "/v3/maintenance/hash": self.hash,
            "/v3/maintenance/hashkv": self.hash_kv,
            "/v3/maintenance/defragment": self.defragment,
            "/v3/maintenance/transfer-leadership": self.transfer_leadership,
            "/v3/maintenance/downgrade": self.downgrade,
        }
        calls.update({f"/v3/auth/{name}": self._auth(name) for name in AUTH_CALLS})
        self.by_path: Final = calls

    def _answer(self, revision: int, fields: Message) -> bytes:
        return self._headers.encode_fields(revision, self._strong.term, fields)

    def _answer_now(self, fields: Message) -> bytes:
        """For calls that read and write no keys."""
        return self._answer(self._strong.local().revision, fields)

    # --- leases ---

    async def lease_grant(self, body: bytes) -> bytes:
        given = decode(_GRANT, body)
        ttl_s = ttl_to_grant(given.get("TTL", 0), self._context.minimum_ttl_s)
        result = await self.grant(given.get("ID", 0), ttl_s)
        return self._answer(result.revision, {"ID": result.lease, "TTL": result.ttl_s})

    async def grant(self, lease: int, ttl_s: int) -> LeaseResult:
        """Id 0: one is chosen."""
        command = LeaseGrant(lease or self._context.rng.randrange(1, LEASE_MAX), ttl_s)
        self._context.alarms.check(command)
        return await write(self._strong, command, LeaseResult)

    async def lease_revoke(self, body: bytes) -> bytes:
        command = LeaseRevoke(decode(_LEASE, body).get("ID", 0))
        result = await write(self._strong, command, LeaseResult)
        return self._answer(result.revision, {})

    async def lease_time_to_live(self, body: bytes) -> bytes:
        given = decode(_TIME_TO_LIVE, body)
        lease = given.get("ID", 0)

        with_keys = bool(given.get("keys"))
        if with_keys and not self._strong.single:
            raise CrossShardError(
                "nothing was done: this keyspace is split, and the keys of a lease may be in any "
                "shard; ask without keys, or GET /api/v1/leases/{id}?keys=true"
            )
        found = await read(self._strong, LeaseQuery(lease, with_keys))
        fields: Message = {"ID": lease, "TTL": -1}
        if found.granted_s >= 0:
            fields["TTL"] = max(0, found.remaining_ms) // 1000
            fields["grantedTTL"] = found.granted_s
            fields["keys"] = found.keys
        return self._answer(found.revision, fields)

    async def lease_list(self, body: bytes) -> bytes:
        decode({}, body)
        found = await read(self._strong, LeasesQuery())
        return self._answer(found.revision, {"leases": [{"ID": lease} for lease in found.leases]})

    # --- cluster: no revision in these headers ---

    async def member_list(self, body: bytes) -> bytes:
        decode(_MEMBER, body)
        return self._answer(0, {"members": self._members()})

    async def member_add(self, body: bytes) -> bytes:
        given = decode(_MEMBER, body)
        urls = _checked_urls(given.get("peerURLs", ()))
        made = await self._changes().add(urls, given.get("isLearner", False))
        return self._answer(0, {"member": _shown_member(made), "members": self._members()})

    async def member_remove(self, body: bytes) -> bytes:
        member = self._member(decode(_MEMBER, body))
        await self._changes().remove(member.id)
        return self._answer(0, {"members": self._members()})

    async def member_update(self, body: bytes) -> bytes:
        given = decode(_MEMBER, body)
        urls = _checked_urls(given.get("peerURLs", ()))
        await self._changes_of(given).update(given["ID"], urls)
        return self._answer(0, {"members": self._members()})

    async def member_promote(self, body: bytes) -> bytes:
        member = self._member(decode(_MEMBER, body))
        if not member.is_learner:
            raise EtcdError(
                Grpc.FAILED_PRECONDITION, "etcdserver: can only promote a learner member"
            )
        await self._changes().promote(member.id)
        return self._answer(0, {"members": self._members()})

    def _members(self) -> list[Message]:
        return [_shown_member(each) for each in self._context.members()]

    def _member(self, given: Message) -> Member:
        wanted = given.get("ID", 0)
        for member in self._context.members():
            if member.id == wanted:
                return member
        raise EtcdError(Grpc.NOT_FOUND, "etcdserver: member not found")

    def _changes_of(self, given: Message) -> MemberChanges:
        self._member(given)
        return self._changes()

    def _changes(self) -> MemberChanges:
        changes = self._context.change_members
        if changes is None:
            raise EtcdError(
                Grpc.UNIMPLEMENTED,
                "members cannot be changed through this API in this version of JanusKV",
            )
        return changes

    # --- maintenance ---

    async def status(self, body: bytes) -> bytes:
        decode({}, body)
        numbers = self._context.status()
        errors = [
            f"memberID:{member} alarm:{name_of(kind)} "
            for member, kind in self._context.alarms.of_kind()
        ]
        return self._answer_now(
            {
                "version": SERVER_VERSION,
                "dbSize": numbers.size_bytes,
                "leader": numbers.leader,
                "raftIndex": numbers.raft_index,
                "raftTerm": self._strong.term,
                "raftAppliedIndex": numbers.raft_applied_index,
                "errors": [*errors, *numbers.errors],
                "dbSizeInUse": numbers.size_in_use_bytes,
                "isLearner": numbers.is_learner,
            }
        )

    async def alarm(self, body: bytes) -> bytes:
        given = decode(_ALARM, body)
        alarms, kind = self._context.alarms, given.get("alarm", 0)
        member = given.get("memberID", 0)
        action = given.get("action", 0)
        shown: list[tuple[int, int]] = []
        if action == 0:
            shown = alarms.of_kind(kind)
        elif action == 1 and kind:
            alarms.raise_(member, kind)
            shown = [(member, kind)]
        elif action == 2 and alarms.clear(member, kind):
            shown = [(member, kind)]
        fields = [{"memberID": member, "alarm": name_of(kind)} for member, kind in shown]
        return self._answer_now({"alarms": fields})

    async def hash(self, body: bytes) -> bytes:
        decode({}, body)
        revision, digest = await self._digest(0)
        return self._answer(revision, {"hash": Number32(digest)})

    async def hash_kv(self, body: bytes) -> bytes:
        revision, digest = await self._digest(max(0, decode(_REVISION, body).get("revision", 0)))
        local = self._strong.local()
        fields = {
            "hash": Number32(digest),
            "compact_revision": max(0, local.compact_revision),
            "hash_revision": revision,
        }
        return self._answer(local.revision, fields)

    async def _digest(self, revision: int) -> tuple[int, int]:
        """Of all keys as of a revision, in small steps: (revision, 32 bits)."""
        if not self._strong.single:
            raise CrossShardError(
                "nothing was done: this keyspace is split, or its only shard is not on this node, "
                "and a hash is of one shard; compare replicas with GET /api/v1/admin/shards"
            )
        view = self._strong.local().view
        if revision:
            view.state.check_readable(revision)
        walk = ShardHash(view, revision)
        while (found := walk.step(view, max_keys=self._context.limits.hash_keys_a_step)) is None:
            await asyncio.sleep(0)  # others first
            view = self._strong.local().view
        return found.revision, int.from_bytes(found.digest[:4], "big")

    async def defragment(self, body: bytes) -> bytes:
        """Nothing to do: freed pages are used again."""
        decode({}, body)
        return b"{}"

    async def transfer_leadership(self, body: bytes) -> bytes:
        target = decode(_TRANSFER, body).get("targetID", 0)
        if all(member.id != target for member in self._context.members()):
            raise EtcdError(Grpc.FAILED_PRECONDITION, "etcdserver: bad leader transferee")
        if target != self._context.status().leader:
            if self._context.transfer_leadership is None:
                raise EtcdError(
                    Grpc.UNIMPLEMENTED, "leadership cannot be moved through this API of this node"
                )
            await self._context.transfer_leadership(target)
        return b"{}"

    async def downgrade(self, body: bytes) -> bytes:
        """JanusKV is no etcd to go back to an older etcd: only what needs no change is answered."""
        given = decode(_DOWNGRADE, body)
        action = given.get("action", 0)
        if action == 2:
            raise EtcdError(Grpc.FAILED_PRECONDITION, "etcdserver: no inflight downgrade job")
        major, minor = CLUSTER_VERSION.split(".")[:2]
        if given.get("version", "").split(".")[:2] != [major, str(int(minor) - 1)]:
            raise EtcdError(
                Grpc.FAILED_PRECONDITION, "etcdserver: invalid downgrade target version"
            )
        if action == 1:
            raise EtcdError(Grpc.UNIMPLEMENTED, "JanusKV cannot be downgraded to a version of etcd")
        return self._answer_now({"version": CLUSTER_VERSION})

    # --- auth ---

    def _auth(self, name: str) -> UnaryCall:
        async def call(body: bytes) -> bytes:
            return self._answer_now(self._context.users.answer(name, decode(_AUTH, body)))

        return call


def _shown_member(member: Member) -> Message:
    return Present(
        ID=member.id,
        name=member.name,
        peerURLs=list(member.peer_urls),
        clientURLs=list(member.client_urls),
        isLearner=member.is_learner,
    )


def _checked_urls(urls: list[str]) -> list[str]:
    for url in urls:
        try:
            parts = urlsplit(url)
            good = parts.scheme in ("http", "https") and parts.hostname and parts.port
        except ValueError:
            good = False
        if not good or parts.path:
            raise _bad_urls()
    if not urls:
        raise _bad_urls()
    return urls


def _bad_urls() -> EtcdError:
    return EtcdError(Grpc.INVALID_ARGUMENT, "etcdserver: given member URLs are invalid")
