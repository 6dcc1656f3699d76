"""Hazard f: linearizable reads. One probe in flight, for those who came before it, in this term."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from raftgroups.messages import Append, Echo, Probe, ReadIndex, ReadRequest
from raftgroups.outcomes import ReadReady, Refused
from raftgroups.readpath import Together
from raftgroups.reads import Reader, ReadPoints
from raftgroups.status import Role
from raftgroups.transport import NodeId
from tests.unit.raftgroups.members import Make, steady


def read_through(cluster: Any, node: str) -> None:
    results = cluster.read(cluster[node])
    cluster.until(lambda: bool(results))


def test_hazard_f_no_read_before_an_entry_of_the_own_term_is_committed(make_cluster: Make) -> None:
    """b is elected but cannot commit its no-op yet: c's last acknowledged entry may be unknown."""
    cluster = steady(make_cluster)
    acknowledged = cluster.put(b"y")
    cluster.crash("a")

    def no_entries(source: str, target: str, message: Any) -> list[Any]:
        if isinstance(message, Append) and message.entries:
            return []
        return [message]

    cluster.network.tap = no_entries
    cluster.until(lambda: bool(cluster.leaders()))
    leader = cluster.leaders()[0]
    assert not leader.group.replica.own_term_committed()
    results = cluster.read(leader)
    cluster.run(0.4)
    assert results == []
    assert cluster.sent(Probe, leader.id) == []
    cluster.network.tap = None
    cluster.until(lambda: bool(results))
    assert isinstance(results[0], ReadReady)
    assert results[0].index > acknowledged.index


def test_hazard_f_a_later_read_does_not_board_a_flying_probe(make_cluster: Make) -> None:
    cluster = steady(make_cluster)
    leader = cluster["a"]
    cluster.network.hold("b", "a")
    cluster.network.hold("c", "a")
    first = cluster.read(leader)
    cluster.run(0.01)
    assert len(cluster.sent(Probe)) == 1
    asked = "b" if cluster.sent(Probe, target="b") else "c"
    late = cluster.read(leader)
    cluster.run(0.01)
    assert len(cluster.sent(Probe)) == 1, "at most one probe is in flight"
    cluster.network.release(asked, "a")
    cluster.network.hold(asked, "a")
    cluster.run(0.01)
    assert isinstance(first[0], ReadReady)
    assert late == []
    assert len({probe.probe for probe in cluster.sent(Probe)}) == 2
    cluster.network.release("b", "a")
    cluster.network.release("c", "a")
    cluster.until(lambda: bool(late))


def test_hazard_f_reads_of_one_pass_share_a_probe(make_cluster: Make) -> None:
    cluster = steady(make_cluster)
    results: list[object] = []
    for _ in range(50):
        cluster["a"].group.read(results.append)
    cluster.until(lambda: len(results) == 50)
    assert len(cluster.sent(Probe)) == 1


@pytest.mark.parametrize("voters", [3, 4, 5])
def test_a_probe_goes_to_as_many_as_are_needed_and_heard_last(
    make_cluster: Make, voters: int
) -> None:
    cluster = make_cluster(voters)
    cluster.create()
    cluster.put(b"x")
    cluster.make_leader(NodeId("a"))
    cluster.converge()
    for reader in ("b", "c", "c"):  # in pairs at most, so that c was surely heard last
        read_through(cluster, reader)
    cluster.network.log.clear()
    results = cluster.read(cluster["a"])
    cluster.until(lambda: bool(results))
    assert isinstance(results[0], ReadReady)
    asked = [target for _, target, message in cluster.network.log if isinstance(message, Probe)]
    assert len(asked) == voters // 2
    assert "c" in asked


def test_a_silent_voter_costs_half_a_heartbeat_once(make_cluster: Make) -> None:
    """Who was heard last is frozen: everybody is asked then, and he is not asked first again."""
    cluster = steady(make_cluster)
    read_through(cluster, "b")
    cluster.network.hold("b", "a")
    cluster.network.log.clear()
    results = cluster.read(cluster["a"])
    cluster.run(0.04)
    assert results == []
    cluster.run(0.03)
    assert isinstance(results[0], ReadReady)
    results = cluster.read(cluster["a"])
    cluster.run(0.01)
    assert isinstance(results[0], ReadReady)
    asked = [target for _, target, message in cluster.network.log if isinstance(message, Probe)]
    assert asked[0] == "b"
    assert set(asked[1:3]) == {"b", "c"}
    assert asked[3:] == ["c"]


def test_a_lost_voter_costs_nothing(make_cluster: Make) -> None:
    cluster = steady(make_cluster)
    read_through(cluster, "b")
    cluster.network.hold("b", "a")
    results = cluster.read(cluster["a"])
    cluster.run(0.002)
    assert results == []
    cluster.crash("b")
    cluster.run(0.005)
    assert isinstance(results[0], ReadReady)


