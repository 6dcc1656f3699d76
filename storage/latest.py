"""One snapshot of the newest committed state, shared by all reads until the next write.

Opening a snapshot for every read would cost more than the read. `latest()` gives the same one again
until `renew` (call it after each write, before the layers that it wrote are dropped) or until it is
half its maximum age: a snapshot held by nobody but this object never expires under a reader, and an
idle node does not pin old pages for ever.

For one thread, the loop's. What is read from it in one call must not be kept for the next.
"""

from __future__ import annotations

from storage.clock import Clock
from storage.engine import DEFAULT_SNAPSHOT_MAX_AGE_S, Engine, Reader, Snapshot


class Latest:
    __slots__ = ("_clock", "_engine", "_max_age_s", "_renew_at", "_snapshot")

    def __init__(
        self, engine: Engine, clock: Clock, *, max_age_s: float = DEFAULT_SNAPSHOT_MAX_AGE_S
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._max_age_s = max_age_s
        self._snapshot: Snapshot | None = None
        self._renew_at = 0.0

    def __call__(self) -> Reader:
        now = self._clock.monotonic()
        if self._snapshot is None or now >= self._renew_at:
            self.renew()
            self._snapshot = self._engine.snapshot(max_age_s=self._max_age_s)
            self._renew_at = now + self._max_age_s / 2
        return self._snapshot

    def renew(self) -> None:
        """Let the snapshot go; the next read opens one that sees everything written by now."""
        if self._snapshot is not None:
            self._snapshot.close()
            self._snapshot = None
