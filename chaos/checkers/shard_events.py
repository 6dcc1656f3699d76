"""What shards tell of their keys: every change happens once, everywhere alike; cursors miss nothing
and repeat nothing. Pure.

A key's revisions rise along all the shards that it ever lay in, so (keyspace, key, revision) names
a change whatever was split and merged in between.
"""

from __future__ import annotations

from collections.abc import Container, Sequence

from chaos.checkers.violation import Violation

Place = tuple[int, bytes, int]
"""(keyspace, key, revision)"""


class ShardEvents:
    """All changes that any replica has applied. Values are unique in the whole run, but for those
    of the keys `repeating`."""

    def __init__(self, repeating: Container[bytes] = ()) -> None:
        self._repeating = repeating
        self.changes: dict[Place, bytes] = {}
        self._places: dict[tuple[int, bytes], Place] = {}

    def applied(
        self, node: str, keyspace: int, key: bytes, revision: int, value: bytes
    ) -> list[Violation]:
        place = (keyspace, key, revision)
        first = self.changes.setdefault(place, value)
        if first != value:
            what = f"{node} made {value!r} of {key!r} at revision {revision}; another {first!r}"
            return [Violation("shard_events", what)]
        if key in self._repeating or not value:  # a deletion has none
            return []
        where = self._places.setdefault((keyspace, value), place)
        if where != place:
            what = f"{value!r} was written twice: as {where} and, on {node}, as {place}"
            return [Violation("applied_once", what)]
        return []

    def check_cursor(
        self, keyspace: int, seen: Sequence[tuple[bytes, int, bytes]]
    ) -> list[Violation]:
        """What a watcher of the whole keyspace was given, in its order, from the beginning to the
        end of the run."""
        found: list[Violation] = []
        last: dict[bytes, int] = {}
        for key, revision, _ in seen:
            if revision <= last.get(key, 0):
                what = f"{key!r} at revision {revision} was shown after {last[key]}"
                found.append(Violation("cursors", what))
            last[key] = revision
        shown = {(keyspace, key, revision): value for key, revision, value in seen}
        true = {place: value for place, value in self.changes.items() if place[0] == keyspace}
        missing = sorted(true.keys() - shown.keys())
        if missing:
            what = f"{len(missing)} changes were not shown, such as {missing[0]}"
            found.append(Violation("cursors", what))
        wrong = sorted(place for place in shown if true.get(place) != shown[place])
        if wrong:
            found.append(Violation("cursors", f"{wrong[0]} was shown and never happened"))
        return found
