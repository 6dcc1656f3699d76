"""Status as plain numbers: what a host and its groups report about themselves. Values only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from raftgroups.transport import NodeId


class Role(StrEnum):
    FOLLOWER = "follower"
    CANDIDATE = "candidate"
    LEADER = "leader"
    LEARNER = "learner"
    REMOVED = "removed"


class LogRecord(NamedTuple):
    """A log entry as it is stored: a command is a kind byte and what belongs to the kind."""

    number: int
    """Its index."""
    term: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class PeerStatus:
    """A leader's view of one peer."""

    match_index: int
    lag: int
    """Entries of the leader's log that the peer is not known to have."""
    feature_level: int
    """What its program supports; 0: it was not heard yet."""
    silent_s: float
    connected: bool
    snapshot: bool
    """A snapshot is being sent to it."""
    snapshot_rows: int = 0
    snapshot_bytes: int = 0
    """What it has of that snapshot."""


@dataclass(frozen=True, slots=True)
class GroupStatus:
    group_id: int
    role: Role
    term: int
    voted_for: NodeId | None
    leader: NodeId | None
    commit_index: int
    applied_index: int
    durable_applied_index: int
    last_index: int
    first_index: int
    voters: tuple[NodeId, ...]
    learners: tuple[NodeId, ...]
    incarnations: Mapping[NodeId, int]
    """Which disk of each member was admitted; 0: none yet."""
    config_index: int
    """Where voters, learners and incarnations stand in the log: in force, but until this is
    committed another leader may know nothing of them."""
    feature_level: int
    """What every member's program supports, as far as it is applied here."""
    peers: Mapping[NodeId, PeerStatus]
    """Empty unless this node leads."""
    elections: int
    """Elections that this replica started since the process began (pre-votes not counted)."""
    snapshots_sent: int
    snapshots_received: int
    installing: bool
    """A snapshot is being put in place: there is no state to read, the applied indexes say 0."""
    pending: int
    hibernating: bool
    leader_changes: int = 0
    """Terms in which this replica came to know a leader since the process began."""


@dataclass(frozen=True, slots=True)
class HostStatus:
    groups: int
    leading: int
    hibernating: int
    turns: int
    commits: int
    stalls: int
    messages_in: int
    messages_out: int
    entries_appended: int
    entries_applied: int
    dropped: Mapping[str, int]
    """Inbound and outbound messages not delivered, by reason."""
