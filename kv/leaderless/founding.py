"""Who founded the ring, and what a keyspace made later owes to whom. Pure.

The map of the meta group (raftgroups/meta) says which nodes belong to the cluster, which keyspaces
are leaderless, and of each what the ring was when it was made. Gossip says who is on the ring now.

    first leaderless keyspace    its ring is everybody in the map who is to have replicas
    each later one               its ring is who serves now, as the node sees it that makes it

A node that owned a range in that ring has missed nothing of the keyspace there, whenever it hears
of it: nobody wrote before it was made, and this node acknowledged nothing since. Any other range
that it owns by then came to it later, and is filled like those of a node that joins (filling.py).
Two changes must not pass each other unseen for that: while a node does not know a keyspace that
others know, no member joins or leaves (maintenance.py asks all before).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from kv.cluster.ring import Member, Ring, weighted_vnodes
from kv.leaderless.keyspace import Keyspace
from kv.leaderless.ranges import Ranges, joined
from kv.leaderless.rules import Rule, SetLimits
from raftgroups.meta.records import (
    KeyspaceOptions,
    KeyspaceRecord,
    NodeRecord,
    NodeState,
    RingSeat,
)
from raftgroups.transport import NodeId


def seats_of_nodes(nodes: Iterable[NodeRecord], vnodes: int) -> tuple[RingSeat, ...]:
    """Of those that found the ring. `vnodes`: of a node of weight 1."""
    return tuple(
        RingSeat(node.node, weighted_vnodes(node.weight, vnodes), node.rack, node.datacentre)
        for node in sorted(nodes, key=lambda each: each.node)
        if node.state in (NodeState.ACTIVE, NodeState.JOINING)
    )


def seats_of_ring(members: Iterable[Member]) -> tuple[RingSeat, ...]:
    return tuple(
        RingSeat(each.node, each.vnodes, each.rack, each.datacentre)
        for each in sorted(members, key=lambda each: each.node)
    )


def members_of(seats: Iterable[RingSeat]) -> list[Member]:
    return [Member(NodeId(seat.node), seat.vnodes, seat.rack, seat.datacentre) for seat in seats]


def owned(node: NodeId, seats: Sequence[RingSeat], n: int) -> Ranges:
    """What the node owned in that ring."""
    if node not in {seat.node for seat in seats}:
        return ()
    return joined(found for found, owners in Ring(members_of(seats)).ranges(n) if node in owners)


def options_of(keyspace: Keyspace) -> KeyspaceOptions:
    """As the map has it; R and W of a keyspace of the configuration are numbers."""
    assert isinstance(keyspace.r, int)
    assert isinstance(keyspace.w, int)
    return KeyspaceOptions(
        replication=keyspace.n,
        read_quorum=keyspace.r,
        write_quorum=keyspace.w,
        rule=keyspace.rule.value,
        strict=keyspace.strict,
        siblings=keyspace.limits.siblings,
    )


def keyspace_of(record: KeyspaceRecord) -> Keyspace:
    """What the map says of a leaderless keyspace, as the regime takes it."""
    options = record.options
    return Keyspace(
        number=record.keyspace,
        name=record.name,
        rule=Rule(options.rule),
        n=options.replication,
        r=options.read_quorum,
        w=options.write_quorum,
        strict=options.strict,
        limits=SetLimits(siblings=options.siblings),
    )
