"""What is concluded from a map and reports, and what the map is told."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from kv.division.words import GATHER, MERGE
from kv.placement.messages import REPORT_VERSION, Filling, ReplicaReport, ReplicaRole, Report
from kv.placement.observed import MOVE, MOVING, Heard, corrections, observe
from kv.placement.plan import Kind, Limits, Standing, plan
from raftgroups.meta.commands import EndOperation, MetaCommand, SetNodeState, SetReplicas
from raftgroups.meta.records import (
    DEFAULT_KEYSPACE_ID,
    KeyspaceOptions,
    KeyspaceRecord,
    NodeRecord,
    NodeState,
    OperationRecord,
    ShardRecord,
    ShardState,
)
from raftgroups.meta.view import MetaView, meta_shard
from raftgroups.transport import NodeId

A, B, C, D, E, F = (NodeId(name) for name in "abcdef")


def _view(*states: tuple[NodeId, NodeState], **shard: Any) -> MetaView:
    nodes = {
        node: NodeRecord(node, 7, node.upper(), ("h", 1))
        for node in (A, B, C, *(node for node, _ in states))
    }
    for node, state in states:
        nodes[node] = replace(nodes[node], state=state)
    record = ShardRecord(1, DEFAULT_KEYSPACE_ID, b"", None, 1, replicas=(A, B, C))
    return MetaView(
        5,
        dict(nodes),
        {DEFAULT_KEYSPACE_ID: KeyspaceRecord(DEFAULT_KEYSPACE_ID, "default")},
        {0: meta_shard((A, B, C)), 1: replace(record, **shard)},
    )


def _leader(*voters: NodeId, group: int = 1, **more: Any) -> ReplicaReport:
    bound = tuple((node, 7) for node in voters)
    whole = ReplicaReport(
        group, ReplicaRole.LEADER, 3, bound, config_index=9, settled=True, caught_up=voters
    )
    return replace(whole, **more)


def _reports(
    *replicas: ReplicaReport, nodes: tuple[NodeId, ...] = (A, B, C)
) -> dict[NodeId, Report]:
    found = {node: Report(REPORT_VERSION, 1, 7, False, ()) for node in nodes}
    found[nodes[0]] = replace(found[nodes[0]], replicas=replicas)
    return found


def _corrections(
    view: MetaView,
    reports: dict[NodeId, Report],
    *,
    silent: dict[NodeId, float] | None = None,
    dead_after_s: float = 0.0,
) -> list[MetaCommand]:
    heard = {
        NodeId(node): Heard(
            100.0 - (silent or {}).get(NodeId(node), 0.0), reports.get(NodeId(node))
        )
        for node in view.nodes
    }
    seen = observe(view, reports)
    return corrections(view, seen, heard, now_s=100.0, dead_after_s=dead_after_s)


def test_a_leader_tells_its_group_and_nodes_tell_themselves() -> None:
    learners = ((D, 0),)
    filling = (Filling(D, 900, True, 10, 1000),)
    leader = _leader(A, B, C, learners=learners, filling=filling, caught_up=(A, B))
    seen = observe(_view((D, NodeState.DRAINING)), _reports(leader))
    group = next(each for each in seen.groups if each.group == 1)
    assert (group.voters, group.learners, group.leader) == ((A, B, C), (D,), A)
    assert group.caught_up == {A, B}
    assert group.settled
    assert group.copies == 3
    standing = {node.node: (node.standing, node.reachable) for node in seen.nodes}
    assert standing[D] == (Standing.DRAINING, False)
    assert standing[A] == (Standing.ACTIVE, True)


def test_of_two_leaders_the_one_of_the_higher_term_is_believed() -> None:
    reports = _reports(_leader(A, B, C, term=3))
    reports[B] = replace(reports[B], replicas=(_leader(B, C, term=4),))
    seen = observe(_view(), reports)
    group = next(each for each in seen.groups if each.group == 1)
    assert (group.leader, group.voters) == (B, (B, C))


def test_a_group_without_a_leader_is_where_the_map_says_and_is_left_alone() -> None:
    seen = observe(_view(), _reports())
    assert all(not g.settled and g.leader is None and g.voters == (A, B, C) for g in seen.groups)


def test_groups_that_are_forming_are_left_alone_and_retired_ones_are_not_seen() -> None:
    forming = observe(_view(state=ShardState.FORMING), _reports(_leader(A, B, C)))
    assert [g.settled for g in forming.groups if g.group == 1] == [False]
    retired = observe(_view(state=ShardState.RETIRED), _reports(_leader(A, B, C)))
    assert [g.group for g in retired.groups] == [0]


def test_a_replica_of_another_disk_is_lost_once_its_node_says_so() -> None:
    reports = _reports(_leader(A, B, C))
    reports[C] = replace(reports[C], incarnation=8)
    seen = observe(_view(), reports)
    assert next(g for g in seen.groups if g.group == 1).lost == {C}


def test_operations_pin_or_fix_a_shard() -> None:
    view = _view()
    move = OperationRecord(1, MOVE, MOVING, (1,), source=A, target=D)
    split = OperationRecord(1, "split", "begun", (1,))
    for operation, pinned, fixed in ((move, (A, D), False), (split, None, True)):
        view = _view()
        with_it = MetaView(5, view.nodes, view.keyspaces, view.shards, {1: operation})
        group = next(g for g in observe(with_it, _reports()).groups if g.group == 1)
        assert (group.pinned, group.fixed) == (pinned, fixed)


@pytest.mark.parametrize(
    ("right", "kind", "node"),
    [
        ((A, B, D), Kind.ADD, C),
        ((A, B, D, E), Kind.ADD, C),
        ((A, B, C, D, E), Kind.REMOVE, D),
        ((A, B, C, E), Kind.REMOVE, E),
        ((A, B, C), None, None),
    ],
)
def test_what_gathers_replicas_for_a_merge_ends(
    right: tuple[NodeId, ...], kind: Kind | None, node: NodeId | None
) -> None:
    """The right shard's last replica has come to where the left one's are: the old one goes, and
    not the one that has just come."""
    view = _view((D, NodeState.ACTIVE), (E, NodeState.ACTIVE))
    second = ShardRecord(2, DEFAULT_KEYSPACE_ID, b"m", None, 2, replicas=right)
    shards = {**view.shards, 1: replace(view.shards[1], end=b"m"), 2: second}
    merge = OperationRecord(1, MERGE, GATHER, (1, 2))
    reports = _reports(
        _leader(A, B, C), _leader(*right, group=2), _leader(A, B, C, group=0), nodes=(A, B, C, D, E)
    )
    seen = observe(MetaView(5, view.nodes, view.keyspaces, shards, {1: merge}), reports)
    steps = plan(seen.nodes, seen.groups, Limits(streams=8, streams_a_node=8)).steps
    found = [(step.kind, step.node) for step in steps if step.group == 2]
    assert found == ([] if kind is None else [(kind, node)])


def test_copies_are_the_keyspaces_and_three_or_five_of_the_meta_group() -> None:
    view = _view(*((NodeId(f"n{number}"), NodeState.ACTIVE) for number in range(3)))
    options = KeyspaceOptions(replication=4)
    keyspace = KeyspaceRecord(DEFAULT_KEYSPACE_ID, "default", options=options)
    view = MetaView(5, view.nodes, {DEFAULT_KEYSPACE_ID: keyspace}, view.shards)
    seen = observe(view, _reports())
    assert {g.group: g.copies for g in seen.groups} == {0: 5, 1: 4}


# --- what the map is told -----------------------------------------------------------------------


def test_the_maps_list_of_replicas_follows_the_settled_configuration() -> None:
    view, moved = _view((D, NodeState.ACTIVE)), _leader(A, B, D)
    assert _corrections(view, _reports(moved)) == [SetReplicas(1, 1, (A, B, D))]
    assert _corrections(view, _reports(replace(moved, settled=False))) == []
    assert _corrections(_view(), _reports(_leader(A, B, C))) == []


def test_a_joining_node_becomes_active_once_it_answers() -> None:
    view = _view((D, NodeState.JOINING))
    assert _corrections(view, _reports()) == []
    there = _reports(nodes=(A, B, C, D))
    assert _corrections(view, there) == [SetNodeState(D, NodeState.ACTIVE)]
    assert _corrections(view, there, silent={D: 10.0}) == []


def test_a_move_ends_when_it_is_done_and_when_it_cannot_be() -> None:
    move = OperationRecord(4, MOVE, MOVING, (1,), source=C, target=D)
    for states, voters, ends in (
        (NodeState.ACTIVE, (A, B, C), False),
        (NodeState.ACTIVE, (A, B, C, D), False),
        (NodeState.ACTIVE, (A, B, D), True),
        (NodeState.ACTIVE, (A, C, D), True),  # D came for another reason, and none is to spare
        (NodeState.ACTIVE, (A, C), False),
        (NodeState.DRAINING, (A, B, C), True),
    ):
        view = _view((D, states))
        view = MetaView(5, view.nodes, view.keyspaces, view.shards, {4: move})
        found = _corrections(view, _reports(_leader(*voters)))
        assert (EndOperation(4, MOVING) in found) is ends


def test_a_node_that_is_silent_for_too_long_is_declared_dead_where_that_heals() -> None:
    view = _view((D, NodeState.ACTIVE))
    there = _reports(_leader(A, B, C), nodes=(A, B, D))
    dead = [SetNodeState(C, NodeState.DEAD)]
    assert _corrections(view, there, silent={C: 31.0}, dead_after_s=30.0) == dead
    assert _corrections(view, there, silent={C: 29.0}, dead_after_s=30.0) == []
    assert _corrections(view, there, silent={C: 1e6}) == [], "only an operator declares"


def test_nobody_is_declared_dead_where_it_would_heal_nothing() -> None:
    silent = {C: 99.0, D: 99.0}
    three = _reports(_leader(A, B, C), nodes=(A, B))
    assert _corrections(_view(), three, silent=silent, dead_after_s=30.0) == [], "no spare node"
    view = _view((D, NodeState.ACTIVE))
    assert _corrections(view, three, silent=silent, dead_after_s=30.0) == [], "half is away"
    states = ((D, NodeState.ACTIVE), (NodeId("e"), NodeState.DEAD))
    unhealed = _view(*states)
    reports = _reports(_leader(A, B, NodeId("e")), nodes=(A, B, D))
    told = _corrections(unhealed, reports, silent={C: 99.0}, dead_after_s=30.0)
    assert SetNodeState(C, NodeState.DEAD) not in told, "one loss after the other"


def test_whoever_alone_can_give_a_shard_its_majority_back_is_waited_for() -> None:
    """Of A, B, C one is gone for good and one only cut off: whichever is declared dead, the shard
    has no majority without it, and whoever was declared dead does not come back."""
    view = _view((D, NodeState.ACTIVE), (E, NodeState.ACTIVE))
    reports = _reports(_leader(A, D, E, group=0), nodes=(A, D, E))
    for silent in ({B: 40.0, C: 31.0}, {B: 31.0, C: 40.0}):
        assert _dead(view, reports, silent) == []
    one_is_back = _reports(_leader(A, B, C), nodes=(A, C, D, E))
    assert _dead(view, one_is_back, {B: 40.0}) == [SetNodeState(B, NodeState.DEAD)]


def test_a_voter_that_lost_its_disk_is_none_of_a_majority() -> None:
    view = _view((D, NodeState.ACTIVE))
    reports = _reports(_leader(A, B, C), nodes=(A, B, D))
    reports[B] = replace(reports[B], incarnation=8)
    assert _dead(view, reports, {C: 40.0}) == []


def test_of_two_silent_ones_that_is_declared_dead_which_can_be_replaced() -> None:
    """The one that has been silent for longer is missed elsewhere."""
    view = _view((D, NodeState.ACTIVE), (E, NodeState.ACTIVE), (F, NodeState.ACTIVE))
    other = replace(view.shards[1], shard=2, replicas=(B, D, E))
    view = MetaView(5, view.nodes, view.keyspaces, {**view.shards, 2: other})
    groups = _leader(A, D, F, group=0), _leader(A, C, F), _leader(D, B, E, group=2)
    reports = _reports(*groups, nodes=(A, D, F, C))
    assert _dead(view, reports, {B: 50.0, E: 40.0}) == [], "of shard 2 only D answers"
    reports = _reports(*groups, nodes=(A, D, E, F))
    assert _dead(view, reports, {C: 40.0}) == [SetNodeState(C, NodeState.DEAD)]
    reports = _reports(*groups[:2], _leader(D, B, E, group=2), nodes=(A, D, F, NodeId("g")))
    more = {**view.nodes, "g": replace(view.nodes[A], node="g")}
    view = MetaView(5, more, view.keyspaces, view.shards)
    found = _dead(view, reports, {B: 50.0, E: 45.0, C: 40.0})
    assert found == [SetNodeState(C, NodeState.DEAD)]


def _dead(
    view: MetaView, reports: dict[NodeId, Report], silent: dict[NodeId, float]
) -> list[MetaCommand]:
    told = _corrections(view, reports, silent=silent, dead_after_s=30.0)
    return [each for each in told if isinstance(each, SetNodeState)]