def test_hazard_f_reads_join_what_waits_and_not_what_has_left(make_cluster: Make) -> None:
    cluster = steady(make_cluster)
    group = cluster["a"].group
    cluster.network.hold("b", "a")
    cluster.network.hold("c", "a")
    told: list[tuple[list[str], object]] = []
    first = group.read_together(lambda reads, result: told.append((reads, result)))
    assert isinstance(first, Together)
    first.reads.append("before the probe left")
    cluster.run(0.01)
    assert first.left
    second = group.read_together(lambda reads, result: told.append((reads, result)))
    assert isinstance(second, Together)
    second.reads.append("while it flies")
    cluster.run(0.01)
    assert not second.left, "nothing may leave while a probe is in flight"
    second.reads.append("a pass later")
    cluster.network.release("b", "a")
    cluster.network.release("c", "a")
    cluster.until(lambda: len(told) == 2)
    assert [reads for reads, _ in told] == [
        ["before the probe left"],
        ["while it flies", "a pass later"],
    ]
    assert len({probe.probe for probe in cluster.sent(Probe)}) == 2


def test_reads_are_bounded_whether_they_wait_or_fly(make_cluster: Make) -> None:
    cluster = steady(make_cluster)
    group = cluster["a"].group
    most = cluster["a"].host.config.reads_max
    cluster.network.hold("b", "a")
    cluster.network.hold("c", "a")
    flying = group.read_together(lambda reads, result: None)
    assert isinstance(flying, Together)
    assert flying.most == most
    flying.reads += ["read"] * (most - 2)
    cluster.run(0.01)
    waiting = group.read_together(lambda reads, result: None)
    assert isinstance(waiting, Together)
    assert waiting.most == 2
    cluster.network.release("b", "a")
    cluster.run(0.1)
    after = group.read_together(lambda reads, result: None)
    assert isinstance(after, Together)
    assert after.most == most


def test_hazard_f_the_index_is_taken_when_the_probe_leaves() -> None:
    points = ReadPoints(0)
    answers: list[int | None] = []
    points.arrive(Reader(lambda index, why: answers.append(index), 9.0))
    flight = points.depart(term=3, index=10)
    assert flight is not None
    points.arrive(Reader(lambda index, why: answers.append(index), 9.0))
    assert points.depart(term=3, index=11) is None
    assert points.echo(NodeId("b"), 3, flight.number) == 1
    points.confirmed()
    points.applied(9)
    assert answers == []
    points.applied(10)
    assert answers == [10]
    later = points.depart(term=3, index=12)
    assert later is not None
    assert len(later.readers) == 1


def test_hazard_f_only_echoes_of_this_probe_in_this_term_from_voters_count(
    make_cluster: Make,
) -> None:
    cluster = steady(make_cluster)
    leader = cluster["a"]
    cluster.network.isolate("a", cluster.ids)
    results = cluster.read(leader)
    cluster.run(0.001)
    probe = cluster.sent(Probe)[0]
    cluster.inject("b", "a", Echo(1, probe.term, probe.probe - 1))
    cluster.inject("b", "a", Echo(1, probe.term - 1, probe.probe))
    cluster.inject("y", "a", Echo(1, probe.term, probe.probe), incarnation=5)
    cluster.inject("b", "a", Echo(1, probe.term, probe.probe), incarnation=5)
    cluster.run(0.001)
    assert results == []
    cluster.inject("b", "a", Echo(1, probe.term, probe.probe))
    cluster.run(0.001)
    assert isinstance(results[0], ReadReady)


def test_hazard_f_a_follower_echoes_only_its_leader_of_this_term(make_cluster: Make) -> None:
    cluster = steady(make_cluster)
    term = cluster["a"].group.status().term
    cluster.inject("a", "b", Probe(1, term - 1, 7))
    cluster.inject("a", "b", Probe(1, term + 1, 7))
    cluster.inject("c", "b", Probe(1, term, 7))
    cluster.run(0.01)
    assert cluster.sent(Echo, "b") == []
    assert cluster["b"].host.status().dropped["late-probe"] == 3


def test_hazard_f_a_leader_cut_off_never_serves_a_stale_read(make_cluster: Make) -> None:
    cluster = steady(make_cluster)
    cluster.network.isolate("a", cluster.ids)
    read = cluster.read(cluster["a"])
    cluster.until(lambda: [n for n in cluster.leaders() if n.id != "a"] != [])
    cluster.run(0.5)
    cluster.put(b"newer")
    cluster.network.heal()
    cluster.until(lambda: bool(read))
    if isinstance(read[0], ReadReady):
        assert cluster["a"].machine.rows()[-1] == b"newer"
    assert b"newer" not in cluster["a"].machine.rows() or read


