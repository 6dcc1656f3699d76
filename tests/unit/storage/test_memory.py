"""The memory engine's own part: undo maps, counting, and checkpoints that load."""

from __future__ import annotations

import gc
from pathlib import Path

from storage.clock import ManualClock
from storage.engine import Batch
from storage.memory import MemoryEngine


def test_live_bytes_are_exact() -> None:
    engine = MemoryEngine(clock=ManualClock())
    batch = Batch()
    for number in range(10):
        batch.put(b"%d" % number, b"v" * 9)
    engine.write(batch, sync=True)
    assert engine.statistics().live_bytes == 100
    batch = Batch()
    batch.put(b"0", b"v" * 19)
    batch.delete(b"1")
    batch.delete(b"1")
    batch.delete_range(b"5", b"8")
    engine.write(batch, sync=True)
    found = engine.statistics()
    assert (found.keys, found.live_bytes) == (6, 70)
    assert found.space_amplification == 1.0


def test_an_abandoned_snapshot_costs_nothing() -> None:
    engine = MemoryEngine(clock=ManualClock())
    engine.snapshot()
    gc.collect()
    assert engine.statistics().open_snapshots == 0


def test_scans_of_a_snapshot_merge_what_changed_since() -> None:
    """Every mix of kept, changed, deleted and new keys, in both directions and all bounds."""
    engine = MemoryEngine(clock=ManualClock())
    batch = Batch()
    for number in range(0, 20, 2):
        batch.put(b"%02d" % number, b"old")
    engine.write(batch, sync=True)
    before = engine.snapshot()
    batch = Batch()
    batch.delete_range(b"00", b"05")
    batch.delete(b"18")
    for number in (3, 4, 8, 15, 19):
        batch.put(b"%02d" % number, b"new")
    engine.write(batch, sync=True)
    old = [(b"%02d" % number, b"old") for number in range(0, 20, 2)]
    for low in range(21):
        for high in range(21):
            start, end = b"%02d" % low, b"%02d" % high
            expected = [pair for pair in old if start <= pair[0] < end]
            assert before.scan(start, end) == (expected, False)
            assert before.scan(start, end, reverse=True) == (expected[::-1], False)


def test_a_checkpoint_loads(tmp_path: Path) -> None:
    engine = MemoryEngine(clock=ManualClock())
    batch = Batch()
    batch.put(b"a", b"")
    batch.put(b"\xff" * 511, b"v" * 100_000)
    engine.write(batch, sync=True)
    engine.checkpoint(tmp_path / "copy")
    loaded = MemoryEngine.load(tmp_path / "copy", clock=ManualClock())
    assert loaded.snapshot().scan() == engine.snapshot().scan()
    assert loaded.statistics().batches == 0
