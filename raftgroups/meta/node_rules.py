"""The rules of the nodes: who is known, in which state, and may be forgotten. Pure."""

from __future__ import annotations

from msgspec.structs import replace as with_fields

from raftgroups.meta.changing import Answered, minus, next_view, plus
from raftgroups.meta.commands import (
    Changed,
    PutNode,
    RemoveNode,
    SetNodeState,
)
from raftgroups.meta.records import (
    NodeRecord,
    NodeState,
)
from raftgroups.meta.refusals import (
    NodeInUseError,
    UnknownNodeError,
)
from raftgroups.meta.view import MetaView


def node_of(view: MetaView, node: str) -> NodeRecord:
    found = view.nodes.get(node)
    if found is None:
        raise UnknownNodeError(f"no node of this cluster has the id {node}; list the nodes")
    return found


def put_node(view: MetaView, command: PutNode, wall_ms: int) -> Answered:
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
    after = next_view(view, nodes=plus(view.nodes, record.node, record))
    return after, Changed(view.version if known == record else after.version)


def set_node_state(view: MetaView, command: SetNodeState, wall_ms: int) -> Answered:
    known = node_of(view, command.node)
    if known.state is command.state:
        return view, Changed(view.version)
    if known.state is NodeState.DEAD:
        raise NodeInUseError(
            f"node {command.node} was declared dead; it comes back only as a new, empty node"
        )
    record = with_fields(known, state=command.state, state_since_ms=wall_ms)
    after = next_view(view, nodes=plus(view.nodes, record.node, record))
    return after, Changed(after.version)


def remove_node(view: MetaView, command: RemoveNode, _: int) -> Answered:
    node_of(view, command.node)
    held = [each.shard for each in view.shards_on(command.node)]
    if held:
        raise NodeInUseError(
            f"node {command.node} has replicas of {len(held)} shards (the first is {held[0]}); "
            "drain it first"
        )
    after = next_view(view, nodes=minus(view.nodes, [command.node]))
    return after, Changed(after.version)
