"""What a watcher is given: events, progress, the end.

An event is encoded when its first watcher takes it, once without and once with the previous record,
and never on the way of a commit; all watchers share the bytes. The hub counts raw sizes, which it
knows without decoding anything: what the encoder makes of them (base64, field names) is the edge's.

    SharedEvent     one change; decodes and encodes itself at most once a form
    EventBatch      the events of one revision, or in catch-up of several whole ones, for all
                    watchers of one range with the same wishes; they all get the same object
    Progress        everything of this watcher up to `revision` was in messages before this one
    Cancelled       the last message of a watcher that did not cancel itself

Invariant: the events of a batch are in the order of their revisions, each revision whole, unless
`more` says that the next batch goes on with the same revision (only for watchers that asked for
fragments).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum
from itertools import groupby
from operator import attrgetter
from typing import Final, NamedTuple

from storage.mvcc_records import (
    EVENT_HEAD,
    EVENT_HEAD_BYTES,
    HEAD_BYTES,
    TOMBSTONE,
    Event,
    KeyValue,
    event_of,
)

_REVISION: Final = attrgetter("revision")

Encode = Callable[[Event, bool], bytes]
"""(event, with its previous record) -> the bytes that go out."""


class CancelReason(StrEnum):
    COMPACTED = "compacted"
    LIMIT = "limit"
    INVALID = "invalid"
    CLOSED = "closed"
    SPLIT = "split"
    """Its keys lie in more than one shard."""


class SharedEvent:
    __slots__ = ("_body", "_encode", "_event", "_forms", "is_delete", "key", "revision", "sizes")

    def __init__(
        self,
        encode: Encode,
        revision: int,
        key: bytes,
        is_delete: bool,
        sizes: tuple[int, int],
        body: bytes | None,
        event: Event | None,
    ) -> None:
        self._encode = encode
        self._body = body
        self._event = event
        self._forms: list[bytes | None] = [None, None]
        self.revision = revision
        self.key = key
        self.is_delete = is_delete
        self.sizes = sizes
        """Raw bytes without and with the previous record."""

    @classmethod
    def of_body(cls, encode: Encode, revision: int, key: bytes, body: bytes) -> SharedEvent:
        """An event as the machine's observer gets it, whose key the caller has read already."""
        _, new_bytes = EVENT_HEAD.unpack_from(body)
        plain = len(key) + new_bytes
        is_delete = body[EVENT_HEAD_BYTES + len(key)] >= TOMBSTONE
        return cls(encode, revision, key, is_delete, (plain, len(body)), body, None)

    @classmethod
    def of_event(cls, encode: Encode, event: Event) -> SharedEvent:
        """An event as the event log gives it."""
        record = event.kv
        plain = _raw_size(record)
        whole = plain + (0 if event.prev is None else _raw_size(event.prev))
        return cls(
            encode, record.mod_revision, record.key, event.is_delete, (plain, whole), None, event
        )

    def encoded(self, with_prev: bool) -> bytes:
        form = self._forms[with_prev]
        if form is None:
            if self._event is None:
                assert self._body is not None
                self._event = event_of(self._body)
                self._body = None
            form = self._forms[with_prev] = self._encode(self._event, with_prev)
        return form


def _raw_size(record: KeyValue) -> int:
    return HEAD_BYTES + len(record.key) + len(record.value)


class EventBatch:
    __slots__ = (
        "_events",
        "_parts",
        "_with_prev",
        "count",
        "first_revision",
        "holders",
        "made",
        "more",
        "revision",
        "size_bytes",
    )

    def __init__(self, events: Sequence[SharedEvent], with_prev: bool) -> None:
        assert events
        self._events: Sequence[SharedEvent] | None = events
        self._with_prev = with_prev
        self._parts: tuple[bytes, ...] | None = None
        self.first_revision: Final = events[0].revision
        self.revision: Final = events[-1].revision
        """The last one in it: resume from the next."""
        self.count: Final = len(events)
        self.size_bytes: Final = sum([event.sizes[with_prev] for event in events])
        self.more = False
        """The next batch goes on with the same revisions (a fragment)."""
        self.holders = 0
        """Outboxes that it is in; for the hub only."""
        self.made: object = None
        """For the edge: what it made of the parts, once for all watchers that get this batch."""

    @property
    def parts(self) -> tuple[bytes, ...]:
        """Each event encoded, in order."""
        if self._parts is None:
            assert self._events is not None
            self._parts = tuple([event.encoded(self._with_prev) for event in self._events])
        return self._parts

    @property
    def revisions(self) -> list[tuple[int, tuple[bytes, ...]]]:
        """Each revision with its events encoded, in order."""
        assert self._events is not None
        found: list[tuple[int, tuple[bytes, ...]]] = []
        parts = self.parts
        at = 0
        for revision, group in groupby(self._events, key=_REVISION):
            count = len(list(group))
            found.append((revision, parts[at : at + count]))
            at += count
        return found

    def fragments(self, size_bytes: int) -> list[EventBatch]:
        """Pieces of at most that many encoded bytes, or of one event that is larger alone."""
        assert self._events is not None
        pieces: list[list[SharedEvent]] = [[]]
        size = 0
        for event, part in zip(self._events, self.parts, strict=True):
            if pieces[-1] and size + len(part) > size_bytes:
                pieces.append([])
                size = 0
            pieces[-1].append(event)
            size += len(part)
        if len(pieces) == 1:
            return [self]
        batches = [EventBatch(piece, self._with_prev) for piece in pieces]
        for batch in batches[:-1]:
            batch.more = True
        return batches


class Progress(NamedTuple):
    revision: int


class Cancelled(NamedTuple):
    """`compact_revision` is set only if the watcher needed a revision that was compacted: it may
    begin again from there, having missed what was before."""

    reason: CancelReason
    message: str
    compact_revision: int = 0


Message = EventBatch | Progress | Cancelled
