"""JSON bodies of what is told of nodes and shards, and of an operator's calls; bodies.py has those
about keys, and the rules. Pure."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Meta, UnsetType, field

from kv.api.bodies import In, Marked, Out, Revision


class NodeState(Out):
    """`role`: "leader" of any shard, else what it is in the first one, else "replica".
    `keys_count`: of all its replicas; `replicas`, `leading`: of how many shards."""

    node_id: str
    name: str
    address: str
    status: Literal["alive", "unreachable", "joining", "leaving", "dead"]
    role: Literal["leader", "follower", "candidate", "learner", "removed", "replica", "unknown"]
    keys_count: int | None = None
    memory_used_mb: float | None = None
    lag: int | None = None
    replicas: int = 0
    leading: int = 0


class HotKeyState(Out):
    """One of the most frequent keys of a shard, as sampled lately."""

    key: str
    operations_a_second: float
    key_encoding: Marked = UNSET


class ShardState(Out):
    """Term, revision, keys and size are its leader's, 0 and null while none answers; the load is
    that of all nodes that answer. `size_bytes`: about, of keys and values as they are now."""

    shard: int
    leader: str | None
    term: int
    revision: Revision
    members: list[str]
    keys_count: int | None = None
    size_bytes: int | None = None
    operations_a_second: float = 0.0
    hot_keys: list[HotKeyState] = field(default_factory=list)


class ClusterState(Out):
    cluster_id: str
    nodes: list[NodeState]
    shards: list[ShardState]
    total_keys: int | None
    replication_factor: int
    advice: list[str] = field(default_factory=list)
    """Of hot shards and hot keys: what to do."""


class PeerState(Out):
    """Another node of the leaderless ring, as this one sees it. `share`: of all copies. `phi`: how
    surely it is down, null while nothing measures it. `hints`: writes kept here for it;
    `overflowed` of them were not kept, and wait for a repair. `trouble`: why they cannot be
    delivered; empty if nothing is kept or nothing stands against it."""

    node_id: str
    name: str
    address: str
    connected: bool
    share: float
    phi: float | None
    hints: int
    hints_bytes: int
    overflowed: int
    trouble: str = ""


class RepairReply(Out):
    """What a repair with all peers did: `exchanges` of keyspace and peer, of which `equal` had
    nothing to do; sets got and given. `broken_off`: peers it did not come to an end with."""

    exchanges: int
    equal: int
    compared: int
    fetched: int
    pushed: int
    transferred_bytes: int
    failed: int
    broken_off: dict[str, str]


class RingMember(Out):
    """`share`: of all copies; `letter`: in `slices`."""

    node_id: str
    name: str
    letter: str
    share: float
    tokens: int
    connected: bool


class RingState(Out):
    """`slices`: the ring cut into equal parts, each the letter of its first owner."""

    epoch: str
    n: int
    members: list[RingMember]
    slices: str


class OnRing(Out):
    """A leaderless keyspace that this node serves."""

    name: str
    n: int
    r: int
    w: int
    strict: bool
    rule: str


class LeaderlessStatus(Out):
    """This node on the ring. `standing`: joining, normal, leaving or left; `lacking`: which part of
    what it is to have it has not got yet; `foreign`: copies that belong to others and have not gone
    there; `tombstones`: deleted keys that are not forgotten yet. `counts` and `alarms` run from the
    start of the process."""

    standing: Literal["joining", "normal", "leaving", "left"]
    lacking: float
    foreign: int
    tombstones: int
    keyspaces: list[OnRing]
    ring_epoch: str
    share: float
    under_way: int
    peers: list[PeerState]
    counts: dict[str, int]
    alarms: dict[str, int]


class LocalShard(Out):
    """A replica on this node; shard 0 is the meta group, which holds no keys."""

    shard: int
    role: Literal["leader", "follower", "candidate", "learner", "removed"]
    term: int
    revision: Revision
    keys_count: int
    lag: int
    size_bytes: int = 0
    operations_a_second: float = 0.0
    """On this node: reads it answered, and, if it leads, changes."""
    hot_keys: list[HotKeyState] = field(default_factory=list)
    cut: str | UnsetType = UNSET
    """A split there would halve the load; printable keys only."""


class NodeStatus(Out):
    """This node; from `role` to `lag` in the keyspace's first shard, or, if it has no replica of
    that, in the first of which it has one. `mode` is the regime of the keyspace `default`: where
    that is leaderless there is no role, term or revision (they are 0), and keys are not counted.
    `leaderless`: there is where any keyspace is."""

    node_id: str
    name: str
    version: str
    mode: Literal["strong", "leaderless"]
    role: Literal["leader", "follower", "candidate", "learner", "removed", "replica", "unknown"]
    leader: str | None
    term: int
    revision: Revision
    compact_revision: Revision
    applied_index: int
    commit_index: int
    lag: int
    uptime_s: float
    data_bytes: int
    memory_used_mb: float
    keys_count: int | None
    watchers: int
    problems: list[str]
    shards: list[LocalShard] = field(default_factory=list)
    leaderless: LeaderlessStatus | UnsetType = UNSET


class TransferBody(In):
    """`target`: a node's id or name; the most advanced follower if missing."""

    target: Annotated[str, Meta(min_length=1, max_length=200)] | None = None


class TransferReply(Out):
    leader: str


class CompactBody(In):
    """History before this revision is given up; reads at it still work."""

    revision: Annotated[int, Meta(ge=1, le=2**63 - 1)]


class CompactReply(Out):
    revision: Revision
    compact_revision: Revision
