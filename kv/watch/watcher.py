"""One watcher: what it asked for, where it stands, and its bounded outbox.

    FUTURE        starts at a revision that is not there yet
    SYNCED        everything up to the hub's revision is in its outbox or was taken: it gets the
                  events of each commit at once
    CATCHING_UP   everything before `next_revision` is; the event log has the rest
    VICTIM        its outbox is full. `pending` may hold the one batch that did not go in;
                  everything before `next_revision` is in the outbox or in `pending`
    ENDED         was cancelled by the hub; the reason is the last thing in its outbox

    FUTURE -> SYNCED <-> VICTIM <-> CATCHING_UP -> SYNCED, and any of them -> ENDED

What was taken counts until the caller says that it is out (`Hub.room`), so the outbox bounds what a
slow connection holds too. An outbox with no events takes one batch of any size: progress is always
possible, and a VICTIM always has something to be taken or to be reported out, so it cannot be
forgotten.

Watchers of the same range are a Group. Its synced members are kept apart by variant (filters and
previous records), since all of one variant get the same batch.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from kv.watch.index import KeyRange
from kv.watch.messages import EventBatch, Message, SharedEvent

WITH_PREV: Final = 1
NO_PUT: Final = 2
NO_DELETE: Final = 4
FILTERS: Final = NO_PUT | NO_DELETE


class State(IntEnum):
    FUTURE = 0
    SYNCED = 1
    CATCHING_UP = 2
    VICTIM = 3
    ENDED = 4


@dataclass(frozen=True, slots=True)
class WatchRequest:
    keys: KeyRange
    start_revision: int = 0
    """Inclusive; 0 or less: from the next one on."""
    no_put: bool = False
    no_delete: bool = False
    prev_kv: bool = False
    progress: bool = False
    fragment: bool = False
    whole: bool = False
    """End it whenever the shard gets other keys, also if it holds these before and after: whoever
    follows several shards must know from where on a revision is one of both."""

    @property
    def variant(self) -> int:
        return WITH_PREV * self.prev_kv | NO_PUT * self.no_put | NO_DELETE * self.no_delete


@dataclass(frozen=True, slots=True)
class WatchLimits:
    """Sizes are of raw keys and values."""

    watchers: int = 100_000
    outbox_events: int = 1_000
    outbox_bytes: int = 1024 * 1024
    total_bytes: int = 256 * 1024 * 1024
    """In all outboxes, a shared batch once. Above it only empty outboxes take anything."""
    revision_bytes: int = 256 * 1024 * 1024
    """One revision for one watcher; a larger one cancels it."""
    message_events: int = 1_000
    """In catch-up several revisions share a message up to this many events,"""
    message_bytes: int = 256 * 1024
    """and this many bytes."""
    fragment_bytes: int = 1536 * 1024
    """Encoded, for those who asked for fragments."""
    progress_interval_s: float = 600.0

    def __post_init__(self) -> None:
        assert min(self.watchers, self.outbox_events, self.outbox_bytes, self.message_events) > 0
        assert self.message_bytes <= self.revision_bytes, "catch-up would cancel what fits"
        assert self.progress_interval_s > 0


class Watcher:
    __slots__ = (
        "fragment",
        "group",
        "identity",
        "next_revision",
        "outbox",
        "outbox_bytes",
        "outbox_events",
        "pending",
        "quiet",
        "state",
        "taken_bytes",
        "taken_events",
        "variant",
        "whole",
    )

    def __init__(self, identity: int, group: Group, request: WatchRequest) -> None:
        self.identity: Final = identity
        self.group: Final = group
        self.variant: Final = request.variant
        self.fragment: Final = request.fragment
        self.whole: Final = request.whole
        self.state = State.ENDED
        self.next_revision = 0
        """Means nothing while SYNCED: it would be the hub's revision + 1."""
        self.outbox: deque[Message] = deque()
        self.outbox_events = 0
        """In the outbox, or taken and not yet reported out; so are the bytes."""
        self.outbox_bytes = 0
        self.taken_events = 0
        """Of those, taken."""
        self.taken_bytes = 0
        self.pending: EventBatch | None = None
        self.quiet = True
        """No events since the last look of the progress timer."""

    def takes(self, batch: EventBatch, limits: WatchLimits, is_tight: bool) -> bool:
        """Whether the batch fits. `is_tight`: all outboxes together are over their limit."""
        if not self.outbox_events:
            return True
        return (
            not is_tight
            and self.outbox_events + batch.count <= limits.outbox_events
            and self.outbox_bytes + batch.size_bytes <= limits.outbox_bytes
        )

    def has_drained(self, limits: WatchLimits) -> bool:
        """Half empty: worth reading the log for again."""
        return (
            self.outbox_events * 2 <= limits.outbox_events
            and self.outbox_bytes * 2 <= limits.outbox_bytes
        )


class Group:
    """All watchers of one range."""

    __slots__ = ("keys", "members", "synced")

    def __init__(self, keys: KeyRange) -> None:
        self.keys: Final = keys
        self.members = 0
        self.synced: dict[int, dict[int, Watcher]] = {}
        """By variant, then by identity; no variant without members."""

    def join(self, watcher: Watcher) -> None:
        self.synced.setdefault(watcher.variant, {})[watcher.identity] = watcher

    def leave(self, watcher: Watcher) -> None:
        members = self.synced[watcher.variant]
        del members[watcher.identity]
        if not members:
            del self.synced[watcher.variant]


def filtered(events: list[SharedEvent], variant: int) -> list[SharedEvent]:
    """Those that a variant wants."""
    if variant & NO_PUT:
        events = [event for event in events if event.is_delete]
    if variant & NO_DELETE:
        events = [event for event in events if not event.is_delete]
    return events
