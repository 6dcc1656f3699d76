"""Many groups on one node: what they send shares frames, and quiet heartbeats pass by the core."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from raftgroups.frames import decode_frame
from raftgroups.group import Group
from raftgroups.messages import Ack, Append, Echo, Probe, ReadIndex, ReadRequest
from raftgroups.outcomes import Applied, ReadReady
from raftgroups.replica import Replica
from raftgroups.status import Role
from raftgroups.transport import NodeId
from storage.committer import Need

Make = Callable[..., Any]
GROUPS = range(1, 9)


def many_groups(make_cluster: Make) -> Any:
    """Eight groups that a leads, awake and idle."""
    cluster = make_cluster(3)
    for group_id in GROUPS:
        cluster.create(group_id)
    for group_id in GROUPS:
        cluster.lead(group_id)
    cluster.run(0.5)
    for group_id in GROUPS:
        if cluster.lead(group_id).id != "a":
            results: list[object] = []
            cluster.lead(group_id).host.group(group_id).transfer(NodeId("a"), results.append)
            cluster.until(lambda results=results: bool(results))
        assert cluster.lead(group_id).id == "a"
    cluster.run(0.5)
    cluster.network.log.clear()
    return cluster


def count_frames(cluster: Any, kinds: tuple[type, ...]) -> Counter[tuple[NodeId, NodeId, type]]:
    """Frames that carry messages of these kinds, from now on, by way and kind."""
    frames: Counter[tuple[NodeId, NodeId, type]] = Counter()
    send = cluster.network.send

    def counting(life: Any, peer: NodeId, channel: str, frame: bytes) -> bool:
        before = len(cluster.network.log)
        taken = send(life, peer, channel, frame)
        for kind in {type(message) for _, _, message in cluster.network.log[before:]}:
            if kind in kinds:
                frames[life.node, peer, kind] += 1
        return taken

    cluster.network.send = counting
    return frames


@pytest.mark.parametrize(
    ("node", "kinds", "each"),
    [("a", (Probe, Echo), 1), ("b", (ReadRequest, ReadIndex), 1)],
)
def test_the_reads_of_one_pass_share_a_frame_a_peer(
    make_cluster: Make, node: str, kinds: tuple[type, ...], each: int
) -> None:
    cluster = many_groups(make_cluster)
    frames = count_frames(cluster, (Probe, Echo, ReadRequest, ReadIndex))
    results: list[object] = []
    for group_id in GROUPS:
        cluster[node].host.group(group_id).read(results.append)
    cluster.until(lambda: len(results) == len(GROUPS), 0.05)
    assert all(isinstance(result, ReadReady) for result in results)
    for kind in kinds:
        assert len(cluster.sent(kind)) == each * len(GROUPS), "every group asks for itself"
    assert set(frames.values()) == {1}, frames
    assert {kind for _, _, kind in frames} == set(kinds)


def test_a_read_does_not_wait_for_the_sync_of_another_group(make_cluster: Make) -> None:
    """What is gathered leaves with the work that gathered it, not with a turn."""
    cluster = many_groups(make_cluster)
    writer = cluster["a"].writer
    writer.hold = True
    cluster["a"].host.group(1).propose(b"x", lambda _: None)
    cluster.until(lambda: writer.waiting is not None)
    results: list[object] = []
    cluster["a"].host.group(2).read(results.append)
    cluster.until(lambda: bool(results), 0.05)
    assert isinstance(results[0], ReadReady)
    assert writer.waiting is not None
    writer.hold = False
    writer.finish()


def kinds_of_frames(cluster: Any) -> list[tuple[NodeId, NodeId, list[type]]]:
    """What each frame carries, from now on."""
    frames: list[tuple[NodeId, NodeId, list[type]]] = []
    send = cluster.network.send

    def noting(life: Any, peer: NodeId, channel: str, frame: bytes) -> bool:
        frames.append((life.node, peer, [type(each) for each in decode_frame(frame).messages]))
        return bool(send(life, peer, channel, frame))

    cluster.network.send = noting
    return frames


def test_a_probe_leaves_with_the_read_index_and_its_echo_with_the_next_request(
    make_cluster: Make,
) -> None:
    cluster = make_cluster(3)
    cluster.create()
    cluster.put(b"x")
    cluster.make_leader(NodeId("a"))
    cluster.converge()
    cluster.run(0.02)
    a, b = cluster["a"], cluster["b"]
    take = a.life.handlers["raft"]
    leaders, followers = list[object](), list[object]()

    def take_with_a_read(peer: NodeId, frame: bytes) -> None:
        """A client's read arrives in the pass in which the request of b is taken in."""
        a.life.handlers["raft"] = take
        take(peer, frame)
        a.group.read(leaders.append)

    a.life.handlers["raft"] = take_with_a_read
    frames = kinds_of_frames(cluster)
    b.group.read(followers.append)
    cluster.until(lambda: len(frames) == 1)
    b.group.read(followers.append)  # it waits while the first one is on its way
    cluster.until(lambda: len(leaders) == 1 and len(followers) == 2, 0.02)
    assert all(isinstance(each, ReadReady) for each in leaders + followers)
    assert frames == [
        ("b", "a", [ReadRequest]),
        ("a", "b", [ReadIndex, Probe]),
        ("b", "a", [Echo, ReadRequest]),
        ("a", "b", [ReadIndex]),
    ]


# --- groups in which nothing happens ---------------------------------------------------------


