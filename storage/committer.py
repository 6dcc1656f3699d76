"""Group commit of one environment: one synced write for everything that a turn produced.

A turn, always in this order and never two at once:

    kick() -> begin_turn() of every participant   they work; each says what its turn needs
           -> prepare(batch) of every participant    only if something must be written
           -> engine.write(batch, sync=True)         one sync for all of them
           -> after_commit() of every participant    now they may acknowledge

While a write is in flight no turn begins: kicks are remembered. That is the write-ahead barrier on
which the safety of the Raft groups rests (raftgroups/host.py), so it is kept here, in one place.

LAZY work (applied data that a log already holds) does not pay for a sync of its own: it rides on
the next NOW turn, or is written after `lazy_limit_s`.

Who writes, the loop, a thread or the kernel's workers, is the writer's choice (storage/writers.py).
A stall is told to the participants before anything that queued
up during it is handled, so that a leader whose disk stood still steps down first. A write that
fails, or that lasts `fatal_after_s`, is fatal: `on_fatal` is called, nothing is acknowledged, and
no turn ever begins again. So is an exception out of a participant: an event loop would log it and
go on with a turn half done. The process is expected to end; a watchdog thread sees to a write that
lasts too long even if the loop itself hangs in it.

This file knows no asyncio: it takes a Scheduler, so that the simulator runs it as it is.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Protocol

from storage.clock import Clock, Scheduler, Timer
from storage.engine import Batch, Engine
from storage.writers import Writer


class Need(IntEnum):
    """What a participant's turn needs written. The largest of all participants decides."""

    NOTHING = 0
    LAZY = 1
    AT_ONCE = 2
    """A write, and nothing that the turn made has to leave first."""
    NOW = 3
    """A write, after the pass of the loop in which leaves what the turn has sent and answered."""


class Participant(Protocol):
    def begin_turn(self) -> Need:
        """Do this turn's work. May send what may leave before the disk has it."""
        ...

    def prepare(self, batch: Batch) -> None:
        """Add everything that is pending, lazy work included. Only called if a write follows."""
        ...

    def after_commit(self) -> None:
        """The prepared batch is on the disk: acknowledge. Only called after a write."""
        ...

    def stalled(self, seconds: float) -> None:
        """The write just finished took longer than `stall_after_s`. Called before after_commit and
        before anything that arrived meanwhile is handled."""
        ...


OnCommit = Callable[[float, float, int], None]
"""Told of each commit after everyone was: the seconds that the synced write took, those from the
turn's end until the last participant was told, and the bytes written. It must not raise."""


