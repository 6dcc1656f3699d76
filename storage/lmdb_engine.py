"""LMDB behind the Engine contract: a copy-on-write B+tree in one memory-mapped file.

Every commit is fully synced (no NOSYNC, NOMETASYNC, WRITEMAP or MAPASYNC): LMDB syncs the changed
pages and then the meta page that makes them the tree, so a power cut leaves one commit or the one
before, and `sync=False` is honoured by syncing anyway. The map is large and sparse, because growing
it under a running process would kill its readers.

Snapshots are LMDB read transactions, and `get` of a snapshot IS the transaction's own method: a
wrapper in Python would cost as much as the look-up. So an ended snapshot cannot check a flag in
`get`; its `get` is swapped for one that raises. Three states:

    open --expire_snapshots()--> ended (get raises) --nobody inside a read--> released (pages free)
    open --close()--> ended --the same--> released

The step to `released` waits, because py-lmdb drops the interpreter lock inside a look-up: if the
pages were given back then, a writer could overwrite them under the reader's eyes. A scan in flight
holds the snapshot's lock; a get in flight holds the bound method and with it the transaction, whose
references are counted. What cannot be released is tried again at each later snapshot and write.
(A get caught by the close of the whole engine is safe too, but may raise LMDB's own error.)

A node's engine does not come here with every batch: storage/logged_engine.py keeps a log in front
and folds many of them at once (`fold`). Sorting the puts of a small batch does not pay: random
batches of 100 among a million keys cost 13-15 us CPU an operation either way, nearly all of it in
the commit.

Sizes and free space: storage/lmdb_pages.py.
"""

from __future__ import annotations

import errno
import math
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import Final, NoReturn, TypeAlias

import lmdb

from storage import files
from storage.clock import Clock
from storage.engine import (
    DEFAULT_SCAN_BYTES,
    DEFAULT_SCAN_LIMIT,
    DEFAULT_SNAPSHOT_MAX_AGE_S,
    ENGINE_KEY_MAX_BYTES,
    Batch,
    EngineStatistics,
    Op,
    Operation,
    ScanPage,
)
from storage.errors import (
    DataDirectoryError,
    EngineClosedError,
    ReadFailedError,
    SnapshotExpiredError,
    StorageError,
    TooManySnapshotsError,
    WriteFailedError,
)
from storage.lmdb_file import DATA_NAME, NEW_DATA_NAME, OPEN, check_header, check_length, damaged
from storage.lmdb_pages import PageFigures
from storage.memtable import Table

DEFAULT_MAP_SIZE_BYTES: Final = 1 << 40
DEFAULT_MAX_SNAPSHOTS: Final = 1_024
CHECKPOINTS: Final = 8
"""Reader slots beside the snapshots', for copies that run at the same time."""
READER_CHECK_INTERVAL_S: Final = 60.0
_ABOVE_ALL_KEYS: Final = b"\xff" * (ENGINE_KEY_MAX_BYTES + 1)
FOLD_STEP_ROWS: Final = 256
_FIRST_ROWS: Final = 4
_BLOCK_ROWS: Final = 1_024
_PUT: Final = Op.PUT
_DELETE: Final = Op.DELETE

_Transaction: TypeAlias = "lmdb.Transaction[bytes]"
_Cursor: TypeAlias = "lmdb.Cursor[bytes]"
_Refuse = Callable[[bytes], NoReturn]


def _no_pause() -> None:
    pass


def _refuse_closed(_key: bytes) -> NoReturn:
    raise EngineClosedError("this snapshot or its engine was closed; open a new one")


def _refuse_expired(max_age_s: float) -> _Refuse:
    def refuse(_key: bytes) -> NoReturn:
        raise SnapshotExpiredError(
            f"this snapshot is older than its maximum age of {max_age_s:g} s; open a new one and "
            "resume"
        )

    return refuse


