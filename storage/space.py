"""NOSPACE: refusing growth before the disk is full, so that what frees space still works.

An engine whose disk is full cannot even delete: an LSM tree writes tombstones, a copy-on-write tree
new pages. So a reserve is kept:

    available = free bytes of the disk + reusable bytes inside the files - admitted since observed

    available <  reserve      raised: growing writes are refused; what frees space and what the
                              cluster needs to repair itself go on out of the reserve
    available >= 2 * reserve  cleared by itself; the gap keeps it from flipping at every write

`observe` is called with fresh statistics every second or so; between two observations what was
admitted is counted against the older figure, so that a burst does not run through the reserve
unseen. Pure: no disk is asked here. Whoever asks for every write compares two numbers himself
(`left_bytes`, `floor_bytes`) and comes here only if they say no.
"""

from __future__ import annotations

from enum import Enum
from math import inf
from typing import Final

from storage.engine import EngineStatistics
from storage.errors import NoSpaceError

LEAST_RESERVE_BYTES: Final = 256 * 1024 * 1024
RESERVE_SHARE_OF_DISK: Final = 0.02
CLEAR_FACTOR: Final = 2


class Purpose(Enum):
    """Why somebody wants to write."""

    GROW = "grow"
    """Puts, grants, hints: anything that leaves more data than before."""
    FREE = "free"
    """Deletes, revokes, expiry, compaction."""
    REPAIR = "repair"
    """Membership, hard state and whatever else the cluster needs to get out of its trouble."""


_GROW: Final = Purpose.GROW


def default_reserve_bytes(disk_bytes: int) -> int:
    return max(LEAST_RESERVE_BYTES, int(disk_bytes * RESERVE_SHARE_OF_DISK))


class SpaceGuard:
    """Invariant: `raised` changes only where `available_bytes` does, by the two thresholds."""

    __slots__ = ("floor_bytes", "left_bytes", "raised", "reserve_bytes", "times_raised")

    def __init__(self, reserve_bytes: int) -> None:
        assert reserve_bytes > 0
        self.reserve_bytes = reserve_bytes
        self.raised = False
        self.times_raised = 0
        self.left_bytes: float = inf
        """What was observed without what was admitted since; under 0 if that was more."""
        self.floor_bytes: float = reserve_bytes
        """Any write that leaves so much is admitted by being subtracted from `left_bytes`; no
        growing one is while the alarm is raised."""

    @property
    def available_bytes(self) -> int | None:
        """None before the first observation: then nothing is refused."""
        return None if self.left_bytes == inf else max(0, int(self.left_bytes))

    def observe(self, statistics: EngineStatistics) -> bool:
        """Take fresh figures; returns whether the alarm is raised now."""
        self.left_bytes = statistics.disk_free_bytes + statistics.reusable_bytes
        self._judge()
        return self.raised

    def admit(self, purpose: Purpose, size_bytes: int = 0) -> None:
        """Raises NoSpaceError for a growing write while the alarm is raised."""
        left = self.left_bytes - size_bytes
        if left < self.floor_bytes and purpose is _GROW:
            if not self.raised:
                # The alarm is for everybody as soon as what is left is under the reserve; one write
                # too large for what is left above it is refused alone.
                self._judge()
            raise self._refusal(size_bytes)
        self.left_bytes = left

    def _judge(self) -> None:
        available = self.available_bytes
        if available is None:
            return
        if not self.raised and available < self.reserve_bytes:
            self.raised = True
            self.times_raised += 1
        elif self.raised and available >= CLEAR_FACTOR * self.reserve_bytes:
            self.raised = False
        self.floor_bytes = inf if self.raised else self.reserve_bytes

    def _refusal(self, size_bytes: int) -> NoSpaceError:
        asked = f"a write of {size_bytes} bytes" if size_bytes else "a write"
        until = f"until {CLEAR_FACTOR * self.reserve_bytes} are available"
        rule = f"growing writes are refused {until}" if self.raised else "it would reach into that"
        return NoSpaceError(
            f"{asked} was refused: {self.available_bytes} bytes are available (free on the disk or "
            f"reusable in the files), {self.reserve_bytes} are kept in reserve, and {rule}; delete "
            "keys, compact, or give the disk more space"
        )
