"""What raftgroups asks of the network: the Link protocol, and how its messages use it. No sockets.

One Link serves a whole node. It carries frames of bytes between pairs of nodes over named channels
("raft", "snapshot", ...), each bounded, so that a slow peer never grows memory and a large snapshot
never delays a heartbeat. The real one is kv/cluster/link.py; the simulated one is in chaos/sim.

What may be relied on, and nothing more:
- a frame arrives whole or not at all, at most once, and frames of one channel between two nodes
  arrive in the order in which they were sent while one connection lasts;
- anything may be lost: when a connection breaks, when a channel is full, when a peer is unknown;
- handlers are called from the node's loop, never from inside `send`, and an exception out of one is
  a defect of the receiver: the link counts it and drops the frame, it never breaks the loop.

The Outbox gathers a turn's messages of all groups, so that each peer gets one frame a turn and
channel (more only where it would grow beyond FRAME_BYTES), and knows which of them may leave before
the turn's batch is on the disk. What needs no turn (reads) is gathered for one pass of the loop
(soon.py): with 64 groups and 64 reads in flight a read point took 4 frames and 81 us of the
cluster's CPU, now 0.2 frames and 31 us (with one group 4 us, because all 64 share a probe).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NewType, Protocol

from raftgroups.frames import encode_messages, frame_opening
from raftgroups.messages import Append, Chunk, Message, Offer, OfferReply

NodeId = NewType("NodeId", str)
"""A node's random identity, made at first start. Names and addresses are labels."""

FrameHandler = Callable[[NodeId, bytes], None]
PeerHandler = Callable[[NodeId, bool], None]

RAFT: Final = "raft"
SNAPSHOT: Final = "snapshot"
FRAME_BYTES: Final = 1024 * 1024
"""A frame grows to about this, or to one message if that is larger: 3 MiB of entries at most."""
SMALL_MAX: Final = 1024
"""So many messages without entries are in one frame surely."""
SNAPSHOT_BYTES: Final = 3 * 1024 * 1024
"""A chunk with a row larger than this is rare, and travels with the entries."""


class Link(Protocol):
    def send(self, peer: NodeId, channel: str, frame: bytes, *, at_once: bool = False) -> bool:
        """Queue a frame; never blocks. False: dropped (no such peer, no connection, full).
        `at_once`: its sender has gathered already, so it need not wait for what else this pass of
        the loop may bring for the peer."""
        ...

    def push(self) -> None:
        """What was queued leaves now. Without it, it leaves after the pass of the loop that queued
        it, with whatever else that pass queues."""
        ...

    def connected(self, peer: NodeId) -> bool: ...

    def subscribe(self, channel: str, handler: FrameHandler) -> None:
        """Name the one handler of a channel; frames of a channel without one are dropped."""
        ...

    def on_peer_change(self, handler: PeerHandler) -> None:
        """Called with (peer, True) once authenticated, (peer, False) once lost."""
        ...

    def set_peer(self, peer: NodeId, address: tuple[str, int]) -> None:
        """Keep a connection to this peer (again and again, with backoff) until it is removed."""
        ...

    def remove_peer(self, peer: NodeId) -> None: ...


class Departure(Protocol):
    """As much of Soon (soon.py) as an outbox needs."""

    scheduled: bool
    """`leave` was called and what was to leave has not left: it need not be called again."""

    def leave(self) -> None: ...


