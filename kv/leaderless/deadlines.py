"""The deadlines of all requests of a node, on one timer.

Nearly every request ends long before its deadline, so a timer each would be made and cancelled for
nothing. Deadlines are kept by the step that they fall in; one timer looks at the next step while
there is any. So a deadline is kept up to STEP_S late, never early. What has ended is removed, and
holds no memory until its time.
"""

from __future__ import annotations

from typing import Final, Protocol

from storage.clock import Clock, Scheduler, Timer

STEP_S: Final = 0.02


class Expiring(Protocol):
    def expired(self) -> None:
        """Its deadline has come."""
        ...


class Deadlines:
    """Invariant: the timer runs exactly while something is kept."""

    def __init__(self, scheduler: Scheduler, clock: Clock) -> None:
        self._scheduler = scheduler
        self._clock = clock
        self._steps: dict[int, dict[Expiring, None]] = {}
        self._next = 0
        """No step before it holds anything."""
        self._timer: Timer | None = None

    def add(self, deadline_s: float, request: Expiring) -> int:
        """The step, for `remove`."""
        step = int(deadline_s / STEP_S) + 1
        requests = self._steps.get(step)
        if requests is None:
            self._steps[step] = {request: None}
        else:
            requests[request] = None
        if self._timer is None:
            self._next = int(self._clock.monotonic() / STEP_S)
            self._timer = self._scheduler.call_later(STEP_S, self._look)
        self._next = min(self._next, step)
        return step

    def remove(self, step: int, request: Expiring) -> None:
        requests = self._steps.get(step)
        if requests is not None:
            requests.pop(request, None)
            if not requests:
                del self._steps[step]

    def _look(self) -> None:
        self._timer = None
        now = int(self._clock.monotonic() / STEP_S)
        while self._next <= now and self._steps:
            requests = self._steps.pop(self._next, None) or {}
            self._next += 1  # before they are told: who is told may add another
            for request in requests:
                request.expired()
        if self._steps and self._timer is None:
            self._timer = self._scheduler.call_later(STEP_S, self._look)
