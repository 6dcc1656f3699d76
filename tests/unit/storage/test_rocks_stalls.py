"""Writes that RocksDB would let wait: seen before, refused in time, and nobody else waits."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

from storage.clock import ManualClock
from storage.engine import WritePressure
from storage.errors import EngineClosedError, WriteStalledError
from storage.rocks_options import KIB
from tests.polling import until
from tests.unit.storage.rocks_database import ENGINE, pairs, put, spy_on, stalling


def test_pressure_is_seen_before_a_write_stalls_and_a_stalled_write_is_refused(
    tmp_path: Path, clock: ManualClock
) -> None:
    engine = stalling(tmp_path / ENGINE, clock, stall_wait_s=0.02)
    seen = [engine.write_pressure()]
    written = 0
    try:
        for number in range(1_000):
            put(engine, b"k%06d" % number, os.urandom(2_000), sync=False)
            written += 1
            pressure = engine.write_pressure()
            if pressure is not seen[-1]:
                seen.append(pressure)
    except WriteStalledError as error:
        refused = error
    assert refused.retryable
    assert refused.outcome == "none"
    assert "nothing was written" in str(refused)
    # It was told in time: by the answers before, never first by the refusal.
    assert seen[:2] == [WritePressure.NONE, WritePressure.SLOWDOWN]
    assert seen[-1] is not WritePressure.NONE
    assert len(pairs(engine)) == written
    assert float(engine.statistics().details["writes_stalled"]) >= 1
    # It goes on by itself, and the refused write can be sent again.
    until(lambda: engine.write_pressure() is not WritePressure.STOPPED, "it takes writes")
    put(engine, b"k%06d" % written, b"again")
    assert len(pairs(engine)) == written + 1
    engine.close()


def test_a_stalled_write_leaves_the_interpreter_to_others(
    tmp_path: Path, clock: ManualClock
) -> None:
    engine = stalling(tmp_path / ENGINE, clock, stall_wait_s=60, bytes_per_s=96 * KIB)
    done = threading.Event()

    def writes() -> None:
        for number in range(170):
            put(engine, b"k%06d" % number, os.urandom(2_000), sync=False)
        done.set()

    thread = threading.Thread(target=writes)
    thread.start()
    until(lambda: engine.write_pressure() is WritePressure.STOPPED, "it takes none")
    longest = 0.0
    last = time.perf_counter()
    while not done.wait(0.001):
        now = time.perf_counter()
        longest, last = max(longest, now - last), now
    thread.join()
    assert longest < 0.5, "stalls of two thirds of a second froze the other threads"
    assert engine.statistics().details["writes_stalled"] >= 1
    engine.close()


def test_close_ends_a_stalled_write(tmp_path: Path, clock: ManualClock) -> None:
    engine = stalling(tmp_path / ENGINE, clock, stall_wait_s=3_600)
    raised: list[Exception] = []
    stopped = threading.Event()
    real = spy_on(engine, write=lambda *_: (stopped.set(), stall()))

    def stall() -> None:
        raise Exception("Result incomplete: Write stall")

    def write() -> None:
        try:
            put(engine, b"a", b"1")
        except EngineClosedError as error:
            raised.append(error)

    thread = threading.Thread(target=write)
    thread.start()
    assert stopped.wait(5)
    engine._db.replaced["close"] = real.close  # type: ignore[attr-defined]
    engine.close()
    thread.join(5)
    assert len(raised) == 1
