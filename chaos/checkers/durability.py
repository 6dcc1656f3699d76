"""Durability and honest answers, judged at the end, when every replica has converged. Pure.

- What was acknowledged is there, on every replica, at the index that the answer named.
- What was refused ("surely not done") is nowhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from chaos.checkers.violation import Violation


def check_durability(
    group: int,
    acknowledged: Mapping[str, int | None],
    refused: Iterable[str],
    replicas: Mapping[str, Mapping[str, int]],
) -> list[Violation]:
    """`acknowledged`: operation -> index (None if the answer named none); `replicas`: node ->
    operation -> index. Returns one violation a kind and replica, with a few examples."""
    found: list[Violation] = []
    refusals = sorted(refused)
    for node in sorted(replicas):
        present = replicas[node]
        lost = [op for op in sorted(acknowledged) if op not in present]
        moved = [
            op
            for op, index in sorted(acknowledged.items())
            if index is not None and present.get(op, index) != index
        ]
        lied = [op for op in refusals if op in present]
        for operations, what in (
            (lost, "acknowledged operations are not there"),
            (moved, "acknowledged operations stand at another index than was answered"),
            (lied, "operations that were refused as surely not done are there"),
        ):
            if operations:
                found.append(
                    Violation(
                        "durability",
                        f"group {group} on {node}: {len(operations)} {what}",
                        tuple(
                            f"{op} (answered index {acknowledged.get(op)}, "
                            f"present at {present.get(op)})"
                            for op in operations[:5]
                        ),
                    )
                )
    return found
