"""Hazards of elections: e (pre-vote, stickiness, stuck terms), e2 (counting), m (hand-over)."""

from __future__ import annotations

from typing import Any

import pytest

from raftgroups.filters import e_pre_vote
from raftgroups.messages import (
    Append,
    PreVote,
    PreVoteRequest,
    Stale,
    TimeoutNow,
    Vote,
    VoteRequest,
)
from raftgroups.outcomes import Applied, Done, Refused
from raftgroups.seams import CANDIDATE
from raftgroups.status import Role
from raftgroups.transport import NodeId
from tests.unit.raftgroups.members import Make, steady


def candidate(cluster: Any, node: str) -> Any:
    """Let this node stand while nobody hears it, and stop just then."""
    cluster.network.isolate(node, cluster.ids)
    election = cluster[node].group.replica.voting.election
    cluster[node].group.replica.voting.leader_lost()
    election.ordered = True
    cluster.until(lambda: cluster[node].group.replica.raft.role == CANDIDATE)
    return cluster[node].group.replica


# --- e ---------------------------------------------------------------------------------------


def test_hazard_e_a_rejoining_node_does_not_depose_the_leader(make_cluster: Make) -> None:
    cluster = steady(make_cluster)
    before = cluster["a"].group.status()
    cluster.network.isolate("c", cluster.ids)
    cluster.run(10.0)
    assert cluster["c"].group.status().term == before.term
    cluster.network.heal()
    cluster.run(3.0)
    after = cluster["a"].group.status()
    assert (after.role, after.term) == (Role.LEADER, before.term)
    assert cluster["c"].group.status().leader == "a"
    assert cluster.sent(VoteRequest) == []


@pytest.mark.parametrize("target", ["a", "b"])
def test_hazard_e_a_vote_request_moves_no_term_while_a_leader_is_there(
    make_cluster: Make, target: str
) -> None:
    cluster = steady(make_cluster)
    before = cluster["a"].group.status()
    last = before.last_index
    cluster.inject("c", target, VoteRequest(1, before.term + 7, last, before.term, False))
    cluster.run(0.5)
    assert cluster["a"].group.status().role is Role.LEADER
    assert cluster[target].group.status().term == before.term
    assert cluster[target].host.status().dropped["e-leader-is-there"] == 1


def test_hazard_e_a_node_whose_term_ran_ahead_comes_back(make_cluster: Make) -> None:
    cluster = steady(make_cluster)
    cluster["c"].group.replica.raft.raise_term(NodeId("b"), 50)
    cluster.until(lambda: cluster["c"].group.status().leader is not None, 5.0)
    leader = cluster.lead()
    assert leader.group.status().term > 50
    cluster.put(b"y")
    cluster.converge()
    assert cluster.sent(Stale, "c")


def test_hazard_e_stale_answers_of_strangers_move_nothing(make_cluster: Make) -> None:
    cluster = steady(make_cluster)
    term = cluster["a"].group.status().term
    cluster.inject("z", "a", Stale(1, term + 5), incarnation=77)
    cluster.inject("b", "a", Stale(1, term + 5), incarnation=77)
    cluster.run(0.05)
    assert cluster["a"].group.status().term == term


def test_hazard_e_a_candidate_whose_term_is_behind_catches_up(make_cluster: Make) -> None:
    """The only electable node has an older term than the other one: without following the term
    of the refusal it would be refused for ever."""
    cluster = steady(make_cluster)
    cluster.crash("a")
    cluster.network.isolate("c", cluster.ids)
    results: list[object] = []
    cluster["b"].group.replica.raft.raise_term(NodeId("c"), 9)
    journal = cluster["b"].group.replica.journal
    assert journal.last_index == cluster["c"].group.replica.journal.last_index
    cluster["c"].group.replica.journal.add(b"\x01", journal.last_index + 1, journal.last_term)
    cluster.network.heal()
    cluster.until(lambda: bool(cluster.leaders()), 5.0)
    assert [node.id for node in cluster.leaders()] == ["c"]
    assert results == []


