"""Watches: the query to a WatchRequest, messages of the hub to lines. Pure.

An event is encoded once for all its watchers, as eight bytes of its revision and its JSON
(`encode_event`). What a batch becomes is made once, too, and kept with it (`EventBatch.made`): the
lines of all its revisions, for either kind of stream.

    NDJSON   {"type":"created","revision":7}
             {"type":"events","revision":8,"events":[{"type":"put","key":"a",...}]}
    SSE      id: 8                         where `Last-Event-ID` goes on from
             data: the same JSON

One line is one revision, whole: whoever has read it has seen everything that happened at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from typing import Any, Final

import msgspec

from kv.api.failures import InvalidHeaderError, InvalidQueryError
from kv.api.hot import encode
from kv.api.live_bodies import Previous, WatchEvent, WatchLine
from kv.api.text import shown
from kv.watch.index import EVERYTHING, KeyRange, key_range, one_key, with_prefix
from kv.watch.messages import Cancelled, EventBatch, Message, Progress
from kv.watch.watcher import WatchRequest
from storage.codec import check_key
from storage.mvcc_records import Event

REVISION_BYTES: Final = 8
NDJSON: Final = "application/x-ndjson"
SSE: Final = "text/event-stream"
_REVISION_MAX: Final = 2**63 - 1
CURSOR_BEGINS: Final = "l"
"""Of a cursor of kv/watch/position.py: its first byte is that of a list of six."""


# --- the request -----------------------------------------------------------------------------


def watch_of(query: Mapping[str, Any], last_event_id: str | None = None) -> WatchRequest:
    """Raises InvalidQueryError, InvalidHeaderError and what check_key raises. Where a cursor says
    more, `cursor_of` gives it."""
    start = query["from"] or 0
    if last_event_id is not None and not is_cursor(last_event_id):
        start = after_event(last_event_id)
    only = query["filter"]
    return WatchRequest(
        keys=keys_of(query),
        start_revision=start,
        no_put=only == "delete",
        no_delete=only == "put",
        prev_kv=query["prev"],
        progress=query["progress"],
    )


def cursor_of(query: Mapping[str, Any], last_event_id: str | None = None) -> str | None:
    """Raises InvalidQueryError."""
    cursor: str | None = query["cursor"]
    if last_event_id is not None and is_cursor(last_event_id):
        return last_event_id.strip()
    if last_event_id is not None:
        return None
    if cursor is not None and query["from"]:
        raise InvalidQueryError("give from= or cursor=, not both: each says where to begin")
    return cursor or None


def is_cursor(text: str) -> bool:
    """Of an event's id: the other ones are revisions."""
    text = text.strip()
    return text.startswith(CURSOR_BEGINS) and not text.isdigit()


def keys_of(query: Mapping[str, Any]) -> KeyRange:
    key, prefix, start, end = (query[name] for name in ("key", "prefix", "start", "end"))
    ways = (key is not None) + (prefix is not None) + (start is not None or end is not None)
    if ways != 1:
        raise InvalidQueryError(
            "a watch needs key=, or prefix= (empty: all keys), or start= and end=; give one of them"
        )
    if key is not None:
        check_key(key)
        return one_key(key)
    if prefix is not None:
        return with_prefix(prefix) if prefix else EVERYTHING
    return key_range(start or b"", end or None)


def after_event(text: str) -> int:
    """Where a stream goes on that was told everything up to this id."""
    text = text.strip()
    if not (text.isascii() and text.isdigit() and int(text[:20]) < _REVISION_MAX):
        raise InvalidHeaderError(
            f"Last-Event-ID is {text[:40]!r}; give the id of the last event received, a revision"
        )
    return int(text) + 1


# --- events ----------------------------------------------------------------------------------


def encode_event(event: Event, with_prev: bool) -> bytes:
    """The hub's `Encode`."""
    record = event.kv
    key, key_mark = shown(record.key)
    kind: Any = "delete" if event.is_delete else "put"
    line = WatchEvent(kind, key, record.mod_revision, record.modified_ms, key_encoding=key_mark)
    if not event.is_delete:
        line.value, line.encoding = shown(record.value)
        if record.lease:
            line.lease = str(record.lease)
    if with_prev and event.prev is not None:
        value, mark = shown(event.prev.value)
        line.prev = Previous(value, event.prev.mod_revision, event.prev.modified_ms, mark)
    return record.mod_revision.to_bytes(REVISION_BYTES, "big") + encode(line)


