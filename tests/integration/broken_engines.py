"""Engines that break a promise on purpose: a proof that does not catch them proves nothing.

Child processes open them by the path of this file (chaos/powercut/opening.py).
"""

from __future__ import annotations

import functools
import os
from pathlib import Path
from unittest.mock import patch

from chaos.powercut import engines
from chaos.powercut.engines import Wrapped
from storage.engine import Batch, Engine


class Unsynced(Wrapped):
    """Acknowledges synced writes that it did not sync."""

    def write(self, batch: Batch, *, sync: bool) -> None:
        self.inner.write(batch, sync=False)


class Halves(Wrapped):
    """Writes a batch in two parts."""

    def write(self, batch: Batch, *, sync: bool) -> None:
        half = len(batch) // 2
        for operations in (batch.operations[:half], batch.operations[half:]):
            part = Batch()
            part.operations.extend(operations)
            self.inner.write(part, sync=sync)


class Late(Wrapped):
    """Acknowledges a batch that it writes only eight batches later."""

    def __init__(self, inner: Engine) -> None:
        super().__init__(inner)
        self.kept: list[Batch] = []

    def write(self, batch: Batch, *, sync: bool) -> None:
        self.kept.append(batch)
        if len(self.kept) > 8:
            self.inner.write(self.kept.pop(0), sync=sync)


def lmdb_nosync(path: Path) -> Engine:
    """LMDB with its NOSYNC flag."""
    import lmdb

    with patch.object(lmdb, "open", functools.partial(lmdb.open, sync=False)):
        return engines.lmdb(path)


def logged_fold_ahead(path: Path) -> Engine:
    """The tree takes records that are not synced in the log: a power cut loses their end, and the
    next start reads older records over newer ones."""
    from storage.logged_engine import LoggedEngine
    from storage.wal import WriteAheadLog

    real = LoggedEngine._begin_fold

    def begin_fold(engine: LoggedEngine) -> None:
        with patch.object(WriteAheadLog, "sync", lambda log: None):
            real(engine)
        engine._log.synced_number = max(engine._log.synced_number, engine._log.last_number)

    LoggedEngine._begin_fold = begin_fold  # type: ignore[method-assign]
    return engines.logged(path)


def logged_header_ahead(path: Path) -> Engine:
    """A new segment's header says that everything is in the tree, which it is not."""
    from storage.wal import WriteAheadLog
    from storage.wal_format import SegmentHeader

    def header(log: WriteAheadLog) -> SegmentHeader:
        return SegmentHeader(log._newest, log.last_number + 1, log.last_number)

    WriteAheadLog._header = header  # type: ignore[method-assign]
    return engines.logged(path)


def logged_unsynced_start(path: Path) -> Engine:
    """A start does not sync what it reads, though it puts it into the tree."""
    from storage import files
    from storage.wal import Replay, WriteAheadLog

    real = WriteAheadLog.replay

    def replay(log: WriteAheadLog, take: Replay) -> None:
        with patch.object(files, "sync_file", lambda path: None):
            real(log, take)

    WriteAheadLog.replay = replay  # type: ignore[method-assign]
    return engines.logged(path)


def logged_believing(path: Path) -> Engine:
    """The log takes a record by its number and length, whatever its bytes are."""
    from storage import wal, wal_format

    def believing(data: memoryview, at: int, number: int) -> tuple[int, int] | None:
        begin = at + wal_format.RECORD_HEAD_BYTES
        size, found, _ = wal_format._RECORD.unpack_from(data, at + wal_format._CHECKSUM.size)
        return (begin, begin + size) if found == number and begin + size <= len(data) else None

    wal.read_record = believing
    return engines.logged(path)


def kernel_synced_ahead(path: Path) -> Engine:
    """What the kernel was told to sync is taken for synced; that it was is only heard of before
    the next one."""
    from storage.kernel_sync import KernelSync

    submit, end, wait = KernelSync.submit, KernelSync.end, KernelSync.wait

    def submit_ahead(kernel: KernelSync, descriptor: int) -> None:
        if kernel.in_flight:
            wait(kernel)
            end(kernel)
        submit(kernel, descriptor)
        os.eventfd_write(kernel.descriptor, 1)

    def end_ahead(kernel: KernelSync) -> int | None:
        return 0 if kernel.in_flight else None

    engine = engines.kernel_synced(path)  # after its probe, which is right
    KernelSync.submit = submit_ahead  # type: ignore[method-assign]
    KernelSync.end = end_ahead  # type: ignore[method-assign]
    return engine


def rocksdb_unsynced(path: Path) -> Engine:
    """RocksDB whose log is never synced for the sake of a batch."""
    return Unsynced(engines.rocksdb(path))


def rocksdb_rotating(path: Path) -> Engine:
    """RocksDB that starts a new log while the end of the old one is not synced: a power cut may
    then keep later batches and lose earlier ones."""
    from storage.rocks_engine import RocksEngine

    RocksEngine._may_start_a_log = lambda engine: False  # the process is of this test alone
    return engines.rocksdb(path)


def lmdb_halves(path: Path) -> Engine:
    return Halves(engines.lmdb(path))


def rocksdb_halves(path: Path) -> Engine:
    return Halves(engines.rocksdb(path))


def lmdb_late(path: Path) -> Engine:
    return Late(engines.lmdb(path))


def rocksdb_late(path: Path) -> Engine:
    return Late(engines.rocksdb(path))
