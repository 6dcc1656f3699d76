"""The reference engine: a sorted map in memory.

It is what the other engines are compared with and what the simulator runs on, so it is exact and
deterministic rather than clever. Nothing survives the process; `sync` changes nothing.

Snapshots cost nothing until a key changes: each live snapshot keeps an undo map of the keys that
changed after it was opened (key -> the value it had then, or None if it was absent). A get looks
there first; a scan merges the undone keys with the present ones.

A checkpoint is one file of length-framed pairs; `MemoryEngine.load(directory)` reads it back.
"""

from __future__ import annotations

import os
import struct
import threading
import weakref
from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from storage import files
from storage.clock import Clock
from storage.engine import (
    DEFAULT_SCAN_BYTES,
    DEFAULT_SCAN_LIMIT,
    DEFAULT_SNAPSHOT_MAX_AGE_S,
    Batch,
    EngineStatistics,
    Op,
    ScanPage,
)
from storage.errors import EngineClosedError, SnapshotExpiredError
from storage.system_clock import SystemClock

_FRAME: Final = struct.Struct(">II")
CHECKPOINT_NAME: Final = "memory.pairs"


class MemorySnapshot:
    """Reads of one moment. Invariant: `undo` has every key changed since, with its old value."""

    __slots__ = ("__weakref__", "_ended", "_engine", "deadline", "opened_at", "undo")

    def __init__(self, engine: MemoryEngine, opened_at: float, deadline: float) -> None:
        self._engine = engine
        self._ended: Exception | None = None
        self.opened_at = opened_at
        self.deadline = deadline
        self.undo: dict[bytes, bytes | None] = {}

    def get(self, key: bytes, /) -> bytes | None:
        with self._engine.lock:
            if self._ended is not None:
                raise self._ended
            if key in self.undo:
                return self.undo[key]
            return self._engine.values.get(key)

    def scan(
        self,
        start: bytes = b"",
        end: bytes | None = None,
        *,
        reverse: bool = False,
        limit: int = DEFAULT_SCAN_LIMIT,
        max_bytes: int = DEFAULT_SCAN_BYTES,
    ) -> ScanPage:
        with self._engine.lock:
            if self._ended is not None:
                raise self._ended
            items: list[tuple[bytes, bytes]] = []
            size = 0
            for key in self._keys(start, end, reverse):
                value = self.undo[key] if key in self.undo else self._engine.values[key]
                if value is None:
                    continue
                if items and (len(items) >= limit or size + len(key) + len(value) > max_bytes):
                    return ScanPage(items, more=True)
                items.append((key, value))
                size += len(key) + len(value)
            return ScanPage(items, more=False)

    def _keys(self, start: bytes, end: bytes | None, reverse: bool) -> Iterator[bytes]:
        """Present keys of the range merged with the undone ones, in order, each once."""
        keys = self._engine.keys
        low = bisect_left(keys, start)
        high = len(keys) if end is None else max(low, bisect_left(keys, end))
        missing = sorted(
            key
            for key in self.undo
            if key >= start and (end is None or key < end) and key not in self._engine.values
        )
        position, stop, step = (high - 1, low - 1, -1) if reverse else (low, high, 1)
        if reverse:
            missing.reverse()
        for extra in missing:
            while position != stop and (keys[position] < extra) != reverse:
                yield keys[position]
                position += step
            yield extra
        while position != stop:
            yield keys[position]
            position += step

    def end(self, reason: Exception) -> None:
        if self._ended is None:
            self._ended = reason
        self.undo.clear()

    def close(self) -> None:
        with self._engine.lock:
            self.end(EngineClosedError("this snapshot was closed; open a new one"))
            self._engine.snapshots.discard(self)

    def __enter__(self) -> MemorySnapshot:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _remember(live: Sequence[MemorySnapshot], key: bytes, old: bytes | None) -> None:
    for snapshot in live:
        snapshot.undo.setdefault(key, old)


