"""Bytes that may be under way together. Pure.

Each request is bounded, and so is the number of connections; their product is not bounded enough.
"""

from __future__ import annotations


class ByteBudget:
    """Invariant: 0 <= `used` <= `limit`."""

    __slots__ = ("limit", "refused", "used")

    def __init__(self, limit: int) -> None:
        assert limit > 0
        self.limit = limit
        self.used = 0
        self.refused = 0

    def take(self, size: int) -> bool:
        """False, and nothing is taken, if there is no room."""
        if self.used + size > self.limit:
            self.refused += 1
            return False
        self.used += size
        return True

    def give_back(self, size: int) -> None:
        assert 0 <= size <= self.used, "more is given back than was taken"
        self.used -= size
