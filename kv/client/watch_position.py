"""Where a watch is: what it was told, and what to make of the next line. Pure.

    next    the revision from which it goes on, on this connection or on another one; 0: from
            whatever comes next, until a server has said what that is. Once the keys lie in
            several shards: the cursor behind which it goes on

Invariant: every change handed out has a revision of at least the `next` before it, so across
connections nothing comes twice, and nothing is left out, since `next` never passes what was told.
Behind a cursor the server sees to the same: a line is read whole or not at all, and its cursor
with it.
"""

from __future__ import annotations

from msgspec import UNSET

from kv.api.live_bodies import WatchLine
from kv.client.failures import MalformedReplyError, WatchEndedError
from kv.client.other_operations import change_of, watch_line
from kv.client.records import Change
from storage.errors import CompactedError, JanusError


class WatchPosition:
    __slots__ = ("created", "next", "over")

    def __init__(self, start: int | str = 0) -> None:
        self.next = start
        self.created = False
        """Some server has begun to watch."""
        self.over = False
        """This connection has nothing more to say; another one may."""

    def connected(self) -> None:
        self.over = False

    def read(self, line: bytes) -> Change | None:
        return self.accept(watch_line(line))

    def accept(self, line: WatchLine) -> Change | None:
        """Raises CompactedError, WatchEndedError, MalformedReplyError."""
        if line.type == "cancelled":
            self._cancelled(line)
            return None
        if line.cursor is not UNSET:
            self.created = True
            self.next = line.cursor
            return change_of(line) if line.type == "events" else None
        if line.revision is UNSET:
            raise MalformedReplyError(f"a {line.type!r} line of a watch has no revision")
        revision = line.revision
        if line.type == "created":
            self.created = True
            self.next = self.next or revision + 1
            return None
        if isinstance(self.next, int) and revision < self.next:
            return None
        self.next = revision + 1
        return change_of(line) if line.type == "events" else None

    def _cancelled(self, line: WatchLine) -> None:
        self.over = True
        if line.reason in ("closed", "limit"):
            return
        text = "a server ended the watch" if line.message is UNSET else line.message
        error: JanusError
        if line.reason == "compacted":
            at = 0 if line.compact_revision is UNSET else line.compact_revision
            error = CompactedError(text, at)
        else:
            error = WatchEndedError(text)
        raise error
