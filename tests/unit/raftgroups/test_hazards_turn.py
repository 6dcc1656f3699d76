"""Hazards of the turn and of outcomes: c (the barrier), g (apply), n4 (callbacks)."""

from __future__ import annotations

from raftgroups.messages import Ack, Append
from raftgroups.outcomes import Applied, Refused, Unknown
from raftgroups.status import Role
from raftgroups.transport import NodeId
from tests.unit.raftgroups.members import Make, steady

# --- c ---------------------------------------------------------------------------------------


def test_hazard_c_leader_commits_nothing_that_its_own_disk_lacks(make_cluster: Make) -> None:
    cluster = steady(make_cluster)
    leader = cluster["a"]
    leader.writer.hold = True
    results = cluster.propose(leader, b"y")
    before = leader.group.status().commit_index
    cluster.run(0.5)
    entries = [a for a in cluster.sent(Append, "a") if a.entries]
    assert len(entries) == 2, "they leave before our own sync"
    assert len([ack for ack in cluster.sent(Ack) if ack.success]) >= 2
    assert results == []
    assert leader.group.status().commit_index == before
    leader.writer.hold = False
    leader.writer.finish()
    cluster.until(lambda: bool(results))
    assert isinstance(results[0], Applied)


def test_hazard_c_follower_acknowledges_nothing_that_its_own_disk_lacks(
    make_cluster: Make,
) -> None:
    cluster = steady(make_cluster)
    cluster.crash("c")
    follower = cluster["b"]
    follower.writer.hold = True
    results = cluster.propose(cluster["a"], b"y")
    cluster.run(0.4)
    assert results == []
    assert [ack for ack in cluster.sent(Ack, "b") if ack.success] == []
    follower.writer.hold = False
    follower.writer.finish()
    cluster.until(lambda: bool(results))


def test_hazard_c_what_was_acknowledged_survives_a_power_cut_of_all(make_cluster: Make) -> None:
    cluster = steady(make_cluster)
    cluster["b"].writer.hold = cluster["c"].writer.hold = True
    results = cluster.propose(cluster["a"], b"y")
    cluster.run(0.4)
    acknowledged = [b"y"] if results else []
    engines = {node: cluster.crash(node) for node in cluster.ids}
    for node in ("b", "c"):
        cluster.start(NodeId(node), engines[node])
    cluster.converge()
    assert cluster["b"].machine.rows() == [b"x", *acknowledged]


def test_hazard_c_a_lone_leader_waits_for_its_disk(make_cluster: Make) -> None:
    cluster = make_cluster(1)
    cluster.create()
    node = cluster["a"]
    cluster.run(0.3)
    node.writer.hold = True
    cluster.run(1.5)
    assert node.group.status().commit_index == 1
    node.writer.hold = False
    node.writer.finish()
    cluster.put(b"x")


def test_applied_data_reaches_the_disk_soon_though_nothing_else_happens(
    make_cluster: Make,
) -> None:
    cluster = make_cluster(1)
    cluster.create()
    cluster.put(b"x")
    status = cluster["a"].group.status()
    assert status.durable_applied_index < status.applied_index
    cluster.run(0.6)
    assert cluster["a"].group.status().durable_applied_index == status.applied_index


def test_hazard_c_entries_do_not_leave_before_the_term_is_on_the_disk(make_cluster: Make) -> None:
    """A lone voter leads the moment it stands; if it forgot the term in a crash, it could give the
    same index and term to another entry, which a learner would take for the same one."""
    cluster = make_cluster(2)
    cluster.create(voters="a")
    cluster.put(b"x")
    results: list[object] = []
    cluster["b"].host.join(1)
    cluster["a"].group.add_learner(NodeId("b"), results.append)
    cluster.until(lambda: bool(results))
    cluster.converge()
    node = cluster.restart("a")
    cluster.network.log.clear()
    cluster.run(0.1)
    node.writer.hold = True
    cluster.until(lambda: node.group.status().role is Role.LEADER)
    cluster.run(0.05)
    assert [a for a in cluster.sent(Append, "a") if a.entries] == []
    node.writer.hold = False
    node.writer.finish()
    cluster.put(b"y")
    cluster.converge()


def test_no_write_barrier_canary_sends_and_answers_too_early(make_cluster: Make) -> None:
    cluster = steady(make_cluster, canaries=frozenset({"no-write-barrier"}))
    cluster["b"].writer.hold = True
    cluster.propose(cluster["a"], b"y")
    cluster.run(0.05)
    assert [ack for ack in cluster.sent(Ack, "b") if ack.success]


# --- g ---------------------------------------------------------------------------------------


