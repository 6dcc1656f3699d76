"""Feature levels: a group knows something new once the program of every member does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cbor2
import pytest

from raftgroups.config import HostConfig
from raftgroups.errors import NewerLevelError
from raftgroups.levels import FEATURE_LEVEL
from raftgroups.membership import Config
from raftgroups.messages import Ack, Append, Chunk, MalformedError, Offer
from raftgroups.outcomes import Done, Refused
from raftgroups.records import KIND_CONFIG, config_command, read_config
from raftgroups.status import Role
from raftgroups.transport import NodeId

Make = Callable[..., Any]
A, B, C, D = (NodeId(name) for name in "abcd")


def steady(make_cluster: Make, levels: str = "111", **settings: Any) -> Any:
    """Three nodes whose programs support these levels; a leads."""
    cluster = make_cluster(0, **settings)
    for name, level in zip("abc", levels, strict=True):
        cluster.levels[NodeId(name)] = int(level)
        cluster.start(NodeId(name))
    cluster.create()
    cluster.put(b"x")
    cluster.make_leader(A)
    cluster.converge()
    cluster.run(1.0)
    return cluster


def upgrade(cluster: Any, *nodes: str, level: int = 2) -> None:
    """Restart them one after the other with a program of that level."""
    for node in nodes:
        cluster.levels[NodeId(node)] = level
        cluster.restart(NodeId(node))
        cluster.lead()
        cluster.converge()


def levels(cluster: Any) -> dict[str, int]:
    return {node.id: node.group.status().feature_level for node in cluster.alive()}


def change(cluster: Any, verb: str, node: str) -> Any:
    results: list[object] = []
    getattr(cluster.lead().group, verb)(NodeId(node), results.append)
    cluster.until(lambda: bool(results))
    return results[0]


def configs(node: Any) -> list[tuple[int, Config]]:
    """Every configuration in a replica's log, and its index."""
    log = node.group.log(1, 1 << 40)
    return [(r.number, read_config(r.payload)) for r in log if r.payload[0] == KIND_CONFIG]


# --- rising ----------------------------------------------------------------------------------


def test_a_group_begins_at_the_first_level_whatever_its_programs_support(
    make_cluster: Make,
) -> None:
    assert levels(steady(make_cluster)) == {"a": 1, "b": 1, "c": 1}
    assert HostConfig().feature_level == FEATURE_LEVEL
    with pytest.raises(ValueError, match="feature_level 0 must be at least 1"):
        HostConfig(feature_level=0)


def test_a_group_of_newer_programs_rises_by_itself(make_cluster: Make) -> None:
    cluster = steady(make_cluster, "222")
    assert levels(cluster) == {"a": 2, "b": 2, "c": 2}
    raising = [config for _, config in configs(cluster["a"]) if config.level == 2]
    assert len(raising) == 1, "it is proposed once"


@pytest.mark.parametrize("order", ["abc", "bca", "cab"])
def test_it_rises_only_when_all_were_heard(make_cluster: Make, order: str) -> None:
    cluster = steady(make_cluster)
    for node in order[:2]:
        upgrade(cluster, node)
        cluster.run(3.0)
        assert set(levels(cluster).values()) == {1}
    upgrade(cluster, order[2])
    cluster.until(lambda: set(levels(cluster).values()) == {2}, 3.0)


def test_it_rises_to_what_all_support_and_again_later(make_cluster: Make) -> None:
    cluster = steady(make_cluster, "324")
    assert set(levels(cluster).values()) == {2}
    upgrade(cluster, "b", level=4)
    cluster.until(lambda: set(levels(cluster).values()) == {3}, 3.0)


def test_a_silent_voter_holds_it_back_until_it_is_removed(make_cluster: Make) -> None:
    cluster = steady(make_cluster)
    cluster.crash(C)
    upgrade(cluster, "b", "a")
    cluster.run(3.0)
    assert set(levels(cluster).values()) == {1}
    assert cluster.lead().group.status().peers[C].feature_level == 0
    assert isinstance(change(cluster, "remove", "c"), Done)
    cluster.until(lambda: set(levels(cluster).values()) == {2}, 3.0)


