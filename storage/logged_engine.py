"""LMDB with a write-ahead log in front: a synced write costs one small append, not a tree.

    write  -> record to the log, fdatasync (storage/wal.py) -> table in memory (storage/memtable.py)
    fold   -> when a table is large, a thread of its own commits it to the tree, synced, and the
              log's segments before it are used again
    read   -> tables, newest first, then the tree
    open   -> the log is read over the tree and folded at once, so that what was shown once is there
              for good; then a new log begins

A commit of LMDB writes every page from a changed leaf to the root and waits for the disk twice. The
turns of a loaded node change few rows each and the same pages again and again, so folding 8 MiB of
them at once costs a small part of that, and rows that were deleted meanwhile (a compacted Raft log)
never reach the tree. Measured: storage/ARCHITECTURE.md.

The whole contract of storage/engine.py holds, over both: a batch is one record, so it is there
whole or not at all; what survives is a prefix of the log over a tree that is never ahead of the
synced log. A failed append, sync or fold poisons the engine; what was acknowledged is in the log.

Threads: `_writing` is held by whoever appends. `_guard` is held for moments: while tables change
places and while a snapshot takes them together with one of the tree. Between the two a fold may
commit to the tree, but it folds only tables that the snapshot took as well, so they hide it.

    writer   -> _active -> (sealed by a snapshot or a fold) -> _sealed -> _folding -> the tree

Backpressure: a writer that is `hold_bytes` ahead of the folds waits for the one under way.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Final

from storage import files
from storage.clock import Rng
from storage.engine import (
    DEFAULT_SCAN_BYTES,
    DEFAULT_SCAN_LIMIT,
    DEFAULT_SNAPSHOT_MAX_AGE_S,
    Batch,
    BegunSync,
    EngineStatistics,
    Operation,
    ScanPage,
    Snapshot,
    iterate,
    size_of,
)
from storage.errors import EngineClosedError, WriteFailedError
from storage.lmdb_engine import LmdbEngine, LmdbSnapshot
from storage.lmdb_file import LOG_DIRECTORY_NAME
from storage.memtable import Table, changed, merged, overlaid, reach, stack
from storage.wal import SEGMENT_BYTES, WriteAheadLog

FOLD_BYTES: Final = 8 * 1024 * 1024
SPREAD: Final = 0.25
SPREAD_FIRST: Final = 0.75
"""By up to such a part of these bytes a fold begins earlier, drawn anew each time: the replicas of
a shard write the same, and would fold at the same moment, again and again."""
UNSYNCED_FOLDS: Final = 2
"""A fold begins when everything is synced, to wait for no sync of its own; not later than this."""
FOLD_PAUSE_S: Final = 0.002
HOLD_FOLDS: Final = 4
_PAGE_ROWS: Final = 1_000
_LEAST_ROWS: Final = 256
"""Of a table are looked at together: some may have been deleted."""


class LoggedSnapshot:
    """Tables of one moment over the tree of that moment. Its end is that of the tree's snapshot."""

    __slots__ = ("_tables", "_tree")

    def __init__(self, tree: LmdbSnapshot, tables: Sequence[Table]) -> None:
        self._tree = tree
        self._tables = tables

    def get(self, key: bytes, /) -> bytes | None:
        tree = self._tree
        if not tree.ended:
            for table in self._tables:
                rows = table.rows
                if key in rows:
                    return rows[key]
                if table.ranges and table.covers(key):
                    return None
        return tree.get(key)

    def scan(
        self,
        start: bytes = b"",
        end: bytes | None = None,
        *,
        reverse: bool = False,
        limit: int = DEFAULT_SCAN_LIMIT,
        max_bytes: int = DEFAULT_SCAN_BYTES,
    ) -> ScanPage:
        if not any(table.touches(start, end) for table in self._tables):
            return self._tree.scan(start, end, reverse=reverse, limit=limit, max_bytes=max_bytes)
        if not reverse:
            return self._scan_pages(start, end, max(limit, 1), max_bytes)
        below = iterate(
            self._tree,
            start,
            end,
            reverse=reverse,
            page_limit=min(max(limit, 1) + 1, _PAGE_ROWS),
            page_bytes=max_bytes,
        )
        items: list[tuple[bytes, bytes]] = []
        size = 0
        for key, value in overlaid(self._tables, below, start, end, reverse=reverse):
            size += len(key) + len(value)
            if items and (len(items) >= limit or size > max_bytes):
                return ScanPage(items, more=True)
            items.append((key, value))
        return ScanPage(items, more=False)

    def _scan_pages(self, start: bytes, end: bytes | None, limit: int, max_bytes: int) -> ScanPage:
        """A page of the tree and what the tables change of it, as a whole: a row that no table
        changed costs 0.3 us, where taking it out of a merge costs 2. A page ends where a table has
        enough rows for it, too: while the tree has few, all of a range would be in one."""
        items: list[tuple[bytes, bytes]] = []
        size = 0
        while True:
            page = self._tree.scan(start, end, limit=limit, max_bytes=max_bytes)
            found, more = page.items, page.more
            reached = found[-1][0] + b"\x00" if more else end
            behind = reach(self._tables, start, reached, max(limit, _LEAST_ROWS))
            if behind != reached:
                assert behind is not None
                found, more = found[: bisect_left(found, (behind,))], True
            rows = changed(self._tables, found, start, behind)
            whole = size + sum(map(len, chain.from_iterable(rows)))
            if len(items) + len(rows) > limit or whole > max_bytes:
                for row in rows:
                    size += len(row[0]) + len(row[1])
                    if items and (len(items) >= limit or size > max_bytes):
                        return ScanPage(items, more=True)
                    items.append(row)
            else:
                items += rows
            size = whole
            if not more:
                return ScanPage(items, more=False)
            assert behind is not None
            start = behind

    def close(self) -> None:
        self._tree.close()

    def __enter__(self) -> LoggedSnapshot:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class LoggedEngine:
    """Invariant: everything in the tables is in the log; what is in `_folding` is synced there."""

    def __init__(
        self,
        tree: LmdbEngine,
        *,
        fold_bytes: int = FOLD_BYTES,
        segment_bytes: int = SEGMENT_BYTES,
        rng: Rng | None = None,
    ) -> None:
        """Takes the engine over, reads what the log holds and begins a new one. If that is refused
        the tree is closed. `rng`: draws how much earlier a fold begins; None: not at all."""
        self.path = tree.path
        self._tree = tree
        self._log = WriteAheadLog(tree.path / LOG_DIRECTORY_NAME, segment_bytes=segment_bytes)
        self._fold_bytes = fold_bytes
        self._rng = rng
        self._fold_at = self._next_fold(SPREAD_FIRST)
        self._writing = threading.Lock()
        self._guard = threading.Lock()
        self._changed = threading.Condition(self._guard)
        """Told when a fold is wanted and when one has ended."""
        self._active = Table()
        self._sealed: tuple[Table, ...] = ()
        self._sealed_bytes = 0
        self._folding: tuple[Table, ...] = ()
        self._fold_through = 0
        """The last record of what is being folded."""
        self._awaited = 0
        """How many wait for its end."""
        self._thread: threading.Thread | None = None
        self._closed = False
        self._failure: str | None = None
        self._batches = self._put_bytes = self._folds = self._replayed = 0
        try:
            self._recover()
        except BaseException:
            self._log.close()
            tree.close()
            raise

    def _recover(self) -> None:
        table = Table()
        try:
            self._log.replay(lambda operations: table.apply(operations, size_of(operations)))
            if table:
                self._tree.fold(table)
            self._replayed = len(table.rows)
            self._log.begin()
        except OSError as error:
            raise files.directory_error(
                "open the log in", self._log.directory, error.errno, str(error)
            ) from error

    # --- writing -----------------------------------------------------------------------------

    def write(self, batch: Batch, *, sync: bool) -> None:
        with self._writing:
            if self._closed or self._failure is not None:
                self._check_writable()
            operations = batch.operations
            try:
                if operations:
                    self._log.append(operations)
                if sync:
                    self._log.sync()
            except OSError as error:
                raise self._fail(error) from error
            if operations:
                self._batches += 1
                self._put_bytes += batch.size_bytes
                self._take(operations, batch.size_bytes)

    def begin_sync(self) -> BegunSync | None:
        """See storage.engine.SyncsApart."""
        with self._writing:
            if self._closed or self._failure is not None:
                return None
            return self._log.begin_sync()

    def end_sync(self, number: int, failure: OSError | None) -> None:
        with self._writing:
            if failure is not None:
                raise self._fail(failure) from failure
            self._check_writable()
            self._log.end_sync(number)
            self._fold_if_due(self._waiting())

    def _take(self, operations: Sequence[Operation], size_bytes: int) -> None:
        with self._guard:
            self._active.apply(operations, size_bytes)
            waiting = self._waiting()
        if waiting >= self._fold_at:
            if self._folding and waiting >= HOLD_FOLDS * self._fold_bytes:
                self._await_fold()
            self._fold_if_due(waiting)

    def _fold_if_due(self, waiting: int) -> None:
        """With `_writing` held. `waiting`: bytes that no fold has taken yet."""
        if waiting < self._fold_at or self._folding:
            return
        if self._log.all_synced or waiting >= UNSYNCED_FOLDS * self._fold_bytes:
            self._begin_fold()

    def _next_fold(self, spread: float) -> float:
        """The bytes at which it begins."""
        return self._fold_bytes * (1.0 - (self._rng.uniform(0, spread) if self._rng else 0.0))

    def _waiting(self) -> int:
        """Bytes that no fold has taken yet."""
        return self._active.size_bytes + self._sealed_bytes

    def _check_writable(self) -> None:
        if self._closed:
            raise EngineClosedError(f"the engine in {self.path} is closed; open it again")
        if self._failure is not None:
            raise WriteFailedError(self._failure)

    def _fail(self, error: Exception) -> WriteFailedError:
        if self._failure is None:
            self._failure = (
                f"a write to the log in {self.path} failed ({error}) and the engine takes no more; "
                "look at the disk's health and its free space, and restart"
            )
        return WriteFailedError(self._failure)

    # --- folding -----------------------------------------------------------------------------

    def _begin_fold(self) -> None:
        """With `_writing` held and no fold under way."""
        self._note_folded()
        try:
            self._log.sync()
        except OSError as error:
            raise self._fail(error) from error
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="janus-fold", daemon=True)
            self._thread.start()
        self._fold_at = self._next_fold(SPREAD)
        with self._guard:
            self._seal()
            self._folding, self._sealed, self._sealed_bytes = self._sealed, (), 0
            self._fold_through = self._log.last_number
            self._changed.notify_all()

    def _seal(self) -> None:
        """What is read or folded from now on is not written to any more. With `_guard` held."""
        if self._active:
            self._sealed = stack(self._sealed, self._active)
            self._sealed_bytes += self._active.size_bytes
            self._active = Table()

    def _run(self) -> None:
        while True:
            with self._guard:
                self._changed.wait_for(lambda: self._folding or self._closed)
                tables = self._folding
            if not tables:
                return
            try:
                self._tree.fold(merged(tables), self._pause)
            except Exception as error:  # noqa: BLE001 - whatever it is, writers must see it
                self._fail(error)
            with self._guard:
                if self._failure is None:
                    self._folding = ()
                    self._folds += 1
                self._changed.notify_all()
            if self._failure is not None:
                return
            if self._log.wants_spare:
                try:
                    self._log.prepare(self._pause)
                except OSError as error:
                    self._fail(error)

    def _pause(self) -> None:
        """Of a fold, or of making a file for the log, so that the loop beside it is slowed a little
        for long, not much for a moment: its writes are what the slowest are. Not if somebody waits
        for the end, or the next fold does."""
        if self._waiting() < self._fold_bytes:
            with self._guard:
                self._changed.wait_for(lambda: self._awaited, FOLD_PAUSE_S)

    def _await_fold(self) -> None:
        """Until the fold under way has ended. A failed one raises."""
        with self._guard:
            self._awaited += 1
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._folding or self._failure is not None)
            self._awaited -= 1
        self._check_writable()

    def _note_folded(self) -> None:
        """With `_writing` held and no fold under way: tell the log how far the tree is."""
        self._log.folded(max(self._fold_through, self._log.folded_number))

    def _fold_on(self, through: int) -> bool:
        """With `_writing` held: begin what is missing for the tree to have every record up to this
        one; True if nothing is."""
        self._check_writable()
        if self._folding:
            return False
        self._note_folded()
        if self._log.folded_number >= through:
            return True
        self._begin_fold()
        return False

    # --- reading -----------------------------------------------------------------------------

    def snapshot(self, *, max_age_s: float = DEFAULT_SNAPSHOT_MAX_AGE_S) -> Snapshot:
        with self._guard:
            self._seal()
            tables = (*self._sealed, *self._folding)
            tree = self._tree.snapshot(max_age_s=max_age_s)
        return LoggedSnapshot(tree, tables) if tables else tree

    def expire_snapshots(self) -> int:
        return self._tree.expire_snapshots()

    # --- the rest ----------------------------------------------------------------------------

    def checkpoint(self, directory: Path) -> None:
        """A copy of the tree, once everything written by now is in it: there is no log to copy.
        Writers go on; only the beginning of a fold holds them, for a moment."""
        with self._writing:
            self._check_writable()
            through = self._log.last_number
        while True:
            with self._writing:
                if self._fold_on(through):
                    break
            self._await_fold()
        self._tree.checkpoint(directory)

    def statistics(self) -> EngineStatistics:
        """What waits for a fold is in the log's bytes and, since the tree will need room for it,
        not in the reusable ones."""
        with self._guard:
            tables = (*self._folding, *self._sealed, self._active)
        tree = self._tree.statistics()
        with self._guard:  # `_active` is written to
            waiting = sum(table.size_bytes for table in tables)
            rows = sum(len(table.rows) for table in tables)
        return replace(
            tree,
            keys_exact=not waiting,
            disk_bytes=tree.disk_bytes + files.allocated_bytes(self._log.directory),
            reusable_bytes=max(0, tree.reusable_bytes - waiting),
            batches=self._batches,
            put_bytes=self._put_bytes,
            details={
                **tree.details,
                "log_bytes": self._log.size_bytes,
                "log_syncs": self._log.syncs,
                "log_kernel_syncs": self._log.syncs_apart,
                "log_records_replayed": self._replayed,
                "folds": self._folds,
                "fold_waiting_bytes": waiting,
                "fold_waiting_rows": rows,
                "fold_tables": len(tables),
            },
        )

    def close(self) -> None:
        """Waits for a write in flight and folds what is left, so that the next start has nothing to
        read again. If that fails, the log has it."""
        with self._writing:
            if self._closed:
                return
            with suppress(WriteFailedError, OSError):
                while not self._fold_on(self._log.last_number):
                    self._await_fold()
                self._log.mark()
            self._closed = True
            with self._guard:
                self._changed.notify_all()
            if self._thread is not None:
                self._thread.join()
            self._log.close()
            self._tree.close()
