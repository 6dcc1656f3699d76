"""The planner: what it must do in each case, and what must hold whatever happens."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kv.placement.plan import (
    GroupView,
    Kind,
    Limits,
    NodeView,
    Standing,
    Why,
    copies_of_meta,
    plan,
)
from kv.placement.spread import Places, fair_parts
from raftgroups.transport import NodeId
from tests.unit.kv.placement.conftest import Model

A, B, C, D, E = (NodeId(name) for name in "abcde")
FAST = Limits(streams=8, streams_a_node=4, transfers=4)


def _nodes(*names: NodeId, **others: NodeView) -> list[NodeView]:
    return [others.get(name, NodeView(name)) for name in names]


def _group(number: int = 1, **changes: object) -> GroupView:
    whole = GroupView(number, 3, (A, B, C), leader=A, caught_up=frozenset((A, B, C, D, E)))
    return replace(whole, **changes)  # type: ignore[arg-type]


def _steps(nodes: list[NodeView], *groups: GroupView, **limits: int) -> list[tuple[str, str, str]]:
    found = plan(nodes, groups, Limits(**limits))  # type: ignore[arg-type]
    return [(step.kind.value, step.node, step.why.value) for step in found.steps]


def test_nothing_is_done_where_nothing_is_wrong() -> None:
    found = plan(_nodes(A, B, C), [_group()], Limits())
    assert found.finished
    assert not found.steps
    assert (found.short, found.stuck) == ((), ())


def test_a_dead_voter_is_replaced_by_a_learner_then_removed_then_the_learner_votes() -> None:
    nodes = _nodes(A, B, C, D, c=NodeView(C, Standing.DEAD, reachable=False))
    assert _steps(nodes, _group()) == [("add", D, "repair")]
    filling = _group(learners=(D,), caught_up=frozenset((A, B)))
    assert _steps(nodes, filling) == []
    filled = _group(learners=(D,), caught_up=frozenset((A, B, D)))
    assert _steps(nodes, filled) == [("remove", C, "repair")]
    removed = _group(voters=(A, B), learners=(D,))
    assert _steps(nodes, removed) == [("promote", D, "repair")]
    assert plan(nodes, [_group(voters=(A, B, D))], Limits()).finished


def test_a_dead_voter_that_nobody_can_replace_is_removed() -> None:
    nodes = _nodes(A, B, C, c=NodeView(C, Standing.DEAD, reachable=False))
    assert _steps(nodes, _group()) == [("remove", C, "repair")]
    found = plan(nodes, [_group(voters=(A, B))], Limits())
    assert found.finished


def test_a_drained_voter_goes_after_its_replacement_votes_and_hands_over_first() -> None:
    nodes = _nodes(A, B, C, D, a=NodeView(A, Standing.DRAINING))
    assert _steps(nodes, _group())[0] == ("add", D, "drain")
    assert _steps(nodes, _group(learners=(D,))) == [("promote", D, "drain")]
    four = _group(voters=(A, B, C, D))
    assert _steps(nodes, four) == [("transfer", B, "drain")]
    assert _steps(nodes, replace(four, leader=B)) == [("remove", A, "drain")]


def test_a_drain_without_another_node_waits_and_gives_leaderships_away() -> None:
    nodes = _nodes(A, B, C, a=NodeView(A, Standing.DRAINING))
    assert _steps(nodes, _group()) == [("transfer", B, "leaders")]
    assert _steps(nodes, _group(leader=B)) == []


def test_who_leads_the_meta_group_leads_its_part_of_the_others_too() -> None:
    meta, one, two = _group(0), _group(1), _group(2)
    nodes = _nodes(A, B, C)
    assert _steps(nodes, meta, one) == []
    assert _steps(nodes, meta, one, two) == [("transfer", B, "leaders")]
    assert _steps(nodes, meta, one, replace(two, leader=B)) == []
    drained = _nodes(A, B, C, a=NodeView(A, Standing.DRAINING))
    assert _steps(drained, meta) == [("transfer", B, "leaders")]


def test_a_node_that_is_away_is_not_replaced_before_it_is_declared_dead() -> None:
    nodes = _nodes(A, B, C, D, c=NodeView(C, reachable=False))
    found = plan(nodes, [_group()], Limits())
    assert found.steps == ()
    assert found.short == (1,)


def test_a_group_that_lost_its_majority_is_named_and_left_alone() -> None:
    dead = [NodeView(node, Standing.DEAD, reachable=False) for node in (B, C)]
    found = plan([NodeView(A), *dead, NodeView(D)], [_group(leader=None)], Limits())
    assert found.steps == ()
    assert found.stuck == (1,)


def test_a_replica_of_another_disk_is_replaced_on_the_same_node() -> None:
    nodes, lost = _nodes(A, B, C), frozenset((C,))
    assert _steps(nodes, _group(lost=lost)) == [("remove", C, "repair")]
    assert _steps(nodes, _group(voters=(A, B))) == [("add", C, "repair")]


def test_a_learner_whose_node_is_away_gives_way() -> None:
    nodes = _nodes(A, B, C, D, E, c=NodeView(C, Standing.DEAD), d=NodeView(D, reachable=False))
    assert _steps(nodes, _group(learners=(D,))) == [("remove", D, "tidy")]


def test_nothing_is_asked_of_a_group_that_is_not_settled_or_has_no_leader() -> None:
    nodes = _nodes(A, B, C, D, c=NodeView(C, Standing.DEAD))
    assert _steps(nodes, _group(settled=False)) == []
    assert _steps(nodes, _group(leader=None)) == []


def test_streams_are_limited_over_all_and_for_each_node() -> None:
    nodes = _nodes(A, B, C, D, E, c=NodeView(C, Standing.DEAD))
    groups = [_group(number, leader=(A, B)[number % 2]) for number in range(1, 9)]
    found = plan(nodes, groups, Limits(streams=2, streams_a_node=1))
    assert [step.kind for step in found.steps].count(Kind.ADD) == 2
    assert found.waiting == 6
    assert len({step.node for step in found.steps}) == 2
    assert len({step.leader for step in found.steps}) == 2
    one = plan(nodes, groups, Limits(streams=1))
    assert [step.kind for step in one.steps].count(Kind.ADD) == 1


def test_a_move_that_takes_the_last_stream_is_not_taken_back() -> None:
    nodes = _nodes(A, B)
    alone = GroupView(1, 1, (A,), leader=A, caught_up=frozenset((A,)))
    other = replace(alone, group=2)
    assert _steps(nodes, alone, other, streams=1) == [("add", B, "balance")]
    filling = replace(alone, learners=(B,))
    assert _steps(nodes, filling, other, streams=1) == []
    filled = replace(filling, caught_up=frozenset((A, B)))
    assert _steps(nodes, filled, other, streams=1) == [("promote", B, "balance")]


def test_moves_that_wait_for_one_another_are_not_taken_back() -> None:
    """Group 0 goes to an empty node and 3 to another rack, but a node leads both: 3 waits for 0."""
    nodes = [
        NodeView(A, datacentre="u", rack="z"),
        NodeView(B, datacentre="u", rack="y"),
        NodeView(C, datacentre="v", rack="z"),
        NodeView(D, datacentre="u", rack="y"),
    ]

    def group(number: int, one: NodeId, two: NodeId, leader: NodeId) -> GroupView:
        return GroupView(number, 2, (one, two), leader=leader, caught_up=frozenset((A, B, C, D)))

    others = [group(1, B, C, C), group(2, B, C, B), group(3, A, B, A)]
    first = group(0, A, C, A)
    assert _steps(nodes, first, *others) == [("add", D, "balance")]
    begun = replace(first, learners=(D,))
    assert _steps(nodes, begun, *others) == [("promote", D, "balance")]


def test_a_full_node_gets_nothing_and_keeps_what_it_has() -> None:
    nodes = _nodes(A, B, C, D, E, c=NodeView(C, Standing.DEAD), d=NodeView(D, full=True))
    assert _steps(nodes, _group()) == [("add", E, "repair")]
    full = _nodes(A, B, C, b=NodeView(B, full=True))
    assert plan(full, [_group()], Limits()).finished


def test_the_number_of_copies_follows_what_is_wanted() -> None:
    nodes = _nodes(A, B, C, D, E)
    added = [step for step in _steps(nodes, _group(copies=5)) if step[0] == "add"]
    assert len(added) == 1
    assert added[0][1] in (D, E)
    kinds = [step[0] for step in _steps(nodes, _group(copies=3, voters=(A, B, C, D, E)))]
    assert kinds == ["remove"]


def test_an_operation_keeps_its_shard_where_it_is() -> None:
    nodes = _nodes(A, B, C, D)
    groups = [_group(number, fixed=True) for number in range(1, 9)]
    assert not [s for s in plan(nodes, groups, Limits()).steps if s.kind is Kind.ADD]
    drained = _nodes(A, B, C, D, c=NodeView(C, Standing.DRAINING))
    assert not [s for s in plan(drained, groups, Limits()).steps if s.kind is Kind.ADD]
    dead = _nodes(A, B, C, D, c=NodeView(C, Standing.DEAD))
    assert [s.kind for s in plan(dead, groups[:1], Limits()).steps] == [Kind.ADD]


def test_an_operators_wish_is_done_and_no_more() -> None:
    nodes = _nodes(A, B, C, D)
    wish = _group(pinned=(C, D))
    assert _steps(nodes, wish) == [("add", D, "move")]
    assert _steps(nodes, replace(wish, learners=(D,))) == [("promote", D, "move")]
    assert _steps(nodes, replace(wish, voters=(A, B, C, D))) == [("remove", C, "tidy")]
    assert plan(nodes, [replace(wish, voters=(A, B, D))], Limits()).finished


def test_what_evens_out_around_a_wish_is_not_taken_back_while_the_wish_is_under_way() -> None:
    """A learner that was admitted because a wish makes room is wanted until the room is there."""
    nodes = _nodes(A, B, C, D)
    wish = _group(1, pinned=(B, D))
    others = [_group(0, voters=(A, C, D)), _group(2, voters=(B, C, D)), wish]
    caught = frozenset((A, B, C, D))
    first = plan(nodes, others, Limits(streams=4, streams_a_node=4)).steps
    begun = {step.group: step for step in first if step.kind is Kind.ADD}
    assert begun[1].node == D
    groups = [
        replace(
            each, learners=(begun[each.group].node,), caught_up=caught - {begun[each.group].node}
        )
        if each.group in begun
        else each
        for each in others
    ]
    again = plan(nodes, groups, Limits(streams=4, streams_a_node=4)).steps
    assert not [step for step in again if step.kind is Kind.REMOVE]


@pytest.mark.parametrize("number", range(1, 9))
def test_a_wish_that_makes_nodes_uneven_is_done_all_the_same(number: int) -> None:
    """Evening out exchanged the wished replica back within one plan: no step, for ever."""
    nodes = _nodes(A, B, C, D)
    wish = _group(number, pinned=(D, A), voters=(B, C, D))
    others = [_group(20, voters=(A, B, C)), _group(21, voters=(A, C, D))]
    steps = plan(nodes, [wish, *others], Limits(streams=4, streams_a_node=4)).steps
    assert [(s.kind, s.node) for s in steps if s.group == number] == [(Kind.ADD, A)]


def test_balance_can_be_switched_off() -> None:
    nodes = _nodes(A, B, C, D)
    groups = [_group(number) for number in range(1, 9)]
    assert plan(nodes, groups, Limits(balance=False)).steps == ()
    assert plan(nodes, groups, Limits()).steps


def test_the_meta_group_has_five_replicas_from_five_nodes_on() -> None:
    assert [copies_of_meta(nodes) for nodes in (1, 3, 4, 5, 9)] == [3, 3, 3, 5, 5]


def test_fair_parts_go_by_weight_and_stop_at_one_copy_of_each_shard() -> None:
    assert fair_parts({A: 1, B: 1, C: 2}, 8, 10) == {A: 2, B: 2, C: 4}
    assert fair_parts({A: 1, B: 1, C: 8}, 9, 3) == {A: 3, B: 3, C: 3}
    assert fair_parts({}, 0, 0) == {}


# --- a new node, an old one -------------------------------------------------------------------


def _even_cluster(shards: int, nodes: int = 3) -> Model:
    model = Model(1)
    names = [model.join(f"n{number}") for number in range(nodes)]
    for number in range(shards):
        model.form(number, 3, [names[(number + place) % nodes] for place in range(3)])
    model.settle(FAST)
    model.copied.clear()
    return model


@pytest.mark.parametrize("shards", [1, 8, 9, 64])
def test_a_join_moves_the_new_nodes_part_and_nothing_else(shards: int) -> None:
    model = _even_cluster(shards)
    new = model.join("new")
    model.steps.clear()
    model.settle(Limits())
    assert model.steps[Kind.TRANSFER] <= shards // 2, "replicas that lead stayed where they could"
    replicas = model.replicas()
    assert max(replicas.values()) - min(replicas.values()) <= 1
    assert {node for _, node in model.copied} <= {new}
    assert len(model.copied) == replicas[new] == 3 * shards // 4
    leaders = model.leaderships()
    assert max(leaders.values()) - min(leaders.values()) <= 1


@pytest.mark.parametrize("standing", [Standing.DRAINING, Standing.DEAD])
def test_a_leave_moves_the_old_nodes_part_and_nothing_else(standing: Standing) -> None:
    model = _even_cluster(64, nodes=5)
    old = NodeId("n2")
    had = model.replicas()[old]
    model.set_node(old, standing=standing, reachable=standing is Standing.DRAINING)
    model.settle(Limits())
    replicas = model.replicas()
    assert max(replicas.values()) - min(replicas.values()) <= 1
    assert len(model.copied) <= had + 2
    assert all(old not in group.voters for group in model.groups.values())


def test_a_heavy_node_gets_more() -> None:
    model = _even_cluster(40, nodes=4)
    model.join("heavy", weight=2.0)
    model.settle(FAST)
    assert model.replicas()[NodeId("heavy")] == 40
    assert set(model.replicas().values()) == {20, 40}


# --- whatever happens ---------------------------------------------------------------------------


def _storm(model: Model, rounds: int, placed: bool) -> None:
    """Anything that may happen to a cluster, except what loses a majority for good."""
    rng = model.rng
    for number in range(rounds):
        node = rng.choice(list(model.nodes.values()))
        event = rng.choice([_node_event, _node_event, _group_event])
        event(model, node, f"j{number}", placed)
        model.elect()
        for step in model.plan(Limits(streams=rng.choice([1, 3]))).steps:
            if rng.random() < 0.7:
                model.obey(step)
        model.catch_up(0.5)


def _node_event(model: Model, node: NodeView, new: str, placed: bool) -> None:
    rng = model.rng
    event = rng.randrange(6)
    if event == 0 and len(model.nodes) < 9:
        model.join(new, rng.choice("xyz") if placed else "", rng.choice("uv") if placed else "")
    elif event == 1 and node.standing is Standing.ACTIVE:
        model.set_node(node.node, standing=Standing.DRAINING)
    elif event == 2 and node.standing is Standing.DRAINING:
        model.set_node(node.node, standing=Standing.ACTIVE)
    elif event == 3:
        model.set_node(node.node, reachable=not node.reachable)
    elif event == 4 and _bearable(model, node.node):
        model.set_node(node.node, standing=Standing.DEAD, reachable=False)
    else:
        model.set_node(node.node, full=not node.full)


def _group_event(model: Model, node: NodeView, new: str, placed: bool) -> None:
    rng = model.rng
    group = rng.choice(list(model.groups.values()))
    event = rng.randrange(3)
    if event == 0:
        group.copies = rng.choice([1, 2, 3, 5])
    elif event == 1 and node.node in group.voters and _bearable(model, node.node):
        group.lost.add(node.node)
        group.caught_up.discard(node.node)
    else:
        for each in model.groups.values():
            each.leader = None if rng.random() < 0.3 else each.leader


def _bearable(model: Model, victim: NodeId) -> bool:
    """Every group that has it keeps a majority of voters that will be there and are whole."""
    return all(
        sum(
            node != victim
            and node in group.caught_up
            and node not in group.lost
            and model.nodes[node].standing is not Standing.DEAD
            for node in group.voters
        )
        > len(group.voters) // 2
        for group in model.groups.values()
        if victim in group.voters
    )


def _calm(model: Model) -> None:
    for node in list(model.nodes.values()):
        dead = node.standing is Standing.DEAD
        model.set_node(node.node, reachable=not dead, full=False)
    model.catch_up()
    model.elect()


@given(
    st.integers(0, 2**32), st.integers(1, 6), st.integers(1, 8), st.integers(0, 25), st.booleans()
)
def test_it_ends_even_spread_and_whole_whatever_happened(
    seed: int, nodes: int, shards: int, rounds: int, placed: bool
) -> None:
    model = Model(seed)
    names = [
        model.join(
            f"n{number}",
            model.rng.choice("xyz") if placed else "",
            model.rng.choice("uv") if placed else "",
        )
        for number in range(nodes)
    ]
    for number in range(shards):
        copies = min(3, nodes)
        model.form(number, copies, model.rng.sample(names, copies))
    _storm(model, rounds, placed)
    _calm(model)
    model.settle(Limits(streams=model.rng.choice([1, 2, 3])))
    active = [node.node for node in model.active()]
    places = Places({node: (n.datacentre, n.rack) for node, n in model.nodes.items()})
    for group in model.groups.values():
        assert not group.learners
        assert not group.lost
        assert group.leader in group.voters
        assert all(model.nodes[n].standing is not Standing.DEAD for n in group.voters)
        if len(active) >= group.copies:
            assert group.voters <= set(active)
            assert len(group.voters) == group.copies
            best = min(
                places.crowding(chosen) for chosen in itertools.combinations(active, group.copies)
            )
            assert places.crowding(group.voters) == best
        else:
            assert set(active) <= group.voters
    if active and places.flat:
        replicas, leaders = model.replicas(), model.leaderships()
        assert max(replicas.values()) - min(replicas.values()) <= 1
        drained = [g for g in model.groups.values() if not set(active) >= g.voters]
        copies = {g.copies for g in model.groups.values()}
        if not drained and len(copies) == 1:
            # Who has the only copy leads it; the meta group's among these counts for no balance.
            apart = 2 if copies == {1} else 1
            assert max(leaders.values()) - min(leaders.values()) <= apart, Counter(leaders)
    assert model.plan(Limits()).finished


def test_no_reason_is_forgotten() -> None:
    assert {why.value for why in Why} == {
        "repair",
        "drain",
        "move",
        "balance",
        "leaders",
        "tidy",
    }
