"""Durability and poisoning in the Engine contract, with engines whose power can be cut.

FaultyEngine loses what its promises allow it to lose. So this holds the wrapper to the prefix rule
over a reference and over a real engine; that LMDB and RocksDB keep their own promises to the disk
is shown by recorded system calls elsewhere.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from storage.clock import ManualClock
from storage.engine import Batch, Engine, iterate
from storage.errors import EngineClosedError, WriteFailedError
from storage.faulty import FaultyEngine
from storage.lmdb_engine import LmdbEngine
from storage.memory import MemoryEngine

Make = Callable[[int], FaultyEngine]
State = list[tuple[bytes, bytes]]


@pytest.fixture(params=["memory", "lmdb"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    def build(seed: int) -> FaultyEngine:
        inner: Engine = (
            MemoryEngine(clock=ManualClock())
            if request.param == "memory"
            else LmdbEngine(tmp_path / str(seed), clock=ManualClock())
        )
        engine = FaultyEngine(inner, rng=random.Random(seed))
        request.addfinalizer(engine.close)
        return engine

    return build


def put(engine: Engine, key: bytes, value: bytes, *, sync: bool) -> None:
    batch = Batch()
    batch.put(key, value)
    engine.write(batch, sync=sync)


def everything(engine: Engine) -> State:
    with engine.snapshot() as snapshot:
        return list(iterate(snapshot))


def random_batch(dice: random.Random) -> Batch:
    batch = Batch()
    for _ in range(dice.randrange(4)):
        keys = sorted(b"%02d" % dice.randrange(30) for _ in range(2))
        kind = dice.random()
        if kind < 0.6:
            batch.put(keys[0], b"%d" % dice.randrange(1_000))
        elif kind < 0.8:
            batch.delete(keys[0])
        else:
            batch.delete_range(keys[0], dice.choice([keys[1], None]))
    return batch


@pytest.mark.parametrize("seed", range(12))
def test_what_survives_a_power_cut_is_a_prefix_with_all_that_was_synced(
    make: Make, seed: int
) -> None:
    engine, dice = make(seed), random.Random(seed + 1_000)
    for _ in range(3):
        states, synced = [everything(engine)], 0
        for number in range(1, dice.randrange(2, 15)):
            sync = dice.random() < 0.3
            engine.write(random_batch(dice), sync=sync)
            states.append(everything(engine))
            synced = number if sync else synced
        engine.power_cut()
        engine.recover()
        assert everything(engine) in states[synced:]


def test_the_dice_choose_every_prefix_that_the_contract_permits(make: Make) -> None:
    survived = set()
    for seed in range(40):
        engine = make(seed)
        put(engine, b"0", b"synced", sync=True)
        for number in (1, 2, 3):
            put(engine, b"%d" % number, b"", sync=False)
        kept = engine.power_cut()
        engine.recover()
        keys = [key for key, _ in everything(engine)]
        assert keys == [b"0", b"1", b"2", b"3"][: kept + 1]
        survived.add(kept)
    assert survived == {0, 1, 2, 3}


def test_an_empty_synced_batch_syncs_what_came_before(make: Make) -> None:
    for seed in range(10):
        engine = make(seed)
        put(engine, b"a", b"1", sync=False)
        engine.write(Batch(), sync=True)
        assert engine.power_cut() == 0
        engine.recover()
        assert everything(engine) == [(b"a", b"1")]


def test_what_survived_one_cut_survives_the_next(make: Make) -> None:
    engine = make(1)
    for number in range(5):
        put(engine, b"%d" % number, b"", sync=False)
    engine.power_cut()
    engine.recover()
    found = everything(engine)
    engine.power_cut()
    engine.recover()
    assert everything(engine) == found


def test_until_recovery_every_call_raises_and_old_snapshots_stay_lost(make: Make) -> None:
    engine = make(1)
    put(engine, b"a", b"1", sync=True)
    snapshot = engine.snapshot()
    engine.power_cut()
    for call in (
        lambda: put(engine, b"b", b"", sync=True),
        engine.snapshot,
        engine.statistics,
        engine.expire_snapshots,
        engine.power_cut,
        lambda: engine.checkpoint(Path("nowhere")),
        lambda: snapshot.get(b"a"),
        snapshot.scan,
    ):
        with pytest.raises(EngineClosedError):
            call()
    engine.recover()
    with pytest.raises(EngineClosedError, match="lost with the process"):
        snapshot.get(b"a")
    put(engine, b"b", b"2", sync=True)
    assert everything(engine) == [(b"a", b"1"), (b"b", b"2")]


@pytest.mark.parametrize("call", ["write", "sync"])
def test_a_failed_write_poisons_the_engine_while_reads_go_on(make: Make, call: str) -> None:
    engine = make(3)
    put(engine, b"a", b"1", sync=True)
    before = engine.snapshot()
    setattr(engine.faults, f"fail_{call}_in", 1)
    for _ in range(3):
        with pytest.raises(WriteFailedError, match="restart") as failure:
            put(engine, b"b", b"2", sync=True)
        assert failure.value.outcome == "unknown"
    with pytest.raises(WriteFailedError):
        engine.write(Batch(), sync=True)
    assert before.get(b"a") == b"1"
    assert everything(engine) == [(b"a", b"1")]


@pytest.mark.parametrize("cut", [False, True])
def test_a_failed_sync_may_turn_out_either_way(make: Make, cut: bool) -> None:
    """After a restart, with or without a power cut, the write is there or not: both happen."""
    outcomes = set()
    for seed in range(30):
        engine = make(seed)
        put(engine, b"a", b"1", sync=True)
        engine.faults.fail_sync_in = 1
        with pytest.raises(WriteFailedError):
            put(engine, b"b", b"2", sync=True)
        if cut:
            engine.power_cut()
        engine.recover()
        found = everything(engine)
        assert found in ([(b"a", b"1")], [(b"a", b"1"), (b"b", b"2")])
        outcomes.add(len(found))
        put(engine, b"c", b"3", sync=True)
        assert everything(engine) == [*found, (b"c", b"3")]
    assert outcomes == {1, 2}


def test_a_failed_write_never_survives_without_the_ones_before_it(make: Make) -> None:
    survived = set()
    for seed in range(40):
        engine = make(seed)
        put(engine, b"a", b"", sync=False)
        engine.faults.fail_sync_in = 1
        with pytest.raises(WriteFailedError):
            put(engine, b"b", b"", sync=True)
        engine.power_cut()
        engine.recover()
        survived.add(tuple(key for key, _ in everything(engine)))
    assert survived == {(), (b"a",), (b"a", b"b")}
