"""Replicas that are removed, told so, erased, and admitted again."""

from __future__ import annotations

import pytest

from raftgroups.messages import Ack
from raftgroups.outcomes import Done
from raftgroups.records import config_command, meta_key
from raftgroups.status import Role
from storage.codec import Table
from storage.errors import InvalidRequestError
from tests.unit.raftgroups.members import A, B, D, Make, change, changed, steady


def test_a_removed_replica_can_be_erased_and_join_again(make_cluster: Make) -> None:
    cluster = steady(make_cluster)
    gone = cluster["c"]
    with pytest.raises(InvalidRequestError, match="remove it from the group first"):
        gone.host.forget(1, lambda: None)
    changed(cluster, "remove", "c")
    cluster.until(lambda: gone.group.role is Role.REMOVED)
    done: list[bool] = []
    gone.host.forget(1, lambda: done.append(True))
    cluster.until(lambda: bool(done))
    assert list(gone.host.groups) == []
    left = [key for key in gone.engine.values if key[:1] != b"\x01"]
    assert left == [meta_key(Table.ERASED_REPLICA, 1)]
    gone = cluster.restart("c")
    gone.host.join(1)
    changed(cluster, "add_learner", "c")
    changed(cluster, "promote", "c")
    cluster.put(b"y")
    cluster.converge()
    assert gone.machine.rows() == [b"x", b"y"]


def test_a_late_acknowledgement_of_an_earlier_replica_promotes_nobody(make_cluster: Make) -> None:
    """It was removed, forgot everything, and was admitted again, under one incarnation."""
    cluster = steady(make_cluster, change_timeout_s=2.0)
    removed = changed(cluster, "remove", "c")
    cluster.until(lambda: cluster["c"].group.role is Role.REMOVED)
    done: list[bool] = []
    cluster["c"].host.forget(1, lambda: done.append(True))
    cluster.until(lambda: bool(done))
    cluster["c"].host.join(1)
    cluster.network.hold("c", "a")
    changed(cluster, "add_learner", "c")
    term = cluster["a"].group.term
    late = Ack(1, term, removed.index, success=True, reset=False)
    cluster.inject("c", "a", late, incarnation=cluster["c"].host.incarnation)
    results = change(cluster, "promote", "c", on=cluster["a"])
    cluster.run(0.5)
    assert cluster["a"].group.status().voters == (A, B)
    cluster.network.release("c", "a")
    cluster.until(lambda: bool(results))
    assert isinstance(results[0], Done)
    cluster.converge()


def test_an_invited_replica_that_was_never_admitted_can_be_erased(make_cluster: Make) -> None:
    cluster = steady(make_cluster)
    made = cluster.start(D)
    made.host.join(1)
    assert made.group.blank
    assert not cluster["a"].group.blank
    made.host.forget(1, lambda: None)
    cluster.until(lambda: not made.host.groups)


def test_a_learner_that_was_away_when_it_was_removed_is_told_when_asked_for(
    make_cluster: Make,
) -> None:
    """It neither votes nor stands, so it never asks anybody, and nobody tells it."""
    cluster = steady(make_cluster)
    made = cluster.start(D)
    made.host.join(1)
    changed(cluster, "add_learner", "d")
    cluster.until(lambda: not made.group.blank)
    cluster.network.isolate("d", cluster.ids)
    changed(cluster, "remove", "d")
    cluster.put(b"y")
    cluster.network.heal()
    cluster.run(2.0)
    assert made.group.role is Role.LEARNER
    for node in "bc":
        cluster[node].group.dismiss(D)
    cluster.run(0.2)
    assert made.group.role is Role.LEARNER, "only the leader knows"
    cluster["a"].group.dismiss(B)
    cluster["a"].group.dismiss(D)
    cluster.until(lambda: made.group.role is Role.REMOVED)
    assert cluster["b"].group.role is Role.FOLLOWER
    made.host.forget(1, lambda: None)


def test_a_configuration_that_never_was_does_not_keep_a_removed_node(make_cluster: Make) -> None:
    """Its log ends with one that was proposed and lost, behind that by which it was removed."""
    cluster = steady(make_cluster)
    cluster.network.isolate("a", cluster.ids)
    lost = cluster["a"].group.replica
    for _ in range(3):
        lost.raft.append(config_command(lost.journal.config))
    cluster.until(lambda: [n.id for n in cluster.leaders() if n.id != "a"] != [])
    leader = next(n for n in cluster.leaders() if n.id != "a")
    cluster.until(lambda: leader.group.settled)
    results = change(cluster, "remove", "a", on=leader)
    cluster.until(lambda: bool(results))
    assert isinstance(results[0], Done)
    for number in range(6):
        cluster.propose(leader, b"%d" % number)
        cluster.run(0.05)
    assert lost.journal.config_index > leader.group.config_index
    cluster.network.heal()
    cluster.run(0.1)
    leader.group.dismiss(A)
    cluster.until(lambda: cluster["a"].group.role is Role.REMOVED)
