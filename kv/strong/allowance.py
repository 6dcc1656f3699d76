"""So many operations a second, and as many at once as a second allows: a bucket of tokens."""

from __future__ import annotations

from storage.clock import Clock


class Allowance:
    """Invariant: `_tokens` is at most a second's worth, and at least one can ever be taken."""

    __slots__ = ("_at_s", "_clock", "_rate", "_tokens")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._rate = 0.0
        self._tokens = 0.0
        self._at_s = clock.monotonic()

    def set_rate(self, rate: float) -> None:
        """0: any number."""
        if rate != self._rate:
            self._rate = rate
            self._tokens = max(1.0, rate)

    def take(self) -> bool:
        """False: not now."""
        if not self._rate:
            return True
        now_s = self._clock.monotonic()
        gained = (now_s - self._at_s) * self._rate
        self._at_s = now_s
        self._tokens = min(max(1.0, self._rate), self._tokens + gained)
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True
