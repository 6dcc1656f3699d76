"""Raft as metrics: a host's and its groups' status objects in, readings out. Pure.

What a leader knows of its peers is only there while it leads; so a sum over nodes of the per-peer
lines counts each replica once, as its leader sees it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from kv.metrics.instruments import Definition, Reading, counter, gauge
from raftgroups.status import GroupStatus, HostStatus, Role

# --- the host --------------------------------------------------------------------------------

GROUPS: Final = gauge("januskv_raft_groups", "Raft groups with a replica on this node.", "groups")
LEADING: Final = gauge("januskv_raft_groups_leading", "Groups that this node leads.", "groups")
HIBERNATING: Final = gauge(
    "januskv_raft_groups_hibernating", "Idle groups that do not tick.", "groups"
)
TURNS: Final = counter("januskv_raft_turns_total", "Turns of the groups of this node.", "turns")
COMMITS: Final = counter(
    "januskv_raft_commits_total", "Turns that ended with a synced write.", "commits"
)
STALLS: Final = counter(
    "januskv_raft_stalls_total",
    "Writes so slow that this node gave up what it led.",
    "stalls",
)
RECEIVED: Final = counter(
    "januskv_raft_messages_received_total", "Raft messages that came in.", "messages"
)
SENT: Final = counter("januskv_raft_messages_sent_total", "Raft messages sent.", "messages")
DROPPED: Final = counter(
    "januskv_raft_messages_dropped_total",
    "Raft messages not delivered or not sent, by reason.",
    "messages",
    "reason",
)
APPENDED: Final = counter(
    "januskv_raft_entries_appended_total", "Entries added to the logs of this node.", "entries"
)
APPLIED: Final = counter(
    "januskv_raft_entries_applied_total", "Entries applied to the machines of this node.", "entries"
)
HOST: Final = (
    GROUPS, LEADING, HIBERNATING, TURNS, COMMITS, STALLS, RECEIVED, SENT, DROPPED, APPENDED,
    APPLIED,
)  # fmt: skip

# --- a group ---------------------------------------------------------------------------------


def _of_group(name: str, text: str, unit: str) -> Definition:
    return gauge(f"januskv_raft_{name}", text, unit, "group")


def _count_of_group(name: str, text: str, unit: str) -> Definition:
    return counter(f"januskv_raft_{name}_total", text, unit, "group")


ROLE: Final = gauge(
    "januskv_raft_role", "1 for the role that the replica has, 0 for others.", "flag", "group",
    "role",
)  # fmt: skip
HAS_LEADER: Final = _of_group("has_leader", "Whether the replica knows a leader.", "flag")
TERM: Final = _of_group("term", "The replica's Raft term.", "terms")
COMMIT_INDEX: Final = _of_group("commit_index", "Last entry known to be committed.", "entries")
APPLIED_INDEX: Final = _of_group("applied_index", "Last entry applied in memory.", "entries")
DURABLE_INDEX: Final = _of_group(
    "durable_applied_index", "Last entry whose effects are on the disk.", "entries"
)
LAST_INDEX: Final = _of_group("last_index", "Last entry of the replica's log.", "entries")
FIRST_INDEX: Final = _of_group("first_index", "First entry still in the replica's log.", "entries")
APPLY_LAG: Final = _of_group(
    "apply_lag_entries", "Committed entries that this replica has not applied yet.", "entries"
)
PENDING: Final = _of_group(
    "pending_proposals", "Operations proposed on this node and not answered yet.", "proposals"
)
VOTERS: Final = _of_group("voters", "Voting members of the group.", "nodes")
LEARNERS: Final = _of_group("learners", "Members that only learn.", "nodes")
INSTALLING: Final = _of_group("installing", "Whether a snapshot is being put in place.", "flag")
ELECTIONS: Final = _count_of_group(
    "elections_started", "Elections that this replica started (pre-votes not counted).", "elections"
)
LEADER_CHANGES: Final = _count_of_group(
    "leader_changes", "Terms in which this replica came to know a leader.", "changes"
)
SNAPSHOTS_SENT: Final = _count_of_group("snapshots_sent", "Snapshots sent whole.", "snapshots")
SNAPSHOTS_RECEIVED: Final = _count_of_group(
    "snapshots_received", "Snapshots received and put in place.", "snapshots"
)
PEER_MATCH: Final = gauge(
    "januskv_raft_peer_match_index", "Leader: last entry that the peer is known to have.",
    "entries", "group", "peer",
)  # fmt: skip
PEER_LAG: Final = gauge(
    "januskv_raft_peer_lag_entries", "Leader: entries that the peer is not known to have.",
    "entries", "group", "peer",
)  # fmt: skip
PEER_SILENT: Final = gauge(
    "januskv_raft_peer_silent_seconds", "Leader: time since the peer was heard.", "seconds",
    "group", "peer",
)  # fmt: skip
PEER_SNAPSHOT: Final = gauge(
    "januskv_raft_peer_snapshot", "Leader: whether a snapshot is being sent to the peer.", "flag",
    "group", "peer",
)  # fmt: skip
OF_GROUPS: Final = (
    ROLE, HAS_LEADER, TERM, COMMIT_INDEX, APPLIED_INDEX, DURABLE_INDEX, LAST_INDEX, FIRST_INDEX,
    APPLY_LAG, PENDING, VOTERS, LEARNERS, INSTALLING, ELECTIONS, LEADER_CHANGES, SNAPSHOTS_SENT,
    SNAPSHOTS_RECEIVED, PEER_MATCH, PEER_LAG, PEER_SILENT, PEER_SNAPSHOT,
)  # fmt: skip

DEFINITIONS: Final = HOST + OF_GROUPS


def host_readings(host: HostStatus) -> Iterator[Reading]:
    yield GROUPS, (), host.groups
    yield LEADING, (), host.leading
    yield HIBERNATING, (), host.hibernating
    yield TURNS, (), host.turns
    yield COMMITS, (), host.commits
    yield STALLS, (), host.stalls
    yield RECEIVED, (), host.messages_in
    yield SENT, (), host.messages_out
    yield APPENDED, (), host.entries_appended
    yield APPLIED, (), host.entries_applied
    for reason, count in host.dropped.items():
        yield DROPPED, (reason,), count


def group_readings(groups: Iterable[GroupStatus]) -> Iterator[Reading]:
    for group in groups:
        yield from _group(group)


def _group(group: GroupStatus) -> Iterator[Reading]:
    name = str(group.group_id)
    labels = (name,)
    for role in Role:
        yield ROLE, (name, role.value), group.role is role
    yield HAS_LEADER, labels, group.leader is not None
    yield TERM, labels, group.term
    yield COMMIT_INDEX, labels, group.commit_index
    yield APPLIED_INDEX, labels, group.applied_index
    yield DURABLE_INDEX, labels, group.durable_applied_index
    yield LAST_INDEX, labels, group.last_index
    yield FIRST_INDEX, labels, group.first_index
    yield APPLY_LAG, labels, max(0, group.commit_index - group.applied_index)
    yield PENDING, labels, group.pending
    yield VOTERS, labels, len(group.voters)
    yield LEARNERS, labels, len(group.learners)
    yield INSTALLING, labels, group.installing
    yield ELECTIONS, labels, group.elections
    yield LEADER_CHANGES, labels, group.leader_changes
    yield SNAPSHOTS_SENT, labels, group.snapshots_sent
    yield SNAPSHOTS_RECEIVED, labels, group.snapshots_received
    for peer, status in group.peers.items():
        pair = name, peer
        yield PEER_MATCH, pair, status.match_index
        yield PEER_LAG, pair, status.lag
        yield PEER_SILENT, pair, status.silent_s
        yield PEER_SNAPSHOT, pair, status.snapshot
