"""The most frequent keys of a stream, by a space-saving counter. Pure, bounded.

So many counters. A key that has one adds to it; a new one takes a free counter, else that of the
rarest key, and inherits its count: so a count is at most too large, by no more than the counter had
when it was taken (`over`), and every key above total / capacity has a counter.

Counts decay, so what was hot an hour ago does not stay so.
"""

from __future__ import annotations

from typing import Final, NamedTuple

CAPACITY: Final = 32
FORGOTTEN: Final = 1e-3


class Heavy(NamedTuple):
    key: bytes
    amount: float
    over: float
    """By how much it may be too large."""


class HeavyKeys:
    """Invariant: the counts add up to `total`, or to less once decayed counters were dropped."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        assert capacity > 0
        self._capacity = capacity
        self._counts: dict[bytes, float] = {}
        self._over: dict[bytes, float] = {}
        self.total = 0.0

    def add(self, key: bytes, amount: float = 1.0) -> None:
        self.total += amount
        counts = self._counts
        if key in counts:
            counts[key] += amount
        elif len(counts) < self._capacity:
            counts[key] = amount
        else:
            rarest = min(counts, key=counts.__getitem__)
            count = counts.pop(rarest)
            self._over.pop(rarest, None)
            counts[key] = count + amount
            self._over[key] = count

    def decay(self, factor: float) -> None:
        """Everything so far counts so much less."""
        self.total *= factor
        for key in list(self._counts):
            self._counts[key] *= factor
            if key in self._over:
                self._over[key] *= factor
            if self._counts[key] < FORGOTTEN:
                del self._counts[key]
                self._over.pop(key, None)

    def clear(self) -> None:
        self._counts.clear()
        self._over.clear()
        self.total = 0.0

    def top(self, most: int) -> list[Heavy]:
        """Surely the most frequent first: by what a key was seen at least."""
        found = [Heavy(key, n, self._over.get(key, 0.0)) for key, n in self._counts.items()]
        found.sort(key=lambda each: (each.over - each.amount, each.key))
        return found[:most]
