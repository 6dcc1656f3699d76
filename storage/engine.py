"""The one interface to ordered bytes on a disk, and its contract.

An Engine is a sorted map from byte keys to byte values. Four implementations stand behind it
(memory, LMDB, RocksDB, and a faulty one that wraps any), and one contract suite holds all of them
to every sentence below (tests/contract/test_engine.py).

Writing
- All writes go through `write(batch, sync=...)`. A batch is applied whole or not at all, in the
  order of its operations: a put after a delete-range of its key survives.
- When `write(sync=True)` returns, the batch and every batch before it survive a power cut.
  A batch written with sync=False may be lost in one, but only together with all later ones: what
  survives is always a prefix of the writes, never a subset. An engine may sync more than asked.
- One thread at a time writes. Snapshots may be opened, read and closed by another thread meanwhile.
- A write that raises WriteFailedError has an unknown outcome and poisons the engine: each later
  write raises it again, because after a failed sync nothing that the operating system says about
  the file can be believed. Reads go on; the process is expected to stop.
- An empty batch is no operation, but `sync=True` on it still syncs what came before.

Reading
- `snapshot()` sees exactly the writes that had returned when it was opened, as long as it lives. A
  write still running in another thread then is seen whole or not at all.
- One thread at a time uses a snapshot; any thread may end it (expiry, close of the engine).
- Old readers pin old pages, so a snapshot has a maximum age. `expire_snapshots()` ends those past
  it; a read of an ended one raises SnapshotExpiredError and the caller resumes with a new one.
- `scan` gives the pairs of start <= key < end in order (reverse: in falling order, the same range),
  bounded by count and bytes. It gives at least one pair if there is one, however large, so that a
  caller always gets on. `more` is true exactly if a pair of the range was left out.

Keys are 1 to 511 bytes (LMDB's limit); values are any bytes up to 4 MiB, so that a record with the
previous one embedded fits. To `get` a key that cannot be stored is a defect of the caller. Bounds
of ranges are any bytes; `None` as an end means unbounded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from itertools import repeat
from pathlib import Path
from typing import Final, NamedTuple, Protocol, cast

from storage.errors import EmptyKeyError, KeyTooLongError, ValueTooLargeError

ENGINE_KEY_MAX_BYTES: Final = 511
ENGINE_VALUE_MAX_BYTES: Final = 4 * 1024 * 1024
DEFAULT_SNAPSHOT_MAX_AGE_S: Final = 60.0
DEFAULT_SCAN_LIMIT: Final = 10_000
DEFAULT_SCAN_BYTES: Final = 4 * 1024 * 1024


class Op(IntEnum):
    PUT = 0
    DELETE = 1
    DELETE_RANGE = 2


_PUT: Final = Op.PUT  # looking the member up each time costs a third of Batch.put

Operation = tuple[Op, bytes, bytes | None]
"""(PUT, key, value) | (DELETE, key, None) | (DELETE_RANGE, start, end or None for unbounded)"""


def size_of(operations: Sequence[Operation]) -> int:
    """Their keys and values, in bytes."""
    return sum(len(key) + len(value or b"") for _, key, value in operations)


class Batch:
    """Operations that take effect together, in order. Bad keys are refused here, before anything
    is written. An engine never keeps or changes a batch that it was given."""

    __slots__ = ("operations", "size_bytes")

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self.size_bytes = 0

    def put(self, key: bytes, value: bytes) -> None:
        size = len(key)
        if not 0 < size <= ENGINE_KEY_MAX_BYTES:
            raise _bad_key(key)
        more = len(value)
        if more > ENGINE_VALUE_MAX_BYTES:
            raise ValueTooLargeError(
                f"a value of {more} bytes is over the engine's limit of "
                f"{ENGINE_VALUE_MAX_BYTES}; store it in parts"
            )
        self.operations.append((_PUT, key, value))
        self.size_bytes += size + more

    def put_rows(self, rows: Sequence[tuple[bytes, bytes]]) -> None:
        """Many puts, in order. Of keys and values that are known to fit: nothing is refused."""
        if rows:
            self.put_columns(*zip(*rows, strict=True))

    def put_columns(self, keys: Sequence[bytes], values: Sequence[bytes]) -> None:
        """The same, of rows that nobody has paired yet."""
        self.operations += zip(repeat(_PUT, len(keys)), keys, values, strict=True)
        self.size_bytes += sum(map(len, keys)) + sum(map(len, values))

    def delete(self, key: bytes) -> None:
        if not 0 < len(key) <= ENGINE_KEY_MAX_BYTES:
            raise _bad_key(key)
        self.operations.append((Op.DELETE, key, None))
        self.size_bytes += len(key)

    def delete_range(self, start: bytes, end: bytes | None) -> None:
        """Remove every key of start <= key < end; `end=None` is unbounded."""
        self.operations.append((Op.DELETE_RANGE, start, end))
        self.size_bytes += len(start) + len(end or b"")

    def extend(self, other: Batch) -> None:
        self.operations.extend(other.operations)
        self.size_bytes += other.size_bytes

    def repeat(self, operations: Sequence[Operation]) -> None:
        """Those of a batch, or of the first part of one."""
        self.operations += operations
        self.size_bytes += size_of(operations)

    def __len__(self) -> int:
        return len(self.operations)


def _bad_key(key: bytes) -> EmptyKeyError | KeyTooLongError:
    if not key:
        return EmptyKeyError("an empty key cannot be stored; give a key of at least one byte")
    return KeyTooLongError(
        f"a key of {len(key)} bytes is over the engine's limit of {ENGINE_KEY_MAX_BYTES}"
    )


class ScanPage(NamedTuple):
    items: list[tuple[bytes, bytes]]
    more: bool


class Reader(Protocol):
    """What pure files read from: a snapshot, or anything that looks like one."""

    def get(self, key: bytes, /) -> bytes | None: ...

    def scan(
        self,
        start: bytes = b"",
        end: bytes | None = None,
        *,
        reverse: bool = False,
        limit: int = DEFAULT_SCAN_LIMIT,
        max_bytes: int = DEFAULT_SCAN_BYTES,
    ) -> ScanPage: ...


class Snapshot(Reader, Protocol):
    def close(self) -> None:
        """Release the pages it pins. Safe to call twice; reads afterwards raise."""
        ...

    def __enter__(self) -> Snapshot: ...

    def __exit__(self, *exc: object) -> None: ...


@dataclass(frozen=True, slots=True)
class EngineStatistics:
    """Plain numbers. Sizes are bytes; counters run from the moment the engine was opened."""

    engine: str
    keys: int
    """Number of keys; an estimate where the engine cannot count cheaply (see keys_exact)."""
    keys_exact: bool
    disk_bytes: int
    """Bytes that the files occupy on the disk (not their sparse length)."""
    live_bytes: int
    """Bytes of keys and values that a full scan would return; an estimate for an LSM tree."""
    reusable_bytes: int
    """Bytes inside the files that later writes can take without growing them."""
    disk_free_bytes: int
    """Free bytes of the file system that this process may use."""
    batches: int
    put_bytes: int
    """Bytes of keys and values handed to write() (the sizes of its batches)."""
    open_snapshots: int
    oldest_snapshot_age_s: float
    details: Mapping[str, float | str] = field(default_factory=dict)
    """The engine's own figures, named as that engine names them."""

    @property
    def space_amplification(self) -> float:
        """Bytes on disk for a byte of live data; 0.0 while there is no data."""
        return self.disk_bytes / self.live_bytes if self.live_bytes else 0.0


