"""The rules of the meta group, one by one."""

from __future__ import annotations

from itertools import pairwise

import pytest
from msgspec.structs import replace as with_fields

from raftgroups.meta.commands import (
    AlterKeyspace,
    BeginOperation,
    BootstrapLeaderless,
    CreateKeyspace,
    CreateLeaderless,
    DropKeyspace,
    EndOperation,
    MetaCommand,
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
    KeyspaceOptions,
    KeyspaceState,
    NodeState,
    OperationRecord,
    Quotas,
    Regime,
    RingRecord,
    RingSeat,
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
)
from raftgroups.meta.rules import execute
from raftgroups.meta.view import MetaView
from tests.unit.raftgroups.meta.conftest import FOUNDERS, after, bootstrap, new_shards, node

SPLIT = OperationRecord(0, "split", "begin", shards=(2,), key=b"9")


def begin_split(view: MetaView) -> tuple[MetaView, OperationRecord]:
    command = BeginOperation(SPLIT, (view.shards[2].epoch,), new_shards=1, new_segments=2)
    view, answer = execute(view, command, 5)
    assert isinstance(answer, OperationMade)
    return view, answer.record


# --- the beginning ---


def test_a_cluster_begins_with_its_shards_once(begun: MetaView) -> None:
    assert begun.version == 1
    assert [each.shard for each in begun.shards_of(1)] == [1, 2, 3, 4]
    assert {each.state for each in begun.shards_of(1)} == {ShardState.FORMING}
    assert begun.meta_replicas == ("a", "b", "c")
    again, _ = execute(begun, bootstrap(7), 9)
    assert again is begun


def test_groups_that_were_there_are_not_formed_again() -> None:
    view = after(MetaView(), bootstrap(1, formed=True))
    (shard,) = view.shards_of(1)
    assert (shard.shard, shard.state, shard.founders) == (1, ShardState.ACTIVE, ())
    assert shard.replicas == ("a", "b", "c")


def test_a_shard_is_active_once_all_its_replicas_formed_it(begun: MetaView) -> None:
    view = after(begun, ReportFormed("a", (1, 2)), ReportFormed("b", (1,)))
    assert view.shards[1].state is ShardState.FORMING
    view = after(view, ReportFormed("c", (1,)), ReportFormed("c", (1,)), ReportFormed("z", (1, 2)))
    assert view.shards[1].state is ShardState.ACTIVE
    assert view.shards[2].formed == ("a",)


# --- nodes ---


def test_a_node_is_renewed_but_keeps_its_state(begun: MetaView) -> None:
    view = after(begun, SetNodeState("a", NodeState.DRAINING))
    view = after(view, PutNode(with_fields(node("a", 11), name="other")))
    assert view.nodes["a"].name == "other"
    assert view.nodes["a"].state is NodeState.DRAINING
    same, _ = execute(view, PutNode(view.nodes["a"]), 99)
    assert same is view


def test_a_node_with_another_directory_is_no_renewal(begun: MetaView) -> None:
    with pytest.raises(NodeInUseError):
        execute(begun, PutNode(node("a", 99)), 0)


def test_a_dead_node_does_not_come_back(begun: MetaView) -> None:
    view = after(begun, SetNodeState("a", NodeState.DEAD))
    with pytest.raises(NodeInUseError):
        execute(view, SetNodeState("a", NodeState.ACTIVE), 0)


def test_a_node_with_replicas_is_not_removed(begun: MetaView) -> None:
    with pytest.raises(NodeInUseError):
        execute(begun, RemoveNode("a"), 0)
    view = after(begun, PutNode(node("d", 14)), RemoveNode("d"))
    assert "d" not in view.nodes
    with pytest.raises(UnknownNodeError):
        execute(view, RemoveNode("d"), 0)


# --- keyspaces ---