def test_who_was_heard_and_has_not_answered_this_leader_holds_it_back(make_cluster: Make) -> None:
    """What another node of that name once said is not enough: the admitted disk must answer."""
    cluster = steady(make_cluster)
    upgrade(cluster, "b", "c")
    cluster.make_leader(A)
    cluster.network.tap = lambda a, b, m: [] if a == "c" and isinstance(m, Ack) else [m]
    leader = cluster.make_leader(B)
    cluster.levels[A] = 2
    cluster.restart(A)
    cluster.run(3.0)
    assert leader.host.level_of(C) == 2
    assert leader.group.status().peers[C].feature_level == 2
    assert leader.group.feature_level == 1
    cluster.network.tap = None
    cluster.until(lambda: set(levels(cluster).values()) == {2}, 3.0)


def test_a_learner_holds_it_back_too(make_cluster: Make) -> None:
    cluster = steady(make_cluster)
    cluster.start(D).host.join(1)
    assert isinstance(change(cluster, "add_learner", "d"), Done)
    upgrade(cluster, "b", "c", "a")
    cluster.run(3.0)
    assert set(levels(cluster).values()) == {1}
    upgrade(cluster, "d")
    cluster.until(lambda: set(levels(cluster).values()) == {2}, 3.0)


@pytest.mark.parametrize("order", ["abc", "acb", "bac", "bca", "cab", "cba"])
def test_sleeping_groups_rise(make_cluster: Make, order: str) -> None:
    cluster = steady(make_cluster, hibernate_after_s=0.5)
    cluster.run(3.0)
    assert all(node.group.status().hibernating for node in cluster.alive())
    for name in order:
        assert set(levels(cluster).values()) == {1}
        cluster.levels[NodeId(name)] = 2
        cluster.restart(NodeId(name))
        cluster.run(5.0)
    assert all(node.group.status().hibernating for node in cluster.alive())
    assert set(levels(cluster).values()) == {2}


def test_what_is_told_is_what_is_applied(make_cluster: Make) -> None:
    """In force is not enough: the entry may be overwritten, and with it goes the level."""
    cluster = steady(make_cluster)
    upgrade(cluster, "b", "c")
    cluster.make_leader(B)
    cluster.network.tap = lambda a, b, m: (
        [] if a == "b" and isinstance(m, Append) and m.entries else [m]
    )
    cluster.levels[A] = 2
    cluster.restart(A)
    journal = cluster["b"].group.replica.journal
    cluster.until(lambda: journal.config.level == 2)
    assert cluster["b"].group.feature_level == 1
    lost = journal.config_index
    cluster.network.isolate("b", cluster.ids)
    cluster.network.tap = None
    cluster.until(lambda: any(node.id != B for node in cluster.leaders()))
    cluster.until(lambda: [node.id for node in cluster.leaders() if node.id != B] != [B], 3.0)
    cluster.run(2.0)
    assert levels(cluster) == {"a": 1, "b": 1, "c": 1}
    cluster.network.heal()
    cluster.until(lambda: set(levels(cluster).values()) == {2}, 5.0)
    cluster.converge()
    assert [index for index, config in configs(cluster["b"]) if config.level == 2] != [lost]


# --- learners --------------------------------------------------------------------------------


def test_a_learner_below_the_group_is_refused(make_cluster: Make) -> None:
    cluster = steady(make_cluster, "222")
    refused = change(cluster, "add_learner", "d")
    assert isinstance(refused, Refused)
    assert "d was not heard yet; start it" in refused.reason
    cluster.start(D).host.join(1)
    cluster.run(0.1)
    refused = change(cluster, "add_learner", "d")
    assert isinstance(refused, Refused)
    assert "at feature level 2 and the program of d supports 1; upgrade d first" in refused.reason
    assert cluster.lead().group.status().learners == ()
    cluster.levels[D] = 2
    cluster.restart(D)
    cluster.run(0.1)
    assert isinstance(change(cluster, "add_learner", "d"), Done)
    assert isinstance(change(cluster, "promote", "d"), Done)
    cluster.converge()
    assert levels(cluster) == {"a": 2, "b": 2, "c": 2, "d": 2}


