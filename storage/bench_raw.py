"""What the Engine interface costs: the same loops through it and on the bare libraries.

The one place besides the engines that may import lmdb and rocksdict. Both sides run in the same
process on environments filled alike, a round of one and a round of the other in turn, so that a
machine that slows down slows both; the ratio quoted is the median of the rounds' ratios.

- put: batches of 100 random overwrites, synced: interface / bare, wished >= 0.70
- get: point gets of present keys inside one open snapshot, no codec: wished >= 0.50
- mvcc: an MVCC overwrite (current record and event) against the bare random put of the same run:
  cost wished <= 2.5, split into what Python spends before the write and the write itself
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from time import perf_counter_ns
from typing import Any, Final

import lmdb
import rocksdict

from storage.bench import Plan, Report, Values, batches, key_of
from storage.engine import Batch, Engine
from storage.latest import Latest
from storage.mvcc import Shard
from storage.system_clock import SystemClock

ROUNDS: Final = 15
PUT_BATCHES_A_ROUND: Final = 20
GETS_A_ROUND: Final = 20_000
FILL_BATCH: Final = 5_000
FILE_MAP_BYTES: Final = 1 << 40

Pairs = list[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Ratio:
    engine: str
    loop: str
    interface_us: float
    bare_us: float
    ratio: float
    """The median of the rounds' ratios; for put and get the share of the bare speed that is
    reached, for mvcc how many times the bare cost."""
    wished: str
    holds: bool
    note: str = ""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


class Bare:
    """A bare library under the two loops."""

    def put(self, pairs: Pairs) -> None:
        raise NotImplementedError

    def reader(self) -> Callable[[bytes], object]:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError


class BareLmdb(Bare):
    def __init__(self, path: Path) -> None:
        self._env = lmdb.open(str(path), map_size=FILE_MAP_BYTES)

    def put(self, pairs: Pairs) -> None:
        with self._env.begin(write=True) as transaction:
            put = transaction.put
            for key, value in pairs:
                put(key, value)

    def reader(self) -> Callable[[bytes], object]:
        return self._env.begin().get

    def close(self) -> None:
        self._env.close()


class BareRocks(Bare):
    def __init__(self, path: Path) -> None:
        options = rocksdict.Options(raw_mode=True)
        options.create_if_missing(True)
        self._db = rocksdict.Rdict(str(path), options)
        self._synced = rocksdict.WriteOptions()
        self._synced.sync = True

    def put(self, pairs: Pairs) -> None:
        batch = rocksdict.WriteBatch(raw_mode=True)
        for key, value in pairs:
            batch.put(key, value)
        self._db.write(batch, self._synced)

    def reader(self) -> Callable[[bytes], object]:
        return self._db.snapshot().__getitem__

    def close(self) -> None:
        self._db.close()


BARE: Final[dict[str, Callable[[Path], Bare]]] = {"lmdb": BareLmdb, "rocksdb": BareRocks}


def compare(
    name: str, open_engine: Callable[[Path], Engine], plan: Plan, directory: Path, report: Report
) -> list[Ratio]:
    """Put and get ratios of one engine."""
    rng = random.Random(plan.seed)
    values = Values(plan.value_bytes, rng)
    engine_path, bare_path = directory / f"{name}-engine", directory / f"{name}-bare"
    for path in (engine_path, bare_path):
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
    engine, bare = open_engine(engine_path), BARE[name](bare_path)
    try:
        for pairs in _fill_pairs(plan, values):
            engine_put(engine, pairs)
            bare.put(pairs)
            report(2 * len(pairs), f"{name}: fill both")
        return [
            _compare_puts(name, engine, bare, plan, rng, values, report),
            _compare_gets(name, engine, bare, plan, rng, report),
            _compare_mvcc(name, engine, bare, plan, rng, values, report),
        ]
    finally:
        engine.close()
        bare.close()
        shutil.rmtree(engine_path, ignore_errors=True)
        shutil.rmtree(bare_path, ignore_errors=True)


def operations(plan: Plan) -> int:
    """How many operations one `compare` reports."""
    puts = PUT_BATCHES_A_ROUND * plan.batch
    return 3 * plan.keys + 2 * ROUNDS * (puts + GETS_A_ROUND) + 2 * ROUNDS * puts


def engine_put(engine: Engine, pairs: Pairs) -> None:
    batch = Batch()
    put = batch.put
    for key, value in pairs:
        put(key, value)
    engine.write(batch, sync=True)


def _fill_pairs(plan: Plan, values: Values) -> Iterator[Pairs]:
    for numbers in batches(plan.keys, FILL_BATCH):
        yield [(key_of(number), values.next()) for number in numbers]


def _put_round(
    plan: Plan, rng: random.Random, values: Values, report: Report, what: str
) -> Callable[[Callable[[Pairs], None]], float]:
    """A function that times one round of random overwrites, in microseconds an operation."""

    def timed(write: Callable[[Pairs], None]) -> float:
        rounds = [
            [(key_of(rng.randrange(plan.keys)), values.next()) for _ in range(plan.batch)]
            for _ in range(PUT_BATCHES_A_ROUND)
        ]
        started = perf_counter_ns()
        for pairs in rounds:
            write(pairs)
        spent_us = (perf_counter_ns() - started) / 1e3
        report(PUT_BATCHES_A_ROUND * plan.batch, what)
        return spent_us / (PUT_BATCHES_A_ROUND * plan.batch)

    return timed


def _compare_puts(
    name: str,
    engine: Engine,
    bare: Bare,
    plan: Plan,
    rng: random.Random,
    values: Values,
    report: Report,
) -> Ratio:
    def through_engine(pairs: Pairs) -> None:
        engine_put(engine, pairs)

    timed = _put_round(plan, rng, values, report, f"{name}: put")
    rows = [(timed(through_engine), timed(bare.put)) for _ in range(ROUNDS)]
    return _share(name, f"put, batches of {plan.batch}, synced", rows, 0.70)


def _compare_gets(
    name: str, engine: Engine, bare: Bare, plan: Plan, rng: random.Random, report: Report
) -> Ratio:
    def round_of(get: Callable[[bytes], object]) -> float:
        keys = [key_of(rng.randrange(plan.keys)) for _ in range(GETS_A_ROUND)]
        started = perf_counter_ns()
        for key in keys:
            get(key)
        report(GETS_A_ROUND, f"{name}: get")
        return (perf_counter_ns() - started) / 1e3 / GETS_A_ROUND

    snapshot, reader = engine.snapshot(max_age_s=3_600), bare.reader()
    with snapshot:
        rows = [(round_of(snapshot.get), round_of(reader)) for _ in range(ROUNDS)]
    return _share(name, "get in an open snapshot", rows, 0.50)


class MvccWriter:
    """Overwrites through MVCC, one revision a key, one synced write a batch; counts where the time
    goes."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._latest = Latest(engine, SystemClock())
        self._shard = Shard.create(self._latest, shard=1, keyspace=1, segment=1)
        self._index = 0
        self.python_ns = 0
        self.write_ns = 0

    def put(self, pairs: Pairs) -> None:
        started = perf_counter_ns()
        shard = self._shard
        for key, value in pairs:
            with shard.begin() as scope:
                scope.put(key, value)
        self._index += 1
        shard.mark_applied(self._index)
        batch = Batch()
        shard.prepare(batch)
        prepared = perf_counter_ns()
        self._engine.write(batch, sync=True)
        written = perf_counter_ns()
        self._latest.renew()
        shard.after_commit()
        self.python_ns += prepared - started + perf_counter_ns() - written
        self.write_ns += written - prepared


