"""What the meta group remembers. Frozen values, compared by content; bytes by msgspec. Pure.

Ids are never used again. A shard's id is the id of its Raft group: 0 is the meta group itself, 1
the first shard of the keyspace `default`. Segment ids are unique in the cluster, keyspace ids are
u32.

New fields come at the end and have defaults, so that older records can be read.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import msgspec

META_SHARD: Final = 0
"""The meta group, listed among the shards so that its replicas are found and moved as theirs are.
It has no keyspace and no keys."""
META_KEYSPACE: Final = 0
DEFAULT_KEYSPACE_ID: Final = 1
FIRST_SHARD: Final = 1
FIRST_SEGMENT: Final = 1


class _Record(msgspec.Struct, frozen=True, array_like=True, gc=False):
    pass


class NodeState(StrEnum):
    JOINING = "joining"
    """Admitted, and gets no replicas yet."""
    ACTIVE = "active"
    DRAINING = "draining"
    """Its replicas go to others; it gets no new ones."""
    DEAD = "dead"
    """Declared lost: its replicas are replaced. It comes back only as a new node."""


class NodeRecord(_Record, frozen=True):
    """A data directory that belongs to the cluster. Names and addresses are what it said last."""

    node: str
    incarnation: int
    """Of its directory; a replica of another incarnation is no member of any group."""
    name: str
    peer: tuple[str, int]
    client: str = ""
    rack: str = ""
    datacentre: str = ""
    weight: float = 1.0
    state: NodeState = NodeState.ACTIVE
    state_since_ms: int = 0
    """Wall time, for people and for deadlines of hours."""


class Regime(StrEnum):
    STRONG = "strong"
    LEADERLESS = "leaderless"


class KeyspaceState(StrEnum):
    ACTIVE = "active"
    DROPPING = "dropping"
    """Refuses all requests; its replicas are being removed. Then the record goes, too."""


MERGE_RULES: Final = ("siblings", "lww", "max", "union", "counter")


class RingSeat(_Record, frozen=True):
    """A node's place on the ring of the leaderless regime, as it was when something began."""

    node: str
    vnodes: int
    rack: str = ""
    datacentre: str = ""


class RingRecord(_Record, frozen=True):
    """The ring was begun, once for the cluster and by these nodes; every other one joins it. Who is
    on it now is known to gossip (kv/leaderless/members.py), not here."""

    founders: tuple[RingSeat, ...]


class Quotas(_Record, frozen=True):
    """0: no limit."""

    bytes: int = 0
    keys: int = 0
    operations_a_second: int = 0
    watchers: int = 0


class KeyspaceOptions(_Record, frozen=True):
    """What `alter` may change."""

    replication: int = 3
    """Replicas of each shard, or N of the leaderless regime; fewer while there are fewer nodes."""
    read_quorum: int = 2
    write_quorum: int = 2
    """R and W, leaderless only."""
    shards_max: int = 0
    """Automatic splits stop here; 0: no limit."""
    split_bytes: int = 0
    """A shard larger than this is split; 0: never by its size."""
    split_operations_a_second: int = 0
    """A shard busier than this is split; 0: never by its load."""
    merge_bytes: int = 0
    """Two neighbours that together are smaller than this are merged; 0: never."""
    quotas: Quotas = Quotas()
    reserved: bool = False
    """Held a setting that nothing read."""
    rule: str = MERGE_RULES[0]
    """What becomes of concurrent versions; leaderless only, as what follows."""
    strict: bool = False
    """No other node stands in for an owner that is away."""
    siblings: int = 50
    """Concurrent versions that a write may leave of one key."""


class KeyspaceRecord(_Record, frozen=True):
    keyspace: int
    name: str
    regime: Regime = Regime.STRONG
    options: KeyspaceOptions = KeyspaceOptions()
    state: KeyspaceState = KeyspaceState.ACTIVE
    created_ms: int = 0
    ring: tuple[RingSeat, ...] = ()
    """Leaderless only: the ring when it was made. Who owned a part of it then has missed nothing of
    the keyspace, whenever it hears of it; whoever came to own it later has to be filled."""


class ShardState(StrEnum):
    FORMING = "forming"
    """Its founders form the group as soon as they learn of it; it serves meanwhile."""
    ACTIVE = "active"
    RETIRED = "retired"
    """Of a keyspace that is being dropped: replicas erase themselves and report it."""


class ShardRecord(_Record, frozen=True):
    """One range of one keyspace: start <= key < end, None is unbounded."""

    shard: int
    keyspace: int
    start: bytes
    end: bytes | None
    segment: int
    epoch: int = 1
    """Rises with every change of the range or the replicas."""
    replicas: tuple[str, ...] = ()
    """Node ids. The group's own configuration decides; this is what it was, or is to be."""
    founders: tuple[tuple[str, int], ...] = ()
    """(node, incarnation): who forms the group, each once, with exactly these voters. Empty for a
    shard that came out of a split or a merge, which every replica makes as it applies that."""
    formed: tuple[str, ...] = ()
    """Founders that have formed it."""
    state: ShardState = ShardState.ACTIVE

    def holds(self, key: bytes) -> bool:
        return key >= self.start and (self.end is None or key < self.end)

    def holds_all(self, keys: tuple[bytes, bytes | None]) -> bool:
        start, end = keys
        return self.holds(start) and (self.end is None or (end is not None and end <= self.end))


class OperationRecord(_Record, frozen=True):
    """Something the planner does in steps; whoever leads the meta group goes on with it.

    `kind` and `step` are the planner's words. One operation a shard at a time: a shard named in
    `shards` is in no other operation. Ids that the operation needs were allocated when it began."""

    operation: int
    kind: str
    step: str
    shards: tuple[int, ...] = ()
    """What it changes: a split's parent, a merge's two, a move's one."""
    new_shards: tuple[int, ...] = ()
    new_segments: tuple[int, ...] = ()
    key: bytes = b""
    """Of a split."""
    source: str = ""
    target: str = ""
    """Nodes: of a move."""
    note: str = ""
    """For people: why it was begun, or what it waits for."""
    progress: float = 0.0
    """0 to 1."""
    began_ms: int = 0
    stepped_ms: int = 0
    attempts: int = 0
    """Of this step."""