def test_hazard_e_a_leader_that_asks_for_votes_is_waited_for_no_longer(make_cluster: Make) -> None:
    cluster = steady(make_cluster)
    status = cluster["b"].group.status()
    for term, granted in ((status.term, False), (status.term + 1, True)):
        cluster.network.log.clear()
        request = PreVoteRequest(1, term, status.last_index + 1, status.term, 5)
        cluster.inject("a", "b", request)
        cluster.run(0.0001)
        assert [answer.granted for answer in cluster.sent(PreVote, "b")] == [granted]


def test_rule_e_pre_vote_is_granted_only_to_whom_we_would_vote_for() -> None:
    good: dict[str, Any] = {
        "proposed_term": 6,
        "candidate": (5, 10),
        "own_term": 5,
        "own": (5, 10),
        "leads": False,
        "silence_s": 1.0,
        "election_timeout_s": 0.5,
    }
    assert e_pre_vote(**good)
    assert e_pre_vote(**{**good, "candidate": (5, 11)})
    for worse in (
        {"proposed_term": 5},
        {"candidate": (5, 9)},
        {"candidate": (4, 99)},
        {"leads": True},
        {"silence_s": 0.4},
    ):
        assert not e_pre_vote(**{**good, **worse}), worse


def test_a_leader_that_a_majority_does_not_answer_steps_down(make_cluster: Make) -> None:
    cluster = steady(make_cluster)
    cluster.network.isolate("a", cluster.ids)
    started = cluster.world.now
    cluster.until(lambda: cluster["a"].group.status().role is not Role.LEADER, 3.0)
    assert 0.9 < cluster.world.now - started < 1.3
    assert isinstance(_result(cluster, "a"), Refused)


def _result(cluster: Any, node: str) -> object:
    results = cluster.propose(cluster[node], b"z")
    cluster.until(lambda: bool(results))
    return results[0]


def test_a_leader_whose_disk_stands_still_steps_down_first(make_cluster: Make) -> None:
    cluster = steady(make_cluster)
    leader = cluster["a"]
    leader.writer.hold = True
    results = cluster.propose(leader, b"slow")
    cluster.run(0.9)
    assert leader.group.status().role is Role.LEADER
    cluster.run(0.3)
    leader.writer.hold = False
    leader.writer.finish()
    assert leader.group.status().role is Role.FOLLOWER
    assert leader.host.status().stalls == 1
    cluster.converge()
    assert results


# --- e2 --------------------------------------------------------------------------------------


def test_hazard_e2_a_repeated_vote_counts_once(make_cluster: Make) -> None:
    cluster = steady(make_cluster, 5)
    replica = candidate(cluster, "a" if cluster.lead().id != "a" else "b")
    node = replica.services.node_id
    voter = next(n for n in cluster.ids if n != node)
    for _ in range(3):
        cluster.inject(voter, node, Vote(1, replica.raft.term))
    cluster.run(0.01)
    assert replica.raft.role == CANDIDATE
    assert cluster[node].host.status().dropped["e2-duplicate-vote"] == 2


def test_hazard_e2_votes_of_strangers_do_not_count(make_cluster: Make) -> None:
    cluster = steady(make_cluster)
    replica = candidate(cluster, "b")
    cluster.inject("y", "b", Vote(1, replica.raft.term), incarnation=5)
    cluster.inject("c", "b", Vote(1, replica.raft.term), incarnation=5)
    cluster.run(0.01)
    assert replica.raft.role == CANDIDATE
    assert cluster["b"].host.status().dropped["e2-vote-of-a-non-voter"] == 2
    cluster.inject("c", "b", Vote(1, replica.raft.term))
    cluster.run(0.01)
    assert replica.raft.leads


def test_hazard_e2_pre_votes_count_once_and_from_voters_only(make_cluster: Make) -> None:
    cluster = steady(make_cluster, 5)
    replica = cluster["b"].group.replica
    cluster.network.isolate("b", cluster.ids)
    cluster.until(lambda: replica.voting.election.asking)
    election, config = replica.voting.election, replica.journal.config
    bound = config.voters
    assert not election.pre_vote(config, NodeId("c"), bound["c"], election.round)
    assert not election.pre_vote(config, NodeId("c"), bound["c"], election.round)
    assert not election.pre_vote(config, NodeId("y"), 5, election.round)
    assert not election.pre_vote(config, NodeId("d"), bound["d"] + 1, election.round)
    assert not election.pre_vote(config, NodeId("d"), bound["d"], election.round - 1)
    assert election.pre_vote(config, NodeId("d"), bound["d"], election.round)