class MemoryEngine:
    """Invariant: `keys` is sorted and has exactly the keys of `values`."""

    def __init__(self, *, clock: Clock | None = None) -> None:
        self.lock = threading.RLock()
        self.keys: list[bytes] = []
        self.values: dict[bytes, bytes] = {}
        self.snapshots: weakref.WeakSet[MemorySnapshot] = weakref.WeakSet()
        self._clock = clock or SystemClock()
        self._closed = False
        self._live_bytes = 0
        self._batches = 0
        self._put_bytes = 0

    @classmethod
    def load(cls, directory: Path, *, clock: Clock | None = None) -> MemoryEngine:
        """An engine with the pairs of a checkpoint."""
        engine = cls(clock=clock)
        data = (directory / CHECKPOINT_NAME).read_bytes()
        at = 0
        while at < len(data):
            key_size, value_size = _FRAME.unpack_from(data, at)
            at += _FRAME.size
            key, value = data[at : at + key_size], data[at + key_size : at + key_size + value_size]
            at += key_size + value_size
            engine._put(key, value)
        return engine

    def write(self, batch: Batch, *, sync: bool) -> None:
        with self.lock:
            self._check_open()
            live = list(self.snapshots)
            for op, key, value in batch.operations:
                if op is Op.PUT:
                    assert value is not None
                    self._put(key, value, live)
                elif op is Op.DELETE:
                    self._delete(key, live)
                else:
                    low = bisect_left(self.keys, key)
                    high = len(self.keys) if value is None else bisect_left(self.keys, value)
                    self._delete_slice(low, high, live)
            if batch.operations:
                self._batches += 1
                self._put_bytes += batch.size_bytes

    def _put(self, key: bytes, value: bytes, live: Sequence[MemorySnapshot] = ()) -> None:
        """`live` are the snapshots that must remember the old value."""
        old = self.values.get(key)
        if live:
            _remember(live, key, old)
        if old is None:
            insort(self.keys, key)
            self._live_bytes += len(key) + len(value)
        else:
            self._live_bytes += len(value) - len(old)
        self.values[key] = value

    def _delete(self, key: bytes, live: Sequence[MemorySnapshot]) -> None:
        old = self.values.get(key)
        if old is None:
            return
        _remember(live, key, old)
        del self.values[key]
        del self.keys[bisect_left(self.keys, key)]
        self._live_bytes -= len(key) + len(old)

    def _delete_slice(self, low: int, high: int, live: Sequence[MemorySnapshot]) -> None:
        for key in self.keys[low:high]:
            old = self.values.pop(key)
            _remember(live, key, old)
            self._live_bytes -= len(key) + len(old)
        del self.keys[low:high]

    def snapshot(self, *, max_age_s: float = DEFAULT_SNAPSHOT_MAX_AGE_S) -> MemorySnapshot:
        with self.lock:
            self._check_open()
            now = self._clock.monotonic()
            snapshot = MemorySnapshot(self, now, now + max_age_s)
            self.snapshots.add(snapshot)
            return snapshot

    def expire_snapshots(self) -> int:
        with self.lock:
            now = self._clock.monotonic()
            old = [snapshot for snapshot in self.snapshots if snapshot.deadline <= now]
            for snapshot in old:
                snapshot.end(
                    SnapshotExpiredError(
                        "this snapshot is older than its maximum age of "
                        f"{snapshot.deadline - snapshot.opened_at:g} s; open a new one and resume"
                    )
                )
                self.snapshots.discard(snapshot)
            return len(old)

    def checkpoint(self, directory: Path) -> None:
        with self.lock:
            self._check_open()
            pairs = [(key, self.values[key]) for key in self.keys]
        files.make_checkpoint_directory(directory)
        with (directory / CHECKPOINT_NAME).open("wb") as file:
            for key, value in pairs:
                file.write(_FRAME.pack(len(key), len(value)) + key + value)
            file.flush()
            os.fsync(file.fileno())
        files.sync_directory(directory)

    def statistics(self) -> EngineStatistics:
        with self.lock:
            self._check_open()
            now = self._clock.monotonic()
            ages = [now - snapshot.opened_at for snapshot in self.snapshots]
            return EngineStatistics(
                engine="memory",
                keys=len(self.keys),
                keys_exact=True,
                disk_bytes=self._live_bytes,
                live_bytes=self._live_bytes,
                reusable_bytes=0,
                disk_free_bytes=1 << 62,
                batches=self._batches,
                put_bytes=self._put_bytes,
                open_snapshots=len(ages),
                oldest_snapshot_age_s=max(ages, default=0.0),
            )

    def close(self) -> None:
        with self.lock:
            self._closed = True
            for snapshot in list(self.snapshots):
                snapshot.end(EngineClosedError("the engine was closed under this snapshot"))
            self.snapshots.clear()

    def _check_open(self) -> None:
        if self._closed:
            raise EngineClosedError("this engine is closed; open it again")