def test_hazard_f_reads_of_a_lost_leadership_wait_for_the_next_one(make_cluster: Make) -> None:
    cluster = steady(make_cluster, read_timeout_s=5.0)
    cluster.network.isolate("a", cluster.ids)
    read = cluster.read(cluster["a"])
    cluster.until(lambda: cluster["a"].group.status().role is not Role.LEADER)
    assert read == []
    newer = cluster.put(b"newer")
    cluster.network.heal()
    cluster.until(lambda: bool(read))
    assert isinstance(read[0], ReadReady)
    assert read[0].index >= newer.index
    assert cluster["a"].machine.rows()[-1] == b"newer"


def test_hazard_f_a_followers_reads_are_one_request_at_a_time(make_cluster: Make) -> None:
    cluster = steady(make_cluster)
    follower = cluster["b"]
    cluster.network.hold("a", "b")
    early: list[object] = []
    for _ in range(20):
        follower.group.read(early.append)
    cluster.run(0.01)
    late = cluster.read(follower)
    cluster.run(0.01)
    assert len(cluster.sent(ReadRequest, "b")) == 1
    cluster.network.release("a", "b")
    cluster.until(lambda: len(early) == 20 and bool(late))
    assert len({request.request for request in cluster.sent(ReadRequest, "b")}) == 2


def test_reads_behind_a_request_that_is_refused_ask_at_once(make_cluster: Make) -> None:
    cluster = steady(make_cluster)
    cluster.network.hold("a", "b")
    first = cluster.read(cluster["b"])
    cluster.run(0.002)
    request = cluster.sent(ReadRequest, "b")[-1]
    second = cluster.read(cluster["b"])
    cluster.run(0.002)
    assert len(cluster.sent(ReadRequest, "b")) == 1
    cluster.inject("a", "b", ReadIndex(1, request.term, request.request, None))
    cluster.run(0.002)
    assert isinstance(first[0], Refused)
    assert second == []
    assert len(cluster.sent(ReadRequest, "b")) == 2


def test_hazard_f_what_is_kept_of_a_configuration_ends_with_it(make_cluster: Make) -> None:
    """Of three voters the request of one is an echo; of four it is not, and whoever was removed has
    no voice, whatever he was before."""
    cluster = make_cluster(4)
    cluster.create(voters="abc")
    cluster.put(b"x")
    cluster.make_leader(NodeId("a"))
    cluster.run(0.3)
    read_through(cluster, "b")
    cluster.network.log.clear()
    read_through(cluster, "b")
    assert cluster.sent(Probe) == []
    leader, voice = cluster["a"].group, cluster["b"].host.incarnation
    config = leader.replica.journal.config
    four = replace(config, voters={**config.voters, NodeId("d"): 1})
    leader.replica.journal.config = four
    request = ReadRequest(1, leader.term, 77)
    cluster.inject("b", "a", request)
    cluster.run(0.002)
    assert cluster.sent(Probe) != []
    leader.replica.journal.config = config.without(NodeId("b"))
    dropped = cluster["a"].host.status().dropped.get("late-echo", 0)
    cluster.inject("b", "a", Echo(1, leader.term, 1), incarnation=voice)
    assert cluster["a"].host.status().dropped["late-echo"] == dropped + 1


def test_hazard_f_a_follower_answers_only_once_it_has_applied_the_index(
    make_cluster: Make,
) -> None:
    cluster = steady(make_cluster)
    follower = cluster["b"]

    def no_appends(source: str, target: str, message: Any) -> list[Any]:
        return [] if isinstance(message, Append) and target == "b" else [message]

    cluster.network.tap = no_appends
    written = cluster.put(b"newer")
    results = cluster.read(follower)
    cluster.run(0.1)
    assert results == []
    cluster.network.tap = None
    cluster.until(lambda: bool(results))
    assert isinstance(results[0], ReadReady)
    assert results[0].index >= written.index
    assert follower.machine.rows()[-1] == b"newer"


def test_a_voters_request_is_its_own_echo(make_cluster: Make) -> None:
    """Three voters: no probe, and the index is the leader's commit index of that moment."""
    cluster = steady(make_cluster)
    written = cluster.put(b"newer")
    cluster.network.isolate("c", cluster.ids)
    cluster.network.log.clear()
    results = cluster.read(cluster["b"])
    cluster.until(lambda: bool(results))
    assert isinstance(results[0], ReadReady)
    assert results[0].index >= written.index
    assert cluster.sent(Probe) == []