def test_a_vote_of_an_earlier_candidacy_is_dropped(make_cluster: Make) -> None:
    cluster = steady(make_cluster)
    replica = candidate(cluster, "b")
    before = cluster["b"].host.status().dropped.get("late-vote", 0)
    cluster.inject("c", "b", Vote(1, replica.raft.term - 1))
    cluster.run(0.01)
    assert replica.raft.role == CANDIDATE
    assert cluster["b"].host.status().dropped["late-vote"] == before + 1


# --- m ---------------------------------------------------------------------------------------


def test_hazard_m_hand_over_waits_for_a_target_that_is_behind(make_cluster: Make) -> None:
    cluster = steady(make_cluster)
    cluster.network.hold("a", "b")
    cluster.put(b"y")
    results: list[object] = []
    cluster["a"].group.transfer(NodeId("b"), results.append)
    cluster.run(0.3)
    assert cluster.sent(TimeoutNow) == []
    refused = cluster.propose(cluster["a"], b"meanwhile")
    cluster.run(0.01)
    assert isinstance(refused[0], Refused)
    assert "handed over" in refused[0].reason
    cluster.network.release("a", "b")
    cluster.until(lambda: bool(results))
    assert isinstance(results[0], Done)
    assert [node.id for node in cluster.leaders()] == ["b"]
    assert isinstance(_result(cluster, "b"), Applied)


def test_hazard_m_hand_over_passes_the_stickiness_of_the_others(make_cluster: Make) -> None:
    cluster = steady(make_cluster)
    started = cluster.world.now
    results: list[object] = []
    cluster["a"].group.transfer(NodeId("c"), results.append)
    cluster.until(lambda: bool(results))
    assert isinstance(results[0], Done)
    assert cluster.world.now - started < 0.1
    requests = cluster.sent(VoteRequest, "c")
    assert requests
    assert all(request.transfer for request in requests)
    assert cluster.sent(PreVoteRequest) == []


def test_hazard_m_proposals_go_on_when_the_target_does_not_answer(make_cluster: Make) -> None:
    cluster = steady(make_cluster)
    cluster.network.isolate("b", cluster.ids)
    results: list[object] = []
    cluster["a"].group.transfer(NodeId("b"), results.append)
    cluster.until(lambda: bool(results))
    assert not isinstance(results[0], Done)
    assert isinstance(cluster.put(b"y"), Applied)


def test_hazard_m_only_the_leader_may_order_an_election(make_cluster: Make) -> None:
    cluster = steady(make_cluster)
    term = cluster["b"].group.status().term
    cluster.inject("c", "b", TimeoutNow(1, term))
    cluster.inject("a", "b", TimeoutNow(1, term - 1))
    cluster.run(0.3)
    assert cluster["a"].group.status().role is Role.LEADER
    assert cluster["b"].host.status().dropped["late-timeout-now"] == 2


# --- votes and the disk ----------------------------------------------------------------------


def test_a_vote_is_on_the_disk_before_it_leaves_and_survives_a_crash(make_cluster: Make) -> None:
    cluster = steady(make_cluster)
    cluster.crash("a")
    cluster.run(0.01)
    voter = cluster["b"]
    voter.group.replica.voting.leader_lost()
    voter.writer.hold = True
    term = voter.group.status().term + 5
    last = voter.group.status().last_index
    cluster.inject("c", "b", VoteRequest(1, term, last + 5, term, True))
    cluster.run(0.05)
    assert cluster.sent(Vote, "b") == []
    voter.writer.hold = False
    voter.writer.finish()
    cluster.run(0.0005)
    assert cluster.sent(Vote, "b", "c") == [Vote(1, term)]
    voter = cluster.restart("b")
    assert voter.group.status().voted_for == "c"
    cluster.inject("a", "b", VoteRequest(1, term, last + 9, term, True))
    cluster.run(0.01)
    assert cluster.sent(Vote, "b", "a") == []


def test_two_leaders_in_one_term_stop_the_node(make_cluster: Make) -> None:
    cluster = steady(make_cluster)
    status = cluster["a"].group.status()
    cluster.inject("b", "a", Append(1, status.term, status.last_index, status.term, 0, False, []))
    cluster.run(0.01)
    assert "two leaders" in str(cluster["a"].fatal)
