"""The peer link as metrics. Pure. A peer that is removed takes its lines with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, Protocol

from kv.metrics.instruments import Reading, counter, gauge


class ChannelFigures(Protocol):
    """kv.cluster.link_config.ChannelStatus."""

    @property
    def sent_frames(self) -> int: ...
    @property
    def received_frames(self) -> int: ...
    @property
    def dropped(self) -> Mapping[str, int]: ...
    @property
    def queued_frames(self) -> int: ...
    @property
    def queued_bytes(self) -> int: ...


class PeerFigures(Protocol):
    """kv.cluster.link_config.PeerStatus."""

    @property
    def node_id(self) -> str: ...
    @property
    def connected(self) -> bool: ...
    @property
    def connections(self) -> int: ...
    @property
    def failed_dials(self) -> int: ...
    @property
    def sent_bytes(self) -> int: ...
    @property
    def received_bytes(self) -> int: ...
    @property
    def rtt_s(self) -> float | None: ...
    @property
    def channels(self) -> Mapping[str, ChannelFigures]: ...


class LinkFigures(Protocol):
    """kv.cluster.link_config.LinkStatus, which a pure file cannot import (it knows the clock)."""

    @property
    def strangers(self) -> int: ...
    @property
    def problems(self) -> Mapping[str, int]: ...
    @property
    def peers(self) -> Mapping[Any, PeerFigures]: ...


CONNECTED: Final = gauge(
    "januskv_link_connected", "Whether frames can be sent to the peer now.", "flag", "peer"
)
CONNECTIONS: Final = counter(
    "januskv_link_connections_total", "Connections that the peer and we had.", "connections", "peer"
)
FAILED_DIALS: Final = counter(
    "januskv_link_failed_dials_total", "Attempts to reach the peer that failed.", "dials", "peer"
)
SENT_BYTES: Final = counter(
    "januskv_link_sent_bytes_total", "Bytes sent to the peer.", "bytes", "peer"
)
RECEIVED_BYTES: Final = counter(
    "januskv_link_received_bytes_total", "Bytes received from the peer.", "bytes", "peer"
)
ROUND_TRIP: Final = gauge(
    "januskv_link_round_trip_seconds", "The last ping's way there and back.", "seconds", "peer"
)
QUEUED_BYTES: Final = gauge(
    "januskv_link_queued_bytes", "Bytes waiting to be sent.", "bytes", "peer", "channel"
)
QUEUED_FRAMES: Final = gauge(
    "januskv_link_queued_frames", "Frames waiting to be sent.", "frames", "peer", "channel"
)
SENT_FRAMES: Final = counter(
    "januskv_link_sent_frames_total", "Frames sent.", "frames", "peer", "channel"
)
RECEIVED_FRAMES: Final = counter(
    "januskv_link_received_frames_total", "Frames received.", "frames", "peer", "channel"
)
DROPPED_FRAMES: Final = counter(
    "januskv_link_dropped_frames_total",
    "Frames refused by a full queue, lost with a connection, or without a handler.",
    "frames", "peer", "channel", "reason",
)  # fmt: skip
STRANGERS: Final = gauge(
    "januskv_link_strangers",
    "Inbound connections not authenticated yet.",
    "connections",
)
PROBLEMS: Final = counter(
    "januskv_link_problems_total", "Refusals, violations and timeouts of links, by reason.",
    "problems", "reason",
)  # fmt: skip

DEFINITIONS: Final = (
    CONNECTED, CONNECTIONS, FAILED_DIALS, SENT_BYTES, RECEIVED_BYTES, ROUND_TRIP, QUEUED_BYTES,
    QUEUED_FRAMES, SENT_FRAMES, RECEIVED_FRAMES, DROPPED_FRAMES, STRANGERS, PROBLEMS,
)  # fmt: skip


def link_readings(link: LinkFigures) -> Iterator[Reading]:
    yield STRANGERS, (), link.strangers
    for reason, count in link.problems.items():
        yield PROBLEMS, (reason,), count
    for peer in link.peers.values():
        yield from _peer(peer)


def _peer(peer: PeerFigures) -> Iterator[Reading]:
    labels = (str(peer.node_id),)
    yield CONNECTED, labels, peer.connected
    yield CONNECTIONS, labels, peer.connections
    yield FAILED_DIALS, labels, peer.failed_dials
    yield SENT_BYTES, labels, peer.sent_bytes
    yield RECEIVED_BYTES, labels, peer.received_bytes
    if peer.rtt_s is not None:
        yield ROUND_TRIP, labels, peer.rtt_s
    for name, channel in peer.channels.items():
        pair = *labels, name
        yield QUEUED_BYTES, pair, channel.queued_bytes
        yield QUEUED_FRAMES, pair, channel.queued_frames
        yield SENT_FRAMES, pair, channel.sent_frames
        yield RECEIVED_FRAMES, pair, channel.received_frames
        for reason, count in channel.dropped.items():
            yield DROPPED_FRAMES, (*pair, reason), count
