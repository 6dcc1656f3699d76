"""Memory stays bounded: a scan of millions of small keys keeps the process's anonymous memory low.

CI scans one million keys, the nightly run ten; the bound grows with them to the 300 MB that ten
million may take, of which a fixed part is for what an engine caches.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from storage.engine import Batch, Engine, Snapshot

MILLION = 1_000_000
FIXED_BYTES = 70 * MILLION
PER_MILLION_KEYS_BYTES = 23 * MILLION


def anonymous_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    pytest.skip("this system does not tell RssAnon")


def fill(engine: Engine, count: int) -> None:
    for first in range(0, count, 20_000):
        batch = Batch()
        for number in range(first, min(first + 20_000, count)):
            batch.put(b"key-%09d" % number, b"value")
        engine.write(batch, sync=False)


def pages(snapshot: Snapshot, *, reverse: bool) -> Iterator[int]:
    start, end = b"", None
    while True:
        page = snapshot.scan(start, end, reverse=reverse)
        yield len(page.items)
        if not page.more:
            return
        last = page.items[-1][0]
        if reverse:
            end = last
        else:
            start = last + b"\x00"


@pytest.mark.slow
def test_a_scan_of_millions_of_keys_keeps_memory_bounded(engines: Any, rounds: int) -> None:
    if "memory" in engines.kind.name or "faulty" in engines.kind.name:
        pytest.skip("this engine holds data, or what it may have to undo, in memory")
    count = min(10, rounds) * MILLION
    bound = FIXED_BYTES + count // MILLION * PER_MILLION_KEYS_BYTES
    engine = engines.open()
    before = anonymous_bytes()
    fill(engine, count)
    for reverse in (False, True):
        seen = highest = 0
        with engine.snapshot() as snapshot:
            for found in pages(snapshot, reverse=reverse):
                seen += found
                if seen % 100_000 < found:
                    highest = max(highest, anonymous_bytes())
        assert seen == count
        assert highest - before < bound
