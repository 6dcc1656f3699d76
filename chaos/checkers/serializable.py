"""Transactions are strictly serializable: one order of all of them explains what each has seen, and
whatever ended before another began comes first. Pure.

Every version of a key is known by a number that rises with the key's changes (its mod revision).
So who comes before whom need not be searched for, it can be read:

    the writer of a version        before the writer of the next one, and of all later ones
    the writer of a version        before whoever has read it
    whoever has read a version     before the writer of the next one
    whoever ended                  before whoever began afterwards

A cycle is the violation. Versions of transactions whose outcome is not known have no writer here;
the others around them keep their order.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from chaos.checkers.violation import Violation


@dataclass(slots=True)
class Transaction:
    """reads, writes: key -> version; a read of nothing is version 0."""

    name: str
    began: float
    ended: float
    reads: dict[str, int] = field(default_factory=dict)
    writes: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.name} {self.began:.4f}-{self.ended:.4f} reads {self.reads} {self.writes}"


def check_serializable(transactions: Sequence[Transaction]) -> list[Violation]:
    """`transactions`: those that were done."""
    edges: list[set[int]] = [set() for _ in transactions]
    twice = _by_versions(transactions, edges)
    _by_time(transactions, edges)
    cycle = _cycle(edges, len(transactions))
    found = [Violation("serializable", f"two transactions made {each}") for each in twice]
    found += [
        Violation("serializable", f"{each} read of {key} what it wrote itself, or later")
        for each in transactions
        for key in sorted(each.reads.keys() & each.writes.keys())
        if each.reads[key] >= each.writes[key]
    ]
    if cycle:
        lines = tuple(str(transactions[each]) for each in cycle)
        found.append(
            Violation("serializable", "no order explains these: each comes before the next", lines)
        )
    return found


def _by_versions(transactions: Sequence[Transaction], edges: list[set[int]]) -> list[str]:
    writers: dict[str, dict[int, int]] = {}
    twice = []
    for at, each in enumerate(transactions):
        for key, version in each.writes.items():
            of_key = writers.setdefault(key, {})
            if version in of_key:
                twice.append(f"version {version} of {key}")
            of_key[version] = at
    orders = {key: sorted(of_key) for key, of_key in writers.items()}
    for key, order in orders.items():
        of_key = writers[key]
        for one, following in pairwise(order):
            edges[of_key[one]].add(of_key[following])
    for at, each in enumerate(transactions):
        for key, version in each.reads.items():
            order, of_key = orders.get(key, []), writers.get(key, {})
            place = bisect_right(order, version)
            if place and of_key[order[place - 1]] != at:
                edges[of_key[order[place - 1]]].add(at)
            if place < len(order) and of_key[order[place]] != at:
                edges[at].add(of_key[order[place]])
    return twice


def _by_time(transactions: Sequence[Transaction], edges: list[set[int]]) -> None:
    """Through moments, so that there are few edges: each end is one, and they follow each other."""
    ends = sorted(range(len(transactions)), key=lambda at: transactions[at].ended)
    times = [transactions[at].ended for at in ends]
    first = len(edges)
    edges += [set() for _ in ends]
    for moment, at in enumerate(ends):
        edges[at].add(first + moment)
        if moment + 1 < len(ends):
            edges[first + moment].add(first + moment + 1)
    for at, each in enumerate(transactions):
        before = bisect_left(times, each.began) - 1  # equal times count as concurrent
        if before >= 0:
            edges[first + before].add(at)


def _cycle(edges: Sequence[Iterable[int]], real: int) -> list[int]:
    """The transactions of one cycle, in order; empty if there is none."""
    state = [0] * len(edges)
    for root in range(real):
        if state[root]:
            continue
        path = [root]
        rest = [iter(sorted(edges[root]))]
        state[root] = 1
        while path:
            following = next(rest[-1], None)
            if following is None:
                state[path.pop()] = 2
                rest.pop()
            elif state[following] == 1:
                return [at for at in path[path.index(following) :] if at < real]
            elif not state[following]:
                state[following] = 1
                path.append(following)
                rest.append(iter(sorted(edges[following])))
    return []
