"""Idle groups sleep under one beat a pair of nodes, and wake for everything that needs them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from raftgroups.messages import Ack, Beat, PreVote, Sleep
from raftgroups.outcomes import Applied, ReadReady, Refused, Unknown
from raftgroups.status import Role
from raftgroups.transport import NodeId

Make = Callable[..., Any]
A, B, C = (NodeId(name) for name in "abc")


def asleep(make_cluster: Make, groups: int = 1, **settings: Any) -> Any:
    """All groups led by a, all asleep."""
    cluster = make_cluster(3, hibernate_after_s=1.0, **settings)
    for group in range(1, groups + 1):
        cluster.create(group)
    cluster.put(b"x")
    for group in range(1, groups + 1):
        results: list[object] = []
        leader = cluster.lead(group)
        if leader.id != A:
            leader.host.group(group).transfer(A, results.append)
            cluster.until(lambda results=results: bool(results))
    cluster.until(lambda: all_asleep(cluster, groups))
    cluster.run(5.0)
    cluster.network.log.clear()
    return cluster


def all_asleep(cluster: Any, groups: int) -> bool:
    return all(node.host.status().hibernating == groups for node in cluster.alive())


def test_idle_groups_send_one_beat_a_pair_of_nodes(make_cluster: Make) -> None:
    cluster = asleep(make_cluster, groups=20)
    turns = [node.host.status().turns for node in cluster.alive()]
    cluster.run(10.0)
    assert all_asleep(cluster, 20)
    assert {type(message) for _, _, message in cluster.network.log} == {Beat}
    assert len(cluster.network.log) == 2 * 100
    assert [node.host.status().turns for node in cluster.alive()] == turns
    assert cluster.leaders(7)[0].id == "a"


def test_a_proposal_wakes_the_group_and_it_sleeps_again(make_cluster: Make) -> None:
    cluster = asleep(make_cluster, groups=3)
    started = cluster.world.now
    assert isinstance(cluster.put(b"y"), Applied)
    assert cluster.world.now - started < 0.02
    cluster.converge()
    assert [node.host.status().hibernating for node in cluster.alive()] == [2, 2, 2]
    assert cluster["a"].group.term == cluster["b"].group.term
    cluster.until(lambda: all_asleep(cluster, 3), 3.0)


def test_reads_on_sleeping_replicas(make_cluster: Make) -> None:
    for node in "abc":
        cluster = asleep(make_cluster)
        results = cluster.read(cluster[node])
        cluster.until(lambda results=results: bool(results), 0.05)
        assert isinstance(results[0], ReadReady)


def test_the_death_of_a_sleeping_leader_is_noticed(make_cluster: Make) -> None:
    cluster = asleep(make_cluster, groups=5)
    cluster.crash(A)
    died = cluster.world.now
    for group in range(1, 6):
        cluster.lead(group)
    assert cluster.world.now - died < 0.5


def test_a_sleeping_leader_that_freezes_is_noticed(make_cluster: Make) -> None:
    cluster = asleep(make_cluster)
    cluster["a"].life.frozen = True
    frozen = cluster.world.now

    def others() -> bool:
        return any(node.id != "a" for node in cluster.leaders())

    cluster.until(others)
    assert cluster.world.now - frozen < 2.0
    cluster.run(1.0)
    cluster["a"].life.thaw()
    read = cluster.read(cluster["a"])
    cluster.until(lambda: len(cluster.leaders()) == 1)
    newer = cluster.put(b"y")
    cluster.until(lambda: bool(read), 5.0)
    assert not isinstance(read[0], ReadReady) or read[0].index >= newer.index - 1
    cluster.converge()


def test_a_leader_that_restarted_in_a_blink_is_not_waited_for(make_cluster: Make) -> None:
    cluster = asleep(make_cluster)
    gone = cluster.nodes[A]
    gone.life.alive = False
    cluster.start(A, gone.engine)
    cluster.lead()
    assert isinstance(cluster.put(b"y"), Applied)
    cluster.converge()


def test_another_boot_of_the_leader_wakes_its_followers(make_cluster: Make) -> None:
    cluster = asleep(make_cluster)
    cluster["b"].host._hibernation.boot_heard(
        A, "another boot", cluster["b"].host.clock.monotonic()
    )
    assert cluster["b"].host.status().hibernating == 0


def test_a_read_wakes_a_follower_though_an_older_one_is_on_its_way(make_cluster: Make) -> None:
    """It was told to sleep while it asked; the answer may be lost, and nobody asks again asleep."""
    cluster = make_cluster(3)
    cluster.create()
    cluster.put(b"x")
    cluster.make_leader(A)
    cluster.converge()
    cluster.run(0.3)
    cluster.network.hold("a", "b")
    b, results = cluster["b"], list[object]()
    b.group.read(results.append)
    cluster.run(0.002)
    cluster.inject("a", "b", Sleep(1, b.group.term, b.group.status().last_index))
    cluster.run(0.002)
    assert b.host.status().hibernating == 1
    b.group.read(results.append)
    cluster.run(0.002)
    assert b.host.status().hibernating == 0


def test_only_a_follower_that_has_everything_goes_to_sleep(make_cluster: Make) -> None:
    cluster = make_cluster(3)
    cluster.create()
    cluster.put(b"x")
    cluster.make_leader(A)
    cluster.converge()
    cluster.run(1.0)
    term, last = cluster["a"].group.term, cluster["a"].group.status().last_index
    for wrong in (Sleep(1, term, last + 1), Sleep(1, term, last - 1), Sleep(1, term - 1, last)):
        cluster.inject("a", "b", wrong)
    cluster.inject("c", "b", Sleep(1, term, last))
    cluster.run(0.01)
    assert cluster["b"].host.status().hibernating == 0
    assert cluster["b"].host.status().dropped["not-tired"] == 4
    cluster.inject("a", "b", Sleep(1, term, last))
    cluster.run(0.01)
    assert cluster["b"].host.status().hibernating == 1


def test_calls_on_a_sleeping_leader_that_is_cut_off_are_answered(make_cluster: Make) -> None:
    for call in ("propose", "read"):
        cluster = asleep(make_cluster)
        cluster.network.isolate("a", cluster.ids)
        results = cluster.propose(cluster["a"], b"y") if call == "propose" else []
        if call == "read":
            cluster["a"].group.read(results.append)
        cluster.until(lambda results=results: bool(results), 6.0)
        assert isinstance(results[0], Unknown if call == "propose" else Refused)


def test_a_sleeping_follower_stays_sticky(make_cluster: Make) -> None:
    cluster = asleep(make_cluster)
    term = cluster["a"].group.term
    cluster["c"].host.wake(1)
    cluster["c"].group.replica.raft.election_deadline = 0.0
    cluster.run(0.05)
    answers = cluster.sent(PreVote, target="c")
    assert len(answers) == 2
    assert not any(answer.granted for answer in answers)
    cluster.run(0.5)
    assert cluster["a"].group.role is Role.LEADER
    assert cluster["a"].group.term == term


def test_a_follower_that_was_away_wakes_the_group_and_catches_up(make_cluster: Make) -> None:
    cluster = asleep(make_cluster)
    engine = cluster.crash(C)
    cluster.put(b"y")
    cluster.until(lambda: cluster["a"].host.status().hibernating == 1, 5.0)
    cluster.start(C, engine)
    cluster.converge()
    cluster.until(lambda: all_asleep(cluster, 1), 5.0)


def test_a_sleeping_leader_whose_disk_stalls_hands_on(make_cluster: Make) -> None:
    cluster = asleep(make_cluster)
    term = cluster["a"].group.term
    cluster["a"].host.stalled(1.5)
    started = cluster.world.now
    cluster.until(lambda: bool(cluster.leaders()) and cluster.lead().group.term > term, 3.0)
    assert cluster.world.now - started < 1.5
    assert isinstance(cluster.put(b"y"), Applied)


def test_nobody_sleeps_while_one_who_is_there_is_behind(make_cluster: Make) -> None:
    cluster = make_cluster(3, hibernate_after_s=1.0)
    cluster.create()
    cluster.put(b"x")
    cluster.make_leader(A)
    cluster.network.isolate("c", cluster.ids)
    cluster.put(b"y")
    cluster.run(5.0)
    assert cluster["a"].host.status().hibernating == 0


def test_an_answer_to_the_last_heartbeat_does_not_wake_the_leader(make_cluster: Make) -> None:
    cluster = asleep(make_cluster)
    last, term = cluster["a"].group.status().last_index, cluster["a"].group.term
    cluster.inject("b", "a", Ack(1, term, last + 1, success=True, reset=False))
    cluster.run(0.01)
    assert cluster["a"].host.status().hibernating == 1
    cluster.inject("b", "a", Ack(1, term, last, success=False, reset=True))
    cluster.run(0.01)
    assert cluster["a"].host.status().hibernating == 0


def test_a_lost_good_night_only_wakes_the_others(make_cluster: Make) -> None:
    cluster = asleep(make_cluster)
    cluster.put(b"y")
    cluster.network.isolate("c", [A, B, C])
    cluster.until(lambda: cluster["b"].group.status().last_index > 0 or True)
    cluster.network.heal()
    cluster.converge()
    cluster.until(lambda: all_asleep(cluster, 1), 10.0)
    assert len({node.group.term for node in cluster.alive()}) == 1


def test_a_sleeping_replica_that_is_retired_sleeps_no_more(make_cluster: Make) -> None:
    cluster = asleep(make_cluster, groups=2)
    done: list[bool] = []
    for node in cluster.alive():
        node.host.retire(2, lambda: done.append(True))
    assert [node.host.status().hibernating for node in cluster.alive()] == [1, 1, 1]
    cluster.until(lambda: len(done) == 3)
    cluster.run(2.0)
    assert all_asleep(cluster, 1)
