"""The faults that break or delay: what the contract suite of the faulty engine does not show."""

from __future__ import annotations

import errno
import random
from pathlib import Path
from typing import Any

import pytest

from storage.clock import ManualClock
from storage.engine import Batch, BegunSync, Engine, iterate
from storage.errors import EngineClosedError, ReadFailedError, WriteFailedError
from storage.faulty import Faults, FaultyEngine
from storage.lmdb_engine import LmdbEngine
from storage.logged_engine import LoggedEngine
from storage.memory import MemoryEngine


def make(seed: int = 1) -> FaultyEngine:
    return FaultyEngine(MemoryEngine(clock=ManualClock()), rng=random.Random(seed))


def put(engine: Engine, *keys: bytes, value: bytes = b"", sync: bool = True) -> None:
    batch = Batch()
    for key in keys:
        batch.put(key, value)
    engine.write(batch, sync=sync)


def keys(engine: Engine) -> list[bytes]:
    with engine.snapshot() as snapshot:
        return [key for key, _ in iterate(snapshot)]


def test_without_faults_it_is_the_engine_that_it_wraps() -> None:
    engine = make()
    put(engine, b"a", b"b")
    assert keys(engine) == keys(engine.inner) == [b"a", b"b"]
    assert engine.statistics().engine == "faulty-memory"


@pytest.mark.parametrize("nth", [1, 2, 5])
def test_the_nth_write_fails_and_not_another(nth: int) -> None:
    engine = make()
    engine.faults.fail_write_in = nth
    for number in range(1, nth):
        put(engine, b"%d" % number, sync=number % 2 == 0)
    with pytest.raises(WriteFailedError, match="injected I/O error in the write"):
        put(engine, b"x")
    assert len(keys(engine)) == nth - 1
    assert engine.faults.fail_write_in is None


def test_only_syncs_count_as_syncs_and_empty_ones_do() -> None:
    engine = make()
    engine.faults.fail_sync_in = 2
    put(engine, b"a", sync=True)
    put(engine, b"b", sync=False)
    put(engine, b"c", sync=False)
    with pytest.raises(WriteFailedError, match="injected I/O error in the sync"):
        engine.write(Batch(), sync=True)
    assert keys(engine) == [b"a", b"b", b"c"]


@pytest.mark.parametrize("nth", [1, 3])
def test_the_nth_read_fails_and_reads_go_on(nth: int) -> None:
    engine = make()
    put(engine, b"a")
    engine.faults.fail_read_in = nth
    with engine.snapshot() as snapshot:
        for _ in range(nth - 1):
            assert snapshot.get(b"a") == b""
        with pytest.raises(ReadFailedError, match="injected"):
            snapshot.scan()
        assert snapshot.scan().items == [(b"a", b"")]
    put(engine, b"b")


def test_the_disk_is_full_after_so_many_bytes() -> None:
    engine = make()
    engine.faults.disk_bytes_left = 100
    assert engine.statistics().disk_free_bytes == 100
    put(engine, b"a", value=b"v" * 59)
    assert engine.statistics().disk_free_bytes == 40
    with pytest.raises(WriteFailedError, match="the disk is full"):
        put(engine, b"b", value=b"v" * 40)
    with pytest.raises(WriteFailedError):
        put(engine, b"c")
    assert keys(engine) == [b"a"]
    engine.faults.disk_bytes_left = None
    engine.recover()
    put(engine, b"b", value=b"v" * 40)
    assert keys(engine) == [b"a", b"b"]


def test_slow_syncs_ask_the_injected_sleep() -> None:
    slept: list[float] = []
    engine = FaultyEngine(
        MemoryEngine(clock=ManualClock()),
        rng=random.Random(1),
        faults=Faults(slow_sync_s=0.25),
        sleep=slept.append,
    )
    put(engine, b"a", sync=True)
    put(engine, b"b", sync=False)
    engine.write(Batch(), sync=True)
    assert slept == [0.25, 0.25]
    engine.faults.slow_sync_s = 0.0
    put(engine, b"c", sync=True)
    assert slept == [0.25, 0.25]