@pytest.mark.parametrize("voters", [2, 3, 4, 5])
def test_a_request_is_enough_only_where_two_are_a_majority(make_cluster: Make, voters: int) -> None:
    cluster = make_cluster(voters)
    cluster.create()
    cluster.put(b"x")
    cluster.make_leader(NodeId("a"))
    cluster.converge()
    cluster.network.log.clear()
    results = cluster.read(cluster["b"])
    cluster.until(lambda: bool(results))
    assert isinstance(results[0], ReadReady)
    assert (cluster.sent(Probe) == []) is (voters <= 3)


def test_a_request_of_another_term_or_of_no_voter_is_no_echo(make_cluster: Make) -> None:
    """A request that was sent before the leader's term says nothing about now."""
    cluster = steady(make_cluster)
    term = cluster["a"].group.status().term
    cluster.network.isolate("a", cluster.ids)
    for request in (
        lambda: cluster.inject("b", "a", ReadRequest(1, term - 1, 7)),
        lambda: cluster.inject("b", "a", ReadRequest(1, term, 8), incarnation=5),
        lambda: cluster.inject("y", "a", ReadRequest(1, term, 9), incarnation=5),
    ):
        request()
        cluster.run(0.001)
    assert cluster.sent(ReadIndex, "a") == []
    cluster.inject("b", "a", ReadRequest(1, term, 10))
    cluster.run(0.001)
    assert [answer.request for answer in cluster.sent(ReadIndex, "a")] == [10]


def test_a_new_leader_answers_no_request_before_its_own_term_is_committed(
    make_cluster: Make,
) -> None:
    cluster = steady(make_cluster)

    def no_entries(source: str, target: str, message: Any) -> list[Any]:
        return [] if isinstance(message, Append) and message.entries else [message]

    cluster.crash("a")
    cluster.network.tap = no_entries
    cluster.until(lambda: bool(cluster.leaders()))
    leader = cluster.leaders()[0]
    other = next(node for node in ("b", "c") if node != leader.id)
    term = leader.group.status().term
    cluster.inject(other, leader.id, ReadRequest(1, term, 7))
    cluster.run(0.05)
    assert cluster.sent(ReadIndex, leader.id) == []


def test_a_lost_probe_or_request_is_said_again(make_cluster: Make) -> None:
    cluster = steady(make_cluster)
    lost: list[Any] = []

    def lose_once(source: str, target: str, message: Any) -> list[Any]:
        if isinstance(message, Probe | ReadRequest) and lost.count(type(message)) < 2:
            lost.append(type(message))
            return []
        return [message]

    cluster.network.tap = lose_once
    for node in ("a", "b"):
        results = cluster.read(cluster[node])
        cluster.until(lambda results=results: bool(results), 1.5)
        assert isinstance(results[0], ReadReady)


def test_a_read_without_a_majority_is_refused_in_time(make_cluster: Make) -> None:
    cluster = steady(make_cluster, read_timeout_s=1.0)
    cluster.crash("b")
    cluster.crash("c")
    results = cluster.read(cluster["a"])
    started = cluster.world.now
    cluster.until(lambda: bool(results))
    assert isinstance(results[0], Refused)
    assert cluster.world.now - started < 1.1


def test_reads_behind_a_point_that_was_given_up_leave_at_once(make_cluster: Make) -> None:
    cluster = steady(make_cluster, read_timeout_s=1.0)
    first = cluster.read(cluster["b"])
    cluster.run(0.0001)
    request = cluster.sent(ReadRequest, "b")[-1].request
    cluster.network.tap = lambda _source, _target, message: (
        [] if isinstance(message, ReadIndex) and message.request == request else [message]
    )
    cluster.run(0.5)
    second = cluster.read(cluster["b"])
    cluster.run(0.4)
    assert first == second == []
    cluster.until(lambda: bool(first), 0.2)
    assert isinstance(first[0], Refused)
    cluster.run(0.002)
    asked = {each.request for each in cluster.sent(ReadRequest, "b")}
    assert len(asked) == 2, "it waits neither for a turn nor for its own deadline"
    cluster.until(lambda: bool(second), 0.1)
    assert isinstance(second[0], ReadReady)


def test_reads_go_on_while_a_sync_is_in_flight(make_cluster: Make) -> None:
    cluster = steady(make_cluster)
    cluster["a"].writer.hold = True
    cluster.propose(cluster["a"], b"slow")
    cluster.run(0.01)
    results = cluster.read(cluster["a"])
    cluster.run(0.01)
    assert isinstance(results[0], ReadReady)


def test_canary_a_read_that_joins_a_probe_gets_its_old_index() -> None:
    points = ReadPoints(0)
    points.arrive(Reader(lambda index, why: None, 9.0))
    flight = points.depart(term=3, index=10)
    points.arrive(Reader(lambda index, why: None, 9.0), join_flight=True)
    assert flight is not None
    assert len(flight.readers) == 2
