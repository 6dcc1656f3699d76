"""Engines, their disk and the reserve as metrics. Pure. `regime` is strong or leaderless."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, Protocol

from kv.metrics.instruments import Definition, Reading, counter, gauge
from storage.engine import EngineStatistics
from storage.space import SpaceGuard


class CommitterFigures(Protocol):
    """The counters of storage.committer.Committer."""

    turns: int
    commits: int
    stalls: int


_ENGINE: Final = "regime", "engine"

DISK_BYTES: Final = gauge(
    "januskv_engine_disk_bytes", "Bytes that the files occupy on the disk.", "bytes", *_ENGINE
)
LIVE_BYTES: Final = gauge(
    "januskv_engine_live_bytes", "Bytes of keys and values that are stored.", "bytes", *_ENGINE
)
REUSABLE_BYTES: Final = gauge(
    "januskv_engine_reusable_bytes", "Bytes in the files that writes can take again.", "bytes",
    *_ENGINE,
)  # fmt: skip
DISK_FREE_BYTES: Final = gauge(
    "januskv_engine_disk_free_bytes", "Free bytes of the file system under the engine.", "bytes",
    *_ENGINE,
)  # fmt: skip
KEYS: Final = gauge(
    "januskv_engine_keys", "Records of all tables (an estimate for RocksDB).", "keys", *_ENGINE
)
BATCHES: Final = counter("januskv_engine_batches_total", "Batches written.", "batches", *_ENGINE)
PUT_BYTES: Final = counter(
    "januskv_engine_put_bytes_total", "Bytes of keys and values written.", "bytes", *_ENGINE
)
OPEN_SNAPSHOTS: Final = gauge(
    "januskv_engine_open_snapshots", "Readers that pin old pages.", "snapshots", *_ENGINE
)
OLDEST_SNAPSHOT: Final = gauge(
    "januskv_engine_oldest_snapshot_seconds", "Age of the oldest reader.", "seconds", *_ENGINE
)
_ENGINE_DEFINITIONS: Final = (
    DISK_BYTES, LIVE_BYTES, REUSABLE_BYTES, DISK_FREE_BYTES, KEYS, BATCHES, PUT_BYTES,
    OPEN_SNAPSHOTS, OLDEST_SNAPSHOT,
)  # fmt: skip

MAP_SIZE_BYTES: Final = gauge(
    "januskv_lmdb_map_size_bytes", "The most that LMDB's file can grow to.", "bytes", "regime"
)
PAGE_BYTES: Final = gauge("januskv_lmdb_page_bytes", "Size of LMDB's pages.", "bytes", "regime")
PAGES: Final = gauge(
    "januskv_lmdb_pages", "LMDB's pages in use, by kind.", "pages", "regime", "kind"
)
DEPTH: Final = gauge("januskv_lmdb_depth", "Levels of LMDB's tree.", "levels", "regime")
LAST_TRANSACTION: Final = gauge(
    "januskv_lmdb_last_transaction", "Number of LMDB's last transaction.", "transactions", "regime"
)
STALE_READERS: Final = counter(
    "januskv_lmdb_stale_readers_cleared_total", "Readers that a dead process left behind.",
    "readers", "regime",
)  # fmt: skip

LOG_SYNCS: Final = counter(
    "januskv_log_syncs_total", "Syncs of the write-ahead log.", "syncs", "regime"
)
LOG_KERNEL_SYNCS: Final = counter(
    "januskv_log_kernel_syncs_total", "Of these, those that the kernel's workers made.", "syncs",
    "regime",
)  # fmt: skip

ALARM: Final = gauge(
    "januskv_space_alarm", "1 while growing writes are refused for lack of space.", "flag", "regime"
)
TIMES_RAISED: Final = counter(
    "januskv_space_alarms_total", "How often that alarm was raised.", "alarms", "regime"
)
RESERVE_BYTES: Final = gauge(
    "januskv_space_reserve_bytes", "Bytes kept for what frees space.", "bytes", "regime"
)
AVAILABLE_BYTES: Final = gauge(
    "januskv_space_available_bytes", "Bytes that writes can still take, the reserve included.",
    "bytes", "regime",
)  # fmt: skip

TURNS: Final = counter("januskv_commit_turns_total", "Turns of the committer.", "turns", "regime")
COMMITS: Final = counter("januskv_commits_total", "Synced writes.", "commits", "regime")
STALLS: Final = counter(
    "januskv_commit_stalls_total", "Writes that took longer than the stall limit.", "stalls",
    "regime",
)  # fmt: skip

DEFINITIONS: Final = (
    *_ENGINE_DEFINITIONS, MAP_SIZE_BYTES, PAGE_BYTES, PAGES, DEPTH, LAST_TRANSACTION,
    STALE_READERS, LOG_SYNCS, LOG_KERNEL_SYNCS, ALARM, TIMES_RAISED, RESERVE_BYTES,
    AVAILABLE_BYTES, TURNS, COMMITS, STALLS,
)  # fmt: skip

_LMDB_DETAILS: Final[tuple[tuple[str, Definition], ...]] = (
    ("map_size_bytes", MAP_SIZE_BYTES),
    ("page_bytes", PAGE_BYTES),
    ("depth", DEPTH),
    ("last_transaction", LAST_TRANSACTION),
    ("stale_readers_cleared", STALE_READERS),
    ("log_syncs", LOG_SYNCS),
    ("log_kernel_syncs", LOG_KERNEL_SYNCS),
)
_PAGE_KINDS: Final = ("branch", "leaf", "overflow", "other")


def engine_readings(engines: Mapping[str, EngineStatistics]) -> Iterator[Reading]:
    for regime, figures in engines.items():
        labels = regime, figures.engine
        yield DISK_BYTES, labels, figures.disk_bytes
        yield LIVE_BYTES, labels, figures.live_bytes
        yield REUSABLE_BYTES, labels, figures.reusable_bytes
        yield DISK_FREE_BYTES, labels, figures.disk_free_bytes
        yield KEYS, labels, figures.keys
        yield BATCHES, labels, figures.batches
        yield PUT_BYTES, labels, figures.put_bytes
        yield OPEN_SNAPSHOTS, labels, figures.open_snapshots
        yield OLDEST_SNAPSHOT, labels, figures.oldest_snapshot_age_s
        if figures.engine == "lmdb":
            yield from _lmdb(regime, figures.details)


def _lmdb(regime: str, details: Mapping[str, float | str]) -> Iterator[Reading]:
    for name, definition in _LMDB_DETAILS:
        if name in details:
            yield definition, (regime,), float(details[name])
    for kind in _PAGE_KINDS:
        if f"{kind}_pages" in details:
            yield PAGES, (regime, kind), float(details[f"{kind}_pages"])


def space_readings(guards: Mapping[str, SpaceGuard]) -> Iterator[Reading]:
    for regime, guard in guards.items():
        labels = (regime,)
        yield ALARM, labels, guard.raised
        yield TIMES_RAISED, labels, guard.times_raised
        yield RESERVE_BYTES, labels, guard.reserve_bytes
        if guard.available_bytes is not None:
            yield AVAILABLE_BYTES, labels, guard.available_bytes


def committer_readings(committers: Mapping[str, CommitterFigures]) -> Iterator[Reading]:
    for regime, committer in committers.items():
        labels = (regime,)
        yield TURNS, labels, committer.turns
        yield COMMITS, labels, committer.commits
        yield STALLS, labels, committer.stalls
