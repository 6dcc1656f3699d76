"""An engine that fails on demand: it wraps any other and keeps the contract while it misbehaves.

    power cut        loses unsynced writes, but never a write in the middle: what survives is a
                     prefix that the dice choose, with everything that was synced
    disk full        after so many more bytes; I/O error at the nth write, sync or read from now
    slow sync        asks an injected sleep for a delay
    torn last batch  BREAKS the contract on purpose: after the cut the last surviving batch is there
                     in part only, even if its sync had returned. Layers above and checkers must
                     catch it; a test that does not see it tests nothing.

How: for each batch that is not yet synced, the values that it replaced are remembered; a power cut
writes them back, youngest first. A write that failed in its sync has an unknown outcome: nobody
sees it while the engine lives, and after the cut (or the restart that `recover` stands for) the
dice decide whether it is there, as the youngest of all.

A sync apart (SyncsApart) is the inner engine's, and only begun while no fault waits for a sync: a
fault is injected where a write syncs, which is what a writer does whose sync could not be begun.

After `power_cut` every call raises until `recover`, which is what the next start of the process
would see. Snapshots do not survive either.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

from storage.clock import Rng
from storage.engine import (
    DEFAULT_SCAN_BYTES,
    DEFAULT_SCAN_LIMIT,
    DEFAULT_SNAPSHOT_MAX_AGE_S,
    Batch,
    BegunSync,
    Engine,
    EngineStatistics,
    Op,
    Operation,
    ScanPage,
    Snapshot,
    iterate,
    syncs_apart,
)
from storage.errors import EngineClosedError, ReadFailedError, WriteFailedError

Call = Literal["write", "sync", "read"]
_OFF: Final = "the power of this engine is cut; call recover() first"
_LOST: Final = "this snapshot was lost with the process; open a new one"


@dataclass(slots=True)
class Faults:
    """The switches; change them at any time. A countdown of 1 means the very next call, and it
    switches itself off once it fired."""

    fail_write_in: int | None = None
    fail_sync_in: int | None = None
    fail_read_in: int | None = None
    disk_bytes_left: int | None = None
    slow_sync_s: float = 0.0
    torn_last_batch: bool = False
    """Set it before the write that is to be torn: only then is its undo remembered."""

    @property
    def wait_for_a_sync(self) -> bool:
        return self.fail_sync_in is not None or bool(self.slow_sync_s) or self.torn_last_batch

    def fires(self, call: Call) -> bool:
        name = f"fail_{call}_in"
        left: int | None = getattr(self, name)
        if left is None:
            return False
        setattr(self, name, left - 1 if left > 1 else None)
        return left <= 1


@dataclass(frozen=True, slots=True)
class _Written:
    """One batch of the log. `undo` is None for one that failed and was never applied."""

    operations: tuple[Operation, ...]
    undo: Batch | None


class _FaultySnapshot:
    __slots__ = ("__weakref__", "_engine", "_inner", "_life")

    def __init__(self, engine: FaultyEngine, inner: Snapshot) -> None:
        self._engine = engine
        self._inner = inner
        self._life = engine.life

    def get(self, key: bytes, /) -> bytes | None:
        self._engine.before_read(self._life)
        return self._inner.get(key)

    def scan(
        self,
        start: bytes = b"",
        end: bytes | None = None,
        *,
        reverse: bool = False,
        limit: int = DEFAULT_SCAN_LIMIT,
        max_bytes: int = DEFAULT_SCAN_BYTES,
    ) -> ScanPage:
        self._engine.before_read(self._life)
        return self._inner.scan(start, end, reverse=reverse, limit=limit, max_bytes=max_bytes)

    def close(self) -> None:
        self._engine.snapshots.discard(self)
        self._inner.close()

    def __enter__(self) -> _FaultySnapshot:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class FaultyEngine:
    """Invariant: `_log` holds the unsynced batches, oldest first, after at most one synced batch
    (`_synced_in_log`), which is there only to be torn."""

    def __init__(
        self,
        inner: Engine,
        *,
        rng: Rng,
        faults: Faults | None = None,
        sleep: Callable[[float], object] | None = None,
    ) -> None:
        self.inner = inner
        self.faults = faults or Faults()
        self.snapshots: weakref.WeakSet[_FaultySnapshot] = weakref.WeakSet()
        self.life = 0
        """Rises with every power cut and restart; a snapshot belongs to one life."""
        self._rng = rng
        self._sleep = sleep
        self._log: list[_Written] = []
        self._synced_in_log = 0
        self._apart: tuple[_Written, ...] = ()
        """What the sync apart in flight makes safe."""
        self._failure: str | None = None
        self._powered = True

    # --- the Engine contract -----------------------------------------------------------------

    def write(self, batch: Batch, *, sync: bool) -> None:
        self._check_power()
        if self._failure is not None:
            raise WriteFailedError(self._failure)
        self._fail_if_due(batch, sync)
        if sync and self.faults.slow_sync_s and self._sleep is not None:
            self._sleep(self.faults.slow_sync_s)
        self._apply(batch, sync=sync)

    def _apply(self, batch: Batch, *, sync: bool) -> None:
        written = self._remember(batch, sync)
        try:
            self.inner.write(batch, sync=sync)
        except WriteFailedError as error:
            self._failure = str(error)
            raise
        if sync:
            self._log.clear()
            self._synced_in_log = 0
        if written is not None:
            self._log.append(written)
            self._synced_in_log += int(sync)

    def begin_sync(self) -> BegunSync | None:
        quiet = self._powered and self._failure is None and not self.faults.wait_for_a_sync
        offer = syncs_apart(self.inner)
        if not quiet or offer is None:
            return None
        self._apart = tuple(self._log)
        return offer.begin_sync()

    def end_sync(self, number: int, failure: OSError | None) -> None:
        offer = syncs_apart(self.inner)
        assert offer is not None, "it was begun there"
        self._check_power()
        if self._failure is not None:
            raise WriteFailedError(self._failure)
        try:
            offer.end_sync(number, failure)
        except WriteFailedError as error:
            self._failure = str(error)
            raise
        safe = {id(written) for written in self._apart}
        self._synced_in_log = sum(id(each) not in safe for each in self._log[: self._synced_in_log])
        self._log = [written for written in self._log if id(written) not in safe]
        self._apart = ()

    def snapshot(self, *, max_age_s: float = DEFAULT_SNAPSHOT_MAX_AGE_S) -> _FaultySnapshot:
        self._check_power()
        snapshot = _FaultySnapshot(self, self.inner.snapshot(max_age_s=max_age_s))
        self.snapshots.add(snapshot)
        return snapshot

    def expire_snapshots(self) -> int:
        self._check_power()
        return self.inner.expire_snapshots()

    def checkpoint(self, directory: Path) -> None:
        self._check_power()
        self.inner.checkpoint(directory)

    def statistics(self) -> EngineStatistics:
        self._check_power()
        found = self.inner.statistics()
        left = self.faults.disk_bytes_left
        free = found.disk_free_bytes if left is None else min(left, found.disk_free_bytes)
        return replace(found, engine=f"faulty-{found.engine}", disk_free_bytes=free)

    def close(self) -> None:
        self.inner.close()

    # --- faults ------------------------------------------------------------------------------

    def power_cut(self) -> int:
        """Returns how many of the unsynced batches survived."""
        self._check_power()
        survivors = self._dice(self._synced_in_log, len(self._log))
        kept = survivors - self._synced_in_log
        self._rewrite(survivors, tear=self.faults.torn_last_batch)
        self._powered = False
        self._end_life()
        return kept

    def recover(self) -> None:
        """What the next start finds. Without a power cut before it, it is a killed process: what
        it wrote is there, synced or not, except that a failed write may be there or not."""
        self._failure = None
        if not self._powered:
            self._powered = True
            return
        self._end_life()
        if self._log and self._log[-1].undo is None:
            failed = Batch()
            failed.repeat(self._log.pop().operations)
            if self._dice(0, 1):
                self._apply(failed, sync=False)

    def before_read(self, life: int) -> None:
        if life != self.life:
            raise EngineClosedError(_LOST)
        if self.faults.fires("read"):
            raise ReadFailedError("a read failed: injected I/O error; try again")

    def _fail_if_due(self, batch: Batch, sync: bool) -> None:
        left = self.faults.disk_bytes_left
        if batch.operations and self.faults.fires("write"):
            self._fail("injected I/O error in the write", batch)
        if left is not None:
            if batch.size_bytes > left:
                self._fail("the disk is full", None)
            self.faults.disk_bytes_left = left - batch.size_bytes
        if sync and self.faults.fires("sync"):
            self._fail("injected I/O error in the sync", batch)

    def _fail(self, reason: str, perhaps: Batch | None) -> None:
        """`perhaps`: a batch that may turn out to have reached the disk after all."""
        if perhaps is not None and perhaps.operations:
            self._log.append(_Written(tuple(perhaps.operations), None))
        self._failure = f"a write failed ({reason}); the engine takes no more; restart"
        raise WriteFailedError(self._failure)

    def _remember(self, batch: Batch, sync: bool) -> _Written | None:
        if not batch.operations or (sync and not self.faults.torn_last_batch):
            return None
        before: dict[bytes, bytes | None] = {}
        with self.inner.snapshot() as now:
            for op, key, value in batch.operations:
                if op is Op.DELETE_RANGE:
                    for found, present in iterate(now, key, value):
                        before.setdefault(found, present)
                elif key not in before:
                    before[key] = now.get(key)
        undo = Batch()
        for key, old in before.items():
            if old is None:
                undo.delete(key)
            else:
                undo.put(key, old)
        return _Written(tuple(batch.operations), undo)

    def _rewrite(self, survivors: int, *, tear: bool) -> None:
        """Make the inner engine hold the first `survivors` batches of the log and forget it."""
        change = Batch()
        for lost in reversed(self._log[survivors:]):
            if lost.undo is not None:
                change.extend(lost.undo)
        if survivors:
            last = self._log[survivors - 1]
            tear = tear and (last.undo is not None or len(last.operations) > 1)
            whole = len(last.operations)
            part = self._dice(min(1, whole - 1), whole - 1) if tear else whole
            if tear and last.undo is not None:
                change.extend(last.undo)
            if tear or last.undo is None:
                change.repeat(last.operations[:part])
        self.inner.write(change, sync=True)
        self._log.clear()
        self._synced_in_log = 0

    def _dice(self, least: int, most: int) -> int:
        return self._rng.randrange(least, most + 1)

    def _end_life(self) -> None:
        self.life += 1
        for snapshot in list(self.snapshots):
            snapshot.close()

    def _check_power(self) -> None:
        if not self._powered:
            raise EngineClosedError(_OFF)
