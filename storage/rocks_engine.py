"""RocksDB behind the Engine contract: a log-structured merge tree through rocksdict.

What rocksdict 0.3.29 does otherwise than its documentation says shaped this file; each point has a
test in tests/unit/storage/test_rocks_*.py:

- `Rdict.write`, gets, iterators and checkpoints hold the interpreter for as long as they last;
  `flush_wal`, `flush`, `compact_range` and `close` let it go. A synced write in one call therefore
  freezes every thread for the length of its sync, the watchdog's too. So a write appends without a
  sync (`no_slowdown`, so that a stall is an error and not a frozen process) and then syncs the log
  by `flush_wal`. Readers see the batch only after that: what was read survives a power cut.
- Iterators of a Snapshot are NOT bound to it: they read the newest state. Only its point gets are.
  An iterator made at the same moment is bound to that moment, so a moment is a pair (`Moment`):
  a Snapshot for gets and an iterator for scans. It is shared by all snapshots opened between two
  writes, and its iterator is made no later than the next write.
- `set_iterate_lower_bound` sets the UPPER bound: bounds are compared here instead.
- Options of an existing database are read from its own OPTIONS file and win over those given,
  unless they are given for the column family `default` as well.
- A Snapshot has no miss but a bare Exception('key not found'); any other message is an error.

The log and prefixes. RocksDB starts a new log file with each memtable, and recovery to a point in
time does not notice that an older log lacks its unsynced end: records of the new one would survive
alone. So the log is synced before any write that may start a new one while something is unsynced.

Write stalls. RocksDB's own slowdown (which sleeps inside the call) is off; it only stops.

    write_pressure()   none -> slowdown -> stopped      asked by callers before they admit work
    write()            while stopped: waits with the interpreter free, at most `stall_wait_s`, then
                       raises WriteStalledError (nothing written, the engine stays usable)

A caller on an event loop hands writes to a thread while pressure is not `none` (AdaptiveWriter in
storage/writers.py), and admits less work above the engine.
"""

from __future__ import annotations

import math
import os
import shutil
import threading
from pathlib import Path
from typing import Final, TypeAlias

from rocksdict import (
    BlockBasedIndexType,
    BlockBasedOptions,
    Cache,
    Checkpoint,
    DBCompactionStyle,
    DBCompressionType,
    DBRecoveryMode,
    FifoCompactOptions,
    Options,
    Rdict,
    WriteBatch,
    WriteOptions,
)

from storage import files
from storage.clock import Clock
from storage.engine import (
    DEFAULT_SNAPSHOT_MAX_AGE_S,
    Batch,
    EngineStatistics,
    Op,
    WritePressure,
)
from storage.errors import (
    DataDirectoryError,
    EngineClosedError,
    WriteFailedError,
    WriteStalledError,
)
from storage.rocks_errors import errno_of, first_line, is_manifest_damage, is_stall, open_error
from storage.rocks_figures import read_figures
from storage.rocks_files import mend_manifest, prepare_directory
from storage.rocks_options import (
    MIB,
    WRITE_BUFFERS,
    Compaction,
    Compression,
    RocksOptions,
    WalRecovery,
)
from storage.rocks_snapshot import (
    ABOVE_ALL_KEYS,
    Cursor,
    Moment,
    RocksSnapshot,
    refuse_closed,
    refuse_expired,
)

BlockCache: TypeAlias = Cache
_STALL_POLL_S: Final = 0.001
# A memtable is full, and the next write starts a new log, at about 95% of its buffer by a count
# that runs up to one arena block (an eighth of a small buffer) ahead of the property read here.
_MAY_ROTATE_SHARE: Final = 0.7
_PUT: Final = Op.PUT
_DELETE: Final = Op.DELETE


