"""What a leader commits and applies while its own sync is in flight (hazard c, beside it)."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from raftgroups.commands import (
    FIRST_VERSION,
    FirstCommand,
    LineageCommand,
    Put,
    Split,
    Token,
    decode_body,
    encode,
)
from raftgroups.machine import ShardMachine
from raftgroups.messages import Ack
from raftgroups.outcomes import Applied, Unknown
from raftgroups.refusals import UnknownCommandError
from raftgroups.transport import NodeId
from tests.unit.raftgroups.conftest import Cluster
from tests.unit.raftgroups.members import A, B, C, Make, steady

NO_FOLDS: dict[str, Any] = {"fold_after_s": 1000.0}


class Pair:
    """Two entries of the leader, a: the first on every disk, the second on those of the others and
    in flight to a's. What the others acknowledge is held back."""

    def __init__(self, cluster: Cluster, first: bytes = b"y", gap_s: float = 0.01) -> None:
        self.cluster, self.leader = cluster, cluster["a"]
        self.others = [node for node in cluster.ids if node != A]
        for node in self.others:
            cluster.network.hold(node, A)
        self.first = cluster.propose(self.leader, first)
        cluster.run(gap_s)
        self.leader.writer.hold = True
        self.second = cluster.propose(self.leader, b"z")
        cluster.run(0.01)
        assert self.leader.writer.waiting is not None
        assert (self.first, self.second) == ([], [])
        self.before = self.leader.group.status().commit_index

    def acknowledged_by(self, *nodes: NodeId) -> None:
        for node in nodes:
            self.cluster.network.release(node, A)
        self.cluster.run(0.01)
        assert self.leader.writer.waiting is not None, "the sync is in flight all the time"

    def synced(self) -> None:
        self.leader.writer.hold = False
        self.leader.writer.finish()


def test_what_its_disk_had_before_is_committed_applied_and_answered(make_cluster: Make) -> None:
    pair = Pair(steady(make_cluster, **NO_FOLDS))
    pair.acknowledged_by(B)
    assert [type(result) for result in pair.first] == [Applied]
    assert pair.second == [], "two disks have it, the leader's does not"
    assert pair.leader.group.status().commit_index == pair.before + 1
    assert pair.leader.machine.rows() == [b"x", b"y"]
    pair.synced()
    pair.cluster.until(lambda: bool(pair.second))
    assert isinstance(pair.second[0], Applied)
    pair.cluster.network.release(C, A)
    pair.cluster.converge()


def test_a_crash_of_the_leader_loses_nothing_that_was_answered(make_cluster: Make) -> None:
    pair = Pair(steady(make_cluster, **NO_FOLDS))
    pair.acknowledged_by(B)
    assert isinstance(pair.first[0], Applied)
    engine = pair.cluster.crash(A)
    pair.cluster.crash(C)
    pair.cluster.start(A, engine)
    pair.cluster.converge()
    assert pair.cluster["b"].machine.rows()[:2] == [b"x", b"y"]
    assert pair.cluster["a"].machine.rows() == pair.cluster["b"].machine.rows()


def test_not_while_the_machine_has_something_in_the_batch(make_cluster: Make) -> None:
    pair = Pair(steady(make_cluster), gap_s=0.06)
    pair.acknowledged_by(B)
    assert pair.first == []
    assert pair.leader.machine.rows() == [b"x"]
    pair.synced()
    pair.cluster.until(lambda: bool(pair.first and pair.second))
    pair.cluster.network.release(C, A)
    pair.cluster.converge()
    assert pair.cluster["c"].machine.rows() == [b"x", b"y", b"z"]


def test_by_a_majority_of_the_voters_only(make_cluster: Make) -> None:
    pair = Pair(steady(make_cluster, 5, **NO_FOLDS))
    pair.acknowledged_by(B)
    assert pair.first == []
    pair.acknowledged_by(C)
    assert [type(result) for result in pair.first] == [Applied]
    assert pair.second == []


def test_a_learner_is_no_voter(make_cluster: Make) -> None:
    cluster = make_cluster(4, **NO_FOLDS)
    cluster.create(voters="abc")
    cluster["d"].host.join(1)
    cluster.put(b"x")
    cluster.make_leader(A)
    results: list[object] = []
    cluster["a"].group.add_learner(NodeId("d"), results.append)
    cluster.until(lambda: bool(results))
    cluster.converge()
    cluster.run(0.3)
    pair = Pair(cluster)
    pair.acknowledged_by(NodeId("d"))
    assert pair.first == []
    pair.acknowledged_by(B)
    assert [type(result) for result in pair.first] == [Applied]


def test_not_of_a_node_that_was_cast_out(make_cluster: Make) -> None:
    """It leads as long as the entry that removes it is not committed, and counts no more."""
    pair = Pair(steady(make_cluster, **NO_FOLDS))
    replica = pair.leader.group.replica
    replica._voter = False
    pair.acknowledged_by(B)
    assert pair.first == []
    replica._voter = True


def test_a_machine_that_breaks_stops_the_node(make_cluster: Make) -> None:
    pair = Pair(steady(make_cluster, **NO_FOLDS), first=b"explode")
    pair.cluster.network.release(B, A)
    pair.cluster.run(0.01)
    assert isinstance(pair.leader.fatal, RuntimeError)
    assert not any(isinstance(result, Applied) for result in pair.first)


