"""Hinted handoff: writes that this node holds for others go to them once they are there again.

    peer connected, or a look every look_s --> a run for that target
        read a page of its hints in the order of sequence --> send, a window at a time
            STORED  --> the hint is removed (and the stand-in's own copy with the key's last one)
            LATER   --> the run ends and begins again after as long as the receiver said
            else    --> the run ends and begins again after retry_s

The receiver sets the pace twice: a window moves only with its synced answers, and it says LATER
while it has enough to do. A hint that was merged with a newer write meanwhile has a new sequence:
the answer to the old one does not remove it. At most one run a target; memory is a page each.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from kv.leaderless.frames import Reply, Status, Store
from kv.leaderless.messenger import Outcome
from kv.leaderless.parts import Parts
from kv.leaderless.upkeep import MoveHint
from raftgroups.transport import NodeId
from storage.clock import Timer
from storage.hints import Hint
from storage.siblings import encode_set


@dataclass(frozen=True, slots=True)
class HandoffSettings:
    enabled: bool = True
    look_s: float = 1.0
    retry_s: float = 1.0
    later_max_s: float = 5.0
    window: int = 64
    """Hints under way to one target."""
    page: int = 256
    page_bytes: int = 1024 * 1024


class _Run:
    """Invariant: `after` is the highest sequence read so far."""

    def __init__(self) -> None:
        self.after = 0
        self.waiting: deque[Hint] = deque()
        self.more = True
        self.under_way = 0
        self.pause_s: float | None = None
        """Set when the run must end: begin again after so long."""


class Handoff:
    def __init__(self, parts: Parts, settings: HandoffSettings | None = None) -> None:
        self._parts = parts
        self._settings = settings or HandoffSettings()
        self._runs: dict[NodeId, _Run] = {}
        self._not_before: dict[NodeId, float] = {}
        self._timer: Timer | None = None
        self._stopped = False
        self.replayed = 0
        self.troubles: dict[NodeId, str] = {}
        """Why the last hint for a target could not be delivered; nothing once one was."""
        self.put_off = 0
        """How often a receiver said LATER."""

    @property
    def enabled(self) -> bool:
        return self._settings.enabled

    def start(self) -> None:
        if self._settings.enabled:
            self._timer = self._parts.scheduler.call_later(self._settings.look_s, self._look)

    def stop(self) -> None:
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def peer_changed(self, peer: NodeId, connected: bool) -> None:
        if connected and self._settings.enabled and not self._stopped:
            self._not_before.pop(peer, None)
            self._parts.scheduler.call_soon(self._begin, peer)

    def _look(self) -> None:
        self._timer = self._parts.scheduler.call_later(self._settings.look_s, self._look)
        now_s = self._parts.clock.monotonic()
        for target, usage in self._parts.replica.hint_usages().items():
            if usage.count and self._not_before.get(NodeId(target), 0.0) <= now_s:
                self._begin(NodeId(target))

    def _begin(self, target: NodeId) -> None:
        if self._stopped or target in self._runs or not self._parts.reachable(target):
            return
        self._runs[target] = _Run()
        self._go_on(target)

    def _go_on(self, target: NodeId) -> None:
        run = self._runs[target]
        while run.pause_s is None and run.under_way < self._settings.window:
            if not run.waiting:
                if not run.more:
                    break
                self._read(target, run)
                continue
            hint = run.waiting.popleft()
            if hint.keyspace in self._parts.replica.dropped:
                self._parts.replica.submit(MoveHint(target, hint.sequence))
            else:
                self._send(target, run, hint)
        if not run.under_way and (run.pause_s is not None or not (run.waiting or run.more)):
            self._end(target, run)

    def _read(self, target: NodeId, run: _Run) -> None:
        page = self._parts.replica.hints(
            target,
            after=run.after,
            limit=self._settings.page,
            max_bytes=self._settings.page_bytes,
        )
        for sequence in page.damaged:
            self._parts.replica.discard_hint(target, sequence)
        run.waiting.extend(page.hints)
        run.more = page.more
        run.after = max([run.after, *page.damaged, *(hint.sequence for hint in page.hints)])

    def _send(self, target: NodeId, run: _Run, hint: Hint) -> None:
        message = Store(0, hint.keyspace, hint.key, encode_set(hint.siblings), "", True)
        deadline_s = self._parts.clock.monotonic() + self._parts.settings.replica_timeout_s
        run.under_way += 1
        self._parts.messenger.ask(target, message, deadline_s, partial(self._told, target, hint))

    def _told(self, target: NodeId, hint: Hint, outcome: Outcome) -> None:
        run = self._runs[target]
        run.under_way -= 1
        if isinstance(outcome, Reply) and outcome.status is Status.STORED:
            self.replayed += 1
            self.troubles.pop(target, None)
            keyspace = self._parts.keyspaces.get(hint.keyspace)
            if keyspace is not None:
                place = self._parts.view().place(hint.key, keyspace.n)
                self._parts.replica.remove_hint(target, hint.sequence, owners=place.holders)
        elif isinstance(outcome, Reply) and outcome.status is Status.LATER:
            self.put_off += 1
            run.pause_s = min(_millis(outcome.body) / 1000, self._settings.later_max_s)
        else:
            run.pause_s = self._settings.retry_s
            self.troubles[target] = _why_not(outcome)
        if not self._stopped:
            self._go_on(target)

    def _end(self, target: NodeId, run: _Run) -> None:
        del self._runs[target]
        if run.pause_s is None:
            return
        self._not_before[target] = self._parts.clock.monotonic() + run.pause_s
        again: Callable[[NodeId], None] = self._begin
        self._parts.scheduler.call_later(run.pause_s, again, target)


def _why_not(outcome: Outcome) -> str:
    if isinstance(outcome, Reply):
        return outcome.body.decode(errors="replace") or outcome.status.name.lower()
    return outcome.reason


def _millis(body: bytes) -> int:
    return int(body) if body.isdigit() and len(body) < 10 else 1000
