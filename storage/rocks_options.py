"""What may be configured about RocksDB, as values. Nothing here knows the library.

Three settings are not offered, because the engine's promises hang on them:

- recovery modes that skip a damaged record and go on behind it: what survives a power cut must be a
  prefix of the writes;
- more than three write buffers: RocksDB then delays writers by itself, inside a call that holds the
  interpreter (see storage/rocks_engine.py);
- RocksDB's own slowdown triggers: `slowdown_*` here are read by `write_pressure()` instead.

FIFO compaction is no compaction: it deletes the oldest files once the data passes a size or an age.
That is right for a cache or a log of events and data loss for everything else, so it must be asked
for twice (`fifo_drops_oldest_data`).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from storage.errors import InvalidOptionError

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB
WRITE_BUFFERS: Final = 3


class Compaction(StrEnum):
    LEVELED = "leveled"
    """Least space and read cost, most bytes rewritten."""
    UNIVERSAL = "universal"
    """Fewer bytes rewritten, up to twice the space for a while."""
    FIFO = "fifo"
    """Drops the oldest data; see above."""


class Compression(StrEnum):
    NONE = "none"
    LZ4 = "lz4"
    ZSTD = "zstd"


class WalRecovery(StrEnum):
    """Both keep a prefix of the writes."""

    POINT_IN_TIME = "point_in_time"
    """Stop at the first record that is torn or damaged: what a power cut leaves behind."""
    ABSOLUTE = "absolute"
    """Refuse to open if any record is torn or damaged, even the last one of a power cut."""


@dataclass(frozen=True, slots=True)
class RocksOptions:
    compaction: Compaction = Compaction.LEVELED
    upper_compression: Compression = Compression.LZ4
    bottom_compression: Compression = Compression.ZSTD
    bloom_bits_per_key: int = 10
    block_cache_bytes: int = 64 * MIB
    """Index and filter blocks live in it too. Ignored where a shared cache is passed."""
    write_buffer_bytes: int = 32 * MIB
    """Of one memtable; up to four live at once, more while snapshots pin them."""
    rate_limit_bytes_per_s: int = 0
    """Of flushes and compactions together; 0 is no limit."""
    background_threads: int = 2
    max_open_files: int = 1_000
    wal_recovery: WalRecovery = WalRecovery.POINT_IN_TIME
    statistics: bool = False
    """RocksDB's own counters: write amplification, cache and bloom hits."""

    slowdown_level0_files: int = 20
    stop_level0_files: int = 36
    slowdown_pending_bytes: int = 64 * GIB
    """Bytes that compaction is behind by."""
    stop_pending_bytes: int = 256 * GIB
    stall_wait_s: float = 8.0
    """How long a write waits while RocksDB takes none, before WriteStalledError. Shorter than the
    10 s after which the committer's watchdog ends the process, so that the reason is told."""

    fifo_drops_oldest_data: bool = False
    fifo_max_bytes: int = GIB
    fifo_max_age_s: int = 0
    """0 is no limit by age. Looked at with each flush, so data may live somewhat longer."""

    def __post_init__(self) -> None:
        if self.compaction is Compaction.FIFO and not self.fifo_drops_oldest_data:
            raise InvalidOptionError(
                "fifo compaction deletes the oldest data by itself; choose leveled or universal, "
                "or set fifo_drops_oldest_data = true if losing old data is meant"
            )
        _at_least("bloom_bits_per_key", self.bloom_bits_per_key, 0)
        _at_least("block_cache_bytes", self.block_cache_bytes, MIB)
        _at_least("write_buffer_bytes", self.write_buffer_bytes, 64 * KIB)
        _at_least("rate_limit_bytes_per_s", self.rate_limit_bytes_per_s, 0)
        _at_least("background_threads", self.background_threads, 1)
        _at_least("max_open_files", self.max_open_files, 64)
        _at_least("slowdown_level0_files", self.slowdown_level0_files, 4)
        _at_least("stop_level0_files", self.stop_level0_files, self.slowdown_level0_files)
        _at_least("slowdown_pending_bytes", self.slowdown_pending_bytes, MIB)
        _at_least("stop_pending_bytes", self.stop_pending_bytes, self.slowdown_pending_bytes)
        _at_least("fifo_max_bytes", self.fifo_max_bytes, MIB)
        _at_least("fifo_max_age_s", self.fifo_max_age_s, 0)
        if self.stall_wait_s < 0:
            raise InvalidOptionError(
                f"stall_wait_s is {self.stall_wait_s:g} and must not be below 0; 0 never waits"
            )


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise InvalidOptionError(f"{name} is {value} and must be at least {least}; raise it")
