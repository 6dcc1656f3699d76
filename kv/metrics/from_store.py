"""Shards and their watchers as metrics. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from kv.metrics.instruments import Reading, counter, gauge
from kv.watch.roster import HubStatistics
from raftgroups.machine import ShardMachine


@dataclass(frozen=True, slots=True)
class ShardFigures:
    """What one shard's replica on this node has applied."""

    shard: int
    group: int
    keyspace: str
    revision: int
    compact_revision: int
    keys: int
    leases: int
    keys_with_ttl: int

    @classmethod
    def of_machine(cls, machine: ShardMachine, *, group: int, keyspace: str) -> ShardFigures:
        state = machine.shard.state
        return cls(
            shard=state.shard,
            group=group,
            keyspace=keyspace,
            revision=state.revision,
            compact_revision=max(0, state.compact_revision),  # -1: never
            keys=state.keys,
            leases=len(machine.leases),
            keys_with_ttl=machine.ttls.count,
        )


_PLACE: Final = "keyspace", "shard"

REVISION: Final = gauge(
    "januskv_store_revision", "The shard's revision as applied here.", "revisions", *_PLACE
)
COMPACT_REVISION: Final = gauge(
    "januskv_store_compact_revision", "Compacted up to here; 0: never.", "revisions", *_PLACE
)
KEYS: Final = gauge("januskv_store_keys", "Keys of the shard now.", "keys", *_PLACE)
LEASES: Final = gauge("januskv_leases", "Leases that live in the shard.", "leases", *_PLACE)
KEYS_WITH_TTL: Final = gauge(
    "januskv_keys_with_ttl", "Keys that have a time to live of their own.", "keys", *_PLACE
)

WATCHERS: Final = gauge(
    "januskv_watchers",
    "Watchers on this node by state: synced, catching_up, victim (its outbox is full), future, "
    "ended (the last message not taken yet).",
    "watchers", "shard", "state",
)  # fmt: skip
WATCHED_RANGES: Final = gauge(
    "januskv_watch_ranges", "Distinct key ranges that are watched.", "ranges", "shard"
)
HELD_BYTES: Final = gauge(
    "januskv_watch_held_bytes", "Bytes of events in outboxes, shared ones once.", "bytes", "shard"
)
DELIVERED: Final = counter(
    "januskv_watch_events_delivered_total", "Events put into watchers' outboxes to be sent.",
    "events", "shard",
)  # fmt: skip
OUTBOXES_FILLED: Final = counter(
    "januskv_watch_outboxes_filled_total", "How often a watcher was too slow and its outbox full.",
    "times", "shard",
)  # fmt: skip
PAGES_READ: Final = counter(
    "januskv_watch_pages_read_total", "Pages of the event log read for watchers behind.",
    "pages", "shard",
)  # fmt: skip
CANCELLED: Final = counter(
    "januskv_watch_cancelled_total", "Watchers cancelled by this node, by reason.",
    "watchers", "shard", "reason",
)  # fmt: skip

DEFINITIONS: Final = (
    REVISION, COMPACT_REVISION, KEYS, LEASES, KEYS_WITH_TTL, WATCHERS, WATCHED_RANGES, HELD_BYTES,
    DELIVERED, OUTBOXES_FILLED, PAGES_READ, CANCELLED,
)  # fmt: skip


def shard_readings(shards: Iterable[ShardFigures]) -> Iterator[Reading]:
    for shard in shards:
        place = shard.keyspace, str(shard.shard)
        yield REVISION, place, shard.revision
        yield COMPACT_REVISION, place, shard.compact_revision
        yield KEYS, place, shard.keys
        yield LEASES, place, shard.leases
        yield KEYS_WITH_TTL, place, shard.keys_with_ttl


def hub_readings(hubs: Mapping[int, HubStatistics]) -> Iterator[Reading]:
    """By shard."""
    for number, hub in hubs.items():
        shard = str(number)
        yield WATCHERS, (shard, "synced"), hub.synced
        yield WATCHERS, (shard, "catching_up"), hub.catching_up
        yield WATCHERS, (shard, "victim"), hub.victims
        yield WATCHERS, (shard, "future"), hub.future
        yield WATCHERS, (shard, "ended"), hub.ended
        yield WATCHED_RANGES, (shard,), hub.ranges
        yield HELD_BYTES, (shard,), hub.held_bytes
        yield DELIVERED, (shard,), hub.delivered_events
        yield OUTBOXES_FILLED, (shard,), hub.outboxes_filled
        yield PAGES_READ, (shard,), hub.pages_read
        yield CANCELLED, (shard, "compacted"), hub.cancelled_compacted
        yield CANCELLED, (shard, "limit"), hub.cancelled_limit