def test_a_group_of_the_first_level_takes_a_learner_that_was_not_heard(make_cluster: Make) -> None:
    assert isinstance(change(steady(make_cluster), "add_learner", "d"), Done)


# --- lasting ---------------------------------------------------------------------------------


def test_it_survives_restarts_compaction_and_snapshots(make_cluster: Make) -> None:
    cluster = steady(make_cluster, "222")
    for number in range(10):
        cluster.put(b"%d" % number)
    cluster.run(1.0)
    for node in cluster.ids:
        cluster[node].group.compact(keep=0)
    cluster.put(b"y")
    cluster.run(1.0)
    assert configs(cluster["a"]) == []
    cluster.levels[D] = 2
    new = cluster.start(D)
    new.host.join(1)
    cluster.run(0.1)
    assert isinstance(change(cluster, "add_learner", "d"), Done)
    cluster.converge()
    assert new.group.status().snapshots_received == 1
    assert new.group.feature_level == 2
    for node in cluster.ids:
        assert cluster.restart(node).group.feature_level == 2


def test_it_never_falls(make_cluster: Make) -> None:
    """Not by changes of members, nor with leaders: every configuration in the log is as high as
    the one before."""
    cluster = steady(make_cluster)
    upgrade(cluster, "a", "b", "c")
    cluster.until(lambda: set(levels(cluster).values()) == {2}, 3.0)
    cluster.levels[D] = 2
    cluster.start(D).host.join(1)
    cluster.run(0.1)
    for verb, node in (("add_learner", "d"), ("promote", "d"), ("remove", "d")):
        cluster.make_leader(B if verb == "promote" else C)
        assert isinstance(change(cluster, verb, node), Done)
        assert cluster.lead().group.feature_level == 2
    found = [config.level for _, config in configs(cluster["a"])]
    assert found == sorted(found)
    assert set(found) == {1, 2}
    with pytest.raises(AssertionError, match="never falls"):
        Config({A: 1}, level=3).raised(2)


def test_a_program_below_the_group_refuses_to_start(make_cluster: Make) -> None:
    cluster = steady(make_cluster, "222")
    cluster.levels[C] = 1
    engine = cluster.crash(C)
    with pytest.raises(NewerLevelError) as caught:
        cluster.start(C, engine)
    assert "group 1 is at feature level 2 and this program supports 1" in str(caught.value)
    assert "Run the version of JanusKV that this node ran before" in str(caught.value)
    cluster.network.lives.pop(C)
    cluster.levels[C] = 3
    cluster.start(C, engine)
    cluster.put(b"y")
    cluster.converge()


def test_a_program_below_the_group_stops_when_it_is_sent_the_level(make_cluster: Make) -> None:
    """It can only have been put back after it was heard."""
    cluster = steady(make_cluster)
    leader = cluster["a"].group.replica
    index, term = leader.journal.last_index, leader.raft.term
    entry = (term, config_command(leader.journal.config.raised(2)))
    cluster.inject(
        "a", "c", Append(1, term, index, leader.journal.last_term, index, False, [entry])
    )
    cluster.run(0.1)
    assert isinstance(cluster["c"].fatal, NewerLevelError)


def test_a_program_below_the_group_stops_when_it_is_sent_a_snapshot(make_cluster: Make) -> None:
    cluster = steady(make_cluster)
    raft = cluster["a"].group.replica.raft
    config = Config({A: 1, B: 1, C: 1}, level=2).encode()
    cluster.inject("a", "c", Offer(1, raft.term, 1, 500, raft.term, 499, config, []))
    cluster.run(0.1)
    assert isinstance(cluster["c"].fatal, NewerLevelError)
    assert cluster.sent(Chunk) == []


# --- one change at a time --------------------------------------------------------------------


