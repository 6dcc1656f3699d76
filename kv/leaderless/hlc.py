"""Hybrid logical clock: wall time that never goes back, and orders what is causally ordered.

A timestamp is one number, milliseconds << 16 | counter. A node's next one is its wall clock, or one
more than the last that it gave or heard of, whichever is larger. It says who wins in a keyspace
where the last write wins, and nothing else: causality is the dots' business (dvv.py).

A node whose wall clock is far ahead must not drag the others along: timestamps further ahead than
`max_drift_ms` are not adopted. A write still always gets a timestamp above all that it replaces,
whatever they are, because the minter passes those as `above`. This file is pure: `now_ms` is an
argument.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

COUNTER_BITS: Final = 16
DEFAULT_MAX_DRIFT_MS: Final = 60_000


def wall_ms(timestamp: int) -> int:
    """The wall-clock part of a timestamp."""
    return timestamp >> COUNTER_BITS


@dataclass(slots=True)
class HybridClock:
    last: int = 0
    """The highest timestamp given or adopted."""
    max_drift_ms: int = DEFAULT_MAX_DRIFT_MS
    refused: int = 0
    """Timestamps that were too far ahead; a metric: some node's clock is wrong."""

    def next(self, now_ms: int, *, above: int = 0) -> int:
        """A timestamp higher than every one before it and than `above`."""
        given = max(now_ms << COUNTER_BITS, self.last + 1)
        if above < given:
            self.last = given
            return given
        # Only this key is so far ahead; the node's own clock follows if that is plausible.
        self.observe(above + 1, now_ms)
        self.last = max(self.last, given)
        return above + 1

    def observe(self, timestamp: int, now_ms: int) -> None:
        """A timestamp that came from elsewhere."""
        if timestamp <= self.last:
            return
        if wall_ms(timestamp) > now_ms + self.max_drift_ms:
            self.refused += 1
            return
        self.last = timestamp
