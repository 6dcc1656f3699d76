"""One timer for all groups of a node: it waits for the nearest deadline, and nobody polls.

A deadline usually moves on before it is reached (every heartbeat moves an election timer), so the
timer is only ever set earlier, never later: when it comes, it looks at all groups, calls those that
are due and waits for the nearest of the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from storage.clock import Clock, Scheduler, Timer

SLACK_S: Final = 0.0005
"""A deadline counts once it has passed, so the timer comes this much later."""
_NEVER: Final = float("inf")


class Deadlines:
    def __init__(
        self,
        scheduler: Scheduler,
        clock: Clock,
        *,
        all_deadlines: Callable[[], Iterable[tuple[int, float]]],
        due: Callable[[int], None],
    ) -> None:
        self._scheduler = scheduler
        self._clock = clock
        self._all_deadlines = all_deadlines
        self._due = due
        self._timer: Timer | None = None
        self._at = _NEVER

    def watch(self, deadline: float) -> None:
        """Come in time for this one, too."""
        if deadline < self._at:
            self._arm(deadline)

    def _arm(self, deadline: float) -> None:
        self.stop()
        self._at = deadline
        delay = max(0.0, deadline - self._clock.monotonic()) + SLACK_S
        self._timer = self._scheduler.call_later(delay, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._at = _NEVER
        now = self._clock.monotonic()
        nearest = _NEVER
        for key, deadline in self._all_deadlines():
            if deadline < now:
                self._due(key)
            elif deadline < nearest:
                nearest = deadline
        if nearest != _NEVER:
            self._arm(nearest)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._at = _NEVER
