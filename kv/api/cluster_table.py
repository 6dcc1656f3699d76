"""The rows of nodes and of where replicas live; table.py has the others."""

from __future__ import annotations

from typing import Final

from kv.api import admin_bodies, cluster_bodies
from kv.api.route import Route
from kv.api.routes import cluster

_NODES: Final = "/api/v1/admin/cluster/nodes"
_SHARD: Final = "/api/v1/admin/shards/{shard}"

CLUSTER_ROUTES: Final = (
    Route(
        "GET",
        _NODES,
        "listNodes",
        "Members of the cluster",
        cluster.nodes,
        "admin",
        replies={200: cluster_bodies.NodesReply},
        sees_data=False,
    ),
    Route(
        "POST",
        _NODES,
        "addNode",
        "Wait for a new node to be a member, or take back one that is drained",
        cluster.add_node,
        "admin",
        body=cluster_bodies.AddNodeBody,
        replies={200: cluster_bodies.ClusterNode},
        errors=(404, 409),
        sees_data=False,
    ),
    Route(
        "DELETE",
        _NODES,
        "removeNode",
        "Remove a node that was drained, or that is lost for good",
        cluster.remove_node,
        "admin",
        body=cluster_bodies.RemoveNodeBody,
        replies={200: cluster_bodies.ClusterNode},
        errors=(404, 409),
        sees_data=False,
    ),
    Route(
        "POST",
        "/api/v1/admin/cluster/drain",
        "drainNode",
        "Move a node's replicas to the others, and let it leave the ring",
        cluster.drain_node,
        "admin",
        body=cluster_bodies.NodeBody,
        replies={200: cluster_bodies.ClusterNode},
        errors=(404, 409),
        sees_data=False,
    ),
    Route(
        "POST",
        "/api/v1/admin/cluster/undrain",
        "undrainNode",
        "Let a node that is drained keep and get replicas again, and stay on the ring",
        cluster.undrain_node,
        "admin",
        body=cluster_bodies.NodeBody,
        replies={200: cluster_bodies.ClusterNode},
        errors=(404, 409),
        sees_data=False,
    ),
    Route(
        "POST",
        "/api/v1/admin/cluster/rebalance",
        "rebalance",
        "Even out replicas and leaderships now",
        cluster.rebalance,
        "admin",
        replies={200: cluster_bodies.MovesReply},
        sees_data=False,
    ),
    Route(
        "GET",
        "/api/v1/admin/cluster/moves",
        "listMoves",
        "Replicas being made, and what waits",
        cluster.moves,
        "admin",
        replies={200: cluster_bodies.MovesReply},
        sees_data=False,
    ),
    Route(
        "POST",
        _SHARD + "/move",
        "moveShard",
        "Move a replica from one node to another",
        cluster.move_shard,
        "admin",
        body=cluster_bodies.MoveShardBody,
        replies={200: cluster_bodies.MoveShardReply},
        errors=(404, 409),
        sees_data=False,
    ),
    Route(
        "POST",
        _SHARD + "/transfer",
        "transferShard",
        "Let another replica lead a shard",
        cluster.transfer_shard,
        "admin",
        body=cluster_bodies.TransferShardBody,
        replies={200: admin_bodies.TransferReply},
        errors=(404, 409),
        sees_data=False,
    ),
)
