"""The feeds of all nodes as one stream of changes of keys. Pure.

    page of a node --> take: each set is merged with what was told of its key
                         | nothing new in it: passed over
                         v
                       what the key is now, for whoever watches

It is at least once: what is remembered of told keys is bounded, and whoever begins anew at an older
position remembers nothing.

A node whose feed has a hole (its process began anew, its bounds dropped entries) has a gap open.
What it committed in the hole was stored by other nodes or reaches the other owners in the end, and
is in their feeds then; so nothing is missed while fewer nodes have a gap than own a key (`N`). The
gap closes once every other member without one has been read at a time at which every write of the
hole had its answer, SETTLED_S after the hole was seen: what was acknowledged by two nodes was read.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from kv.leaderless.dvv import covers_clock, merge
from kv.leaderless.feed import FeedPage, Position, Positions, cursor_text
from storage.siblings import SiblingSet, decode_set

SETTLED_S: Final = 90.0
"""Above the longest deadline that a put may have."""
TOLD_KEYS: Final = 50_000
TOLD_BYTES: Final = 16 * 1024 * 1024


class TailCore:
    def __init__(
        self,
        keyspace: int,
        positions: Positions,
        *,
        told_keys: int = TOLD_KEYS,
        told_bytes: int = TOLD_BYTES,
    ) -> None:
        self.keyspace: Final = keyspace
        self._positions = dict(positions)
        self._gaps: dict[str, float] = {
            node: 0.0 for node, position in positions.items() if position.open
        }
        """Since when; 0: since before this began, so since its first page."""
        self._settled: dict[str, set[str]] = {}
        """Of each gap: who was read since it settled."""
        self._told: OrderedDict[bytes, tuple[SiblingSet, int]] = OrderedDict()
        self._told_keys = told_keys
        self._told_bytes_max = told_bytes
        self._told_bytes = 0

    def position(self, node: str) -> Position | None:
        return self._positions.get(node)

    @property
    def positions(self) -> dict[str, Position]:
        return {
            node: Position(each.boot, each.number, node in self._gaps)
            for node, each in self._positions.items()
        }

    @property
    def cursor(self) -> str:
        return cursor_text(self.keyspace, self.positions)

    @property
    def gaps(self) -> frozenset[str]:
        return frozenset(self._gaps)

    def begin(self, node: str, page: FeedPage) -> None:
        """It stood here when this stream began: nothing before is asked for."""
        self._positions[node] = Position(page.boot, page.number)

    def take(
        self, node: str, page: FeedPage, *, asked_s: float, now_s: float, members: frozenset[str]
    ) -> list[tuple[bytes, SiblingSet]]:
        """What is new. Raises MalformedSetError, and then nothing was taken."""
        sets = [
            (change.key, decode_set(change.encoded), len(change.encoded))
            for change in page.items
            if change.keyspace == self.keyspace
        ]
        if page.lost:
            self._gaps[node] = now_s
            self._settled[node] = set()
        self._positions[node] = Position(page.boot, page.number)
        self._close_gaps(node, asked_s, now_s, members)
        fresh: dict[bytes, SiblingSet] = {}
        for key, siblings, size_bytes in sets:
            known = self._told.get(key)
            if known is not None:
                if covers_clock(known[0].clock, siblings.clock):
                    continue
                siblings = merge(known[0], siblings)
                size_bytes += known[1] if len(siblings.versions) > 1 else 0
            self._remember(key, siblings, size_bytes)
            fresh[key] = siblings
        return list(fresh.items())

    def is_broken(self, n: int, members: frozenset[str]) -> bool:
        """So many nodes have a gap that a key's change may be in none of the others' feeds."""
        self._forget_others(members)
        return bool(members) and len(self._gaps) >= min(n, len(members))

    def _forget_others(self, members: frozenset[str]) -> None:
        """Nodes that are no members any more have handed over all they had."""
        for node in self._positions.keys() - members:
            del self._positions[node]
            self._gaps.pop(node, None)
            self._settled.pop(node, None)

    def _close_gaps(self, node: str, asked_s: float, now_s: float, members: frozenset[str]) -> None:
        for gap, since_s in list(self._gaps.items()):
            if not since_s:
                self._gaps[gap] = now_s
            elif gap != node and node not in self._gaps and asked_s >= since_s + SETTLED_S:
                settled = self._settled.setdefault(gap, set())
                settled.add(node)
                if members - self._gaps.keys() <= settled:
                    del self._gaps[gap]
                    self._settled.pop(gap, None)

    def _remember(self, key: bytes, siblings: SiblingSet, size_bytes: int) -> None:
        before = self._told.pop(key, None)
        if before is not None:
            self._told_bytes -= before[1]
        self._told[key] = siblings, size_bytes
        self._told_bytes += size_bytes
        while len(self._told) > self._told_keys or self._told_bytes > self._told_bytes_max:
            _, (_, dropped) = self._told.popitem(last=False)
            self._told_bytes -= dropped