def test_what_may_divide_the_group_waits_for_a_turn(
    make_cluster: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = Pair(steady(make_cluster, **NO_FOLDS))
    looked: list[Any] = []

    class Dividing:
        def may_divide(self, payloads: list[bytes]) -> bool:
            looked.append(list(payloads))
            return True

    replica = pair.leader.group.replica
    monkeypatch.setattr(replica.applying, "_dividing", Dividing())
    pair.acknowledged_by(B)
    assert pair.first == []
    assert looked
    assert all(each == [b"y"] for each in looked)


def test_what_was_not_made_of_operations_here_waits_for_a_turn(make_cluster: Make) -> None:
    pair = Pair(steady(make_cluster, **NO_FOLDS))
    made = pair.leader.group.replica.applying._made
    for place, (command, operations) in enumerate(list(made)):
        made[place] = command + b"another", operations
    pair.acknowledged_by(B)
    assert pair.first == []
    pair.synced()
    pair.cluster.run(0.005)
    assert [type(result) for result in pair.first] == [Applied]


def test_what_was_heard_too_early_counts_when_the_sync_is_over(make_cluster: Make) -> None:
    """Nothing more is heard then, and no heartbeat is due."""
    cluster = steady(make_cluster, **NO_FOLDS)
    cluster.network.cut = {(C, A)}
    leader = cluster["a"]
    cluster.until(
        lambda: leader.group.replica.raft.heartbeat_deadline > leader.life.monotonic() + 0.09
    )
    cluster.run(0.01)
    leader.writer.hold = True
    results = cluster.propose(leader, b"y")
    cluster.run(0.01)
    assert results == []
    leader.writer.finish()
    cluster.run(0.0005)
    assert [type(result) for result in results] == [Applied]


def test_the_others_hear_of_it_though_the_group_has_nothing_to_write(make_cluster: Make) -> None:
    cluster = steady(make_cluster, **NO_FOLDS)
    cluster.create(2, voters="a")
    cluster.lead(2)
    cluster.run(0.3)
    leader = cluster["a"]
    for node in (B, C):
        cluster.network.hold(node, A)
    results = cluster.propose(leader, b"y")
    cluster.run(0.01)
    leader.writer.hold = True
    other: list[object] = []
    leader.host.group(2).propose(b"z", other.append)
    cluster.run(0.01)
    cluster.network.release(B, A)
    cluster.run(0.005)
    assert [type(result) for result in results] == [Applied]
    leader.writer.hold = False
    leader.writer.finish()
    cluster.run(0.01)
    assert cluster["c"].machine.rows() == [b"x", b"y"], "long before the next heartbeat"


def test_a_leader_that_lost_its_place_commits_nothing(make_cluster: Make) -> None:
    pair = Pair(steady(make_cluster, **NO_FOLDS))
    pair.leader.group.replica.stand_down()
    pair.acknowledged_by(B)
    assert not any(isinstance(result, Applied) for result in pair.first)
    assert all(isinstance(result, Unknown) for result in pair.first)
    assert pair.leader.group.status().commit_index == pair.before


def test_only_commands_of_the_first_version_surely_divide_nothing() -> None:
    machine: Any = None
    plain = [encode(Put(b"k", b"v")), encode(Put(b"k"), Token(b"me", 3, 1), 5, 7)]
    assert not ShardMachine.may_divide(machine, plain)
    split = encode(Split(b"m", 7, 1, 2))
    for payloads in ([split], [*plain, split], [split, *plain]):
        assert ShardMachine.may_divide(machine, payloads)
    for command in get_args(LineageCommand):
        assert command not in get_args(FirstCommand)
    with pytest.raises(UnknownCommandError):
        decode_body(split[18:], FIRST_VERSION)


def test_never_past_an_older_message_of_the_same_node(make_cluster: Make) -> None:
    pair = Pair(steady(make_cluster, **NO_FOLDS))
    replica = pair.leader.group.replica
    refusal = Ack(1, replica.raft.term, 2, success=False, reset=True)
    incarnation = replica.replication.progress[B].incarnation
    assert incarnation is not None
    pair.leader.host._inbox.append((B, incarnation, refusal))
    pair.acknowledged_by(B)
    assert pair.first == []
    pair.acknowledged_by(C)
    assert [type(result) for result in pair.first] == [Applied], "c has nothing that waits"


def test_an_answer_to_a_heartbeat_is_no_work_for_the_turn_that_follows(make_cluster: Make) -> None:
    cluster = steady(make_cluster)
    cluster.create(2, voters="a")
    cluster.lead(2)
    cluster.run(0.6)
    leader = cluster["a"]
    raft = leader.group.replica.raft
    cluster.until(lambda: raft.heartbeat_deadline > leader.life.monotonic() + 0.09)
    leader.writer.hold = True
    leader.host.group(2).propose(b"z", lambda _: None)
    cluster.network.log.clear()
    cluster.run(0.01)
    assert [ack.group for ack in cluster.sent(Ack)] == [1, 1]
    assert leader.writer.waiting is not None, "they came beside it"
    assert not leader.host._inbox
    assert 1 not in leader.host._dirty
