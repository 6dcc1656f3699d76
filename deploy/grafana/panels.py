"""What the dashboard shows: rows of panels, each with its help, unit and queries.

In a query `@` stands for the nodes that were chosen above the dashboard.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Panel:
    title: str
    help: str
    unit: str
    queries: Sequence[tuple[str, str]]
    """Expressions and legends."""
    kind: str = "timeseries"
    width: int = 8
    height: int = 7
    red_from: float | None = None


def rate(name: str, by: str, more: str = "") -> str:
    return f"sum by ({by}) (rate({name}{{@{more}}}[$__rate_interval]))"


def increase(name: str, by: str, how: str = "sum") -> str:
    return f"{how} by ({by}) (increase({name}{{@}}[$__rate_interval]))"


def quantile(q: float, name: str, by: str = "", more: str = "") -> str:
    """Of a histogram: the buckets of the chosen nodes are added before."""
    buckets = rate(f"{name}_bucket", f"le, {by}" if by else "le", more)
    return f"histogram_quantile({q}, {buckets})"


def mean(name: str, by: str) -> str:
    return f"{rate(name + '_sum', by)} / {rate(name + '_count', by)}"


def stat(title: str, text: str, unit: str, query: str, red_from: float | None = None) -> Panel:
    return Panel(title, text, unit, [(query, "")], "stat", 4, 4, red_from)


ROWS: Sequence[tuple[str, Sequence[Panel]]] = (
    (
        "Overview",
        (
            stat("Nodes that answer", "Of those that Prometheus knows.", "short", "sum(up{@})"),
            stat(
                "Groups without a leader",
                "As any node sees it: their writes are refused there.",
                "short",
                "count(min by (group) (januskv_raft_has_leader{@}) == 0) or vector(0)",
                1,
            ),
            stat(
                "Requests a second",
                "All routes, all nodes.",
                "reqps",
                "sum(rate(januskv_requests_total{@}[$__rate_interval]))",
            ),
            stat(
                "Failing",
                "Share of the requests that ended with 5xx.",
                "percentunit",
                'sum(rate(januskv_requests_total{@,code=~"5.."}[$__rate_interval])) / '
                "sum(rate(januskv_requests_total{@}[$__rate_interval]))",
                0.01,
            ),
            stat(
                "p99, linearizable",
                "99% of the linearizable requests were quicker.",
                "s",
                quantile(0.99, "januskv_request_duration_seconds", "", ',level="linearizable"'),
                0.1,
            ),
            stat(
                "Nodes out of space",
                "They refuse growing writes.",
                "short",
                "sum(januskv_space_alarm{@})",
                1,
            ),
        ),
    ),
    (
        "Requests",
        (
            Panel(
                "Requests by route",
                "Ended requests a second.",
                "reqps",
                [(rate("januskv_requests_total", "route, method"), "{{method}} {{route}}")],
            ),
            Panel(
                "Requests by status",
                "503: surely not done. 504: outcome unknown. 429: refused early.",
                "reqps",
                [(rate("januskv_requests_total", "code"), "{{code}}")],
            ),
            Panel(
                "Latency by level",
                "Median and 99% of all routes.",
                "s",
                [
                    (quantile(0.5, "januskv_request_duration_seconds", "level"), "p50 {{level}}"),
                    (quantile(0.99, "januskv_request_duration_seconds", "level"), "p99 {{level}}"),
                ],
            ),
            Panel(
                "p99 by route",
                "Of the chosen nodes together.",
                "s",
                [
                    (
                        quantile(0.99, "januskv_request_duration_seconds", "route, method"),
                        "{{method}} {{route}}",
                    )
                ],
            ),
            Panel(
                "In flight",
                "Requests that have begun and not ended.",
                "short",
                [("januskv_requests_in_flight{@}", "{{instance}}")],
            ),
            Panel(
                "Refused early",
                "429, by what was full.",
                "reqps",
                [
                    (
                        rate("januskv_requests_refused_total", "instance, reason"),
                        "{{instance}} {{reason}}",
                    )
                ],
            ),
        ),
    ),
    (
        "Consensus",
        (
            Panel(
                "Leading",
                "Groups that each node leads.",
                "short",
                [("januskv_raft_groups_leading{@}", "{{instance}}")],
            ),
            Panel(
                "Elections and leader changes",
                "Both stop writes for a moment.",
                "short",
                [
                    (
                        increase("januskv_raft_elections_started_total", "group"),
                        "elections, group {{group}}",
                    ),
                    (
                        increase("januskv_raft_leader_changes_total", "group", "max"),
                        "changes, group {{group}}",
                    ),
                ],
            ),
            Panel(
                "Proposals by outcome",
                "Operations proposed a second.",
                "ops",
                [(rate("januskv_proposals_total", "outcome"), "{{outcome}}")],
            ),
            Panel(
                "From proposal to outcome",
                "Waiting for the batch, the sync of a majority, and the apply.",
                "s",
                [
                    (quantile(0.5, "januskv_proposal_duration_seconds"), "p50"),
                    (quantile(0.99, "januskv_proposal_duration_seconds"), "p99"),
                ],
            ),
            Panel(
                "Peers behind",
                "Entries of the leader's log that the peer is not known to have.",
                "short",
                [("januskv_raft_peer_lag_entries{@}", "group {{group}}, {{peer}}")],
            ),
            Panel(
                "Committed, not applied",
                "Local reads are that old.",
                "short",
                [("januskv_raft_apply_lag_entries{@}", "{{instance}}, group {{group}}")],
            ),
            Panel(
                "Entries applied",
                "One entry carries all operations that waited.",
                "ops",
                [(rate("januskv_raft_entries_applied_total", "instance"), "{{instance}}")],
            ),
            Panel(
                "Forwarded to leaders",
                "Operations a second, and how many travel together.",
                "ops",
                [
                    (rate("januskv_forwarded_operations_total", "outcome"), "{{outcome}}"),
                    (mean("januskv_forward_batch_operations", "job"), "operations a batch"),
                ],
            ),
            Panel(
                "Messages dropped",
                "By reason; a few are normal around elections.",
                "ops",
                [(rate("januskv_raft_messages_dropped_total", "reason"), "{{reason}}")],
            ),
            Panel(
                "Turns",
                "Passes of the commit loop, and those that wrote.",
                "ops",
                [
                    (rate("januskv_raft_turns_total", "instance"), "turns {{instance}}"),
                    (rate("januskv_raft_commits_total", "instance"), "commits {{instance}}"),
                ],
            ),
            Panel(
                "Snapshots",
                "Sent and put in place.",
                "short",
                [
                    (
                        increase("januskv_raft_snapshots_sent_total", "instance"),
                        "sent {{instance}}",
                    ),
                    (
                        increase("januskv_raft_snapshots_received_total", "instance"),
                        "received {{instance}}",
                    ),
                ],
            ),
            Panel(
                "Waiting proposals",
                "Not answered yet, by node.",
                "short",
                [("sum by (instance) (januskv_raft_pending_proposals{@})", "{{instance}}")],
            ),
        ),
    ),
    (
        "Storage",
        (
            Panel(
                "Sync",
                "Synced writes of the engine.",
                "s",
                [
                    (
                        quantile(0.5, "januskv_sync_duration_seconds", "instance"),
                        "p50 {{instance}}",
                    ),
                    (
                        quantile(0.99, "januskv_sync_duration_seconds", "instance"),
                        "p99 {{instance}}",
                    ),
                ],
            ),
            Panel(
                "Commit",
                "From the end of a turn's work until all were told.",
                "s",
                [
                    (
                        quantile(0.99, "januskv_commit_duration_seconds", "instance"),
                        "p99 {{instance}}",
                    )
                ],
            ),
            Panel(
                "Bytes a commit",
                "What one sync carries.",
                "bytes",
                [(mean("januskv_commit_size_bytes", "instance"), "{{instance}}")],
            ),
            Panel(
                "Disk used",
                "The files, and how much in them can be used again.",
                "bytes",
                [
                    ("januskv_engine_disk_bytes{@}", "files {{instance}} {{regime}}"),
                    ("januskv_engine_reusable_bytes{@}", "reusable {{instance}} {{regime}}"),
                    ("januskv_engine_live_bytes{@}", "live {{instance}} {{regime}}"),
                ],
            ),
            Panel(
                "Room left",
                "At the reserve, growing writes are refused.",
                "bytes",
                [
                    ("januskv_space_available_bytes{@}", "available {{instance}} {{regime}}"),
                    ("januskv_space_reserve_bytes{@}", "reserve {{instance}} {{regime}}"),
                ],
            ),
            Panel(
                "Oldest reader",
                "Old readers pin old pages.",
                "s",
                [("januskv_engine_oldest_snapshot_seconds{@}", "{{instance}} {{regime}}")],
            ),
            Panel(
                "Revision",
                "Changes a second, by shard.",
                "ops",
                [
                    (
                        "max by (keyspace, shard) (deriv(januskv_store_revision{@}[5m]))",
                        "{{keyspace}} shard {{shard}}",
                    )
                ],
            ),
            Panel(
                "History kept",
                "Revisions between the compacted one and the newest.",
                "short",
                [
                    (
                        "max by (keyspace, shard) "
                        "(januskv_store_revision{@} - januskv_store_compact_revision{@})",
                        "{{keyspace}} shard {{shard}}",
                    )
                ],
            ),
            Panel(
                "Keys",
                "By shard, as the replicas have applied.",
                "short",
                [
                    (
                        "max by (keyspace, shard) (januskv_store_keys{@})",
                        "{{keyspace}} shard {{shard}}",
                    )
                ],
            ),
            Panel(
                "Leases and keys with a TTL",
                "As the replicas have applied.",
                "short",
                [
                    (
                        "max by (keyspace, shard) (januskv_leases{@})",
                        "leases, {{keyspace}} shard {{shard}}",
                    ),
                    (
                        "max by (keyspace, shard) (januskv_keys_with_ttl{@})",
                        "keys, {{keyspace}} shard {{shard}}",
                    ),
                ],
            ),
        ),
    ),
    (
        "Watches and links",
        (
            Panel(
                "Watchers",
                "victim: its outbox is full. catching_up: reads the event log.",
                "short",
                [("sum by (state) (januskv_watchers{@})", "{{state}}")],
            ),
            Panel(
                "Events delivered",
                "Put into watchers' outboxes a second.",
                "ops",
                [(rate("januskv_watch_events_delivered_total", "instance"), "{{instance}}")],
            ),
            Panel(
                "Bytes held for watchers",
                "In outboxes, shared ones once.",
                "bytes",
                [("sum by (instance) (januskv_watch_held_bytes{@})", "{{instance}}")],
            ),
            Panel(
                "Links",
                "1: frames can be sent.",
                "short",
                [("januskv_link_connected{@}", "{{instance}} to {{peer}}")],
            ),
            Panel(
                "Round trip",
                "The last ping of each link.",
                "s",
                [("januskv_link_round_trip_seconds{@}", "{{instance}} to {{peer}}")],
            ),
            Panel(
                "Between nodes",
                "Bytes a second.",
                "Bps",
                [
                    (
                        rate("januskv_link_sent_bytes_total", "instance, peer"),
                        "{{instance}} to {{peer}}",
                    )
                ],
            ),
            Panel(
                "Waiting to be sent",
                "By peer and channel.",
                "bytes",
                [("januskv_link_queued_bytes{@}", "{{instance}} to {{peer}}, {{channel}}")],
                width=12,
            ),
            Panel(
                "Frames dropped",
                "Full queues, lost connections.",
                "ops",
                [
                    (
                        rate("januskv_link_dropped_frames_total", "instance, channel, reason"),
                        "{{instance}} {{channel}} {{reason}}",
                    )
                ],
                width=12,
            ),
        ),
    ),
    (
        "Leaderless keyspaces",
        (
            Panel(
                "Writes kept for others",
                "Hints, by the node that they are for. They go there once it is back.",
                "bytes",
                [("sum by (peer) (januskv_leaderless_hints_bytes{@})", "for {{peer}}")],
            ),
            Panel(
                "Is it down?",
                "phi of each peer, the highest that any node sees: 5 is suspicious, 8 is down.",
                "short",
                [("max by (peer) (januskv_leaderless_peer_phi{@})", "{{peer}}")],
                red_from=8,
            ),
            Panel(
                "The ring",
                "How long its last change took to reach all, and which part a node still lacks.",
                "s",
                [
                    ("januskv_leaderless_gossip_convergence_seconds{@}", "converged {{instance}}"),
                    ("100 * januskv_leaderless_lacking_ratio{@}", "lacks % {{instance}}"),
                ],
            ),
            Panel(
                "Repaired keys a second",
                "By comparing with peers (fetched, pushed) and by reads.",
                "short",
                [
                    (rate("januskv_leaderless_repair_sets_total", "way"), "{{way}}"),
                    (
                        rate("januskv_leaderless_events_total", "event", ',event="repaired"'),
                        "by reads",
                    ),
                ],
            ),
            Panel(
                "Deleted keys held",
                "Until every member has proved that it has the deletion; and copies to hand over.",
                "short",
                [
                    ("januskv_leaderless_tombstones_held{@}", "deleted {{instance}}"),
                    ("januskv_leaderless_foreign_copies{@}", "foreign {{instance}}"),
                ],
            ),
            Panel(
                "Refused for too many siblings",
                "Nobody merges what was written without knowing of each other.",
                "short",
                [
                    (
                        increase("januskv_leaderless_sibling_refusals_total", "instance"),
                        "{{instance}}",
                    )
                ],
            ),
        ),
    ),
    (
        "Process",
        (
            Panel(
                "Memory",
                "Anonymous: what the process itself holds. Resident counts mapped files, too.",
                "bytes",
                [
                    ("januskv_process_anonymous_memory_bytes{@}", "anonymous {{instance}}"),
                    ("process_resident_memory_bytes{@}", "resident {{instance}}"),
                ],
                width=6,
            ),
            Panel(
                "CPU",
                "Cores in use.",
                "short",
                [("rate(process_cpu_seconds_total{@}[$__rate_interval])", "{{instance}}")],
                width=6,
            ),
            Panel(
                "Event loop lag",
                "Every request waits for the loop.",
                "s",
                [
                    (
                        quantile(0.5, "januskv_event_loop_lag_seconds", "instance"),
                        "p50 {{instance}}",
                    ),
                    (
                        quantile(0.99, "januskv_event_loop_lag_seconds", "instance"),
                        "p99 {{instance}}",
                    ),
                ],
                width=6,
            ),
            Panel(
                "File descriptors",
                "One for each connection.",
                "short",
                [("process_open_fds{@}", "{{instance}}")],
                width=6,
            ),
        ),
    ),
)
