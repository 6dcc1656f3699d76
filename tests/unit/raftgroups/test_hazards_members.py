"""Hazards of membership: l, l2, l3, l4."""

from __future__ import annotations

from typing import Any

from raftgroups.journal import GroupJournal
from raftgroups.membership import Config
from raftgroups.messages import Ack, Append, Chunk, NotMember, VoteRequest
from raftgroups.outcomes import Done, Refused, Unknown
from raftgroups.records import config_command
from raftgroups.status import Role
from raftgroups.transport import NodeId
from storage.engine import Batch
from storage.memory import MemoryEngine
from tests.unit.raftgroups.members import A, B, C, D, Make, add_voter, change, changed, steady

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
