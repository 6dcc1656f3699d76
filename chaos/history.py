"""What clients did and saw: the one record that the checkers judge. Pure: values only.

Honesty is the whole point of it. An operation is DONE only if its answer came; FAILED only if the
answer said that it surely was not done; everything else (a timeout, a lost connection, a node that
died under it, the end of the run) is UNKNOWN: it may have taken effect, or may still.

Times are of one clock, any unit. Two operations are ordered only if one completed before the other
was invoked; equal times count as concurrent, which never accuses falsely.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum


class Kind(StrEnum):
    READ = "read"
    WRITE = "write"
    CAS = "cas"
    APPEND = "append"


class Result(StrEnum):
    DONE = "done"
    FAILED = "failed"
    UNKNOWN = "unknown"


@dataclass(slots=True)
class Operation:
    """One call of one client. Invariant: `completed` is None exactly while the outcome is open."""

    id: str
    client: str
    node: str
    key: str
    kind: Kind
    invoked: float
    value: str | None = None
    """What a write, CAS or append brings."""
    expected: str | None = None
    """What a CAS wants to find."""
    completed: float | None = None
    result: Result = Result.UNKNOWN
    observed: str | None = None
    """What the key held: for a read its answer, for a CAS or append the value after it."""
    changed: bool = True
    """False for a CAS that was answered but did not match."""
    index: int | None = None
    """Where in the log it was applied, if the answer said so."""
    note: str = ""

    def __str__(self) -> str:
        end = "..." if self.completed is None else f"{self.completed:.6f}"
        what = self.kind.value
        if self.kind is Kind.CAS:
            what += f" {self.expected!r} -> {self.value!r}"
        elif self.kind is not Kind.READ:
            what += f" {self.value!r}"
        seen = f" saw {self.observed!r}" if self.result is Result.DONE else ""
        missed = "" if self.changed else " (no match)"
        return (
            f"[{self.invoked:.6f} .. {end}] {self.client} at {self.node}: "
            f"{self.key} {what} {self.result.value}{missed}{seen}"
        )


@dataclass(slots=True)
class History:
    operations: list[Operation] = field(default_factory=list)

    def invoke(self, operation: Operation) -> Operation:
        self.operations.append(operation)
        return operation

    def done(
        self, operation: Operation, at: float, observed: str | None, *, changed: bool = True
    ) -> None:
        assert operation.completed is None, f"answered twice: {operation}"
        operation.completed, operation.result = at, Result.DONE
        operation.observed, operation.changed = observed, changed

    def failed(self, operation: Operation, at: float, why: str) -> None:
        assert operation.completed is None, f"answered twice: {operation}"
        operation.completed, operation.result, operation.note = at, Result.FAILED, why

    def unknown(self, operation: Operation, why: str) -> None:
        """It stays open for ever: nothing may be concluded from when the client gave up."""
        assert operation.completed is None, f"answered twice: {operation}"
        operation.note = why

    def by_key(self) -> Iterator[tuple[str, list[Operation]]]:
        keys: dict[str, list[Operation]] = {}
        for operation in self.operations:
            keys.setdefault(operation.key, []).append(operation)
        for key in sorted(keys):
            yield key, keys[key]


def count_results(operations: Iterable[Operation]) -> dict[str, int]:
    counts = {result.value: 0 for result in Result}
    for operation in operations:
        counts[operation.result.value] += 1
    return counts
