"""Which shard is due to be split, which two to be merged: by their keyspace's options. Pure.

    split by size   more bytes than split_bytes; at the key with as many keys before as behind it
    split by load   more operations a second than split_operations_a_second, for some time; where a
                    cut halves the load sampled. If one key carries most of it, no cut helps: none
    merge           two neighbours that together have less than merge_bytes, and less than half of
                    the load that would split them, for some longer time

So nothing flaps: what was merged is below half of what splits (keyspace_rules.py of the meta group
holds merge_bytes to that), what was split has rest until its figures are its own, and a shard must
be over its limit all the while. Paced: so many at a time in the cluster, and some seconds apart. A
keyspace splits up to shards_max.

What is remembered here are moments only; whoever plans next begins to wait anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

from kv.division.figures import Figures
from kv.division.words import KINDS, MERGE, SPLIT
from raftgroups.meta.records import (
    KeyspaceOptions,
    KeyspaceRecord,
    KeyspaceState,
    Regime,
    ShardRecord,
    ShardState,
)
from raftgroups.meta.view import MetaView


@dataclass(frozen=True, slots=True)
class Pace:
    at_once: int = 1
    """Splits and merges under way that began by themselves, or by hand, before another begins."""
    apart_s: float = 5.0
    """Between the beginnings of two."""
    split_after_s: float = 30.0
    """A shard is over its limit of load for so long before it is split."""
    merge_after_s: float = 300.0
    """Two are small together for so long before they are merged, and have not changed meanwhile."""
    again_after_s: float = 60.0
    """What was given up is not tried again for so long."""


@dataclass(frozen=True, slots=True)
class Due:
    kind: str
    shards: tuple[int, ...]
    key: bytes
    why: str


class Limits:
    def __init__(self, pace: Pace) -> None:
        self.pace = pace
        self._since: dict[tuple[object, ...], float] = {}
        """Since when each is over a limit: (kind, shards, epochs)."""
        self._rest_until: dict[int, float] = {}
        self._last_s = float("-inf")

    def forget(self) -> None:
        """This node does not plan any more."""
        self._since.clear()
        self._rest_until.clear()
        self._last_s = float("-inf")

    def rest(self, shards: tuple[int, ...], now_s: float) -> None:
        """They could not be changed now."""
        for shard in shards:
            self._rest_until[shard] = now_s + self.pace.again_after_s

    def middles(self, view: MetaView, figures: Mapping[int, Figures]) -> tuple[int, ...]:
        """Shards whose middle is wanted, since they are too large."""
        return tuple(
            each.shard
            for keyspace in _dividing(view)
            for each in _idle(view, keyspace)
            if _is_large(keyspace.options, figures.get(each.shard))
        )

    def due(self, view: MetaView, figures: Mapping[int, Figures], now_s: float) -> Due | None:
        """What to begin now, if anything."""
        self._rest_until = {s: t for s, t in self._rest_until.items() if t > now_s}
        found = [each for each in self._found(view, figures, now_s) if self._rested(each)]
        under_way = sum(each.kind in KINDS for each in view.operations.values())
        paced = now_s - self._last_s >= self.pace.apart_s and under_way < self.pace.at_once
        if not (found and paced):
            return None
        self._last_s = now_s
        return found[0]

    def _rested(self, due: Due) -> bool:
        return not any(shard in self._rest_until for shard in due.shards)

    def _found(self, view: MetaView, figures: Mapping[int, Figures], now_s: float) -> list[Due]:
        """Splits first. Whatever is not over any more begins to wait anew when it is again."""
        still: dict[tuple[object, ...], float] = {}
        splits: list[tuple[float, Due]] = []
        merges: list[Due] = []

        def waited_s(*key: object) -> float:
            still[key] = self._since.get(key, now_s)
            return now_s - still[key]

        for keyspace in _dividing(view):
            options, shards = keyspace.options, view.shards_of(keyspace.keyspace)
            idle = {each.shard for each in _idle(view, keyspace)}
            room = not options.shards_max or len(shards) < options.shards_max
            for shard in shards if room else ():
                told = figures.get(shard.shard)
                if told is None or shard.shard not in idle:
                    continue
                over = _over(options, told)
                if over is None:
                    continue
                ratio, kind, key = over
                waited = waited_s(SPLIT, kind, shard.shard, shard.epoch)
                needed_s = self.pace.split_after_s if kind == "load" else 0.0
                if key > shard.start and shard.holds(key) and waited >= needed_s:
                    why = f"{kind}: {told.size_bytes} bytes, {told.operations_a_second:.0f}/s"
                    splits.append((-ratio, Due(SPLIT, (shard.shard,), key, why)))
            for left, right in pairwise(shards):
                pair = (figures.get(left.shard), figures.get(right.shard))
                both = left.shard in idle and right.shard in idle
                if both and _are_small(options, *pair):
                    key_of = (MERGE, left.shard, left.epoch, right.shard, right.epoch)
                    if waited_s(*key_of) >= self.pace.merge_after_s:
                        merges.append(Due(MERGE, (left.shard, right.shard), b"", "both are small"))
        self._since = still
        splits.sort(key=lambda each: (each[0], each[1].shards))
        return [due for _, due in splits] + merges


def _dividing(view: MetaView) -> Iterator[KeyspaceRecord]:
    for _, keyspace in sorted(view.keyspaces.items()):
        options = keyspace.options
        limits = (options.split_bytes, options.split_operations_a_second, options.merge_bytes)
        there = keyspace.regime is Regime.STRONG and keyspace.state is KeyspaceState.ACTIVE
        if there and any(limits):
            yield keyspace


def _idle(view: MetaView, keyspace: KeyspaceRecord) -> list[ShardRecord]:
    return [
        each
        for each in view.shards_of(keyspace.keyspace)
        if each.state is ShardState.ACTIVE and view.operation_of(each.shard) is None
    ]


def _is_large(options: KeyspaceOptions, told: Figures | None) -> bool:
    return told is not None and 0 < options.split_bytes < told.size_bytes


def _over(options: KeyspaceOptions, told: Figures) -> tuple[float, str, bytes] | None:
    """(how far over, what, where to cut)"""
    if _is_large(options, told):
        return told.size_bytes / options.split_bytes, "size", told.middle
    most = options.split_operations_a_second
    if most and told.operations_a_second > most and told.load_middle:
        return told.operations_a_second / most, "load", told.load_middle
    return None


def _are_small(options: KeyspaceOptions, left: Figures | None, right: Figures | None) -> bool:
    if not options.merge_bytes or left is None or right is None:
        return False
    load = left.operations_a_second + right.operations_a_second
    most = options.split_operations_a_second
    calm = not most or 2 * load < most
    return calm and left.size_bytes + right.size_bytes < options.merge_bytes
