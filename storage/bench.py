"""The measured life of one engine: fill, overwrite, read, scan, delete, each phase timed.

The workload is the same for every engine and derives from one seed, so that tables of different
runs and engines can be laid side by side. Writes are batches, each one synced; reads are single
gets in one open snapshot; scans are pages of a thousand pairs. Values are half random and half
repetition, so that compression has something to do but no miracle to work.

Disk traffic is what the kernel counted for this process (/proc/self/io), so it includes journals,
whole pages rewritten for one small record, and compaction in background threads; dividing it by the
bytes handed to the engine gives the write amplification. Engines may finish such work late, so the
total is taken after the engine was closed. The counter is `wchar`, the bytes given to write calls
(no engine writes through a memory map): `write_bytes` counts whole dirtied folios, which on a
kernel with large folios was ten times what the device got (LMDB: 2,421 MB, against 249 MB of wchar
and 251 MB of sectors written).
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import perf_counter_ns
from typing import Any, Final

from storage.engine import Batch, Engine

KEY_FORMAT: Final = b"key%013d"
KEY_BYTES: Final = 16
FILL_BATCH: Final = 1_000
SCAN_PAGE: Final = 1_000

Report = Callable[[int, str], None]
"""Told how many operations were just done, and of what."""


@dataclass(frozen=True, slots=True)
class Plan:
    keys: int
    value_bytes: int
    batch: int = 100
    seed: int = 1

    @property
    def overwrites(self) -> int:
        return self._some_batches(self.keys // 2)

    @property
    def reads(self) -> int:
        return min(self.keys, 200_000)

    @property
    def deletes(self) -> int:
        return self._some_batches(self.keys // 4)

    @property
    def operations(self) -> int:
        return self.keys * 2 + self.overwrites + self.reads + self.deletes

    def _some_batches(self, operations: int) -> int:
        return max(1, min(operations, 200_000) // self.batch) * self.batch


@dataclass(frozen=True, slots=True)
class Phase:
    name: str
    operations: int
    seconds: float
    call: str
    """What one latency sample covers."""
    p50_us: float
    p99_us: float

    @property
    def per_second(self) -> float:
        return self.operations / self.seconds if self.seconds else 0.0


@dataclass(frozen=True, slots=True)
class Result:
    engine: str
    phases: list[Phase]
    put_bytes: int
    """Keys and values handed to the engine, deletes included."""
    written_bytes: int
    disk_bytes: int
    live_bytes: int
    resident_anonymous_bytes: int
    details: dict[str, float | str] = field(default_factory=dict)

    @property
    def write_amplification(self) -> float:
        return self.written_bytes / self.put_bytes

    @property
    def space_amplification(self) -> float:
        return self.disk_bytes / self.live_bytes

    def as_json(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "phases": [{**asdict(phase), "per_second": phase.per_second} for phase in self.phases],
            "write_amplification": self.write_amplification,
            "space_amplification": self.space_amplification,
        }


class Samples:
    """Latencies of one phase."""

    def __init__(self) -> None:
        self._ns = array("q")
        self._started = perf_counter_ns()

    def add(self, started_ns: int) -> None:
        self._ns.append(perf_counter_ns() - started_ns)

    def phase(self, name: str, operations: int, call: str) -> Phase:
        seconds = (perf_counter_ns() - self._started) / 1e9
        ordered = sorted(self._ns)
        return Phase(
            name,
            operations,
            seconds,
            call,
            p50_us=percentile(ordered, 0.50) / 1e3,
            p99_us=percentile(ordered, 0.99) / 1e3,
        )


def percentile(ordered: list[int], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0


def key_of(number: int) -> bytes:
    return KEY_FORMAT % number


class Values:
    """Values of the wished size, different from call to call, cheap to make."""

    def __init__(self, size: int, rng: random.Random) -> None:
        self._half = size // 2
        self._rest = b"janus" * (size // 5 + 1)
        self._size = size
        self._pool = rng.randbytes(1 << 20)
        self._rng = rng

    def next(self) -> bytes:
        at = self._rng.randrange(0, len(self._pool) - self._half)
        return (self._pool[at : at + self._half] + self._rest)[: self._size]


def run(name: str, open_engine: Callable[[], Engine], plan: Plan, report: Report) -> Result:
    rng = random.Random(plan.seed)
    values = Values(plan.value_bytes, rng)
    before = process_io()["wchar"]
    engine = open_engine()
    try:
        phases = [
            _fill(engine, plan, values, report),
            _overwrite(engine, plan, rng, values, report),
            _read(engine, plan, rng, report),
            _scan(engine, plan, report),
            _delete(engine, plan, report),
        ]
        statistics = engine.statistics()
        anonymous = resident_anonymous_bytes()
    finally:
        engine.close()
    return Result(
        engine=name,
        phases=phases,
        put_bytes=statistics.put_bytes,
        written_bytes=process_io()["wchar"] - before,
        disk_bytes=statistics.disk_bytes,
        live_bytes=(plan.keys - len(set(_doomed(plan)))) * (KEY_BYTES + plan.value_bytes),
        resident_anonymous_bytes=anonymous,
        details=dict(statistics.details),
    )


def batches(total: int, size: int) -> Iterator[range]:
    for start in range(0, total, size):
        yield range(start, min(start + size, total))


def _fill(engine: Engine, plan: Plan, values: Values, report: Report) -> Phase:
    samples = Samples()
    for numbers in batches(plan.keys, FILL_BATCH):
        started = perf_counter_ns()
        batch = Batch()
        for number in numbers:
            batch.put(key_of(number), values.next())
        engine.write(batch, sync=True)
        samples.add(started)
        report(len(numbers), "fill")
    return samples.phase("fill", plan.keys, f"batch of {FILL_BATCH}, synced")


def _overwrite(
    engine: Engine, plan: Plan, rng: random.Random, values: Values, report: Report
) -> Phase:
    samples = Samples()
    for numbers in batches(plan.overwrites, plan.batch):
        started = perf_counter_ns()
        batch = Batch()
        for _ in numbers:
            batch.put(key_of(rng.randrange(plan.keys)), values.next())
        engine.write(batch, sync=True)
        samples.add(started)
        report(len(numbers), "overwrite")
    return samples.phase("overwrite", plan.overwrites, f"batch of {plan.batch}, synced")


def _read(engine: Engine, plan: Plan, rng: random.Random, report: Report) -> Phase:
    keys = [key_of(rng.randrange(plan.keys)) for _ in range(plan.reads)]
    samples = Samples()
    with engine.snapshot(max_age_s=3_600) as snapshot:
        get = snapshot.get
        for numbers in batches(plan.reads, 1_000):
            for number in numbers:
                started = perf_counter_ns()
                value = get(keys[number])
                samples.add(started)
                if value is None:
                    raise AssertionError(f"{keys[number]!r} was put and is not there")
            report(len(numbers), "read")
    return samples.phase("read", plan.reads, "one get")


def _scan(engine: Engine, plan: Plan, report: Report) -> Phase:
    samples = Samples()
    found, start, more = 0, b"", True
    with engine.snapshot(max_age_s=3_600) as snapshot:
        while more:
            started = perf_counter_ns()
            items, more = snapshot.scan(start, limit=SCAN_PAGE)
            samples.add(started)
            found += len(items)
            start = items[-1][0] + b"\x00"
            report(len(items), "scan")
    if found != plan.keys:
        raise AssertionError(f"the scan found {found} of {plan.keys} keys")
    return samples.phase("scan", found, f"page of {SCAN_PAGE}")


def _doomed(plan: Plan) -> list[int]:
    rng = random.Random(plan.seed + 1)
    return [rng.randrange(plan.keys) for _ in range(plan.deletes)]


def _delete(engine: Engine, plan: Plan, report: Report) -> Phase:
    doomed = _doomed(plan)
    samples = Samples()
    for numbers in batches(plan.deletes, plan.batch):
        started = perf_counter_ns()
        batch = Batch()
        for number in numbers:
            batch.delete(key_of(doomed[number]))
        engine.write(batch, sync=True)
        samples.add(started)
        report(len(numbers), "delete")
    return samples.phase("delete", plan.deletes, f"batch of {plan.batch}, synced")


def process_io() -> dict[str, int]:
    """The kernel's counters for this process; zeros where the system has none."""
    path = Path("/proc/self/io")
    if not path.exists():
        return {"wchar": 0}
    pairs = (line.split(": ") for line in path.read_text().splitlines())
    return {name: int(number) for name, number in pairs}


def resident_anonymous_bytes() -> int:
    """Memory of this process that no file backs (RssAnon); 0 where the system does not tell."""
    path = Path("/proc/self/status")
    if not path.exists():
        return 0
    for line in path.read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return 0
