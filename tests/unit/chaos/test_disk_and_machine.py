"""The simulated disk and the machine on it."""

from __future__ import annotations

import random

import pytest

from chaos.sim.disk import DiskSettings, SimWriter
from chaos.sim.machine import Action, Answer, AppliedRecord, Command, RegisterMachine
from chaos.sim.world import Process, World
from storage.engine import Batch, iterate
from storage.errors import WriteFailedError
from storage.faulty import FaultyEngine
from storage.memory import MemoryEngine


class Disk:
    def __init__(self, seed: int = 1, *, inline: bool = False, **settings: float) -> None:
        self.world = World(seed)
        self.hung: list[float] = []
        self.process = Process("p")
        self.engine = FaultyEngine(MemoryEngine(), rng=random.Random(seed))
        self.settings = DiskSettings(spike_p=0.0, **settings)  # type: ignore[arg-type]
        self.writer = SimWriter(
            self.world,
            self.process,
            self.settings,
            random.Random(seed),
            inline=inline,
            on_hang=self.hung.append,
        )
        self.ends: list[tuple[BaseException | None, float]] = []

    def submit(self) -> None:
        batch = Batch()
        batch.put(b"a", b"1")
        batch.put(b"b", b"2")
        self.writer.submit(self.engine, batch, lambda *end: self.ends.append(end))

    def keys(self) -> list[bytes]:
        with self.engine.snapshot() as snapshot:
            return [key for key, _ in iterate(snapshot)]


def test_a_write_takes_time_and_is_applied_at_its_end() -> None:
    disk = Disk()
    disk.submit()
    assert disk.keys() == []
    disk.world.run(1.0)
    assert disk.keys() == [b"a", b"b"]
    ((failure, seconds),) = disk.ends
    assert failure is None
    assert 0.0002 <= seconds <= 0.002


@pytest.mark.parametrize("inline", [True, False])
def test_an_inline_write_stops_its_process(inline: bool) -> None:
    disk, seen = Disk(inline=inline, slow_factor=1_000.0), list[float]()
    disk.world.at(0.1, lambda: seen.append(disk.world.now), owner=disk.process, frame=True)
    disk.submit()
    disk.world.run(5.0)
    ((_, seconds),) = disk.ends
    assert seen == [pytest.approx(seconds) if inline else 0.1]


def test_a_stall_holds_the_write() -> None:
    disk = Disk(stalled_until=3.0)
    disk.submit()
    disk.world.run(2.9)
    assert disk.ends == []
    disk.world.run(4.0)
    assert disk.ends[0][1] >= 3.0


@pytest.mark.parametrize("inline", [True, False])
def test_the_watchdog_sees_a_write_that_hangs(inline: bool) -> None:
    disk = Disk(inline=inline, stalled_until=11.0)
    disk.submit()
    disk.world.run(9.9)
    assert disk.hung == []
    disk.world.run(10.1)
    assert disk.hung == [10.0]


@pytest.mark.parametrize("inline", [True, False])
def test_a_repaired_disk_ends_the_write_under_way(inline: bool) -> None:
    disk = Disk(inline=inline, stalled_until=8.0)
    disk.submit()
    disk.world.run(1.0)
    disk.writer.hurry()
    disk.world.run(1.1)
    assert [failure for failure, _ in disk.ends] == [None]
    disk.world.run(20.0)
    assert len(disk.ends) == 1
    assert disk.hung == []


@pytest.mark.parametrize("power", [False, True])
def test_a_crash_leaves_the_whole_batch_or_nothing(power: bool) -> None:
    left: set[tuple[bytes, ...]] = set()
    for seed in range(20):
        disk = Disk(seed)
        disk.submit()
        disk.process.alive = False
        disk.writer.crash()
        if power:
            disk.engine.power_cut()
        disk.engine.recover()
        disk.world.run(1.0)
        assert disk.ends == [], "a dead process hears nothing"
        left.add(tuple(disk.keys()))
    assert left == {(), (b"a", b"b")}


def test_a_failed_write_poisons_the_disk_of_this_process() -> None:
    left: set[tuple[bytes, ...]] = set()
    for seed in range(20):
        disk = Disk(seed)
        disk.settings.fail_next = True
        disk.submit()
        disk.world.run(1.0)
        disk.submit()
        disk.world.run(2.0)
        assert [type(failure) for failure, _ in disk.ends] == [WriteFailedError] * 2
        disk.engine.recover()
        left.add(tuple(disk.keys()))
        assert not disk.settings.fail_next, "the next process has a good disk"
    assert left == {(), (b"a", b"b")}


# --- the machine ---------------------------------------------------------------------------------


class Replica:
    def __init__(self, engine: MemoryEngine | None = None) -> None:
        self.engine = engine or MemoryEngine()
        self.records: list[AppliedRecord] = []
        self.machine = RegisterMachine(3, self.engine, self.records.append)

    def apply(self, index: int, action: Action, value: str, expected: str | None = None) -> Answer:
        operation = f"op{len(self.records)}-{index}-{value}"
        command = Command(operation, action, "k", value, expected)
        return self.machine.apply(index, command.encode())

    def commit(self) -> None:
        batch = Batch()
        self.machine.prepare(batch)
        self.engine.write(batch, sync=True)
        self.machine.after_commit()


def test_commands_travel_as_bytes() -> None:
    command = Command("c1.2", Action.CAS, "g1/reg0", "new", None)
    assert Command.decode(command.encode()) == command


def test_registers_and_lists() -> None:
    replica = Replica()
    assert replica.apply(1, Action.WRITE, "a") == Answer(True, "a")
    assert replica.apply(2, Action.CAS, "b", expected="x") == Answer(False, "a")
    assert replica.apply(2, Action.CAS, "b", expected="a") == Answer(True, "b")
    assert replica.apply(4, Action.APPEND, "+") == Answer(True, "b+")
    assert [(record.index, record.position) for record in replica.records] == [
        (1, 0), (2, 0), (2, 1), (4, 0),
    ]  # fmt: skip
    assert replica.engine.keys == [], "effects wait in the overlay"
    assert replica.machine.read("k") == "b+", "which its own reads see"


def test_what_is_written_survives_and_the_rest_is_applied_again() -> None:
    replica = Replica()
    replica.apply(1, Action.WRITE, "a")
    replica.commit()
    replica.apply(2, Action.WRITE, "b")
    again = Replica(replica.engine)
    again.machine.restored(1)
    assert again.machine.read("k") == "a"
    again.apply(2, Action.WRITE, "c")
    assert again.machine.index == 2
    start, end = again.machine.owned_ranges()[0]
    assert all(start <= key < end for key in replica.engine.keys)


def test_an_operation_applied_twice_is_noticed() -> None:
    replica = Replica()
    payload = Command("same", Action.APPEND, "k", "x,").encode()
    for index in (1, 2):
        replica.machine.apply(index, payload)
    replica.commit()
    replica.machine.apply(3, payload)
    assert [record.repeated_at for record in replica.records] == [None, 1, 2]
    assert dict(replica.machine.operations()) == {"same": 3}


def test_equal_pasts_have_equal_chains() -> None:
    one, two, other = Replica(), Replica(), Replica()
    for replica in (one, two):
        replica.apply(1, Action.WRITE, "a")
    two.commit()
    other.apply(1, Action.WRITE, "b")
    for replica in (one, two, other):
        replica.apply(2, Action.WRITE, "c")
    assert one.machine.chain == two.machine.chain != other.machine.chain
