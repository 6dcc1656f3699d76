"""What a Config means to RocksDB. Pure. It stands alone because a rule is checked by making it."""

from __future__ import annotations

from kv.config.sections import Config
from storage.rocks_options import Compaction, Compression, RocksOptions, WalRecovery


def rocks_options(config: Config) -> RocksOptions:
    rocks = config.storage.rocks
    return RocksOptions(
        compaction=Compaction(rocks.compaction),
        upper_compression=Compression(rocks.upper_compression),
        bottom_compression=Compression(rocks.bottom_compression),
        bloom_bits_per_key=rocks.bloom_bits_per_key,
        block_cache_bytes=rocks.block_cache_bytes,
        write_buffer_bytes=rocks.write_buffer_bytes,
        rate_limit_bytes_per_s=rocks.rate_limit_bytes,
        background_threads=rocks.background_threads,
        max_open_files=rocks.max_open_files,
        wal_recovery=WalRecovery(rocks.wal_recovery),
        statistics=rocks.statistics,
        fifo_drops_oldest_data=rocks.fifo_drops_oldest_data,
        fifo_max_bytes=rocks.fifo_max_bytes,
        fifo_max_age_s=int(rocks.fifo_max_age_s),
    )
