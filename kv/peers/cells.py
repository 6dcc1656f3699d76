"""What a measurement yields, as values. Pure."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from kv.load.plan import Operation


@dataclass(frozen=True, slots=True)
class Cell:
    """One system under one load in one round."""

    system: str
    operation: Operation
    target: str
    connections: int
    round: int
    generator: str
    per_second: float
    p50_us: int
    p99_us: int
    errors: dict[str, int]
    problem: str | None
    """Why this is no result; None if it is one."""
    node_cpu_us: float
    """Processor time of all nodes together, an operation."""
    generator_cpu_share: float
    """Of one core."""
    other_cores: float
    """How many cores something else on this machine kept busy meanwhile."""
    core_ms: float
    """What a fixed piece of work took one core, before and after it, on average: a core is not
    always equally fast."""


@dataclass(frozen=True, slots=True)
class Memory:
    system: str
    round: int
    largest_anonymous_bytes: int
    """RssAnon of the largest node, after all loads of the round."""


@dataclass(slots=True)
class Result:
    about: dict[str, str] = field(default_factory=dict)
    ceilings: dict[tuple[Operation, int], float] = field(default_factory=dict)
    cells: list[Cell] = field(default_factory=list)
    memory: list[Memory] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        return {
            "systems": self.about,
            "generator_ceiling": [
                {"operation": operation, "connections": connections, "per_second": per_second}
                for (operation, connections), per_second in self.ceilings.items()
            ],
            "cells": [asdict(cell) for cell in self.cells],
            "memory": [asdict(memory) for memory in self.memory],
        }
