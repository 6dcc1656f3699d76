"""What a cluster begins with, and which of its founders host the meta group. Pure.

A fresh cluster: all founders know each other's ids (kv/cluster/forming.py), so all choose the same
hosts of group 0 and form it. Its first leader proposes Bootstrap as soon as it has the card of
every founder; nothing else about shards is decided by a node alone.

A directory from before there was a meta group holds group 1 and no record of where it belongs. Its
members cannot have changed since it was formed, for nothing asked for that; so the applied, bound
configuration of group 1 is the same on every node, and each forms group 0 from it by itself, now or
whenever it is next started: a voter that comes late is like one that was down since the beginning.
Until a majority has done so the node serves what it has, by `implied_view`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from kv.placement.targets import Placed, Seat, ring_of, targets
from raftgroups.meta.commands import Bootstrap, BootstrapLeaderless, NewShard
from raftgroups.meta.keyspace_rules import DEFAULT_NAME
from raftgroups.meta.records import (
    DEFAULT_KEYSPACE_ID,
    FIRST_SEGMENT,
    FIRST_SHARD,
    KeyspaceOptions,
    KeyspaceRecord,
    NodeRecord,
    NodeState,
    RingSeat,
    ShardRecord,
)
from raftgroups.meta.view import MetaView, even_ranges
from raftgroups.transport import NodeId

META_REPLICAS_MAX: Final = 5


def meta_hosts(founders: Sequence[str]) -> tuple[str, ...]:
    """Five, or three, or as many as there are: an even number tolerates no more than one less."""
    ordered = sorted(founders)
    count = min(len(ordered), META_REPLICAS_MAX)
    return tuple(ordered[: count if count % 2 or count == 2 else count - 1])


def fresh(
    nodes: Sequence[NodeRecord], shards: int, options: KeyspaceOptions, meta: Sequence[str]
) -> Bootstrap:
    return Bootstrap(
        tuple(sorted(nodes, key=lambda node: node.node)),
        tuple(meta),
        options,
        new_shards(nodes, shards, options.replication),
    )


def fresh_leaderless(
    nodes: Sequence[NodeRecord],
    options: KeyspaceOptions,
    meta: Sequence[str],
    ring: tuple[RingSeat, ...],
) -> BootstrapLeaderless:
    return BootstrapLeaderless(
        tuple(sorted(nodes, key=lambda node: node.node)), tuple(meta), options, ring
    )


def new_shards(
    nodes: Sequence[NodeRecord],
    shards: int,
    replication: int,
    present: Sequence[ShardRecord] = (),
) -> tuple[NewShard, ...]:
    """A keyspace cut into even ranges, each on as many nodes as there may be copies. `present`: the
    shards that there are, whose replicas count where room is looked for."""
    seats = [
        Seat(
            NodeId(node.node),
            keeps=node.state is not NodeState.DEAD,
            takes=node.state is NodeState.ACTIVE,
            rack=node.rack,
            datacentre=node.datacentre,
            weight=node.weight,
        )
        for node in nodes
    ]
    old = [
        Placed(each.shard, max(1, len(each.replicas)), tuple(map(NodeId, each.replicas)), True)
        for each in present
    ]
    first = max((each.shard for each in present), default=0) + 1
    new = [Placed(first + place, replication, ()) for place in range(shards)]
    found = targets(seats, [*old, *new], ring_of(seats), moves=0)
    incarnations = {node.node: node.incarnation for node in nodes}
    return tuple(
        NewShard(start, end, tuple((node, incarnations[node]) for node in found[first + place]))
        for place, (start, end) in enumerate(even_ranges(shards))
    )


def upgraded(nodes: Sequence[NodeRecord], options: KeyspaceOptions) -> Bootstrap:
    """Of a cluster whose only shard is there already, on all of its nodes."""
    founders = tuple(sorted((node.node, node.incarnation) for node in nodes))
    return Bootstrap(
        tuple(sorted(nodes, key=lambda node: node.node)),
        tuple(node for node, _ in founders),
        options,
        (NewShard(b"", None, founders),),
        formed=True,
    )


def implied_view(voters: Sequence[str]) -> MetaView:
    """What such a directory says by itself. Its version is older than any."""
    shard = ShardRecord(
        FIRST_SHARD,
        DEFAULT_KEYSPACE_ID,
        b"",
        None,
        FIRST_SEGMENT,
        epoch=0,
        replicas=tuple(sorted(voters)),
    )
    keyspace = KeyspaceRecord(DEFAULT_KEYSPACE_ID, DEFAULT_NAME)
    return MetaView(0, {}, {DEFAULT_KEYSPACE_ID: keyspace}, {FIRST_SHARD: shard})
