"""One atomic write of a shard: several operations that take effect at one revision, or not at all.

The operations go into a layer of their own on top of the shard's (mvcc_overlay.py). Reads through
the scope see it, nobody else does. `commit` gives the layer to the shard, `abort` drops it; a scope
in which nothing changed commits without taking a revision. As a context manager it commits, or
aborts if an exception leaves the block.

Each change gets the next `sub` of the revision; a key may change more than once, and each change is
an event. What the previous record was is returned by every operation.
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
    pack_event,
    put_record,
    tombstone_record,
)
from storage.mvcc_view import View


class WriteScope:
    __slots__ = ("_finish", "_layer", "_open", "revision", "view")

    def __init__(self, view: View, finish: Callable[[Layer | None], None]) -> None:
        self._finish = finish
        self._layer = Layer(view.state.revision)
        self._layer.starts.append(0)
        self._open = True
        self.revision = view.state.revision + 1
        """The revision of this scope's changes, if it makes any."""
        self.view = View(view.source, (self._layer, *view.layers), view.state, view.segments)
        """Reads that see this scope's changes as the newest; explicit revisions are those before
        the scope."""

    @property
    def changed(self) -> bool:
        return bool(self._layer.events)

    def put(self, key: bytes, value: bytes, lease: int = 0) -> KeyValue | None:
        """Set a key; a lease of 0 detaches it from the one it had. Returns the previous record."""
        if not 0 < len(key) <= KEY_MAX_BYTES or len(value) > VALUE_MAX_BYTES:
            check_key(key)
            check_value(value)
        self.view.check_owned(key)
        previous = self.view.newest(key)
        layer = self._layer
        new = put_record(previous, value, lease, self.revision, len(layer.events))
        self._change(key, new, previous)
        old_lease = 0 if previous is None else lease_of(previous)
        if old_lease != lease:
            self._attach(old_lease, key, False)
            self._attach(lease, key, True)
        if previous is None or previous[0] >= TOMBSTONE:
            return None
        return key_value(key, previous)

    def delete(self, key: bytes) -> KeyValue | None:
        """Remove a key. Returns the previous record; None if there was nothing to remove."""
        check_key(key)
        self.view.check_owned(key)
        previous = self.view.newest(key)
        if previous is None or previous[0] >= TOMBSTONE:
            return None
        return self._delete(key, previous)

    def delete_range(self, start: bytes, end: bytes | None) -> list[KeyValue]:
        """Remove every key of start <= key < end, in order. Returns the previous records."""
        found = [(key, body) for key, body in self.view.records(start, end) if body is not None]
        return [self._delete(key, body) for key, body in found]

    def _delete(self, key: bytes, previous: bytes) -> KeyValue:
        new = tombstone_record(previous, self.revision, len(self._layer.events))
        self._change(key, new, previous)
        self._attach(lease_of(previous), key, False)
        return key_value(key, previous)

    def _change(self, key: bytes, new: bytes, previous: bytes | None) -> None:
        assert self._open, "this write scope was committed or aborted"
        self._layer.current[key] = new
        self._layer.events.append(pack_event(key, new, previous))

    def _attach(self, lease: int, key: bytes, attached: bool) -> None:
        if lease:
            self._layer.leases.setdefault(lease, {})[key] = attached

    def commit(self) -> int:
        """All changes take effect. Returns the shard's revision."""
        assert self._open
        self._open = False
        self._finish(self._layer if self._layer.events else None)
        return self.view.state.revision

    def abort(self) -> None:
        """No change takes effect."""
        assert self._open
        self._open = False
        self._finish(None)

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
