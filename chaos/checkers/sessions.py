"""Session guarantees: a client that carries its token reads its own writes and never goes back.

A key's version only rises (keys are not deleted here), so both guarantees are one rule: what a
client is told of a key is never older than what it was told of it before, by a read or by the
answer to its own write. What one client is told has the order in which it asked. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from chaos.checkers.violation import Violation

SHOWN: Final = 10


@dataclass(frozen=True, slots=True)
class Seen:
    """An answer to one call; `version` is 0 if the key was absent."""

    client: str
    key: str
    version: int
    node: str
    what: str
    at: float

    def __str__(self) -> str:
        return f"[{self.at:.6f}] {self.what} of {self.key} at {self.node}: version {self.version}"


def check_sessions(seen: Iterable[Seen]) -> list[Violation]:
    newest: dict[tuple[str, str], Seen] = {}
    bad: list[str] = []
    for each in seen:
        before = newest.get((each.client, each.key))
        if before is not None and each.version < before.version:
            bad.append(f"{each.client}: {each} after {before}")
        else:
            newest[each.client, each.key] = each
    if not bad:
        return []
    message = f"{len(bad)} answers went back behind what the same client had seen"
    return [Violation("sessions", message, tuple(bad[:SHOWN]))]
