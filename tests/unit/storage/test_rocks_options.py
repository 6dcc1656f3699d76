"""Options of RocksDB's databases: which count, which are refused, what they do."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from storage.clock import ManualClock
from storage.engine import WritePressure
from storage.errors import InvalidOptionError
from storage.rocks_engine import RocksEngine, block_cache
from storage.rocks_options import KIB, MIB, Compaction, Compression, RocksOptions
from tests.polling import until
from tests.unit.storage.rocks_database import ENGINE, SMALL, batch


def test_options_given_win_over_those_of_an_existing_database(
    tmp_path: Path, clock: ManualClock
) -> None:
    path = tmp_path / ENGINE
    RocksEngine(path, clock=clock, options=SMALL).close()
    engine = RocksEngine(
        path,
        clock=clock,
        options=RocksOptions(
            block_cache_bytes=3 * MIB,
            write_buffer_bytes=5 * MIB,
            compaction=Compaction.UNIVERSAL,
            upper_compression=Compression.NONE,
            rate_limit_bytes_per_s=MIB,
        ),
    )
    assert engine.statistics().details["rocksdb.block-cache-capacity"] == 3 * MIB
    engine.close()
    text = sorted(path.glob("OPTIONS-*"))[-1].read_text()
    for line in (
        f"write_buffer_size={5 * MIB}",
        "compaction_style=kCompactionStyleUniversal",
        "compression=kNoCompression",
        "bottommost_compression=kZSTD",
        "wal_recovery_mode=kPointInTimeRecovery",
        "filter_policy=bloomfilter",
        "cache_index_and_filter_blocks=true",
    ):
        assert line in text, line


def test_a_cache_may_be_shared(tmp_path: Path, clock: ManualClock) -> None:
    shared = block_cache(7 * MIB)
    engines = [RocksEngine(tmp_path / name, clock=clock, block_cache=shared) for name in ("a", "b")]
    for engine in engines:
        assert engine.statistics().details["rocksdb.block-cache-capacity"] == 7 * MIB
        engine.close()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"compaction": Compaction.FIFO}, "fifo compaction deletes the oldest data by itself"),
        ({"write_buffer_bytes": 1}, "write_buffer_bytes is 1 and must be at least 65536"),
        ({"background_threads": 0}, "background_threads is 0 and must be at least 1"),
        ({"stop_level0_files": 5}, "stop_level0_files is 5 and must be at least 20"),
        ({"stall_wait_s": -1.0}, "stall_wait_s is -1 and must not be below 0"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidOptionError, match=sentence):
        RocksOptions(**settings)


def test_fifo_drops_the_oldest_data_once_it_was_allowed_to(
    tmp_path: Path, clock: ManualClock
) -> None:
    engine = RocksEngine(
        tmp_path / ENGINE,
        clock=clock,
        options=RocksOptions(
            compaction=Compaction.FIFO,
            fifo_drops_oldest_data=True,
            fifo_max_bytes=MIB,
            fifo_max_age_s=3_600,
            write_buffer_bytes=128 * KIB,
            upper_compression=Compression.NONE,
            bottom_compression=Compression.NONE,
        ),
    )
    for first in range(0, 3_000, 50):
        puts = [(b"k%06d" % number, os.urandom(1_000)) for number in range(first, first + 50)]
        engine.write(batch(*puts), sync=False)

    def is_there(key: bytes) -> bool:
        with engine.snapshot() as snapshot:
            return snapshot.get(key) is not None

    until(lambda: not is_there(b"k000000"), "it is gone")
    assert is_there(b"k002999")
    assert engine.write_pressure() is not WritePressure.STOPPED
    engine.close()
    assert "ttl=3600" in sorted((tmp_path / ENGINE).glob("OPTIONS-*"))[-1].read_text()


def test_indexes_and_filters_are_in_pieces(tmp_path: Path, clock: ManualClock) -> None:
    """Whole ones do not fit into a small cache: each get then loads megabytes."""
    engine = RocksEngine(tmp_path / ENGINE, clock=clock)
    engine.close()
    newest = max((tmp_path / ENGINE).glob("OPTIONS-*"))
    text = newest.read_text()
    assert "index_type=kTwoLevelIndexSearch" in text
    assert "partition_filters=true" in text
    assert "cache_index_and_filter_blocks=true" in text
