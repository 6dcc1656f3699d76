"""From the map and nodes' reports to what the planner takes, and what the map must be told. Pure.

Who says what is so:

    the map        which nodes and shards there are, how many copies, what operators asked for
    a leader       its group's configuration, and who has caught up
    a node         that it is there, its disk, which replicas it has

The map's list of a shard's replicas is only a copy of the group's configuration, for routing: once
that is committed and settled, the copy is corrected (`corrections`).

A node is declared dead for its silence only where this heals something: more than half of the nodes
that are not dead answer, as many active ones answer as the shards have copies, no node that was
declared dead before still has replicas to be replaced, and each shard of the silent one has a
majority of voters that answer. So the loss of a switch, or of a third of a three-node cluster,
moves nothing; and whoever alone could give a shard its majority back is waited for, since a node
that was declared dead does not come back with what it has.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from kv.division.words import GATHER
from kv.placement.messages import ReplicaReport, ReplicaRole, Report
from kv.placement.plan import (
    META_GROUP,
    GroupView,
    NodeView,
    Standing,
    copies_of_meta,
)
from raftgroups.meta.commands import EndOperation, MetaCommand, SetNodeState, SetReplicas
from raftgroups.meta.records import NodeState, OperationRecord, ShardRecord, ShardState
from raftgroups.meta.view import MetaView
from raftgroups.transport import NodeId

MOVE: Final = "move"
"""The kind of operation by which an operator asks for a move; its one step is `MOVING`."""
MOVING: Final = "moving"
FRESH_S: Final = 3.0
"""A node whose last report answers an older question is not there."""
_STANDINGS: Final = {
    NodeState.ACTIVE: Standing.ACTIVE,
    NodeState.DRAINING: Standing.DRAINING,
    NodeState.DEAD: Standing.DEAD,
}
"""A node that is joining has no replicas and gets none: it does not stand anywhere yet."""


@dataclass(slots=True)
class Heard:
    """What one node said last, and when."""

    at_s: float
    report: Report | None = None


@dataclass(frozen=True, slots=True)
class Observation:
    """`nodes` and `groups` are the planner's; `leaders` are the reports that groups are told by."""

    nodes: list[NodeView] = field(default_factory=list)
    groups: list[GroupView] = field(default_factory=list)
    leaders: dict[int, ReplicaReport] = field(default_factory=dict)


def observe(view: MetaView, reports: Mapping[NodeId, Report]) -> Observation:
    """`reports`: of the nodes that answered lately."""
    nodes = [
        NodeView(
            NodeId(each.node),
            _STANDINGS[each.state],
            reachable=each.node in reports,
            full=each.node in reports and reports[NodeId(each.node)].full,
            rack=each.rack,
            datacentre=each.datacentre,
            weight=each.weight,
        )
        for each in view.nodes.values()
        if each.state in _STANDINGS
    ]
    active = sum(node.standing is Standing.ACTIVE for node in nodes)
    leaders = _leaders(reports)
    groups = [
        _group(view, shard, active, leaders, reports)
        for shard in view.shards.values()
        if shard.state is not ShardState.RETIRED
    ]
    told = {group: report for group, (_, report) in leaders.items()}
    return Observation(nodes, groups, told)


def _leaders(reports: Mapping[NodeId, Report]) -> dict[int, tuple[NodeId, ReplicaReport]]:
    """Of two that say that they lead, the one of the higher term."""
    found: dict[int, tuple[NodeId, ReplicaReport]] = {}
    for node, report in sorted(reports.items()):
        for replica in report.replicas:
            if replica.role is not ReplicaRole.LEADER:
                continue
            known = found.get(replica.group)
            if known is None or known[1].term < replica.term:
                found[replica.group] = (node, replica)
    return found


def copies_of(view: MetaView, shard: ShardRecord, active: int) -> int:
    if shard.shard == META_GROUP:
        return copies_of_meta(active)
    keyspace = view.keyspaces.get(shard.keyspace)
    return len(shard.replicas) if keyspace is None else keyspace.options.replication


def _group(
    view: MetaView,
    shard: ShardRecord,
    active: int,
    leaders: Mapping[int, tuple[NodeId, ReplicaReport]],
    reports: Mapping[NodeId, Report],
) -> GroupView:
    copies = max(1, copies_of(view, shard, active))
    found = leaders.get(shard.shard)
    operation = view.operation_of(shard.shard)
    still = operation is not None and operation.step == GATHER
    fixed = operation is not None and operation.kind != MOVE and not still
    beside = _beside(operation, shard.shard, leaders)
    pinned = _pin(operation, beside, None if found is None else found[1])
    if found is None:
        known = tuple(NodeId(node) for node in shard.replicas)
        return GroupView(
            shard.shard, copies, known, settled=False, fixed=fixed, still=still, pinned=pinned
        )
    leader, told = found
    members = (*told.voters, *told.learners)
    lost = frozenset(
        NodeId(node)
        for node, incarnation in members
        if incarnation
        and (report := reports.get(NodeId(node))) is not None
        and report.incarnation != incarnation
    )
    return GroupView(
        shard.shard,
        copies,
        tuple(NodeId(node) for node, _ in told.voters),
        tuple(NodeId(node) for node, _ in told.learners),
        leader,
        settled=told.settled and shard.state is not ShardState.FORMING,
        caught_up=frozenset(NodeId(node) for node in told.caught_up),
        lost=lost,
        fixed=fixed,
        still=still,
        pinned=pinned,
        beside=beside,
    )


