"""The bodies of the calls about keyspaces and shards; bodies.py has the others. Pure."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Meta, UnsetType

from kv.api.bodies import Encoding, In, Key, Marked, Out
from raftgroups.meta.keyspace_rules import NAME_PATTERN, REPLICATION_MAX, SIBLINGS_MAX
from raftgroups.meta.view import SHARDS_MAX

KeyspaceName = Annotated[str, Meta(pattern=NAME_PATTERN, max_length=63)]
Copies = Annotated[int, Meta(ge=1, le=REPLICATION_MAX)]
Size = Annotated[int, Meta(ge=0, le=2**62)]
MergeRule = Literal["siblings", "lww", "max", "union", "counter"]
Siblings = Annotated[int, Meta(ge=1, le=SIBLINGS_MAX)]
Count = Annotated[int, Meta(ge=0, le=2**31)]


class QuotasGiven(In, omit_defaults=True):
    """What is not given stays; 0 is no limit."""

    bytes: Size | UnsetType = UNSET
    keys: Size | UnsetType = UNSET
    operations_a_second: Count | UnsetType = UNSET
    watchers: Count | UnsetType = UNSET


class OptionsGiven(In, omit_defaults=True):
    """What is not given stays as it is, or is the default. `replication` is N of a leaderless
    keyspace; its R, W, merge rule, strictness and siblings are refused for a strong one, and the
    rest for it. R and W not given are majorities of N."""

    replication: Copies | UnsetType = UNSET
    read_quorum: Copies | UnsetType = UNSET
    write_quorum: Copies | UnsetType = UNSET
    shards_max: Count | UnsetType = UNSET
    split_bytes: Size | UnsetType = UNSET
    split_operations_a_second: Count | UnsetType = UNSET
    merge_bytes: Size | UnsetType = UNSET
    quotas: QuotasGiven | UnsetType = UNSET
    rule: MergeRule | UnsetType = UNSET
    strict: bool | UnsetType = UNSET
    siblings: Siblings | UnsetType = UNSET


class CreateKeyspaceBody(In):
    name: KeyspaceName
    regime: Literal["strong", "leaderless"] = "strong"
    shards: Annotated[int, Meta(ge=1, le=SHARDS_MAX)] = 1
    options: OptionsGiven | UnsetType = UNSET


class QuotasShown(Out):
    bytes: int
    keys: int
    operations_a_second: int
    watchers: int


class OptionsShown(Out):
    replication: int
    read_quorum: int
    write_quorum: int
    shards_max: int
    split_bytes: int
    split_operations_a_second: int
    merge_bytes: int
    quotas: QuotasShown
    rule: str
    strict: bool
    siblings: int


class KeyspaceShown(Out):
    keyspace: int
    name: str
    regime: Literal["strong", "leaderless"]
    state: Literal["active", "dropping"]
    shards: int
    options: OptionsShown


class KeyspacesReply(Out):
    keyspaces: list[KeyspaceShown]


class DroppedReply(Out):
    name: str
    dropped: bool


class ShardOperation(Out):
    """A split, a merge or a move under way. `step` of a merge: `gather` while replicas come
    together, which can be ended (DELETE .../merge); then `join`, or `undo`."""

    operation: int
    kind: str
    step: str
    shards: list[int]
    began_ms: int
    """Wall time, as what follows."""
    stepped_ms: int
    note: str


class ShardShown(Out):
    """start <= key < end; null is unbounded. `leader` as this node knows it."""

    shard: int
    keyspace: str
    start: str
    end: str | None
    epoch: int
    state: Literal["forming", "active", "retired"]
    replicas: list[str]
    leader: str | None
    key_encoding: Marked = UNSET
    operation: ShardOperation | UnsetType = UNSET
    """What holds it: until that is over nothing else is begun there."""


class ShardsReply(Out):
    shards: list[ShardShown]


class SplitShardBody(In):
    key: Key
    key_encoding: Encoding | None = None


class MergeShardBody(In):
    """`right`: the shard's right neighbour, if it is to be checked that it is that one."""

    right: Annotated[int, Meta(ge=1, le=2**62)] | None = None


class MergeShardReply(Out):
    """What the two became."""

    merged: ShardShown


class MergeEndedReply(Out):
    """The merge that was ended; its shards stay two."""

    ended: ShardOperation


class SplitShardReply(Out):
    left: ShardShown
    right: ShardShown
