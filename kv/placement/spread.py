"""Numbers of a good placement: how crowded racks are, how much is a node's fair part. Pure.

Crowding is told as two sums of squares, of the copies in each datacentre and of those in each rack:
the smaller, the fewer copies one lost rack takes along. 3 copies on two racks are 2 + 1, and 5 on
three are 2 + 2 + 1 rather than 3 + 1 + 1, so that no rack that dies takes a majority with it if
another spread avoids that. Racks of the same name in two datacentres are two racks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TypeVar

from raftgroups.transport import NodeId

Place = tuple[str, str]
"""(datacentre, rack)"""
Crowding = tuple[int, int]
"""(of datacentres, of racks): compared in this order."""

T = TypeVar("T")


class Places:
    """Where each node stands. `flat`: all in one rack, so that nothing need be compared."""

    def __init__(self, places: Mapping[NodeId, Place]) -> None:
        self._places = places
        self.flat = len(set(places.values())) <= 1

    def crowding(self, nodes: Iterable[NodeId]) -> Crowding:
        if self.flat:
            return (0, 0)
        found = [self._places[node] for node in nodes]
        datacentres = Counter(datacentre for datacentre, _ in found)
        racks = Counter(found)
        return _squares(datacentres), _squares(racks)


def _squares(counts: Counter[T]) -> int:
    return sum(count * count for count in counts.values())


def fair_parts(weights: Mapping[NodeId, float], total: int, most: int) -> dict[NodeId, float]:
    """`total` copies shared out by weight, at most `most` on one node (of each shard a node has
    one copy): what a heavy node may not take goes to the others."""
    parts: dict[NodeId, float] = {}
    rest = dict(weights)
    left = float(total)
    while rest:
        unit = left / sum(rest.values())
        full = [node for node, weight in rest.items() if weight * unit >= most]
        if not full:
            parts.update({node: weight * unit for node, weight in rest.items()})
            break
        for node in full:
            parts[node] = float(most)
            left -= most
            del rest[node]
        left = max(0.0, left)
    return parts
