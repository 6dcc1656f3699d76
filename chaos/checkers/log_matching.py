"""Log matching: if two logs hold an entry of the same index and term, they are the same up to it.

Judged over the range that both logs still hold. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from chaos.checkers.violation import Violation


@dataclass(frozen=True, slots=True)
class Entry:
    index: int
    term: int
    payload: bytes


def check_logs(group: int, logs: Mapping[str, Sequence[Entry]]) -> list[Violation]:
    """The logs of all replicas of one group at one moment. At most one violation a pair."""
    found: list[Violation] = []
    names = sorted(logs)
    for position, first in enumerate(names):
        found.extend(_check_order(group, first, logs[first]))
        for second in names[position + 1 :]:
            found.extend(_check_pair(group, first, logs[first], second, logs[second]))
    return found


def _check_order(group: int, node: str, log: Sequence[Entry]) -> list[Violation]:
    for before, after in pairwise(log):
        if after.index != before.index + 1 or after.term < before.term:
            return [
                Violation(
                    "log_matching",
                    f"group {group}: the log of {node} does not rise: index {before.index} of term "
                    f"{before.term} is followed by index {after.index} of term {after.term}",
                )
            ]
    return []


def _check_pair(
    group: int, first: str, one: Sequence[Entry], second: str, other: Sequence[Entry]
) -> list[Violation]:
    by_index = {entry.index: entry for entry in other}
    matched: Entry | None = None
    for entry in reversed(one):
        twin = by_index.get(entry.index)
        if twin is None:
            continue
        if matched is None and twin.term == entry.term:
            matched = entry
        if matched is not None and twin != entry:
            return [
                Violation(
                    "log_matching",
                    f"group {group}: {first} and {second} agree on term {matched.term} at index "
                    f"{matched.index}, but differ at index {entry.index}",
                    (f"{first}: {_show(entry)}", f"{second}: {_show(twin)}"),
                )
            ]
    return []


def _show(entry: Entry) -> str:
    return f"index {entry.index} term {entry.term} payload {entry.payload[:60]!r}"
