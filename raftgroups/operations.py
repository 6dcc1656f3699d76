"""Single operations on one shard, and several of them as one revision.

An Operations is made for one open write scope of the shard (storage/mvcc_scope.py) and executes
puts, deletes, reads, increments and CAS in it. Whatever it raises, the owner aborts the scope and
forgets this object: then nothing has happened. On commit it calls `set_ttls`.

It may also be made without a scope, for a transaction that turned out to only read.

Time to live. A put with one, and an increment of a key that has one, are noted in `ttls` and set
once all operations are done, since a later put of the same key ends what an earlier one began.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Final

from raftgroups.commands import BatchOperation, BatchWrite, Cas, Delete, Increment, Put, Range
from raftgroups.keyttl import KeyTtl, KeyTtls, check_ttl_ms
from raftgroups.ranges import bounds, check_bounds_key, read
from raftgroups.refusals import IntegerOverflowError, NotAnIntegerError
from raftgroups.results import (
    BatchAnswer,
    BatchResult,
    CasResult,
    DeleteResult,
    IncrementResult,
    PutResult,
    RangeAnswer,
)
from raftgroups.txn import check_put, check_put_state, nothing_to_keep
from storage.codec import KEY_MAX_BYTES, check_key
from storage.mvcc_records import KeyValue
from storage.mvcc_scope import WriteScope
from storage.mvcc_view import View

INTEGER_MAX: Final = 2**63 - 1
INTEGER_MIN: Final = -(2**63)
INTEGER_MAX_BYTES: Final = 20


class Operations:
    __slots__ = ("_clock_ms", "_leases", "_scope", "_ttls", "_view", "ttls")

    def __init__(
        self,
        view: View,
        scope: WriteScope | None,
        leases: Container[int],
        ttls: KeyTtls,
        clock_ms: int,
    ) -> None:
        self._view = view
        self._scope = scope
        self._leases = leases
        self._ttls = ttls
        self._clock_ms = clock_ms
        self.ttls: dict[bytes, int] = {}
        """Key -> deadline, of the keys that this revision leaves with a time to live."""

    @property
    def view(self) -> View:
        return self._view

    @property
    def revision(self) -> int:
        """The shard's revision as of the operations done."""
        scope = self._scope
        if scope is not None and scope.changed:
            return scope.revision
        return self._view.state.revision

    @property
    def modified_ms(self) -> int:
        """The wall time of the revision that the operations done make; 0 if they make none."""
        scope = self._scope
        return scope.wall_ms if scope is not None and scope.changed else 0

    @property
    def _open_scope(self) -> WriteScope:
        assert self._scope is not None, "a write needs a write scope"
        return self._scope

    def set_ttls(self, revision: int) -> None:
        """The scope was committed at this revision."""
        for key, deadline_ms in self.ttls.items():
            self._ttls.set(key, KeyTtl(deadline_ms, revision))

    # --- as etcd has them ---

    def put(self, operation: Put) -> PutResult:
        """The caller has checked it (txn.py: check_put, check_put_state)."""
        key, value, lease = operation.key, operation.value, operation.lease
        if operation.ignore_value or operation.ignore_lease:
            old = self._view.get(key)
            if old is None:  # it was there, and an earlier operation has deleted it
                raise nothing_to_keep(key)
            value = old.value if operation.ignore_value else value
            lease = old.lease if operation.ignore_lease else lease
        previous = self._put(key, value, lease, operation.ttl_ms, operation.want_previous)
        return PutResult(self.revision, previous, self.modified_ms)

    def _put(
        self, key: bytes, value: bytes, lease: int, ttl_ms: int, want_previous: bool
    ) -> KeyValue | None:
        previous = self._open_scope.put(key, value, lease, want_previous=want_previous)
        if ttl_ms:
            self.ttls[key] = self._clock_ms + ttl_ms
        elif self.ttls:
            self.ttls.pop(key, None)
        return previous

    def delete(self, operation: Delete) -> DeleteResult:
        check_bounds_key(operation.key)
        scope = self._open_scope
        if operation.range_end:
            found = scope.delete_range(*bounds(operation.key, operation.range_end))
        else:
            old = scope.delete(operation.key) if len(operation.key) <= KEY_MAX_BYTES else None
            found = [] if old is None else [old]
        if self.ttls:
            for gone in found:
                self.ttls.pop(gone.key, None)
        previous = tuple(found) if operation.want_previous else ()
        return DeleteResult(self.revision, len(found), previous, self.modified_ms)

    def range(self, operation: Range) -> RangeAnswer:
        return read(self._view, operation, self.revision)

    # --- beyond etcd ---

    def increment(self, operation: Increment) -> IncrementResult:
        key = operation.key
        check_key(key)
        old = self._view.get(key)
        number = operation.delta + (0 if old is None else _number_of(key, old.value))
        if not INTEGER_MIN <= number <= INTEGER_MAX:
            raise IntegerOverflowError(
                f"key {key!r} would become {number}, which does not fit into 64 bits"
            )
        deadline_ms = self._deadline_of(old)
        self._put(key, b"%d" % number, 0 if old is None else old.lease, 0, False)
        if deadline_ms is not None:
            self.ttls[key] = deadline_ms
        return IncrementResult(self.revision, number, self.modified_ms)

    def _deadline_of(self, record: KeyValue | None) -> int | None:
        """When a key's own time is over, if it has one."""
        if record is None:
            return None
        if self._scope is not None and record.mod_revision == self._scope.revision:
            return self.ttls.get(record.key)
        ttl = self._ttls.get(record.key)
        if ttl is None or ttl.mod_revision != record.mod_revision:
            return None
        return ttl.deadline_ms

    def compare_and_set(self, operation: Cas) -> CasResult:
        key, value = operation.key, operation.value
        put = Put(key, value or b"", lease=operation.lease, ttl_ms=operation.ttl_ms)
        check_put(put)
        check_put_state(self._view, put, self._leases)
        current = self._view.get(key)
        if not _matches(operation, current):
            return CasResult(self.revision, False, current, self.modified_ms)
        if value is not None:
            self._put(key, value, operation.lease, operation.ttl_ms, False)
        elif current is not None:
            self.delete(Delete(key))
        return CasResult(self.revision, True, current, self.modified_ms)

    def of_batch(self, operation: BatchOperation) -> BatchAnswer:
        if isinstance(operation, Put):
            check_put(operation)
            check_put_state(self._view, operation, self._leases)
            return self.put(operation)
        if isinstance(operation, Delete):
            return self.delete(operation)
        if isinstance(operation, Increment):
            return self.increment(operation)
        return self.compare_and_set(operation)


