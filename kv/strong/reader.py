"""One shard as this node's replica has it now: the ShardReader that reads are evaluated on."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from raftgroups.commands import Range, Txn
from raftgroups.machine import ShardMachine
from raftgroups.results import RangeAnswer, TxnResult
from storage.mvcc_records import KeyValue
from storage.mvcc_view import View


class LeaseNow(NamedTuple):
    lease: int
    granted_s: int
    remaining_ms: int


class ReplicaReader:
    """kv/regime.py ShardReader. `clock_ms` gives the shard's time as this node knows it. `term` is
    to be set by whoever hands it out: asking the group for every read costs a third of a us."""

    __slots__ = ("_clock_ms", "_machine", "shard", "term")

    def __init__(self, machine: ShardMachine, shard: int, clock_ms: Callable[[], int]) -> None:
        self._machine = machine
        self._clock_ms = clock_ms
        self.shard = shard
        self.term = 0

    @property
    def revision(self) -> int:
        return self._machine.shard.state.revision

    @property
    def compact_revision(self) -> int:
        return self._machine.shard.state.compact_revision

    @property
    def view(self) -> View:
        return self._machine.shard.view

    def get(self, key: bytes, revision: int = 0) -> KeyValue | None:
        return self._machine.shard.view.get(key, revision)

    def ttl_remaining_ms(self, key: bytes) -> int | None:
        machine = self._machine
        return machine.ttl_remaining_ms(key, self._clock_ms()) if machine.ttls.count else None

    def range(self, operation: Range) -> RangeAnswer:
        return self._machine.range(operation)

    def read_txn(self, txn: Txn) -> TxnResult:
        return self._machine.read_txn(txn)

    def lease(self, lease: int) -> LeaseNow | None:
        found = self._machine.leases.get(lease)
        if found is None:
            return None
        return LeaseNow(lease, found.ttl_s, max(0, found.deadline_ms - self._clock_ms()))

    @property
    def lease_epoch(self) -> int:
        return self._machine.leases.epoch

    def leases(self) -> list[int]:
        return self._machine.leases.ids()

    def lease_keys(self, lease: int) -> list[bytes]:
        return self._machine.lease_keys(lease)
