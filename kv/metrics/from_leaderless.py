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
class GossipFigures:
    rounds: int
    sent_bytes: int
    convergence_s: float


@dataclass(frozen=True, slots=True)
class RepairFigures:
    rounds: int
    """Comparisons with everybody that came to their end or were broken off."""
    exchanges: int
    equal: int
    fetched: int
    pushed: int
    transferred_bytes: int
    failed: int


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
    phi: Mapping[str, float]
    gossip: GossipFigures
    repair: RepairFigures
    tombstones: int
    oldest_tombstone_s: float
    reaped: int
    sibling_refusals: int
    lacking: float
    foreign: int
    tails: int


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
PHI: Final = gauge(
    "januskv_leaderless_peer_phi", "How surely the peer is down: 5 is suspicious, 8 is down.",
    "phi", "peer",
)  # fmt: skip
GOSSIP_ROUNDS: Final = counter(
    "januskv_leaderless_gossip_rounds_total", "Rounds of gossip that this node began.", "rounds"
)
GOSSIP_BYTES: Final = counter(
    "januskv_leaderless_gossip_sent_bytes_total", "Bytes of gossip that this node sent.", "bytes"
)
CONVERGENCE: Final = gauge(
    "januskv_leaderless_gossip_convergence_seconds",
    "How long the last change of the ring took until every member went by it, as seen here.",
    "seconds",
)
REPAIR_ROUNDS: Final = counter(
    "januskv_leaderless_repair_rounds_total", "Repairs with everybody that ended.", "rounds"
)
EXCHANGES: Final = counter(
    "januskv_leaderless_repair_exchanges_total", "Comparisons with one peer.", "exchanges"
)
EQUAL: Final = counter(
    "januskv_leaderless_repair_equal_total", "Comparisons that ended with the roots.", "exchanges"
)
REPAIRED_SETS: Final = counter(
    "januskv_leaderless_repair_sets_total", "Keys that comparisons brought here or to the peer.",
    "keys", "way",
)  # fmt: skip
REPAIR_BYTES: Final = counter(
    "januskv_leaderless_repair_bytes_total", "Bytes of those keys.", "bytes"
)
REPAIR_FAILED: Final = counter(
    "januskv_leaderless_repair_failed_total", "Keys that one side could not store.", "keys"
)
TOMBSTONES: Final = gauge(
    "januskv_leaderless_tombstones_held", "Deleted and expired keys that are not forgotten yet.",
    "keys",
)  # fmt: skip
OLDEST: Final = gauge(
    "januskv_leaderless_tombstone_oldest_seconds", "How long the oldest of them has been dead.",
    "seconds",
)  # fmt: skip
REAPED: Final = counter(
    "januskv_leaderless_reaped_total", "Dead keys forgotten here, after the proof.", "keys"
)
SIBLING_REFUSALS: Final = counter(
    "januskv_leaderless_sibling_refusals_total",
    "Writes refused because they would have left too many concurrent versions.", "writes",
)  # fmt: skip
LACKING: Final = gauge(
    "januskv_leaderless_lacking_ratio",
    "Which part of what this node is to have it has not got yet; it answers no reads there.",
    "ratio",
)
FOREIGN: Final = gauge(
    "januskv_leaderless_foreign_copies", "Copies that belong to others and have not gone there.",
    "keys",
)  # fmt: skip
TAILS: Final = gauge(
    "januskv_leaderless_tails", "Streams of all nodes' changes that watches here hang on.", "tails"
)
DEFINITIONS: Final[tuple[Definition, ...]] = (
    UNDER_WAY, WAITING, PENDING, EVENTS, REPAIRS, ALARMS, HINTS, HINT_BYTES, OVERFLOWED, CONNECTED,
    PHI, GOSSIP_ROUNDS, GOSSIP_BYTES, CONVERGENCE, REPAIR_ROUNDS, EXCHANGES, EQUAL, REPAIRED_SETS,
    REPAIR_BYTES, REPAIR_FAILED, TOMBSTONES, OLDEST, REAPED, SIBLING_REFUSALS, LACKING, FOREIGN,
    TAILS,
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
    for peer, phi in figures.phi.items():
        yield PHI, (peer,), phi
    yield from _of_upkeep(figures)


def _of_upkeep(figures: LeaderlessFigures) -> Iterator[Reading]:
    gossip, repair = figures.gossip, figures.repair
    yield GOSSIP_ROUNDS, (), gossip.rounds
    yield GOSSIP_BYTES, (), gossip.sent_bytes
    yield CONVERGENCE, (), gossip.convergence_s
    yield REPAIR_ROUNDS, (), repair.rounds
    yield EXCHANGES, (), repair.exchanges
    yield EQUAL, (), repair.equal
    yield REPAIRED_SETS, ("fetched",), repair.fetched
    yield REPAIRED_SETS, ("pushed",), repair.pushed
    yield REPAIR_BYTES, (), repair.transferred_bytes
    yield REPAIR_FAILED, (), repair.failed
    yield TOMBSTONES, (), figures.tombstones
    yield OLDEST, (), figures.oldest_tombstone_s
    yield REAPED, (), figures.reaped
    yield SIBLING_REFUSALS, (), figures.sibling_refusals
    yield LACKING, (), figures.lacking
    yield FOREIGN, (), figures.foreign
    yield TAILS, (), figures.tails
