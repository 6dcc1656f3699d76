"""Which leadership to hand over next, so that nodes lead their fair parts. Pure.

From a node that leads over one group more than its fair part than another, straight or through
others; of the shortest chain the first hand-over is told, and the next call finds the rest. A node
that should lead nothing (a drained one) gives everything away first.
"""

from __future__ import annotations

from collections.abc import Mapping

from kv.placement.spread import fair_parts
from kv.placement.targets import EPSILON
from raftgroups.transport import NodeId

Handover = tuple[int, NodeId, NodeId]
"""(group, from, to)"""


class Leaderships:
    """Who leads how much, of all groups; only groups with heirs may change."""

    def __init__(
        self,
        weights: Mapping[NodeId, float],
        leaders: Mapping[int, NodeId],
        heirs: Mapping[int, frozenset[NodeId]],
    ) -> None:
        self._leaders = dict(leaders)
        self._heirs = {group: nodes for group, nodes in heirs.items() if nodes}
        self._fair = fair_parts(weights, len(leaders), len(leaders))
        self._loads = dict.fromkeys(weights, 0)
        for leader in leaders.values():
            if leader in self._loads:
                self._loads[leader] += 1

    def _off(self, node: NodeId) -> float:
        """A node that should lead nothing is further above its part than any other."""
        return self._loads[node] - self._fair[node] if node in self._loads else float("inf")

    def move(self) -> Handover | None:
        """(group, from, to), noted as done; None: it is even."""
        nodes = sorted({*self._loads, *self._leaders.values()}, key=lambda n: (-self._off(n), n))
        best: list[Handover] = []
        for source in nodes:
            chain = self._chain_from(source)
            if chain and (not best or len(chain) < len(best)):
                best = chain
            if len(best) == 1:
                break
        if not best:
            return None
        group, source, heir = best[0]
        self._leaders[group] = heir
        self._loads[heir] += 1
        if source in self._loads:
            self._loads[source] -= 1
        return best[0]

    def _chain_from(self, source: NodeId) -> list[Handover]:
        chains: dict[NodeId, list[Handover]] = {source: []}
        waiting = [source]
        while waiting:
            following: list[NodeId] = []
            ends: list[tuple[float, NodeId]] = []
            for node in waiting:
                for group, heir in self._exits(node):
                    if heir in chains:
                        continue
                    chains[heir] = [*chains[node], (group, node, heir)]
                    following.append(heir)
                    if self._off(source) - self._off(heir) > 1 + EPSILON:
                        ends.append((self._off(heir), heir))
            if ends:
                return chains[min(ends)[1]]
            waiting = following
        return []

    def _exits(self, node: NodeId) -> list[tuple[int, NodeId]]:
        return [
            (group, heir)
            for group, leader in sorted(self._leaders.items())
            if leader == node
            for heir in sorted(self._heirs.get(group, ()), key=lambda n: (self._off(n), n))
            if heir != node and heir in self._loads
        ]
