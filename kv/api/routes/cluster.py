"""Nodes that come and go, and where replicas live: what operators do by hand.

Nobody waits here for replicas to move: `moves` shows it, and a call that was repeated does no harm.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any, Final, Literal

import msgspec

from kv.api import admin_bodies, cluster_bodies
from kv.api.call import Call
from kv.api.failures import InvalidBodyError, InvalidPathError
from kv.api.hot import decode, encode
from kv.api.reply import Reply
from kv.errors import UnavailableError
from kv.placement.messages import NodeSummary, Summary
from kv.placement.service import PlacementService
from raftgroups.meta.records import NodeRecord
from raftgroups.transport import NodeId

_add = msgspec.json.Decoder(cluster_bodies.AddNodeBody)
_node = msgspec.json.Decoder(cluster_bodies.NodeBody)
_remove = msgspec.json.Decoder(cluster_bodies.RemoveNodeBody)
_move = msgspec.json.Decoder(cluster_bodies.MoveShardBody)
_transfer = msgspec.json.Decoder(cluster_bodies.TransferShardBody)
_ADDRESS: Final = re.compile(r"(?:\[([0-9A-Fa-f:.%]+)\]|([^:/\s\[\]]+)):([0-9]{1,5})")
State = Literal["joining", "active", "draining", "dead", "removed"]


async def _service(call: Call) -> PlacementService:
    """Every call sees what was done before it, on whichever node."""
    if call.api.placement is None:
        raise UnavailableError("nothing was done: this node takes no part in a cluster")
    await call.api.placement.look_anew()
    return call.api.placement


async def nodes(call: Call) -> Reply:
    service = await _service(call)
    try:
        summary = await service.summary()
    except UnavailableError:
        summary = None
    found = service.nodes()
    rings = await asyncio.gather(*(_ring(service, node.node) for node in found))
    shown = [
        _shown(service, node, _of(summary, node.node), ring=ring)
        for node, ring in zip(found, rings, strict=True)
    ]
    return Reply(200, encode(cluster_bodies.NodesReply(shown)))


def _of(summary: Summary | None, node: str) -> NodeSummary | None:
    found = () if summary is None else summary.nodes
    return next((each for each in found if each.node == node), None)


def _shown(
    service: PlacementService,
    node: NodeRecord,
    seen: NodeSummary | None = None,
    state: State | None = None,
    ring: cluster_bodies.RingStanding | None = None,
) -> cluster_bodies.ClusterNode:
    return cluster_bodies.ClusterNode(
        node.node,
        node.name,
        node.client,
        f"{node.peer[0]}:{node.peer[1]}",
        state or node.state.value,
        node.rack,
        node.datacentre,
        node.weight,
        service.replicas_of(node.node),
        None if seen is None else seen.leading,
        None if seen is None else seen.reachable,
        ring,
    )


async def _ring(service: PlacementService, node: str) -> cluster_bodies.RingStanding | None:
    found = await service.ring.standing_of(NodeId(node))
    if found is None:
        member = service.ring.is_member(node)
        return cluster_bodies.RingStanding("away") if member else None
    standing: Any = found.status
    return cluster_bodies.RingStanding(standing, found.lacking, found.hints, found.foreign)


async def add_node(call: Call) -> Reply:
    wanted = decode(_add, await call.body())
    found = _ADDRESS.fullmatch(wanted.node_address.partition("//")[2] or wanted.node_address)
    if found is None or not 0 < int(found[3]) < 65536:
        raise InvalidBodyError(
            f"node_address is {wanted.node_address!a}; give HOST:PORT, the address on which the "
            "new node serves other nodes"
        )
    service = await _service(call)
    node = await service.add((found[1] or found[2], int(found[3])))
    return Reply(200, encode(_shown(service, node)))


async def drain_node(call: Call) -> Reply:
    wanted, service = decode(_node, await call.body()), await _service(call)
    node = await service.drain(wanted.node_address)
    ring = await _ring(service, node.node)
    return Reply(200, encode(_shown(service, node, ring=ring)))


async def undrain_node(call: Call) -> Reply:
    wanted, service = decode(_node, await call.body()), await _service(call)
    node = await service.undrain(wanted.node_address)
    ring = await _ring(service, node.node)
    return Reply(200, encode(_shown(service, node, ring=ring)))


async def remove_node(call: Call) -> Reply:
    wanted, service = decode(_remove, await call.body()), await _service(call)
    node, removed = await service.remove(wanted.node_address, dead=wanted.dead, force=wanted.force)
    ring = None if removed else await _ring(service, node.node)
    state: State | None = "removed" if removed else None
    return Reply(200, encode(_shown(service, node, state=state, ring=ring)))


async def rebalance(call: Call) -> Reply:
    service = await _service(call)
    return Reply(200, encode(_moves(await service.rebalance())))


async def moves(call: Call) -> Reply:
    service = await _service(call)
    return Reply(200, encode(_moves(await service.summary())))


def _moves(summary: Summary) -> cluster_bodies.MovesReply:
    return cluster_bodies.MovesReply(
        summary.planner,
        summary.settled,
        summary.waiting,
        list(summary.short),
        list(summary.stuck),
        [
            cluster_bodies.MoveState(
                move.group,
                move.node,
                move.leader,
                move.snapshot,
                move.rows,
                move.rows_expected,
                move.bytes,
                move.lag,
            )
            for move in summary.moves
        ],
    )


def _shard(call: Call) -> int:
    text = call.argument
    if not re.fullmatch(rb"[0-9]{1,18}", text):
        raise InvalidPathError(f"{text[:40]!a} is no shard; give a number, as the list of shards")
    return int(text)


async def move_shard(call: Call) -> Reply:
    shard, wanted, service = _shard(call), decode(_move, await call.body()), await _service(call)
    made = await service.move(shard, wanted.source, wanted.target)
    reply = cluster_bodies.MoveShardReply(made.operation, shard, made.source, made.target)
    return Reply(200, encode(reply))


async def transfer_shard(call: Call) -> Reply:
    shard, wanted = _shard(call), decode(_transfer, await call.body())
    service = await _service(call)
    leader = await service.transfer(shard, wanted.target)
    return Reply(200, encode(admin_bodies.TransferReply(leader)))
