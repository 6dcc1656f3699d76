"""Who watches, in which state, and what the outboxes hold: the hub's books, without its rules.

Every change of a watcher's state goes through `enter`, so that these stay true between two calls:

- a watcher is in `watchers` and, by its state, in exactly one of: its group's synced members,
  `future`, `catching_up`, `victims`; an ended one is in `watchers` only, until it is forgotten;
- a group is in `groups` and in `index` as long as it has members that have not ended;
- `held_bytes` counts each batch that is in an outbox or pending, once;
- `ready` names those whose outbox got something while it was empty and who were not told yet.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from typing import Final, NamedTuple

from kv.watch.index import KeyRange, RangeIndex
from kv.watch.messages import Cancelled, CancelReason, EventBatch
from kv.watch.watcher import Group, State, Watcher, WatchLimits, WatchRequest


class HubStatistics(NamedTuple):
    """Watchers by state, and what happened since the start."""

    future: int
    synced: int
    catching_up: int
    victims: int
    ended: int
    """Cancelled by the hub, and the message not yet taken."""
    ranges: int
    held_bytes: int
    """In outboxes, shared batches once."""
    delivered_events: int
    """Put into outboxes."""
    outboxes_filled: int
    """How often a watcher became a victim."""
    pages_read: int
    cancelled_compacted: int
    cancelled_limit: int


class Roster:
    def __init__(self, revision: int, limits: WatchLimits, first_identity: int = 0) -> None:
        self.revision = revision
        """The last one that the synced watchers were served."""
        self._limits: Final = limits
        self._identities = first_identity
        self.watchers: Final[dict[int, Watcher]] = {}
        self.groups: Final[dict[KeyRange, Group]] = {}
        self.index: Final[RangeIndex[Group]] = RangeIndex()
        self.future: Final[list[tuple[int, int]]] = []
        """(-start revision, identity), sorted: the next one to start is the last."""
        self.catching_up: Final[dict[int, Watcher]] = {}
        """In the order in which they are served."""
        self.victims: Final[dict[int, Watcher]] = {}
        self.synced = 0
        self.ended = 0
        self.ready: Final[dict[int, None]] = {}
        self.held_bytes = 0
        self.delivered_events = 0
        self.outboxes_filled = 0
        self.cancelled: Final = dict.fromkeys(CancelReason, 0)

    def add(self, request: WatchRequest) -> Watcher:
        """A new watcher, which is in no state yet: let it enter one."""
        self._identities += 1
        watcher = Watcher(self._identities, self._group(request.keys), request)
        self.watchers[watcher.identity] = watcher
        return watcher

    def next_future(self, revision: int) -> Watcher | None:
        """One that starts at this revision or before."""
        if self.future and -self.future[-1][0] <= revision:
            return self.watchers[self.future[-1][1]]
        return None

    # --- states ---

    def enter_by_position(self, watcher: Watcher) -> None:
        """A watcher with room: SYNCED if it has everything, else CATCHING_UP as the last."""
        has_all = watcher.next_revision > self.revision
        self.enter(watcher, State.SYNCED if has_all else State.CATCHING_UP)

    def enter(self, watcher: Watcher, state: State) -> None:
        """From whatever it is in. A new watcher is ENDED, which is in nothing."""
        self._leave(watcher)
        watcher.state = state
        if state is State.SYNCED:
            watcher.group.join(watcher)
            self.synced += 1
        elif state is State.CATCHING_UP:
            self.catching_up[watcher.identity] = watcher
        elif state is State.VICTIM:
            assert watcher.outbox_events
            self.victims[watcher.identity] = watcher
            self.outboxes_filled += 1
        elif state is State.FUTURE:
            insort(self.future, (-watcher.next_revision, watcher.identity))

    def _leave(self, watcher: Watcher) -> None:
        state = watcher.state
        if state is State.SYNCED:
            watcher.group.leave(watcher)
            self.synced -= 1
            watcher.next_revision = self.revision + 1
        elif state is State.CATCHING_UP:
            del self.catching_up[watcher.identity]
        elif state is State.VICTIM:
            del self.victims[watcher.identity]
        elif state is State.FUTURE:
            place = -watcher.next_revision, watcher.identity
            del self.future[bisect_left(self.future, place)]

    def _group(self, keys: KeyRange) -> Group:
        """The group of a range, with one more member."""
        group = self.groups.get(keys)
        if group is None:
            group = self.groups[keys] = Group(keys)
            self.index.add(keys, group)
        group.members += 1
        return group

    def detach(self, watcher: Watcher) -> None:
        """Nothing more comes for it."""
        if watcher.state is State.ENDED:
            return
        self.enter(watcher, State.ENDED)
        self.ended += 1
        group = watcher.group
        group.members -= 1
        if not group.members:
            del self.groups[group.keys]
            self.index.remove(group.keys)

    def forget(self, watcher: Watcher) -> None:
        """An ended one: nobody will take anything of it any more."""
        self.ended -= 1
        for message in watcher.outbox:
            if isinstance(message, EventBatch):
                self.release(message)
        if watcher.pending is not None:
            self.release(watcher.pending)
        self.ready.pop(watcher.identity, None)
        del self.watchers[watcher.identity]

    # --- outboxes ---

    @property
    def is_tight(self) -> bool:
        return self.held_bytes >= self._limits.total_bytes

    def append(self, watcher: Watcher, batch: EventBatch) -> None:
        if not watcher.outbox:
            self.ready[watcher.identity] = None
        watcher.outbox.append(batch)
        watcher.outbox_events += batch.count
        watcher.outbox_bytes += batch.size_bytes
        watcher.quiet = False
        self.delivered_events += batch.count
        if not batch.holders:
            self.held_bytes += batch.size_bytes
        batch.holders += 1

    def release(self, batch: EventBatch) -> None:
        batch.holders -= 1
        if not batch.holders:
            self.held_bytes -= batch.size_bytes

    # --- the end ---

    def end(self, watcher: Watcher, cancelled: Cancelled) -> None:
        """After what is in the outbox, and the batch that waited to get in."""
        self.cancelled[cancelled.reason] += 1
        self.detach(watcher)
        pending, watcher.pending = watcher.pending, None
        if pending is not None:
            self.append(watcher, pending)
            self.release(pending)
        if not watcher.outbox:
            self.ready[watcher.identity] = None
        watcher.outbox.append(cancelled)

    def statistics(self, pages_read: int) -> HubStatistics:
        return HubStatistics(
            future=len(self.future),
            synced=self.synced,
            catching_up=len(self.catching_up),
            victims=len(self.victims),
            ended=self.ended,
            ranges=len(self.groups),
            held_bytes=self.held_bytes,
            delivered_events=self.delivered_events,
            outboxes_filled=self.outboxes_filled,
            pages_read=pages_read,
            cancelled_compacted=self.cancelled[CancelReason.COMPACTED],
            cancelled_limit=self.cancelled[CancelReason.LIMIT],
        )
