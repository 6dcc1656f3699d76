"""A transaction or an atomic batch over several shards: cut by the map, its answers joined. Pure.

    plan_of(command, table)     a Part for each shard, that of the anchor first
    branch_of(plan, prepared)   which branch the compares of all parts take together
    failure_of_branch(...)      the first operation of that branch that cannot be done, if any
    answer_of(plan, ...)        what the whole answers, out of what the parts did

A part has only what lies within its shard: point operations as they are, ranges cut to it. What was
cut is joined in the order of keys, so that it reads as if there were one shard.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final

from kv.router import CrossShardError
from raftgroups.commands import (
    BatchWrite,
    Bounds,
    Cas,
    Delete,
    PartOperation,
    Piece,
    PlacedCompare,
    Put,
    Range,
    SortOrder,
    Txn,
)
from raftgroups.footprint import cut_compare, cut_operation, span_of
from raftgroups.meta.view import ShardTable
from raftgroups.ranges import answer_of as range_answer_of
from raftgroups.ranges import bounds
from raftgroups.results import (
    BatchResult,
    CasResult,
    CrossResult,
    DeleteResult,
    Found,
    PartAnswer,
    PartFailure,
    PartResponse,
    PrepareResult,
    RangeAnswer,
    ResolveResult,
    TxnResult,
)
from raftgroups.txn import holds_for_nothing
from storage.mvcc_records import KeyValue

CROSSES: Final = Txn | BatchWrite
"""The commands that may touch several shards."""


@dataclass(frozen=True, slots=True)
class Part:
    """bounds: from its first key to its last, within one shard."""

    bounds: Bounds
    pieces: tuple[Piece, ...]
    compares: tuple[PlacedCompare, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    command: Txn | BatchWrite
    anchor: bytes
    parts: tuple[Part, ...]

    @property
    def writes(self) -> bool:
        return any(not isinstance(p.operation, Range) for part in self.parts for p in part.pieces)


# --- cutting ------------------------------------------------------------------------------------


def check_crossing(command: Txn | BatchWrite) -> None:
    """Raises CrossShardError: what a transaction over several shards cannot have."""
    if isinstance(command, BatchWrite):
        operations: Iterable[object] = command.operations
    else:
        operations = (*command.then, *command.otherwise)
    for operation in operations:
        if isinstance(operation, Txn):
            raise CrossShardError(
                "nothing was done: a nested transaction works within one shard only; make one of "
                "compares, then and else of it"
            )
        if isinstance(operation, Put | Cas) and operation.lease:
            raise CrossShardError(
                "nothing was done: a transaction over several shards attaches no key to a lease; "
                "give the key a ttl of its own, or write it by itself"
            )
        if isinstance(operation, Range) and operation.revision:
            raise CrossShardError(
                "nothing was done: each shard counts its own revisions, so a transaction over "
                "several shards reads what is there now; leave the revision out, or read that key "
                "by itself (GET /api/v1/keys/{key}?revision=)"
            )


def plan_of(command: Txn | BatchWrite, table: ShardTable) -> Plan:
    """Raises CrossShardError."""
    check_crossing(command)
    pieces: dict[int, list[Piece]] = {}
    compares: dict[int, list[PlacedCompare]] = {}
    spans: dict[int, list[Bounds]] = {}
    anchor: bytes | None = None
    first = b""
    for place, taken, operation in _operations_of(command):
        start, end, writes = span_of(operation)
        first = first or start
        if writes and anchor is None:
            anchor = start
        for shard in table.overlapping(start, end):
            cut = cut_operation(operation, (shard.start, shard.end))
            if cut is not None:
                pieces.setdefault(shard.shard, []).append(Piece(place, taken, cut))
                spans.setdefault(shard.shard, []).append(span_of(cut)[:2])
    for place, compare in enumerate(command.compares if isinstance(command, Txn) else ()):
        start, end = bounds(compare.key, compare.range_end)
        first = first or start
        for shard in table.overlapping(start, end):
            found = cut_compare(compare, (shard.start, shard.end))
            if found is not None:
                compares.setdefault(shard.shard, []).append(PlacedCompare(place, found))
                key_range = bounds(found.key, found.range_end)
                spans.setdefault(shard.shard, []).append(key_range)
    anchor = first if anchor is None else anchor
    home = table.of_key(anchor).shard
    order = sorted(spans, key=lambda shard: (shard != home, _around(spans[shard])[0]))
    parts = tuple(
        Part(_around(spans[shard]), tuple(pieces.get(shard, ())), tuple(compares.get(shard, ())))
        for shard in order
    )
    return Plan(command, anchor, parts)


def _operations_of(command: Txn | BatchWrite) -> Iterable[tuple[int, bool, PartOperation]]:
    if isinstance(command, BatchWrite):
        yield from ((place, True, each) for place, each in enumerate(command.operations))
        return
    for taken, branch in ((True, command.then), (False, command.otherwise)):
        for place, operation in enumerate(branch):
            assert not isinstance(operation, Txn)
            yield place, taken, operation


def _around(spans: Sequence[Bounds]) -> Bounds:
    ends = [end for _, end in spans if end is not None]
    end = max(ends) if len(ends) == len(spans) else None
    return min(start for start, _ in spans), end


# --- what the parts say together ----------------------------------------------------------------


def branch_of(plan: Plan, prepared: Sequence[PrepareResult]) -> bool:
    if isinstance(plan.command, BatchWrite):
        return True
    found: dict[int, list[int]] = {}
    for place, state in chain.from_iterable(each.compares for each in prepared):
        found.setdefault(place, []).append(state)
    for place, compare in enumerate(plan.command.compares):
        states = set(found.get(place, ())) - {Found.NOTHING}
        holds = states == {Found.TRUE} if states else holds_for_nothing(compare)
        if not holds:
            return False
    return True


def failure_of_branch(prepared: Sequence[PrepareResult], taken: bool) -> PartFailure | None:
    failures = [failure for each in prepared for failure in each.failures if failure.taken == taken]
    return min(failures, key=lambda failure: failure.place, default=None)


def failed_batch(failure: PartFailure) -> BatchResult:
    """The condition of one operation did not hold, so nothing was done."""
    return BatchResult(0, failure.place, (CasResult(0, False, failure.current),))


# --- joining ------------------------------------------------------------------------------------


def answer_of(plan: Plan, taken: bool, resolved: Sequence[ResolveResult]) -> CrossResult | None:
    """None if the answer of a part was not kept."""
    by_place: dict[int, dict[bytes, PartAnswer]] = {}
    for part in resolved:  # two of them may be one, after a merge
        for answer in part.answers:
            by_place.setdefault(answer.place, {})[answer.key] = answer
    command = plan.command
    operations: Sequence[object] = (
        command.operations
        if isinstance(command, BatchWrite)
        else command.then
        if taken
        else command.otherwise
    )
    if not all(_is_whole(plan, taken, place, by_place) for place in range(len(operations))):
        return None
    responses = tuple(
        _joined(operation, [a.response for _, a in sorted(by_place.get(place, {}).items())])
        for place, operation in enumerate(operations)
    )
    seen = _seen(resolved)
    revision = max((revision for _, revision in seen), default=0)
    modified_ms = max((part.modified_ms for part in resolved), default=0)
    result: TxnResult | BatchResult
    if isinstance(command, BatchWrite):
        result = BatchResult(revision, -1, responses, modified_ms)  # type: ignore[arg-type]
    else:
        result = TxnResult(revision, taken, responses, modified_ms)  # type: ignore[arg-type]
    return CrossResult(revision, result, seen)


def _is_whole(
    plan: Plan, taken: bool, place: int, by_place: Mapping[int, Mapping[bytes, PartAnswer]]
) -> bool:
    """Splits may have made more answers of a piece, never fewer: each names where it begins."""
    began = by_place.get(place, {})
    return all(
        piece.operation.key in began
        for part in plan.parts
        for piece in part.pieces
        if piece.place == place and piece.taken == taken
    )


def _seen(resolved: Sequence[ResolveResult]) -> tuple[tuple[bytes, int], ...]:
    latest: dict[bytes, int] = {}
    for part in resolved:
        latest[part.start] = max(part.revision, latest.get(part.start, 0))
    return tuple(sorted(latest.items()))


def _joined(operation: object, answers: Sequence[PartResponse]) -> PartResponse:
    """Of a range without keys (it ends before it begins), of none."""
    if len(answers) == 1:
        return answers[0]
    if isinstance(operation, Delete):
        return _deleted([each for each in answers if isinstance(each, DeleteResult)])
    assert isinstance(operation, Range), "only ranges are cut"
    return _ranged(operation, [each for each in answers if isinstance(each, RangeAnswer)])


def _deleted(answers: Sequence[DeleteResult]) -> DeleteResult:
    return DeleteResult(
        max((each.revision for each in answers), default=0),
        sum(each.deleted for each in answers),
        tuple(chain.from_iterable(each.previous for each in answers)),
        max((each.modified_ms for each in answers), default=0),
    )


def _ranged(operation: Range, answers: Sequence[RangeAnswer]) -> RangeAnswer:
    ordered = answers
    if operation.sort_order == SortOrder.DESCEND:
        ordered = list(reversed(answers))
    items: list[KeyValue] = list(chain.from_iterable(each.items for each in ordered))
    revision = max((each.revision for each in answers), default=0)
    count = sum(each.count for each in answers)
    whole = range_answer_of(operation, items, count, revision)
    more = whole.more or any(each.more for each in answers)
    return RangeAnswer(revision, whole.items, more, count)
