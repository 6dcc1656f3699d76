"""Keyspaces and the shards of those that are strong: list, make, change, drop, split, merge."""

from __future__ import annotations

import msgspec

from kv.api.call import Call
from kv.api.context import Keyspaces
from kv.api.failures import InvalidPathError
from kv.api.hot import decode, encode
from kv.api.keyspace_bodies import (
    CreateKeyspaceBody,
    DroppedReply,
    KeyspacesReply,
    MergeEndedReply,
    MergeShardBody,
    MergeShardReply,
    OptionsGiven,
    ShardsReply,
    SplitShardBody,
    SplitShardReply,
)
from kv.api.reply import Reply
from kv.api.text import given

_create = msgspec.json.Decoder(CreateKeyspaceBody)
_alter = msgspec.json.Decoder(OptionsGiven)
_merge = msgspec.json.Decoder(MergeShardBody)
_split = msgspec.json.Decoder(SplitShardBody)


async def _keyspaces(call: Call) -> Keyspaces:
    """Every call sees what was done before it, on whichever node."""
    await call.api.keyspaces.look_anew()
    return call.api.keyspaces


async def list_all(call: Call) -> Reply:
    keyspaces = await _keyspaces(call)
    return Reply(200, encode(KeyspacesReply(keyspaces.all())))


async def get(call: Call) -> Reply:
    keyspaces = await _keyspaces(call)
    return Reply(200, encode(keyspaces.named(_name(call))))


async def create(call: Call) -> Reply:
    wanted, keyspaces = decode(_create, await call.body()), await _keyspaces(call)
    made = await keyspaces.create(wanted, call.write_options.deadline_s)
    return Reply(200, encode(made))


async def alter(call: Call) -> Reply:
    wanted, keyspaces = decode(_alter, await call.body()), await _keyspaces(call)
    made = await keyspaces.alter(_name(call), wanted, call.write_options.deadline_s)
    return Reply(200, encode(made))


async def drop(call: Call) -> Reply:
    name, keyspaces = _name(call), await _keyspaces(call)
    await keyspaces.drop(name, call.write_options.deadline_s)
    return Reply(200, encode(DroppedReply(name, True)))


async def shards(call: Call) -> Reply:
    keyspaces = await _keyspaces(call)
    return Reply(200, encode(ShardsReply(keyspaces.shards(call.query["of"]))))


async def split(call: Call) -> Reply:
    wanted, shard = decode(_split, await call.body()), _shard(call)
    key = given(wanted.key, wanted.key_encoding, "key")
    keyspaces = await _keyspaces(call)
    left, right = await keyspaces.split(shard, key)
    return Reply(200, encode(SplitShardReply(left, right)))


async def merge(call: Call) -> Reply:
    body, shard = await call.body(), _shard(call)
    wanted = decode(_merge, body) if body else MergeShardBody()
    keyspaces = await _keyspaces(call)
    return Reply(200, encode(MergeShardReply(await keyspaces.merge(shard, wanted.right))))


async def end_merge(call: Call) -> Reply:
    shard, keyspaces = _shard(call), await _keyspaces(call)
    return Reply(200, encode(MergeEndedReply(await keyspaces.end_merge(shard))))


def _shard(call: Call) -> int:
    text = call.argument.decode("latin-1")
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise InvalidPathError(f"{text[:40]!a} is no number of a shard; list the shards")
    return int(text)


def _name(call: Call) -> str:
    return call.argument.decode("latin-1")