def test_a_change_of_members_waits_for_the_level(make_cluster: Make) -> None:
    cluster = steady(make_cluster)
    upgrade(cluster, "b", "c")
    cluster.make_leader(B)
    cluster.converge()
    leader = cluster["b"].group
    before = leader.status().last_index

    def acks_of_old_entries(source: str, target: str, message: Any) -> list[Any]:
        late = isinstance(message, Ack) and message.next_index > before + 1
        return [] if late else [message]

    cluster.network.tap = acks_of_old_entries
    cluster.levels[A] = 2
    cluster.restart(A)
    cluster.until(lambda: leader.status().last_index > before)
    assert leader.replica.journal.config.level == 2
    refused = change(cluster, "add_learner", "d")
    assert isinstance(refused, Refused)
    assert "one change at a time" in refused.reason
    cluster.network.tap = None
    cluster.until(lambda: leader.feature_level == 2, 3.0)
    cluster.levels[D] = 2
    cluster.start(D)
    cluster.run(0.1)
    assert isinstance(change(cluster, "add_learner", "d"), Done)


def test_the_level_waits_for_a_change_of_members(make_cluster: Make) -> None:
    """A promotion waits for its learner to catch up; the level may not come between."""
    cluster = steady(make_cluster)
    upgrade(cluster, "b", "c")
    cluster.make_leader(B)
    cluster.levels[D] = 2
    new = cluster.start(D)
    new.host.join(1)
    cluster.run(0.1)
    assert isinstance(change(cluster, "add_learner", "d"), Done)
    cluster.network.tap = lambda a, b, m: [] if isinstance(m, (Offer, Chunk)) else [m]
    promoted: list[object] = []
    cluster["b"].group.promote(D, promoted.append)
    cluster.levels[A] = 2
    cluster.restart(A)
    cluster.run(3.0)
    assert promoted == []
    assert cluster["b"].group.replica.journal.config.level == 1
    cluster.network.tap = None
    cluster.until(lambda: bool(promoted))
    assert isinstance(promoted[0], Done)
    cluster.until(lambda: set(levels(cluster).values()) == {2}, 3.0)
    assert cluster["d"].group.role is Role.FOLLOWER


def test_the_level_waits_for_a_hand_over(make_cluster: Make) -> None:
    cluster = steady(make_cluster, transfer_timeout_s=5.0)
    upgrade(cluster, "b", "c")
    cluster.make_leader(B)
    cluster.network.tap = lambda a, b, m: [] if isinstance(m, Append) and m.entries else [m]
    cluster.propose(cluster["b"], b"never confirmed")
    cluster.run(0.01)
    results: list[object] = []
    cluster["b"].group.transfer(C, results.append)
    cluster.levels[A] = 2
    cluster.restart(A)
    cluster.run(2.0)
    assert cluster["b"].group.replica.journal.config.level == 1
    cluster.network.tap = None
    cluster.until(lambda: bool(results))
    cluster.until(lambda: set(levels(cluster).values()) == {2}, 5.0)


# --- bytes -----------------------------------------------------------------------------------


def test_a_configuration_of_the_first_level_has_the_form_of_old() -> None:
    plain = Config({A: 7}, {D: 0})
    assert cbor2.loads(plain.encode()) == [1, [["a", 7]], [["d", 0]], True]
    assert Config.decode(plain.encode()) == plain
    assert Config.decode(plain.encode()).level == 1


def test_a_configuration_with_a_level_survives_its_bytes() -> None:
    config = Config({A: 7}, {D: 0}, formed=True, level=12)
    assert cbor2.loads(config.encode())[0] == 2
    assert Config.decode(config.encode()) == config
    assert config.with_learner(B).promoted(B, 3).without(D).level == 12


@pytest.mark.parametrize("level", [0, -1, True, 1.5, "2", None])
def test_a_malformed_level_is_refused(level: object) -> None:
    with pytest.raises(MalformedError):
        Config.decode(cbor2.dumps([2, [["a", 7]], [], True, level]))


@pytest.mark.parametrize("parts", [[1, [], [], True, 2], [2, [], [], True], [3, [], [], True, 2]])
def test_another_form_of_configuration_says_what_to_do(parts: list[object]) -> None:
    with pytest.raises(MalformedError, match="later version of JanusKV wrote it, run that"):
        Config.decode(cbor2.dumps(parts))
