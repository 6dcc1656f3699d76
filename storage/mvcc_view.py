"""Reading a shard: one key or a range, now or at an old revision, through overlay and engine.

A View knows a stack of layers (mvcc_overlay.py), where to get a reader of the committed state, and
the shard's counters and segments. It holds no reader, not even between two rows that it reads: the
source may give a newer one, and end the old one, each time. So a long walk pins nothing; what makes
it consistent is the revision that all its calls name.

Contract with the owner: once a layer was dropped, the source must give readers that see the batch
in which it was written.

Ranges are start <= key < end; `end=None` is unbounded. A revision <= 0 means the newest. Asking for
keys outside the shard is an error, never an answer that silently leaves something out.

How a range is read: the engine gives a page of current records; the layers' keys of the same
stretch are laid over it; each record is then followed back to the revision asked for
(mvcc_history.py), and tombstones are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

from storage.codec import (
    KEY_MAX_BYTES,
    Table,
    check_key,
    key_u32,
    key_u32_u64,
    key_u64_u64_u32,
    prefix_end,
    unseal,
)
from storage.engine import Reader
from storage.errors import CorruptRecordError, KeyRange, WrongShardError
from storage.mvcc_history import record_at
from storage.mvcc_overlay import Layer
from storage.mvcc_recent import Recent
from storage.mvcc_records import (
    TOMBSTONE,
    Fields,
    KeyValue,
    event_key_of,
    fields_each,
    key_value,
    mod_of,
    value_size,
)
from storage.mvcc_state import Segments, ShardState

ReaderSource = Callable[[], Reader]

DEFAULT_RANGE_BYTES: Final = 4 * 1024 * 1024
PAGE_BYTES: Final = 1024 * 1024
PAGE_KEYS: Final = 1_000
FIRST_PAGE_KEYS: Final = 64


class RangePage(NamedTuple):
    """Items in the order asked for. If `more`, go on with `resume` as start (as end if reverse) at
    the same revision; it may turn out that nothing is left, if `max_examined` ended the page."""

    items: list[KeyValue]
    more: bool
    resume: bytes | None


class CountPage(NamedTuple):
    """Keys counted. If `resume` is set, count on from there and add."""

    total: int
    resume: bytes | None


class RangeResult(NamedTuple):
    """A range as etcd answers it: `total` is of the whole range, whatever the limit."""

    items: list[KeyValue]
    more: bool
    total: int


class View:
    __slots__ = ("_prefix", "end", "layers", "recent", "segments", "source", "start", "state")

    def __init__(
        self,
        source: ReaderSource,
        layers: tuple[Layer, ...],
        state: ShardState,
        segments: Segments,
        recent: Recent,
    ) -> None:
        self.source = source
        self.recent = recent
        self.layers = layers
        """Newest first."""
        self.state = state
        self.segments = segments
        self._prefix = key_u32(Table.CURRENT, state.keyspace)
        self.start: Final = segments.own.start
        self.end: Final = segments.own.end if not state.frozen_by else b""  # it holds no key then
        """It holds start <= key < end."""

    # --- one key ---

    def get(self, key: bytes, revision: int = 0) -> KeyValue | None:
        if not 0 < len(key) <= KEY_MAX_BYTES:
            check_key(key)
        if key < self.start or (self.end is not None and key >= self.end):
            raise self.wrong_shard(f"key {key!r} is")
        if revision > 0:
            self.state.check_readable(revision)
        body = self.newest(key)
        if body is not None and 0 < revision < mod_of(body):
            body = record_at(key, body, revision, self.load_event)
        if body is None or body[0] >= TOMBSTONE:
            return None
        return key_value(key, body)

    def get_each(self, keys: Sequence[bytes]) -> Sequence[Fields | None]:
        """What `get` gives for each of these at the newest revision. Raises if it does for one."""
        start, end = self.start, self.end
        if (
            not all(keys)
            or max(map(len, keys)) > KEY_MAX_BYTES
            or (start and min(keys) < start)
            or (end is not None and max(keys) >= end)
        ):
            return [self.get(key) for key in keys]  # one of them cannot be right
        young, old = self.recent.young.get, self.recent.old.get
        bodies = [young(key) or old(key) for key in keys]  # nearly all `newest` would find here
        if not all(bodies):
            bodies = [body or self.newest(key) for key, body in zip(keys, bodies, strict=True)]
        return fields_each(keys, bodies)

    def newest(self, key: bytes) -> bytes | None:
        """The newest record, which may be a tombstone, but not one that compaction has passed:
        whether its row was removed yet must not make a difference to anything."""
        recent = self.recent
        body = recent.young.get(key) or recent.old.get(key)
        if body is None:
            body = self._look_up(key)
            if body is None:
                return None
            recent.know(key, body)
        if body[0] >= TOMBSTONE and mod_of(body) <= self.state.compact_revision:
            return None
        return body

    def _look_up(self, key: bytes) -> bytes | None:
        for layer in self.layers:
            body = layer.current.get(key)
            if body is not None:
                return body
        stored = self._prefix + key
        record = self.source().get(stored)
        return None if record is None else unseal(stored, record)

    def load_event(self, key: bytes, revision: int, sub: int) -> bytes:
        """The event body at a place, which must be there and be this key's."""
        body: bytes | None
        for layer in self.layers:
            if revision > layer.base:
                stored = key_u64_u64_u32(Table.EVENT, layer.segment, revision, sub)
                body = layer.event(revision, sub)
                break
        else:
            segment = self.segments.locate(key, revision)
            assert segment is not None, f"no segment holds {key!r} at revision {revision}"
            stored = key_u64_u64_u32(Table.EVENT, segment, revision, sub)
            record = self.source().get(stored)
            body = None if record is None else unseal(stored, record)
        if body is None or event_key_of(body) != key:
            raise CorruptRecordError(
                f"the event {stored!r} of key {key!r} at revision {revision} is "
                f"{'missing' if body is None else 'of another key'}; restore this replica from "
                "another one or from a backup",
                stored,
            )
        return body

    # --- ranges ---

    def range(
        self,
        start: bytes,
        end: bytes | None,
        revision: int = 0,
        *,
        limit: int = 0,
        max_bytes: int = DEFAULT_RANGE_BYTES,
        max_examined: int = 0,
        reverse: bool = False,
        keys_only: bool = False,
    ) -> RangePage:
        """A page of a range: at most `limit` items (0: any number) and `max_bytes` of keys and
        values, but at least one item; `max_examined` (0: any number) bounds the work where many
        records are tombstones or newer than the revision."""
        items: list[KeyValue] = []
        size = examined = 0
        for key, body in self.records(start, end, revision, limit=limit, reverse=reverse):
            if 0 < max_examined <= examined:
                return RangePage(items, True, key + b"\x00" if reverse else key)
            examined += 1
            if body is None:
                continue
            size += len(key) + (0 if keys_only else value_size(body))
            if items and (size > max_bytes or 0 < limit <= len(items)):
                return RangePage(items, True, key + b"\x00" if reverse else key)
            items.append(key_value(key, body, keys_only))
        return RangePage(items, False, None)

    def count(
        self, start: bytes, end: bytes | None, revision: int = 0, *, max_examined: int = 0
    ) -> CountPage:
        """Keys of the range at the revision, or of as much of it as `max_examined` allows."""
        total = 0
        records = self.records(start, end, revision, limit=PAGE_KEYS)
        for examined, (key, body) in enumerate(records):
            if 0 < max_examined <= examined:
                return CountPage(total, key)
            if body is not None:
                total += 1
        return CountPage(total, None)

    def read_range(
        self,
        start: bytes,
        end: bytes | None,
        revision: int = 0,
        *,
        limit: int = 0,
        reverse: bool = False,
        keys_only: bool = False,
        count_only: bool = False,
    ) -> RangeResult:
        """A whole range at once, with its count, unbounded in bytes and work."""
        if count_only:
            return RangeResult([], False, self.count(start, end, revision).total)
        page = self.range(
            start,
            end,
            revision,
            limit=limit,
            max_bytes=2**63,
            reverse=reverse,
            keys_only=keys_only,
        )
        total = len(page.items)
        if page.more:
            low, high = (start, page.resume) if reverse else (page.resume or b"", end)
            total += self.count(low, high, revision).total
        return RangeResult(page.items, page.more, total)

    def records(
        self,
        start: bytes,
        end: bytes | None,
        revision: int = 0,
        *,
        limit: int = 0,
        reverse: bool = False,
    ) -> Iterator[tuple[bytes, bytes | None]]:
        """Every key of the range that has a row, with its record at the revision; None if it did
        not exist then. `limit` only says how many are likely to be wanted."""
        start, end = _clip(start), None if end is None else _clip(end)
        if end is not None and end <= start:
            return
        self.check_owns(start, end)
        if revision > 0:
            self.state.check_readable(revision)
        else:
            revision = 2**64
        load = self.load_event
        page_keys = min(limit + 1, PAGE_KEYS) if limit > 0 else FIRST_PAGE_KEYS
        for page in self._pages(start, end, reverse, page_keys):
            for key, newest in page:
                body: bytes | None = newest
                if mod_of(newest) > revision:
                    body = record_at(key, newest, revision, load)
                yield key, None if body is None or body[0] >= TOMBSTONE else body

    def _pages(
        self, start: bytes, end: bytes | None, reverse: bool, page_keys: int
    ) -> Iterator[list[tuple[bytes, bytes]]]:
        """The newest records of a range, tombstones included, in bounded pages."""
        prefix = self._prefix
        skip = len(prefix)
        while True:
            high = prefix_end(prefix) if end is None else prefix + end
            page = self.source().scan(
                prefix + start, high, reverse=reverse, limit=page_keys, max_bytes=PAGE_BYTES
            )
            items = [(stored[skip:], unseal(stored, record)) for stored, record in page.items]
            edge = items[-1][0] if page.more else None
            items, edge = self._overlay(items, start, end, edge, reverse, page_keys)
            yield items
            if edge is None:
                return
            if reverse:
                end = edge
            else:
                start = edge + b"\x00"
            page_keys = min(page_keys * 4, PAGE_KEYS)

    def _overlay(
        self,
        items: list[tuple[bytes, bytes]],
        start: bytes,
        end: bytes | None,
        edge: bytes | None,
        reverse: bool,
        limit: int,
    ) -> tuple[list[tuple[bytes, bytes]], bytes | None]:
        """Lay the layers over a page of the engine. `edge` is the last key up to which the page is
        complete (None: it is complete to the end); a layer with many keys draws it nearer."""
        found: list[tuple[Layer, list[bytes]]] = []
        for layer in self.layers:
            if layer.current:
                keys = layer.window(start, end, edge, reverse, limit)
                if len(keys) == limit:
                    edge = keys[-1]
                if keys:
                    found.append((layer, keys))
        if not found:
            return items, edge
        merged = dict(items)
        for layer, keys in reversed(found):
            current = layer.current
            for key in keys:
                merged[key] = current[key]
        order = sorted(merged, reverse=reverse)
        if edge is not None:
            while order and (order[-1] < edge if reverse else order[-1] > edge):
                order.pop()
        return [(key, merged[key]) for key in order], edge

    # --- leases ---

    def lease_keys(
        self, lease: int, after: bytes | None = None, *, limit: int = PAGE_KEYS
    ) -> list[bytes]:
        """The next keys of this shard attached to a lease, in order: those behind `after`. Fewer
        than `limit` means that there are no more."""
        own = self.segments.own
        start = own.start if after is None else max(own.start, after + b"\x00")
        prefix = key_u32_u64(Table.LEASE_KEY, self.state.keyspace, lease)
        high = prefix_end(prefix) if own.end is None else prefix + own.end
        assert high is not None
        changes: dict[bytes, bool] = {}
        for layer in reversed(self.layers):
            changes.update(layer.leases.get(lease, {}))
        # Each change can hide at most one row, so this many rows are surely enough.
        wanted = limit + len(changes)
        page = self.source().scan(prefix + start, high, limit=wanted, max_bytes=2**63)
        for stored, record in page.items:
            unseal(stored, record)
        keys = {stored[len(prefix) :] for stored, _ in page.items}
        edge = page.items[-1][0][len(prefix) :] if page.more else None
        for key, attached in changes.items():
            if key < start or (edge is not None and key > edge) or not own.holds_key(key):
                continue
            if attached:
                keys.add(key)
            else:
                keys.discard(key)
        return sorted(keys)[:limit]

    # --- what belongs here ---

    def check_owned(self, key: bytes) -> None:
        if key < self.start or (self.end is not None and key >= self.end):
            raise self.wrong_shard(f"key {key!r} is")

    def check_owns(self, start: bytes, end: bytes | None) -> None:
        high = self.end
        if start < self.start or (high is not None and (end is None or end > high)):
            raise self.wrong_shard(f"the range from {start!r} to {end!r} is")

    def wrong_shard(self, what: str) -> WrongShardError:
        place = self.place
        if place.frozen:
            return WrongShardError(
                f"{what} within shard {self.state.shard}, which is being merged into another one; "
                "try again",
                place,
            )
        return WrongShardError(
            f"{what} not within shard {self.state.shard}, which holds {place.start!r} to "
            f"{'the end' if place.end is None else repr(place.end)}; look the shard up again",
            place,
        )

    @property
    def place(self) -> KeyRange:
        own, state = self.segments.own, self.state
        return KeyRange(own.start, own.end, state.epoch, bool(state.frozen_by))


def _clip(bound: bytes) -> bytes:
    """A bound that is longer than any key, as one that an engine takes and that cuts alike."""
    return bound if len(bound) <= KEY_MAX_BYTES else bound[:KEY_MAX_BYTES] + b"\x00"
