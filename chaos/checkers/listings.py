"""Paged listings of keys that shards hold while these split, merge and move. Pure.

A listing is exact: in order, no key twice, and every key that was there all the time once. The last
is judged with the history: what a listing says of a key is a read of that key, at some moment
between its first page and its last; of a key that it left out, a read that found nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import pairwise

from chaos.checkers.violation import Violation
from chaos.history import Kind, Operation, Result

Listed = tuple[bytes, str]
"""Key and value."""


def check_order(name: str, listed: Sequence[Listed], *, reverse: bool) -> list[Violation]:
    for (before, _), (after, _) in pairwise(listed):
        if before == after or (before > after) is not reverse:
            return [Violation("listings", f"{name} has {after!r} after {before!r}")]
    return []


def reads_of(
    name: str,
    keyspace: int,
    listed: Sequence[Listed],
    keys: Collection[bytes],
    times: Sequence[float],
) -> Iterator[Operation]:
    """What it said of each of these keys. `times`: when it was begun, and answered in full."""
    found = dict(listed)
    began, ended = times
    for key in sorted(keys):
        shown = f"k{keyspace}/{key.decode()}"
        yield Operation(
            f"{name}.{key.decode()}",
            name,
            "-",
            shown,
            Kind.READ,
            began,
            completed=ended,
            result=Result.DONE,
            observed=found.get(key),
        )
