"""Questions between two nodes: batched, bounded, and each answered exactly once."""

from __future__ import annotations

from typing import Any

from chaos.sim.network import SimNetwork
from chaos.sim.world import NodeClock, NodeScheduler, Process, World
from kv.leaderless import messenger as module
from kv.leaderless.frames import Read, Reply, Request, Status
from kv.leaderless.messenger import Lost, Messenger, NotSent, Outcome, SendReply
from raftgroups.transport import NodeId

A, B = NodeId("a"), NodeId("b")


class Two:
    """A asks, B serves; `held` has the replies that B has not sent."""

    def __init__(self) -> None:
        self.world = World(1)
        self.network = SimNetwork(self.world)
        self.clock = NodeClock(self.world)
        self.rings = {A: b"one", B: b"one"}
        self.hold = False
        self.held: list[SendReply] = []
        self.served: list[bytes] = []
        self.outcomes: list[Outcome] = []
        self.messengers = {node: self._start(node) for node in (A, B)}
        self.run(1.0)

    def _start(self, node: NodeId) -> Messenger:
        process = Process(node)
        link = self.network.attach(node, process)
        link.set_peer(B if node == A else A, ("peer", 1))
        return Messenger(
            link,
            scheduler=NodeScheduler(self.world, process, self.clock),
            clock=self.clock,
            ring=lambda: self.rings[node],
            serve=self._serve,
        )

    def _serve(self, peer: NodeId, request: Request, reply: SendReply) -> None:
        self.served.append(request.key)
        if self.hold:
            self.held.append(reply)
        else:
            reply(Status.FOUND, request.key)

    def ask(self, key: bytes = b"k", within_s: float = 1.0) -> None:
        deadline_s = self.clock.monotonic() + within_s
        before = len(self.outcomes)
        self.messengers[A].ask(B, Read(0, 1, key), deadline_s, self.outcomes.append)
        assert len(self.outcomes) == before, "answered inside the call"

    def run(self, seconds: float) -> None:
        self.world.run(self.world.now + seconds)

    @property
    def bodies(self) -> list[Any]:
        return [outcome.body for outcome in self.outcomes if isinstance(outcome, Reply)]


def test_a_pass_of_the_loop_is_one_frame_each_way() -> None:
    two = Two()
    for number in range(100):
        two.ask(b"%d" % number)
    two.run(0.5)
    assert two.bodies == [b"%d" % number for number in range(100)]
    assert [m.sent_frames for m in two.messengers.values()] == [1, 1]


def test_what_never_left_is_not_sent_and_what_did_is_lost() -> None:
    two = Two()
    two.hold = True
    two.ask()
    two.run(0.01)
    two.network.block(A, B)
    two.network.reset(A, B)
    two.run(0.06)
    assert isinstance(two.outcomes[0], Lost)
    two.ask()
    two.run(0.06)
    assert isinstance(two.outcomes[1], NotSent)
    assert two.messengers[A].waiting == 0


def test_a_question_has_a_deadline_and_a_late_answer_is_dropped() -> None:
    two = Two()
    two.hold = True
    two.ask(within_s=0.5)
    two.run(0.4)
    assert two.outcomes == []
    two.run(0.3)
    assert isinstance(two.outcomes[0], Lost)
    two.held[0](Status.FOUND, b"late")
    two.run(1.0)
    assert len(two.outcomes) == 1


def test_another_ring_is_refused_unread() -> None:
    two = Two()
    two.rings[B] = b"two"
    two.ask()
    two.run(1.2)
    assert isinstance(two.outcomes[0], NotSent)
    assert two.served == []
    assert two.messengers[B].foreign_rings > 1, "it is sent again until its deadline"


def test_what_was_refused_for_its_ring_arrives_once_both_have_the_same() -> None:
    two = Two()
    two.rings[B] = b"two"
    two.ask()
    two.run(0.3)
    assert two.outcomes == []
    two.rings[A] = b"two"
    two.run(0.3)
    assert [type(outcome) for outcome in two.outcomes] == [Reply]
    assert two.served == [b"k"]


def test_what_waits_is_bounded_on_both_sides(monkeypatch: Any) -> None:
    two = Two()
    two.hold = True
    monkeypatch.setattr(module, "WAITING_MAX", 3)
    for _ in range(5):
        two.ask(within_s=0.3)
    two.run(0.1)
    assert [type(outcome) for outcome in two.outcomes] == [NotSent, NotSent]
    two.run(0.5)
    assert [type(outcome) for outcome in two.outcomes[2:]] == [Lost] * 3
    two.ask()
    two.run(0.2)
    assert isinstance(two.outcomes[5], NotSent), "B still works on three"
    for reply in two.held:
        reply(Status.NOTHING, b"")
    two.run(0.1)
    two.hold = False
    two.ask()
    two.run(0.2)
    assert isinstance(two.outcomes[6], Reply)


def test_garbage_is_dropped_and_stop_answers_everything() -> None:
    two = Two()
    link = two.network.links[A]
    link.send(B, "replica", b"garbage")
    two.hold = True
    two.ask()
    two.run(0.1)
    two.ask()
    two.messengers[A].stop()
    assert [type(outcome) for outcome in two.outcomes] == [Lost, NotSent]
    two.run(1.0)
    assert len(two.outcomes) == 2
