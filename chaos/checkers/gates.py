"""What a run must have done to prove anything, and how the cluster must stand at its end. Pure.

rate        a run that did too little is no pass, nor is one of whose loads one did hardly anything
division    where shards are to be split and merged, they were
recovery    after the calm every node answers a write and a read within a bound
replicas    all replicas hold the same at the same point
nodes       no process ended that no fault was to end
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Final

from chaos.checkers.violation import Violation

LOAD_STEPS_LEAST: Final = 0.05
"""A second, of each load. A step of the slowest, the life of a lease, takes a few seconds."""


def check_rate(done: int, seconds: float, minimum: float) -> list[Violation]:
    rate = done / seconds if seconds > 0 else 0.0
    if rate >= minimum:
        return []
    message = f"{rate:.1f} operations a second were answered, and at least {minimum:g} are needed"
    return [Violation("rate", message)]


def check_loads(steps: Mapping[str, int], seconds: float) -> list[Violation]:
    """`steps`: of each load, how many were done to their end. The rate of all would hide one that
    is refused everything, and its checker has nothing to object to."""
    least = max(1.0, seconds * LOAD_STEPS_LEAST)
    idle = tuple(f"{kind}: {done}" for kind, done in sorted(steps.items()) if done < least)
    if not idle:
        return []
    message = f"{len(idle)} loads did fewer than {least:g} steps, and prove nothing"
    return [Violation("rate", message, idle)]


def check_division(splits: int, merges: int, least: tuple[int, int]) -> list[Violation]:
    """`least`: so many of both are needed."""
    if splits >= least[0] and merges >= least[1]:
        return []
    message = (
        f"{splits} splits and {merges} merges of shards were seen, and at least {least[0]} and "
        f"{least[1]} are needed"
    )
    return [Violation("division", message)]


def check_recovery(answered_s: Mapping[str, float | None], within_s: float) -> list[Violation]:
    """Of each node after how long it had answered both; None: it had not when that was up."""
    late = [
        f"{node}: {'not at all' if took is None else f'after {took:.1f} s'}"
        for node, took in sorted(answered_s.items())
        if took is None or took > within_s
    ]
    if not late:
        return []
    message = (
        f"{len(late)} nodes did not answer a write and a read within {within_s:g} s of the calm"
    )
    return [Violation("recovery", message, tuple(late))]


def check_replicas(held: Mapping[str, Hashable]) -> list[Violation]:
    if len(set(held.values())) <= 1:
        return []
    lines = tuple(f"{node}: {what}" for node, what in sorted(held.items()))
    return [Violation("replicas", "the replicas differ at the same point", lines)]


def check_nodes(ended: Sequence[str]) -> list[Violation]:
    if not ended:
        return []
    return [Violation("nodes", f"{len(ended)} ends that no fault asked for", tuple(ended))]
