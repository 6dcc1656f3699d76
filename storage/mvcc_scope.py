"""One atomic write of a shard: several operations that take effect at one revision, or not at all.

The operations change the shard's active layer in place (mvcc_overlay.py), so each sees the ones
before it. `commit` keeps them, `abort` undoes them; a scope in which nothing changed commits
without taking a revision. As a context manager it commits, or aborts if an exception leaves the
block. A scope is opened and closed within one step of the caller: whoever reads the shard while it
is open sees its changes as the newest (a revision given explicitly is one before the scope).

Each change gets the next `sub` of the revision; a key may change more than once, and each change is
an event. The records of all of them carry the scope's wall time.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType

from storage.codec import KEY_MAX_BYTES, VALUE_MAX_BYTES, check_key, check_value
from storage.mvcc_overlay import Layer
from storage.mvcc_records import (
    TOMBSTONE,
    KeyValue,
    key_value,
    lease_of,
    put_record,
    tombstone_record,
)
from storage.mvcc_view import View


class WriteScope:
    __slots__ = ("_finish", "_first", "_layer", "_open", "keys", "revision", "view", "wall_ms")

    def __init__(self, view: View, finish: Callable[[bool, int], None], wall_ms: int) -> None:
        self._finish = finish
        self._layer: Layer = view.layers[0]
        self._first = len(self._layer.events)
        self._open = True
        self._layer.open_revision()
        self.revision = view.state.revision + 1
        """The revision of this scope's changes, if it makes any."""
        self.keys = 0
        """How many more keys there are by these changes."""
        self.view = view
        self.wall_ms = wall_ms

    @property
    def changed(self) -> bool:
        return len(self._layer.events) > self._first

    def put(
        self, key: bytes, value: bytes, lease: int = 0, *, want_previous: bool = False
    ) -> KeyValue | None:
        """Set a key; a lease of 0 detaches it from the one it had. Returns the previous record if
        it is wanted and there is one (decoding it costs half a microsecond)."""
        assert self._open, "this write scope was committed or aborted"
        if not 0 < len(key) <= KEY_MAX_BYTES or len(value) > VALUE_MAX_BYTES:
            check_key(key)
            check_value(value)
        view = self.view
        view.check_owned(key)
        previous = view.newest(key)
        layer = self._layer
        sub = len(layer.events) - self._first
        compacted = view.state.compact_revision
        new = put_record(previous, value, lease, self.revision, sub, compacted, self.wall_ms)
        layer.change(key, new, previous)
        view.recent.know(key, new)
        if previous is None:
            self.keys += view.state.counts(key)
            layer.attach(lease, key, True)
            return None
        if previous[0] >= TOMBSTONE:
            self.keys += view.state.counts(key)
        old_lease = lease_of(previous)
        if old_lease != lease:
            layer.attach(old_lease, key, False)
            layer.attach(lease, key, True)
        return key_value(key, previous) if want_previous and previous[0] < TOMBSTONE else None

    def delete(self, key: bytes) -> KeyValue | None:
        """Remove a key. Returns the previous record; None if there was nothing to remove."""
        assert self._open, "this write scope was committed or aborted"
        check_key(key)
        self.view.check_owned(key)
        previous = self.view.newest(key)
        if previous is None or previous[0] >= TOMBSTONE:
            return None
        return self._delete(key, previous)

    def delete_range(self, start: bytes, end: bytes | None) -> list[KeyValue]:
        """Remove every key of start <= key < end, in order. Returns the previous records."""
        assert self._open, "this write scope was committed or aborted"
        found = [(key, body) for key, body in self.view.records(start, end) if body is not None]
        return [self._delete(key, body) for key, body in found]

    def _delete(self, key: bytes, previous: bytes) -> KeyValue:
        layer = self._layer
        sub = len(layer.events) - self._first
        compacted = self.view.state.compact_revision
        new = tombstone_record(previous, self.revision, sub, compacted, self.wall_ms)
        layer.change(key, new, previous)
        self.view.recent.know(key, new)
        self.keys -= self.view.state.counts(key)
        layer.attach(lease_of(previous), key, False)
        return key_value(key, previous)

    def commit(self) -> int:
        """All changes take effect. Returns the shard's revision."""
        assert self._open, "this write scope was committed or aborted"
        self._open = False
        self._finish(self._layer.close_revision(), self.keys)
        return self.view.state.revision

    def abort(self) -> None:
        """No change takes effect."""
        assert self._open, "this write scope was committed or aborted"
        self._open = False
        for key in self._layer.roll_back():
            self.view.recent.drop(key)
        self._finish(False, 0)

    def __enter__(self) -> WriteScope:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._open:
            return
        if kind is None:
            self.commit()
        else:
            self.abort()
