"""The rules of single shards: how they begin, who reports of them, which ids are taken. Pure.

Invariants: the shards of a keyspace cover all keys, each once; whoever changes a shard names the
epoch that it saw; an id is given once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

from msgspec.structs import replace as with_fields

from raftgroups.meta.changing import Answered, minus, next_view, plus
from raftgroups.meta.commands import (
    Changed,
    NewShard,
    ReportErased,
    ReportFormed,
    SetReplicas,
)
from raftgroups.meta.node_rules import node_of
from raftgroups.meta.records import (
    KeyspaceState,
    NodeState,
    ShardRecord,
    ShardState,
)
from raftgroups.meta.refusals import (
    InvalidShardsError,
    ShardBusyError,
    StaleEpochError,
    UnknownNodeError,
    UnknownShardError,
)
from raftgroups.meta.view import SHARDS_MAX, Bounds, Counters, MetaView

IDS_MAX: Final = 4096


def new_shards(
    view: MetaView, keyspace: int, wanted: Sequence[NewShard], counters: Counters
) -> tuple[list[ShardRecord], Counters]:
    if not 0 < len(wanted) <= SHARDS_MAX:
        raise InvalidShardsError(
            f"a keyspace begins with 1 to {SHARDS_MAX} shards, not {len(wanted)}"
        )
    if joined([(each.start, each.end) for each in wanted]) != [(b"", None)]:
        raise InvalidShardsError("the ranges of the new shards do not cover all keys, each once")
    made = []
    for place, each in enumerate(wanted):
        if not each.founders:
            raise InvalidShardsError("a new shard has no node to be on; add nodes first")
        for node, incarnation in each.founders:
            record = node_of(view, node)
            if record.incarnation != incarnation or record.state is NodeState.DEAD:
                raise UnknownNodeError(f"node {node} is dead, or came back with another directory")
        made.append(
            ShardRecord(
                counters.shard + place,
                keyspace,
                each.start,
                each.end,
                counters.segment + place,
                replicas=tuple(node for node, _ in each.founders),
                founders=each.founders,
                state=ShardState.FORMING,
            )
        )
    return made, with_fields(
        counters, shard=counters.shard + len(made), segment=counters.segment + len(made)
    )


def joined(ranges: Iterable[Bounds]) -> list[Bounds] | None:
    """Neighbours made one, in order; None if two overlap or one is empty."""
    made: list[Bounds] = []
    for start, end in sorted(ranges, key=lambda each: each[0]):
        if end is not None and end <= start:
            return None
        if made and made[-1][1] == start:
            made[-1] = (made[-1][0], end)
        elif made and (made[-1][1] is None or made[-1][1] > start):
            return None
        else:
            made.append((start, end))
    return made


def shard_of(view: MetaView, shard: int) -> ShardRecord:
    found = view.shards.get(shard)
    if found is None:
        raise UnknownShardError(f"there is no shard {shard}; list the shards")
    return found


def check_epoch(record: ShardRecord, epoch: int) -> None:
    if record.epoch != epoch:
        raise StaleEpochError(
            f"shard {record.shard} is at epoch {record.epoch}, not {epoch}: it changed meanwhile; "
            "look again and decide anew"
        )


def check_idle(view: MetaView, shard: int) -> None:
    busy = view.operation_of(shard)
    if busy is not None:
        raise ShardBusyError(
            f"shard {shard} is in operation {busy.operation} ({busy.kind}, {busy.step}); one at a "
            "time: wait for it"
        )


def report_formed(view: MetaView, command: ReportFormed, _: int) -> Answered:
    shards = dict(view.shards)
    for shard in command.shards:
        record = shards.get(shard)
        if record is None or record.state is not ShardState.FORMING:
            continue
        if command.node in record.formed or command.node not in dict(record.founders):
            continue
        formed = tuple(sorted((*record.formed, command.node)))
        record = with_fields(record, formed=formed)
        if set(record.replicas) <= set(formed):
            record = with_fields(record, state=ShardState.ACTIVE)
        shards[shard] = record
    if shards == view.shards:
        return view, Changed(view.version)
    after = next_view(view, shards=shards)
    return after, Changed(after.version)


def report_erased(view: MetaView, command: ReportErased, _: int) -> Answered:
    shards = dict(view.shards)
    for shard in command.shards:
        record = shards.get(shard)
        if record is not None and record.state is ShardState.RETIRED:
            left = tuple(node for node in record.replicas if node != command.node)
            shards[shard] = with_fields(record, replicas=left)
    if shards == view.shards:
        return view, Changed(view.version)
    after = next_view(view, shards=shards)
    return without_dropped(after), Changed(after.version)


def without_dropped(view: MetaView) -> MetaView:
    """Keyspaces that are being dropped go once no replica of theirs is left."""
    done = [
        each.keyspace
        for each in view.keyspaces.values()
        if each.state is KeyspaceState.DROPPING
        and not any(shard.replicas for shard in view.shards_of(each.keyspace))
    ]
    if not done:
        return view
    shards = [each.shard for each in view.shards.values() if each.keyspace in done]
    return replace(
        view, keyspaces=minus(view.keyspaces, done), shards=minus(view.shards, shards), _tables={}
    )


def set_replicas(view: MetaView, command: SetReplicas, _: int) -> Answered:
    record = shard_of(view, command.shard)
    check_epoch(record, command.epoch)
    for node in command.replicas:
        node_of(view, node)
    if record.replicas == command.replicas:
        return view, Changed(view.version)
    record = with_fields(record, replicas=command.replicas, epoch=record.epoch + 1)
    after = next_view(view, shards=plus(view.shards, record.shard, record))
    return after, Changed(after.version)


def check_count(count: int) -> None:
    if not 0 <= count <= IDS_MAX:
        raise InvalidShardsError(f"{count} ids at once are over the limit of {IDS_MAX}")


def taken(counters: Counters, shards: int, segments: int) -> Counters:
    return with_fields(counters, shard=counters.shard + shards, segment=counters.segment + segments)
