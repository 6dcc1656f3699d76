"""Gossip over a lossy in-memory post: everybody learns, nothing is said before it is kept."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chaos.sim.world import NodeClock, NodeScheduler, Process, World
from kv.cluster import gossip_wire as wire
from kv.cluster.gossip import Gossip, GossipSettings
from kv.cluster.mail import Handler
from kv.cluster.membership import Answer, Death, Learned, Membership, NodeInfo, Status, Version
from kv.cluster.phi import Health, PhiDetector
from kv.cluster.ring import BucketRange
from raftgroups.transport import NodeId


class Post:
    """One node's part of a network that delivers at once, a moment later."""

    def __init__(self, nodes: Nodes, node: NodeId) -> None:
        self.nodes = nodes
        self.node = node
        self.handlers: dict[str, Handler] = {}

    def on(self, kind: str, handler: Handler) -> None:
        self.handlers[kind] = handler

    def tell(self, peer: NodeId, kind: str, body: bytes) -> bool:
        self.nodes.told.append((self.node, kind))
        if peer in self.nodes.cut or self.node in self.nodes.cut:
            return False
        handler = self.nodes.posts[peer].handlers[kind]
        self.nodes.world.after(0.001, handler, self.node, body)
        return True


class Nodes:
    def __init__(self, count: int, *, hold: bool = False) -> None:
        self.world = World(1)
        self.cut: set[NodeId] = set()
        self.told: list[tuple[NodeId, str]] = []
        self.posts: dict[NodeId, Post] = {}
        self.gossips: dict[NodeId, Gossip] = {}
        self.learned: dict[NodeId, list[Learned]] = {}
        self.held: list[Callable[[], None]] = []
        self.hold = hold
        for number in range(count):
            self.add(NodeId(f"n{number}"))

    def add(self, node: NodeId, *, fresh: bool = False, generation: int = 1) -> Gossip:
        clock = NodeClock(self.world)
        post = self.posts[node] = Post(self, node)
        known = [NodeInfo(NodeId("n0"), 0, status=Status.NORMAL)] if node != "n0" else []
        learned = self.learned[node] = []
        gossip = self.gossips[node] = Gossip(
            Membership(NodeInfo(node, generation, status=Status.NORMAL), known),
            post=post,
            connected=lambda peer: peer not in self.cut,
            detector=PhiDetector(),
            clock=clock,
            scheduler=NodeScheduler(self.world, Process(node), clock),
            rng=random.Random(node),
            keep=self.keep,
            changed=learned.append,
            fresh=fresh,
        )
        gossip.start()
        return gossip

    def keep(self, then: Callable[[], None]) -> None:
        if self.hold:
            self.held.append(then)
        else:
            self.world.after(0.0, then)

    def run(self, seconds: float) -> None:
        self.world.run(self.world.now + seconds)


def test_all_learn_of_all_and_go_by_one_ring() -> None:
    nodes = Nodes(8)
    nodes.run(12.0)
    epochs = {gossip.membership.ring_epoch() for gossip in nodes.gossips.values()}
    assert len(epochs) == 1
    for gossip in nodes.gossips.values():
        assert len(gossip.membership.infos) == 8
        assert gossip.membership.agreed()
        assert 0 < gossip.convergence_s < 12
        assert gossip.down == set()


def test_nothing_is_said_before_the_own_record_is_kept() -> None:
    nodes = Nodes(2)
    nodes.run(5.0)
    nodes.hold = True
    gossip = nodes.gossips[NodeId("n1")]
    gossip.change_mine(lambda: None, status=Status.LEAVING)
    nodes.told.clear()
    nodes.run(3.0)
    assert (NodeId("n1"), "gossip-digest") not in nodes.told
    assert nodes.gossips[NodeId("n0")].membership.infos[NodeId("n1")].status is Status.NORMAL
    nodes.hold = False
    for then in nodes.held:
        then()
    nodes.run(3.0)
    assert nodes.gossips[NodeId("n0")].membership.infos[NodeId("n1")].status is Status.LEAVING