def test_a_keyspace_gets_fresh_ids(begun: MetaView) -> None:
    view = after(begun, CreateKeyspace("orders", Regime.STRONG, KeyspaceOptions(), new_shards(2)))
    made = view.keyspace_named("orders")
    assert made is not None
    assert made.keyspace == 2
    assert [(each.shard, each.segment) for each in view.shards_of(2)] == [(5, 5), (6, 6)]
    with pytest.raises(KeyspaceExistsError):
        execute(view, CreateKeyspace("orders", Regime.STRONG, KeyspaceOptions(), new_shards(1)), 0)


@pytest.mark.parametrize("name", ["", "Upper", "-x", "a" * 64, "a/b", "ä"])
def test_names_that_no_url_could_take(begun: MetaView, name: str) -> None:
    with pytest.raises(InvalidKeyspaceError):
        execute(begun, CreateKeyspace(name, Regime.STRONG, KeyspaceOptions(), new_shards(1)), 0)


@pytest.mark.parametrize(
    "options",
    [
        KeyspaceOptions(replication=0),
        KeyspaceOptions(quotas=Quotas(keys=-1)),
        KeyspaceOptions(split_bytes=100, merge_bytes=51),
    ],
)
def test_options_that_cannot_be(begun: MetaView, options: KeyspaceOptions) -> None:
    with pytest.raises(InvalidKeyspaceError):
        execute(begun, CreateKeyspace("x", Regime.STRONG, options, new_shards(1)), 0)


SEATS = tuple(RingSeat(name, 16) for name in "abc")


def test_the_first_leaderless_keyspace_founds_the_ring_and_later_ones_go_by_theirs(
    begun: MetaView,
) -> None:
    assert begun.ring is None
    view = after(begun, CreateLeaderless("x", KeyspaceOptions(rule="lww"), SEATS))
    assert view.ring == RingRecord(SEATS)
    view = after(view, CreateLeaderless("y", KeyspaceOptions(), SEATS[:2]))
    assert view.ring == RingRecord(SEATS)
    assert [(each.name, each.ring) for each in view.leaderless] == [("x", SEATS), ("y", SEATS[:2])]
    assert not view.shards_of(view.leaderless[0].keyspace)
    view = after(view, DropKeyspace("x"), DropKeyspace("y"))
    assert not view.leaderless
    assert view.ring == RingRecord(SEATS)
    assert view.next.keyspace == 4


def test_a_cluster_can_begin_leaderless() -> None:
    nodes = tuple(node(*each) for each in FOUNDERS)
    command = BootstrapLeaderless(nodes, ("a", "b", "c"), KeyspaceOptions(), SEATS)
    view = after(MetaView(), command)
    assert view.keyspaces[1].regime is Regime.LEADERLESS
    assert set(view.shards) == {0}
    assert view.ring == RingRecord(SEATS)
    again = after(view, command)
    assert again is view
    strong = after(view, CreateKeyspace("s", Regime.STRONG, KeyspaceOptions(), new_shards(2)))
    assert [each.shard for each in strong.shards_of(2)] == [1, 2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (KeyspaceOptions(read_quorum=4), "R is 4"),
        (KeyspaceOptions(write_quorum=4), "W is 4"),
        (KeyspaceOptions(rule="newest"), "give one of siblings"),
        (KeyspaceOptions(siblings=0), "siblings is 0"),
        (KeyspaceOptions(quotas=Quotas(keys=5)), "strong keyspaces"),
        (KeyspaceOptions(shards_max=5), "strong keyspaces"),
    ],
)
def test_options_that_a_leaderless_keyspace_cannot_have(
    begun: MetaView, options: KeyspaceOptions, message: str
) -> None:
    with pytest.raises(InvalidKeyspaceError, match=message):
        execute(begun, CreateLeaderless("x", options, SEATS), 0)


