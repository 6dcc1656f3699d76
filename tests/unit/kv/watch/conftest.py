"""A hub over a plain list as event log, and over a real shard."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from kv.watch.catchup import StepBudget
from kv.watch.hub import Created, WatchHub
from kv.watch.index import EVERYTHING, KeyRange
from kv.watch.messages import Cancelled, EventBatch, Message
from kv.watch.watcher import WatchLimits, WatchRequest
from storage.errors import CompactedError
from storage.mvcc_events import EventPage
from storage.mvcc_records import Event, event_of, pack_event, put_record, tombstone_record

Change = tuple[bytes, bytes | None]
"""(key, its new value or None)."""


def encode(event: Event, with_prev: bool) -> bytes:
    """Readable: revision, key, value or X; the previous value in brackets."""
    value = b"X" if event.is_delete else event.kv.value
    text = b"%d:%s=%s" % (event.kv.mod_revision, event.kv.key, value)
    if with_prev and event.prev is not None:
        text += b"[%s]" % event.prev.value
    return text


class Log:
    """A shard's events as bodies by revision. An empty one is at 1."""

    def __init__(self) -> None:
        self.revision = 1
        self.compact_revision = 0
        self.bodies: dict[int, list[bytes]] = {}
        self._records: dict[bytes, bytes] = {}
        self.reads = 0

    def write(self, changes: Sequence[Change]) -> list[bytes]:
        self.revision += 1
        bodies = []
        for sub, (key, value) in enumerate(changes):
            previous = self._records.get(key)
            if value is None:
                assert previous is not None
                new = tombstone_record(previous, self.revision, sub, 0)
            else:
                new = put_record(previous, value, 0, self.revision, sub, 0)
            self._records[key] = new
            bodies.append(pack_event(key, new, previous))
        self.bodies[self.revision] = bodies
        return bodies

    def read(
        self,
        from_revision: int,
        start: bytes,
        end: bytes | None,
        *,
        max_events: int,
        max_bytes: int,
    ) -> EventPage:
        self.reads += 1
        if from_revision < self.compact_revision:
            raise CompactedError("gone", self.compact_revision)
        events: list[Event] = []
        size = 0
        keys = KeyRange(start, end)
        for revision in range(from_revision, self.revision + 1):
            group = [
                (event, len(body))
                for body in self.bodies.get(revision, [])
                if keys.holds((event := event_of(body)).kv.key)
            ]
            size += sum(length for _, length in group)
            if events and (len(events) + len(group) > max_events or size > max_bytes):
                return EventPage(events, revision)
            events += [event for event, _ in group]
        return EventPage(events, max(from_revision, self.revision + 1))


class Desk:
    """A hub with its log, and short words for what tests do."""

    def __init__(self, **limits: int) -> None:
        self.log = Log()
        self.encoded: list[tuple[int, bytes, bool]] = []
        self.hub = WatchHub(self._encode, revision=1, limits=WatchLimits(**limits))

    def _encode(self, event: Event, with_prev: bool) -> bytes:
        self.encoded.append((event.kv.mod_revision, event.kv.key, with_prev))
        return encode(event, with_prev)

    def commit(self, *changes: Change) -> int:
        bodies = self.log.write(changes)
        self.hub.committed(self.log.revision, bodies)
        return self.log.revision

    def watch(self, keys: KeyRange = EVERYTHING, start_revision: int = 0, **wishes: bool) -> int:
        answer = self.hub.create(WatchRequest(keys, start_revision, **wishes), 0.0)
        assert isinstance(answer, Created)
        assert answer.revision == self.hub.revision
        return answer.identity

    def compact(self, revision: int) -> None:
        self.log.compact_revision = revision
        self.hub.compacted(revision)

    def step(self, **budget: int) -> bool:
        return self.hub.step(self.log.read, StepBudget(**budget))

    def settle(self) -> None:
        for _ in range(1_000):
            if not self.step():
                return
        raise AssertionError("catching up does not end")

    def messages(self, identity: int) -> list[Message]:
        taken = self.hub.take(identity)
        self.hub.room(identity)
        return taken

    def events(self, identity: int) -> list[list[bytes]]:
        """The messages taken now, which are all of events."""
        taken = self.messages(identity)
        assert all(isinstance(message, EventBatch) for message in taken), taken
        return [list(message.parts) for message in taken if isinstance(message, EventBatch)]

    def end(self, identity: int) -> Cancelled:
        """The only message left, after which the watcher is gone."""
        (message,) = self.messages(identity)
        assert isinstance(message, Cancelled)
        assert self.hub.cancel(identity) is False
        return message

    def states(self) -> tuple[int, int, int, int, int]:
        """future, synced, catching up, victims, ended."""
        return self.hub.statistics()[:5]


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture
def make_desk() -> Callable[..., Desk]:
    return Desk