def test_a_silent_node_is_down_and_comes_back() -> None:
    nodes = Nodes(3)
    nodes.run(10.0)
    silent = NodeId("n2")
    nodes.cut.add(silent)
    nodes.run(40.0)
    gossip = nodes.gossips[NodeId("n0")]
    assert gossip.down == {silent}
    assert gossip.health(silent) is Health.DOWN
    assert gossip.phi(silent) > 8
    assert silent in gossip.membership.infos, "down moves no data"
    nodes.cut.clear()
    nodes.run(5.0)
    assert gossip.down == set()


def test_a_node_that_forgot_its_past_goes_on_from_what_others_know() -> None:
    nodes = Nodes(3)
    nodes.run(5.0)
    node = NodeId("n2")
    nodes.gossips[node].stop()
    # The others heard many heartbeats of generation 1: a version that it has forgotten.
    again = nodes.add(node, fresh=True, generation=0)
    nodes.run(5.0)
    assert again.membership.mine.generation == 2
    assert again.membership.mine.status is Status.NORMAL
    assert any(each.forgot for each in nodes.learned[node])
    assert nodes.gossips[NodeId("n0")].membership.infos[node].generation == 2


def test_a_copied_directory_is_noticed() -> None:
    nodes = Nodes(3)
    nodes.run(5.0)
    original = nodes.posts[NodeId("n1")]
    nodes.add(NodeId("n1"), generation=0)
    nodes.run(5.0)
    assert any(each.usurped for each in nodes.learned[NodeId("n1")])
    assert original.node == "n1"


def test_malformed_gossip_changes_nothing() -> None:
    nodes = Nodes(2)
    nodes.run(3.0)
    before = nodes.gossips[NodeId("n0")].membership.ring_epoch()
    for kind in ("gossip-digest", "gossip-answer", "gossip-records"):
        nodes.posts[NodeId("n0")].handlers[kind](NodeId("n1"), b"\xc1garbage")
    nodes.run(1.0)
    assert nodes.gossips[NodeId("n0")].membership.ring_epoch() == before


def test_only_a_configured_deadline_declares_a_death() -> None:
    assert GossipSettings().dead_after_s is None


INFO = NodeInfo(
    NodeId("n1"), 3, 17, Status.LEAVING, "h:1", "u", 12, "r", "d", (1 << 64) - 1, 9
)  # fmt: skip


def test_what_is_said_and_kept_is_read_again() -> None:
    death = Death(NodeId("n2"), NodeId("n1"), "why")
    digest = {NodeId("n1"): Version(1, 2)}
    assert wire.decode_digest(wire.encode_digest(digest)) == digest
    answer = Answer((INFO,), (NodeId("n4"),), (death,))
    assert wire.decode_answer(wire.encode_answer(answer)) == answer
    assert wire.decode_records(wire.encode_records([INFO], [death])) == ((INFO,), (death,))
    kept = wire.Kept(INFO, (INFO,), (death,), {1: (BucketRange(0, 9), BucketRange(20, 20))})
    assert wire.decode_kept(wire.encode_kept(kept)) == kept


@given(st.binary(max_size=60))
def test_any_bytes_are_refused_with_one_error(body: bytes) -> None:
    for decode in (wire.decode_digest, wire.decode_answer, wire.decode_records, wire.decode_kept):
        try:
            decode(body)
        except wire.MalformedGossipError:
            continue


def test_a_later_format_is_refused() -> None:
    body = wire.encode_kept(wire.Kept(INFO, (), (), {}))
    with pytest.raises(wire.MalformedGossipError, match="format 2"):
        wire.decode_kept(body[:1] + b"\x02" + body[2:])


def test_a_founder_that_the_cluster_does_not_know_joins_instead() -> None:
    nodes = Nodes(3)
    nodes.run(5.0)
    stranger = nodes.add(NodeId("n9"), fresh=True)
    nodes.run(5.0)
    assert stranger.membership.mine.status is Status.JOINING
    assert any(each.forgot for each in nodes.learned[NodeId("n9")])
    assert nodes.gossips[NodeId("n0")].membership.infos[NodeId("n9")].status is Status.JOINING
