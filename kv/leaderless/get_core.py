"""One read as a value: who answered what, whether it is enough, what to say, what to repair.

    core = GetCore(...)
    core.add_result(node, answer)      for each answer as it comes
    core.enough()                      true: respond now (reached, or it can no longer be)
    core.response()                    the merged set, or the error to raise
    core.final_action()                once no further answer is waited for: what to repair

Rules
- R counts distinct nodes. An owner's "I have nothing" is an answer. A stand-in's is not worth as
  much, because it never had to have anything: it counts only if an owner answered, or somebody
  found something. So a reader is never told that a key does not exist by strangers alone.
- A session brings the clock that it has seen; the answer must cover it. The owners alone cannot say
  that there is no more: during a partition a write may stand with stand-ins only. If every node
  that could hold the key has answered and none covers it, then what they have is all there is (the
  key was reaped), and that is told.
- Everything that answers before the end is merged for the repair, late answers too; who did not
  answer, or was not asked, is named apart, so that the shell can bring it up to date unasked.

The core asks nobody and waits for nobody. This file is pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

import msgspec

from kv.leaderless.dvv import covers_clock, merge
from kv.leaderless.quorum import Level, Quorum, ReadQuorumError, level_met
from raftgroups.transport import NodeId
from storage.errors import JanusError
from storage.plain import Plain
from storage.siblings import EMPTY_CLOCK, Clock, SiblingSet, decode_set


class Found(msgspec.Struct, frozen=True, gc=False):
    siblings: SiblingSet


class Nothing(msgspec.Struct, frozen=True, gc=False):
    """The node holds no record of the key."""


class Failed(msgspec.Struct, frozen=True, gc=False):
    """No answer, or one that says why not."""

    reason: str


Answer = Found | Nothing | Failed


class SessionNotReachedError(JanusError):
    """No replica that answered has what this session has already seen."""

    code = "session_not_reached"
    retryable: ClassVar[bool] = True


class GetResult:
    __slots__ = ("_siblings", "encoded", "level", "plain", "replicas", "stand_ins")

    def __init__(
        self,
        siblings: SiblingSet | None,
        replicas: tuple[NodeId, ...],
        stand_ins: tuple[NodeId, ...],
        level: Level | None,
        encoded: bytes = b"",
        plain: Plain | None = None,
    ) -> None:
        """`encoded` and `plain` instead of `siblings`, where all answers were one plain set."""
        self._siblings = siblings
        self.encoded = encoded
        self.plain = plain
        self.replicas = replicas
        """Who answered, in the order of their answers."""
        self.stand_ins = stand_ins
        """Those of them that are no owners."""
        self.level = level

    @property
    def siblings(self) -> SiblingSet:
        """All that the answers amount to; without versions and clock if nobody has anything."""
        if self._siblings is None:
            self._siblings = decode_set(self.encoded)
        return self._siblings


class Repair(msgspec.Struct, frozen=True, gc=False):
    siblings: SiblingSet
    stale: tuple[NodeId, ...]
    """Owners whose answer lacked something: send them the set."""
    unknown: tuple[NodeId, ...]
    """Owners that were not asked or did not answer: send it when they can be reached."""


class GetCore:
    """Invariants: `_merged` is the merge of all sets found so far; `_answered` are those of
    `_answers` that are no failures, in the order in which they came."""

    def __init__(
        self,
        quorum: Quorum,
        owners: Iterable[NodeId],
        asked: Iterable[NodeId],
        *,
        must_cover: Clock = EMPTY_CLOCK,
        others: Iterable[NodeId] = (),
    ) -> None:
        """`others`: who else could hold the key, in reach or not."""
        self._quorum = quorum
        self._owners = tuple(owners)
        self._everybody = (*self._owners, *others)
        self._waiting = set(asked)
        self._must_cover = must_cover
        self._answers: dict[NodeId, Answer] = {}
        self._answered: list[NodeId] = []
        self._answered_owners: list[NodeId] = []
        self._merged = SiblingSet()

    def ask_also(self, node: NodeId) -> None:
        """A further node was asked: an owner at last, or a stand-in for one."""
        if node not in self._answers:
            self._waiting.add(node)

    def add_result(self, node: NodeId, answer: Answer) -> None:
        """Each node's first real answer counts; a failure is overruled by a late answer."""
        self._waiting.discard(node)
        if node in self._answers and not isinstance(self._answers[node], Failed):
            return
        self._answers[node] = answer
        if isinstance(answer, Failed):
            return
        self._answered.append(node)
        if node in self._owners:
            self._answered_owners.append(node)
        if isinstance(answer, Found):
            if not self._merged.clock:
                self._merged = answer.siblings
            elif answer.siblings is not self._merged:
                self._merged = merge(self._merged, answer.siblings)

    def enough(self) -> bool:
        return self._reached() or not self._waiting

    def waiting(self) -> frozenset[NodeId]:
        return frozenset(self._waiting)

    def response(self) -> GetResult:
        """What to tell the client. Raises what to tell him if too little was reached."""
        counted = self._counted()
        if not self._reached():
            owners = sum(node in self._owners for node in counted)
            if self._quorum_reached():
                raise SessionNotReachedError(
                    f"{len(counted)} replicas answered and none has what this session has seen; "
                    "try again, or read without the session's token"
                )
            raise ReadQuorumError(
                f"{len(counted)} of {self._quorum.nodes} required replicas answered in time "
                f"({owners} of {self._quorum.owners} required owners){self._reasons()}; nothing "
                "was changed; try again, or ask for a lower level"
            )
        stand_ins = tuple(node for node in counted if node not in self._owners)
        return GetResult(
            self._merged, tuple(counted), stand_ins, level_met(self._quorum.n, len(counted))
        )

    def final_action(self) -> Repair | None:
        """What to repair, once nobody is waited for any more; None if nothing is known."""
        if not self._merged.clock:
            return None
        stale, unknown = [], []
        for owner in self._owners:
            answer = self._answers.get(owner)
            if answer is None or isinstance(answer, Failed):
                unknown.append(owner)
            elif isinstance(answer, Nothing) or (
                answer.siblings is not self._merged and answer.siblings != self._merged
            ):
                stale.append(owner)
        if not stale and not unknown:
            return None
        return Repair(self._merged, tuple(stale), tuple(unknown))

    def _counted(self) -> list[NodeId]:
        owners = self._answered_owners
        if self._quorum.strict:
            return owners
        return self._answered if owners or self._merged.clock else []

    def _quorum_reached(self) -> bool:
        quorum = self._quorum
        if len(self._answered_owners) < quorum.owners:
            return False
        return len(self._counted()) >= quorum.nodes

    def _reached(self) -> bool:
        if not self._quorum_reached():
            return False
        if not self._must_cover or covers_clock(self._merged.clock, self._must_cover):
            return True
        return all(isinstance(self._answers.get(n), Found | Nothing) for n in self._everybody)

    def _reasons(self) -> str:
        failed = [
            f"{node}: {answer.reason}"
            for node, answer in self._answers.items()
            if isinstance(answer, Failed)
        ]
        return "; " + ", ".join(failed) if failed else ""