class Committer:
    """Owns the turns of one engine. All methods are called on the loop."""

    def __init__(
        self,
        engine: Engine,
        writer: Writer,
        scheduler: Scheduler,
        clock: Clock,
        *,
        on_fatal: Callable[[BaseException], None],
        stall_after_s: float = 1.0,
        lazy_limit_s: float = 0.5,
    ) -> None:
        self._engine = engine
        self._writer = writer
        self._scheduler = scheduler
        self._clock = clock
        self._on_fatal = on_fatal
        self._stall_after_s = stall_after_s
        self._lazy_limit_s = lazy_limit_s
        self._participants: list[Participant] = []
        self._turn_scheduled: Timer | None = None
        self._kicked_in_flight = False
        self._lazy_timer: Timer | None = None
        self._lazy_overdue = False
        self._stopped = self._failed = False
        self.in_flight_since: float | None = None
        """When the write in flight began; None between writes. The watchdog reads it."""
        self.on_commit: OnCommit | None = None
        self.on_turn: Callable[[], None] = _nothing
        """Told when one is about to begin: what kicks then is of it, too. It must not raise."""
        self._began = 0.0
        self._batch_bytes = 0
        self.turns = 0
        self.commits = 0
        self.stalls = 0
        self.last_sync_s = 0.0

    @property
    def participants(self) -> Sequence[Participant]:
        return self._participants

    def add(self, participant: Participant) -> None:
        self._participants.append(participant)

    def kick(self) -> None:
        """There is work: a turn will begin in the next pass of the loop."""
        if self._stopped:
            return
        if self.in_flight_since is not None:
            self._kicked_in_flight = True
        elif self._turn_scheduled is None:
            self._turn_scheduled = self._scheduler.call_soon(self._turn)

    def hurry(self) -> None:
        """The turn that waits for the next pass of the loop, if there is one, begins in this."""
        if self._turn_scheduled is not None:
            self._turn_scheduled.cancel()
            self._turn()

    def stop(self) -> None:
        """No further turn begins; a write in flight is finished, but nobody is told."""
        self._stopped = True
        for timer in (self._turn_scheduled, self._lazy_timer):
            if timer is not None:
                timer.cancel()
        self._turn_scheduled = self._lazy_timer = None

    def fail(self, failure: BaseException) -> None:
        """Nothing more is acknowledged. For the committer itself, and for a participant that found
        that it must not go on; the first failure is told, later ones only follow from it."""
        if self._failed:
            return
        self._failed = True
        self.stop()
        self._on_fatal(failure)

    def _turn(self) -> None:
        self.on_turn()
        self._turn_scheduled = None
        if self._stopped:
            return
        if self.in_flight_since is not None:
            # Kicked by a participant in the very turn whose write is now under way.
            self._kicked_in_flight = True
            return
        self.turns += 1
        try:
            need = Need.NOTHING
            for participant in self._participants:
                own = participant.begin_turn()
                if own > need:
                    need = own
        except Exception as error:  # noqa: BLE001 - a turn half done must never be acknowledged
            self.fail(error)
            return
        if need >= Need.AT_ONCE or (need is Need.LAZY and self._lazy_overdue):
            self.in_flight_since = self._began = self._clock.monotonic()
            if need is Need.AT_ONCE:
                self._commit()
            else:
                self._scheduler.call_soon(self._commit)
        elif need is Need.LAZY:
            if self._lazy_timer is None:
                self._lazy_timer = self._scheduler.call_later(self._lazy_limit_s, self._lazy_is_due)
        else:
            self._lazy_overdue = False

    def _lazy_is_due(self) -> None:
        self._lazy_timer = None
        self._lazy_overdue = True
        self.kick()

    def _commit(self) -> None:
        if self._stopped:
            self.in_flight_since = None
            return
        batch = Batch()
        try:
            for participant in self._participants:
                participant.prepare(batch)
        except Exception as error:  # noqa: BLE001 - a batch half prepared must never be written
            self.in_flight_since = None
            self.fail(error)
            return
        self._batch_bytes = batch.size_bytes
        self.in_flight_since = self._clock.monotonic()
        self._writer.submit(self._engine, batch, self._committed)

    def _committed(self, failure: BaseException | None, seconds: float) -> None:
        self.in_flight_since = None
        self.last_sync_s = seconds
        if self._stopped:
            return
        if failure is not None:
            self.fail(failure)
            return
        self.commits += 1
        self._lazy_overdue = False
        if self._lazy_timer is not None:
            self._lazy_timer.cancel()
            self._lazy_timer = None
        try:
            self._tell(seconds)
        except Exception as error:  # noqa: BLE001 - nobody knows who was told of this commit
            self.fail(error)
            return
        if self._kicked_in_flight:
            self._kicked_in_flight = False
            self.kick()

    def _tell(self, seconds: float) -> None:
        if seconds > self._stall_after_s:
            self.stalls += 1
            for participant in self._participants:
                participant.stalled(seconds)
        for participant in self._participants:
            participant.after_commit()
        if self.on_commit is not None:
            self.on_commit(seconds, self._clock.monotonic() - self._began, self._batch_bytes)


class SyncWatchdog:
    """Ends the process when one write lasts too long, from a thread of its own, because an inline
    sync that hangs takes the loop with it.

    Time in which this thread did not run either is no fault of the disk: the process was stopped
    (SIGSTOP, a frozen container) or the whole machine stood still, and goes on where it was."""

    def __init__(
        self,
        committer: Committer,
        clock: Clock,
        on_fatal: Callable[[float], None],
        *,
        fatal_after_s: float = 10.0,
        poll_s: float = 0.5,
        late_s: float = 1.0,
    ) -> None:
        """`late_s`: a look that comes so long after the one before is of a busy machine; what goes
        beyond is time that stood still."""
        self._committer = committer
        self._clock = clock
        self._on_fatal = on_fatal
        self._fatal_after_s = fatal_after_s
        self._poll_s = poll_s
        self._late_s = late_s
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="janus-watchdog", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        looked_s, stood_s, of = self._clock.monotonic(), 0.0, None
        while not self._closing.wait(self._poll_s):
            now_s, since = self._clock.monotonic(), self._committer.in_flight_since
            if since != of:
                of, stood_s = since, 0.0
            if since is not None:
                stood_s += max(0.0, now_s - max(looked_s, since) - self._late_s)
                lasted_s = now_s - since - stood_s
                if lasted_s >= self._fatal_after_s:
                    self._on_fatal(lasted_s)
                    return
            looked_s = now_s


def _nothing() -> None:
    pass