def test_a_put_in_one_group_costs_nothing_in_the_others(
    make_cluster: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = many_groups(make_cluster)
    asked: Counter[int] = Counter()
    told: Counter[int] = Counter()
    need = Replica.need

    def counting(replica: Replica) -> Need:
        asked[replica.group_id] += 1
        return need(replica)

    cluster.run(0.03)  # no heartbeats are due now
    monkeypatch.setattr(Replica, "need", counting)
    for group_id in GROUPS:
        cluster["a"].host.group(group_id).on_turn = partial(told.update, [group_id])
    results: list[object] = []
    cluster["a"].host.group(3).propose(b"x", results.append)
    cluster.until(lambda: bool(results), 0.05)
    assert isinstance(results[0], Applied)
    assert set(asked) == set(told) == {3}


# --- heartbeats ------------------------------------------------------------------------------


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Counter[bool]:
    """How often a group took part in a turn, by whether it led."""
    counted: Counter[bool] = Counter()
    step = Group.step

    def counting(group: Group, now: float) -> float:
        counted[group.replica.raft.leads] += 1
        return step(group, now)

    monkeypatch.setattr(Group, "step", counting)
    return counted


def test_a_heartbeat_with_nothing_new_needs_no_tick(
    make_cluster: Make, steps: Counter[bool]
) -> None:
    cluster = many_groups(make_cluster)
    terms = [cluster["b"].host.group(group_id).term for group_id in GROUPS]
    steps.clear()
    cluster.run(10.0)
    beats = len(cluster.sent(Append, "a", "b"))
    assert beats >= 99 * len(GROUPS)
    assert len(cluster.sent(Ack, "b", "a")) == beats, "each is answered"
    assert steps[False] < beats / 20, "followers do not tick for them"
    assert steps[True] <= beats + len(GROUPS), "the leader only ticks to send them"
    assert terms == [cluster["b"].host.group(group_id).term for group_id in GROUPS]
    peer = cluster["a"].host.group(1).status().peers[NodeId("b")]
    assert peer.silent_s < 0.15, "its answers were heard"


def test_a_leader_whose_heartbeats_are_not_answered_steps_down(make_cluster: Make) -> None:
    cluster = many_groups(make_cluster)
    cluster.network.tap = lambda a, b, m: [] if isinstance(m, Ack) else [m]
    cluster.until(lambda: cluster["a"].host.group(1).role is not Role.LEADER, 3.0)


def test_followers_miss_the_heartbeats_of_a_leader_that_is_gone(make_cluster: Make) -> None:
    cluster = many_groups(make_cluster)
    cluster.run(3.0)
    cluster.network.isolate("a", cluster.ids)
    cluster.until(lambda: any(n.id != "a" for n in cluster.leaders(1)), 3.0)


def test_a_heartbeat_that_brings_news_is_no_quiet_one(make_cluster: Make) -> None:
    """A commit index, an entry that is missing, a follower that fell behind."""
    cluster = many_groups(make_cluster)
    cluster.network.isolate("b", cluster.ids)
    results: list[object] = []
    cluster["a"].host.group(1).propose(b"while b is away", results.append)
    cluster.until(lambda: bool(results))
    assert isinstance(results[0], Applied)
    cluster.network.heal()
    applied = results[0].index
    cluster.until(lambda: cluster["b"].host.group(1).status().applied_index == applied, 1.0)
    peers = cluster["a"].host.group(1).status
    cluster.until(lambda: peers().peers[NodeId("b")].lag == 0, 1.0)


def test_a_heartbeat_of_another_term_or_sender_is_no_quiet_one(make_cluster: Make) -> None:
    cluster = many_groups(make_cluster)
    status = cluster["b"].host.group(1).status()
    last_term = cluster["b"].group.replica.journal.last_term
    beat = Append(1, status.term, status.last_index, last_term, 0, False, [])
    hear = cluster["b"].host.group(1).replica.hear_leader
    now = cluster["b"].life.monotonic()
    assert hear(NodeId("a"), beat, now)
    for other in (
        beat._replace(term=status.term + 1),
        beat._replace(prev_index=status.last_index - 1),
        beat._replace(prev_term=last_term - 1),
        beat._replace(prev_index=None),
        beat._replace(commit=status.commit_index + 1),
        beat._replace(entries=[(status.term, b"\x01")]),
    ):
        assert not hear(NodeId("a"), other, now), other
    assert not hear(NodeId("c"), beat, now)
    cluster["b"].group.read(lambda _: None)
    assert not hear(NodeId("a"), beat, now), "a read may have to ask again"


def test_an_answer_with_news_is_no_quiet_one(make_cluster: Make) -> None:
    cluster = many_groups(make_cluster)
    group = cluster["a"].group
    status, b = group.status(), NodeId("b")
    ack = Ack(1, status.term, status.last_index + 1, success=True, reset=False)
    hear, now = group.replica.replication.hear, cluster["a"].life.monotonic()
    incarnation = cluster["b"].host.incarnation
    assert hear(b, incarnation, ack, now)
    for other in (
        ack._replace(term=status.term - 1),
        ack._replace(next_index=status.last_index),
        ack._replace(next_index=status.last_index + 2),
        ack._replace(success=False),
        ack._replace(reset=True),
    ):
        assert not hear(b, incarnation, other, now), other
    assert not hear(b, incarnation + 1, ack, now), "another disk"
    assert not hear(NodeId("d"), incarnation, ack, now)
    group.replica.replication.progress[b].paused = True
    assert not hear(b, incarnation, ack, now), "it ends a pause"