class Lines:
    """What a batch becomes, made at most once a form."""

    __slots__ = ("_framed", "_ndjson", "_sse", "revisions")

    def __init__(self, batch: EventBatch) -> None:
        self.revisions: Final = _revisions(batch.parts)
        """(revision, its events as a JSON array)."""
        self._ndjson: bytes | None = None
        self._sse: bytes | None = None
        self._framed: list[bytes | None] = [None, None]

    def ndjson(self) -> bytes:
        if self._ndjson is None:
            self._ndjson = b"".join(
                [_events_line(*revision) + b"\n" for revision in self.revisions]
            )
        return self._ndjson

    def sse(self) -> bytes:
        if self._sse is None:
            self._sse = b"".join(
                [
                    b"id: %d\ndata: %b\n\n" % (revision, _events_line(revision, events))
                    for revision, events in self.revisions
                ]
            )
        return self._sse

    def framed(self, sse: bool) -> bytes:
        """The lines as a chunk of HTTP/1.1."""
        made = self._framed[sse]
        if made is None:
            made = self._framed[sse] = http_chunk(self.sse() if sse else self.ndjson())
        return made


def http_chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _revisions(parts: tuple[bytes, ...]) -> list[tuple[int, bytes]]:
    if len(parts) == 1:  # by far the most frequent
        (part,) = parts
        return [(int.from_bytes(part[:REVISION_BYTES], "big"), b"[%b]" % part[REVISION_BYTES:])]
    return [
        (
            int.from_bytes(revision, "big"),
            b"[%b]" % b",".join([part[REVISION_BYTES:] for part in group]),
        )
        for revision, group in groupby(parts, key=lambda part: part[:REVISION_BYTES])
    ]


def _events_line(revision: int, events: bytes) -> bytes:
    return b'{"type":"events","revision":%d,"events":%b}' % (revision, events)


def lines_of(batch: EventBatch) -> Lines:
    made = batch.made
    if not isinstance(made, Lines):
        made = batch.made = Lines(batch)
    return made


# --- lines -----------------------------------------------------------------------------------


def created_line(revision: int, told: int, sse: bool) -> bytes:
    """The first line. `told`: up to where the caller needs nothing more."""
    return framed_line(WatchLine("created", revision=revision), told if sse else None)


def chunk_of(message: Message, sse: bool) -> bytes:
    """As `line_of`, in a chunk of its own."""
    if isinstance(message, EventBatch):
        return lines_of(message).framed(sse)
    return http_chunk(line_of(message, sse))


def line_of(message: Message, sse: bool) -> bytes:
    if isinstance(message, EventBatch):
        lines = lines_of(message)
        return lines.sse() if sse else lines.ndjson()
    if isinstance(message, Progress):
        revision = message.revision
        return framed_line(WatchLine("progress", revision=revision), revision if sse else None)
    return framed_line(cancelled_line(message), -1 if sse else None)


def cancelled_line(message: Cancelled) -> WatchLine:
    line = WatchLine("cancelled", reason=message.reason.value, message=message.message)
    if message.compact_revision:
        line.compact_revision = message.compact_revision
    return line


def framed_line(line: object, event_id: int | str | None) -> bytes:
    """`event_id`: None for NDJSON; -1 or empty: an event that moves nothing."""
    body = encode(line)
    if event_id is None:
        return body + b"\n"
    if event_id in (-1, ""):
        return b"data: %b\n\n" % body
    return b"id: %b\ndata: %b\n\n" % (str(event_id).encode(), body)


def poll_body(batches: list[EventBatch], following: int) -> bytes:
    events = [
        msgspec.Raw(b'{"revision":%d,"events":%b}' % revision)
        for batch in batches
        for revision in lines_of(batch).revisions
    ]
    return encode({"events": events, "next": following})
