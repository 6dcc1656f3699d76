"""Identity: a group is formed once, and a lost disk is another node."""

from __future__ import annotations

import pytest

from raftgroups.errors import GroupExistsError, NoSuchGroupError
from raftgroups.messages import Ack, BlankVote, NotMember, Vote, VoteRequest
from raftgroups.outcomes import Applied, Done, Refused
from raftgroups.status import Role
from raftgroups.transport import NodeId
from storage.errors import InvalidRequestError
from tests.unit.raftgroups.members import A, B, C, Make, change, changed, steady


def test_identity_a_group_is_formed_once(make_cluster: Make) -> None:
    cluster = steady(make_cluster)
    with pytest.raises(GroupExistsError):
        cluster["a"].host.create(1, [A, B, C])
    with pytest.raises(GroupExistsError):
        cluster["a"].host.join(1)
    with pytest.raises(NoSuchGroupError):
        cluster["a"].host.group(7)
    with pytest.raises(InvalidRequestError, match="no initial voter"):
        cluster["a"].host.create(2, [B, C])


def test_identity_a_forming_group_takes_nothing_until_every_voter_was_heard(
    make_cluster: Make,
) -> None:
    cluster = make_cluster(3)
    cluster["a"].host.create(1, [A, B, C])
    cluster["b"].host.create(1, [A, B, C])
    cluster.until(lambda: bool(cluster.leaders()))
    cluster.run(2.0)
    results = cluster.propose(cluster.leaders()[0], b"x")
    cluster.run(0.01)
    assert isinstance(results[0], Refused)
    assert "forming" in results[0].reason
    cluster["c"].host.create(1, [A, B, C])
    cluster.put(b"x")
    config = cluster.lead().group.replica.journal.config
    assert config.voters == {node: cluster[node].host.incarnation for node in "abc"}
    assert config.formed


@pytest.mark.parametrize("bound", [True, False])
def test_identity_a_founder_lost_while_forming_can_be_removed(
    make_cluster: Make, bound: bool
) -> None:
    cluster = make_cluster(3)
    for node in "abc" if bound else "ab":
        cluster[node].host.create(1, [A, B, C])
    if bound:

        def is_bound() -> bool:
            return any(
                0 not in n.group.replica.journal.config.voters.values() for n in cluster.leaders()
            )

        cluster.until(is_bound)
    cluster.crash("c")
    if bound:
        cluster.start(C).host.join(1)
    cluster.until(lambda: [n.id for n in cluster.leaders() if n.id != "c"] != [])
    cluster.run(2.0)
    leader = next(node for node in cluster.leaders() if node.id != "c")
    assert leader.group.changes.why_no_proposals()
    refused = change(cluster, "add_learner", "d", on=leader)
    results = change(cluster, "remove", "c", on=leader)
    cluster.until(lambda: bool(results) and bool(refused))
    assert isinstance(refused[0], Refused)
    assert isinstance(results[0], Done)
    cluster.put(b"x")
    if not bound:
        cluster.start(C).host.join(1)
    changed(cluster, "add_learner", "c")
    changed(cluster, "promote", "c")
    cluster.converge()


def test_identity_a_group_with_known_incarnations_needs_only_a_majority(
    make_cluster: Make,
) -> None:
    cluster = make_cluster(3)
    known = {NodeId(n): cluster[n].host.incarnation for n in "abc"}
    for node in "ab":
        cluster[node].host.create(1, [A, B, C], known)
    assert isinstance(cluster.put(b"x"), Applied)


@pytest.mark.parametrize("how", ["join", "create"])
def test_identity_a_wiped_directory_never_votes_under_its_old_name(
    make_cluster: Make, how: str
) -> None:
    """c loses its disk and keeps its name; with its vote b could win without what a and c held."""
    cluster = steady(make_cluster)
    cluster.network.isolate("b", cluster.ids)
    acknowledged = [cluster.put(b"held by a and c %d" % n) for n in range(3)]
    assert acknowledged
    cluster.crash("c")
    wiped = cluster.start(C)
    if how == "join":
        wiped.host.join(1)
    else:
        wiped.host.create(1, [A, B, C])
    cluster.crash("a")
    cluster.network.heal()
    cluster.network.log.clear()
    cluster.network.tap = lambda a, b, m: [] if isinstance(m, NotMember) else [m]
    cluster.run(10.0)
    assert cluster.leaders() == []
    assert cluster.sent(Vote) == []
    assert cluster.sent(BlankVote) == [], "whoever asks does not count this disk, so never stands"
    cluster.network.tap = None
    cluster.start(A, cluster.nodes[A].engine)
    cluster.until(lambda: [n.id for n in cluster.leaders()] == ["a"])
    cluster.until(lambda: cluster["b"].group.status().applied_index == acknowledged[-1].index + 1)
    assert wiped.group.role is Role.REMOVED
    changed(cluster, "remove", "c")
    changed(cluster, "add_learner", "c")
    changed(cluster, "promote", "c")
    cluster.put(b"y")
    cluster.converge()
    assert wiped.group.role is Role.FOLLOWER
    bound = cluster["a"].group.status().incarnations[C]
    assert bound == wiped.host.incarnation


def test_identity_an_ack_from_another_disk_does_not_count(make_cluster: Make) -> None:
    cluster = steady(make_cluster)
    cluster.network.isolate("a", cluster.ids)
    results = cluster.propose(cluster["a"], b"y")
    cluster.run(0.01)
    status = cluster["a"].group.status()
    ack = Ack(1, status.term, status.last_index + 1, success=True, reset=False)
    cluster.inject("b", "a", ack, incarnation=cluster["b"].host.incarnation + 1)
    cluster.run(0.01)
    assert results == []
    assert cluster["a"].host.status().dropped["foreign-incarnation"] == 1


def test_identity_survives_a_restart(make_cluster: Make) -> None:
    cluster = steady(make_cluster)
    before = cluster["b"].host.incarnation
    assert cluster.restart("b").host.incarnation == before


def test_frames_of_an_unknown_group_make_no_replica(make_cluster: Make) -> None:
    cluster = steady(make_cluster)
    cluster.inject("a", "b", VoteRequest(77, 5, 5, 5, False))
    cluster.run(0.1)
    assert list(cluster["b"].host.groups) == [1]
    assert cluster["b"].host.status().dropped["no-such-group"] == 1
