"""Forwarded writes over links in memory: nothing is answered twice, none is no unknown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kv.strong.forward import WAITING_MAX, Forwarder
from kv.strong.frames import (
    MalformedFrameError,
    Reply,
    Request,
    Status,
    decode_frame,
    encode_replies,
    encode_requests,
)
from raftgroups.outcomes import (
    Applied,
    AppliedEach,
    DoneEach,
    EachResult,
    ProposeResult,
    Refused,
    Unknown,
)
from raftgroups.results import PutResult, encode_result
from raftgroups.transport import NodeId

A, B, C = NodeId("a"), NodeId("b"), NodeId("c")


def tell_one(done: DoneEach, asker: int, result: ProposeResult) -> None:
    if isinstance(result, Applied):
        done((asker,), AppliedEach(result.index, (result.result,)))
    else:
        done((asker,), result)


class Wire:
    """Both ends of the links of one test; frames arrive in the next pass unless held."""

    def __init__(self, loop: Any) -> None:
        self.loop = loop
        self.ends: dict[NodeId, End] = {}
        self.held = False
        self.frames = 0

    def end(self, node: NodeId) -> End:
        self.ends[node] = End(self, node)
        return self.ends[node]


class End:
    def __init__(self, wire: Wire, node: NodeId) -> None:
        self.wire = wire
        self.node = node
        self.up = True
        self.handler: Callable[[NodeId, bytes], None] = lambda peer, frame: None
        self.changes: list[Callable[[NodeId, bool], None]] = []

    def send(self, peer: NodeId, channel: str, frame: bytes, *, at_once: bool = False) -> bool:
        assert channel == "forward"
        other = self.wire.ends.get(peer)
        if other is None or not (self.up and other.up):
            return False
        self.wire.frames += 1
        if not self.wire.held:
            self.wire.loop.call_soon(other.handler, self.node, frame)
        return True

    def push(self) -> None:
        pass

    def connected(self, peer: NodeId) -> bool:
        return True

    def subscribe(self, channel: str, handler: Callable[[NodeId, bytes], None]) -> None:
        self.handler = handler

    def on_peer_change(self, handler: Callable[[NodeId, bool], None]) -> None:
        self.changes.append(handler)

    def set_peer(self, peer: NodeId, address: tuple[str, int]) -> None: ...

    def remove_peer(self, peer: NodeId) -> None: ...


class Rig:
    def __init__(self, loop: Any) -> None:
        self.clock = loop.clock
        self.loop = loop
        self.wire = Wire(self.loop)
        self.results: dict[int, list[ProposeResult]] = {}
        self.executed: list[tuple[int, bytes, Callable[[ProposeResult], None]]] = []
        self.runs: list[int] = []
        """How many operations came together."""
        self.asker = self._forwarder(A)
        self.leader = self._forwarder(B)

    def _forwarder(self, node: NodeId) -> Forwarder:
        def execute(
            group: int, payloads: Sequence[bytes], askers: Sequence[int], done: DoneEach
        ) -> None:
            self.runs.append(len(payloads))
            for payload, asker in zip(payloads, askers, strict=True):
                self.executed.append((group, payload, partial(tell_one, done, asker)))

        return Forwarder(
            self.wire.end(node), scheduler=self.loop, clock=self.clock, execute=execute
        )

    def send(self, number: int, peer: NodeId = B, *, repeatable: bool = False) -> None:
        results = self.results.setdefault(number, [])
        deadline_s = self.clock.monotonic() + 5
        self.asker.send(
            peer, 1, b"command %d" % number, deadline_s, results.append, repeatable=repeatable
        )
        assert not results, "never from inside the call"

    def lose(self, peer: NodeId = B) -> None:
        for change in self.wire.ends[A].changes:
            change(peer, False)
        self.loop.run()


def test_operations_of_a_pass_share_a_frame_and_each_gets_its_answer(loop: Any) -> None:
    rig = Rig(loop)
    for number in range(10):
        rig.send(number)
    rig.loop.run()
    assert (rig.wire.frames, rig.runs) == (1, [10])
    assert [payload for _, payload, _ in rig.executed] == [b"command %d" % n for n in range(10)]
    for number, (_, _, done) in reversed(list(enumerate(rig.executed))):
        done(Applied(7, PutResult(number + 100)))
    rig.loop.run()
    assert rig.wire.frames == 2
    for number in range(10):
        (result,) = rig.results[number]
        assert isinstance(result, Applied)
        assert result.result == PutResult(number + 100)


def test_what_was_sent_together_is_told_together(loop: Any) -> None:
    rig, told = Rig(loop), list[tuple[list[str], EachResult]]()

    def done(askers: Sequence[str], result: EachResult) -> None:
        told.append((list(askers), result))

    until_s = loop.clock.monotonic() + 5
    rig.asker.send_each(B, 1, [b"a", b"b", b"c", b"d"], "abcd", until_s, done)
    rig.send(7)
    rig.loop.run()
    outcomes = [
        Applied(7, PutResult(1)),
        Refused("moved", C),
        Applied(7, PutResult(3)),
        Unknown("?"),
    ]
    for (_, _, answer), outcome in zip(rig.executed[:4], outcomes, strict=True):
        answer(outcome)
    rig.executed[4][2](Applied(7, PutResult(9)))
    rig.loop.run()
    assert told == [
        (["b"], Refused("moved", C)),
        (["d"], Unknown("?")),
        (["a", "c"], AppliedEach(0, [PutResult(1), PutResult(3)])),
    ]
    assert rig.results[7] == [Applied(0, PutResult(9))]


def test_a_defect_of_one_asker_does_not_cost_the_others_their_answers(loop: Any) -> None:
    rig = Rig(loop)

    def broken(result: ProposeResult) -> None:
        raise ValueError("a defect of the caller")

    rig.asker.send(B, 1, b"x", loop.clock.monotonic() + 5, broken)
    rig.send(1)
    rig.loop.run()
    for _, _, done in rig.executed:
        done(Applied(7, PutResult(1)))
    rig.loop.run()
    assert rig.results[1] == [Applied(0, PutResult(1))]


@pytest.mark.parametrize("status", [Status.APPLIED, Status.REFUSED, Status.FAILED])
def test_an_answer_that_cannot_be_read_leaves_the_outcome_unknown(
    loop: Any, status: Status
) -> None:
    rig = Rig(loop)
    rig.wire.held = True
    rig.send(1)
    rig.send(2)
    rig.loop.run()
    good = encode_result(PutResult(5))
    replies = [Reply(1, status, b"\xc1"), Reply(2, Status.APPLIED, good)]
    rig.wire.ends[A].handler(B, encode_replies(replies)[0])
    assert isinstance(rig.results[1][0], Unknown)
    assert rig.results[2] == [Applied(0, PutResult(5))]


def test_replies_leave_in_the_pass_that_made_them_when_told_to(loop: Any) -> None:
    rig = Rig(loop)
    for number in range(3):
        rig.send(number)
    rig.loop.run()
    rig.leader.flush()
    assert rig.wire.frames == 1, "nothing waits"
    for _, _, done in rig.executed:
        done(Applied(7, PutResult(100)))
    assert rig.wire.frames == 1
    rig.leader.flush()
    assert rig.wire.frames == 2
    rig.loop.run()
    assert rig.wire.frames == 2, "the pass that was asked for before finds nothing"
    assert all(len(results) == 1 for results in rig.results.values())


def test_refusals_and_unknowns_keep_their_meaning(loop: Any) -> None:
    rig = Rig(loop)
    for number in range(3):
        rig.send(number)
    rig.loop.run()
    outcomes = (Refused("moved", C), Refused("full", busy=True), Unknown("the leader changed"))
    for (_, _, done), outcome in zip(rig.executed, outcomes, strict=True):
        done(outcome)
    rig.loop.run()
    assert [rig.results[n] for n in range(3)] == [[outcome] for outcome in outcomes]


def test_what_the_link_did_not_take_was_surely_not_done(loop: Any) -> None:
    rig = Rig(loop)
    rig.wire.ends[B].up = False
    rig.send(1)
    rig.loop.run()
    (result,) = rig.results[1]
    assert isinstance(result, Refused)
    assert rig.executed == []


def test_a_lost_connection_leaves_what_was_sent_unknown_and_refuses_what_was_not(loop: Any) -> None:
    rig = Rig(loop)
    rig.wire.held = True
    rig.send(1)
    rig.loop.run()
    rig.send(2)  # still in this pass's outbox
    rig.lose()
    assert isinstance(rig.results[1][0], Unknown)
    assert isinstance(rig.results[2][0], Refused)
    assert [len(results) for results in rig.results.values()] == [1, 1]


def test_no_answer_by_the_deadline_is_unknown_and_a_late_one_is_ignored(loop: Any) -> None:
    rig = Rig(loop)
    rig.send(1)
    rig.loop.run()
    rig.loop.advance(6)
    assert isinstance(rig.results[1][0], Unknown)
    rig.executed[0][2](Applied(1, PutResult(2)))
    rig.loop.run()
    assert len(rig.results[1]) == 1
    assert rig.asker.waiting == 0


def test_only_what_is_repeatable_moves_on_when_another_node_leads(loop: Any) -> None:
    """A frozen leader keeps its connections: without this a write with a token waits out its
    deadline though a new leader would take it."""
    rig = Rig(loop)
    rig.wire.held = True
    rig.send(1, repeatable=True)
    rig.send(2)
    rig.loop.run()
    rig.asker.led_by_another(1, C)
    rig.asker.led_by_another(2, C)
    rig.loop.run()
    assert isinstance(rig.results[1][0], Unknown)
    assert rig.results[2] == []
    rig.asker.led_by_another(1, B)
    rig.loop.run()
    assert rig.results[2] == []


def test_both_sides_are_bounded(loop: Any) -> None:
    rig = Rig(loop)
    for number in range(WAITING_MAX + 1):
        rig.send(number)
    rig.loop.run()
    (result,) = rig.results[WAITING_MAX]
    assert isinstance(result, Refused)
    assert result.busy
    assert len(rig.executed) == WAITING_MAX
    stranger = encode_requests([Request(1, 1, 1000, b"one more")])[0][0]
    rig.wire.ends[B].handler(A, stranger)
    rig.loop.run()
    assert len(rig.executed) == WAITING_MAX


def test_stop_answers_everything_once(loop: Any) -> None:
    rig = Rig(loop)
    rig.send(1)
    rig.loop.run()
    rig.send(2)
    rig.asker.stop()
    rig.send(3)
    rig.loop.run()
    kinds = [type(rig.results[n][0]) for n in (1, 2, 3)]
    assert kinds == [Unknown, Refused, Refused]
    assert all(len(results) == 1 for results in rig.results.values())


def test_answers_of_a_stranger_are_nobodys(loop: Any) -> None:
    rig = Rig(loop)
    rig.send(1)
    rig.loop.run()
    forged = encode_replies([Reply(99, Status.APPLIED, b""), Reply(-1, Status.UNKNOWN, b"?")])[0]
    rig.wire.ends[A].handler(B, forged)
    assert rig.results[1] == []


@given(st.binary(max_size=200))
def test_any_bytes_are_a_frame_or_malformed(frame: bytes) -> None:
    try:
        decode_frame(frame)
    except MalformedFrameError:
        return


@given(st.lists(st.binary(max_size=50), max_size=20))
def test_frames_come_back_as_they_went(commands: list[bytes]) -> None:
    requests = [Request(n, 1, 5, command) for n, command in enumerate(commands)]
    back = [item for frame, _ in encode_requests(requests) for item in decode_frame(frame).items]
    assert back == requests
    replies = [Reply(n, Status.APPLIED, command) for n, command in enumerate(commands)]
    assert [
        item for frame in encode_replies(replies) for item in decode_frame(frame).items
    ] == replies


def test_large_commands_are_cut_into_several_frames() -> None:
    requests = [Request(n, 1, 5, bytes(600_000)) for n in range(5)]
    frames = encode_requests(requests)
    assert [part for _, part in frames] == [2, 2, 1]


@pytest.mark.parametrize("frame", [b"", b"\x93\x01\x63\x90", b"\x93\x01\x02\x90"])
def test_frames_of_no_kind_or_version_are_malformed(frame: bytes) -> None:
    with pytest.raises(MalformedFrameError):
        decode_frame(frame)
