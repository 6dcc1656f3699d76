"""An engine and the incarnation of its data directory: who may vote after a restore."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest

from raftgroups import identity
from raftgroups.journal import GroupJournal
from raftgroups.membership import Config
from raftgroups.messages import NotMember, PreVote, Vote
from raftgroups.outcomes import Applied, Done
from raftgroups.status import Role
from raftgroups.transport import NodeId
from storage.clock import ManualClock
from storage.engine import Batch, iterate
from storage.memory import MemoryEngine

Make = Callable[..., Any]
A, B, C = NodeId("a"), NodeId("b"), NodeId("c")


def backup(engine: MemoryEngine) -> MemoryEngine:
    """A copy of all rows, as a checkpoint holds them."""
    copy, batch = MemoryEngine(clock=ManualClock()), Batch()
    with engine.snapshot() as rows:
        for key, value in iterate(rows):
            batch.put(key, value)
    copy.write(batch, sync=True)
    return copy


def formed(make_cluster: Make) -> Any:
    cluster = make_cluster(3)
    cluster.create()
    cluster.put(b"x")
    cluster.converge()
    cluster.make_leader(A)
    return cluster


def changed(cluster: Any, action: str, *args: object) -> None:
    results: list[object] = []
    getattr(cluster.lead().group, action)(*args, results.append)
    cluster.until(lambda: bool(results))
    assert isinstance(results[0], Done), results


def test_an_old_backup_never_votes_until_it_was_removed_and_added(
    make_cluster: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """c is restored from before what a and c acknowledged; with its vote b would win without it."""
    cluster = formed(make_cluster)
    old = backup(cluster["c"].engine)
    cluster.network.isolate("b", cluster.ids)
    acknowledged = [cluster.put(b"held by a and c %d" % n) for n in range(3)]
    cluster.crash("c")
    with caplog.at_level(logging.CRITICAL):
        restored = cluster.start(C, old, incarnation=77)
    assert "remove this node from each of them and add it again" in caplog.text
    assert restored.group.role is Role.REMOVED
    cluster.crash("a")
    cluster.network.heal()
    cluster.network.log.clear()
    # Nobody tells it that it is no member: it must know that by itself.
    cluster.network.tap = lambda a, b, m: [] if isinstance(m, NotMember) else [m]
    cluster.run(10.0)
    assert cluster.leaders() == []
    assert cluster.sent(Vote) == []
    assert not any(vote.granted for vote in cluster.sent(PreVote, "c"))
    caplog.clear()
    restored = cluster.restart(C)
    assert caplog.text == "", "said once"
    assert restored.group.role is Role.REMOVED, "a restart does not forget it"
    cluster.network.tap = None
    cluster.start(A, cluster.nodes[A].engine)
    cluster.until(lambda: [n.id for n in cluster.leaders()] == ["a"])
    cluster.until(lambda: cluster["b"].group.status().applied_index > acknowledged[-1].index)
    assert restored.group.role is Role.REMOVED
    changed(cluster, "remove", "c")
    changed(cluster, "add_learner", "c")
    changed(cluster, "promote", "c")
    cluster.put(b"y")
    cluster.converge()
    assert restored.group.role is Role.FOLLOWER
    assert cluster["a"].group.replica.journal.config.voters[C] == 77
    cluster.crash("b")
    assert isinstance(cluster.put(b"with its vote"), Applied)


def test_a_backup_from_before_the_members_were_bound_does_not_vote_either(
    make_cluster: Make,
) -> None:
    """Its configuration names no incarnation, so only its own memory can keep it silent."""
    cluster = make_cluster(3)
    cluster["c"].host.create(1, [A, B, C])
    cluster.run(0.1)
    old = backup(cluster["c"].engine)
    for node in "ab":
        cluster[node].host.create(1, [A, B, C])
    cluster.put(b"x")
    cluster.converge()
    cluster.make_leader(A)
    cluster.crash("a")
    cluster.crash("c")
    restored = cluster.start(C, old, incarnation=77)
    assert restored.group.replica.journal.config.is_voter(C, 77), "it is not the binding"
    cluster.network.log.clear()
    cluster.run(10.0)
    assert cluster.leaders() == []
    assert cluster.sent(Vote, "c") == []
    assert not any(vote.granted for vote in cluster.sent(PreVote, "c"))


def test_the_only_voter_of_before_does_not_lead_by_itself(make_cluster: Make) -> None:
    """Others may have been added since the backup was made."""
    cluster = make_cluster(1)
    cluster.create()
    cluster.put(b"x")
    old = backup(cluster["a"].engine)
    cluster.crash("a")
    restored = cluster.start(A, old, incarnation=77)
    cluster.run(5.0)
    assert restored.group.role is Role.REMOVED
    cluster.crash("a")
    assert identity.stand_alone(old, A, 77) == [1]
    restored = cluster.start(A, old, incarnation=77)
    assert isinstance(cluster.put(b"y"), Applied)
    assert restored.machine.rows() == [b"x", b"y"]


def test_one_that_is_left_stands_alone_and_takes_others_in_again(make_cluster: Make) -> None:
    cluster = formed(make_cluster)
    cluster.put(b"y")
    cluster.converge()
    for node in "abc":
        cluster.crash(node)
    old = backup(cluster["b"].engine)
    term = cluster["b"].group.status().term
    assert identity.stand_alone(old, B, 88) == [1]
    cluster.start(B, old, incarnation=88)
    cluster.put(b"z")
    assert cluster["b"].group.status().term > term
    assert cluster["b"].group.status().voters == ("b",)
    fresh = cluster.start(A)
    fresh.host.join(1)
    changed(cluster, "add_learner", "a")
    changed(cluster, "promote", "a")
    cluster.put(b"both")
    cluster.until(lambda: fresh.machine.rows() == [b"x", b"y", b"z", b"both"])
    cluster.restart(A)
    cluster.restart(B)
    assert isinstance(cluster.put(b"after restarts"), Applied)
    assert cluster["b"].group.status().voters == ("a", "b")


def test_what_counts_as_another_life() -> None:
    engine = MemoryEngine(clock=ManualClock())
    assert identity.recorded(engine) is None
    assert identity.adopt(engine, 5) == []
    assert identity.recorded(engine) == 5
    assert identity.adopt(engine, 5) == []
    for group_id, config in ((1, Config({A: 5})), (2, None)):
        journal = GroupJournal(engine, group_id, window_entries=8, window_bytes=1024)
        journal.form(config)
        batch = Batch()
        journal.prepare(batch)
        engine.write(batch, sync=True)
    assert identity.adopt(engine, 5) == []
    assert identity.adopt(engine, (1 << 53) - 1) == [1], "the second one waits to be added anyway"
    assert identity.recorded(engine) == (1 << 53) - 1
    journal = GroupJournal(engine, 1, window_entries=8, window_bytes=1024)
    assert journal.load()
    assert journal.hard.removed_at == 1
