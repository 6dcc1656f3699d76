"""A split, a merge: the next step of one that is under way, by what is seen. Pure.

    split   propose    Split, to the group                         then the map gets both halves
    merge   gather     the right shard's replicas move to the left one's nodes (kv/placement), as
                       long as they come nearer (gathering.py)
            join       MergeBegin, Freeze, wait, Absorb            then the map gets one of two
            undo       MergeAbort, Thaw: it took too long          then the map stays as it is

The map holds the operation with its step, the groups' own logs what was done; whoever leads the
meta group after a crash makes the same object anew and goes on. What is proposed twice does no
harm: a split that was done shows in the shard's end, the rest is raftgroups/merging.py's business.

A split ends in the map only once it is known that it was done, or that it never will be: its entry
carries an idempotency token of its operation, so a try that was lost on its way and arrives late
finds the answer of the first one. A merge that was given up may still be begun by such a straggler;
`stray` finds what stands in a group and belongs to no operation, and it is undone.

`next` is asked whenever something may have changed, and gives one proposal at a time; what the
group answered comes back through `answered`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from msgspec.structs import replace

from kv.division.figures import Shown, durable_of, same_members, seen_of
from kv.division.gathering import Gathering
from kv.division.words import GATHER, JOIN, MERGE, SPLIT, UNDO
from raftgroups.commands import Command, Split, Token
from raftgroups.levels import LINEAGE_LEVEL
from raftgroups.merging import Merge, Outcome
from raftgroups.meta.commands import EndOperation, MetaCommand, StepOperation
from raftgroups.meta.records import OperationRecord, ShardRecord, ShardState
from raftgroups.meta.view import MetaView
from raftgroups.refusals import TokenTooOldError
from raftgroups.results import Failure, SplitResult
from storage.errors import WrongShardError

JOIN_S: Final = 10.0
"""The right shard answers nothing from some moment of it on."""
OLD_MEMBERS: Final = (
    "not every node of this shard runs a version that can split and merge; upgrade them all"
)


@dataclass(frozen=True, slots=True)
class ToGroup:
    group: int
    command: Command
    token: Token | None = None


@dataclass(frozen=True, slots=True)
class ToMeta:
    command: MetaCommand
    given_up: str = ""
    """Why the operation ends without having been done."""


Act = ToGroup | ToMeta


class Work(Protocol):
    def next(
        self, operation: OperationRecord, view: MetaView, shown: Shown, now_s: float
    ) -> Act | None: ...

    def answered(self, command: Command, result: object) -> None:
        """An entry of the group's log was applied with this result."""
        ...


def work_for(operation: OperationRecord) -> Work | None:
    if operation.kind == SPLIT:
        return SplitWork()
    return MergeWork(operation) if operation.kind == MERGE else None


class SplitWork:
    def __init__(self) -> None:
        self._done = False
        self._refused = ""
        self._too_late = False
        """It will not be executed any more, whether it was or not."""

    def next(
        self, operation: OperationRecord, view: MetaView, shown: Shown, now_s: float
    ) -> Act | None:
        (shard,) = operation.shards
        parent, standing = view.shards[shard], shown.standings.get(shard)
        if standing is not None and standing.end == operation.key:
            self._done = True  # by an earlier try, whoever made it
        if self._done:
            halves = _halves(parent, operation)
            ended = ((shard, parent.epoch),)
            return ToMeta(EndOperation(operation.operation, operation.step, ended, halves))
        if standing is not None and not self._refused:
            if standing.level < LINEAGE_LEVEL:
                self._refused = OLD_MEMBERS  # nobody took it while that is so
            elif self._too_late:
                self._refused = "it was under way for too long"
        if self._refused:
            return ToMeta(EndOperation(operation.operation, operation.step), self._refused)
        left_segment, right_segment = operation.new_segments
        command = Split(operation.key, operation.new_shards[0], left_segment, right_segment)
        return ToGroup(shard, command, Token(b"split/%d" % operation.operation, 1))

    def answered(self, command: Command, result: object) -> None:
        """A shard that does not hold the key was split already, or is frozen, and one whose memory
        does not reach back that far may have been: what its leader shows decides."""
        if isinstance(result, SplitResult):
            self._done = True
        elif isinstance(result, Failure) and result.code == TokenTooOldError.code:
            self._too_late = True
        elif isinstance(result, Failure) and result.code != WrongShardError.code:
            self._refused = result.message


