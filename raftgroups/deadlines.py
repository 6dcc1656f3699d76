"""One timer for all groups of a node: it waits for the nearest deadline, and nobody polls.

A deadline usually moves on before it is reached (every heartbeat moves an election timer). So what
is known of a group is only ever moved to an earlier moment, and only when that moment has come is
the group asked again: it is due, or its deadline has moved on and that is known from now on. With
64 groups under load the timer comes every few milliseconds, and asks those whose moment it was.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from storage.clock import Clock, Scheduler, Timer

SLACK_S: Final = 0.0005
"""A deadline counts once it has passed, so the timer comes this much later."""
_NEVER: Final = float("inf")


class Deadlines:
    """Invariant: the timer is set for the nearest of `known`, or earlier."""

    def __init__(
        self,
        scheduler: Scheduler,
        clock: Clock,
        *,
        deadline_of: Callable[[int], float],
        due: Callable[[int], None],
    ) -> None:
        """`deadline_of` says when a group needs a turn, infinity: never, or there is none. Whoever
        is told that a group is `due` sees to it that its next deadline is watched."""
        self._scheduler = scheduler
        self._clock = clock
        self._deadline_of = deadline_of
        self._due = due
        self.known: dict[int, float] = {}
        """A moment for each group, not after its deadline. Others only look."""
        self._timer: Timer | None = None
        self._at = _NEVER

    def watch(self, group_id: int, deadline: float) -> None:
        """Come in time for this one, too."""
        if deadline < self.known.get(group_id, _NEVER):
            self.known[group_id] = deadline
            if deadline < self._at:
                self._arm(deadline)

    def _arm(self, deadline: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._at = deadline
        delay = max(0.0, deadline - self._clock.monotonic()) + SLACK_S
        self._timer = self._scheduler.call_later(delay, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._at = _NEVER
        known, now = self.known, self._clock.monotonic()
        for group_id in [group_id for group_id, at in known.items() if at < now]:
            del known[group_id]
            deadline = self._deadline_of(group_id)
            if deadline < now:
                self._due(group_id)
            elif deadline != _NEVER:
                known[group_id] = deadline
        if known:
            self._arm(min(known.values()))

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.known.clear()
        self._at = _NEVER
