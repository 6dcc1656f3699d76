"""The watch hubs of one shard on this node, one a face, and what the shard tells them.

    machine --(each revision, only while somebody watches)--> told --> every hub
    turn    --> after_turn: the end of the range, compaction; a number where nobody watches

A put pays for watchers only while there are some: without any the machine has no observer, and the
hubs learn once a turn how far the shard has come. Whoever is about to make a watcher says so first
(`attend`), so a watcher misses no revision after its own.

Invariant: while the machine has no observer, every hub is idle. Nothing but a turn applies entries,
and `after_turn` follows in the same one, so nobody ever sees a hub behind the machine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from kv.strong.machine import ServedMachine
from kv.watch.messages import Encode
from kv.watch.shard_watches import ShardWatches
from kv.watch.watcher import WatchLimits
from storage.clock import Clock, Scheduler
from storage.mvcc_events import EventPage, read_events

EXAMINED_A_STEP: Final = 1_000
NARROWED: Final = (
    "the shard was split or merged: read these keys and watch anew, in each of the shards that "
    "hold them now, or with GET /api/v1/watch, which follows them without a gap"
)


class ShardHubs:
    """For the node's loop only."""

    def __init__(
        self,
        machine: ServedMachine,
        *,
        readable: Callable[[], bool],
        scheduler: Scheduler,
        clock: Clock,
        limits: WatchLimits | None,
    ) -> None:
        """`readable`: the machine's state is whole, no snapshot is being put in its place."""
        self._machine = machine
        self._readable = readable
        self._scheduler = scheduler
        self._clock = clock
        self._limits = limits
        self.hubs: list[ShardWatches] = []
        self._passed_by = -1
        """The revision that the hubs were last told by number."""
        self._compact_seen = machine.shard.state.compact_revision
        self._seen_own = machine.shard.view.segments.own
        machine.on_restored = self._restored
        machine.observe(None)  # it may have been served before, to watchers that are gone

    def make(self, encode: Encode, first_identity: int) -> ShardWatches:
        state = self._machine.shard.state
        hub = ShardWatches(
            encode,
            self._read_events,
            revision=state.revision,
            compact_revision=state.compact_revision,
            scheduler=self._scheduler,
            clock=self._clock,
            limits=self._limits,
            first_identity=first_identity,
            attend=self._attend,
        )
        self.hubs.append(hub)
        return hub

    def _read_events(
        self,
        from_revision: int,
        start: bytes,
        end: bytes | None,
        *,
        max_events: int,
        max_bytes: int,
    ) -> EventPage:
        if not self._readable():
            return EventPage([], from_revision)  # `_restored` goes on from here
        return read_events(
            self._machine.shard.view,
            from_revision,
            start,
            end,
            max_events=max_events,
            max_bytes=max_bytes,
            max_examined=EXAMINED_A_STEP,
        )

    def _attend(self) -> None:
        if self._machine.observer is None:
            self._pass_by(self._machine.revision)
            self._machine.observe(self._told)

    def _pass_by(self, revision: int) -> None:
        self._passed_by = revision
        for hub in self.hubs:
            hub.passed(revision)

    def _told(self, revision: int, bodies: Sequence[bytes]) -> None:
        if self._machine.shard.view.segments.own is not self._seen_own:
            self._note_range(revision - 1)  # made in this very turn, before the revision
        for hub in self.hubs:
            hub.committed(revision, bodies)

    def _note_range(self, revision: int) -> None:
        """The shard may have got other keys, by a split or a merge. `revision`: its newest since
        then that watchers were not told of."""
        own, seen = self._machine.shard.view.segments.own, self._seen_own
        self._seen_own = own
        if (own.segment, own.start, own.end) == (seen.segment, seen.start, seen.end):
            return  # compaction has swept it
        for hub in self.hubs:
            hub.narrowed(own.start, own.end, NARROWED)
            if revision > hub.revision:
                hub.skipped(revision)

    def _restored(self) -> None:
        state = self._machine.shard.state
        self._note_range(0)  # what follows is caught up with from the log
        self._compact_seen = state.compact_revision
        for hub in self.hubs:
            hub.jumped(state.revision, state.compact_revision)

    def after_turn(self) -> None:
        """What was applied in it is there to be read."""
        machine = self._machine
        if machine.shard.view.segments.own is not self._seen_own:
            self._note_range(machine.revision)
        state = machine.shard.state
        if machine.observer is None:
            if state.revision != self._passed_by:
                self._pass_by(state.revision)
        elif all(hub.idle for hub in self.hubs):
            machine.observe(None)
        compact_revision = state.compact_revision
        if compact_revision != self._compact_seen:
            self._compact_seen = compact_revision
            for hub in self.hubs:
                hub.compacted(compact_revision)

    def close(self, message: str) -> None:
        for hub in self.hubs:
            hub.close(message)

    def stop(self) -> None:
        for hub in self.hubs:
            hub.stop()
