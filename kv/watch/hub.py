"""The watch hub of one shard: commits and pages of the event log in, messages for watchers out.

    committed ---> SYNCED: the batch goes into the outbox at once
                      | full: the batch waits as `pending`; later commits pass by
                      v
                   VICTIM <-- room: the outbox drained: pending goes in -----> SYNCED, or
                      |                                                          |
                      +------> CATCHING_UP: step reads the log ----> SYNCED <----+
                                   | full -> VICTIM     | compacted -> ENDED

It promises each watcher every event of its range from its start revision on that its filters let
through: once, in order, all events of one revision in one message; in the end perhaps Cancelled,
which names what ended it. A commit costs one look-up an event and one append a synced watcher, and
reads, decodes, encodes and waits for nothing, whatever the others do.

It knows no connections and no time: the caller feeds `committed` from the machine's observer,
calls `step` while it returns True, `tick` when `next_tick_s` is due, and moves messages:

    for identity in hub.take_ready():            outboxes that are no longer empty
        while messages := hub.take(identity):    send them, wait until they are out, then
            hub.room(identity)

What was taken counts as in the outbox until `room`. An identity is never used twice; calls with one
that is gone do nothing. Revisions here are the shard's; what they mean is storage/mvcc.py's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from kv.watch.catchup import (
    DEFAULT_BUDGET,
    ReadEvents,
    Share,
    StepBudget,
    cohort_of,
    hull,
    share_out,
)
from kv.watch.messages import (
    Cancelled,
    CancelReason,
    Encode,
    EventBatch,
    Message,
    Progress,
    SharedEvent,
)
from kv.watch.roster import HubStatistics, Roster
from kv.watch.watcher import (
    FILTERS,
    WITH_PREV,
    Group,
    State,
    Watcher,
    WatchLimits,
    WatchRequest,
    filtered,
)
from storage.errors import CompactedError
from storage.mvcc_records import event_key_of


class Created(NamedTuple):
    identity: int
    revision: int
    """The shard's, now."""


