"""Which nodes the replicas of new shards stand on: clockwise on the ring, with bounded load. Pure.

Each shard walks the ring from a place of its own and takes the preference list there (distinct
racks and datacentres first), but passes over a node that has its share already: the average of all
replicas, weighted, rounded up. So no node has more than one replica over even.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil

from kv.cluster.ring import Member, Ring, weighted_vnodes
from raftgroups.meta.records import NodeRecord, NodeState
from raftgroups.transport import NodeId
from storage.buckets import BUCKETS

_STRIDE = 0.6180339887498949
"""Golden ratio: any number of steps lies evenly on the ring."""


def ring_of(nodes: Sequence[NodeRecord]) -> Ring:
    return Ring(
        Member(NodeId(each.node), weighted_vnodes(each.weight), each.rack, each.datacentre)
        for each in nodes
    )


def spread(
    nodes: Sequence[NodeRecord], shards: int, replication: int, used: Mapping[str, int]
) -> list[tuple[str, ...]]:
    """For each shard the nodes of its replicas, in the order of the walk. Fewer than asked for if
    there are fewer nodes; none if there is no node."""
    takers = [each for each in nodes if each.state is NodeState.ACTIVE]
    if not takers:
        return [()] * shards
    copies = min(replication, len(takers))
    ring = ring_of(takers)
    load = {each.node: used.get(each.node, 0) for each in takers}
    total_weight = sum(each.weight for each in takers)
    wanted = sum(load.values()) + shards * copies
    room = {each.node: ceil(wanted * each.weight / total_weight) for each in takers}
    placed = []
    for shard in range(shards):
        bucket = int((shard * _STRIDE) % 1.0 * BUCKETS)
        walk = list(ring.preference(bucket, len(takers)))
        with_room = [node for node in walk if load[node] < room[node]]
        preferred = _varied(with_room, nodes, copies)
        rest = sorted((n for n in walk if n not in preferred), key=lambda node: load[node])
        chosen = [*preferred, *rest][:copies]
        for node in chosen:
            load[node] += 1
        placed.append(tuple(sorted(chosen)))
    return placed


def _varied(walk: Sequence[str], nodes: Sequence[NodeRecord], copies: int) -> list[str]:
    """The first of the walk that stand in racks of their own, then whoever comes."""
    places = {each.node: (each.datacentre, each.rack) for each in nodes}
    seen: set[tuple[str, str]] = set()
    first: list[str] = []
    others: list[str] = []
    for node in walk:
        (others if places[node] in seen else first).append(node)
        seen.add(places[node])
    return [*first, *others][:copies]