class LmdbSnapshot:
    """Reads of one moment. One thread at a time uses it; any thread may end it.

    Invariant: `get` is the transaction's own method exactly as long as `_refuse` is None.
    """

    __slots__ = ("_engine", "_reading", "_refuse", "_txn", "deadline", "get", "opened_at")

    get: Callable[[bytes], bytes | None]

    def __init__(
        self, engine: LmdbEngine, txn: _Transaction, opened_at: float, deadline: float
    ) -> None:
        self._engine = engine
        self._txn: _Transaction | None = txn
        self._refuse: _Refuse | None = None
        self._reading = threading.Lock()
        self.get = txn.get
        self.opened_at = opened_at
        self.deadline = deadline

    def scan(
        self,
        start: bytes = b"",
        end: bytes | None = None,
        *,
        reverse: bool = False,
        limit: int = DEFAULT_SCAN_LIMIT,
        max_bytes: int = DEFAULT_SCAN_BYTES,
    ) -> ScanPage:
        with self._reading:
            txn = self._txn
            if self._refuse is not None or txn is None:
                (self._refuse or _refuse_closed)(b"")
            try:
                with txn.cursor() as cursor:
                    return _page(cursor, start, end, reverse, max(limit, 1), max_bytes)
            except lmdb.Error as error:
                if self.ended:
                    _refuse_closed(b"")
                raise _read_error(error) from error

    @property
    def ended(self) -> bool:
        return self._refuse is not None

    def end(self, refuse: _Refuse) -> None:
        """From now on reads raise; the pages stay pinned until `release` succeeds."""
        if self._refuse is None:
            self._refuse = refuse
            self.get = refuse

    def release(self) -> bool:
        """Give the pages of an ended snapshot back, unless a read of it is in flight."""
        assert self._refuse is not None, "end it first"
        if not self._reading.acquire(blocking=False):
            return False
        try:
            if _references(self) > _IDLE_REFERENCES:
                return False
            txn, self._txn = self._txn, None
            if txn is not None:
                txn.abort()
            return True
        finally:
            self._reading.release()

    def close(self) -> None:
        self.end(_refuse_closed)
        self._engine.release(self)

    def __enter__(self) -> LmdbSnapshot:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class _Idle:
    """Stands for an ended snapshot that nobody reads."""

    def __init__(self) -> None:
        self._txn = object()


def _references(snapshot: LmdbSnapshot | _Idle) -> int:
    txn = snapshot._txn
    return sys.getrefcount(txn) if txn is not None else 0


# How many references the line above sees by itself differs between versions of Python.
_IDLE_REFERENCES: Final = _references(_Idle())


