"""What the planner's node and the others say to each other about replicas. Values and bytes. Pure.

    Ask        the planner's node to all            "how are your replicas?"
    Report     the answer
    Invite     to the node that is to be filled     "make an empty replica of this shard"
    Order      to the leader of a group             one change of members, or a hand-over

Each may be lost, come late or come twice. A report answers one question, by its number. An order
names the configuration that it was made for, and is obeyed under that one only: what comes late, or
from a planner that does not plan any more, does nothing.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import msgspec

from raftgroups.meta.records import ShardRecord

REPORT_VERSION: Final = 1


class ReplicaRole(StrEnum):
    BLANK = "blank"
    """It was invited, and has heard nothing of its group yet."""
    FOLLOWER = "follower"
    LEARNER = "learner"
    LEADER = "leader"
    REMOVED = "removed"


class _Message(msgspec.Struct, frozen=True, array_like=True, gc=False):
    pass


class Ask(_Message, frozen=True):
    number: int


class Filling(_Message, frozen=True):
    """A learner, as its leader sees it."""

    node: str
    lag: int
    """Entries that it does not have."""
    snapshot: bool
    rows: int
    bytes: int
    """What it has of the snapshot."""


class ReplicaReport(_Message, frozen=True):
    """A replica; what follows `term` is told by leaders only."""

    group: int
    role: ReplicaRole
    term: int
    voters: tuple[tuple[str, int], ...] = ()
    """(node, incarnation of its disk)"""
    learners: tuple[tuple[str, int], ...] = ()
    config_index: int = 0
    settled: bool = False
    """That configuration is committed, and no change is under way."""
    caught_up: tuple[str, ...] = ()
    filling: tuple[Filling, ...] = ()
    rows: int = 0
    """About as many rows has a snapshot of it."""
    keys: int = 0


class Report(_Message, frozen=True):
    version: int
    number: int
    """Of the question."""
    incarnation: int
    full: bool
    """There is no room for another replica."""
    replicas: tuple[ReplicaReport, ...]


class Invite(_Message, frozen=True):
    shard: ShardRecord


DISMISS: Final = "dismiss"
"""The kind of an order to tell a node that it is no member any more: it may have been away."""


class Order(_Message, frozen=True):
    group: int
    kind: str
    """plan.Kind, or DISMISS."""
    node: str
    config_index: int


encode: Final = msgspec.msgpack.Encoder().encode
decode_ask: Final = msgspec.msgpack.Decoder(Ask).decode
decode_report: Final = msgspec.msgpack.Decoder(Report).decode
decode_invite: Final = msgspec.msgpack.Decoder(Invite).decode
decode_order: Final = msgspec.msgpack.Decoder(Order).decode
"""All raise msgspec.DecodeError, and nothing else, for other bytes."""


# --- for people ---------------------------------------------------------------------------------


class NodeSummary(_Message, frozen=True):
    node: str
    reachable: bool
    full: bool
    replicas: int
    leading: int


class GroupSummary(_Message, frozen=True):
    group: int
    leader: str
    """Empty: nobody was heard that leads it."""
    voters: tuple[str, ...]
    learners: tuple[str, ...]
    copies: int
    keys: int


class MoveSummary(_Message, frozen=True):
    """A replica being filled."""

    group: int
    node: str
    leader: str
    lag: int
    snapshot: bool
    rows: int
    bytes: int
    rows_expected: int


class Summary(_Message, frozen=True):
    """What the planner's node sees and does."""

    version: int
    planner: str
    settled: bool
    """Nothing is under way, and nothing waits."""
    waiting: int
    short: tuple[int, ...]
    stuck: tuple[int, ...]
    nodes: tuple[NodeSummary, ...]
    groups: tuple[GroupSummary, ...]
    moves: tuple[MoveSummary, ...]


class Wish(_Message, frozen=True):
    """What an operator asks of the planner's node. `kind`: "transfer" or "rebalance"."""

    kind: str
    group: int = 0
    node: str = ""


decode_summary: Final = msgspec.msgpack.Decoder(Summary).decode
decode_wish: Final = msgspec.msgpack.Decoder(Wish).decode