class ConditionFailedError(Exception):
    """A CAS of a batch did not hold: leave the scope, and nothing is written."""

    def __init__(self, place: int, answer: CasResult) -> None:
        super().__init__(place)
        self.place = place
        self.answer = answer


def run_batch(operations: Operations, command: BatchWrite) -> BatchResult:
    """Raises ConditionFailedError, or an InvalidRequestError."""
    results: list[BatchAnswer] = []
    for place, operation in enumerate(command.operations):
        answer = operations.of_batch(operation)
        if isinstance(answer, CasResult) and not answer.succeeded:
            raise ConditionFailedError(place, answer)
        results.append(answer)
    return BatchResult(operations.revision, -1, tuple(results), operations.modified_ms)


def set_ttl(view: View, ttls: KeyTtls, key: bytes, ttl_ms: int, clock_ms: int) -> int:
    """A key's time to live from now on, 0 for none. Returns the key's mod revision, 0 if there is
    no such key."""
    check_key(key)
    check_ttl_ms(ttl_ms)
    record = view.get(key)
    if record is None:
        return 0
    if ttl_ms:
        ttls.set(key, KeyTtl(clock_ms + ttl_ms, record.mod_revision))
    else:
        ttls.remove(key)
    return record.mod_revision


def _matches(operation: Cas, current: KeyValue | None) -> bool:
    expected = operation.expected_revision
    if expected >= 0 and expected != (0 if current is None else current.mod_revision):
        return False
    if operation.expected_value is None:
        return True
    return current is not None and current.value == operation.expected_value


def _number_of(key: bytes, value: bytes) -> int:
    """Only what an increment would have written is a number: no spaces, signs, leading zeros."""
    if len(value) <= INTEGER_MAX_BYTES and value.removeprefix(b"-").isdigit():
        number = int(value)
        if b"%d" % number == value:
            return number
    raise NotAnIntegerError(
        f"the value of key {key!r} is not a decimal number of 64 bits; only such can be incremented"
    )
