"""What the tests of RocksDB's engine write, read and wait for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from storage.clock import ManualClock
from storage.engine import Batch, iterate
from storage.rocks_engine import RocksEngine
from storage.rocks_options import KIB, MIB, Compression, RocksOptions

SMALL = RocksOptions(write_buffer_bytes=64 * KIB, block_cache_bytes=MIB)
ENGINE = "engine"


class Spy:
    """The database with some of its methods replaced."""

    def __init__(self, database: Any, **replaced: Callable[..., Any]) -> None:
        self.database = database
        self.replaced = replaced

    def __getattr__(self, name: str) -> Any:
        return self.replaced.get(name) or getattr(self.database, name)


def spy_on(engine: RocksEngine, **replaced: Callable[..., Any]) -> Any:
    """Returns the real database."""
    real = engine._db
    engine._db = Spy(real, **replaced)  # type: ignore[assignment]
    return real


def batch(*puts: tuple[bytes, bytes]) -> Batch:
    made = Batch()
    for key, value in puts:
        made.put(key, value)
    return made


def put(engine: RocksEngine, key: bytes, value: bytes, *, sync: bool = True) -> None:
    engine.write(batch((key, value)), sync=sync)


def pairs(engine: RocksEngine) -> dict[bytes, bytes]:
    with engine.snapshot() as snapshot:
        return dict(iterate(snapshot))


def fill(engine: RocksEngine, count: int, value: bytes = b"v" * 100) -> None:
    for first in range(0, count, 100):
        engine.write(
            batch(*((b"k%06d" % i, value) for i in range(first, min(first + 100, count)))),
            sync=False,
        )


def tree(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes() if path.is_file() else b"/"
        for path in sorted(directory.rglob("*"))
    }


def stalling(
    path: Path, clock: ManualClock, stall_wait_s: float, bytes_per_s: int = 256 * KIB
) -> RocksEngine:
    """Flushes are slow: three memtables of 64 KiB are full in no time."""
    return RocksEngine(
        path,
        clock=clock,
        options=RocksOptions(
            write_buffer_bytes=64 * KIB,
            rate_limit_bytes_per_s=bytes_per_s,
            upper_compression=Compression.NONE,
            bottom_compression=Compression.NONE,
            stall_wait_s=stall_wait_s,
        ),
    )
