"""What is asked of one shard on one node: how much, of which keys. Pure, and cheap where it is hot.

    reads     told by count, as they are evaluated together; of about every GAP-th one the key
    writes    told once a tick, as the difference of revisions; keys of some of them, drawn from the
              event log by whoever ticks, so that a put pays nothing
    tick      once a second: rates (exponential means), decay of what is old

`marks` cut the sampled load into even parts, for whoever looks for its middle.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from math import exp
from typing import Final, NamedTuple

from kv.division.heavy import HeavyKeys
from storage.clock import Rng

GAP: Final = 64
"""Reads between two whose keys are looked at, on average."""
SAMPLES: Final = 256
SAMPLE_AGE_S: Final = 60.0
MEAN_S: Final = 10.0
"""Over which the rates are means."""
MARKS: Final = 16
HOT_SHARE: Final = 0.1
HOT_MOST: Final = 5


class HotKey(NamedTuple):
    key: bytes
    share: float
    """Of the operations on the shard here, at least."""


class Meter:
    """For the node's loop only."""

    def __init__(self, rng: Rng) -> None:
        self._rng = rng
        self._left = 1
        self._reads = 0
        """Since the last tick."""
        self._since_note = 0
        self._ticked_s: float | None = None
        self._samples: deque[tuple[bytes, float, float]] = deque(maxlen=SAMPLES)
        """(key, operations that it stands for, when)"""
        self._heavy = HeavyKeys()
        self._fresh: list[tuple[bytes, float]] = []
        self.reads_a_second = 0.0
        self.writes_a_second = 0.0

    def read(self, count: int) -> bool:
        """So many were evaluated. True: the key of one of them is wanted (`note_read`)."""
        self._reads += count
        self._left -= count
        if self._left > 0:
            return False
        self._left = self._rng.randrange(1, 2 * GAP)
        return True

    def note_read(self, key: bytes) -> None:
        """Empty: it asked for none."""
        weight = self._reads - self._since_note
        self._since_note = self._reads
        if key and len(self._fresh) < SAMPLES:
            self._fresh.append((key, float(max(1, weight))))

    def tick(self, now_s: float, writes: int, written: Sequence[bytes]) -> None:
        """`writes` since the last tick, and the keys of some of them, drawn evenly."""
        since_s, self._ticked_s = self._ticked_s, now_s
        reads, self._reads, self._since_note = self._reads, 0, 0
        fresh, self._fresh = self._fresh, []
        if since_s is None or now_s <= since_s:
            return
        passed_s = now_s - since_s
        keep = exp(-passed_s / MEAN_S)
        self.reads_a_second = keep * self.reads_a_second + (1 - keep) * reads / passed_s
        self.writes_a_second = keep * self.writes_a_second + (1 - keep) * writes / passed_s
        self._heavy.decay(keep)
        fresh += [(key, writes / len(written)) for key in written]
        for key, weight in fresh:
            self._samples.append((key, weight, now_s))
            self._heavy.add(key, weight)
        while self._samples and now_s - self._samples[0][2] > SAMPLE_AGE_S:
            self._samples.popleft()

    def forget(self) -> None:
        """The shard holds other keys now."""
        self._samples.clear()
        self._heavy.clear()
        self._fresh.clear()
        self.reads_a_second = self.writes_a_second = 0.0

    @property
    def operations_a_second(self) -> float:
        return self.reads_a_second + self.writes_a_second

    def marks(self) -> list[bytes]:
        """Keys that cut the load sampled into MARKS even parts, the first of each; none if little
        was sampled."""
        ordered = sorted((key, weight) for key, weight, _ in self._samples)
        if len(ordered) < MARKS:
            return []
        total, passed = sum(weight for _, weight in ordered), 0.0
        found: list[bytes] = []
        for key, weight in ordered:
            while len(found) < MARKS and passed + weight > len(found) * total / MARKS:
                found.append(key)
            passed += weight
        return found

    def hot_keys(self) -> list[HotKey]:
        total = self._heavy.total
        if total < SAMPLES / 8:
            return []
        top = self._heavy.top(HOT_MOST)
        found = [HotKey(each.key, (each.amount - each.over) / total) for each in top]
        return [each for each in found if each.share >= HOT_SHARE]
