"""Operations of one shard that wait, and how they end: tried again, given up, answered once.

    refused, unknown but repeatable --> parked --(every RETRY_S)--> started
    a session that this replica is behind of --> until the replica has seen enough
    deadline, a full queue, the node stops  --> given up

What is given up was surely not done by its last try; if an earlier one may have done it, the
outcome is unknown. Invariants: nothing waits without a deadline; what waits is bounded.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from kv.errors import OutcomeUnknownError, OverloadedError, StoppingError, UnavailableError
from kv.strong.operations import Operation, SessionRead
from raftgroups.outcomes import Refused
from storage.clock import Clock, Scheduler, Timer
from storage.errors import JanusError

RETRY_S: Final = 0.02


class WaitingRoom:
    """`on_overload` is told of each operation that a full queue refused."""

    def __init__(
        self,
        *,
        scheduler: Scheduler,
        clock: Clock,
        parked_max: int,
        session_waits_max: int,
    ) -> None:
        self._scheduler = scheduler
        self._clock = clock
        self._parked_max = parked_max
        self._session_waits_max = session_waits_max
        self.parked: deque[Operation] = deque()
        """Those to be tried again. While there are some, a timer is set for that."""
        self.sessions: list[SessionRead] = []
        """Those that wait for this replica to catch up."""
        self._retry_timer: Timer | None = None
        self.stopped = False
        self._move: Callable[[Operation], bool] | None = None
        self.on_overload: Callable[[], None] | None = None

    # --- in -----------------------------------------------------------------------------------

    def limit(self, operation: Operation, asked_s: float) -> None:
        """To the seconds that the request named, which end it exactly."""
        operation.timer = self._scheduler.call_later(asked_s, self._too_late, operation)

    def park(self, operation: Operation, why: str) -> None:
        if self.stopped:
            if self._move is None or not self._move(operation):
                self.give_up(operation, StoppingError(f"this node is stopping: {why}"))
            return
        if len(self.parked) >= self._parked_max:
            waiting = len(self.parked)
            error = OverloadedError(f"{waiting} operations wait for a leader already")
            self._scheduler.call_soon(self.give_up, operation, error)
            return
        operation.why = why
        self.parked.append(operation)
        self.retry_soon()

    def wait_for_session(self, read: SessionRead, revision: int) -> None:
        """This replica is at that revision, which is less than the session has seen."""
        if len(self.sessions) >= self._session_waits_max:
            waiting = len(self.sessions)
            error = OverloadedError(f"{waiting} reads wait for this replica to catch up already")
            self._scheduler.call_soon(read.answer, error)
            return
        read.why = f"this replica is at revision {revision} and the session has seen {read.seen}"
        self.sessions.append(read)
        self.retry_soon()

    # --- again --------------------------------------------------------------------------------

    def refused(self, operation: Operation, refused: Refused) -> None:
        if refused.busy:
            if self.on_overload is not None:
                self.on_overload()
            self.give_up(operation, OverloadedError(f"nothing was done: {refused.reason}"))
        elif self._clock.monotonic() < operation.deadline_s:
            self.park(operation, refused.reason)
        else:
            self.give_up(operation, _unavailable(operation, refused.reason))

    def retry_soon(self) -> None:
        if self._retry_timer is None:
            self._retry_timer = self._scheduler.call_later(RETRY_S, self._retry)

    def _retry(self) -> None:
        self._retry_timer = None
        now_s = self._clock.monotonic()
        parked, self.parked = self.parked, deque()
        for operation in parked:
            if operation.answered:
                continue
            if operation.deadline_s <= now_s:
                self.give_up(operation, _unavailable(operation, operation.why))
            else:
                operation.start()
        waits, self.sessions = self.sessions, []
        for read in waits:
            if read.answered:
                continue
            if read.deadline_s <= now_s:
                self.give_up(read, _unavailable(read, read.why))
            else:
                self.sessions.append(read)
        if self.parked or self.sessions:
            self.retry_soon()

    def wake_sessions(self, revision: int) -> None:
        """This replica has come so far."""
        ready = [read for read in self.sessions if read.seen <= revision]
        if ready:
            self.sessions = [read for read in self.sessions if read.seen > revision]
            for read in ready:
                read.start()

    # --- the end ------------------------------------------------------------------------------

    def give_up(self, operation: Operation, error: JanusError) -> None:
        """This try was surely not done; was an earlier one?"""
        if operation.unsure:
            error = OutcomeUnknownError(
                "it is not known whether this was done: an earlier try was lost on its way, and "
                f"the last one was refused ({error}); ask again with the same idempotency token"
            )
        operation.answer(error)

    def take(self, operation: Operation) -> bool:
        """From now on somebody else answers it. False: it was answered already."""
        if operation.answered:
            return False
        operation.answered = True
        if operation.timer is not None:
            operation.timer.cancel()
        return True

    def _too_late(self, operation: Operation) -> None:
        """The deadline that the request named has passed. Whether a write is on its way is for
        nobody to know here, unless it is still parked."""
        if operation.answered:
            return
        if not operation.changes:
            why = operation.why or "no majority confirmed within the deadline given what is newest"
            self.give_up(operation, _unavailable(operation, why))
        elif operation in self.parked:
            self.give_up(operation, _unavailable(operation, operation.why))
        else:
            operation.answer(OutcomeUnknownError("no answer came within the deadline given"))

    def leave(self, move: Callable[[Operation], bool]) -> None:
        """The shard is not served here any more: what waits goes on elsewhere, and so does what
        comes back from the group. `move` says whether somebody took it over."""
        self._move = move
        self.stop()

    def stop(self) -> None:
        """Everything here is answered now, or taken over."""
        self.stopped = True
        if self._retry_timer is not None:
            self._retry_timer.cancel()
            self._retry_timer = None
        waiting = [*self.parked, *self.sessions]
        self.parked.clear()
        self.sessions.clear()
        for operation in waiting:
            if self._move is None or not self._move(operation):
                self.give_up(operation, StoppingError("this node is stopping; ask another one"))


def _unavailable(operation: Operation, reason: str) -> UnavailableError:
    return UnavailableError(
        f"nothing was done: {reason or operation.why}; ask again, or another node"
    )
