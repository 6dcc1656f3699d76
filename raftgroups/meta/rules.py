"""Every rule of the meta group: (view, command) -> (view, answer), or a refusal. Pure.

`execute` changes nothing that it was given. A view that comes back equal but for its version is not
a new one: a command that changes nothing makes no version, so asking again is cheap.

    ranges    a replacement of shards covers exactly what it replaces
    epochs    whoever changes a shard names the epoch that it saw; the machine raises it
    ids       come from the counters here, each once
    steps     an operation moves from the step that its planner named, else it is refused
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, TypeVar

from msgspec.structs import replace as with_fields

from raftgroups.meta.commands import (
    AllocateIds,
    AlterKeyspace,
    BeginOperation,
    Bootstrap,
    BootstrapLeaderless,
    Changed,
    CreateKeyspace,
    CreateLeaderless,
    DropKeyspace,
    EndOperation,
    Ids,
    KeyspaceMade,
    MetaAnswerBody,
    MetaCommand,
    NewShard,
    OperationMade,
    PutNode,
    RemoveNode,
    ReportErased,
    ReportFormed,
    SetNodeState,
    SetReplicas,
    StepOperation,
)
from raftgroups.meta.records import (
    DEFAULT_KEYSPACE_ID,
    MERGE_RULES,
    META_SHARD,
    KeyspaceOptions,
    KeyspaceRecord,
    KeyspaceState,
    NodeRecord,
    NodeState,
    OperationRecord,
    Regime,
    RingRecord,
    RingSeat,
    ShardRecord,
    ShardState,
)
from raftgroups.meta.refusals import (
    InvalidKeyspaceError,
    InvalidShardsError,
    KeyspaceExistsError,
    KeyspaceNotFoundError,
    NodeInUseError,
    OperationNotFoundError,
    ShardBusyError,
    StaleEpochError,
    StaleStepError,
    UnknownNodeError,
    UnknownShardError,
)
from raftgroups.meta.view import SHARDS_MAX, Bounds, Counters, MetaView, meta_shard

T = TypeVar("T")

DEFAULT_NAME: Final = "default"
NAME_PATTERN: Final = r"^[a-z0-9][a-z0-9_.-]{0,62}$"
KEYSPACES_MAX: Final = 1024
REPLICATION_MAX: Final = 15
SIBLINGS_MAX: Final = 1000
IDS_MAX: Final = 4096
_NAME: Final = re.compile(NAME_PATTERN)

Answered = tuple[MetaView, MetaAnswerBody]


def execute(view: MetaView, command: MetaCommand, wall_ms: int) -> Answered:
    """Raises MetaRefusedError."""
    after, answer = _HANDLERS[type(command)](view, command, wall_ms)
    if after is view or replace(after, version=view.version) == view:
        return view, answer
    return after, answer


def _next(view: MetaView, **changes: Any) -> MetaView:
    return replace(view, version=view.version + 1, _tables={}, **changes)


def _plus(records: Mapping[T, Any], key: T, record: Any) -> dict[T, Any]:
    return {**records, key: record}


def _minus(records: Mapping[T, Any], keys: Iterable[T]) -> dict[T, Any]:
    gone = set(keys)
    return {key: record for key, record in records.items() if key not in gone}


# --- the beginning ---------------------------------------------------------------------------


def _bootstrap(view: MetaView, command: Bootstrap, wall_ms: int) -> Answered:
    if view.version:
        return view, Changed(view.version)
    nodes = {record.node: record for record in command.nodes}
    begun = replace(view, nodes=nodes, next=Counters())
    _check_options(command.options)
    shards, counters = _new_shards(begun, DEFAULT_KEYSPACE_ID, command.shards, begun.next)
    if command.formed:
        shards = [with_fields(each, founders=(), state=ShardState.ACTIVE) for each in shards]
    made = KeyspaceRecord(
        DEFAULT_KEYSPACE_ID, DEFAULT_NAME, Regime.STRONG, command.options, created_ms=wall_ms
    )
    after = _next(
        begun,
        keyspaces={DEFAULT_KEYSPACE_ID: made},
        shards={
            META_SHARD: meta_shard(command.meta_replicas),
            **{each.shard: each for each in shards},
        },
        next=with_fields(counters, keyspace=DEFAULT_KEYSPACE_ID + 1),
    )
    return after, Changed(after.version)


def _bootstrap_leaderless(view: MetaView, command: BootstrapLeaderless, wall_ms: int) -> Answered:
    if view.version:
        return view, Changed(view.version)
    begun = replace(view, nodes={record.node: record for record in command.nodes}, next=Counters())
    _check_options(command.options)
    _check_ring_options(command.options)
    _check_ring(begun, command.ring)
    made = KeyspaceRecord(
        DEFAULT_KEYSPACE_ID,
        DEFAULT_NAME,
        Regime.LEADERLESS,
        command.options,
        created_ms=wall_ms,
        ring=command.ring,
    )
    after = _next(
        begun,
        keyspaces={DEFAULT_KEYSPACE_ID: made},
        shards={META_SHARD: meta_shard(command.meta_replicas)},
        next=with_fields(begun.next, keyspace=DEFAULT_KEYSPACE_ID + 1),
        ring=RingRecord(command.ring),
    )
    return after, Changed(after.version)


def _check_ring(view: MetaView, ring: Sequence[RingSeat]) -> None:
    if not ring:
        raise InvalidKeyspaceError("a leaderless keyspace has no node to be on; add nodes first")
    for seat in ring:
        if _node(view, seat.node).state is NodeState.DEAD:
            raise UnknownNodeError(f"node {seat.node} is dead; look at the ring again")


def _new_shards(
    view: MetaView, keyspace: int, wanted: Sequence[NewShard], counters: Counters
) -> tuple[list[ShardRecord], Counters]:
    if not 0 < len(wanted) <= SHARDS_MAX:
        raise InvalidShardsError(
            f"a keyspace begins with 1 to {SHARDS_MAX} shards, not {len(wanted)}"
        )
    if _joined([(each.start, each.end) for each in wanted]) != [(b"", None)]:
        raise InvalidShardsError("the ranges of the new shards do not cover all keys, each once")
    made = []
    for place, each in enumerate(wanted):
        if not each.founders:
            raise InvalidShardsError("a new shard has no node to be on; add nodes first")
        for node, incarnation in each.founders:
            record = _node(view, node)
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


def _joined(ranges: Iterable[Bounds]) -> list[Bounds] | None:
    """Neighbours made one, in order; None if two overlap or one is empty."""
    joined: list[Bounds] = []
    for start, end in sorted(ranges, key=lambda each: each[0]):
        if end is not None and end <= start:
            return None
        if joined and joined[-1][1] == start:
            joined[-1] = (joined[-1][0], end)
        elif joined and (joined[-1][1] is None or joined[-1][1] > start):
            return None
        else:
            joined.append((start, end))
    return joined


# --- nodes -----------------------------------------------------------------------------------


def _node(view: MetaView, node: str) -> NodeRecord:
    found = view.nodes.get(node)
    if found is None:
        raise UnknownNodeError(f"no node of this cluster has the id {node}; list the nodes")
    return found


def _put_node(view: MetaView, command: PutNode, wall_ms: int) -> Answered:
    record = command.record
    known = view.nodes.get(record.node)
    if known is not None:
        if known.incarnation != record.incarnation:
            raise NodeInUseError(
                f"node {record.node} is known with another data directory; remove it first, then "
                "let it join as new"
            )
        record = with_fields(record, state=known.state, state_since_ms=known.state_since_ms)
    else:
        record = with_fields(record, state_since_ms=wall_ms)
    after = _next(view, nodes=_plus(view.nodes, record.node, record))
    return after, Changed(view.version if known == record else after.version)


def _set_node_state(view: MetaView, command: SetNodeState, wall_ms: int) -> Answered:
    known = _node(view, command.node)
    if known.state is command.state:
        return view, Changed(view.version)
    if known.state is NodeState.DEAD:
        raise NodeInUseError(
            f"node {command.node} was declared dead; it comes back only as a new, empty node"
        )
    record = with_fields(known, state=command.state, state_since_ms=wall_ms)
    after = _next(view, nodes=_plus(view.nodes, record.node, record))
    return after, Changed(after.version)


def _remove_node(view: MetaView, command: RemoveNode, _: int) -> Answered:
    _node(view, command.node)
    held = [each.shard for each in view.shards_on(command.node)]
    if held:
        raise NodeInUseError(
            f"node {command.node} has replicas of {len(held)} shards (the first is {held[0]}); "
            "drain it first"
        )
    after = _next(view, nodes=_minus(view.nodes, [command.node]))
    return after, Changed(after.version)


# --- keyspaces -------------------------------------------------------------------------------


def _keyspace(view: MetaView, name: str) -> KeyspaceRecord:
    found = view.keyspace_named(name)
    if found is None:
        raise KeyspaceNotFoundError(f"there is no keyspace {name!r}; list or create it")
    return found


def _check_options(options: KeyspaceOptions) -> None:
    quotas = options.quotas
    for name, value, least, most in (
        ("replication", options.replication, 1, REPLICATION_MAX),
        ("read_quorum", options.read_quorum, 1, REPLICATION_MAX),
        ("write_quorum", options.write_quorum, 1, REPLICATION_MAX),
        ("shards_max", options.shards_max, 0, 2**31),
        ("split_bytes", options.split_bytes, 0, 2**62),
        ("split_operations_a_second", options.split_operations_a_second, 0, 2**31),
        ("merge_bytes", options.merge_bytes, 0, 2**62),
        ("quotas.bytes", quotas.bytes, 0, 2**62),
        ("quotas.keys", quotas.keys, 0, 2**62),
        ("quotas.operations_a_second", quotas.operations_a_second, 0, 2**31),
        ("quotas.watchers", quotas.watchers, 0, 2**31),
    ):
        if not least <= value <= most:
            raise InvalidKeyspaceError(f"{name} is {value}; give {least} to {most}")
    if quotas.bytes:
        raise InvalidKeyspaceError(
            f"quotas.bytes is {quotas.bytes}: this version does not count the bytes of a keyspace "
            "exactly enough to refuse writes by them; give 0, or a quota of keys"
        )
    if options.rule not in MERGE_RULES:
        raise InvalidKeyspaceError(
            f"rule is {options.rule[:64]!r}; give one of {', '.join(MERGE_RULES)}"
        )
    if not 1 <= options.siblings <= SIBLINGS_MAX:
        raise InvalidKeyspaceError(f"siblings is {options.siblings}; give 1 to {SIBLINGS_MAX}")
    if options.split_bytes and options.split_bytes < 2 * options.merge_bytes:
        raise InvalidKeyspaceError(
            f"merge_bytes is {options.merge_bytes} and split_bytes {options.split_bytes}: what was "
            "merged would be split again; merge_bytes is at most half of split_bytes"
        )


def _check_ring_options(options: KeyspaceOptions) -> None:
    """Of a leaderless keyspace."""
    for name, value in (("R", options.read_quorum), ("W", options.write_quorum)):
        if value > options.replication:
            raise InvalidKeyspaceError(
                f"{name} is {value} and there are {options.replication} copies (N); {name} is at "
                "most N"
            )
    quotas = options.quotas
    if options.shards_max or quotas.keys or quotas.operations_a_second or quotas.watchers:
        raise InvalidKeyspaceError(
            "shards_max and quotas are of strong keyspaces: nobody counts what a leaderless one "
            "holds or takes in all; leave them away"
        )


def _check_new_name(view: MetaView, name: str) -> None:
    if not _NAME.match(name):
        raise InvalidKeyspaceError(
            f"{name[:64]!r} is no name for a keyspace: 1 to 63 of a-z, 0-9, _ . and -, "
            "the first a letter or digit"
        )
    if view.keyspace_named(name) is not None:
        raise KeyspaceExistsError(f"a keyspace {name!r} exists already; alter or drop it")
    if len(view.keyspaces) >= KEYSPACES_MAX:
        raise InvalidKeyspaceError(f"there are {KEYSPACES_MAX} keyspaces already; drop one")


def _create_leaderless(view: MetaView, command: CreateLeaderless, wall_ms: int) -> Answered:
    _check_new_name(view, command.name)
    _check_options(command.options)
    _check_ring_options(command.options)
    _check_ring(view, command.ring)
    number = view.next.keyspace
    made = KeyspaceRecord(
        number,
        command.name,
        Regime.LEADERLESS,
        command.options,
        created_ms=wall_ms,
        ring=command.ring,
    )
    after = _next(
        view,
        keyspaces=_plus(view.keyspaces, number, made),
        next=with_fields(view.next, keyspace=number + 1),
        ring=view.ring or RingRecord(command.ring),
    )
    return after, KeyspaceMade(after.version, made)


def _create_keyspace(view: MetaView, command: CreateKeyspace, wall_ms: int) -> Answered:
    _check_new_name(view, command.name)
    _check_options(command.options)
    number, counters = view.next.keyspace, view.next
    shards: list[ShardRecord] = []
    if command.regime is Regime.STRONG:
        shards, counters = _new_shards(view, number, command.shards, counters)
    elif command.shards:
        raise InvalidKeyspaceError("a leaderless keyspace has no shards; its keys are on the ring")
    made = KeyspaceRecord(number, command.name, command.regime, command.options, created_ms=wall_ms)
    after = _next(
        view,
        keyspaces=_plus(view.keyspaces, number, made),
        shards={**view.shards, **{each.shard: each for each in shards}},
        next=with_fields(counters, keyspace=number + 1),
    )
    return after, KeyspaceMade(after.version, made)


def _alter_keyspace(view: MetaView, command: AlterKeyspace, _: int) -> Answered:
    known = _keyspace(view, command.name)
    if known.options != command.expected:
        raise StaleEpochError(
            f"the keyspace {command.name!r} was altered meanwhile; look again and decide anew"
        )
    _check_options(command.options)
    if known.regime is Regime.LEADERLESS:
        _check_ring_options(command.options)
        _check_stays(known.options, command.options)
    record = with_fields(known, options=command.options)
    after = _next(view, keyspaces=_plus(view.keyspaces, record.keyspace, record))
    return after, KeyspaceMade(after.version, record)


def _check_stays(old: KeyspaceOptions, new: KeyspaceOptions) -> None:
    """What cannot change while a leaderless keyspace holds data."""
    if new.replication != old.replication:
        raise InvalidKeyspaceError(
            f"the keyspace keeps {old.replication} copies (N) of each key, and that is chosen when "
            "it is made; make another keyspace and copy the keys"
        )
    if new.rule != old.rule and {new.rule, old.rule} != {"siblings", "lww"}:
        raise InvalidKeyspaceError(
            f"the keyspace merges by {old.rule!r}: what it holds means something else by "
            f"{new.rule!r}; only siblings and lww can take each other's place"
        )


def _drop_keyspace(view: MetaView, command: DropKeyspace, _: int) -> Answered:
    known = _keyspace(view, command.name)
    if known.keyspace == DEFAULT_KEYSPACE_ID:
        raise InvalidKeyspaceError("the keyspace 'default' cannot be dropped; delete its keys")
    if known.state is KeyspaceState.DROPPING:
        return view, Changed(view.version)
    shards = view.shards_of(known.keyspace)
    for each in shards:
        _check_idle(view, each.shard)
    record = with_fields(known, state=KeyspaceState.DROPPING)
    retired = {
        each.shard: with_fields(each, state=ShardState.RETIRED, epoch=each.epoch + 1)
        for each in shards
    }
    after = _next(
        view,
        keyspaces=_plus(view.keyspaces, record.keyspace, record),
        shards={**view.shards, **retired},
    )
    return _without_dropped(after), Changed(after.version)


def _without_dropped(view: MetaView) -> MetaView:
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
        view, keyspaces=_minus(view.keyspaces, done), shards=_minus(view.shards, shards), _tables={}
    )


# --- shards ----------------------------------------------------------------------------------


def _shard(view: MetaView, shard: int) -> ShardRecord:
    found = view.shards.get(shard)
    if found is None:
        raise UnknownShardError(f"there is no shard {shard}; list the shards")
    return found


def _check_epoch(record: ShardRecord, epoch: int) -> None:
    if record.epoch != epoch:
        raise StaleEpochError(
            f"shard {record.shard} is at epoch {record.epoch}, not {epoch}: it changed meanwhile; "
            "look again and decide anew"
        )


def _check_idle(view: MetaView, shard: int) -> None:
    busy = view.operation_of(shard)
    if busy is not None:
        raise ShardBusyError(
            f"shard {shard} is in operation {busy.operation} ({busy.kind}, {busy.step}); one at a "
            "time: wait for it"
        )


def _report_formed(view: MetaView, command: ReportFormed, _: int) -> Answered:
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
    after = _next(view, shards=shards)
    return after, Changed(after.version)


def _report_erased(view: MetaView, command: ReportErased, _: int) -> Answered:
    shards = dict(view.shards)
    for shard in command.shards:
        record = shards.get(shard)
        if record is not None and record.state is ShardState.RETIRED:
            left = tuple(node for node in record.replicas if node != command.node)
            shards[shard] = with_fields(record, replicas=left)
    if shards == view.shards:
        return view, Changed(view.version)
    after = _next(view, shards=shards)
    return _without_dropped(after), Changed(after.version)


def _set_replicas(view: MetaView, command: SetReplicas, _: int) -> Answered:
    record = _shard(view, command.shard)
    _check_epoch(record, command.epoch)
    for node in command.replicas:
        _node(view, node)
    if record.replicas == command.replicas:
        return view, Changed(view.version)
    record = with_fields(record, replicas=command.replicas, epoch=record.epoch + 1)
    after = _next(view, shards=_plus(view.shards, record.shard, record))
    return after, Changed(after.version)


def _allocate(view: MetaView, command: AllocateIds, _: int) -> Answered:
    _check_count(command.shards)
    _check_count(command.segments)
    first = Ids(view.next.shard, view.next.segment)
    return _next(view, next=_taken(view.next, command.shards, command.segments)), first


def _check_count(count: int) -> None:
    if not 0 <= count <= IDS_MAX:
        raise InvalidShardsError(f"{count} ids at once are over the limit of {IDS_MAX}")


def _taken(counters: Counters, shards: int, segments: int) -> Counters:
    return with_fields(counters, shard=counters.shard + shards, segment=counters.segment + segments)


# --- operations ------------------------------------------------------------------------------


def _begin_operation(view: MetaView, command: BeginOperation, wall_ms: int) -> Answered:
    wanted = command.operation
    _check_count(command.new_shards)
    _check_count(command.new_segments)
    if len(command.epochs) != len(wanted.shards):
        raise InvalidShardsError("an operation names an epoch for each of its shards")
    for shard, epoch in zip(wanted.shards, command.epochs, strict=True):
        record = _shard(view, shard)
        _check_epoch(record, epoch)
        _check_idle(view, shard)
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
    counters = _taken(counters, command.new_shards, command.new_segments)
    after = _next(
        view,
        operations=_plus(view.operations, made.operation, made),
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


def _step_operation(view: MetaView, command: StepOperation, wall_ms: int) -> Answered:
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
    after = _next(
        view,
        operations=_plus(view.operations, record.operation, record),
        shards=_replaced(view, known, command.replaced, command.shards),
    )
    return after, OperationMade(after.version, record)


def _end_operation(view: MetaView, command: EndOperation, _: int) -> Answered:
    known = _operation(view, command.operation, command.from_step)
    after = _next(
        view,
        operations=_minus(view.operations, [known.operation]),
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
        record = _shard(view, shard)
        _check_epoch(record, epoch)
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
        before = _joined((e.start, e.end) for e in old if e.keyspace == keyspace)
        now = _joined((e.start, e.end) for e in shards if e.keyspace == keyspace)
        if before is None or before != now:
            raise InvalidShardsError("the new shards do not cover exactly what they replace")
    for each in shards:
        for node in each.replicas:
            _node(view, node)
    epoch = max(each.epoch for each in old) + 1
    return {
        **_minus(view.shards, [each.shard for each in old]),
        **{each.shard: with_fields(each, epoch=epoch) for each in shards},
    }


_HANDLERS: Final[dict[type, Callable[[MetaView, Any, int], Answered]]] = {
    Bootstrap: _bootstrap,
    PutNode: _put_node,
    SetNodeState: _set_node_state,
    RemoveNode: _remove_node,
    CreateKeyspace: _create_keyspace,
    AlterKeyspace: _alter_keyspace,
    DropKeyspace: _drop_keyspace,
    ReportFormed: _report_formed,
    ReportErased: _report_erased,
    AllocateIds: _allocate,
    BeginOperation: _begin_operation,
    StepOperation: _step_operation,
    EndOperation: _end_operation,
    SetReplicas: _set_replicas,
    BootstrapLeaderless: _bootstrap_leaderless,
    CreateLeaderless: _create_leaderless,
}