# --- torn batches: the contract is broken on purpose -----------------------------------------


def test_a_torn_batch_is_there_in_part_although_its_sync_returned() -> None:
    seen = set()
    for seed in range(30):
        engine = make(seed)
        engine.faults.torn_last_batch = True
        put(engine, b"old1", b"old2")
        put(engine, b"a", b"b", b"c")
        engine.power_cut()
        engine.recover()
        found = keys(engine)
        assert found[-2:] == [b"old1", b"old2"], "only the last batch is torn"
        seen.add(tuple(found[:-2]))
    assert seen == {(b"a",), (b"a", b"b")}


def test_a_torn_batch_of_one_operation_is_lost_although_its_sync_returned() -> None:
    engine = make()
    put(engine, b"a", value=b"old")
    engine.faults.torn_last_batch = True
    put(engine, b"a", value=b"new")
    engine.power_cut()
    engine.recover()
    with engine.snapshot() as snapshot:
        assert snapshot.get(b"a") == b"old"


def test_unsynced_batches_are_torn_at_the_cut() -> None:
    """The torn one is the last that survived; those after it are gone."""
    for seed in range(30):
        engine = make(seed)
        engine.faults.torn_last_batch = True
        put(engine, b"0a", b"0b")
        put(engine, b"1a", b"1b", sync=False)
        put(engine, b"2a", b"2b", sync=False)
        kept = engine.power_cut()
        engine.recover()
        whole = [b"0a", b"0b", b"1a", b"1b", b"2a", b"2b"][: 2 * (kept + 1)]
        assert keys(engine) == whole[:-1]


def test_a_torn_failed_write_is_there_in_part() -> None:
    seen = set()
    for seed in range(40):
        engine = make(seed)
        engine.faults.torn_last_batch = True
        engine.faults.fail_write_in = 2
        put(engine, b"z")
        with pytest.raises(WriteFailedError):
            put(engine, b"a", b"b")
        engine.power_cut()
        engine.recover()
        seen.add(tuple(keys(engine)))
    assert (b"a", b"z") in seen
    assert (b"a", b"b", b"z") not in seen


def test_a_check_of_whole_batches_catches_a_torn_one() -> None:
    """The canary: the same check passes over an honest power cut and fails over a torn one."""

    def every_batch_is_whole(torn: bool) -> bool:
        engine = make(3)
        engine.faults.torn_last_batch = torn
        for number in range(5):
            put(engine, b"%d-left" % number, b"%d-right" % number)
        engine.power_cut()
        engine.recover()
        found = keys(engine)
        left = [key[:1] for key in found if key.endswith(b"left")]
        right = [key[:1] for key in found if key.endswith(b"right")]
        return left == right == [b"0", b"1", b"2", b"3", b"4"]

    assert every_batch_is_whole(torn=False)
    assert not every_batch_is_whole(torn=True)


# --- restarts --------------------------------------------------------------------------------


def test_a_killed_process_loses_nothing_but_unsynced_stays_unsynced() -> None:
    """Without a power cut the page cache survives; a later cut may still take it."""
    kept_after_cut = set()
    for seed in range(20):
        engine = make(seed)
        put(engine, b"a", b"b", sync=False)
        engine.recover()
        assert keys(engine) == [b"a", b"b"]
        engine.power_cut()
        engine.recover()
        kept_after_cut.add(len(keys(engine)))
    assert kept_after_cut == {0, 2}


def test_snapshots_of_a_life_end_with_it() -> None:
    engine = make()
    put(engine, b"a")
    snapshot = engine.snapshot()
    engine.recover()
    with pytest.raises(EngineClosedError, match="lost with the process"):
        snapshot.scan()
    assert engine.statistics().open_snapshots == 0


