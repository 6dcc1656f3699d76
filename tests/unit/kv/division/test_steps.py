"""Splits and merges in steps: against whole machines and logs of shards, with whoever plans lost at
any moment, answers lost, and stragglers that come late."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from kv.division.figures import Shown
from kv.division.messages import Standing
from kv.division.steps import OLD_MEMBERS, SplitWork, ToGroup, ToMeta, stray, work_for
from kv.division.wishes import Wishes
from kv.division.words import GATHER, JOIN, MERGE, PROPOSE, SPLIT, UNDO
from raftgroups.commands import Absorb, Freeze, MergeAbort, MergeBegin, Split, Thaw
from raftgroups.meta.commands import EndOperation, StepOperation
from raftgroups.meta.records import (
    KeyspaceRecord,
    NodeRecord,
    OperationRecord,
    ShardRecord,
)
from raftgroups.meta.refusals import (
    InvalidShardsError,
    OperationNotFoundError,
    ShardBusyError,
)
from raftgroups.meta.rules import execute
from raftgroups.meta.view import Counters, MetaView
from raftgroups.refusals import NotNowError, TokenTooOldError
from raftgroups.results import MergeResult, SplitResult, failure_of
from raftgroups.transport import NodeId
from storage.errors import WrongShardError

MEMBERS = (("a", 1), ("b", 2), ("c", 3))


def standing(start: bytes, end: bytes | None, **changes: object) -> Standing:
    fields: dict[str, object] = {
        "keyspace": 1,
        "start": start,
        "end": end,
        "epoch": 1,
        "applied_index": 10,
        "merging_with": 0,
        "merge": 0,
        "frozen_by": 0,
        "frozen_merge": 0,
        "absorbed": (),
        "voters": MEMBERS,
        "learners": (),
        "settled_config": True,
        "level": 2,
    }
    return Standing(**{**fields, **changes})  # type: ignore[arg-type]


def view_with(operation: OperationRecord) -> MetaView:
    shards = {
        1: ShardRecord(1, 1, b"", b"m", 1, replicas=("a", "b", "c")),
        2: ShardRecord(2, 1, b"m", None, 2, replicas=("a", "b", "c")),
    }
    return MetaView(
        1,
        {node: NodeRecord(node, disk, node, ("sim", 1)) for node, disk in MEMBERS},
        {1: KeyspaceRecord(1, "default")},
        shards,
        {operation.operation: operation},
        Counters(shard=9, segment=9, operation=9),
    )


def split_of(key: bytes = b"g") -> OperationRecord:
    return OperationRecord(4, SPLIT, PROPOSE, (1,), new_shards=(7,), new_segments=(5, 6), key=key)


def merge_of(step: str) -> OperationRecord:
    return OperationRecord(4, MERGE, step, (1, 2), new_segments=(5,))


def showing(durable: int = 0, **standings: Standing) -> Shown:
    found = {int(name[1:]): each for name, each in standings.items()}
    members = {NodeId(node): (incarnation, durable) for node, incarnation in MEMBERS}
    return Shown({shard: NodeId("a") for shard in found}, found, dict.fromkeys(found, members))


# --- splits ------------------------------------------------------------------------------------


def test_a_split_is_proposed_with_a_token_and_ends_in_two_halves() -> None:
    operation = split_of()
    view, work = view_with(operation), work_for(operation)
    assert work is not None
    act = work.next(operation, view, showing(s1=standing(b"", b"m")), 0.0)
    assert isinstance(act, ToGroup)
    assert (act.group, act.command) == (1, Split(b"g", 7, 5, 6))
    assert act.token is not None, "a straggler must not be executed after all"
    work.answered(act.command, SplitResult(20, 2))
    end = work.next(operation, view, showing(s1=standing(b"", b"m")), 0.0)
    assert isinstance(end, ToMeta)
    after, _ = execute(view, end.command, 0)
    assert not after.operations
    assert [(s.shard, s.start, s.end) for s in after.shards_of(1)] == [
        (1, b"", b"g"),
        (7, b"g", b"m"),
        (2, b"m", None),
    ]


def test_who_goes_on_sees_that_a_split_was_done() -> None:
    operation = split_of()
    act = SplitWork().next(
        operation, view_with(operation), showing(s1=standing(b"", b"g", epoch=2)), 0.0
    )
    assert isinstance(act, ToMeta)
    assert isinstance(act.command, EndOperation)
    assert len(act.command.shards) == 2


def test_a_shard_that_does_not_hold_the_key_now_decides_nothing() -> None:
    """It may be frozen, or the split was made by an earlier try whose effect was not reported."""
    operation, work = split_of(), SplitWork()
    view, shown = view_with(operation), showing(s1=standing(b"", b"m"))
    work.answered(Split(b"g", 7, 5, 6), failure_of(WrongShardError("not here"), 1))
    assert isinstance(work.next(operation, view, shown, 0.0), ToGroup)


def test_what_the_log_refused_is_given_up_with_its_reason() -> None:
    operation, work = split_of(), SplitWork()
    work.answered(Split(b"g", 7, 5, 6), failure_of(NotNowError("keys hang on a lease"), 1))
    act = work.next(operation, view_with(operation), showing(s1=standing(b"", b"m")), 0.0)
    assert isinstance(act, ToMeta)
    assert act.given_up == "keys hang on a lease"
    assert not act.command.shards  # type: ignore[union-attr]


def test_a_token_that_is_too_old_needs_the_shard_to_be_seen() -> None:
    operation, work = split_of(), SplitWork()
    view = view_with(operation)
    work.answered(Split(b"g", 7, 5, 6), failure_of(TokenTooOldError("forgotten"), 1))
    assert isinstance(work.next(operation, view, Shown(), 0.0), ToGroup), "nobody knows yet"
    act = work.next(operation, view, showing(s1=standing(b"", b"m")), 0.0)
    assert isinstance(act, ToMeta)
    assert act.given_up


def test_older_programs_are_not_asked_to_split() -> None:
    operation = split_of()
    old = standing(b"", b"m", level=1)
    act = SplitWork().next(operation, view_with(operation), showing(s1=old), 0.0)
    assert isinstance(act, ToMeta)
    assert act.given_up == OLD_MEMBERS


# --- merges ------------------------------------------------------------------------------------


def test_a_merge_waits_for_replicas_to_come_together() -> None:
    operation = merge_of(GATHER)
    view, work = view_with(operation), work_for(operation)
    assert work is not None
    apart = standing(b"m", None, voters=(("a", 1), ("b", 2), ("d", 4)))
    left = standing(b"", b"m")
    assert work.next(operation, view, showing(s1=left, s2=apart), 0.0) is None
    unsettled = standing(b"m", None, settled_config=False)
    assert work.next(operation, view, showing(s1=left, s2=unsettled), 1.0) is None
    act = work.next(operation, view, showing(s1=left, s2=standing(b"m", None)), 2.0)
    assert act == ToMeta(StepOperation(4, GATHER, JOIN))


def test_replicas_that_stay_apart_end_it() -> None:
    operation = merge_of(GATHER)
    view, work = view_with(operation), work_for(operation)
    assert work is not None
    apart = showing(s1=standing(b"", b"m"), s2=standing(b"m", None, voters=(("a", 9),)))
    assert work.next(operation, view, apart, 0.0) is None
    act = work.next(operation, view, apart, 2000.0)
    assert isinstance(act, ToMeta)
    assert act.given_up
    assert isinstance(act.command, EndOperation)


def test_what_an_operator_ended_is_over_and_a_step_of_it_too_late() -> None:
    operation = merge_of(GATHER)
    view, ended = view_with(operation), EndOperation(4, GATHER)

    async def propose(command: object, deadline_s: float | None = None) -> object:
        assert command == ended
        return None

    meta = SimpleNamespace(propose=propose)
    wishes = Wishes(meta=meta, view=lambda: view, why=None, clock=None)  # type: ignore[arg-type]
    assert asyncio.run(wishes.let_go(2)) == operation
    after, _ = execute(view, ended, 0)
    assert not after.operations
    assert after.shards == view.shards
    with pytest.raises(OperationNotFoundError):
        execute(after, StepOperation(4, GATHER, JOIN), 0)


@pytest.mark.parametrize(
    ("operation", "error"),
    [(merge_of(JOIN), ShardBusyError), (split_of(), InvalidShardsError)],
)
def test_only_a_merge_that_gathers_can_be_ended(
    operation: OperationRecord, error: type[Exception]
) -> None:
    view = view_with(operation)
    wishes = Wishes(meta=None, view=lambda: view, why=None, clock=None)  # type: ignore[arg-type]
    with pytest.raises(error):
        asyncio.run(wishes.let_go(1))


def test_a_merge_step_by_step_each_by_another_planner() -> None:
    operation = merge_of(JOIN)
    view = view_with(operation)
    left, right = standing(b"", b"m"), standing(b"m", None)

    def next_of_a_new_planner(durable: int = 0) -> object:
        work = work_for(operation)
        assert work is not None
        return work.next(operation, view, showing(durable, s1=left, s2=right), 0.0)

    assert next_of_a_new_planner() == ToGroup(1, MergeBegin(2))
    left = standing(b"", b"m", merging_with=2, merge=11)
    assert next_of_a_new_planner() == ToGroup(2, Freeze(1, 11))
    right = standing(b"m", None, frozen_by=1, frozen_merge=11, applied_index=30)
    assert next_of_a_new_planner(29) is None, "not on every disk yet"
    assert next_of_a_new_planner(30) == ToGroup(1, Absorb(2, 11, 30, 5, 1, b"m"))
    left = standing(b"", None, absorbed=(2,), epoch=3)
    act = next_of_a_new_planner()
    assert isinstance(act, ToMeta)
    after, _ = execute(view, act.command, 0)
    assert [(s.shard, s.start, s.end, s.segment) for s in after.shards_of(1)] == [(1, b"", None, 5)]


def test_disks_of_other_incarnations_do_not_count() -> None:
    operation = merge_of(JOIN)
    left = standing(b"", b"m", merging_with=2, merge=11)
    right = standing(b"m", None, frozen_by=1, frozen_merge=11, applied_index=30)
    replaced = {NodeId(node): (incarnation + 50, 99) for node, incarnation in MEMBERS}
    shown = Shown({}, {1: left, 2: right}, {2: replaced})
    work = work_for(operation)
    assert work is not None
    assert work.next(operation, view_with(operation), shown, 0.0) is None


def test_a_merge_that_takes_too_long_is_undone() -> None:
    operation = merge_of(JOIN)
    view, work = view_with(operation), work_for(operation)
    assert work is not None
    left = standing(b"", b"m", merging_with=2, merge=11)
    right = standing(b"m", None, frozen_by=1, frozen_merge=11, applied_index=30)
    assert work.next(operation, view, showing(s1=left, s2=right), 0.0) is None
    act = work.next(operation, view, showing(s1=left, s2=right), 60.0)
    assert act == ToMeta(StepOperation(4, JOIN, UNDO))
    operation = merge_of(UNDO)
    view = view_with(operation)
    act = work.next(operation, view, showing(s1=left, s2=right), 60.0)
    assert act == ToGroup(1, MergeAbort(11))
    work.answered(MergeAbort(11), MergeResult(1, 11, 30, 1))
    left = standing(b"", b"m")
    act = work.next(operation, view, showing(s1=left, s2=right), 60.0)
    assert act == ToGroup(2, Thaw(11))
    end = work.next(operation, view, showing(s1=left, s2=standing(b"m", None)), 60.0)
    assert isinstance(end, ToMeta)
    assert end.given_up
    after, _ = execute(view, end.command, 0)
    assert len(after.shards_of(1)) == 2
    assert not after.operations


@pytest.mark.parametrize("shard", [1, 2])
def test_a_merge_that_no_operation_knows_of_is_found(shard: int) -> None:
    other = OperationRecord(4, SPLIT, PROPOSE, (8,))
    left = standing(b"", b"m", **({"merging_with": 2, "merge": 11} if shard == 1 else {}))
    frozen = {"frozen_by": 1, "frozen_merge": 11} if shard == 2 else {}
    shown = showing(s1=left, s2=standing(b"m", None, **frozen))
    assert stray(view_with(other), shown) == (1, 2)
    assert stray(view_with(merge_of(JOIN)), shown) is None
    assert stray(view_with(other), showing(s1=standing(b"", b"m"))) is None