class WatchHub:
    """What is in which state: roster.py. The rules: here."""

    def __init__(
        self,
        encode: Encode,
        *,
        revision: int,
        compact_revision: int = 0,
        limits: WatchLimits | None = None,
        first_identity: int = 0,
    ) -> None:
        assert compact_revision <= revision
        self._encode = encode
        self._limits: Final = limits or WatchLimits()
        self._roster: Final = Roster(revision, self._limits, first_identity)
        self.compact_revision = compact_revision
        self._timers: dict[int, float] = {}
        """When to say progress, soonest first, since all intervals are equal."""
        self._pages_read = 0

    @property
    def revision(self) -> int:
        return self._roster.revision

    # --- watchers come and go ---

    def create(self, request: WatchRequest, now_s: float) -> Created | Cancelled:
        """Cancelled if there can be no such watcher. One that starts below the compact revision is
        created, and its only message is its cancellation."""
        keys = request.keys
        if keys.is_empty:
            return Cancelled(
                CancelReason.INVALID,
                f"the range to watch is empty: its end {keys.end!r} is not above its start "
                f"{keys.start!r}",
            )
        if len(self._roster.watchers) >= self._limits.watchers:
            self._roster.cancelled[CancelReason.LIMIT] += 1
            return Cancelled(
                CancelReason.LIMIT,
                f"this shard has {len(self._roster.watchers)} watchers on this node, which is the "
                "limit; watch a range instead of many keys, or another node",
            )
        watcher = self._roster.add(request)
        if request.progress:
            self._timers[watcher.identity] = now_s + self._limits.progress_interval_s
        start = request.start_revision
        watcher.next_revision = start if start > 0 else self._roster.revision + 1
        if watcher.next_revision > self._roster.revision + 1:
            self._roster.enter(watcher, State.FUTURE)
        else:
            self._roster.enter_by_position(watcher)
            if 0 < start < self.compact_revision:
                self._end_compacted(watcher)
        return Created(watcher.identity, self._roster.revision)

    def cancel(self, identity: int) -> bool:
        """The client's wish: nothing more comes. False if there is no such watcher."""
        watcher = self._roster.watchers.get(identity)
        if watcher is None:
            return False
        self._roster.detach(watcher)
        self._forget(watcher)
        return True

    def close(self, message: str) -> None:
        """End every watcher, after what is in its outbox: the shard or the node goes away."""
        for watcher in list(self._roster.watchers.values()):
            if watcher.state is not State.ENDED:
                self._roster.end(watcher, Cancelled(CancelReason.CLOSED, message))

    def narrowed(self, start: bytes, end: bytes | None, message: str) -> None:
        """The shard holds these keys from now on: whoever watches others is told the end, after
        what waits for it. Its next event may be in another shard. To be called before the first
        revision that was made since: of the keys that went, its number says nothing."""
        for watcher in list(self._roster.watchers.values()):
            keys = watcher.group.keys
            inside = keys.start >= start and (
                end is None or (keys.end is not None and keys.end <= end)
            )
            if (watcher.whole or not inside) and watcher.state is not State.ENDED:
                self._roster.end(watcher, Cancelled(CancelReason.SPLIT, message))

    def skipped(self, revision: int) -> None:
        """The shard's revision has risen without a change of its keys (a merge, which goes on
        behind both numberings). Whoever had everything has everything; who had not, needs events
        that only a cursor finds, and learns it from `compacted`."""
        roster = self._roster
        assert revision >= roster.revision
        for watcher in roster.victims.values():
            if watcher.next_revision == roster.revision + 1:
                watcher.next_revision = revision + 1
        roster.revision = revision
        while (starting := roster.next_future(revision)) is not None:
            roster.enter(starting, State.SYNCED)

    # --- the shard ---

    @property
    def idle(self) -> bool:
        """There is no watcher, not even one that ends: nobody needs to be told of any event."""
        return not self._roster.watchers

    def passed(self, revision: int) -> None:
        """Instead of `committed`, as long as it is idle: the shard has come so far."""
        roster = self._roster
        assert not roster.watchers
        if revision > roster.revision:
            roster.revision = revision

    def committed(self, revision: int, bodies: Sequence[bytes]) -> None:
        """All events of the next revision, in order, as the machine's observer gets them."""
        roster = self._roster
        assert revision == roster.revision + 1, f"{revision} does not follow {roster.revision}"
        roster.revision = revision
        while (starting := roster.next_future(revision)) is not None:
            roster.enter(starting, State.SYNCED)
        if not roster.synced:
            return
        found: dict[Group, list[SharedEvent]] = {}
        for body in bodies:
            key = event_key_of(body)
            event: SharedEvent | None = None
            for group in roster.index.find(key):
                if not group.synced:
                    continue
                if event is None:
                    event = SharedEvent.of_body(self._encode, revision, key, body)
                if group in found:
                    found[group].append(event)
                else:
                    found[group] = [event]
        for group, events in found.items():
            for variant, members in list(group.synced.items()):
                wanted = filtered(events, variant) if variant & FILTERS else events
                if wanted:
                    self._deliver(members, EventBatch(wanted, bool(variant & WITH_PREV)))

    def _deliver(self, members: dict[int, Watcher], batch: EventBatch) -> None:
        """One batch to all synced watchers that want it. This loop is what a commit waits for:
        `Watcher.takes` and `_append` are written out in it."""
        if self._is_too_large(batch, members.values()):
            return
        limits, ready = self._limits, self._roster.ready
        count, size = batch.count, batch.size_bytes
        events_before = limits.outbox_events - count
        bytes_before = limits.outbox_bytes - size
        is_tight = self._roster.held_bytes >= limits.total_bytes
        full: list[Watcher] = []
        for identity, watcher in members.items():
            events, outbox = watcher.outbox_events, watcher.outbox
            if events and (
                is_tight or events > events_before or watcher.outbox_bytes > bytes_before
            ):
                full.append(watcher)
                continue
            if not outbox:
                ready[identity] = None
            outbox.append(batch)
            watcher.outbox_events = events + count
            watcher.outbox_bytes += size
            watcher.quiet = False
        batch.holders = len(members)
        self._roster.held_bytes += size
        self._roster.delivered_events += count * (len(members) - len(full))
        for watcher in full:
            watcher.pending = batch
            self._roster.enter(watcher, State.VICTIM)

    def compacted(self, revision: int) -> None:
        """Events below this revision are gone: whoever still needs one of them is cancelled."""
        assert revision <= self._roster.revision
        self.compact_revision = max(self.compact_revision, revision)
        for waiting in (self._roster.catching_up, self._roster.victims):
            for watcher in list(waiting.values()):
                if watcher.next_revision < self.compact_revision:
                    self._end_compacted(watcher)

    def jumped(self, revision: int, compact_revision: int) -> None:
        """The shard came to a revision by a snapshot, without its commits: all have to catch up."""
        assert revision >= self._roster.revision
        if revision > self._roster.revision:
            for group in self._roster.groups.values():
                for members in list(group.synced.values()):
                    for watcher in list(members.values()):
                        self._roster.enter(watcher, State.CATCHING_UP)
            self._roster.revision = revision
            while (starting := self._roster.next_future(revision)) is not None:
                self._roster.enter_by_position(starting)
        self.compacted(compact_revision)

    # --- messages ---

    def take_ready(self) -> list[int]:
        """Whose outboxes got something while they were empty, since the last call."""
        ready = list(self._roster.ready)
        self._roster.ready.clear()
        return ready

    def take(self, identity: int, max_bytes: int = 0) -> list[Message]:
        """The next messages: all, or until they have `max_bytes`. Cancelled is the last ever."""
        watcher = self._roster.watchers.get(identity)
        if watcher is None or not watcher.outbox:
            return []
        taken: list[Message] = []
        size_bytes = 0
        outbox = watcher.outbox
        while outbox and (max_bytes <= 0 or size_bytes < max_bytes):
            message = outbox.popleft()
            if isinstance(message, EventBatch):
                size_bytes += message.size_bytes
                watcher.taken_events += message.count
                self._roster.release(message)
                if watcher.fragment:
                    taken += message.fragments(self._limits.fragment_bytes)
                    continue
            taken.append(message)
        watcher.taken_bytes += size_bytes
        if watcher.state is State.ENDED and not outbox:
            self._forget(watcher)
        return taken

    def room(self, identity: int) -> None:
        """All that was taken is out."""
        watcher = self._roster.watchers.get(identity)
        if watcher is None:
            return
        watcher.outbox_events -= watcher.taken_events
        watcher.outbox_bytes -= watcher.taken_bytes
        watcher.taken_events = watcher.taken_bytes = 0
        if watcher.state is State.VICTIM:
            self._retry(watcher)

    def _retry(self, victim: Watcher) -> None:
        pending = victim.pending
        if pending is not None:
            if not victim.takes(pending, self._limits, self._roster.is_tight):
                return
            victim.pending = None
            self._roster.append(victim, pending)
            self._roster.release(pending)
        if victim.next_revision > self._roster.revision or victim.has_drained(self._limits):
            self._roster.enter_by_position(victim)

    # --- catching up ---

    def step(self, read: ReadEvents, budget: StepBudget = DEFAULT_BUDGET) -> bool:
        """Read one page of the log for those who have room. Whether another step would help now;
        `is_behind` says whether there is anyone to read for."""
        if not self._roster.catching_up:
            return False
        cohort = cohort_of(self._roster.catching_up.values(), budget.watchers)
        first = cohort[0].next_revision
        keys = hull(cohort)
        self._pages_read += 1
        try:
            page = read(
                first, keys.start, keys.end, max_events=budget.events, max_bytes=budget.size_bytes
            )
        except CompactedError as error:
            self.compacted(error.compact_revision)
            return bool(self._roster.catching_up)
        reached = min(page.next_revision, self._roster.revision + 1)
        if reached <= first:
            return False  # the reader does not see that far yet
        events = [
            SharedEvent.of_event(self._encode, event)
            for event in page.events
            if event.kv.mod_revision < reached  # the rest comes as a commit
        ]
        cohort = [watcher for watcher in cohort if watcher.next_revision < reached]
        for share in share_out(events, cohort, self._roster.index, self._limits):
            self._hand_out(share, reached)
        return bool(self._roster.catching_up)

    @property
    def is_behind(self) -> bool:
        return bool(self._roster.catching_up)

    def _hand_out(self, share: Share, reached: int) -> None:
        stopped: set[int] = set()
        for batch in share.batches:
            going_on = [each for each in share.watchers if each.identity not in stopped]
            if self._is_too_large(batch, going_on):
                return
            for watcher in going_on:
                if watcher.takes(batch, self._limits, self._roster.is_tight):
                    self._roster.append(watcher, batch)
                else:
                    watcher.next_revision = batch.first_revision
                    self._roster.enter(watcher, State.VICTIM)
                    stopped.add(watcher.identity)
        for watcher in share.watchers:
            if watcher.identity not in stopped:
                watcher.next_revision = reached
                self._roster.enter_by_position(watcher)

    # --- progress ---

    def next_tick_s(self) -> float | None:
        return next(iter(self._timers.values()), None)

    def tick(self, now_s: float) -> None:
        """Tell those who asked for it and had no events for an interval how far they are."""
        while (due_s := self.next_tick_s()) is not None and due_s <= now_s:
            identity = next(iter(self._timers))
            del self._timers[identity]
            self._timers[identity] = now_s + self._limits.progress_interval_s
            watcher = self._roster.watchers[identity]
            if watcher.state is State.SYNCED and watcher.quiet and not watcher.outbox:
                watcher.outbox.append(Progress(self._roster.revision))
                self._roster.ready[identity] = None
            watcher.quiet = True

    def reached(self, identities: Iterable[int]) -> int:
        """Up to where everything of all these watchers was taken: what may be told as progress
        after it."""
        lowest = self._roster.revision
        for identity in identities:
            watcher = self._roster.watchers.get(identity)
            if watcher is not None:
                lowest = min(lowest, self._taken_up_to(watcher))
        return lowest

    def _taken_up_to(self, watcher: Watcher) -> int:
        for message in watcher.outbox:
            if isinstance(message, EventBatch):
                return message.first_revision - 1
        if watcher.pending is not None:
            return watcher.pending.first_revision - 1
        return self._roster.revision if watcher.state is State.SYNCED else watcher.next_revision - 1

    def ended(self) -> list[int]:
        """Who was cancelled by the hub and has not taken that yet."""
        watchers = self._roster.watchers.items()
        return [each for each, watcher in watchers if watcher.state is State.ENDED]

    def statistics(self) -> HubStatistics:
        return self._roster.statistics(self._pages_read)

    # --- ends ---

    def _forget(self, watcher: Watcher) -> None:
        self._timers.pop(watcher.identity, None)
        self._roster.forget(watcher)

    def _end_compacted(self, watcher: Watcher) -> None:
        message = (
            f"the watcher needs the events from revision {watcher.next_revision} on, but those "
            f"below {self.compact_revision} were compacted; read the keys anew and watch from the "
            "revision of that read + 1"
        )
        self._roster.end(watcher, Cancelled(CancelReason.COMPACTED, message, self.compact_revision))

    def _is_too_large(self, batch: EventBatch, watchers: Iterable[Watcher]) -> bool:
        """The hard limit; whoever is concerned is cancelled."""
        limit = self._limits.revision_bytes
        if batch.size_bytes <= limit:
            return False
        message = (
            f"the events of revision {batch.revision} have {batch.size_bytes} bytes for this "
            f"watcher, over the limit of {limit}; watch a smaller range or without prev_kv, from "
            f"revision {batch.revision} on"
        )
        for watcher in list(watchers):
            self._roster.end(watcher, Cancelled(CancelReason.LIMIT, message))
        return True