def test_hazard_g_an_exception_in_apply_stops_the_node_loudly(make_cluster: Make) -> None:
    cluster = steady(make_cluster)
    results = cluster.propose(cluster["a"], b"explode")
    cluster.run(1.0)
    assert isinstance(cluster["a"].fatal, RuntimeError)
    assert results == []


def test_hazard_g_a_failed_write_acknowledges_nothing(make_cluster: Make) -> None:
    cluster = steady(make_cluster)
    leader = cluster["a"]
    leader.writer.hold = True
    results = cluster.propose(leader, b"y")
    cluster.run(0.01)
    assert leader.writer.waiting is not None
    leader.writer.waiting[2](OSError("the disk is gone"), 0.1)
    cluster.run(1.0)
    assert isinstance(leader.fatal, OSError)
    assert results == []


def test_a_done_callback_that_raises_does_not_hurt_the_others(make_cluster: Make) -> None:
    cluster = steady(make_cluster)

    def broken(result: object) -> None:
        raise ValueError("a defect of the caller")

    cluster["a"].group.propose(b"y", broken)
    results = cluster.propose(cluster["a"], b"z")
    cluster.until(lambda: bool(results))
    assert isinstance(results[0], Applied)
    assert cluster["a"].fatal is None


# --- n4 --------------------------------------------------------------------------------------


def test_hazard_n4_an_overwritten_proposal_is_answered_unknown_once(make_cluster: Make) -> None:
    cluster = steady(make_cluster)
    cluster.network.isolate("a", cluster.ids)
    appended = cluster.propose(cluster["a"], b"lost")
    cluster.until(lambda: bool(appended))
    assert isinstance(appended[0], Unknown)
    cluster.put(b"instead")
    cluster.network.heal()
    cluster.converge()
    cluster.run(0.1)
    assert len(appended) == 1
    assert "leader changed" in appended[0].reason
    assert b"lost" not in cluster["a"].machine.rows()


def test_hazard_n4_unknown_may_still_take_effect_and_is_not_answered_again(
    make_cluster: Make,
) -> None:
    cluster = steady(make_cluster)
    cluster.network.hold("b", "a")
    cluster.network.hold("c", "a")
    results = cluster.propose(cluster["a"], b"late")
    cluster.until(lambda: bool(results))
    assert isinstance(results[0], Unknown)
    cluster.network.release("b", "a")
    cluster.network.release("c", "a")
    cluster.converge()
    assert b"late" in cluster["a"].machine.rows()
    cluster.run(0.1)
    assert len(results) == 1


def test_hazard_n4_a_proposal_nobody_confirms_times_out(make_cluster: Make) -> None:
    cluster = steady(make_cluster, propose_timeout_s=0.4)
    cluster.network.isolate("a", cluster.ids)
    results = cluster.propose(cluster["a"], b"y")
    started = cluster.world.now
    cluster.until(lambda: bool(results))
    assert isinstance(results[0], Unknown)
    assert cluster.world.now - started < 0.45


def test_hazard_n4_entries_of_an_earlier_boot_answer_nobody(make_cluster: Make) -> None:
    cluster = steady(make_cluster)
    before = cluster["a"].host.origin
    cluster.restart("a")
    node = cluster.make_leader(NodeId("a"))
    cluster.network.isolate("a", cluster.ids)
    results = cluster.propose(node, b"mine")
    cluster.run(0.01)
    for number in range(5):
        node.group.applied(99, before, number, [b"of the earlier boot"])
    cluster.run(0.01)
    assert node.host.origin != before
    assert results == []


def test_queues_are_bounded_and_refuse_early(make_cluster: Make) -> None:
    cluster = steady(make_cluster, queue_max_operations=10)
    cluster.network.isolate("a", cluster.ids)
    results: list[object] = []
    for number in range(15):
        cluster["a"].group.propose(b"%d" % number, results.append)
    cluster.run(0.01)
    assert len(results) == 5
    assert all(isinstance(result, Refused) for result in results)


def test_queued_bytes_are_bounded(make_cluster: Make) -> None:
    cluster = steady(make_cluster, queue_max_bytes=1000)
    results: list[object] = []
    for _ in range(3):
        cluster["a"].group.propose(b"y" * 400, results.append)
    cluster.run(0.2)
    assert sorted(type(result).__name__ for result in results) == ["Applied", "Applied", "Refused"]


def test_stop_answers_everything(make_cluster: Make) -> None:
    cluster = steady(make_cluster)
    cluster.network.isolate("a", cluster.ids)
    results = cluster.propose(cluster["a"], b"y")
    reads = cluster.read(cluster["a"])
    cluster.run(0.01)
    cluster["a"].host.stop()
    cluster.run(0.01)
    assert isinstance(results[0], Unknown)
    assert isinstance(reads[0], Refused)
    after = cluster.propose(cluster["a"], b"z")
    cluster.run(0.01)
    assert isinstance(after[0], Refused)
