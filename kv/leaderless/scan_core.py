"""One page of a listing put together of what several nodes hold, in the order of keys. Pure.

    core = ScanCore(limit)
    core.add(node, items, last, more)     what a node has from the page's start on, in order
    core.page()                           what is known of every key up to where all have answered

Each node gives its next keys, up to its own limit. What lies beyond the least last key of those
that have more is left to the next page, since one of them may have keys there that it did not send.
`answered` goes with `level_of`: every range of the ring needs an owner among those that answered,
or keys would be missing without a word.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from kv.cluster.ring import Ring
from kv.leaderless.dvv import merge
from kv.leaderless.quorum import Level, level_met
from raftgroups.transport import NodeId
from storage.siblings import SiblingSet


@dataclass(frozen=True, slots=True)
class ScannedPage:
    items: tuple[tuple[bytes, SiblingSet], ...]
    """In the order of keys; keys without a living value among them."""
    resume: bytes | None
    """Where the next page begins; None: this is the last one."""


class ScanCore:
    def __init__(self, limit: int) -> None:
        assert limit > 0
        self._limit = limit
        self._found: dict[bytes, SiblingSet] = {}
        self._frontier: bytes | None = None
        """Nothing is known to be complete beyond this key; None: everything is."""

    def add(
        self, items: Iterable[tuple[bytes, SiblingSet]], last: bytes | None, more: bool
    ) -> None:
        """`last`: the last key that the node looked at, read or damaged."""
        for key, siblings in items:
            known = self._found.get(key)
            self._found[key] = siblings if known is None else merge(known, siblings)
        if more:
            assert last is not None, "a page that ends early has looked at something"
            if self._frontier is None or last < self._frontier:
                self._frontier = last

    def page(self) -> ScannedPage:
        frontier = self._frontier
        keys = sorted(key for key in self._found if frontier is None or key <= frontier)
        resume = None if frontier is None else frontier + b"\x00"
        if len(keys) > self._limit:
            resume = keys[self._limit]
            keys = keys[: self._limit]
        return ScannedPage(tuple((key, self._found[key]) for key in keys), resume)


def level_of(ring: Ring, n: int, answered: Collection[NodeId]) -> Level | None:
    """What the answers amount to in the worst covered range; None: a range has no owner there."""
    counts = [
        (len(owners), sum(owner in answered for owner in owners)) for owners in owner_lists(ring, n)
    ]
    return min((level_met(many, few) or None for many, few in counts), key=_rank)


_RANKS: Mapping[Level | None, int] = {None: 0, Level.ONE: 1, Level.QUORUM: 2, Level.ALL: 3}


def _rank(level: Level | None) -> int:
    return _RANKS[level]


@lru_cache(maxsize=8)
def owner_lists(ring: Ring, n: int) -> frozenset[tuple[NodeId, ...]]:
    """Each preference list that occurs, once."""
    return frozenset(owners for _, owners in ring.ranges(n))
