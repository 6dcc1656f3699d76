"""What a Config means to the parts of a node: the settings objects that they take. Pure.

A Config whose rules hold (kv/config/rules.py) gives every one of them; none raises then. What a
part offers and a file does not is left at the part's own default.
"""

from __future__ import annotations

from kv.config.sections import ENTRY_MAX_BYTES, Config
from kv.leaderless.keyspace import Keyspace
from kv.leaderless.rules import SetLimits
from kv.watch.watcher import WatchLimits
from raftgroups.config import HostConfig
from storage.hints import HintLimits
from storage.mvcc_policy import CompactionPolicy


def host_config(config: Config) -> HostConfig:
    strong, limits = config.strong, config.limits
    return HostConfig(
        election_timeout_s=(strong.election_min_s, strong.election_max_s),
        heartbeat_s=strong.heartbeat_s,
        leader_silence_s=strong.leader_silence_s,
        propose_timeout_s=strong.propose_timeout_s,
        read_timeout_s=strong.read_timeout_s,
        queue_max_operations=limits.queue_operations,
        queue_max_bytes=limits.queue_bytes,
        reads_max=limits.queue_reads,
        entry_max_bytes=ENTRY_MAX_BYTES,
        compact_after_entries=strong.log_compact_entries,
        compact_after_bytes=strong.log_compact_bytes,
        keep_entries=strong.log_keep_entries,
        keep_bytes=strong.log_keep_bytes,
        snapshot_chunk_bytes=strong.snapshot_chunk_bytes,
        snapshot_window_chunks=strong.snapshot_window,
        snapshot_max_age_s=strong.snapshot_max_age_s,
        snapshot_streams_max=strong.snapshot_streams,
        hibernate_after_s=strong.hibernate_after_s,
    )


def compaction_policy(config: Config) -> CompactionPolicy:
    strong = config.strong
    by_age = strong.auto_compaction in ("both", "age")
    by_count = strong.auto_compaction in ("both", "count")
    return CompactionPolicy(
        strong.history_age_s if by_age else None, strong.history_revisions if by_count else None
    )


def min_lease_ttl_s(config: Config) -> int:
    return int(config.strong.min_lease_ttl_s)


def allowed_hosts(config: Config) -> tuple[str, ...]:
    """Names under which clients may call this node: those that are listed, and the one that it
    tells them itself."""
    return (*config.http.hosts, config.node.advertise.host.lower())


def watch_limits(config: Config) -> WatchLimits:
    limits = config.limits
    return WatchLimits(
        watchers=limits.watchers,
        outbox_events=limits.watch_events,
        outbox_bytes=limits.watch_bytes,
        total_bytes=limits.watch_total_bytes,
    )


def set_limits(config: Config) -> SetLimits:
    return SetLimits(siblings=config.leaderless.siblings)


def keyspace(config: Config) -> Keyspace:
    """The keyspace `default` of a node whose mode is leaderless."""
    section = config.leaderless
    return Keyspace(
        n=section.n,
        r=section.r,
        w=section.w,
        strict=not section.sloppy,
        limits=set_limits(config),
    )


def hint_limits(config: Config) -> HintLimits:
    return HintLimits(config.leaderless.hints, config.leaderless.hints_bytes)