def test_a_ring_needs_nodes_that_are_there(begun: MetaView) -> None:
    with pytest.raises(InvalidKeyspaceError, match="no node"):
        execute(begun, CreateLeaderless("x", KeyspaceOptions(), ()), 0)
    with pytest.raises(UnknownNodeError):
        execute(begun, CreateLeaderless("x", KeyspaceOptions(), (RingSeat("z", 1),)), 0)


def test_what_a_leaderless_keyspace_holds_fixes_its_copies_and_its_rule(begun: MetaView) -> None:
    first = KeyspaceOptions()
    view = after(begun, CreateLeaderless("x", first, SEATS))
    view = after(view, AlterKeyspace("x", first, KeyspaceOptions(rule="lww", read_quorum=1)))
    now = KeyspaceOptions(rule="lww", read_quorum=1)
    for options in (
        KeyspaceOptions(rule="max", read_quorum=1),
        KeyspaceOptions(rule="lww", read_quorum=1, replication=5),
    ):
        with pytest.raises(InvalidKeyspaceError):
            execute(view, AlterKeyspace("x", now, options), 0)


def test_ranges_with_a_gap_are_refused(begun: MetaView) -> None:
    first, *rest = new_shards(3)
    with pytest.raises(InvalidShardsError):
        execute(begun, CreateKeyspace("x", Regime.STRONG, KeyspaceOptions(), tuple(rest)), 0)
    twice = (first, first, *rest)
    with pytest.raises(InvalidShardsError):
        execute(begun, CreateKeyspace("x", Regime.STRONG, KeyspaceOptions(), twice), 0)


def test_options_change_only_from_what_was_seen(begun: MetaView) -> None:
    options = KeyspaceOptions(shards_max=9)
    view = after(begun, AlterKeyspace("default", KeyspaceOptions(), options))
    assert view.keyspaces[1].options == options
    with pytest.raises(StaleEpochError):
        execute(view, AlterKeyspace("default", KeyspaceOptions(), KeyspaceOptions()), 0)


def test_a_dropped_keyspace_goes_when_its_replicas_are_gone(begun: MetaView) -> None:
    view = after(begun, CreateKeyspace("x", Regime.STRONG, KeyspaceOptions(), new_shards(1)))
    view = after(view, DropKeyspace("x"))
    assert view.keyspaces[2].state is KeyspaceState.DROPPING
    assert view.shards[5].state is ShardState.RETIRED
    view = after(view, ReportErased("a", (5,)), ReportErased("b", (5,)))
    assert 2 in view.keyspaces
    view = after(view, ReportErased("c", (5,)))
    assert 2 not in view.keyspaces
    assert 5 not in view.shards
    with pytest.raises(KeyspaceNotFoundError):
        execute(view, DropKeyspace("x"), 0)


def test_default_is_not_dropped(begun: MetaView) -> None:
    with pytest.raises(InvalidKeyspaceError):
        execute(begun, DropKeyspace("default"), 0)


# --- shards and operations ---


def test_ids_are_given_once(begun: MetaView) -> None:
    view, first = begin_split(begun)
    view = after(view, EndOperation(first.operation, "begin"))
    _, second = begin_split(view)
    assert (first.operation, first.new_shards, first.new_segments) == (1, (5,), (5, 6))
    assert (second.operation, second.new_shards, second.new_segments) == (2, (6,), (7, 8))


def test_replicas_change_at_the_epoch_that_was_seen(begun: MetaView) -> None:
    view = after(begun, SetReplicas(1, 1, ("a", "b")))
    assert (view.shards[1].epoch, view.shards[1].replicas) == (2, ("a", "b"))
    with pytest.raises(StaleEpochError):
        execute(view, SetReplicas(1, 1, ("a",)), 0)


