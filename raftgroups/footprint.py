"""Which keys a command reads and writes, and commands cut to a range of keys. Pure.

    Span    start <= key < end (None: unbounded), and whether the keys may be written

Two spans of different transactions get on if they do not meet, or if neither writes. Both branches
of a transaction count, whichever is taken: it is not known yet which.

What a command touches by way of a lease is not named in it; the machine looks that up
(twophase.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from raftgroups.commands import (
    BatchWrite,
    Bounds,
    Cas,
    Compare,
    Delete,
    Increment,
    PartOperation,
    Piece,
    Prepare,
    Put,
    Range,
    SetTtl,
    Txn,
    UnderLease,
)
from raftgroups.ranges import bounds

Span = tuple[bytes, bytes | None, bool]


def spans_of(command: Any) -> list[Span]:
    """Empty for what no lock concerns, or what is not known from the command alone."""
    if isinstance(command, Put | Cas | Increment | SetTtl):
        return [_point(command.key, writes=True)]
    if isinstance(command, Delete):
        return [(*bounds(command.key, command.range_end), True)]
    if isinstance(command, Txn):
        return list(_spans_of_txn(command))
    if isinstance(command, BatchWrite):
        return [span for each in command.operations for span in spans_of(each)]
    if isinstance(command, UnderLease):
        return spans_of(command.command)
    return []


def _point(key: bytes, *, writes: bool) -> Span:
    return key, key + b"\x00", writes


def _spans_of_txn(txn: Txn) -> Iterator[Span]:
    for compare in txn.compares:
        yield (*bounds(compare.key, compare.range_end), False)
    for operation in (*txn.then, *txn.otherwise):
        if isinstance(operation, Txn):
            yield from _spans_of_txn(operation)
        else:
            yield span_of(operation)


def span_of(operation: PartOperation) -> Span:
    if isinstance(operation, Range):
        return (*bounds(operation.key, operation.range_end), False)
    if isinstance(operation, Delete):
        return (*bounds(operation.key, operation.range_end), True)
    return _point(operation.key, writes=True)


def spans_of_part(prepare: Prepare) -> list[Span]:
    """Those to lock, without repetition; a write covers a read of the same keys."""
    found: dict[Bounds, bool] = {}
    for piece in prepare.pieces:
        start, end, writes = span_of(piece.operation)
        found[start, end] = writes or found.get((start, end), False)
    for placed in prepare.compares:
        found.setdefault(bounds(placed.compare.key, placed.compare.range_end), False)
    return [(start, end, writes) for (start, end), writes in found.items()]


def meet(one: Bounds, other: Bounds) -> bool:
    (start, end), (low, high) = one, other
    return (high is None or start < high) and (end is None or low < end)


# --- cutting ---------------------------------------------------------------------------------


def cut_bounds(wanted: Bounds, within: Bounds) -> Bounds | None:
    """What of it lies within; None if nothing does."""
    if not meet(wanted, within):
        return None
    start = max(wanted[0], within[0])
    end = min((each for each in (wanted[1], within[1]) if each is not None), default=None)
    return start, end


def cut_compare(compare: Compare, within: Bounds) -> Compare | None:
    part = cut_bounds(bounds(compare.key, compare.range_end), within)
    if part is None or not compare.range_end:
        return compare if part is not None else None
    return Compare(*_as_keys(part), compare.target, compare.result, compare.operand)


def cut_operation(operation: PartOperation, within: Bounds) -> PartOperation | None:
    start, end, _ = span_of(operation)
    part = cut_bounds((start, end), within)
    if part is None:
        return None
    if isinstance(operation, Delete) and operation.range_end:
        return Delete(*_as_keys(part), operation.want_previous)
    if isinstance(operation, Range) and operation.range_end:
        key, range_end = _as_keys(part)
        return _with_bounds(operation, key, range_end)
    return operation


def _as_keys(part: Bounds) -> tuple[bytes, bytes]:
    start, end = part
    return start or b"\x00", b"\x00" if end is None else end


def _with_bounds(operation: Range, key: bytes, range_end: bytes) -> Range:
    return Range(
        key,
        range_end,
        operation.limit,
        operation.revision,
        operation.sort_order,
        operation.sort_target,
        operation.keys_only,
        operation.count_only,
        operation.min_mod_revision,
        operation.max_mod_revision,
        operation.min_create_revision,
        operation.max_create_revision,
    )


def cut_pieces(pieces: Iterable[Piece], within: Bounds) -> tuple[Piece, ...]:
    cut = ((piece, cut_operation(piece.operation, within)) for piece in pieces)
    return tuple(Piece(p.place, p.taken, part) for p, part in cut if part is not None)


def cut_spans(spans: Sequence[Span], within: Bounds) -> tuple[Span, ...]:
    found = []
    for start, end, writes in spans:
        part = cut_bounds((start, end), within)
        if part is not None:
            found.append((*part, writes))
    return tuple(found)
