"""What the node and its cluster are doing, and the few things an operator does by hand."""

from __future__ import annotations

import asyncio

import msgspec

from kv.api.admin_bodies import CompactBody, CompactReply, RepairReply, TransferBody, TransferReply
from kv.api.call import Call
from kv.api.hot import decode, encode
from kv.api.reply import Reply
from kv.errors import OverloadedError
from raftgroups.commands import Compact

_transfer = msgspec.json.Decoder(TransferBody)
_compact = msgspec.json.Decoder(CompactBody)


async def status(call: Call) -> Reply:
    return Reply(200, encode(call.api.node.status()))


async def cluster_status(call: Call) -> Reply:
    return Reply(200, encode(await call.api.node.cluster()))


async def repair(call: Call) -> Reply:
    """Answers when it is done."""
    future: asyncio.Future[RepairReply] = asyncio.get_running_loop().create_future()

    def done(report: RepairReply) -> None:
        if not future.done():
            future.set_result(report)

    if not call.api.node.repair(done):
        raise OverloadedError("other repairs wait on this node already; ask again later")
    return Reply(200, encode(await future))


async def ring(call: Call) -> Reply:
    return Reply(200, encode(call.api.node.ring()))


async def transfer_leader(call: Call) -> Reply:
    wanted = decode(_transfer, await call.body() or b"{}")
    leader = await call.api.node.transfer_leader(wanted.target, call.write_options.deadline_s)
    return Reply(200, encode(TransferReply(leader)))


async def compact(call: Call) -> Reply:
    wanted = decode(_compact, await call.body())
    result = await call.write(Compact(wanted.revision))
    body = CompactReply(result.revision, wanted.revision)
    return Reply(200, encode(body), shard=call.api.shard(), revision=result.revision)
