"""State machine safety: what one replica applied at a place of the log, every replica applies
there, with the same result and the same state afterwards. Pure; judged as it happens."""

from __future__ import annotations

from hashlib import blake2b
from typing import NamedTuple

from chaos.checkers.violation import Violation


class _First(NamedTuple):
    node: str
    payload: bytes
    result: str
    chain: bytes


class StateMachineSafety:
    """Remembers the first application of each index, and holds the others to it."""

    def __init__(self) -> None:
        self._first: dict[tuple[int, int, int], _First] = {}

    def observe(
        self,
        group: int,
        node: str,
        place: tuple[int, int],
        payload: bytes,
        result: str,
        chain: bytes,
    ) -> list[Violation]:
        """`place` is the index and the position among the operations of that entry; `chain` is a
        hash over everything that this replica ever applied, this included."""
        index, position = place
        digest = blake2b(payload, digest_size=16).digest()
        first = self._first.setdefault(
            (group, index, position), _First(node, digest, result, chain)
        )
        if first.payload != digest:
            what = "another entry"
        elif first.result != result:
            what = f"the same entry with another result ({result} instead of {first.result})"
        elif first.chain != chain:
            what = "the same entry after another past"
        else:
            return []
        return [
            Violation(
                "state_machine_safety",
                f"group {group} index {index}: {node} applied {what} than {first.node}",
                (f"{node}: {payload[:80]!r}",),
            )
        ]
