"""How shards come and go: split and merge, as entries of the shards' own logs. Pure.

A shard's number is its group's. Numbers of shards and segments come from the meta group and are
never used again. Each command below is proposed to one group, by whoever plans (kv), and only where
`Group.feature_level` is LINEAGE_LEVEL or above; each may be retried, and is answered by what it
finds.

    split   parent:  Split(key, right_shard, left_segment, right_segment)     -> SplitResult

The parent goes on as the left child. On every replica that applies the entry, the batch which holds
the parent's new bounds also holds the right child: its counters, segments, remembered answers, and
a formed group on the parent's members as of that entry, with their incarnations. Its log begins
after index 1, so that who joins later starts from a snapshot; its first term is 1, in which every
member's vote is for the node that proposed the split. So that node leads from the birth on, without
an election, and no second leader of that term is possible; if it is gone, the others hold their own
election. `Roster.on_birth` is told once the batch is on the disk.

A replica that is behind gets the parent's snapshot of after the split, and with it the parent's new
bounds: then the right child is not here. Its messages are dropped and counted (`no-such-group`) and
`GroupHost.on_unknown_group` is told, which may `join` it: an empty replica. It grants votes like an
empty log (voting.py), since those that were born may be no majority; never in term 1, in which
nobody stands: whoever has a configuration has heard of that term. A snapshot whose rows overlap
with those of another replica of this node is refused (`snapshot-overlaps`) until that one has
applied its split, or was removed.

    merge   1 left:  MergeBegin(right)                      -> MergeResult: merge = this attempt
            2 right: Freeze(left, merge)                    -> MergeResult: index = freeze_index
            3 wait until every member (voters, learners) of the right group has
              `durable_applied_index` >= freeze_index, and both groups have the same members with
              the same incarnations
            4 left:  Absorb(right, merge, freeze_index, segment, ...) -> MergeResult
    give up   left:  MergeAbort(merge)                      -> MergeResult, then
              right: Thaw(merge)                            -> MergeResult

From 1 on the left shard takes no split and no change of members; from 2 on the right one takes
nothing but Thaw and answers no read, because its successor may serve these keys already elsewhere.
With 4, each replica takes in the right replica of its own node, whose group ends in the same batch:
`Roster.on_end` is told. Whether Absorb or MergeAbort comes first in the left log decides; the
loser is refused (`merge_over`), and only after MergeAbort was answered may the right one be thawed.
A node that was no member any more of the right group, and never told, keeps a replica of it: the
snapshot of a shard that has absorbed it puts an end to that, or whoever knows that the group is
over (`GroupHost.retire`), unless it is `GroupHost.awaited`: a left replica that is behind needs it.
What an Absorb is refused for stands in the left log and in the command, never in the right replica:
whoever applies the entry once more, after a crash, may have one that has long gone on.
If 3 takes too long (a replica is down): give up. Whoever finds a frozen shard whose attempt the
left shard does not know any more may thaw it; if the left one has absorbed it, nothing is to be
done.

What becomes of the parts:

    revision, compact revision   split: both children have the parent's.  merge: max of both + 1,
                                 below which reads answer `compacted`
    events                       ancestor segments, cut to the keys; cursors (segment, revision) go
                                 on through storage/mvcc_events.py: segment_range, read_events
    remembered answers           split: both children have all.  merge: united
    leases                       with the shard whose range begins at the keyspace's first key;
                                 their keys are anywhere, and how those end: lease.py
    keys' times to live          by key. The clock of a merged shard is the left one's, so that its
                                 leases keep their time; deadlines of the right one are moved
    clock                        split: both children have the parent's
    locks of transactions        cut at the key, records by their anchor; united (twophase.py)
    epoch                        rises on both sides of a split, and by a merge
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, runtime_checkable

from raftgroups.commands import Absorb, Freeze, MergeAbort, MergeBegin, Split, Thaw
from raftgroups.machine_api import StateMachine
from raftgroups.refusals import MergeOverError, NotNowError, ReplicaBehindError
from raftgroups.results import MergeResult, SplitResult
from raftgroups.twophase import joined_answers
from storage.codec import check_key
from storage.errors import InvalidOptionError
from storage.mvcc import Divided

if TYPE_CHECKING:
    from raftgroups.machine import ShardMachine

BIRTH_INDEX: Final = 1
"""The log of a group that a split made begins after this index, and in this term:"""
BIRTH_TERM: Final = 1


class Change(NamedTuple):
    """Groups that an entry has made, or ended."""

    born: Sequence[int] = ()
    ended: Sequence[int] = ()


class Neighbour(NamedTuple):
    """Another group's machine on this node, and up to which index it is on the disk."""

    machine: Any
    """A ShardMachine, if it is a shard's."""
    durable_applied: int


