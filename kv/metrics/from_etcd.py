"""The names under which etcd tells the same, for dashboards and alerts made for etcd. Pure.

Only what can be said truly is here. Left out on purpose: everything of gRPC (there is none), the
quota (the limit here is the disk's reserve), the histogram of round trips (the link keeps the last
one) and counters of leases (the number that live is januskv_leases).

They speak of the one group that `/v3` serves; a node without it says nothing. `_total` names that
etcd gives as gauges are gauges here, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from kv.metrics.from_link import LinkFigures
from kv.metrics.from_store import ShardFigures
from kv.metrics.instruments import Definition, Histogram, Reading, counter, gauge, histogram
from kv.watch.roster import HubStatistics
from raftgroups.status import GroupStatus, Role
from storage.engine import EngineStatistics

HAS_LEADER: Final = gauge("etcd_server_has_leader", "Whether a leader is known.", "flag")
IS_LEADER: Final = gauge("etcd_server_is_leader", "Whether this member leads.", "flag")
IS_LEARNER: Final = gauge("etcd_server_is_learner", "Whether this member is a learner.", "flag")
LEADER_CHANGES: Final = counter(
    "etcd_server_leader_changes_seen_total", "Leader changes seen by this member.", "changes"
)
COMMITTED: Final = gauge(
    "etcd_server_proposals_committed_total", "Index of the last committed entry.", "entries"
)
APPLIED: Final = gauge(
    "etcd_server_proposals_applied_total", "Index of the last applied entry.", "entries"
)
PENDING: Final = gauge("etcd_server_proposals_pending", "Proposals not answered yet.", "proposals")
FAILED: Final = counter(
    "etcd_server_proposals_failed_total", "Proposals refused or of unknown outcome.", "proposals"
)
INSTALLING: Final = gauge(
    "etcd_server_snapshot_apply_in_progress_total", "1 while a snapshot is put in place.", "flag"
)
FSYNC: Final = histogram(
    "etcd_disk_wal_fsync_duration_seconds",
    "Synced writes of the engine, which holds log and data alike.",
    "seconds",
)
BACKEND_COMMIT: Final = histogram(
    "etcd_disk_backend_commit_duration_seconds",
    "The same writes: log and data are committed together.",
    "seconds",
)
DB_TOTAL: Final = gauge(
    "etcd_mvcc_db_total_size_in_bytes", "Bytes that the files occupy on the disk.", "bytes"
)
DB_IN_USE: Final = gauge(
    "etcd_mvcc_db_total_size_in_use_in_bytes", "Those without what can be used again.", "bytes"
)
REVISION: Final = gauge("etcd_debugging_mvcc_current_revision", "The revision.", "revisions")
COMPACT_REVISION: Final = gauge(
    "etcd_debugging_mvcc_compact_revision", "Compacted up to here.", "revisions"
)
KEYS: Final = gauge("etcd_debugging_mvcc_keys_total", "Keys now.", "keys")
WATCHERS: Final = gauge("etcd_debugging_mvcc_watcher_total", "Watchers.", "watchers")
SLOW_WATCHERS: Final = gauge(
    "etcd_debugging_mvcc_slow_watcher_total", "Watchers that are behind.", "watchers"
)
EVENTS: Final = counter(
    "etcd_debugging_mvcc_events_total", "Events handed to watchers to be sent.", "events"
)
SENT_BYTES: Final = counter(
    "etcd_network_peer_sent_bytes_total", "Bytes sent to the peer.", "bytes", "To"
)
RECEIVED_BYTES: Final = counter(
    "etcd_network_peer_received_bytes_total", "Bytes received from the peer.", "bytes", "From"
)

DEFINITIONS: Final[tuple[Definition, ...]] = (
    HAS_LEADER, IS_LEADER, IS_LEARNER, LEADER_CHANGES, COMMITTED, APPLIED, PENDING, FAILED,
    INSTALLING, FSYNC, BACKEND_COMMIT, DB_TOTAL, DB_IN_USE, REVISION, COMPACT_REVISION, KEYS,
    WATCHERS, SLOW_WATCHERS, EVENTS, SENT_BYTES, RECEIVED_BYTES,
)  # fmt: skip


def group_aliases(group: GroupStatus, failed_proposals: float) -> Iterator[Reading]:
    yield HAS_LEADER, (), group.leader is not None
    yield IS_LEADER, (), group.role is Role.LEADER
    yield IS_LEARNER, (), group.role is Role.LEARNER
    yield LEADER_CHANGES, (), group.leader_changes
    yield COMMITTED, (), group.commit_index
    yield APPLIED, (), group.applied_index
    yield PENDING, (), group.pending
    yield FAILED, (), failed_proposals
    yield INSTALLING, (), group.installing


def disk_aliases(engine: EngineStatistics | None, sync: Histogram) -> Iterator[Reading]:
    yield FSYNC, (), sync
    yield BACKEND_COMMIT, (), sync
    if engine is not None:
        yield DB_TOTAL, (), engine.disk_bytes
        yield DB_IN_USE, (), max(0, engine.disk_bytes - engine.reusable_bytes)


def shard_aliases(shard: ShardFigures, hub: HubStatistics | None) -> Iterator[Reading]:
    yield REVISION, (), shard.revision
    yield COMPACT_REVISION, (), shard.compact_revision
    yield KEYS, (), shard.keys
    if hub is not None:
        behind = hub.catching_up + hub.victims
        yield WATCHERS, (), hub.synced + hub.future + behind
        yield SLOW_WATCHERS, (), behind
        yield EVENTS, (), hub.delivered_events


def link_aliases(link: LinkFigures) -> Iterator[Reading]:
    for peer in link.peers.values():
        yield SENT_BYTES, (str(peer.node_id),), peer.sent_bytes
        yield RECEIVED_BYTES, (str(peer.node_id),), peer.received_bytes
