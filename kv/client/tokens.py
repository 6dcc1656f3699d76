"""Idempotency tokens of one client: which sequences are out, and what is settled. Pure.

Every write takes a sequence (a batch of single writes takes as many as it has operations) and keeps
it for all its tries, so a shard executes it once however often it is sent. `settled` goes along:
all answers below it are in, and nobody will ask for them again, so servers may forget them.

    settled = the lowest sequence not answered yet, else the next one

Calls overlap: a long one holds `settled` back, and everything sent meanwhile says so. A write that
was given up counts as answered: its caller was told that the outcome is unknown, and settling it
means that a copy still on its way is refused instead of executed.

A client id begins with the time, so that the ids that servers forget first are the oldest ones.
"""

from __future__ import annotations

from heapq import heappop, heappush
from typing import Final, NamedTuple

from storage.clock import Rng

FIRST: Final = 1


class Token(NamedTuple):
    client: str
    sequence: int
    sequences: int
    """Of sequences, from `sequence` on."""


class Tokens:
    """Invariant: `_out` has every sequence below `_next` that is not answered, and perhaps some at
    the top of the heap that are (in `_answered`)."""

    __slots__ = ("_answered", "_next", "_out", "client")

    def __init__(self, client: str) -> None:
        self.client = client
        self._next = FIRST
        self._out: list[int] = []
        self._answered: set[int] = set()

    def take(self, count: int = 1) -> Token:
        """A new token. It must be settled in the end."""
        assert count > 0
        token = Token(self.client, self._next, count)
        heappush(self._out, self._next)
        self._next += count
        return token

    def settle(self, token: Token) -> None:
        """Answered, or given up. Tokens of another client id are not ours."""
        if token.client != self.client:
            return
        assert FIRST <= token.sequence < self._next
        self._answered.add(token.sequence)
        while self._out and self._out[0] in self._answered:
            self._answered.discard(heappop(self._out))

    @property
    def settled(self) -> int:
        return self._out[0] if self._out else self._next

    def header(self, token: Token) -> str:
        """`Idempotency-Key` for a try of it now."""
        settled = self.settled if token.client == self.client else 0
        assert settled <= token.sequence
        return f"{token.client}:{token.sequence}:{settled}"


def new_client_id(wall_s: float, rng: Rng) -> str:
    return f"{int(wall_s * 1000):012x}-{rng.randbytes(8).hex()}"