class WritePressure(StrEnum):
    """How far an engine's background work is behind its writers."""

    NONE = "none"
    SLOWDOWN = "slowdown"
    """Writes are taken; admit fewer, or they will stop."""
    STOPPED = "stopped"
    """A write now would wait. Refuse new work early (429), and never write inline on a loop."""


class PressureGauge(Protocol):
    """What an engine with background work (RocksDB) offers besides: cheap enough to ask before
    every admission."""

    def write_pressure(self) -> WritePressure: ...


class BegunSync(NamedTuple):
    descriptor: int
    """What to fdatasync: a file description that nothing else syncs, because the kernel tells a
    failure to each of them once."""
    number: int
    """For `end_sync`."""


class SyncsApart(Protocol):
    """What an engine with a log of its own offers besides: that somebody else (the kernel's
    workers) makes the sync that `write(Batch(), sync=True)` would make. Other writes may be made
    between the two calls."""

    def begin_sync(self) -> BegunSync | None:
        """None: there is nothing to begin, and a write says why."""
        ...

    def end_sync(self, number: int, failure: OSError | None) -> None:
        """The fdatasync begun after `begin_sync` has ended: what had been written by then survives
        a power cut, unless it failed. That poisons the engine and raises, as a write would; so
        does an engine that failed meanwhile."""
        ...


def syncs_apart(engine: object) -> SyncsApart | None:
    """What it offers of that. (A protocol that is checked at run time costs 5 us each time.)"""
    return cast(SyncsApart, engine) if hasattr(engine, "begin_sync") else None


class Engine(Protocol):
    """The contract stands in this module's docstring."""

    def write(self, batch: Batch, *, sync: bool) -> None: ...

    def snapshot(self, *, max_age_s: float = DEFAULT_SNAPSHOT_MAX_AGE_S) -> Snapshot: ...

    def expire_snapshots(self) -> int:
        """End the snapshots past their maximum age; returns how many were ended."""
        ...

    def checkpoint(self, directory: Path) -> None:
        """Write a consistent copy, complete and synced, that opens as an engine of its own. The
        directory must not exist or be empty. Writes may go on meanwhile from another thread; the
        copy holds every write that had returned before the call and a prefix of later ones."""
        ...

    def statistics(self) -> EngineStatistics: ...

    def close(self) -> None:
        """Release files and locks; snapshots end. Safe to call twice."""
        ...


def iterate(
    reader: Reader,
    start: bytes = b"",
    end: bytes | None = None,
    *,
    reverse: bool = False,
    page_limit: int = 1_000,
    page_bytes: int = 1024 * 1024,
) -> Iterator[tuple[bytes, bytes]]:
    """All pairs of a range, a bounded page at a time."""
    while True:
        page = reader.scan(start, end, reverse=reverse, limit=page_limit, max_bytes=page_bytes)
        yield from page.items
        if not page.more:
            return
        last = page.items[-1][0]
        if reverse:
            end = last
        else:
            start = last + b"\x00"
