"""One shard as a read sees it: protocols only, for the faces' pure translations and the regime.

Whoever is given a ShardReader uses it within the call and does not keep it.
"""

from __future__ import annotations

from typing import Protocol

from raftgroups.commands import Range, Txn
from raftgroups.results import RangeAnswer, TxnResult
from storage.mvcc_records import KeyValue
from storage.mvcc_view import View


class LeaseReading(Protocol):
    """A lease as of a read. A named tuple in practice."""

    @property
    def lease(self) -> int: ...

    @property
    def granted_s(self) -> int: ...

    @property
    def remaining_ms(self) -> int: ...


class ShardReader(Protocol):
    """One shard as this node's replica has it now. Its methods raise the errors that name what
    cannot be read (storage/errors.py)."""

    @property
    def shard(self) -> int:
        """Its number, as session tokens name it."""
        ...

    @property
    def term(self) -> int:
        """Of the shard's group, as this node knows it."""
        ...

    @property
    def revision(self) -> int: ...

    @property
    def compact_revision(self) -> int: ...

    @property
    def view(self) -> View:
        """For keys, bounded pages and counts (storage/mvcc_view.py)."""
        ...

    def get(self, key: bytes, revision: int = 0) -> KeyValue | None: ...

    def ttl_remaining_ms(self, key: bytes) -> int | None:
        """Of the key's own time to live; None if it has none."""
        ...

    def range(self, operation: Range) -> RangeAnswer:
        """As etcd answers it, bounded by nothing but the operation's limit."""
        ...

    def read_txn(self, txn: Txn) -> TxnResult:
        """A transaction that cannot write (raftgroups/txn.py: is_read_only)."""
        ...

    def lease(self, lease: int) -> LeaseReading | None: ...

    @property
    def lease_epoch(self) -> int:
        """As of now, where the keyspace's leases are (raftgroups/lease.py)."""
        ...

    def leases(self) -> list[int]:
        """All lease ids, in order."""
        ...

    def lease_keys(self, lease: int) -> list[bytes]: ...
