"""Bodies of the calls about nodes and where replicas live; bodies.py has those about keys. Pure."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from kv.api.bodies import In, Out

Name = Annotated[str, Meta(min_length=1, max_length=200)]


class RingStanding(Out):
    """A node on the ring of the leaderless keyspaces, as it says itself. `standing`: `away` if it
    does not answer; `left` when all that it had is with others. `lacking`: which part of what it is
    to have it has not got yet; `hints` and `foreign`: writes and copies that it keeps for others,
    and hands over before it leaves."""

    standing: Literal["joining", "normal", "leaving", "left", "away"]
    lacking: float = 0.0
    hints: int = 0
    foreign: int = 0


class ClusterNode(Out):
    """A member as the map has it. `replicas`: shards that name it; `leading` and `reachable` as the
    node sees it that plans, null while nobody does. `ring`: null if it is not on the ring, or there
    is none."""

    node_id: str
    name: str
    address: str
    peer_address: str
    state: Literal["joining", "active", "draining", "dead", "removed"]
    rack: str
    dc: str
    weight: float
    replicas: list[int]
    leading: int | None = None
    reachable: bool | None = None
    ring: RingStanding | None = None


class NodesReply(Out):
    nodes: list[ClusterNode]


class AddNodeBody(In):
    """`node_address`: where the new node serves other nodes, as HOST:PORT."""

    node_address: Name


class NodeBody(In):
    """`node_address`: the client or peer address of a member, or its id or name."""

    node_address: Name


class RemoveNodeBody(In):
    """`dead`: it is lost for good, so its replicas are made anew and others own its part of the
    ring; repeat the call until its state is `removed`. Without it, the node must have been
    drained. `force`: also if shards lose the majority of their replicas by that, and what they
    hold; else that is refused (`majority_lost`)."""

    node_address: Name
    dead: bool = False
    force: bool = False


class MoveState(Out):
    """A replica being filled. `rows` of about `rows_expected` have arrived while a snapshot is
    sent; then `lag` entries of the log are missing."""

    shard: int
    node: str
    leader: str
    snapshot: bool
    rows: int
    rows_expected: int
    bytes: int
    lag: int


class MovesReply(Out):
    """What the planner does. `settled`: every replica is where it should be. `waiting`: replicas to
    be made that wait for their turn. `short`: shards with fewer live replicas than they should
    have. `stuck`: shards that lost their majority."""

    planner: str
    settled: bool
    waiting: int
    short: list[int]
    stuck: list[int]
    moves: list[MoveState]


class MoveShardBody(In):
    """From one node to another; ids, names or addresses."""

    source: Name
    target: Name


class MoveShardReply(Out):
    operation: int
    shard: int
    source: str
    target: str


class TransferShardBody(In):
    target: Name
