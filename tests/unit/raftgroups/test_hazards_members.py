"""Hazards of membership: l, l2, l3, l4; and identity: a lost disk is another node."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from raftgroups.errors import GroupExistsError, NoSuchGroupError
from raftgroups.journal import GroupJournal
from raftgroups.membership import Config
from raftgroups.messages import (
    Ack,
    Append,
    BlankVote,
    Chunk,
    MalformedError,
    NotMember,
    Vote,
    VoteRequest,
)
from raftgroups.outcomes import Applied, Done, Refused, Unknown
from raftgroups.records import config_command, meta_key
from raftgroups.status import Role
from raftgroups.transport import NodeId
from storage.codec import Table
from storage.engine import Batch
from storage.errors import InvalidRequestError
from storage.memory import MemoryEngine

Make = Callable[..., Any]
A, B, C, D = (NodeId(name) for name in "abcd")


def steady(make_cluster: Make, size: int = 3, **settings: Any) -> Any:
    cluster = make_cluster(size, **settings)
    cluster.create()
    cluster.put(b"x")
    cluster.make_leader(A)
    cluster.converge()
    cluster.run(0.3)
    cluster.network.log.clear()
    return cluster


def change(cluster: Any, verb: str, node: str, on: Any = None) -> list[object]:
    results: list[object] = []
    group = (on or cluster.lead()).group
    getattr(group, verb)(NodeId(node), results.append)
    return results


def changed(cluster: Any, verb: str, node: str) -> Done:
    results = change(cluster, verb, node)
    cluster.until(lambda: bool(results))
    assert isinstance(results[0], Done), results[0]
    return results[0]


def add_voter(cluster: Any, node: str) -> Any:
    made = cluster.start(NodeId(node))
    made.host.join(1)
    changed(cluster, "add_learner", node)
    changed(cluster, "promote", node)
    cluster.converge()
    return made


# --- l ---------------------------------------------------------------------------------------


def test_hazard_l_one_change_at_a_time_from_proposal_to_applied(make_cluster: Make) -> None:
    cluster = steady(make_cluster)
    cluster.network.hold("b", "a")
    cluster.network.hold("c", "a")
    first = change(cluster, "add_learner", "d", on=cluster["a"])
    cluster.run(0.01)
    second = change(cluster, "add_learner", "e", on=cluster["a"])
    third = change(cluster, "remove", "b", on=cluster["a"])
    cluster.run(0.01)
    assert first == []
    for refused in (second, third):
        assert isinstance(refused[0], Refused)
        assert "one change at a time" in refused[0].reason
    cluster.network.release("b", "a")
    cluster.network.release("c", "a")
    cluster.until(lambda: bool(first))
    assert isinstance(first[0], Done)
    changed(cluster, "add_learner", "e")


def test_hazard_l_a_change_inherited_uncommitted_counts_as_under_way(make_cluster: Make) -> None:
    cluster = steady(make_cluster)
    leader = cluster["a"]
    journal = leader.group.replica.journal
    leader.group.replica.raft.append(b"\x02" + journal.config.with_learner(D).encode())
    results = change(cluster, "add_learner", "e", on=leader)
    cluster.run(0.0001)
    assert isinstance(results[0], Refused)
    assert "under way" in results[0].reason


def test_hazard_l_no_change_before_the_own_no_op_is_committed(make_cluster: Make) -> None:
    cluster = steady(make_cluster)

    def no_entries(source: str, target: str, message: Any) -> list[Any]:
        return [] if isinstance(message, Append) and message.entries else [message]

    cluster.crash("a")
    cluster.network.tap = no_entries
    cluster.until(lambda: bool(cluster.leaders()))
    results = change(cluster, "add_learner", "d", on=cluster.leaders()[0])
    cluster.run(0.01)
    assert isinstance(results[0], Refused)
    assert "own term" in results[0].reason


def test_a_voter_is_a_learner_first_and_only_once_it_has_caught_up(make_cluster: Make) -> None:
    cluster = steady(make_cluster, change_timeout_s=2.0)
    refused = change(cluster, "promote", "d")
    cluster.run(0.01)
    assert isinstance(refused[0], Refused)
    new = cluster.start(D)
    changed(cluster, "add_learner", "d")
    new.host.join(1)

    def nothing_to_d(source: str, target: str, message: Any) -> list[Any]:
        full = isinstance(message, Chunk) or (isinstance(message, Append) and message.entries)
        return [] if full and target == "d" else [message]

    cluster.network.tap = nothing_to_d
    waits = change(cluster, "promote", "d")
    cluster.run(1.0)
    assert waits == []
    assert D not in cluster.lead().group.status().voters
    second = change(cluster, "remove", "b")
    cluster.until(lambda: bool(waits))
    assert isinstance(waits[0], Refused)
    assert "catch up" in waits[0].reason
    assert isinstance(second[0], Refused)
    assert "one change at a time" in second[0].reason
    cluster.network.tap = None
    changed(cluster, "promote", "d")
    assert cluster.lead().group.status().voters == (A, B, C, D)


def test_a_learner_does_not_count_for_a_majority(make_cluster: Make) -> None:
    cluster = steady(make_cluster)
    for node in "de":
        cluster.start(NodeId(node)).host.join(1)
        changed(cluster, "add_learner", node)
    cluster.converge()
    cluster.crash("b")
    cluster.crash("c")
    results = cluster.propose(cluster["a"], b"y")
    cluster.run(0.5)
    assert results == []
    for node in "de":
        assert cluster[node].group.status().last_index == cluster["a"].group.status().last_index
    cluster.run(10.0)
    assert [cluster[node].group.role for node in "de"] == [Role.LEARNER] * 2
    assert isinstance(results[0], Unknown)


def test_the_only_voter_cannot_be_removed(make_cluster: Make) -> None:
    cluster = make_cluster(1)
    cluster.create()
    cluster.put(b"x")
    results = change(cluster, "remove", "a")
    cluster.run(0.01)
    assert isinstance(results[0], Refused)


def test_a_leader_asked_to_remove_itself_hands_over_first(make_cluster: Make) -> None:
    cluster = steady(make_cluster)
    results = change(cluster, "remove", "a")
    cluster.until(lambda: bool(results))
    assert isinstance(results[0], Refused)
    assert results[0].leader in (B, C)
    assert cluster.lead().id == results[0].leader
    changed(cluster, "remove", "a")
    cluster.until(lambda: cluster["a"].group.role is Role.REMOVED)
    assert cluster.lead().group.status().voters == tuple(sorted({A, B, C} - {A}))


# --- l2 --------------------------------------------------------------------------------------


def test_hazard_l2_a_removed_node_is_told_and_stops(make_cluster: Make) -> None:
    cluster = steady(make_cluster)
    changed(cluster, "remove", "c")
    cluster.until(lambda: cluster["c"].group.role is Role.REMOVED, 0.5)
    cluster.network.log.clear()
    cluster.run(5.0)
    assert [m for a, _, m in cluster.network.log if a == "c"] == []
    refused = cluster.read(cluster["c"])
    cluster.run(0.01)
    assert isinstance(refused[0], Refused)
    node = cluster.restart("c")
    assert node.group.role is Role.REMOVED


def test_hazard_l2_a_removed_node_that_was_not_told_finds_out(make_cluster: Make) -> None:
    cluster = steady(make_cluster)
    cluster.network.isolate("c", cluster.ids)
    changed(cluster, "remove", "c")
    cluster.run(3.0)
    term = cluster["a"].group.term
    cluster.network.heal()
    cluster.until(lambda: cluster["c"].group.role is Role.REMOVED, 3.0)
    assert cluster["a"].group.term == term
    assert cluster.sent(VoteRequest, "c") == []


def test_hazard_l2_acks_of_a_removed_node_are_dropped_without_harm(make_cluster: Make) -> None:
    cluster = steady(make_cluster)
    changed(cluster, "remove", "c")
    status = cluster["a"].group.status()
    late = Ack(1, status.term, status.last_index + 1, success=True, reset=False)
    cluster.inject("c", "a", late)
    cluster.run(0.01)
    assert cluster["a"].fatal is None
    assert cluster["a"].host.status().dropped["l2-not-a-member"] == 1


def test_hazard_l2_an_old_notice_does_not_stop_a_node_that_was_added_again(
    make_cluster: Make,
) -> None:
    cluster = steady(make_cluster)
    removed = changed(cluster, "remove", "c")
    cluster.until(lambda: cluster["c"].group.role is Role.REMOVED)
    changed(cluster, "add_learner", "c")
    changed(cluster, "promote", "c")
    cluster.put(b"y")
    cluster.converge()
    cluster.make_leader(C)
    cluster.inject("b", "c", NotMember(1, cluster["b"].group.term, removed.index))
    cluster.run(0.1)
    assert cluster["c"].group.role is Role.LEADER


# --- l3 --------------------------------------------------------------------------------------


def test_hazard_l3_a_configuration_that_is_not_committed_survives_a_restart(
    make_cluster: Make,
) -> None:
    cluster = steady(make_cluster)
    cluster.network.isolate("a", cluster.ids)
    change(cluster, "add_learner", "d", on=cluster["a"])
    cluster.run(0.05)
    node = cluster.restart("a")
    assert node.group.status().learners == (D,)
    assert node.group.status().commit_index < node.group.replica.journal.config_index


def test_hazard_l3_a_configuration_that_is_overwritten_is_taken_back(make_cluster: Make) -> None:
    cluster = steady(make_cluster)
    cluster.network.isolate("a", cluster.ids)
    lost = change(cluster, "remove", "c", on=cluster["a"])
    cluster.run(0.05)
    status = cluster["a"].group.status()
    assert status.voters == (A, B)
    assert status.config_index > status.commit_index, "an operator can see that it may be lost"
    cluster.until(lambda: [n for n in cluster.leaders() if n.id != "a"] != [])
    cluster.run(1.5)
    cluster.put(b"y")
    cluster.network.heal()
    cluster.converge()
    assert isinstance(lost[0], Unknown)
    assert cluster["a"].group.status().voters == (A, B, C)
    cluster.run(0.1)
    assert cluster.restart("a").group.status().voters == (A, B, C)


def test_hazard_l3_compaction_keeps_the_configuration_in_force_at_the_base() -> None:
    engine = MemoryEngine()
    journal = GroupJournal(engine, 1, window_entries=100, window_bytes=1 << 20)
    journal.form(Config({A: 1}))
    with_d, with_b = Config({A: 1}, {D: 0}), Config({A: 1}, {D: 0, B: 0})
    for index, command in enumerate([b"\x01", config_command(with_d), b"\x01"], 2):
        journal.add(command, index, 1)
    journal.add(config_command(with_b), 5, 1)
    journal.set_applied(4)
    batch = Batch()
    journal.prepare(batch)
    engine.write(batch, sync=True)
    journal.after_commit()
    journal.compact(4)
    assert journal.configs == [(3, with_d), (5, with_b)]
    assert journal.config_at(4) == (3, with_d)
    journal.deleteEntriesFrom(1)
    assert journal.config == with_d


def test_hazard_l3_a_configuration_survives_compaction(make_cluster: Make) -> None:
    cluster = steady(make_cluster)
    add_voter(cluster, "d")
    for number in range(20):
        cluster.put(b"%d" % number)
    cluster.run(1.0)
    for node in cluster.ids:
        cluster[node].group.compact(keep=0)
    cluster.put(b"y")
    cluster.run(1.0)
    for node in cluster.ids:
        assert cluster.restart(node).group.status().voters == (A, B, C, D)
    cluster.put(b"z")


# --- l4 --------------------------------------------------------------------------------------


def test_hazard_l4_a_new_node_begins_with_a_snapshot_not_with_the_log(make_cluster: Make) -> None:
    cluster = steady(make_cluster)
    new = cluster.start(D)
    new.host.join(1)
    changed(cluster, "add_learner", "d")
    cluster.converge()
    cluster.put(b"y")
    cluster.converge()
    first = next(m.prev_index for m in cluster.sent(Append, target="d") if m.entries)
    assert first >= cluster["a"].group.status().first_index
    assert new.group.status().snapshots_received == 1
    assert new.group.replica.journal.base_index > 1
    assert new.group.status().voters == (A, B, C)


# --- identity --------------------------------------------------------------------------------


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


# --- configurations as values ----------------------------------------------------------------


def test_a_configuration_survives_its_bytes() -> None:
    config = Config({B: 2, A: 1}, {D: 0}, formed=False)
    assert Config.decode(config.encode()) == config
    assert config.encode() == Config({A: 1, B: 2}, {D: 0}, formed=False).encode()


@pytest.mark.parametrize(
    "data", [b"", b"\x80", b"\x84\x01\x80\x80\x01", b"\x84\x09\x80\x80\xf5", b"\xff"]
)
def test_a_malformed_configuration_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedError):
        Config.decode(data)


def test_a_node_is_not_both_voter_and_learner() -> None:
    with pytest.raises(MalformedError, match="voter and learner"):
        Config.decode(Config({A: 1}, {A: 1}).encode())


# --- forgetting a replica --------------------------------------------------------------------


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


def test_a_snapshot_under_way_tells_how_far_it_is(make_cluster: Make) -> None:
    cluster = steady(make_cluster, snapshot_chunk_bytes=200, snapshot_window_chunks=1)
    for number in range(30):
        cluster.put(b"%d" % number * 20)
    cluster["a"].group.compact(0)
    cluster.run(0.1)
    made = cluster.start(D)
    made.host.join(1)
    changed(cluster, "add_learner", "d")
    seen: list[tuple[int, int]] = []

    def there() -> bool:
        peer = cluster["a"].group.status().peers[D]
        seen.append((peer.snapshot_rows, peer.snapshot_bytes))
        return bool(peer.lag == 0)

    cluster.until(there)
    rows, sizes = max(seen)
    assert rows > 1
    assert sizes > 100


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
