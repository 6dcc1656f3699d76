"""Leader completeness: whoever leads holds every entry committed in an earlier term.

Fed with what replicas applied (an applied entry is committed) and with the log of each new leader.
Pure. Entries that a leader has compacted away are not judged: they were applied there, and
state_machine_safety judges what was applied. An entry may carry several operations, so an entry is
the committed one if it holds every payload that was applied from it.
"""

from __future__ import annotations

from collections.abc import Iterable

from chaos.checkers.log_matching import Entry
from chaos.checkers.violation import Violation


class LeaderCompleteness:
    """Invariant: `_committed` has, for each group, the payloads applied from each index."""

    def __init__(self) -> None:
        self._committed: dict[int, dict[int, dict[bytes, None]]] = {}

    def applied(self, group: int, index: int, payload: bytes) -> None:
        self._committed.setdefault(group, {}).setdefault(index, {})[payload] = None

    def highest(self, group: int) -> int:
        return max(self._committed.get(group, {}), default=0)

    def leads(
        self, group: int, node: str, term: int, first_index: int, log: Iterable[Entry]
    ) -> list[Violation]:
        """A new leader was seen, with this log, which begins at first_index. Called at once: an
        entry that is applied later may be of the leader's own term. Nothing was committed before
        the first term; its leader may be late, where every vote of it was cast beforehand (a shard
        born by a split: raftgroups/lineage.py), and then commits nothing."""
        if term <= 1:
            return []
        held = {entry.index: entry.payload for entry in log}
        for index, payloads in sorted(self._committed.get(group, {}).items()):
            entry = held.get(index)
            if index < first_index or (
                entry is not None and all(payload in entry for payload in payloads)
            ):
                continue
            has = "nothing" if entry is None else f"{entry[:60]!r}"
            return [
                Violation(
                    "leader_completeness",
                    f"group {group}: {node} leads term {term} without the committed entry {index}",
                    (
                        *(f"committed: {payload[:60]!r}" for payload in payloads),
                        f"its log holds: {has}",
                    ),
                )
            ]
        return []
