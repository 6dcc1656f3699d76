"""Election safety: at most one leader a term, in each group. Pure."""

from __future__ import annotations

from chaos.checkers.violation import Violation


class ElectionSafety:
    """Fed with every leadership that is seen; remembers who led which term."""

    def __init__(self) -> None:
        self._leaders: dict[tuple[int, int], str] = {}

    def observe(self, group: int, term: int, node: str) -> list[Violation]:
        first = self._leaders.setdefault((group, term), node)
        if first == node:
            return []
        return [
            Violation(
                "election_safety",
                f"group {group} has two leaders in term {term}: {first} and {node}",
            )
        ]

    def terms(self, group: int) -> int:
        """How many terms of this group had a leader."""
        return sum(1 for led, _ in self._leaders if led == group)