def test_a_failure_of_the_wrapped_engine_poisons_the_wrapper(tmp_path: Path) -> None:
    inner = LmdbEngine(tmp_path / "data", clock=ManualClock(), map_size_bytes=1 << 17)
    engine = FaultyEngine(inner, rng=random.Random(1))
    with pytest.raises(WriteFailedError, match="map is full"):
        put(engine, *[b"%d" % number for number in range(300)], value=b"v" * 1_000)
    with pytest.raises(WriteFailedError, match="map is full"):
        put(engine, b"a")
    assert keys(engine) == []
    engine.close()


def test_the_same_dice_give_the_same_run() -> None:
    def run() -> list[list[bytes]]:
        engine, states = make(99), []
        for number in range(20):
            put(engine, b"%02d" % number, b"x%02d" % number, sync=number % 7 == 0)
            if number % 5 == 4:
                engine.power_cut()
                engine.recover()
                states.append(keys(engine))
        return states

    assert run() == run()


# --- syncs that somebody else makes --------------------------------------------------------------


def over_a_log(path: Path, seed: int = 1) -> FaultyEngine:
    tree = LmdbEngine(path, clock=ManualClock(), map_size_bytes=1 << 24)
    return FaultyEngine(LoggedEngine(tree, segment_bytes=1 << 16), rng=random.Random(seed))


def begun(engine: FaultyEngine) -> BegunSync:
    found = engine.begin_sync()
    assert found is not None
    return found


def test_a_sync_apart_that_has_ended_survives_a_power_cut_and_one_that_has_not_may_not(
    tmp_path: Path,
) -> None:
    found = set()
    for seed in range(12):
        engine = over_a_log(tmp_path / str(seed), seed)
        put(engine, b"a", sync=False)
        engine.end_sync(begun(engine).number, None)
        put(engine, b"b", sync=False)
        sync = begun(engine)
        put(engine, b"c", sync=False)
        engine.power_cut()
        with pytest.raises(EngineClosedError):
            engine.end_sync(sync.number, None)
        engine.recover()
        found.add(b"".join(keys(engine)))
        engine.close()
    assert found == {b"a", b"ab", b"abc"}


def test_a_write_that_was_synced_meanwhile_and_one_after_it_are_told_apart(tmp_path: Path) -> None:
    found = set()
    for seed in range(12):
        engine = over_a_log(tmp_path / str(seed), seed)
        put(engine, b"a", sync=False)
        sync = begun(engine)
        put(engine, b"b", sync=True)
        put(engine, b"c", sync=False)
        engine.end_sync(sync.number, None)
        engine.power_cut()
        engine.recover()
        found.add(b"".join(keys(engine)))
        engine.close()
    assert found == {b"ab", b"abc"}


@pytest.mark.parametrize(
    "faults", [{"fail_sync_in": 2}, {"slow_sync_s": 0.1}, {"torn_last_batch": True}], ids=str
)
def test_a_fault_that_waits_for_a_sync_gets_one(tmp_path: Path, faults: dict[str, Any]) -> None:
    """The writer syncs by a write then, and that one has the fault."""
    engine = over_a_log(tmp_path / "data")
    put(engine, b"a", sync=False)
    for name, value in faults.items():
        setattr(engine.faults, name, value)
    assert engine.begin_sync() is None
    engine.faults = Faults()
    engine.end_sync(begun(engine).number, None)
    engine.close()


def test_a_sync_apart_that_fails_poisons_the_wrapper(tmp_path: Path) -> None:
    engine = over_a_log(tmp_path / "data")
    put(engine, b"a", sync=False)
    with pytest.raises(WriteFailedError, match="takes no more"):
        engine.end_sync(begun(engine).number, OSError(errno.EIO, "the disk is broken"))
    assert engine.begin_sync() is None
    with pytest.raises(WriteFailedError, match="takes no more"):
        put(engine, b"b")
    engine.close()


def test_over_an_engine_without_syncs_apart_there_are_none() -> None:
    engine = make()
    put(engine, b"a", sync=False)
    assert engine.begin_sync() is None
