"""What Group's calls answer. Plain values, one small class a case.

Operations that were proposed together are told together, as far as they end together: whoever
proposed them gave each a name, and is called with the names and one outcome for all of them.

The rule behind all of them: `Refused` says that the operation surely had no effect and never will
have one; whoever cannot know that says `Unknown`. A callback is called exactly once, from the loop.
The two answers of every operation that goes well are msgspec's, which are made in 0.1 us.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from raftgroups.transport import NodeId


class Applied(msgspec.Struct, frozen=True):
    """Committed by a majority, applied here, and (with everything before it) on this disk."""

    index: int
    result: object


class AppliedEach(msgspec.Struct, frozen=True):
    """The same of operations of one entry: a result for each that is told of it."""

    index: int
    results: Sequence[object]


@dataclass(frozen=True, slots=True)
class Refused:
    """Surely not done. `leader` is the best guess of who would take it, never this node."""

    reason: str
    leader: NodeId | None = None
    busy: bool = False
    """A queue here is full: asking again at once, or elsewhere, makes it worse."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """It may have taken effect, or may still."""

    reason: str


class ReadReady(msgspec.Struct, frozen=True):
    """The machine has applied at least `index`: read it now, locally, before returning."""

    index: int


@dataclass(frozen=True, slots=True)
class Done:
    """A membership change was committed and applied here; a transfer reached its target."""

    index: int


ProposeResult = Applied | Refused | Unknown
EachResult = AppliedEach | Refused | Unknown
DoneEach = Callable[[Sequence[Any], EachResult], None]
"""(askers, outcome): how the operations of some of those who asked together have ended. Each is
told of once."""
ReadResult = ReadReady | Refused
ChangeResult = Done | Refused | Unknown