def _halves(parent: ShardRecord, operation: OperationRecord) -> tuple[ShardRecord, ShardRecord]:
    (right,), (left_segment, right_segment) = operation.new_shards, operation.new_segments
    return (
        replace(parent, end=operation.key, segment=left_segment),
        replace(
            parent,
            shard=right,
            start=operation.key,
            segment=right_segment,
            founders=(),
            formed=(),
            state=ShardState.ACTIVE,
        ),
    )


class MergeWork:
    def __init__(self, operation: OperationRecord) -> None:
        left, right = operation.shards
        self._merge = Merge(left, right, operation.new_segments[0], float("inf"))
        self._gathering: Gathering | None = None
        self._step = ""
        self._since_s = 0.0
        """Since when this node has been at that step: patience begins anew with whoever goes on."""

    def next(
        self, operation: OperationRecord, view: MetaView, shown: Shown, now_s: float
    ) -> Act | None:
        left, right = (shown.standings.get(shard) for shard in operation.shards)
        if self._step != operation.step:
            self._step, self._since_s = operation.step, now_s
        waited_s = now_s - self._since_s
        if operation.step == GATHER:
            if left is not None and right is not None and same_members(left, right):
                return _step(operation, JOIN)
            if self._gathering is None:
                self._gathering = Gathering(now_s)
            why = self._gathering.why_not(operation.shards, view, shown, now_s)
            return ToMeta(EndOperation(operation.operation, operation.step), why) if why else None
        if operation.step == UNDO:
            self._merge.give_up()
        levels = [each.level for each in (left, right) if each is not None]
        if min(levels, default=LINEAGE_LEVEL) < LINEAGE_LEVEL:
            return None
        step = self._merge.next(
            now_s,
            seen_of(operation.shards[0], left),
            seen_of(operation.shards[1], right),
            durable_of(shown, operation.shards[1]),
        )
        if self._merge.outcome is Outcome.MERGED:
            return ToMeta(_merged(operation, view.shards))
        if self._merge.outcome is Outcome.GIVEN_UP:
            return ToMeta(EndOperation(operation.operation, operation.step), "it took too long")
        if operation.step == JOIN and waited_s > JOIN_S:
            return _step(operation, UNDO)
        return None if step is None else ToGroup(*step)

    def answered(self, command: Command, result: object) -> None:
        self._merge.answered(command, result)


def _step(operation: OperationRecord, to: str) -> ToMeta:
    return ToMeta(StepOperation(operation.operation, operation.step, to))


def _merged(operation: OperationRecord, shards: Mapping[int, ShardRecord]) -> EndOperation:
    left, right = (shards[shard] for shard in operation.shards)
    one = replace(left, end=right.end, segment=operation.new_segments[0])
    ended = ((left.shard, left.epoch), (right.shard, right.epoch))
    return EndOperation(operation.operation, operation.step, ended, (one,))


def stray(view: MetaView, shown: Shown) -> tuple[int, int] | None:
    """(left, right): a merge that stands in one of the groups and that no operation knows of."""
    for shard, standing in sorted(shown.standings.items()):
        left, right = shard, standing.merging_with
        if standing.frozen_by:
            left, right = standing.frozen_by, shard
        both = (left in view.shards, right in view.shards)
        if right and all(both) and not any(map(view.operation_of, (left, right))):
            return left, right
    return None
