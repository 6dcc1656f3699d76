"""RocksDB's own figures turned into statistics. Pure: it is given two functions that read.

Sizes that RocksDB keeps are of compressed files, and its key counts are estimates, so:

    keys        rocksdb.estimate-num-keys (entries minus deletions; a key overwritten and not yet
                compacted counts twice, one removed by a range deletion still counts)
    live_bytes  keys times the average raw pair of the files (rocksdb.aggregated-table-properties),
                or of what was put while there are no files yet

Details carry every property under its own name, plus:

    sorted_runs            files of level 0 and non-empty levels below: what a point read may look
                           into at worst, a scan always (read amplification)
    space_amplification    total-sst-files-size / estimate-live-data-size
    write_amplification    (log + flushed + compacted bytes) / bytes written     with statistics on
    blocks_read_per_get    blocks read from files, not the cache / keys read     with statistics on
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, NamedTuple

ReadNumber = Callable[[str], int | None]
ReadText = Callable[[str], str | None]

LEVELS: Final = 7
_NUMBERS: Final = (
    "rocksdb.estimate-num-keys",
    "rocksdb.estimate-live-data-size",
    "rocksdb.total-sst-files-size",
    "rocksdb.live-sst-files-size",
    "rocksdb.size-all-mem-tables",
    "rocksdb.num-immutable-mem-table",
    "rocksdb.estimate-pending-compaction-bytes",
    "rocksdb.num-running-compactions",
    "rocksdb.num-running-flushes",
    "rocksdb.is-write-stopped",
    "rocksdb.actual-delayed-write-rate",
    "rocksdb.background-errors",
    "rocksdb.num-snapshots",
    "rocksdb.num-live-versions",
    "rocksdb.block-cache-capacity",
    "rocksdb.block-cache-usage",
    "rocksdb.block-cache-pinned-usage",
    "rocksdb.estimate-table-readers-mem",
)
_BLOCK_READS: Final = "rocksdb.read.block.get.micros"
_TICKERS: Final = (
    "rocksdb.bytes.written",
    "rocksdb.bytes.read",
    "rocksdb.wal.bytes",
    "rocksdb.flush.write.bytes",
    "rocksdb.compact.write.bytes",
    "rocksdb.compact.read.bytes",
    "rocksdb.number.keys.read",
    "rocksdb.number.keys.written",
    "rocksdb.block.cache.data.hit",
    "rocksdb.block.cache.data.miss",
    "rocksdb.bloom.filter.useful",
    "rocksdb.bloom.filter.full.positive",
    "rocksdb.bloom.filter.full.true.positive",
    "rocksdb.stall.micros",
    _BLOCK_READS,
)
_SEQUENCE_BYTES: Final = 8  # RocksDB counts its sequence number as part of a raw key


class RocksFigures(NamedTuple):
    keys: int
    live_bytes: int
    details: dict[str, float | str]


def read_figures(number: ReadNumber, text: ReadText, average_put_bytes: float) -> RocksFigures:
    details: dict[str, float | str] = {name: number(name) or 0 for name in _NUMBERS}
    counts = [number(f"rocksdb.num-files-at-level{level}") or 0 for level in range(LEVELS)]
    details["rocksdb.num-files-at-level0"] = counts[0]
    details["sorted_runs"] = counts[0] + sum(1 for count in counts[1:] if count)
    keys = number("rocksdb.estimate-num-keys") or 0
    live_files_bytes = number("rocksdb.estimate-live-data-size") or 0
    files_bytes = number("rocksdb.total-sst-files-size") or 0
    details["space_amplification"] = files_bytes / live_files_bytes if live_files_bytes else 0.0
    details.update(_from_tickers(tickers(text("rocksdb.options-statistics") or "")))
    average = _average_pair_bytes(text("rocksdb.aggregated-table-properties") or "")
    return RocksFigures(keys, int(keys * (average or average_put_bytes)), details)


def _average_pair_bytes(properties: str) -> float:
    """Of the pairs in the files, as they were put; 0.0 if there are none."""
    found = {
        name: int(value) for name, value in re.findall(r"([a-z# ]+)=(\d+);", properties.lower())
    }
    entries = found.get("# entries", 0)
    pairs = entries - found.get(" # deletions", 0)
    if entries <= 0 or pairs <= 0:
        return 0.0
    keys_bytes = found.get(" raw key size", 0) / entries - _SEQUENCE_BYTES
    return max(keys_bytes, 0.0) + found.get(" raw value size", 0) / pairs


def tickers(statistics: str) -> dict[str, int]:
    """The counters that this project reports; empty while statistics are off."""
    # A histogram has its percentiles between its name and its count.
    found = dict(re.findall(r"^(\S+) .*?\bCOUNT : (\d+)", statistics, re.MULTILINE))
    return {name: int(found[name]) for name in _TICKERS if name in found}


def _from_tickers(counted: dict[str, int]) -> dict[str, float]:
    details: dict[str, float] = dict(counted)
    written = counted.get("rocksdb.bytes.written", 0)
    if written:
        to_disk = sum(
            counted.get(name, 0)
            for name in (
                "rocksdb.wal.bytes",
                "rocksdb.flush.write.bytes",
                "rocksdb.compact.write.bytes",
            )
        )
        details["write_amplification"] = to_disk / written
    read = counted.get("rocksdb.number.keys.read", 0)
    if read:
        details["blocks_read_per_get"] = counted.get(_BLOCK_READS, 0) / read
    return details
