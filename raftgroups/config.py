"""The settings of a GroupHost, and the known bugs that it can be told to have again.

Times are seconds of the injected clock. The canaries prove that the simulator catches what it is
there to catch: each is one `if` at the rule it breaks, and production never sets one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from raftgroups.levels import FEATURE_LEVEL, FIRST_LEVEL

CANARIES: Final = frozenset(
    {
        "no-write-barrier",
        "commit-beside-sync-unsynced",
        "no-suffix-filter",
        "no-backup-rule",
        "no-ack-term-check",
        "duplicate-votes",
        "read-index-without-own-term",
        "read-joins-probe-in-flight",
        "vote-before-sync",
        "level-before-all",
        "accept-overlap",
        "birth-without-base",
    }
)


@dataclass(frozen=True, slots=True)
class HostConfig:
    election_timeout_s: tuple[float, float] = (0.5, 1.0)
    """An election is considered after a silence drawn from this range."""
    heartbeat_s: float = 0.1
    """Invariant: less than a third of the shorter election timeout."""
    commit_notice_s: float = 0.002
    """A commit index that has nothing to travel with waits so long for the next entries."""
    leader_silence_s: float = 1.0
    """A leader that a majority has not answered for this long steps down."""
    propose_timeout_s: float = 5.0
    """A proposal without an outcome after this long is answered Unknown."""
    read_timeout_s: float = 2.0
    transfer_timeout_s: float = 1.0
    change_timeout_s: float = 30.0
    """A membership change (with the learner's catching up) that takes longer is answered."""
    queue_max_operations: int = 4096
    """Operations waiting for their entry, a group; the next one is refused."""
    queue_max_bytes: int = 16 * 1024 * 1024
    reads_max: int = 65536
    """Reads waiting for their read point, a group; the next one is refused."""
    fold_after_s: float = 0.05
    """Applied data goes with a synced write at most this often, or once there is so much of it:"""
    fold_operations: int = 1024
    fold_bytes: int = 1024 * 1024
    entry_max_bytes: int = 2 * 1024 * 1024
    """Payload bytes of all operations of one entry; a single larger operation is refused."""
    inflight_max_bytes: int = 8 * 1024 * 1024
    """Entries sent to one peer of one group and not acknowledged; more are not sent."""
    append_max_bytes: int = 1024 * 1024
    """Entries of one AppendEntries; at least one entry is sent, however large."""
    window_entries: int = 1024
    """Log entries of a group kept in memory; older ones are read back from the engine."""
    window_bytes: int = 8 * 1024 * 1024
    compact_after_entries: int = 20_000
    """Applied entries beyond the kept tail that start a compaction of the log."""
    compact_after_bytes: int = 64 * 1024 * 1024
    """Bytes appended since the last compaction that start one, too."""
    keep_entries: int = 5_000
    """The tail kept for slow followers when the log is compacted."""
    keep_bytes: int = 8 * 1024 * 1024
    """Fewer entries are kept if they are larger than this; at most `window_bytes` counts."""
    snapshot_chunk_bytes: int = 512 * 1024
    snapshot_window_chunks: int = 12
    """Chunks of a snapshot sent and not yet acknowledged."""
    snapshot_retry_s: float = 1.0
    snapshot_abandon_s: float = 30.0
    """A snapshot whose receiver is silent for this long is given up."""
    snapshot_max_age_s: float = 600.0
    """The oldest engine snapshot that is streamed; a stream that takes longer begins anew."""
    snapshot_streams_max: int = 2
    """Snapshots that a node sends at the same time."""
    hibernate_after_s: float = 5.0
    """A group without work for this long stops its heartbeats and timers; 0 never."""
    feature_level: int = FEATURE_LEVEL
    """What this node says it supports (raftgroups/levels.py). Only tests set another."""
    canaries: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        low, high = self.election_timeout_s
        if not 0 < 3 * self.heartbeat_s < low < high:
            raise ValueError(
                f"election_timeout_s {self.election_timeout_s} must rise and begin above three "
                f"times heartbeat_s {self.heartbeat_s}"
            )
        if self.feature_level < FIRST_LEVEL:
            raise ValueError(
                f"feature_level {self.feature_level} must be at least {FIRST_LEVEL}, the lowest"
            )
        unknown = self.canaries - CANARIES
        if unknown:
            raise ValueError(f"no such canary: {', '.join(sorted(unknown))}")
