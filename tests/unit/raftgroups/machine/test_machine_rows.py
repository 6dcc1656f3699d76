"""The rows that are a machine's own: written where they differ, both at a birth."""

from __future__ import annotations

from raftgroups.machine_rows import Head, MachineRows
from storage.engine import Batch
from storage.memory import MemoryEngine

GROUP = 7


class Disk:
    def __init__(self) -> None:
        self.engine = MemoryEngine()

    def write(self, rows: MachineRows, epoch: int, head: Head) -> int:
        """How many rows it took."""
        batch = Batch()
        rows.write(batch, epoch, *head)
        return self.commit(batch)

    def commit(self, batch: Batch) -> int:
        count = len(batch.operations)
        if count:
            self.engine.write(batch, sync=True)
        return count

    def load(self, rows: MachineRows) -> tuple[Head | None, int]:
        with self.engine.snapshot() as snapshot:
            return rows.load(snapshot)


def test_what_was_written_is_read_back() -> None:
    disk, head = Disk(), Head(5, 6, 7, b"client")
    assert disk.write(MachineRows(GROUP), 3, head) == 2
    assert disk.load(MachineRows(GROUP)) == (head, 3)
    assert disk.load(MachineRows(GROUP + 1)) == (None, 0)


def test_only_what_differs_is_written() -> None:
    disk, rows, head = Disk(), MachineRows(GROUP), Head(5, 6, 7, b"")
    assert disk.load(rows) == (None, 0)
    assert disk.write(rows, 0, head) == 1, "no epoch was counted, and none is kept"
    assert disk.write(rows, 0, head) == 0
    assert disk.write(rows, 1, head) == 1
    again = MachineRows(GROUP)
    assert disk.load(again) == (head, 1)
    assert disk.write(again, 1, head) == 0
    assert disk.write(again, 1, head._replace(clock_ms=9)) == 1


def test_a_shard_that_is_born_gets_both_whatever_they_say() -> None:
    disk = Disk()
    assert disk.write(MachineRows(GROUP), 0, Head(0, 0, 0, b"")) == 2


def test_both_lie_in_the_ranges_and_go_together() -> None:
    disk, rows = Disk(), MachineRows(GROUP)
    disk.write(rows, 3, Head(5, 6, 7, b""))
    with disk.engine.snapshot() as snapshot:
        held = [row for bounds in rows.owned_ranges() for row in snapshot.scan(*bounds).items]
    assert len(held) == 2
    batch = Batch()
    rows.erase(batch)
    disk.commit(batch)
    assert disk.load(MachineRows(GROUP)) == (None, 0)
