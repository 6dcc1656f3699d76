"""When a lease has to be renewed, and when it must be taken for lost. Pure.

    sent            + ttl / 3              + ttl
    |---------------|----------------------|
    a renewal left  the next one is due    lost, unless one was answered

Time counts from when the last answered renewal was sent: the server began the lease's time anew
after that, so it lives at least until then. (A cluster without a leader lets its clock stand still,
so it may live longer; a holder that cannot know has to stop.)
"""

from __future__ import annotations

from typing import Final

RENEWALS: Final = 3
PAUSE_MAX_S: Final = 1.0
TRY_MIN_S: Final = 0.2


class Renewal:
    __slots__ = ("due_at", "ttl_s", "until")

    def __init__(self, ttl_s: float, sent_at: float) -> None:
        self.renewed(ttl_s, sent_at)

    def renewed(self, ttl_s: float, sent_at: float) -> None:
        assert ttl_s > 0
        self.ttl_s = ttl_s
        self.due_at = sent_at + ttl_s / RENEWALS
        self.until = sent_at + ttl_s

    def failed(self, now: float) -> None:
        """Soon again."""
        self.due_at = now + min(PAUSE_MAX_S, self.ttl_s / (4 * RENEWALS))

    def is_lost(self, now: float) -> bool:
        return now >= self.until

    @property
    def try_s(self) -> float:
        """For one try: two endpoints may fail before the lease does."""
        return max(TRY_MIN_S, self.ttl_s / (2 * RENEWALS))
