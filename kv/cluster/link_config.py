"""What a peer link can be told, and the numbers that it tells. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from kv.cluster.link_protocol import CHANNELS, FRAGMENT_BYTES, Channel, LinkUsageError
from kv.cluster.reach import is_loopback
from raftgroups.transport import NodeId
from storage.clock import Rng

Address = tuple[str, int]


@dataclass(frozen=True, slots=True)
class LinkConfig:
    listen: Address = ("127.0.0.1", 0)
    insecure: bool = False
    """Allows an address outside loopback without TLS and a secret."""
    address_overrides: Mapping[NodeId, Address] = field(default_factory=dict)
    """Dial these peers here, whatever `set_peer` says: a link can run through a proxy."""
    channels: tuple[Channel, ...] = CHANNELS
    connect_timeout_s: float = 3.0
    handshake_timeout_s: float = 5.0
    keepalive_s: float = 1.0
    """How often a peer is pinged."""
    idle_timeout_s: float = 5.0
    """A connection that brought nothing for so long, pongs included, is dead."""
    unanswered_timeout_s: float = 30.0
    """So is one that brings something, but never the answer to a ping."""
    close_timeout_s: float = 1.0
    """What is queued when the link closes gets so long to leave."""
    backoff_first_s: float = 0.05
    backoff_max_s: float = 3.0
    stable_after_s: float = 5.0
    """A connection that lasted so long ends the backoff."""
    burst_bytes: int = 128 * 1024
    """Handed to the transport at a time. An urgent frame waits for so much at most."""
    max_strangers: int = 64
    """Inbound connections that are not authenticated yet; beyond it the oldest goes."""
    max_connections: int = 512

    def __post_init__(self) -> None:
        assert 0 < self.keepalive_s < self.idle_timeout_s <= self.unanswered_timeout_s
        assert 0 < self.backoff_first_s <= self.backoff_max_s
        assert self.burst_bytes >= FRAGMENT_BYTES
        assert 0 < self.max_strangers <= self.max_connections
        names = {channel.name for channel in self.channels}
        numbers = {channel.id for channel in self.channels}
        assert len(names) == len(numbers) == len(self.channels), (
            "channels have unique names and ids"
        )


@dataclass(frozen=True, slots=True)
class ChannelStatus:
    sent_frames: int
    received_frames: int
    dropped: Mapping[str, int]
    """Frames that `send` refused or a lost connection took with it, by reason."""
    queued_frames: int
    queued_bytes: int


@dataclass(frozen=True, slots=True)
class PeerStatus:
    node_id: NodeId
    address: Address | None
    connected: bool
    dialed: bool
    """This side dialed the connection in use."""
    boot_id: str
    connections: int
    """How many there were, the one in use included: reconnects = connections - 1."""
    failed_dials: int
    sent_bytes: int
    received_bytes: int
    rtt_s: float | None
    connected_for_s: float
    last_problem: str
    channels: Mapping[str, ChannelStatus]


@dataclass(frozen=True, slots=True)
class LinkStatus:
    listening: Address | None
    connections: int
    strangers: int
    problems: Mapping[str, int]
    """Refusals, violations, timeouts and defects of handlers, by reason."""
    peers: Mapping[NodeId, PeerStatus]


class Backoff:
    """Delays that double from `first_s` to `max_s`, each shortened at random by up to a half, so
    that nodes that lost each other at the same moment do not meet again and again."""

    __slots__ = ("_first_s", "_max_s", "_rng", "failures")

    def __init__(self, first_s: float, max_s: float, rng: Rng) -> None:
        self._first_s = first_s
        self._max_s = max_s
        self._rng = rng
        self.failures = 0

    def next_s(self) -> float:
        doublings = min(self.failures, 30)
        self.failures += 1
        return float(min(self._max_s, self._first_s * 2.0**doublings) * self._rng.uniform(0.5, 1.0))

    def reset(self) -> None:
        self.failures = 0


def check_listen(config: LinkConfig, *, authenticated: bool, encrypted: bool) -> None:
    """Refuse to be reachable from outside without TLS and a proof of membership."""
    host, port = config.listen
    if is_loopback(host) or config.insecure or (authenticated and encrypted):
        return
    missing = "TLS" if authenticated else "a cluster secret" if encrypted else "TLS and a secret"
    raise LinkUsageError(
        f"the peer address {host}:{port} can be reached from outside and has no protection: "
        f"configure {missing}, or say insecure = true"
    )