def _pin(
    operation: OperationRecord | None, beside: frozenset[NodeId], right: ReplicaReport | None
) -> tuple[NodeId, NodeId] | None:
    """What an operator asked for; or, of the right one of two that are to be merged, a replica that
    is not on a node of the left one's, and one of those that it has to go to, or has gone to."""
    if operation is None:
        return None
    if operation.kind == MOVE:
        return NodeId(operation.source), NodeId(operation.target)
    if not beside or right is None:
        return None
    here = {NodeId(node) for node, _ in right.voters}
    begun = {node for node, _ in right.learners}
    leaving = sorted(here - beside)
    if not leaving:
        return None
    missing = sorted(beside - here, key=lambda node: (node not in begun, node))
    # Once the last one has come, it is still the wish that lets the right one go.
    return leaving[0], (missing or sorted(beside))[0]


def _beside(
    operation: OperationRecord | None,
    shard: int,
    leaders: Mapping[int, tuple[NodeId, ReplicaReport]],
) -> frozenset[NodeId]:
    """Of the right one of two that are to be merged: where the left one's replicas are."""
    if operation is None or operation.step != GATHER or shard != operation.shards[-1]:
        return frozenset()
    there = leaders.get(operation.shards[0])
    return frozenset() if there is None else frozenset(NodeId(n) for n, _ in there[1].voters)


# --- what the map must be told ----------------------------------------------------------------


def corrections(
    view: MetaView,
    seen: Observation,
    heard: Mapping[NodeId, Heard],
    *,
    now_s: float,
    dead_after_s: float,
) -> list[MetaCommand]:
    """`heard` has every node of the map; one not heard yet, from when it became known here.
    `dead_after_s` 0: nobody is declared dead but by an operator."""
    found: list[MetaCommand] = [*_replica_lists(view, seen), *_ended_moves(view, seen)]
    there = {node for node, each in heard.items() if each.report and now_s - each.at_s < FRESH_S}
    found += [
        SetNodeState(node.node, NodeState.ACTIVE)
        for node in view.nodes.values()
        if node.state is NodeState.JOINING and node.node in there
    ]
    if dead_after_s and _may_declare(view, seen):
        silent = sorted(
            (each.at_s, node)
            for node, each in heard.items()
            if now_s - each.at_s >= dead_after_s
            and view.nodes[node].state is not NodeState.DEAD
            and _can_be_replaced(seen, node)
        )
        found += [SetNodeState(node, NodeState.DEAD) for _, node in silent[:1]]
    return found


def _replica_lists(view: MetaView, seen: Observation) -> Iterable[SetReplicas]:
    for group in seen.groups:
        shard = view.shards[group.group]
        voters = tuple(sorted(node for node in group.voters if node in view.nodes))
        if group.leader is not None and group.settled and voters != tuple(sorted(shard.replicas)):
            yield SetReplicas(shard.shard, shard.epoch, voters)


def _ended_moves(view: MetaView, seen: Observation) -> Iterable[EndOperation]:
    """Moves that are done, and those that cannot be done any more."""
    groups = {group.group: group for group in seen.groups}
    for operation in view.operations.values():
        if operation.kind != MOVE:
            continue
        group = groups.get(operation.shards[0])
        target = view.nodes.get(operation.target)
        impossible = group is None or target is None or target.state is not NodeState.ACTIVE
        if impossible or (
            group is not None and (_is_moved(group, operation) or _is_moot(group, operation))
        ):
            yield EndOperation(operation.operation, operation.step)


def _is_moved(group: GroupView, operation: OperationRecord) -> bool:
    return (
        group.leader is not None
        and group.settled
        and operation.target in group.voters
        and operation.source not in group.voters
    )


def _is_moot(group: GroupView, operation: OperationRecord) -> bool:
    """Both have a replica, and none is to spare: the target got its own for another reason (drain,
    loss, more copies), so that nothing would ever be done for this wish."""
    both = {operation.source, operation.target} <= set(group.voters)
    idle = group.leader is not None and group.settled and not group.learners
    return idle and both and len(group.voters) <= group.copies


def _can_be_replaced(seen: Observation, node: NodeId) -> bool:
    """In every shard that it has: a majority of the voters answers without it."""
    there = {each.node for each in seen.nodes if each.reachable} - {node}
    return all(
        2 * len(there.difference(group.lost).intersection(group.voters)) > len(group.voters)
        for group in seen.groups
        if node in group.voters
    )


def _may_declare(view: MetaView, seen: Observation) -> bool:
    living = [node for node in seen.nodes if node.standing is not Standing.DEAD]
    reachable = [node for node in living if node.reachable]
    active = sum(node.standing is Standing.ACTIVE for node in reachable)
    dead = {node.node for node in seen.nodes if node.standing is Standing.DEAD}
    unhealed = any(dead.intersection(group.voters) for group in seen.groups)
    copies = max((group.copies for group in seen.groups if group.group != META_GROUP), default=1)
    return 2 * len(reachable) > len(living) and active >= copies and not unhealed
