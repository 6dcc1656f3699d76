"""How whoever plans merges two neighbours: one command at a time, by what can be seen. Pure.

The protocol and its reasons are in lineage.py. A Merge is told again and again what the leaders of
both groups show, and says what to propose next, if anything; and it is told the answers. It holds
nothing that must survive: another planner goes on from what it sees, or gives up what it finds.

    left not merging            -> left:  MergeBegin
    left merging, right awake   -> right: Freeze
    right frozen                -> wait until it is so on the disk of every member
    all there                   -> left:  Absorb
    too late                    -> left:  MergeAbort;  answered -> right: Thaw

What a leader shows may be old, if it was deposed and does not know it. That is harmless everywhere
but before Thaw: so Thaw follows the ANSWER to MergeAbort, which is an entry of the left log. And
the members that a replica shows after it has applied MergeBegin, or Freeze, cannot change any more:
its leader refuses changes then, as does every later one; a change that was proposed a moment before
stands in that replica's log as not applied yet, which is waited for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from raftgroups.commands import Absorb, Command, Freeze, MergeAbort, MergeBegin, Thaw
from raftgroups.machine import ShardMachine
from raftgroups.membership import Config
from raftgroups.refusals import MergeOverError
from raftgroups.results import Failure, MergeResult
from raftgroups.transport import NodeId
from storage.errors import KeyRange
from storage.mvcc_state import ShardState


class Outcome(Enum):
    MERGED = "merged"
    GIVEN_UP = "given up"


@dataclass(frozen=True, slots=True)
class Seen:
    """A shard as its leader shows it."""

    state: ShardState
    place: KeyRange
    config: Config
    settled_config: bool
    """The configuration in force is applied."""
    applied_index: int

    @classmethod
    def of(cls, group: Any) -> Seen | None:
        """Of a Group, which is not pure. None unless this replica leads and has applied what came
        before it."""
        machine = group.machine
        if not group.settled or not isinstance(machine, ShardMachine):
            return None
        journal = group.replica.journal
        applied = group.replica.raft.applied_index
        state, place = machine.shard.state, machine.view.place
        return cls(state, place, journal.config, journal.config_index <= applied, applied)


class Merge:
    """One attempt to merge `right` into `left`, in a new segment."""

    def __init__(self, left: int, right: int, segment: int, deadline_s: float) -> None:
        self.left = left
        self.right = right
        self.segment = segment
        self.deadline_s = deadline_s
        self.outcome: Outcome | None = None
        self._giving_up = False
        self._freeze: tuple[int, int] | None = None
        """(attempt, an index of the right log at which it was seen to be frozen by it)."""
        self._aborted = 0
        """The attempt for which the left shard has answered MergeAbort."""

    def give_up(self) -> None:
        self._giving_up = True

    def next(
        self,
        now_s: float,
        left: Seen | None,
        right: Seen | None,
        durable: Mapping[NodeId, int],
    ) -> tuple[int, Command] | None:
        """What to propose, and to which group. `durable`: what each node that answers says of its
        replica of the right group: the durable applied index."""
        if self.outcome is not None or left is None:
            return None
        if self.right in left.state.absorbed:
            self.outcome = Outcome.MERGED
            return None
        if now_s >= self.deadline_s:
            self._giving_up = True
        if self._giving_up:
            return self._back(left, right)
        if right is None:
            return None
        if left.state.keyspace != right.state.keyspace or left.place.end != right.place.start:
            self._giving_up = True  # one of them was split or merged otherwise
            return None
        if not left.state.merging_with:
            return self.left, MergeBegin(self.right)
        if left.state.merging_with != self.right:
            self._giving_up = True
            return None
        return self._forth(left, right, durable)

    def _forth(
        self, left: Seen, right: Seen, durable: Mapping[NodeId, int]
    ) -> tuple[int, Command] | None:
        merge = left.state.merge
        if (right.state.frozen_by, right.state.frozen_merge) != (self.left, merge):
            return self.right, Freeze(self.left, merge)
        if self._freeze is None or self._freeze[0] != merge:
            self._freeze = (merge, right.applied_index)
        index = self._freeze[1]
        members = {**right.config.voters, **right.config.learners}
        ready = (
            left.settled_config
            and right.settled_config
            and members == {**left.config.voters, **left.config.learners}
            and all(durable.get(node, -1) >= index for node in members)
        )
        if not ready:
            return None
        start = right.place.start
        return self.left, Absorb(
            self.right, merge, index, self.segment, right.state.keyspace, start
        )

    def _back(self, left: Seen, right: Seen | None) -> tuple[int, Command] | None:
        if left.state.merging_with == self.right:
            return self.left, MergeAbort(left.state.merge)
        if right is None:
            return None
        frozen = right.state.frozen_merge if right.state.frozen_by == self.left else 0
        if not frozen:
            self.outcome = Outcome.GIVEN_UP
            return None
        if self._aborted != frozen:
            return self.left, MergeAbort(frozen)
        return self.right, Thaw(frozen)

    def answered(self, command: Command, result: object) -> None:
        """A proposal was applied with this result."""
        if not isinstance(command, MergeAbort):
            return
        if isinstance(result, MergeResult):
            self._aborted = command.merge
        elif isinstance(result, Failure) and result.code == MergeOverError.code:
            self.outcome = Outcome.MERGED
