"""Applied once: no operation takes effect twice, and no replica goes back in its log. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from chaos.checkers.violation import Violation


def check_application(
    group: int, node: str, index: int, last_index: int, repeated_at: int | None
) -> list[Violation]:
    """One application as it happens: the index does not fall (an entry may carry several
    operations), and the operation is new to this state."""
    found = []
    if index < last_index:
        found.append(
            Violation(
                "applied_once",
                f"group {group}: {node} applied index {index} after index {last_index}",
            )
        )
    if repeated_at is not None:
        found.append(
            Violation(
                "applied_once",
                f"group {group}: {node} applied at index {index} an operation that it had applied "
                f"at index {repeated_at}",
            )
        )
    return found


def check_replicas(
    group: int, replicas: Mapping[str, Iterable[tuple[str, int]]]
) -> list[Violation]:
    """At the end: an operation stands at one index, the same on every replica that has it."""
    found: list[Violation] = []
    places: dict[str, tuple[int, str]] = {}
    for node in sorted(replicas):
        for operation, index in replicas[node]:
            first_index, first_node = places.setdefault(operation, (index, node))
            if first_index != index:
                found.append(
                    Violation(
                        "applied_once",
                        f"group {group}: operation {operation} stands at index {index} on {node} "
                        f"and at index {first_index} on {first_node}",
                    )
                )
    return found
