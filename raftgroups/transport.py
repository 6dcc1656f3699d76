"""What raftgroups asks of the network: the Link protocol. No sockets here.

One Link serves a whole node. It carries frames of bytes between pairs of nodes over named channels
("raft", "snapshot", ...), each bounded, so that a slow peer never grows memory and a large snapshot
never delays a heartbeat. The real one is kv/cluster/link.py; the simulated one is in chaos/sim.

What may be relied on, and nothing more:
- a frame arrives whole or not at all, at most once, and frames of one channel between two nodes
  arrive in the order in which they were sent while one connection lasts;
- anything may be lost: when a connection breaks, when a channel is full, when a peer is unknown;
- handlers are called from the node's loop, never from inside `send`, and an exception out of one is
  a defect of the receiver: the link counts it and drops the frame, it never breaks the loop.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NewType, Protocol

NodeId = NewType("NodeId", str)
"""A node's random identity, made at first start. Names and addresses are labels."""

FrameHandler = Callable[[NodeId, bytes], None]
PeerHandler = Callable[[NodeId, bool], None]


class Link(Protocol):
    def send(self, peer: NodeId, channel: str, frame: bytes) -> bool:
        """Queue a frame; never blocks. False: dropped (no such peer, no connection, full)."""
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
