"""Transactions: compare / then / else, nested, as etcd has them.

    validate(txn)            what no state can make right; edges call it before they propose, the
                             machine calls it again
    choose(view, txn)        evaluate every compare, those of nested transactions too, on the state
                             before the transaction: the path
    check(view, txn, ...)    on that path and still before any write: does every lease exist, can
                             every revision be read, has every put that keeps something a key
    run(writer, txn, path)   execute; each operation sees the ones before it

Rules
- A missing key compares as zeros, but a compare of its VALUE is false whatever is asked, even
  NOT_EQUAL. A range compares true if all its keys do; an empty one is a missing key.
- A key is put at most once, and not in a range that is deleted, in all of the operations that can
  happen together; the two branches of a nested transaction exclude each other. Both branches are
  checked, whichever is taken. Of two nested transactions side by side, a put in the first and a
  delete in the second are allowed, but not the other way round; and a range that is deleted to the
  end of all keys (a zero byte as its end) meets no put. So has etcd, and operations in order are
  well defined: "delete everything, then put this" is one transaction.
- A list has at most 128 elements, and a nested transaction so much fewer as the longest list of
  each one around it has.
- check fails the whole transaction, on every replica alike. (etcd 3.5.1 applies some of these on
  some of its members.)
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Callable, Container, Iterable, Iterator
from typing import Final, NamedTuple, Protocol

from raftgroups.commands import (
    TO_THE_END,
    Compare,
    CompareTarget,
    Comparison,
    Delete,
    Put,
    Range,
    Txn,
    TxnOperation,
)
from raftgroups.keyttl import check_ttl_ms
from raftgroups.lease import lease_missing
from raftgroups.ranges import check_bounds_key, check_range, find
from raftgroups.refusals import (
    DuplicateKeyError,
    KeyNotFoundError,
    LeaseProvidedError,
    TooManyOperationsError,
    ValueProvidedError,
)
from raftgroups.results import DeleteResult, PutResult, RangeAnswer, TxnResponse, TxnResult
from storage.codec import check_key, check_value
from storage.errors import CompactedError, FutureRevisionError, InvalidOptionError
from storage.mvcc_records import KeyValue
from storage.mvcc_view import View

MAX_OPERATIONS: Final = 128

_ZERO: Final = KeyValue(b"", 0, 0, 0, 0, b"")
_FIELDS: Final[dict[int, Callable[[KeyValue], int | bytes]]] = {
    CompareTarget.VERSION: lambda kv: kv.version,
    CompareTarget.CREATE: lambda kv: kv.create_revision,
    CompareTarget.MOD: lambda kv: kv.mod_revision,
    CompareTarget.VALUE: lambda kv: kv.value,
    CompareTarget.LEASE: lambda kv: kv.lease,
}


class Path(NamedTuple):
    """Which branch is taken, and the path of each of its operations that is a transaction."""

    taken: bool
    nested: tuple[Path | None, ...]


class Writer(Protocol):
    """Executes single operations within one revision (operations.py)."""

    def put(self, operation: Put) -> PutResult: ...

    def delete(self, operation: Delete) -> DeleteResult: ...

    def range(self, operation: Range) -> RangeAnswer: ...

    @property
    def revision(self) -> int: ...

    @property
    def modified_ms(self) -> int: ...


# --- what no state can make right ------------------------------------------------------------


def validate(txn: Txn, max_operations: int = MAX_OPERATIONS) -> None:
    """Raises an InvalidRequestError."""
    _check_lists(txn, max_operations)
    _writes_of(txn.then)
    _writes_of(txn.otherwise)


def _check_lists(txn: Txn, allowed: int) -> None:
    longest = max(len(txn.compares), len(txn.then), len(txn.otherwise))
    if longest > allowed:
        raise TooManyOperationsError(
            f"a list of {longest} compares or operations is over the limit of {allowed} here; make "
            "several transactions of it"
        )
    for compare in txn.compares:
        _check_compare(compare)
    for operation in (*txn.then, *txn.otherwise):
        if isinstance(operation, Put):
            check_put(operation)
        elif isinstance(operation, Delete):
            check_bounds_key(operation.key)
        elif isinstance(operation, Range):
            check_range(operation)
        else:
            _check_lists(operation, allowed - longest)


def check_put(put: Put) -> None:
    check_key(put.key)
    check_value(put.value)
    check_ttl_ms(put.ttl_ms)
    if put.ignore_value and put.value:
        raise ValueProvidedError("a put that keeps the value has one itself; give one or the other")
    if put.ignore_lease and put.lease:
        raise LeaseProvidedError("a put that keeps the lease has one itself; give one or the other")


def _check_compare(compare: Compare) -> None:
    check_bounds_key(compare.key)
    if compare.target not in _FIELDS or not 0 <= compare.result <= max(Comparison):
        raise InvalidOptionError(
            f"a compare has target {compare.target} and result {compare.result}; targets are 0 to "
            "4, results 0 to 3"
        )
    if isinstance(compare.operand, bytes) != (compare.target == CompareTarget.VALUE):
        raise InvalidOptionError(
            f"a compare with target {compare.target} has the wrong kind of operand; values are "
            "compared with bytes and everything else with numbers"
        )


class _Deletes:
    """Ranges that are deleted, as disjoint intervals in order."""

    __slots__ = ("_intervals",)

    def __init__(self) -> None:
        self._intervals: list[tuple[bytes, bytes]] = []

    def add(self, start: bytes, end: bytes) -> None:
        """Merge with what it meets, so that a look-up is one bisection."""
        if end <= start:
            return
        kept = []
        for low, high in self._intervals:
            if high < start or low > end:
                kept.append((low, high))
            else:
                start, end = min(start, low), max(end, high)
        self._intervals = kept
        insort(self._intervals, (start, end), key=lambda interval: interval[0])

    def update(self, other: _Deletes) -> None:
        for interval in other._intervals:
            self.add(*interval)

    def holds(self, key: bytes) -> bool:
        at = bisect_right(self._intervals, key, key=lambda interval: interval[0]) - 1
        return at >= 0 and key < self._intervals[at][1]


def _writes_of(operations: tuple[TxnOperation, ...]) -> tuple[set[bytes], _Deletes]:
    """The keys put and the ranges deleted by a list that can all happen together.
    Raises DuplicateKeyError."""
    puts: set[bytes] = set()
    deletes = _Deletes()
    for operation in operations:
        if isinstance(operation, Delete) and operation.range_end != TO_THE_END:
            deletes.add(operation.key, operation.range_end or operation.key + b"\x00")
    for operation in operations:
        if not isinstance(operation, Txn):
            continue
        then_puts, then_deletes = _writes_of(operation.then)
        else_puts, else_deletes = _writes_of(operation.otherwise)
        for key in then_puts | else_puts:
            if key in puts or deletes.holds(key):
                raise _duplicate(key)
        puts |= then_puts | else_puts
        deletes.update(then_deletes)
        deletes.update(else_deletes)
    for operation in operations:
        if isinstance(operation, Put):
            if operation.key in puts or deletes.holds(operation.key):
                raise _duplicate(operation.key)
            puts.add(operation.key)
    return puts, deletes


def _duplicate(key: bytes) -> DuplicateKeyError:
    return DuplicateKeyError(
        f"key {key!r} is put and also put or deleted elsewhere in the same transaction; write it "
        "once"
    )


# --- the path --------------------------------------------------------------------------------


def choose(view: View, txn: Txn) -> Path:
    """The branches that the present state takes."""
    taken = all(_holds(view, compare) for compare in txn.compares)
    branch = txn.then if taken else txn.otherwise
    return Path(
        taken,
        tuple(choose(view, nested) if isinstance(nested, Txn) else None for nested in branch),
    )


def _holds(view: View, compare: Compare) -> bool:
    found = find(view, compare.key, compare.range_end)
    return holds_for(compare, found) if found else holds_for_nothing(compare)


def holds_for(compare: Compare, found: Iterable[KeyValue]) -> bool:
    field, operand, result = _FIELDS[compare.target], compare.operand, compare.result
    return all(_compares(field(record), operand, result) for record in found)


def holds_for_nothing(compare: Compare) -> bool:
    """For a range without a key."""
    return compare.target != CompareTarget.VALUE and holds_for(compare, [_ZERO])


def _compares(left: int | bytes, right: int | bytes, result: int) -> bool:
    if result == Comparison.EQUAL:
        return left == right
    if result == Comparison.NOT_EQUAL:
        return left != right
    if result == Comparison.GREATER:
        return left > right  # type: ignore[operator]
    return left < right  # type: ignore[operator]


def taken_operations(txn: Txn, path: Path) -> Iterator[Put | Delete | Range]:
    """Every operation on the path, in order."""
    branch = txn.then if path.taken else txn.otherwise
    for operation, nested in zip(branch, path.nested, strict=True):
        if isinstance(operation, Txn):
            assert nested is not None
            yield from taken_operations(operation, nested)
        else:
            yield operation


def is_read_only(txn: Txn) -> bool:
    """Whether neither branch can change anything: then it need not go through the log."""
    return all(
        is_read_only(operation) if isinstance(operation, Txn) else isinstance(operation, Range)
        for operation in (*txn.then, *txn.otherwise)
    )


# --- the state it needs ----------------------------------------------------------------------


def check(view: View, txn: Txn, path: Path, leases: Container[int]) -> None:
    """Raises an InvalidRequestError. The path must be that of this view."""
    for operation in taken_operations(txn, path):
        if isinstance(operation, Put):
            check_put_state(view, operation, leases)
        elif isinstance(operation, Range):
            _check_revision(view, operation.revision)


def check_put_state(view: View, put: Put, leases: Container[int]) -> None:
    if (put.ignore_value or put.ignore_lease) and view.get(put.key) is None:
        raise nothing_to_keep(put.key)
    if put.lease and put.lease not in leases:
        raise lease_missing(put.lease)


def nothing_to_keep(key: bytes) -> KeyNotFoundError:
    return KeyNotFoundError(f"key {key!r} does not exist, so there is no value or lease to keep")


def _check_revision(view: View, revision: int) -> None:
    state = view.state
    if revision > state.revision:
        raise FutureRevisionError(
            f"revision {revision} is in the future: shard {state.shard} is at {state.revision}"
        )
    if revision and revision < state.compact_revision:
        raise CompactedError(
            f"revision {revision} was compacted; shard {state.shard} can be read from "
            f"revision {state.compact_revision} on",
            state.compact_revision,
        )


# --- execution -------------------------------------------------------------------------------


def run(writer: Writer, txn: Txn, path: Path) -> TxnResult:
    """Execute the path. The caller has called validate and check."""
    branch = txn.then if path.taken else txn.otherwise
    responses: list[TxnResponse] = []
    for operation, nested in zip(branch, path.nested, strict=True):
        if isinstance(operation, Put):
            responses.append(writer.put(operation))
        elif isinstance(operation, Delete):
            responses.append(writer.delete(operation))
        elif isinstance(operation, Range):
            responses.append(writer.range(operation))
        else:
            assert nested is not None
            responses.append(run(writer, operation, nested))
    return TxnResult(writer.revision, path.taken, tuple(responses), writer.modified_ms)
