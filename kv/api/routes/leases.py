"""Leases: grant, look, keep alive, revoke."""

from __future__ import annotations

from kv.api import leasing
from kv.api.call import Call
from kv.api.cursor import unpack
from kv.api.failures import InvalidCursorError
from kv.api.queries import LeaseQuery, LeasesQuery
from kv.api.reply import Reply
from kv.strong.lease_queries import keys_of_lease
from raftgroups.commands import LeaseGrant, LeaseKeepAlive, LeaseRevoke
from raftgroups.lease import LEASE_MAX


async def grant(call: Call) -> Reply:
    command = leasing.grant_command(await call.body(), call.api.settings.minimum_lease_ttl_s)
    if not command.lease:
        command = LeaseGrant(call.api.rng.randrange(1, LEASE_MAX), command.ttl_s)
    return leasing.grant_reply(await call.write(command), call.api.shard())


async def list_all(call: Call) -> Reply:
    after = 0
    if call.query["cursor"] is not None:
        cursor = unpack(call.query["cursor"], leasing.LEASES)
        if not (cursor.start.isdigit() and int(cursor.start) <= LEASE_MAX):
            raise InvalidCursorError("this cursor names no lease; begin without one")
        after = int(cursor.start)
    return await call.read(LeasesQuery(after, call.query["limit"]))


async def get(call: Call) -> Reply:
    lease, with_keys = leasing.lease_in_path(call.argument), call.query["keys"]
    strong = call.api.strong
    if strong.single or not with_keys:
        return await call.read(LeaseQuery(lease, with_keys, call.forms.keys))
    reply = await call.read(LeaseQuery(lease))
    if reply.status != 200:
        return reply
    return leasing.with_keys(reply, await keys_of_lease(strong, lease), call.forms.keys)


async def keep_alive(call: Call) -> Reply:
    lease = leasing.lease_in_path(call.argument)
    result = await call.write(LeaseKeepAlive((lease,)))
    return leasing.keepalive_reply(lease, result, call.api.shard())


async def revoke(call: Call) -> Reply:
    lease = leasing.lease_in_path(call.argument)
    return leasing.revoke_reply(await call.write(LeaseRevoke(lease)), call.api.shard())
