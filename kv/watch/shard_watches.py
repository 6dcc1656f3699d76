"""A watch hub with the loop around it: what a face uses to serve watchers of one shard.

The hub (hub.py) holds the rules and does nothing by itself. Here it is fed and driven:

    machine's observer --> committed --.
    machine restored   --> jumped      |--> after the turn: `wake` of every watcher whose outbox is
    compaction         --> compacted --'    no longer empty, catch-up steps between turns, timers

A face creates a watcher with a `wake` to call, and moves messages when it is called:

    while messages := watches.take(identity, max_bytes):
        send them; when they are out: watches.room(identity)

`wake` is called from the loop, never inside a commit; it may take at once. It is called again only
after everything was taken. It must not raise: a defect in it is logged and ends that watcher.

Handing out yields to everything else of the node. It stops after SLICE_S and then rests, REST times
as long as it took, so that however many watchers there are, commits and heartbeats wait for a slice
at most and have the greater part of the loop. What comes meanwhile gathers in the outboxes, and a
watcher is given it in one write: the more there is to do, the less a delivery costs.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from kv.watch.catchup import ReadEvents
from kv.watch.hub import Created, WatchHub
from kv.watch.messages import Cancelled, Encode, Message
from kv.watch.roster import HubStatistics
from kv.watch.watcher import WatchLimits, WatchRequest
from storage.clock import Clock, Scheduler, Timer

_log = logging.getLogger(__name__)

Wake = Callable[[], None]


def _nothing() -> None:
    """Nobody needs to know."""


STEPS_A_PASS: Final = 2
SLICE_S: Final = 0.004
LOT: Final = 32
"""Watchers between two looks at the clock."""
REST: Final = 10.0
BRIEF_S: Final = 0.000_5
"""A slice shorter than this needs no rest."""
REST_MAX_S: Final = 0.04
"""A slice may have taken long because the machine was busy: events are not held back for longer."""


class ShardWatches:
    """Use it from the node's loop only."""

    def __init__(
        self,
        encode: Encode,
        read: ReadEvents,
        *,
        revision: int,
        compact_revision: int,
        scheduler: Scheduler,
        clock: Clock,
        limits: WatchLimits | None = None,
        first_identity: int = 0,
        attend: Callable[[], None] = _nothing,
    ) -> None:
        """`attend` is called before each watcher is made: from then on every revision must be told
        (`committed`), until the hub is `idle` again."""
        self._attend = attend
        self._hub = WatchHub(
            encode,
            revision=revision,
            compact_revision=compact_revision,
            limits=limits,
            first_identity=first_identity,
        )
        self.passed: Final = self._hub.passed
        """Instead of `committed`, as long as it is idle. (Not a method: each turn says it.)"""
        self._read = read
        self._scheduler = scheduler
        self._clock = clock
        self._wakes: dict[int, Wake] = {}
        self._pass_scheduled = False
        self._waiting: deque[int] = deque()
        """Whom to wake. All of them, before those are asked for who became ready meanwhile."""
        self._rest: Timer | None = None
        """While handing out rests."""
        self._timer: Timer | None = None
        self._closed = False

    # --- watchers ---

    def create(self, request: WatchRequest, wake: Wake) -> Created | Cancelled:
        """Cancelled if there can be no such watcher."""
        self._attend()
        made = self._hub.create(request, self._clock.monotonic())
        if isinstance(made, Created):
            self._wakes[made.identity] = wake
            self._arm_timer()
            self._soon()
        return made

    def cancel(self, identity: int) -> bool:
        """Nothing more comes. False if there is no such watcher (any more)."""
        self._wakes.pop(identity, None)
        return self._hub.cancel(identity)

    def take(self, identity: int, max_bytes: int = 0) -> list[Message]:
        """The next messages; after a Cancelled the watcher is gone."""
        taken = self._hub.take(identity, max_bytes)
        if taken and isinstance(taken[-1], Cancelled):
            self._wakes.pop(identity, None)
        return taken

    def room(self, identity: int) -> None:
        """All that was taken is out."""
        self._hub.room(identity)
        self._soon()

    def reached(self, identities: Iterable[int]) -> int:
        """Up to where everything of all these watchers was taken."""
        return self._hub.reached(identities)

    @property
    def revision(self) -> int:
        return self._hub.revision

    @property
    def watching(self) -> int:
        """Watchers that somebody still listens to."""
        return len(self._wakes)

    def statistics(self) -> HubStatistics:
        return self._hub.statistics()

    def close(self, message: str) -> None:
        """End every watcher with a reason, after what waits for it."""
        self._hub.close(message)
        self._soon()

    def stop(self) -> None:
        """Nothing moves any more; whose watch has ended is still told so."""
        self._closed = True
        self._scheduler.call_soon(self._last_pass)
        for timer in (self._timer, self._rest):
            if timer is not None:
                timer.cancel()
        self._timer = self._rest = None

    # --- fed by the shard ---

    @property
    def idle(self) -> bool:
        return self._hub.idle

    def committed(self, revision: int, bodies: Sequence[bytes]) -> None:
        self._hub.committed(revision, bodies)
        if self._wakes:
            self._soon()

    def compacted(self, revision: int) -> None:
        self._hub.compacted(revision)
        self._soon()

    def jumped(self, revision: int, compact_revision: int) -> None:
        self._hub.jumped(revision, compact_revision)
        self._soon()

    def narrowed(self, start: bytes, end: bytes | None, message: str) -> None:
        self._hub.narrowed(start, end, message)
        self._soon()

    def skipped(self, revision: int) -> None:
        self._hub.skipped(revision)
        self._soon()

    @property
    def compact_revision(self) -> int:
        """A watcher cannot begin below it."""
        return self._hub.compact_revision

    # --- the pass: hand out, catch up ---

    def _soon(self) -> None:
        if not self._pass_scheduled and not self._closed:
            self._pass_scheduled = True
            self._scheduler.call_soon(self._pass)

    def _pass(self) -> None:
        self._pass_scheduled = False
        if self._closed:
            return
        behind = self._hub.is_behind
        for _ in range(STEPS_A_PASS):
            if not behind:
                break
            behind = self._hub.step(self._read)
        if self._rest is None:
            self._hand_out()
        if behind:
            self._soon()

    def _last_pass(self) -> None:
        for identity in self._hub.ended():
            wake = self._wakes.get(identity)
            if wake is not None:
                self._serve(identity, wake)

    def _hand_out(self) -> None:
        waiting, begun_s, took_s = self._waiting, self._clock.monotonic(), 0.0
        if not waiting:
            waiting.extend(self._hub.take_ready())
        while took_s < SLICE_S and waiting:
            for _ in range(min(LOT, len(waiting))):
                identity = waiting.popleft()
                wake = self._wakes.get(identity)
                if wake is not None:
                    self._serve(identity, wake)
            took_s = self._clock.monotonic() - begun_s
        if took_s > BRIEF_S:
            rest_s = min(REST * took_s, REST_MAX_S)
            self._rest = self._scheduler.call_later(rest_s, self._rested)

    def _serve(self, identity: int, wake: Wake) -> None:
        try:
            wake()
        except Exception:  # noqa: BLE001 - one face's defect must not stop the watches of others
            _log.exception("watcher %d cannot be served and is cancelled", identity)
            self.cancel(identity)

    def _rested(self) -> None:
        self._rest = None
        self._soon()

    # --- progress ---

    def _arm_timer(self) -> None:
        due_s = self._hub.next_tick_s()
        if self._timer is None and due_s is not None and not self._closed:
            delay_s = max(0.0, due_s - self._clock.monotonic())
            self._timer = self._scheduler.call_later(delay_s, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._hub.tick(self._clock.monotonic())
        self._soon()
        self._arm_timer()
