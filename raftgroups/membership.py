"""Who is in a group: the configuration as a value, and the rules of changing it.

A configuration travels as a log entry that holds the WHOLE configuration, and is in force from the
moment the entry is in a replica's log, committed or not: dropping the entry brings the one before
back (raftgroups/journal.py keeps them). Applying it does nothing further.

Members are bound to the incarnation of their disk: votes and acknowledgements of a node with
another incarnation do not count, so a node that lost its disk but kept its name is not a member.
A group that was formed from names alone begins with UNBOUND members and is bound before it takes
its first proposal:

    initial (all unbound, not formed)
      -> the first leader has heard every voter: bound, not formed
      -> every voter has THAT entry, so any later candidate knows the binding: bound, formed

Rules of change (hazard l): one at a time, from proposal to applied; a leader changes nothing before
the no-op of its own term is committed; one member more or less in each; a voter joins as a learner
first; a leader is never removed while it leads. The group's feature level (levels.py) rises by a
change of its own, under the same rules, and never falls.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

import cbor2

from raftgroups.levels import FIRST_LEVEL
from raftgroups.messages import MalformedError
from raftgroups.transport import NodeId

UNBOUND: Final = 0
_PLAIN: Final = 1
_LEVELLED: Final = 2
"""The forms of the bytes: without a level, which is then the first, and with one. A group of the
first level writes the first form, which every version can read."""


@dataclass(frozen=True, slots=True)
class Config:
    """Invariant: no node is both voter and learner."""

    voters: Mapping[NodeId, int]
    """node -> incarnation, or UNBOUND"""
    learners: Mapping[NodeId, int] = field(default_factory=dict)
    formed: bool = True
    level: int = FIRST_LEVEL
    """The feature level: what every member's program supports."""

    @classmethod
    def initial(cls, voters: Iterable[NodeId], incarnations: Mapping[NodeId, int]) -> Config:
        bound = {node: incarnations.get(node, UNBOUND) for node in sorted(voters)}
        return cls(bound, formed=UNBOUND not in bound.values())

    def incarnation(self, node: NodeId) -> int | None:
        """None if the node is no member."""
        found = self.voters.get(node)
        return self.learners.get(node) if found is None else found

    def is_voter(self, node: NodeId, incarnation: int) -> bool:
        bound = self.voters.get(node)
        return bound is not None and bound in (UNBOUND, incarnation)

    def is_member(self, node: NodeId, incarnation: int) -> bool:
        bound = self.incarnation(node)
        return bound is not None and bound in (UNBOUND, incarnation)

    def peers(self, node: NodeId) -> list[NodeId]:
        """Everyone else, in a fixed order."""
        return [n for n in (*sorted(self.voters), *sorted(self.learners)) if n != node]

    def majority(self) -> int:
        return len(self.voters) // 2 + 1

    # --- changes: each gives the next configuration ---------------------------------------

    def bind(self, heard: Mapping[NodeId, int]) -> Config:
        return replace(
            self, voters={node: heard.get(node, bound) for node, bound in self.voters.items()}
        )

    def with_learner(self, node: NodeId) -> Config:
        assert self.incarnation(node) is None, f"{node} is a member already"
        return replace(self, learners={**self.learners, node: UNBOUND})

    def promoted(self, node: NodeId, incarnation: int) -> Config:
        assert node in self.learners, f"{node} is no learner"
        learners = {n: i for n, i in self.learners.items() if n != node}
        return replace(self, voters={**self.voters, node: incarnation}, learners=learners)

    def without(self, node: NodeId) -> Config:
        return replace(
            self,
            voters={n: i for n, i in self.voters.items() if n != node},
            learners={n: i for n, i in self.learners.items() if n != node},
        )

    def raised(self, level: int) -> Config:
        assert level > self.level, f"the level never falls, from {self.level} to {level}"
        return replace(self, level=level)

    # --- bytes ----------------------------------------------------------------------------

    def encode(self) -> bytes:
        members = [sorted(self.voters.items()), sorted(self.learners.items()), self.formed]
        if self.level == FIRST_LEVEL:
            return cbor2.dumps([_PLAIN, *members])
        return cbor2.dumps([_LEVELLED, *members, self.level])

    @classmethod
    def decode(cls, data: bytes) -> Config:
        """Raises MalformedError, and nothing else, for any bytes."""
        try:
            decoded = cbor2.loads(data)
        except Exception as error:  # noqa: BLE001 - the decoder raises many things on hostile bytes
            raise MalformedError(f"a configuration is not cbor: {error}") from None
        if type(decoded) is not list or (len(decoded), *decoded[:1]) not in _SHAPES:
            raise MalformedError(
                "a configuration has neither the form of feature level 1 nor that of later ones; "
                "if a later version of JanusKV wrote it, run that version"
            )
        _, voters, learners, formed, *levels = decoded
        if not _members(voters) or not _members(learners) or type(formed) is not bool:
            raise MalformedError("the members of a configuration do not fit")
        level = levels[0] if levels else FIRST_LEVEL
        if type(level) is not int or level < FIRST_LEVEL:
            raise MalformedError("the feature level of a configuration does not fit")
        config = cls(
            {NodeId(node): incarnation for node, incarnation in voters},
            {NodeId(node): incarnation for node, incarnation in learners},
            formed,
            level,
        )
        if config.voters.keys() & config.learners.keys():
            raise MalformedError("a configuration names a node as voter and learner")
        return config


_SHAPES: Final = ((4, _PLAIN), (5, _LEVELLED))
"""(how many parts, the first one)"""


def _members(value: object) -> bool:
    return type(value) is list and all(
        type(pair) is list
        and len(pair) == 2
        and type(pair[0]) is str
        and type(pair[1]) is int
        and pair[1] >= 0
        for pair in value
    )


def why_not_now(
    *, config_index: int, applied_index: int, noop_index: int | None, commit_index: int
) -> str | None:
    """Why a leader may not propose a change yet (hazard l), or None if it may."""
    if noop_index is None or commit_index < noop_index:
        return "the leader has not committed an entry of its own term yet; try again"
    if config_index > applied_index:
        return f"the change at index {config_index} is under way; one change at a time"
    return None