class LmdbEngine:
    """The contract stands in storage/engine.py, LMDB's part in this module's docstring.

    Invariants: `_open` has every snapshot whose pages are not released; `_next_expiry` is never
    later than the earliest deadline among them.
    """

    def __init__(
        self,
        path: Path,
        *,
        clock: Clock,
        map_size_bytes: int = DEFAULT_MAP_SIZE_BYTES,
        max_snapshots: int = DEFAULT_MAX_SNAPSHOTS,
        create: bool = True,
    ) -> None:
        self.path = path
        self._clock = clock
        self._max_snapshots = max_snapshots
        self._guard = threading.Lock()
        self._writing = threading.Lock()
        self._open: set[LmdbSnapshot] = set()
        self._next_expiry = math.inf
        self._closed = False
        self._failure: str | None = None
        self._batches = 0
        self._put_bytes = 0
        self._stale_readers = 0
        self._next_reader_check = math.inf
        if create:
            files.make_directory(path, OPEN)
        elif not (path / DATA_NAME).exists():
            raise DataDirectoryError(
                f"cannot {OPEN} {path}: there is no {DATA_NAME}; name the directory of "
                "an existing engine"
            )
        self._lock_descriptor = files.lock_directory(path, OPEN)
        try:
            self._env = _open_environment(path, map_size_bytes, max_snapshots)
        except BaseException:
            os.close(self._lock_descriptor)
            raise
        self._main = self._env.open_db()
        self._check_readers(clock.monotonic())

    # --- writing -----------------------------------------------------------------------------

    def write(self, batch: Batch, *, sync: bool) -> None:
        """Always synced: LMDB has no cheaper commit that keeps its promises."""
        with self._writing:
            self._check_writable()
            if not batch.operations:
                return
            with self._transaction() as txn:
                self._apply(txn, batch.operations)
            self._batches += 1
            self._put_bytes += batch.size_bytes
        if self._clock.monotonic() >= self._next_expiry:
            self.expire_snapshots()

    def fold(self, table: Table, pause: Callable[[], object] = _no_pause) -> None:
        """The effect of many batches as one synced commit; between some rows and the next ones
        `pause` may let others have the interpreter, so no step but the sorting looks at all rows.
        In a thread beside a busy loop 12,000 rows take 11 ms of processor time with one putmulti
        and 16 with a put each."""
        keys = table.sorted_keys()
        with self._writing:
            self._check_writable()
            with self._transaction() as txn:
                for start, end in table.ranges:
                    self._apply(txn, [(Op.DELETE_RANGE, start, end)])
                with txn.cursor() as cursor:
                    for at in range(0, len(keys), FOLD_STEP_ROWS):
                        self._fold_rows(cursor, table.rows, keys[at : at + FOLD_STEP_ROWS])
                        pause()
        if self._clock.monotonic() >= self._next_expiry:
            self.expire_snapshots()

    def _fold_rows(
        self, cursor: _Cursor, rows: Mapping[bytes, bytes | None], keys: Sequence[bytes]
    ) -> None:
        puts = [(key, value) for key in keys if (value := rows[key]) is not None]
        if puts:
            cursor.putmulti(puts)
        if len(puts) < len(keys):
            for key in keys:
                if rows[key] is None and cursor.set_key(key):
                    cursor.delete()

    def _check_writable(self) -> None:
        self._check_open()
        if self._failure is not None:
            raise WriteFailedError(self._failure)

    @contextmanager
    def _transaction(self) -> Iterator[_Transaction]:
        try:
            with self._env.begin(write=True) as txn:
                yield txn
        except lmdb.Error as error:
            self._failure = _write_failure(self.path, error)
            raise WriteFailedError(self._failure) from error

    def _apply(self, txn: _Transaction, operations: Sequence[Operation]) -> None:
        put, delete = txn.put, txn.delete
        for op, key, value in operations:
            if op is _PUT:
                assert value is not None
                put(key, value)
            elif op is _DELETE:
                delete(key)
            elif not key and value is None:
                txn.drop(self._main, delete=False)
            else:
                _delete_range(txn, key, value)

    # --- snapshots ---------------------------------------------------------------------------

    def snapshot(self, *, max_age_s: float = DEFAULT_SNAPSHOT_MAX_AGE_S) -> LmdbSnapshot:
        now = self._clock.monotonic()
        deadline = now + max_age_s
        if now >= self._next_expiry:
            self.expire_snapshots()
        with self._guard:
            self._check_open()
            if len(self._open) >= self._max_snapshots:
                raise TooManySnapshotsError(
                    f"all {self._max_snapshots} snapshots of {self.path} are in use; close some "
                    "or raise max_snapshots"
                )
            try:
                snapshot = LmdbSnapshot(self, self._env.begin(), now, deadline)
            except lmdb.Error as error:
                raise _read_error(error) from error
            self._open.add(snapshot)
            if deadline < self._next_expiry:
                self._next_expiry = deadline
        return snapshot

    def expire_snapshots(self) -> int:
        """Also clears the readers that dead processes left behind."""
        ended = 0
        with self._guard:
            if self._closed:
                return 0
            now = self._clock.monotonic()
            if now >= self._next_reader_check:
                self._check_readers(now)
            for snapshot in list(self._open):
                if snapshot.deadline <= now and not snapshot.ended:
                    snapshot.end(_refuse_expired(snapshot.deadline - snapshot.opened_at))
                    ended += 1
                if snapshot.ended and snapshot.release():
                    self._open.discard(snapshot)
            self._schedule_expiry()
        return ended

    def release(self, snapshot: LmdbSnapshot) -> None:
        """For LmdbSnapshot.close(): it has ended; forget it, now or as soon as no read is left."""
        with self._guard:
            if snapshot.release():
                self._open.discard(snapshot)
            else:
                self._next_expiry = -math.inf

    def _schedule_expiry(self) -> None:
        deadlines = (-math.inf if one.ended else one.deadline for one in self._open)
        self._next_expiry = min(deadlines, default=math.inf)

    def _check_readers(self, now: float) -> None:
        self._stale_readers += self._env.reader_check()
        self._next_reader_check = now + READER_CHECK_INTERVAL_S

    # --- the rest ----------------------------------------------------------------------------

    def checkpoint(self, directory: Path) -> None:
        """A compacted copy: it holds the live pages only and never waits for the writer."""
        self._check_open()
        files.make_checkpoint_directory(directory)
        try:
            try:
                self._env.copy(str(directory), compact=True)
            except lmdb.IncompatibleError:
                # LMDB refuses to compact a file that lost count of a page; a copy as it is works.
                (directory / DATA_NAME).unlink()
                self._env.copy(str(directory), compact=False)
            files.sync_file(directory / DATA_NAME)
            files.sync_directory(directory)
        except (lmdb.Error, OSError) as error:
            (directory / DATA_NAME).unlink(missing_ok=True)
            raise files.directory_error(
                files.CHECKPOINT, directory, _code(error), str(error)
            ) from error

    def statistics(self) -> EngineStatistics:
        now = self._clock.monotonic()
        with self._guard:
            self._check_open()
            ages = [now - snapshot.opened_at for snapshot in self._open]
            try:
                stat, info = self._env.stat(), self._env.info()
            except lmdb.Error as error:
                raise _read_error(error) from error
        pages = _page_figures(stat, info)
        return EngineStatistics(
            engine="lmdb",
            keys=pages.pairs,
            keys_exact=True,
            disk_bytes=files.allocated_bytes(self.path),
            live_bytes=pages.live_bytes,
            reusable_bytes=pages.reusable_bytes,
            disk_free_bytes=files.free_bytes(self.path),
            batches=self._batches,
            put_bytes=self._put_bytes,
            open_snapshots=len(ages),
            oldest_snapshot_age_s=max(ages, default=0.0),
            details={
                "version": ".".join(map(str, self._env.lib_version())),
                "map_size_bytes": info["map_size"],
                "page_bytes": pages.page_bytes,
                "depth": stat["depth"],
                "branch_pages": pages.branch_pages,
                "leaf_pages": pages.leaf_pages,
                "overflow_pages": pages.overflow_pages,
                "other_pages": pages.other_pages,
                "last_transaction": info["last_txnid"],
                "stale_readers_cleared": self._stale_readers,
            },
        )

    def close(self) -> None:
        """Waits for a write in flight. Reads in flight finish or raise; none sees freed pages."""
        with self._writing:
            if self._closed:
                return
            self._closed = True
            with self._guard:
                for snapshot in self._open:
                    snapshot.end(_refuse_closed)
                self._open.clear()
                self._env.close()
            os.close(self._lock_descriptor)

    def _check_open(self) -> None:
        if self._closed:
            raise EngineClosedError(f"the engine in {self.path} is closed; open it again")