def _compare_mvcc(
    name: str,
    engine: Engine,
    bare: Bare,
    plan: Plan,
    rng: random.Random,
    values: Values,
    report: Report,
) -> Ratio:
    writer = MvccWriter(engine)
    for pairs in _fill_pairs(plan, values):
        writer.put(pairs)
        report(len(pairs), f"{name}: fill mvcc")
    writer.python_ns = writer.write_ns = 0
    timed = _put_round(plan, rng, values, report, f"{name}: mvcc")
    rows = [(timed(writer.put), timed(bare.put)) for _ in range(ROUNDS)]
    ratio = median(ours / bare_us for ours, bare_us in rows)
    done = ROUNDS * PUT_BATCHES_A_ROUND * plan.batch * 1e3
    return Ratio(
        engine=name,
        loop=f"mvcc overwrite, batches of {plan.batch}, synced",
        interface_us=median(ours for ours, _ in rows),
        bare_us=median(bare_us for _, bare_us in rows),
        ratio=ratio,
        wished="<= 2.50 times the bare put",
        holds=ratio <= 2.5,
        note=f"python {writer.python_ns / done:.1f} us, write {writer.write_ns / done:.1f} us",
    )


def _share(name: str, loop: str, rows: list[tuple[float, float]], wished: float) -> Ratio:
    ratio = median(bare / ours for ours, bare in rows)
    return Ratio(
        engine=name,
        loop=loop,
        interface_us=median(ours for ours, _ in rows),
        bare_us=median(bare for _, bare in rows),
        ratio=ratio,
        wished=f">= {wished:.2f} of bare",
        holds=ratio >= wished,
    )