Neighbours = Callable[[int], Neighbour | None]


@runtime_checkable
class DividingMachine(StateMachine, Protocol):
    """A machine whose groups split and merge; what its replica asks of it beyond the others."""

    neighbours: Neighbours
    """Given by the host."""

    def may_divide(self, payloads: Sequence[bytes]) -> bool:
        """Whether one of these operations might make or end groups: false only where none can."""
        ...

    def take_change(self) -> Change | None:
        """What the entry applied last has made or ended. `prepare` adds the rows of what was born,
        but for those of its log; those of the machine that ended are gone with it."""
        ...

    @property
    def absorbed(self) -> Sequence[int]:
        """The groups that ended in this one or in those before it."""
        ...

    @property
    def frozen(self) -> bool: ...

    def may_absorb(self, right: StateMachine) -> bool:
        """Whether an entry that was not applied here yet may absorb this frozen one. True as well
        where it cannot be told."""
        ...

    def why_no_change(self) -> str | None:
        """Why the members must stay as they are, or None."""
        ...

    def close(self) -> None:
        """Nothing will be read any more."""
        ...


def nobody(_: int) -> Neighbour | None:
    """Before the host has said who is there."""
    return None


def may_absorb(machine: ShardMachine, right: ShardMachine) -> bool:
    """By the attempt that froze it, if that is this shard's (which may wait for its first snapshot,
    and know no more than its number); else a shard that is to divide off from this one may be the
    left neighbour."""
    state, theirs = machine.shard.state, right.shard.state
    if not theirs.frozen_by:
        return False
    if theirs.frozen_by == state.shard:
        under_way = (state.merging_with, state.merge) == (theirs.shard, theirs.frozen_merge)
        return under_way or state.applied_index < theirs.frozen_merge
    ends_where_it_begins = (
        machine.shard.view.segments.own.end == right.shard.view.segments.own.start
    )
    return theirs.keyspace == state.keyspace and ends_where_it_begins


# --- split -----------------------------------------------------------------------------------


def split(machine: ShardMachine, command: Split) -> SplitResult:
    shard, state = machine.shard, machine.shard.state
    key = command.key
    check_key(key)
    if (
        min(command.right_shard, command.left_segment, command.right_segment) <= 0
        or command.left_segment == command.right_segment
    ):
        raise InvalidOptionError(
            "a split needs numbers above 0 for the right shard and for two segments"
        )
    shard.view.check_owned(key)
    if key == shard.view.segments.own.start:
        raise InvalidOptionError(
            f"shard {state.shard} begins at {key!r}; split it at a key within it"
        )
    if state.merging_with:
        raise NotNowError(
            f"shard {state.shard} is about to take in shard {state.merging_with}; split it later"
        )
    if not shard.view.segments.own.start:
        machine.leases.epoch += 1  # while this was one shard, ends of leases left no mark
    right_ttls = machine.ttls.count_in(key, shard.view.segments.own.end)
    right = shard.divide(key, command.right_shard, (command.left_segment, command.right_segment))
    machine.born(right, right_ttls)
    machine.ttls.count -= right_ttls
    return SplitResult(state.revision, state.epoch)


# --- merge -----------------------------------------------------------------------------------


def _answer(machine: ShardMachine, merge: int) -> MergeResult:
    state = machine.shard.state
    return MergeResult(state.revision, merge, state.applied_index, state.epoch)


def begin_merge(machine: ShardMachine, command: MergeBegin) -> MergeResult:
    state = machine.shard.state
    if state.merging_with:
        raise NotNowError(
            f"shard {state.shard} is about to take in shard {state.merging_with} in attempt "
            f"{state.merge}; finish or abort that one first"
        )
    if command.right_shard in (0, state.shard) or machine.shard.view.segments.own.end is None:
        raise InvalidOptionError(f"shard {command.right_shard} is no right neighbour of this one")
    machine.shard.set_merging(command.right_shard, state.applied_index)
    return _answer(machine, state.merge)


