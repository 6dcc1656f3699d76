"""The shared snapshot: the same until renewed, and renewed before it expires."""

from __future__ import annotations

from storage.clock import ManualClock
from storage.engine import Batch
from storage.latest import Latest
from storage.memory import MemoryEngine


def write(engine: MemoryEngine, value: bytes) -> None:
    batch = Batch()
    batch.put(b"k", value)
    engine.write(batch, sync=True)


def test_it_is_shared_until_renewed() -> None:
    clock = ManualClock()
    engine = MemoryEngine(clock=clock)
    latest = Latest(engine, clock)
    write(engine, b"1")
    first = latest()
    assert latest() is first
    write(engine, b"2")
    assert latest().get(b"k") == b"1"
    latest.renew()
    latest.renew()
    assert latest().get(b"k") == b"2"
    assert engine.statistics().open_snapshots == 1


def test_it_never_expires_under_a_reader() -> None:
    clock = ManualClock()
    engine = MemoryEngine(clock=clock)
    latest = Latest(engine, clock, max_age_s=10.0)
    write(engine, b"1")
    for _ in range(100):
        assert latest().get(b"k") == b"1"
        clock.advance(0.7)
        assert engine.expire_snapshots() == 0
    clock.advance(1_000.0)
    assert engine.expire_snapshots() == 1
    assert latest().get(b"k") == b"1"
    assert engine.statistics().open_snapshots == 1
