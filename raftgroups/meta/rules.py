"""Every rule of the meta group: (view, command) -> (view, answer), or a refusal. Pure.

`execute` changes nothing that it was given. A view that comes back equal but for its version is not
a new one: a command that changes nothing makes no version, so asking again is cheap.

    ranges    a replacement of shards covers exactly what it replaces
    epochs    whoever changes a shard names the epoch that it saw; the machine raises it
    ids       come from the counters here, each once
    steps     an operation moves from the step that its planner named, else it is refused
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from msgspec.structs import replace as with_fields

from raftgroups.meta.changing import Answered, next_view
from raftgroups.meta.commands import (
    AlterKeyspace,
    BeginOperation,
    Bootstrap,
    BootstrapLeaderless,
    Changed,
    CreateKeyspace,
    CreateLeaderless,
    DropKeyspace,
    EndOperation,
    MetaCommand,
    PutNode,
    RemoveNode,
    ReportErased,
    ReportFormed,
    SetNodeState,
    SetReplicas,
    StepOperation,
)
from raftgroups.meta.keyspace_rules import (
    DEFAULT_NAME,
    alter_keyspace,
    check_options,
    check_ring,
    check_ring_options,
    create_keyspace,
    create_leaderless,
    drop_keyspace,
)
from raftgroups.meta.node_rules import put_node, remove_node, set_node_state
from raftgroups.meta.operation_rules import begin_operation, end_operation, step_operation
from raftgroups.meta.records import (
    DEFAULT_KEYSPACE_ID,
    META_SHARD,
    KeyspaceRecord,
    Regime,
    RingRecord,
    ShardState,
)
from raftgroups.meta.shard_rules import (
    new_shards,
    report_erased,
    report_formed,
    set_replicas,
)
from raftgroups.meta.view import Counters, MetaView, meta_shard


def execute(view: MetaView, command: MetaCommand, wall_ms: int) -> Answered:
    """Raises MetaRefusedError."""
    after, answer = _HANDLERS[type(command)](view, command, wall_ms)
    if after is view or replace(after, version=view.version) == view:
        return view, answer
    return after, answer


def _bootstrap(view: MetaView, command: Bootstrap, wall_ms: int) -> Answered:
    if view.version:
        return view, Changed(view.version)
    nodes = {record.node: record for record in command.nodes}
    begun = replace(view, nodes=nodes, next=Counters())
    check_options(command.options)
    shards, counters = new_shards(begun, DEFAULT_KEYSPACE_ID, command.shards, begun.next)
    if command.formed:
        shards = [with_fields(each, founders=(), state=ShardState.ACTIVE) for each in shards]
    made = KeyspaceRecord(
        DEFAULT_KEYSPACE_ID, DEFAULT_NAME, Regime.STRONG, command.options, created_ms=wall_ms
    )
    after = next_view(
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
    check_options(command.options)
    check_ring_options(command.options)
    check_ring(begun, command.ring)
    made = KeyspaceRecord(
        DEFAULT_KEYSPACE_ID,
        DEFAULT_NAME,
        Regime.LEADERLESS,
        command.options,
        created_ms=wall_ms,
        ring=command.ring,
    )
    after = next_view(
        begun,
        keyspaces={DEFAULT_KEYSPACE_ID: made},
        shards={META_SHARD: meta_shard(command.meta_replicas)},
        next=with_fields(begun.next, keyspace=DEFAULT_KEYSPACE_ID + 1),
        ring=RingRecord(command.ring),
    )
    return after, Changed(after.version)


_HANDLERS: Final[dict[type, Callable[[MetaView, Any, int], Answered]]] = {
    Bootstrap: _bootstrap,
    PutNode: put_node,
    SetNodeState: set_node_state,
    RemoveNode: remove_node,
    CreateKeyspace: create_keyspace,
    AlterKeyspace: alter_keyspace,
    DropKeyspace: drop_keyspace,
    ReportFormed: report_formed,
    ReportErased: report_erased,
    BeginOperation: begin_operation,
    StepOperation: step_operation,
    EndOperation: end_operation,
    SetReplicas: set_replicas,
    BootstrapLeaderless: _bootstrap_leaderless,
    CreateLeaderless: create_leaderless,
}