class Outbox:
    """Messages that wait to leave. Invariant: those to one peer leave in the order in which they
    came, except that early ones overtake late ones."""

    def __init__(
        self,
        link: Link,
        incarnation: int,
        boot: str,
        level: int,
        not_sent: Callable[[NodeId, Message], None],
        soon: Departure,
    ) -> None:
        """`soon` has `flush_now` called in the next pass of the loop."""
        self._link = link
        self._opening = frame_opening(incarnation, boot, level)
        self._not_sent = not_sent
        self.early: dict[NodeId, list[Message]] = {}
        self.late: dict[NodeId, list[Message]] = {}
        self._soon = soon
        self.now: dict[NodeId, list[Message]] = {}
        """What leaves with the next pass of the loop."""
        self.messages = 0
        """How many have left."""
        self._entries: tuple[Append, bytes] | None = None
        """Entries that this flush has sent to one peer, and their frame: others get the same."""

    def add(self, peer: NodeId, message: Message, *, early: bool = False) -> None:
        box = self.early if early else self.late
        waiting = box.get(peer)
        if waiting is None:
            box[peer] = [message]
        else:
            waiting.append(message)

    def flush_early(self, *, at_once: bool) -> None:
        """`at_once`: nothing else is about to be sent to the same peers."""
        if self.early:
            box, self.early = self.early, {}
            self._flush(box, at_once)

    def flush_late(self, *, at_once: bool) -> None:
        if self.late:
            box, self.late = self.late, {}
            self._flush(box, at_once)

    def send_now(self, peer: NodeId, message: Message) -> None:
        """Past the turn, with what else leaves in the next pass of the loop. For small messages:
        of reads, and what has no entries."""
        box = self.now
        if not box and not self._soon.scheduled:
            self._soon.leave()
        waiting = box.get(peer)
        if waiting is None:
            box[peer] = [message]
        else:
            waiting.append(message)

    def flush_now(self, *, at_once: bool = True) -> None:
        if self.now:
            box, self.now = self.now, {}
            link, opening = self._link, self._opening
            for peer, messages in box.items():
                if len(messages) > SMALL_MAX:
                    self._send(peer, messages, at_once)
                    continue
                self.messages += len(messages)
                if not link.send(peer, RAFT, encode_messages(opening, messages), at_once=at_once):
                    for message in messages:
                        self._not_sent(peer, message)

    def _flush(self, box: dict[NodeId, list[Message]], at_once: bool) -> None:
        for peer, messages in box.items():
            if len(messages) > 1:
                self._send(peer, messages, at_once)
            else:
                bulk = type(messages[0]) in _SNAPSHOT_KINDS
                channel = _channel(messages[0]) if bulk else RAFT
                self._send_frame(peer, channel, messages, at_once)
        self._entries = None

    def _send(self, peer: NodeId, messages: list[Message], at_once: bool) -> None:
        """Now, in as few frames as their size allows."""
        start, size, channel = 0, 0, RAFT
        for at, message in enumerate(messages):
            weight = _weight(message)
            wanted = _channel(message)
            if at > start and (wanted != channel or size + weight > FRAME_BYTES):
                self._send_frame(peer, channel, messages[start:at], at_once)
                start, size = at, 0
            channel = wanted
            size += weight
        self._send_frame(peer, channel, messages[start:], at_once)

    def _send_frame(
        self, peer: NodeId, channel: str, messages: list[Message], at_once: bool
    ) -> None:
        self.messages += len(messages)
        first = messages[0]
        if type(first) is not Append or not first.entries or len(messages) > 1:
            frame = encode_messages(self._opening, messages)
        elif self._entries is not None and self._entries[0] == first:
            frame = self._entries[1]
        else:
            frame = encode_messages(self._opening, messages)
            self._entries = (first, frame)
        if not self._link.send(peer, channel, frame, at_once=at_once):
            for message in messages:
                self._not_sent(peer, message)


_SNAPSHOT_KINDS: Final = frozenset((Offer, OfferReply, Chunk))


def _channel(message: Message) -> str:
    bulk = type(message) in _SNAPSHOT_KINDS and _weight(message) < SNAPSHOT_BYTES
    return SNAPSHOT if bulk else RAFT


def _weight(message: Message) -> int:
    """About how many bytes a message takes."""
    if isinstance(message, Append):
        return 64 + sum(len(command) + 8 for _, command in message.entries)
    return 64 + len(message.rows) if isinstance(message, Chunk) else 64
