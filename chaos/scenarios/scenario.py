"""A scenario. Pure: values only.

A run is: start, LOAD under faults for `minutes`, CALM (everything healed, load goes on for
`calm_s`), then the load ends and the checks begin. Nothing that happens later is a fault's doing,
so what is still broken after the calm is a breach of liveness.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from chaos.scenarios.menu import CHANGES_PLACES, Value
from kv.config.sections import STRONG
from raftgroups.meta.keyspace_rules import REPLICATION_MAX

Settings = Mapping[str, Mapping[str, Any]]
"""By section."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One row of the schedule. Invariant: all times are positive and `lasts_s` is finite."""

    kind: str
    target: str
    first_s: float
    every_s: float
    lasts_s: float
    options: Mapping[str, Value] = field(default_factory=dict)

    def __str__(self) -> str:
        shape = f" {self.options['shape']}" if "shape" in self.options else ""
        return f"{self.kind}{shape} {self.target}".rstrip()


@dataclass(frozen=True, slots=True)
class Load:
    kind: str
    clients: int
    options: Mapping[str, Value] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Checks:
    minimum_rate: float = 20.0
    """Answered operations a second over the whole load, below which a run proves nothing."""
    answers_within_s: float = 20.0
    """After the calm every node must have answered a write and a read by then."""
    splits: int = 0
    merges: int = 0
    """At least so many must have come about, or the run proves nothing about them."""


@dataclass(frozen=True, slots=True)
class Scenario:
    name: str
    about: str
    minutes: float
    sizes: Mapping[str, tuple[int, ...]]
    """By mode, how many nodes; the first is the default."""
    loads: tuple[Load, ...]
    faults: tuple[Fault, ...]
    calm_s: float = 5.0
    composed: bool = False
    shards: int = 1
    """Ranges that the keyspace begins with."""
    checks: Checks = field(default_factory=Checks)
    settings: Settings = field(default_factory=dict)
    """Of every node."""

    @property
    def is_sharded(self) -> bool:
        """The keyspace lies in several shards, at some moment at least."""
        if self.shards > 1 or any(fault.kind == "split" for fault in self.faults):
            return True
        strong = self.settings.get(STRONG, {})
        return bool(strong.get("split_bytes") or strong.get("split_operations"))

    @property
    def changes_places(self) -> bool:
        return any(fault.kind in CHANGES_PLACES for fault in self.faults)

    @property
    def guests(self) -> int:
        """Nodes that may join."""
        return int(any(fault.kind == "join" for fault in self.faults))

    @property
    def modes(self) -> tuple[str, ...]:
        return tuple(self.sizes)

    def settings_for(self, mode: str, nodes: int) -> str:
        """TOML that is added to each node's configuration. Unless the scenario says otherwise, each
        node of a strong cluster has a replica: its faults count nodes."""
        sections = {name: dict(settings) for name, settings in self.settings.items()}
        if mode == STRONG:
            sections.setdefault(STRONG, {}).setdefault("replication", min(nodes, REPLICATION_MAX))
        return as_toml(sections)


def as_toml(sections: Settings) -> str:
    """Sections of plain values, as a node's configuration takes them."""
    lines = []
    for section, settings in sections.items():
        lines.append(f"[{section}]")
        lines += [f"{name} = {json.dumps(value)}" for name, value in settings.items()]
    return "\n".join(lines) + "\n" if lines else ""
