"""What was logged and is not in the tree yet, in memory (storage/logged_engine.py). Pure.

A Table is the effect of some consecutive batches: for each key they touched its value, or None if
it was deleted, and the ranges that were deleted. A reader looks at the newest table first:

    a row of the table       decides
    a range of the table     covers the key: it is absent
    neither                  the next older table, at last the tree

One table is written to; once somebody may read it at a moment that is to stay, it is `sealed` and
another one begins. Sealed tables are merged like the digits of a binary counter, so that a reader
looks at few of them and merging costs each row a logarithm.

Invariants: the ranges are sorted, disjoint and do not touch; a row may lie inside a range of its
own table: then it was written after it.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from operator import itemgetter
from typing import Final

from storage.engine import Op, Operation

ROW_BYTES: Final = 128
"""What a row costs in memory besides its bytes."""
_DELETE: Final = Op.DELETE

Range = tuple[bytes, bytes | None]


class Table:
    __slots__ = ("_sorted", "ranges", "rows", "size_bytes")

    def __init__(self) -> None:
        self.rows: dict[bytes, bytes | None] = {}
        self.ranges: list[Range] = []
        self.size_bytes = 0
        """Bytes that were written into it, overwritten ones too, and what they cost in memory."""
        self._sorted: list[bytes] = []

    def __bool__(self) -> bool:
        return bool(self.rows or self.ranges)

    # --- writing -----------------------------------------------------------------------------

    def apply(self, operations: Sequence[Operation], size_bytes: int) -> None:
        """`size_bytes`: of their keys and values (Batch.size_bytes)."""
        rows = self.rows
        for op, key, value in operations:
            if not op:
                rows[key] = value
            elif op is _DELETE:
                rows[key] = None
            else:
                self._delete_range(key, value)
        self.size_bytes += ROW_BYTES * len(operations) + size_bytes

    def _delete_range(self, start: bytes, end: bytes | None) -> None:
        if end is not None and end <= start:
            return
        rows = self.rows
        for key in [k for k in rows if k >= start and (end is None or k < end)]:
            del rows[key]
        self._sorted = []
        self._cover(start, end)

    def _cover(self, start: bytes, end: bytes | None) -> None:
        ranges = self.ranges
        low = bisect_left(ranges, start, key=itemgetter(0))
        if low and _reaches(ranges[low - 1], start):
            low -= 1
            start = ranges[low][0]
        high = low
        while high < len(ranges) and (end is None or ranges[high][0] <= end):
            other = ranges[high][1]
            end = None if end is None or other is None else max(end, other)
            high += 1
        ranges[low:high] = [(start, end)]

    # --- reading -----------------------------------------------------------------------------

    def covers(self, key: bytes) -> bool:
        """Whether a range of this table deleted the key. A row of the key comes before that."""
        at = bisect_right(self.ranges, key, key=itemgetter(0)) - 1
        if at < 0:
            return False
        end = self.ranges[at][1]
        return end is None or key < end

    def touches(self, start: bytes, end: bytes | None) -> bool:
        """Whether anything between these bounds may read otherwise because of this table."""
        keys = self.sorted_keys()
        at = bisect_left(keys, start)
        if at < len(keys) and (end is None or keys[at] < end):
            return True
        return any(
            (end is None or low < end) and (high is None or start < high)
            for low, high in self.ranges
        )

    def sorted_keys(self) -> list[bytes]:
        """The rows' keys in order. For a sealed table: it is worked out once."""
        if len(self._sorted) != len(self.rows):
            self._sorted = sorted(self.rows)
        return self._sorted

    def window(self, start: bytes, end: bytes | None, *, reverse: bool) -> Iterator[bytes]:
        keys = self.sorted_keys()
        low = bisect_left(keys, start)
        high = len(keys) if end is None else max(low, bisect_left(keys, end))
        places = range(high - 1, low - 1, -1) if reverse else range(low, high)
        return (keys[at] for at in places)


def _reaches(earlier: Range, start: bytes) -> bool:
    return earlier[1] is None or earlier[1] >= start


# --- several tables, the newest first --------------------------------------------------------


def merged(tables: Sequence[Table]) -> Table:
    """One table with the effect of these, or the only one itself."""
    if len(tables) == 1:
        return tables[0]
    result = Table()
    for table in reversed(tables):
        rows = result.rows
        if table.ranges:
            for key in [key for key in rows if table.covers(key)]:
                del rows[key]
            for start, end in table.ranges:
                result._cover(start, end)
        rows.update(table.rows)
        result.size_bytes += table.size_bytes
    return result


def stack(tables: Sequence[Table], sealed: Table) -> tuple[Table, ...]:
    """These with a newer one on top; neighbours of about one size become one."""
    found = [sealed, *tables]
    while len(found) > 1 and 2 * len(found[0].rows) >= len(found[1].rows):
        found[:2] = [merged(found[:2])]
    return tuple(found)


def reach(tables: Sequence[Table], start: bytes, end: bytes | None, rows: int) -> bytes | None:
    """Up to where, at most to the end, none of these tables has more rows than so many."""
    for table in tables:
        keys = table.sorted_keys()
        at = bisect_left(keys, start) + rows
        if at < len(keys) and (end is None or keys[at] < end):
            end = keys[at]
    return end


def changed(
    tables: Sequence[Table],
    items: list[tuple[bytes, bytes]],
    start: bytes,
    end: bytes | None,
) -> list[tuple[bytes, bytes]]:
    """What these pairs of the tree, all that it has between these bounds, are with the tables over
    them."""
    rows: dict[bytes, bytes | None] | None = None
    for table in reversed(tables):
        if not table.touches(start, end):
            continue
        if rows is None:
            rows = dict(items)
        if any((end is None or a < end) and (b is None or start < b) for a, b in table.ranges):
            rows = {key: value for key, value in rows.items() if not table.covers(key)}
        found = table.rows
        for key in table.window(start, end, reverse=False):
            rows[key] = found[key]
    if rows is None:
        return items
    return [(key, value) for key, value in sorted(rows.items()) if value is not None]


def overlaid(
    tables: Sequence[Table],
    below: Iterator[tuple[bytes, bytes]],
    start: bytes,
    end: bytes | None,
    *,
    reverse: bool,
) -> Iterator[tuple[bytes, bytes]]:
    """The pairs of a range as they read through the tables; `below` are those of the tree, in the
    order of the scan."""
    depth = len(tables)
    sources: list[Iterator[tuple[bytes, int, bytes | None]]] = [
        _numbered(table, place, start, end, reverse) for place, table in enumerate(tables)
    ]
    sources.append((key, depth, value) for key, value in below)
    covering = [table if table.ranges else None for table in tables]
    last: bytes | None = None
    # Of equal keys the merge gives that of the earlier source first: the newest.
    for key, place, value in heapq.merge(*sources, key=itemgetter(0), reverse=reverse):
        if key == last:
            continue
        last = key
        if value is None or any(
            table is not None and table.covers(key) for table in covering[:place]
        ):
            continue
        yield key, value


def _numbered(
    table: Table, place: int, start: bytes, end: bytes | None, reverse: bool
) -> Iterator[tuple[bytes, int, bytes | None]]:
    rows = table.rows
    for key in table.window(start, end, reverse=reverse):
        yield key, place, rows[key]
