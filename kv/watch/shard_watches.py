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
"""

from __future__ import annotations

import logging
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
STEPS_A_PASS: Final = 2


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
    ) -> None:
        self._hub = WatchHub(
            encode, revision=revision, compact_revision=compact_revision, limits=limits
        )
        self._read = read
        self._scheduler = scheduler
        self._clock = clock
        self._wakes: dict[int, Wake] = {}
        self._pass_scheduled = False
        self._timer: Timer | None = None
        self._closed = False

    # --- watchers ---

    def create(self, request: WatchRequest, wake: Wake) -> Created | Cancelled:
        """Cancelled if there can be no such watcher."""
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
        """Nothing moves any more."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # --- fed by the shard ---

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
        for identity in self._hub.take_ready():
            wake = self._wakes.get(identity)
            if wake is None:
                continue
            try:
                wake()
            except Exception:  # noqa: BLE001 - one face's defect must not stop the watches of others
                _log.exception("watcher %d cannot be served and is cancelled", identity)
                self.cancel(identity)
        if behind:
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
