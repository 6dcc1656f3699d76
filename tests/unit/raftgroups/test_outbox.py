"""The outbox: one frame a peer and turn, early before late, bounded frames, channels."""

from __future__ import annotations

from raftgroups.frames import decode_frame
from raftgroups.messages import (
    Ack,
    Append,
    Chunk,
    Echo,
    Message,
    Probe,
    Vote,
)
from raftgroups.transport import RAFT, SNAPSHOT, NodeId, Outbox, PeerHandler

B, C = NodeId("b"), NodeId("c")


class Wire:
    """A Link that remembers what was sent, or refuses it."""

    def __init__(self) -> None:
        self.sent: list[tuple[NodeId, str, bytes]] = []
        self.full = False

    def send(self, peer: NodeId, channel: str, frame: bytes, *, at_once: bool = False) -> bool:
        if not self.full:
            self.sent.append((peer, channel, frame))
        return not self.full

    def push(self) -> None:
        pass

    def connected(self, peer: NodeId) -> bool:
        return True

    def subscribe(self, channel: str, handler: object) -> None: ...

    def on_peer_change(self, handler: PeerHandler) -> None: ...

    def set_peer(self, peer: NodeId, address: tuple[str, int]) -> None: ...

    def remove_peer(self, peer: NodeId) -> None: ...


class Leaver:
    """What `flush_now` waits for, counted."""

    def __init__(self) -> None:
        self.scheduled = False
        self.asked = 0

    def leave(self) -> None:
        self.scheduled = True
        self.asked += 1


def outbox() -> tuple[Outbox, Wire, list[tuple[NodeId, Message]]]:
    wire = Wire()
    lost: list[tuple[NodeId, Message]] = []
    return (
        Outbox(wire, 7, "boot", 1, lambda peer, message: lost.append((peer, message)), Leaver()),
        wire,
        lost,
    )


def append(size: int) -> Append:
    return Append(1, 1, 1, 1, 1, False, [(1, b"x" * size)])


def chunk(size: int) -> Chunk:
    return Chunk(1, 1, 1, 0, False, 0, b"x" * size)


def test_messages_of_all_groups_to_a_peer_share_a_frame() -> None:
    box, wire, _ = outbox()
    for group in range(50):
        box.add(B, Vote(group, 1), early=False)
        box.add(C, Vote(group, 1), early=False)
    box.flush_early(at_once=False)
    assert box.messages == 0
    box.flush_late(at_once=False)
    assert box.messages == 100
    assert [peer for peer, _, _ in wire.sent] == [B, C]
    assert len(decode_frame(wire.sent[0][2]).messages) == 50


def test_early_messages_leave_alone() -> None:
    box, wire, _ = outbox()
    box.add(B, Ack(1, 1, 2, True, False), early=False)
    box.add(B, append(10), early=True)
    box.flush_early(at_once=False)
    assert [type(m) for m in decode_frame(wire.sent[0][2]).messages] == [Append]
    box.flush_late(at_once=False)
    assert [type(m) for m in decode_frame(wire.sent[1][2]).messages] == [Ack]
    box.flush_late(at_once=False)
    assert len(wire.sent) == 2


def test_a_frame_does_not_grow_far_beyond_its_size() -> None:
    box, wire, _ = outbox()
    for _ in range(10):
        box.add(B, append(400_000), early=True)
    box.flush_early(at_once=False)
    assert len(wire.sent) == 5
    assert all(len(frame) < 1_100_000 for _, _, frame in wire.sent)
    box.add(B, append(2_500_000), early=True)
    box.flush_early(at_once=False)
    assert len(wire.sent) == 6


def test_snapshots_have_a_channel_of_their_own_unless_a_row_is_too_large() -> None:
    box, wire, _ = outbox()
    box.add(B, chunk(1000), early=False)
    box.add(B, Vote(1, 1), early=False)
    box.add(B, chunk(3_900_000), early=False)
    box.flush_late(at_once=False)
    assert [channel for _, channel, _ in wire.sent] == [SNAPSHOT, RAFT, RAFT]


def test_what_the_link_refuses_is_told() -> None:
    box, wire, lost = outbox()
    wire.full = True
    box.add(B, append(1), early=True)
    box.add(B, Vote(1, 1), early=True)
    box.flush_early(at_once=False)
    assert lost == [(B, append(1)), (B, Vote(1, 1))]


def test_the_same_entries_to_several_peers_are_encoded_once() -> None:
    box, wire, _ = outbox()
    for peer, message in ((B, append(10)), (C, append(10))):
        box.add(peer, message, early=True)
    box.flush_early(at_once=False)
    assert wire.sent[0][2] is wire.sent[1][2]


def test_what_only_looks_alike_has_a_frame_of_its_own() -> None:
    """Named tuples of several kinds are equal if their fields are, and True is 1."""
    box, wire, _ = outbox()
    pairs: list[tuple[Message, Message]] = [
        (Probe(1, 1, 1), Echo(1, 1, 1)),
        (append(10), append(10)._replace(commit=2)),
        (append(10), append(11)),
        (append(10), append(10)._replace(entries=[])),
    ]
    for mine, theirs in pairs:
        box.add(B, mine, early=True)
        box.add(C, theirs, early=True)
        box.flush_early(at_once=False)
        found = [decode_frame(frame).messages for _, _, frame in wire.sent[-2:]]
        assert [type(messages[0]) for messages in found] == [type(mine), type(theirs)]
        assert found[0] != found[1] or type(mine) is not type(theirs)


def test_what_leaves_with_the_next_pass_asks_for_one_if_none_is_to_come() -> None:
    soon, wire = Leaver(), Wire()
    box = Outbox(wire, 7, "boot", 1, lambda *_: None, soon)
    box.send_now(B, Probe(1, 1, 1))
    box.send_now(C, Probe(1, 1, 1))
    assert soon.asked == 1
    box.flush_now()
    box.send_now(B, Probe(1, 1, 2))
    assert soon.asked == 1, "that pass is still to come"
    soon.scheduled = False
    box.flush_now()
    box.send_now(B, Probe(1, 1, 3))
    assert soon.asked == 2
    assert [peer for peer, _, _ in wire.sent] == [B, C, B]