def abort_merge(machine: ShardMachine, command: MergeAbort) -> MergeResult:
    """Also when it was aborted already, or never began: it can never be absorbed then. But not if
    it was absorbed."""
    state = machine.shard.state
    if state.last_merge == command.merge:
        raise MergeOverError(f"attempt {command.merge} of shard {state.shard} is done: it absorbed")
    if state.merging_with and state.merge == command.merge:
        machine.shard.set_merging(0, 0)
    return _answer(machine, command.merge)


def freeze(machine: ShardMachine, command: Freeze) -> MergeResult:
    state = machine.shard.state
    if state.merging_with:
        raise NotNowError(
            f"shard {state.shard} is about to take in shard {state.merging_with} itself"
        )
    if command.left_shard <= 0 or command.merge <= 0 or not machine.shard.view.segments.own.start:
        raise InvalidOptionError(f"shard {command.left_shard} is no left neighbour of this one")
    by, merge = state.frozen_by, state.frozen_merge
    if by and (by != command.left_shard or merge > command.merge):
        raise NotNowError(
            f"shard {state.shard} is frozen by attempt {merge} of shard {by}; thaw it first"
        )
    machine.shard.set_frozen(command.left_shard, command.merge)
    machine.gate()
    return _answer(machine, command.merge)


def thaw(machine: ShardMachine, command: Thaw) -> MergeResult:
    state = machine.shard.state
    if state.frozen_by and state.frozen_merge != command.merge:
        raise MergeOverError(
            f"shard {state.shard} is frozen by attempt {state.frozen_merge}, not {command.merge}"
        )
    machine.shard.set_frozen(0, 0)
    machine.gate()
    return _answer(machine, command.merge)


def absorb(machine: ShardMachine, command: Absorb) -> MergeResult:
    shard, state = machine.shard, machine.shard.state
    if (state.merging_with, state.merge) != (command.right_shard, command.merge):
        raise MergeOverError(
            f"attempt {command.merge} to merge shard {command.right_shard} into shard "
            f"{state.shard} is not under way"
        )
    own = shard.view.segments.own
    if (command.keyspace, command.right_start) != (state.keyspace, own.end):
        raise NotNowError(
            f"shard {command.right_shard} is not the right neighbour of shard {state.shard}; abort "
            "this attempt"
        )
    right = right_of(machine, command)
    shift_ms = machine.clock_ms - right.clock_ms
    theirs = right.shard.view.segments.own
    machine.ttls.take_in(theirs.start, theirs.end, right.ttls.count, shift_ms)
    machine.dedupe.unite(right.dedupe, shift_ms, joined_answers)
    machine.intents.unite(right.intents, shift_ms)
    machine.gate()
    shard.absorb(Divided(right.shard.state, right.shard.view.segments), command.segment)
    state.last_merge = command.merge
    machine.ended(right)
    return _answer(machine, command.merge)


def right_of(machine: ShardMachine, command: Absorb) -> ShardMachine:
    """The machine to be absorbed, whole and on the disk. Whoever proposed this has seen that it is
    (step 3), and what is on a disk stays there; so anything else means that this node cannot go on,
    and must not, or it would differ from those that absorb."""
    found = machine.neighbours(command.right_shard)
    what = f"shard {command.right_shard}, which shard {machine.shard.state.shard} is to absorb,"
    if found is None:
        raise ReplicaBehindError(f"{what} is not on this node; restore this node from another one")
    right: ShardMachine = found.machine
    state = right.shard.state
    frozen = (state.frozen_by, state.frozen_merge) == (machine.shard.state.shard, command.merge)
    if not frozen or found.durable_applied < command.freeze_index:
        raise ReplicaBehindError(
            f"{what} stands at entry {found.durable_applied} of its log here and should be frozen "
            f"by entry {command.freeze_index}; restore this node from another one"
        )
    found_here = (state.keyspace, right.shard.view.segments.own.start)
    if found_here != (command.keyspace, command.right_start):
        raise ReplicaBehindError(
            f"{what} begins elsewhere here; restore this node from another one"
        )
    return right
