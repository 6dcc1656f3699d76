"""What a put costs beside its entry, its sync and its acknowledgement: as little as is safe."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from raftgroups.messages import Append
from raftgroups.outcomes import Applied, ReadReady
from raftgroups.records import operations_command, read_operations

Make = Callable[..., Any]


def quiet_spell(cluster: Any) -> Any:
    """The leader, a moment after a heartbeat and long before the next one."""
    leader = cluster.lead()
    cluster.converge()
    replica = leader.group.replica
    cluster.run(replica.raft.heartbeat_deadline - cluster.world.now + 0.01)
    cluster.network.log.clear()
    return leader


def notices(cluster: Any, sender: Any) -> list[Append]:
    return [
        message
        for source, _, message in cluster.network.log
        if source == sender.id and isinstance(message, Append) and message.quiet
    ]


# --- acknowledgements of what is committed ------------------------------------------------------


def test_an_ack_of_what_is_committed_needs_no_turn(make_cluster: Make) -> None:
    cluster = make_cluster(3)
    cluster.create()
    leader = quiet_spell(cluster)
    slow = cluster.followers()[1]
    cluster.network.hold(slow.id, leader.id)
    results = cluster.propose(leader, b"x")
    cluster.until(lambda: bool(results))
    cluster.run(0.01)
    last, turns = leader.group.status().last_index, leader.committer.turns
    assert leader.group.status().peers[slow.id].match_index == last - 1
    cluster.network.release(slow.id, leader.id)
    cluster.run(0.01)
    assert leader.group.status().peers[slow.id].match_index == last
    assert leader.group.replica.replication.progress[slow.id].inflight_bytes == 0
    assert leader.committer.turns == turns


def test_an_ack_that_commits_makes_a_turn(make_cluster: Make) -> None:
    cluster = make_cluster(3)
    cluster.create()
    leader = quiet_spell(cluster)
    for node in cluster.followers():
        cluster.network.hold(node.id, leader.id)
    results = cluster.propose(leader, b"x")
    cluster.run(0.01)
    assert not results
    cluster.network.release(cluster.followers()[0].id, leader.id)
    cluster.run(0.01)
    assert isinstance(results[0], Applied)


# --- the commit index ---------------------------------------------------------------------------


def test_the_next_entries_take_the_commit_index_along(make_cluster: Make) -> None:
    cluster = make_cluster(3, commit_notice_s=0.01)
    cluster.create()
    leader = quiet_spell(cluster)
    for number in range(5):
        results = cluster.propose(leader, b"%d" % number)
        cluster.until(lambda results=results: bool(results))
    assert not notices(cluster, leader)


def test_a_commit_index_without_company_leaves_after_a_moment(make_cluster: Make) -> None:
    cluster = make_cluster(3, commit_notice_s=0.01)
    cluster.create()
    leader = quiet_spell(cluster)
    results = cluster.propose(leader, b"x")
    cluster.until(lambda: bool(results))
    cluster.run(0.005)
    assert not any(b"x" in node.machine.rows() for node in cluster.followers())
    cluster.run(0.01)
    assert all(b"x" in node.machine.rows() for node in cluster.followers())
    assert len(notices(cluster, leader)) == 2


def test_a_read_point_takes_the_commit_index_along(make_cluster: Make) -> None:
    cluster = make_cluster(3, commit_notice_s=0.05)
    cluster.create()
    leader = quiet_spell(cluster)
    reader, other = cluster.followers()
    results = cluster.propose(leader, b"x")
    cluster.until(lambda: bool(results))
    read = cluster.read(reader)
    cluster.run(0.02)
    assert isinstance(read[0], ReadReady)
    assert b"x" in reader.machine.rows()
    assert b"x" not in other.machine.rows()
    assert len(notices(cluster, leader)) == 1


# --- applied data -------------------------------------------------------------------------------


def written(node: Any) -> int:
    return int(node.group.status().durable_applied_index)


def test_applied_data_waits_for_company(make_cluster: Make) -> None:
    cluster = make_cluster(3, fold_after_s=0.3)
    cluster.create()
    leader = quiet_spell(cluster)
    cluster.run(0.5)
    before = written(leader)
    cluster.put(b"first takes along what was there")
    for number in range(3):
        cluster.put(b"%d" % number)
    assert written(leader) == before
    cluster.run(0.3)
    cluster.put(b"last")
    assert written(leader) == leader.group.status().applied_index - 1


def test_much_applied_data_waits_no_longer(make_cluster: Make) -> None:
    cluster = make_cluster(3, fold_after_s=60.0, fold_operations=4)
    cluster.create()
    leader = quiet_spell(cluster)
    for number in range(20):
        cluster.put(b"%d" % number)
        assert leader.group.status().applied_index - written(leader) <= 5


def test_applied_data_without_further_writes_is_written_in_half_a_second(
    make_cluster: Make,
) -> None:
    cluster = make_cluster(3, fold_after_s=60.0)
    cluster.create()
    leader = quiet_spell(cluster)
    for number in range(5):
        cluster.put(b"%d" % number)
    assert written(leader) < leader.group.status().applied_index
    cluster.run(0.7)
    assert all(written(n) == n.group.status().applied_index for n in cluster.alive())


def test_what_waited_is_applied_again_after_a_crash(make_cluster: Make) -> None:
    cluster = make_cluster(3, fold_after_s=60.0)
    cluster.create()
    quiet_spell(cluster)
    for number in range(9):
        cluster.put(b"%d" % number)
    assert any(written(n) < n.group.status().applied_index for n in cluster.alive())
    for node in list(cluster.ids):
        cluster.restart(node)
    cluster.lead()
    cluster.converge()
    expected = [b"%d" % number for number in range(9)]
    assert all(node.machine.rows() == expected for node in cluster.alive())


# --- operations of entries ----------------------------------------------------------------------


def test_operations_are_read_where_their_entry_was_not_made(
    make_cluster: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[bytes] = []

    def reading(command: bytes) -> Any:
        read.append(command)
        return read_operations(command)

    monkeypatch.setattr("raftgroups.applying.read_operations", reading)
    cluster = make_cluster(3)
    cluster.create()
    leader = quiet_spell(cluster)
    made = [cluster.propose(leader, b"%d" % number) for number in range(4)]
    cluster.until(lambda: all(made))
    cluster.converge()
    assert [result.result for results in made for result in results] == [
        b"ok:%d" % number for number in range(4)
    ]
    assert leader.machine.rows() == [b"0", b"1", b"2", b"3"]
    assert len(read) == 2, "one entry, at each follower"
    assert not leader.group.replica.applying._made


def test_an_entry_of_the_same_bytes_is_not_taken_for_one_that_was_made(make_cluster: Make) -> None:
    cluster = make_cluster(3)
    cluster.create()
    replica = quiet_spell(cluster).group.replica
    command = operations_command("n/b", 7, [b"x"])
    replica.applying._made.append((bytes(bytearray(command)), ("n/b", 8, [b"y"])))
    assert replica.applying._operations_of(command) == ("n/b", 7, [b"x"])
    assert not replica.applying._made
