"""The simulated network keeps the contract of Link, and breaks it only where it is told to."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from chaos.sim.network import NetworkSettings, SimLink, SimNetwork
from chaos.sim.world import Process, World
from raftgroups.transport import NodeId

A, B, C = NodeId("a"), NodeId("b"), NodeId("c")


class Net:
    """Two or three nodes that count what they send and note what they get."""

    def __init__(self, seed: int = 1, *nodes: NodeId, settings: NetworkSettings | None = None):
        self.world = World(seed)
        self.network = SimNetwork(self.world, settings)
        self.links: dict[NodeId, SimLink] = {}
        self.got: dict[NodeId, list[tuple[NodeId, str, bytes]]] = {}
        self.peers: dict[NodeId, list[tuple[NodeId, bool]]] = {}
        for node in nodes or (A, B):
            self.attach(node)
        for link in self.links.values():
            for peer in self.links:
                if peer != link.node:
                    link.set_peer(peer, ("127.0.0.1", 1))
        self.world.run(0.1)

    def attach(self, node: NodeId) -> SimLink:
        link = self.links[node] = self.network.attach(node, Process(node))
        got = self.got[node] = []
        peers = self.peers[node] = []
        for channel in ("raft", "snapshot"):
            link.subscribe(channel, self._note(got, channel))
        link.on_peer_change(lambda peer, up: peers.append((peer, up)))
        return link

    @staticmethod
    def _note(
        got: list[tuple[NodeId, str, bytes]], channel: str
    ) -> Callable[[NodeId, bytes], None]:
        return lambda peer, frame: got.append((peer, channel, frame))

    def kill(self, node: NodeId, *, flush: bool = False) -> None:
        self.links[node].process.alive = False
        self.network.detach(node, flush=flush)

    def wait(self, seconds: float) -> None:
        self.world.run(self.world.now + seconds)

    def send(self, count: int, source: NodeId = A, target: NodeId = B) -> list[bool]:
        return [
            self.links[source].send(target, "raft", str(number).encode()) for number in range(count)
        ]

    def numbers(self, node: NodeId = B) -> list[int]:
        return [int(frame) for _, _, frame in self.got[node]]


def test_frames_arrive_later_in_order_from_who_sent_them() -> None:
    net = Net()
    assert net.peers == {A: [(B, True)], B: [(A, True)]}
    assert all(net.send(50))
    assert net.got[B] == [], "never from inside send"
    net.wait(1.0)
    assert net.numbers() == list(range(50))
    assert {(peer, channel) for peer, channel, _ in net.got[B]} == {(A, "raft")}


def test_order_holds_within_a_channel_and_not_between_channels() -> None:
    net = Net(3, settings=NetworkSettings(spike_p=0.5))
    for number in range(40):
        net.links[A].send(B, ("raft", "snapshot")[number % 2], str(number).encode())
    net.wait(5.0)
    for channel in ("raft", "snapshot"):
        mine = [int(frame) for _, name, frame in net.got[B] if name == channel]
        assert mine == sorted(mine)
        assert len(mine) == 20
    assert net.numbers() != sorted(net.numbers()), "channels overtake each other"


def test_no_connection_without_somebody_who_wants_it() -> None:
    world = World(1)
    network = SimNetwork(world)
    one, two = (network.attach(node, Process(node)) for node in (A, B))
    world.run(5.0)
    assert not one.send(B, "raft", b"x")
    assert not one.send(NodeId("nobody"), "raft", b"x")
    two.set_peer(A, ("127.0.0.1", 1))
    world.run(6.0)
    assert one.connected(B)
    two.remove_peer(A)
    world.run(7.0)
    assert not one.connected(B)


def test_a_reset_loses_what_is_in_flight_and_is_told_to_both() -> None:
    net = Net()
    net.send(10)
    net.network.reset(A, B)
    assert not any(net.send(1)), "nothing can be sent before the next connection"
    net.wait(3.0)
    assert net.numbers() == []
    assert net.peers[A] == [(B, True), (B, False), (B, True)]
    assert net.peers[B] == [(A, True), (A, False), (A, True)]
    net.send(3)
    net.wait(1.0)
    assert net.numbers() == [0, 1, 2]


def test_frames_wait_behind_a_short_block_and_arrive_late() -> None:
    net = Net(settings=NetworkSettings(give_up_s=(5.0, 6.0)))
    net.network.block(A, B)
    net.send(5)
    net.send(2, B, A)
    net.wait(2.0)
    assert net.numbers(B) == []
    assert net.numbers(A) == [0, 1], "the other direction works"
    net.network.unblock(A, B)
    net.wait(1.0)
    assert net.numbers(B) == list(range(5))


def test_a_long_block_ends_the_connection_and_bars_a_new_one() -> None:
    net = Net(settings=NetworkSettings(give_up_s=(0.5, 1.0)))
    net.network.block(A, B)
    net.send(5)
    net.wait(10.0)
    assert net.peers[A][-1] == (B, False)
    assert net.peers[B][-1] == (A, False)
    net.network.heal()
    net.wait(3.0)
    assert net.peers[A][-1] == (B, True)
    assert net.numbers() == [], "what was in flight is lost"


def test_a_stall_delays_one_direction() -> None:
    net = Net()
    net.network.stall(A, B, 2.0)
    net.send(3)
    net.wait(1.5)
    assert net.numbers() == []
    net.wait(1.0)
    assert net.numbers() == [0, 1, 2]


def test_channels_are_bounded() -> None:
    net = Net(settings=NetworkSettings(channel_max_frames=3))
    assert net.send(5) == [True, True, True, False, False]
    assert net.links[A].send(B, "snapshot", b"7"), "another channel has a bound of its own"
    net.wait(1.0)
    assert sorted(net.numbers()) == [0, 1, 2, 7]
    assert net.send(1) == [True]


def test_a_bound_of_bytes() -> None:
    net = Net(settings=NetworkSettings(channel_max_bytes=10))
    assert net.links[A].send(B, "raft", b"123456")
    assert not net.links[A].send(B, "raft", b"123456")


@pytest.mark.parametrize("flush", [True, False])
def test_a_dead_node_is_noticed_and_its_kernel_may_still_send(flush: bool) -> None:
    net = Net()
    net.send(4)
    net.kill(A, flush=flush)
    net.wait(2.0)
    assert net.numbers() == ([0, 1, 2, 3] if flush else [])
    assert net.peers[B] == [(A, True), (A, False)]
    net.attach(A)
    net.wait(1.0)
    assert net.peers[B][-1] == (A, True), "whoever wants it connects again"
    assert net.peers[A] == [(B, True)]


def test_nothing_of_an_earlier_connection_arrives_on_a_later_one() -> None:
    """A kernel that flushes slowly is cut off by the next connection."""
    for seed in range(20):
        net = Net(seed)
        net.network.stall(A, B, 1.0)
        net.send(4)
        net.kill(A, flush=True)
        net.attach(A)
        net.wait(2.0)
        first_up = len(net.peers[B]) - 1
        assert first_up >= 1
        assert net.numbers() in ([], [0, 1, 2, 3])
        if net.numbers():
            assert net.peers[B][1] == (A, False)


def test_duplicates_only_when_asked_for() -> None:
    net = Net(settings=NetworkSettings(duplicate_p=1.0))
    net.send(20)
    net.wait(2.0)
    assert sorted(net.numbers()) == sorted([*range(20), *range(20)])


def test_a_frozen_receiver_gets_its_frames_when_it_wakes() -> None:
    net = Net()
    net.links[B].process.freeze(net.world.now + 3.0)
    net.send(5)
    net.wait(2.0)
    assert net.numbers() == []
    net.wait(2.0)
    assert net.numbers() == list(range(5))
