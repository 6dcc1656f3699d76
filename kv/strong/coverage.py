"""Which of all keys something was done for, as shards answer with their ranges. Pure.

The ranges may overlap, come twice and in any order: shards split and merge meanwhile.
"""

from __future__ import annotations

from typing import Final

Bounds = tuple[bytes, bytes | None]
"""start <= key < end; None is unbounded."""

ALL_KEYS: Final[Bounds] = (b"", None)


class Coverage:
    def __init__(self) -> None:
        self._gaps: list[Bounds] = [ALL_KEYS]

    def add(self, start: bytes, end: bytes | None) -> None:
        left: list[Bounds] = []
        for low, high in self._gaps:
            if (end is not None and end <= low) or (high is not None and high <= start):
                left.append((low, high))
                continue
            if low < start:
                left.append((low, start))
            if end is not None and (high is None or end < high):
                left.append((end, high))
        self._gaps = left

    @property
    def gaps(self) -> list[Bounds]:
        """What is not covered, in order."""
        return list(self._gaps)

    @property
    def whole(self) -> bool:
        return not self._gaps