# --- reading and deleting by cursor ----------------------------------------------------------


def _page(
    cursor: _Cursor, start: bytes, end: bytes | None, reverse: bool, limit: int, max_bytes: int
) -> ScanPage:
    """Blocks of pairs, as many as take a quarter of what is left of the page if they are like those
    before: a pair of a block costs a third of one that is looked at by itself.

    The size of the first pair left out decides `more` for the byte bound; for the count bound, its
    key.
    """
    if end is None:
        end = _ABOVE_ALL_KEYS
    if not (_before(cursor, end) if reverse else cursor.set_range(start)):
        return ScanPage([], more=False)
    bound = start if reverse else end
    items: list[tuple[bytes, bytes]] = []
    size, many = 0, _FIRST_ROWS
    pairs: Iterator[tuple[bytes, bytes]] = cursor.iterprev() if reverse else cursor.iternext()
    while block := list(islice(pairs, min(many, limit - len(items)))):
        whole = size + sum(map(len, chain.from_iterable(block)))
        if whole > max_bytes or (block[-1][0] < bound) is reverse:
            for pair in block:
                key, value = pair
                if (key < bound) is reverse:
                    return ScanPage(items, more=False)
                size += len(key) + len(value)
                if size > max_bytes and items:
                    return ScanPage(items, more=True)
                items.append(pair)
            continue  # its only pair was larger than a page
        items += block
        size = whole
        many = max(1, min(_BLOCK_ROWS, (max_bytes - size) * len(items) // (4 * max(1, size))))
    if len(items) < limit or not (cursor.prev() if reverse else cursor.next()):
        return ScanPage(items, more=False)
    return ScanPage(items, more=(cursor.key() < bound) is not reverse)


def _before(cursor: _Cursor, end: bytes) -> bool:
    """To the last key below `end`."""
    return cursor.prev() if cursor.set_range(end) else cursor.last()


def _delete_range(txn: _Transaction, start: bytes, end: bytes | None) -> None:
    with txn.cursor() as cursor:
        cursor.set_range(start)
        while key := cursor.key():  # empty once the cursor stands behind the last pair
            if end is not None and key >= end:
                return
            cursor.delete()  # and moves on


# --- opening and errors ----------------------------------------------------------------------


def _open_environment(path: Path, map_size_bytes: int, max_snapshots: int) -> lmdb.Environment:
    try:
        if not (path / DATA_NAME).exists():
            _create_data_file(path)
        check_header(path)
        environment = lmdb.open(
            str(path),
            map_size=map_size_bytes,
            max_readers=max_snapshots + CHECKPOINTS,
            max_spare_txns=1,
            mode=0o700,
        )
    except (lmdb.Error, OSError) as error:
        raise _open_error(path, error) from error
    try:
        check_length(path, _page_figures(environment.stat(), environment.info()))
    except BaseException:
        environment.close()
        raise
    return environment


def _create_data_file(path: Path) -> None:
    """LMDB leaves the first two pages unsynced, and a power cut that tears them leaves a file that
    never opens again. So they are made aside and named only when they are on the disk."""
    new, new_lock = path / NEW_DATA_NAME, path / f"{NEW_DATA_NAME}-lock"
    for leftover in (new, new_lock):
        leftover.unlink(missing_ok=True)
    lmdb.open(str(new), subdir=False, mode=0o700).close()
    files.sync_file(new)
    new.rename(path / DATA_NAME)
    new_lock.unlink()
    files.sync_directory(path)


def _page_figures(stat: lmdb._StatDict, info: lmdb._InfoDict) -> PageFigures:
    return PageFigures(
        page_bytes=stat["psize"],
        last_page=info["last_pgno"],
        branch_pages=stat["branch_pages"],
        leaf_pages=stat["leaf_pages"],
        overflow_pages=stat["overflow_pages"],
        pairs=stat["entries"],
    )


def _open_error(path: Path, error: lmdb.Error | OSError) -> StorageError:
    if isinstance(error, (lmdb.InvalidError, lmdb.VersionMismatchError, lmdb.CorruptedError)):
        return damaged(path, str(error))
    return files.directory_error(OPEN, path, _code(error), str(error))


def _code(error: lmdb.Error | OSError) -> int:
    """An errno, one of LMDB's own negative codes, or 0 if there is none."""
    code = error.errno if isinstance(error, OSError) else getattr(error, "code", 0)
    return code or 0


def _write_failure(path: Path, error: lmdb.Error) -> str:
    if isinstance(error, lmdb.MapFullError):
        advice = "its map is full: restart with a larger map size"
    elif isinstance(error, lmdb.DiskError) or _code(error) == errno.ENOSPC:
        advice = "the disk is full: free some space and restart"
    else:
        advice = "look at the disk's health and restart"
    return f"a write to {path} failed ({error}) and the engine takes no more; {advice}"


def _read_error(error: lmdb.Error) -> StorageError:
    return ReadFailedError(f"a read failed ({error}); restart, and restore a backup if it persists")
