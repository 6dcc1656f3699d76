"""The rules of operations (splits, merges, moves): steps of a planner, one a shard at a time. Pure.

Invariants: an operation moves from the step that its planner named, else it is refused; what it
puts in place of shards covers exactly what it takes away.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec.structs import replace as with_fields

from raftgroups.meta.changing import Answered, minus, next_view, plus
from raftgroups.meta.commands import (
    BeginOperation,
    Changed,
    EndOperation,
    OperationMade,
    StepOperation,
)
from raftgroups.meta.node_rules import node_of
from raftgroups.meta.records import (
    OperationRecord,
    ShardRecord,
    ShardState,
)
from raftgroups.meta.refusals import (
    InvalidShardsError,
    OperationNotFoundError,
    ShardBusyError,
    StaleStepError,
)
from raftgroups.meta.shard_rules import (
    check_count,
    check_epoch,
    check_idle,
    joined,
    shard_of,
    taken,
)
from raftgroups.meta.view import MetaView


def begin_operation(view: MetaView, command: BeginOperation, wall_ms: int) -> Answered:
    wanted = command.operation
    check_count(command.new_shards)
    check_count(command.new_segments)
    if len(command.epochs) != len(wanted.shards):
        raise InvalidShardsError("an operation names an epoch for each of its shards")
    for shard, epoch in zip(wanted.shards, command.epochs, strict=True):
        record = shard_of(view, shard)
        check_epoch(record, epoch)
        check_idle(view, shard)
        if record.state is ShardState.RETIRED:
            raise ShardBusyError(f"the keyspace of shard {shard} is being dropped")
    counters = view.next
    made = with_fields(
        wanted,
        operation=counters.operation,
        new_shards=tuple(range(counters.shard, counters.shard + command.new_shards)),
        new_segments=tuple(range(counters.segment, counters.segment + command.new_segments)),
        began_ms=wall_ms,
        stepped_ms=wall_ms,
        attempts=0,
    )
    counters = taken(counters, command.new_shards, command.new_segments)
    after = next_view(
        view,
        operations=plus(view.operations, made.operation, made),
        next=with_fields(counters, operation=made.operation + 1),
    )
    return after, OperationMade(after.version, made)


def _operation(view: MetaView, operation: int, step: str) -> OperationRecord:
    found = view.operations.get(operation)
    if found is None:
        raise OperationNotFoundError(f"there is no operation {operation}: it is over")
    if found.step != step:
        raise StaleStepError(
            f"operation {operation} is at step {found.step!r}, not {step!r}; look again"
        )
    return found


def step_operation(view: MetaView, command: StepOperation, wall_ms: int) -> Answered:
    known = _operation(view, command.operation, command.from_step)
    again = known.step == command.to_step
    record = with_fields(
        known,
        step=command.to_step,
        note=command.note,
        progress=command.progress,
        stepped_ms=known.stepped_ms if again else wall_ms,
        attempts=known.attempts + 1 if again else 0,
    )
    after = next_view(
        view,
        operations=plus(view.operations, record.operation, record),
        shards=_replaced(view, known, command.replaced, command.shards),
    )
    return after, OperationMade(after.version, record)


def end_operation(view: MetaView, command: EndOperation, _: int) -> Answered:
    known = _operation(view, command.operation, command.from_step)
    after = next_view(
        view,
        operations=minus(view.operations, [known.operation]),
        shards=_replaced(view, known, command.replaced, command.shards),
    )
    return after, Changed(after.version)


def _replaced(
    view: MetaView,
    operation: OperationRecord,
    replaced: Sequence[tuple[int, int]],
    shards: Sequence[ShardRecord],
) -> Mapping[int, ShardRecord]:
    if not replaced and not shards:
        return view.shards
    old = []
    for shard, epoch in replaced:
        record = shard_of(view, shard)
        check_epoch(record, epoch)
        if shard not in (*operation.shards, *operation.new_shards):
            raise InvalidShardsError(f"shard {shard} is not in operation {operation.operation}")
        old.append(record)
    ids = {each.shard for each in old} | set(operation.new_shards)
    segments = {each.segment for each in old} | set(operation.new_segments)
    names = [each.shard for each in shards]
    if len(set(names)) != len(names) or not set(names) <= ids:
        raise InvalidShardsError("a shard takes an id that this operation was not given")
    if not {each.segment for each in shards} <= segments:
        raise InvalidShardsError("a shard takes a segment that this operation was not given")
    for keyspace in {each.keyspace for each in (*old, *shards)}:
        before = joined((e.start, e.end) for e in old if e.keyspace == keyspace)
        now = joined((e.start, e.end) for e in shards if e.keyspace == keyspace)
        if before is None or before != now:
            raise InvalidShardsError("the new shards do not cover exactly what they replace")
    for each in shards:
        for node in each.replicas:
            node_of(view, node)
    epoch = max(each.epoch for each in old) + 1
    return {
        **minus(view.shards, [each.shard for each in old]),
        **{each.shard: with_fields(each, epoch=epoch) for each in shards},
    }
