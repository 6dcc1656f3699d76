"""The leaderless regime as metrics: requests, hints, repair, siblings, alarms. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from kv.metrics.instruments import Definition, Reading, counter, gauge


@dataclass(frozen=True, slots=True)
class HintFigures:
    count: int
    size_bytes: int
    overflowed: int


@dataclass(frozen=True, slots=True)
class LeaderlessFigures:
    """`counts` are those of kv/leaderless/parts.py, `peers` by node id."""

    under_way: int
    waiting: int
    pending: int
    counts: Mapping[str, int]
    alarms: Mapping[str, int]
    hints: Mapping[str, HintFigures]
    connected: Mapping[str, bool]


UNDER_WAY: Final = gauge(
    "januskv_leaderless_requests_under_way", "Requests that have not ended here, late answers "
    "and hints included.", "requests",
)  # fmt: skip
WAITING: Final = gauge(
    "januskv_leaderless_messages_waiting", "Questions to peers without an answer yet.", "messages"
)
PENDING: Final = gauge(
    "januskv_leaderless_changes_pending", "Changes that wait for this node's disk.", "changes"
)
EVENTS: Final = counter(
    "januskv_leaderless_events_total",
    "What happened to requests and copies, by kind: puts, gets, forwarded, hinted, repaired, ...",
    "events", "event",
)  # fmt: skip
REPAIRS: Final = gauge(
    "januskv_leaderless_repairs_under_way", "Read repairs that wait for an answer.", "repairs"
)
ALARMS: Final = counter(
    "januskv_leaderless_alarms_total",
    "What nobody may overlook, by kind: damaged records, reused dots, new incarnations.",
    "alarms", "alarm",
)  # fmt: skip
HINTS: Final = gauge(
    "januskv_leaderless_hints", "Writes that this node keeps for a peer.", "hints", "peer"
)
HINT_BYTES: Final = gauge(
    "januskv_leaderless_hints_bytes", "Bytes of those writes.", "bytes", "peer"
)
OVERFLOWED: Final = gauge(
    "januskv_leaderless_hints_overflowed", "Writes for a peer that were not kept: only a repair "
    "brings them.", "hints", "peer",
)  # fmt: skip
CONNECTED: Final = gauge(
    "januskv_leaderless_peer_connected", "1: the peer is in reach of this node.", "flag", "peer"
)
DEFINITIONS: Final[tuple[Definition, ...]] = (
    UNDER_WAY, WAITING, PENDING, EVENTS, REPAIRS, ALARMS, HINTS, HINT_BYTES, OVERFLOWED, CONNECTED,
)  # fmt: skip
_GAUGES: Final = frozenset({"repairs_under_way"})


def leaderless_readings(figures: LeaderlessFigures) -> Iterator[Reading]:
    yield UNDER_WAY, (), figures.under_way
    yield WAITING, (), figures.waiting
    yield PENDING, (), figures.pending
    yield REPAIRS, (), figures.counts.get("repairs_under_way", 0)
    for name, count in figures.counts.items():
        if name not in _GAUGES:
            yield EVENTS, (name,), count
    for name, count in figures.alarms.items():
        yield ALARMS, (name,), count
    for peer, usage in figures.hints.items():
        yield HINTS, (peer,), usage.count
        yield HINT_BYTES, (peer,), usage.size_bytes
        yield OVERFLOWED, (peer,), usage.overflowed
    for peer, connected in figures.connected.items():
        yield CONNECTED, (peer,), int(connected)