class RocksEngine:
    """The contract stands in storage/engine.py, RocksDB's part in this module's docstring.

    Invariants: `_moment` is what new snapshots see, None standing for the newest state. It is the
    newest state, or lies before the one batch that is `_hidden` until its sync. `_unsynced` is true
    while a batch may be in the log and not on the disk. Locks are taken in the order maintaining,
    writing, guard.
    """

    def __init__(
        self,
        path: Path,
        *,
        clock: Clock,
        options: RocksOptions | None = None,
        block_cache: BlockCache | None = None,
        create: bool = True,
    ) -> None:
        self.path = path
        self.options = options or RocksOptions()
        self._clock = clock
        self._maintaining = threading.Lock()
        self._writing = threading.Lock()
        self._guard = threading.Lock()
        self._closing = threading.Event()
        self._snapshots: set[RocksSnapshot] = set()
        self._next_expiry = math.inf
        self._moment: Moment | None = None
        self._hidden = False
        self._unsynced = False
        self._sync_every_write = False
        self._failure: str | None = None
        self._closed = False
        self._batches = 0
        self._put_bytes = 0
        self._operations = 0
        self._stalls = 0
        self._append = WriteOptions()
        self._append.no_slowdown = True
        prepare_directory(path, create)
        self._lock_descriptor = files.lock_directory(path, "open the engine in")
        try:
            self._db = _open_database(path, self.options, block_cache)
        except BaseException:
            os.close(self._lock_descriptor)
            raise

    # --- writing -----------------------------------------------------------------------------

    def write(self, batch: Batch, *, sync: bool) -> None:
        with self._writing:
            self._check_open()
            if self._failure is not None:
                raise WriteFailedError(self._failure)
            if self._unsynced and self._may_start_a_log():
                self._sync_log()
            sync = sync or self._sync_every_write
            if batch.operations:
                self._append_to_log(batch, hide=sync)
            if sync:
                self._sync_log()
        if self._clock.monotonic() >= self._next_expiry:
            self.expire_snapshots()

    def _append_to_log(self, batch: Batch, *, hide: bool) -> None:
        """`hide`: snapshots go on seeing the state before until `_sync_log`."""
        waits = 0
        while not self._appended(batch, hide):
            self._stalls += waits == 0
            if waits * _STALL_POLL_S >= self.options.stall_wait_s:
                raise WriteStalledError(
                    f"the engine in {self.path} took no write for {self.options.stall_wait_s:g} s: "
                    "flushes and compactions are behind; nothing was written, try again later and "
                    "send less"
                )
            if self._closing.wait(_STALL_POLL_S):
                raise EngineClosedError(f"the engine in {self.path} is being closed")
            waits += 1
        self._batches += 1
        self._put_bytes += batch.size_bytes
        self._operations += len(batch)

    def _appended(self, batch: Batch, hide: bool) -> bool:
        """False: RocksDB takes no write now, and nothing was written."""
        raw = _raw_batch(batch)
        with self._guard:
            # From here to the end of the block the state changes; nobody opens a snapshot in it.
            before = self._moment
            if hide and before is None:
                before = Moment(self._db.snapshot())
            if before is not None and before.cursor is None:
                before.cursor = self._db.iter()
            try:
                self._db.write(raw, self._append)
            except Exception as error:
                if is_stall(error):
                    return False
                raise self._poisoned(error) from error
            self._unsynced = True
            self._hidden = hide
            self._moment = before if hide else None
        return True

    def _sync_log(self) -> None:
        try:
            self._db.flush_wal(True)
        except Exception as error:
            raise self._poisoned(error) from error
        with self._guard:
            self._unsynced = False
            if self._hidden:
                self._hidden = False
                self._moment = None

    def _may_start_a_log(self) -> bool:
        used = self._db.property_int_value("rocksdb.cur-size-active-mem-table") or 0
        return used >= self.options.write_buffer_bytes * _MAY_ROTATE_SHARE

    def _poisoned(self, error: Exception) -> WriteFailedError:
        self._failure = (
            f"a commit to {self.path} failed ({first_line(error)}): whether it reached the disk is "
            "not known; check the disk and its free space, then restart this process"
        )
        return WriteFailedError(self._failure)

    def write_pressure(self) -> WritePressure:
        """Four properties, about 2 us: ask it before admitting work."""
        with self._guard:
            self._check_open()
            number, options = self._db.property_int_value, self.options
            if self._failure is not None or number("rocksdb.is-write-stopped"):
                return WritePressure.STOPPED
            level0_files = number("rocksdb.num-files-at-level0") or 0
            if (
                (number("rocksdb.num-immutable-mem-table") or 0) >= WRITE_BUFFERS - 1
                or (number("rocksdb.estimate-pending-compaction-bytes") or 0)
                >= options.slowdown_pending_bytes
                or (
                    level0_files >= options.slowdown_level0_files
                    and options.compaction is not Compaction.FIFO
                )
            ):
                return WritePressure.SLOWDOWN
            return WritePressure.NONE

    # --- snapshots ---------------------------------------------------------------------------

    def snapshot(self, *, max_age_s: float = DEFAULT_SNAPSHOT_MAX_AGE_S) -> RocksSnapshot:
        now = self._clock.monotonic()
        if now >= self._next_expiry:
            self.expire_snapshots()
        with self._guard:
            self._check_open()
            moment = self._moment
            if moment is None:
                moment = self._moment = Moment(self._db.snapshot())
            snapshot = RocksSnapshot(self, moment, now, now + max_age_s)
            self._snapshots.add(snapshot)
            if snapshot.deadline < self._next_expiry:
                self._next_expiry = snapshot.deadline
        return snapshot

    def cursor_of(self, moment: Moment) -> Cursor | None:
        """For RocksSnapshot.scan(): a moment without a cursor is the newest state, so it can still
        be made; unless its last snapshot ended meanwhile and nobody keeps the moment."""
        if moment.cursor is None:
            with self._guard:
                if moment is self._moment and moment.cursor is None:
                    moment.cursor = self._db.iter()
        return moment.cursor

    def expire_snapshots(self) -> int:
        with self._guard:
            now = self._clock.monotonic()
            old = [one for one in self._snapshots if one.deadline <= now]
            for snapshot in old:
                snapshot.end(refuse_expired(snapshot.deadline - snapshot.opened_at))
                self._snapshots.discard(snapshot)
            self._next_expiry = min((one.deadline for one in self._snapshots), default=math.inf)
            self._release_unused_moment()
            return len(old)

    def forget(self, snapshot: RocksSnapshot) -> None:
        """For RocksSnapshot.close(): it has ended."""
        with self._guard:
            self._snapshots.discard(snapshot)
            self._release_unused_moment()

    def _release_unused_moment(self) -> None:
        if not self._snapshots and not self._hidden:
            self._moment = None

    # --- the rest ----------------------------------------------------------------------------

    def checkpoint(self, directory: Path) -> None:
        """RocksDB links its immutable files into the copy, so on the same file system it takes
        little time and space; damage of a shared file is then damage of both."""
        staging = directory.with_name(directory.name + ".tmp")
        with self._maintaining:
            self._check_open()
            files.make_checkpoint_directory(directory)
            if staging.exists():
                raise DataDirectoryError(
                    f"cannot write a checkpoint to {directory}: RocksDB works in {staging} first "
                    "and that exists; remove it or name another directory"
                )
            try:
                # The flush starts a new log at any moment: nothing may be unsynced from here on.
                with self._writing:
                    self._sync_every_write = True
                    if self._unsynced and self._failure is None:
                        self._sync_log()
                self._copy_to(directory)
            finally:
                self._sync_every_write = False

    def _copy_to(self, directory: Path) -> None:
        try:
            # It lets the interpreter go; the checkpoint does not, but has little left to write.
            self._db.flush(True)
            directory.rmdir()
            Checkpoint(self._db).create_checkpoint(str(directory))
            for path in directory.iterdir():
                files.sync_file(path)
            files.sync_directory(directory)
            files.sync_directory(directory.parent)
        except Exception as error:
            shutil.rmtree(directory, ignore_errors=True)
            shutil.rmtree(directory.with_name(directory.name + ".tmp"), ignore_errors=True)
            raise files.directory_error(
                "write a checkpoint to", directory, errno_of(error), first_line(error)
            ) from error

    def compact(self, start: bytes = b"", end: bytes | None = None) -> None:
        """Rewrite a range now, dropping what was deleted or overwritten. Writes may go on."""
        with self._maintaining:
            self._check_open()
            self._db.compact_range(start or None, end)

    def statistics(self) -> EngineStatistics:
        now = self._clock.monotonic()
        with self._guard:
            self._check_open()
            ages = [now - snapshot.opened_at for snapshot in self._snapshots]
            average = self._put_bytes / self._operations if self._operations else 0.0
            found = read_figures(self._db.property_int_value, self._db.property_value, average)
        return EngineStatistics(
            engine="rocksdb",
            keys=found.keys,
            keys_exact=False,
            disk_bytes=files.allocated_bytes(self.path),
            live_bytes=found.live_bytes,
            reusable_bytes=0,
            disk_free_bytes=files.free_bytes(self.path),
            batches=self._batches,
            put_bytes=self._put_bytes,
            open_snapshots=len(ages),
            oldest_snapshot_age_s=max(ages, default=0.0),
            details={**found.details, "writes_stalled": self._stalls},
        )

    def close(self) -> None:
        """Waits for a write or checkpoint in flight, ends snapshots, then closes the database:
        it would stay open and locked under them."""
        self._closing.set()
        with self._maintaining, self._writing, self._guard:
            if self._closed:
                return
            self._closed = True
            for snapshot in self._snapshots:
                snapshot.end(refuse_closed)
            self._snapshots.clear()
            self._moment = None
            try:
                self._db.close()
            except Exception as error:
                # After a failed commit nothing more is promised; what failed was said then.
                if self._failure is None:
                    raise self._poisoned(error) from error
            finally:
                os.close(self._lock_descriptor)

    def _check_open(self) -> None:
        if self._closed:
            raise EngineClosedError(f"the engine in {self.path} is closed; open it again")