def test_a_split_in_steps(begun: MetaView) -> None:
    view, made = begin_split(begun)
    assert (made.new_shards, made.new_segments, made.began_ms) == ((5,), (5, 6), 5)
    with pytest.raises(ShardBusyError):
        begin_split(view)
    view = after(view, StepOperation(made.operation, "begin", "proposed"))
    parent = view.shards[2]
    left = with_fields(parent, end=b"9", segment=5)
    right = with_fields(parent, shard=5, start=b"9", segment=6)
    end = EndOperation(made.operation, "proposed", ((2, parent.epoch),), (left, right))
    with pytest.raises(StaleStepError):
        execute(view, StepOperation(made.operation, "begin", "proposed"), 0)
    view = after(view, end)
    table = view.table(1)
    assert table is not None
    assert table.of_key(b"8").shard == 2
    assert table.of_key(b"9").shard == 5
    assert view.shards[5].epoch == view.shards[2].epoch == parent.epoch + 1
    assert not view.operations
    with pytest.raises(OperationNotFoundError):
        execute(view, end, 0)


def test_what_is_over_is_so_in_every_later_view(begun: MetaView) -> None:
    """Replicas are erased for it, by whatever view a node has."""
    views = [begun]

    def go(*commands: MetaCommand) -> None:
        for command in commands:
            views.append(after(views[-1], command))

    view, made = begin_split(begun)
    views.append(view)
    parent = view.shards[2]
    halves = (
        with_fields(parent, end=b"9", segment=5),
        with_fields(parent, shard=5, start=b"9", segment=6),
    )
    go(EndOperation(made.operation, "begin", ((2, parent.epoch),), halves))
    left, right = (views[-1].shards[each] for each in (2, 5))
    merge = OperationRecord(0, "merge", "join", shards=(2, 5))
    view, answer = execute(views[-1], BeginOperation(merge, (2, 2), new_segments=1), 5)
    assert isinstance(answer, OperationMade)
    views.append(view)
    one = with_fields(left, end=right.end, segment=answer.record.new_segments[0])
    go(EndOperation(answer.record.operation, "join", ((2, 2), (5, 2)), (one,)))
    view, _ = execute(views[-1], BeginOperation(SPLIT, (3,), new_shards=1), 5)
    views.append(view)
    go(
        EndOperation(2 + made.operation, "begin"),
        BeginOperation(SPLIT, (3,), new_shards=2),
        EndOperation(3 + made.operation, "begin"),
        CreateKeyspace("x", Regime.STRONG, KeyspaceOptions(), new_shards(1)),
        DropKeyspace("x"),
        ReportErased("a", (9,)),
        ReportErased("b", (9,)),
        ReportErased("c", (9,)),
    )
    over = [{n for n in range(20) if view.is_over(n)} for view in views]
    assert all(earlier <= later for earlier, later in pairwise(over))
    assert (over[0], over[-1]) == (set(), {5, 6, 7, 8, 9})


def test_a_replacement_covers_exactly_what_was_there(begun: MetaView) -> None:
    view, made = begin_split(begun)
    parent = view.shards[2]
    for shards in (
        (with_fields(parent, end=b"9"),),
        (with_fields(parent, end=b"9"), with_fields(parent, shard=5, start=b"8")),
        (with_fields(parent, end=b"9"), with_fields(parent, shard=99, start=b"9")),
        (with_fields(parent, end=b"9"), with_fields(parent, shard=5, start=b"9", segment=77)),
        (),
    ):
        with pytest.raises(InvalidShardsError):
            execute(view, EndOperation(made.operation, "begin", ((2, parent.epoch),), shards), 0)


def test_the_same_step_again_is_another_attempt(begun: MetaView) -> None:
    view, made = begin_split(begun)
    view = after(view, StepOperation(made.operation, "begin", "begin", "waits", 0.5))
    assert (view.operations[1].attempts, view.operations[1].note) == (1, "waits")
    view = after(view, StepOperation(made.operation, "begin", "next"))
    assert view.operations[1].attempts == 0


def test_given_up_leaves_the_shards_as_they_were(begun: MetaView) -> None:
    view, made = begin_split(begun)
    after_all = after(view, EndOperation(made.operation, "begin"))
    assert after_all.shards == begun.shards
