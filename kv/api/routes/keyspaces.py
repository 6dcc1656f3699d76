"""Keyspaces and the shards of those that are strong: list, make, change, drop, split, merge."""

from __future__ import annotations

import msgspec

from kv.api.call import Call
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


async def list_all(call: Call) -> Reply:
    return Reply(200, encode(KeyspacesReply(call.api.keyspaces.all())))


async def get(call: Call) -> Reply:
    return Reply(200, encode(call.api.keyspaces.named(_name(call))))


async def create(call: Call) -> Reply:
    wanted = decode(_create, await call.body())
    made = await call.api.keyspaces.create(wanted, call.write_options.deadline_s)
    return Reply(200, encode(made))


async def alter(call: Call) -> Reply:
    wanted = decode(_alter, await call.body())
    made = await call.api.keyspaces.alter(_name(call), wanted, call.write_options.deadline_s)
    return Reply(200, encode(made))


async def drop(call: Call) -> Reply:
    name = _name(call)
    await call.api.keyspaces.drop(name, call.write_options.deadline_s)
    return Reply(200, encode(DroppedReply(name, True)))


async def shards(call: Call) -> Reply:
    return Reply(200, encode(ShardsReply(call.api.keyspaces.shards(call.query["of"]))))


async def split(call: Call) -> Reply:
    wanted = decode(_split, await call.body())
    key = given(wanted.key, wanted.key_encoding, "key")
    left, right = await call.api.keyspaces.split(_shard(call), key)
    return Reply(200, encode(SplitShardReply(left, right)))


async def merge(call: Call) -> Reply:
    body = await call.body()
    wanted = decode(_merge, body) if body else MergeShardBody()
    merged = await call.api.keyspaces.merge(_shard(call), wanted.right)
    return Reply(200, encode(MergeShardReply(merged)))


async def end_merge(call: Call) -> Reply:
    return Reply(200, encode(MergeEndedReply(await call.api.keyspaces.end_merge(_shard(call)))))


def _shard(call: Call) -> int:
    text = call.argument.decode("latin-1")
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise InvalidPathError(f"{text[:40]!a} is no number of a shard; list the shards")
    return int(text)


def _name(call: Call) -> str:
    return call.argument.decode("latin-1")