def _raw_batch(batch: Batch) -> WriteBatch:
    raw = WriteBatch(raw_mode=True)
    put, delete = raw.put, raw.delete
    for op, key, value in batch.operations:
        if op is _PUT:
            put(key, value)
        elif op is _DELETE:
            delete(key)
        elif value is None:
            raw.delete_range(key, ABOVE_ALL_KEYS)
        elif key < value:
            raw.delete_range(key, value)
    return raw


# --- opening ---------------------------------------------------------------------------------


def block_cache(size_bytes: int) -> BlockCache:
    """A cache that several engines may share."""
    return Cache(size_bytes)


def _open_database(path: Path, options: RocksOptions, cache: Cache | None) -> Rdict:
    raw = _raw_options(options, cache or Cache(options.block_cache_bytes))
    try:
        try:
            database = Rdict(str(path), raw, column_families={"default": raw})
        except Exception as error:
            if not (is_manifest_damage(error) and mend_manifest(path)):
                raise
            database = Rdict(str(path), raw, column_families={"default": raw})
        if options.compaction is Compaction.FIFO:
            database.set_options({"ttl": str(options.fifo_max_age_s)})
    except Exception as error:
        raise open_error(path, error) from error
    return database


def _raw_options(options: RocksOptions, cache: Cache) -> Options:
    table = BlockBasedOptions()
    table.set_block_cache(cache)
    table.set_cache_index_and_filter_blocks(True)
    table.set_pin_l0_filter_and_index_blocks_in_cache(True)
    # Indexes and filters in pieces of a block each: whole ones are of megabytes, so that a cache
    # smaller than all of them loads one anew for nearly every get (measured at two million rows:
    # 1,400 us a get, in pieces 31 us).
    table.set_index_type(BlockBasedIndexType.two_level_index_search())
    table.set_partition_filters(True)
    table.set_pin_top_level_index_and_filter(True)
    if options.bloom_bits_per_key:
        table.set_bloom_filter(options.bloom_bits_per_key, False)
    raw = Options(raw_mode=True)
    raw.create_if_missing(True)
    raw.set_block_based_table_factory(table)
    raw.set_compression_type(_COMPRESSION[options.upper_compression]())
    raw.set_bottommost_compression_type(_COMPRESSION[options.bottom_compression]())
    raw.set_write_buffer_size(options.write_buffer_bytes)
    raw.set_max_write_buffer_number(WRITE_BUFFERS)
    raw.set_max_background_jobs(options.background_threads)
    raw.set_max_open_files(options.max_open_files)
    raw.set_wal_recovery_mode(_RECOVERY[options.wal_recovery]())
    # Equal triggers switch RocksDB's own slowdown off.
    raw.set_level_zero_slowdown_writes_trigger(options.stop_level0_files)
    raw.set_level_zero_stop_writes_trigger(options.stop_level0_files)
    raw.set_soft_pending_compaction_bytes_limit(options.stop_pending_bytes)
    raw.set_hard_pending_compaction_bytes_limit(options.stop_pending_bytes)
    raw.set_level_compaction_dynamic_level_bytes(True)
    raw.set_bytes_per_sync(MIB)
    raw.set_avoid_unnecessary_blocking_io(True)
    raw.set_keep_log_file_num(4)
    raw.set_max_log_file_size(8 * MIB)
    if options.rate_limit_bytes_per_s:
        raw.set_ratelimiter(options.rate_limit_bytes_per_s, 100_000, 10)
    if options.statistics:
        raw.enable_statistics()
    raw.set_compaction_style(_COMPACTION[options.compaction]())
    if options.compaction is Compaction.FIFO:
        raw.set_max_open_files(-1)  # RocksDB asks for it
        fifo = FifoCompactOptions()
        fifo.max_table_files_size = options.fifo_max_bytes
        raw.set_fifo_compaction_options(fifo)
    return raw


_COMPRESSION: Final = {
    Compression.NONE: DBCompressionType.none,
    Compression.LZ4: DBCompressionType.lz4,
    Compression.ZSTD: DBCompressionType.zstd,
}
_COMPACTION: Final = {
    Compaction.LEVELED: DBCompactionStyle.level,
    Compaction.UNIVERSAL: DBCompactionStyle.universal,
    Compaction.FIFO: DBCompactionStyle.fifo,
}
_RECOVERY: Final = {
    WalRecovery.POINT_IN_TIME: DBRecoveryMode.point_in_time,
    WalRecovery.ABSOLUTE: DBRecoveryMode.absolute_consistency,
}
