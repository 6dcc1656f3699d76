"""The rows of keyspaces and of how they are cut; table.py has the others."""

from __future__ import annotations

from typing import Final

from kv.api import keyspace_bodies
from kv.api.route import Param, Route
from kv.api.routes import keyspaces

_ALL: Final = "/api/v1/admin/keyspaces"
_ONE: Final = "/api/v1/admin/keyspaces/{keyspace}"
_OF: Final = Param("of", "text", "The keyspace whose shards are wanted; all without", high=63)

KEYSPACE_ROUTES: Final = (
    Route(
        "GET",
        _ALL,
        "listKeyspaces",
        "Keyspaces of the cluster",
        keyspaces.list_all,
        "admin",
        replies={200: keyspace_bodies.KeyspacesReply},
        sees_data=False,
    ),
    Route(
        "POST",
        _ALL,
        "createKeyspace",
        "Make a keyspace, cut into as many even ranges as wanted",
        keyspaces.create,
        "admin",
        body=keyspace_bodies.CreateKeyspaceBody,
        replies={200: keyspace_bodies.KeyspaceShown},
        errors=(409,),
        sees_data=False,
    ),
    Route(
        "GET",
        _ONE,
        "getKeyspace",
        "A keyspace and its options",
        keyspaces.get,
        "admin",
        replies={200: keyspace_bodies.KeyspaceShown},
        errors=(404,),
        sees_data=False,
    ),
    Route(
        "PATCH",
        _ONE,
        "alterKeyspace",
        "Change options of a keyspace",
        keyspaces.alter,
        "admin",
        body=keyspace_bodies.OptionsGiven,
        replies={200: keyspace_bodies.KeyspaceShown},
        errors=(404, 409),
        sees_data=False,
    ),
    Route(
        "DELETE",
        _ONE,
        "dropKeyspace",
        "Drop a keyspace with all its keys",
        keyspaces.drop,
        "admin",
        replies={200: keyspace_bodies.DroppedReply},
        errors=(404, 409),
        sees_data=False,
    ),
    Route(
        "GET",
        "/api/v1/admin/shards",
        "listShards",
        "Ranges, and where their replicas are",
        keyspaces.shards,
        "admin",
        (_OF,),
        replies={200: keyspace_bodies.ShardsReply},
        errors=(404,),
        sees_data=False,
    ),
    Route(
        "POST",
        "/api/v1/admin/shards/{shard}/split",
        "splitShard",
        "Cut a shard in two at a key; no data moves",
        keyspaces.split,
        "admin",
        body=keyspace_bodies.SplitShardBody,
        replies={200: keyspace_bodies.SplitShardReply},
        errors=(404, 409),
        sees_data=False,
    ),
    Route(
        "POST",
        "/api/v1/admin/shards/{shard}/merge",
        "mergeShard",
        "Merge a shard with its right neighbour",
        keyspaces.merge,
        "admin",
        body=keyspace_bodies.MergeShardBody,
        replies={200: keyspace_bodies.MergeShardReply},
        errors=(404, 409),
        sees_data=False,
    ),
    Route(
        "DELETE",
        "/api/v1/admin/shards/{shard}/merge",
        "endMerge",
        "End a merge whose replicas are still being brought together",
        keyspaces.end_merge,
        "admin",
        replies={200: keyspace_bodies.MergeEndedReply},
        errors=(404, 409),
        sees_data=False,
    ),
)
