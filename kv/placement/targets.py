"""Which nodes shall hold each shard's replicas: clockwise with bounded load. Pure.

    nodes, shards as they are placed now --> for each shard the nodes that it should be on

1. What is kept: replicas on nodes that keep theirs. Too many: the one goes whose going leaves the
   best spread over datacentres and racks, then the one on the fullest node. One that leads goes
   last among equals, and its node counts as one emptier: clients wait for a hand-over.
2. What is missing: the ring's clockwise walk from the shard's point, first to where the spread is
   best, then to a node with room (below its fair part, rounded up), then in the walk's order; and
   evened out as in 4, which costs nothing while they are not made.
3. Spread: a replica moves if another node makes its shard less crowded (a rack is new).
4. Balance: while some node is over one replica further above its fair part than another, one goes
   from the fuller to the emptier one, through others if it must (the shortest chain), and never to
   a worse spread. At most `moves` of 3 and 4: the caller comes again.

Nothing else moves: a node that joins only takes, one that leaves only gives. The sum of squares of
what nodes are off their fair parts falls with every step of 4, so it ends; then with equal weights
and equal racks all nodes are within one replica of each other; only the spread may prevent it.

The result depends on nothing but the arguments: whoever plans next, after a crash at any moment,
finds what is begun among the members (learners are members here) and goes on with it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Final

from kv.cluster.ring import Member, Ring, weighted_vnodes
from kv.placement.spread import Crowding, Places, fair_parts
from raftgroups.transport import NodeId
from storage.buckets import bucket_of

EPSILON: Final = 1e-9


@dataclass(frozen=True, slots=True)
class Seat:
    """A node as somewhere to place replicas."""

    node: NodeId
    keeps: bool = True
    """It stays in the cluster: the replicas that it has are where they should be."""
    takes: bool = True
    """It may be given more now: it is there and has room. Implies `keeps`."""
    lingers: bool = False
    """It does not keep its replicas and still serves them: better than none (a drain)."""
    rack: str = ""
    datacentre: str = ""
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Placed:
    """A shard and the nodes that have, or are being given, a replica of it."""

    group: int
    copies: int
    """How many there should be. At least 1."""
    members: tuple[NodeId, ...]
    fixed: bool = False
    """Its replicas are not moved for balance (an operation is under way there)."""
    pinned: tuple[NodeId, NodeId] | None = None
    """(from, to): an operator's wish, done before anything is balanced; until it is, the shard is
    left alone by steps 3 and 4."""
    beside: frozenset[NodeId] = frozenset()
    """Nodes to which the replicas are to come together: those on them are not the ones too many."""
    leader: NodeId | None = None
    """Where two replicas might go as well, its one stays."""


class Board:
    """The placement while it is being worked out. Invariant: `loads` counts `sets` on nodes that
    keep replicas."""

    def __init__(self, seats: Sequence[Seat], shards: Sequence[Placed], ring: Ring) -> None:
        self.seats = {seat.node: seat for seat in seats}
        self.keepers = {seat.node for seat in seats if seat.keeps}
        self.takers = {seat.node for seat in seats if seat.takes}
        self.shards = {shard.group: shard for shard in shards}
        self.sets: dict[int, list[NodeId]] = {
            shard.group: [node for node in shard.members if node in self.keepers]
            for shard in shards
        }
        self.places = Places({seat.node: (seat.datacentre, seat.rack) for seat in seats})
        self.loads = dict.fromkeys(sorted(self.keepers), 0)
        for nodes in self.sets.values():
            for node in nodes:
                self.loads[node] += 1
        total = sum(self.wanted(shard) for shard in shards)
        weights = {node: self.seats[node].weight for node in self.loads}
        self.fair = fair_parts(weights, total, len(shards))
        self._ring = ring
        self._ranks: dict[int, dict[NodeId, int]] = {}

    def wanted(self, shard: Placed) -> int:
        return min(shard.copies, len(self.keepers))

    def rank(self, group: int, node: NodeId) -> int:
        """The node's place in the clockwise walk from the shard's point."""
        ranks = self._ranks.get(group)
        if ranks is None:
            walk = self._ring.walk(point_of(group))
            ranks = self._ranks[group] = {each: place for place, each in enumerate(walk)}
        return ranks.get(node, len(ranks))

    def off(self, node: NodeId) -> float:
        """How many replicas the node has above its fair part."""
        return self.loads[node] - self.fair[node]

    def has_room(self, node: NodeId) -> bool:
        return self.loads[node] < ceil(self.fair[node] - EPSILON)

    def put(self, group: int, node: NodeId) -> None:
        self.sets[group].append(node)
        self.loads[node] += 1

    def take(self, group: int, node: NodeId) -> None:
        self.sets[group].remove(node)
        self.loads[node] -= 1

    def may_move(self, group: int, node: NodeId, only_new: bool) -> bool:
        """`only_new`: only a replica that is not there yet, and could be anywhere."""
        shard = self.shards[group]
        if not only_new:
            return self.may_be_evened(group)
        return node not in shard.members and (shard.pinned is None or shard.pinned[1] != node)

    def may_be_evened(self, group: int) -> bool:
        """Not while an operation is under way there, nor while an operator's move is: what evens
        out the rest would else undo it before it began."""
        shard = self.shards[group]
        return not shard.fixed and shard.pinned is None

    def is_left(self, group: int, node: NodeId) -> bool:
        """An operator's move takes the shard's replica off this node."""
        pinned = self.shards[group].pinned
        return pinned is not None and pinned[0] == node

    def crowding(self, nodes: Iterable[NodeId]) -> Crowding:
        return self.places.crowding(nodes)


def point_of(group: int) -> int:
    """The bucket of the ring at which a shard's clockwise walk begins."""
    return bucket_of(b"shard/%d" % group)


def ring_of(seats: Iterable[Seat]) -> Ring:
    """Of the nodes that keep replicas; racks are this file's business, not the walk's."""
    return Ring(Member(seat.node, weighted_vnodes(seat.weight)) for seat in seats if seat.keeps)


def targets(
    seats: Sequence[Seat], shards: Sequence[Placed], ring: Ring, *, moves: int
) -> dict[int, tuple[NodeId, ...]]:
    """For each shard the nodes that should hold it, sorted. `moves`: how many replicas may be moved
    that are not where they cannot stay (steps 3 and 4), with those that are begun."""
    board = Board(seats, shards, ring)
    for group in sorted(board.shards):
        _pin(board, board.shards[group])  # all of them first: what follows evens out around them
    for group in sorted(board.shards):
        _trim(board, board.shards[group])
    for group in sorted(board.shards):
        _fill(board, board.shards[group])
    _balance_new(board)
    moves -= _respread(board, moves)
    _balance(board, moves)
    return {group: _with_lingering(board, group) for group in sorted(board.sets)}


def _pin(board: Board, shard: Placed) -> None:
    if shard.pinned is None:
        return
    source, target = shard.pinned
    nodes = board.sets[shard.group]
    if target in board.keepers and target not in nodes and target in board.takers:
        board.put(shard.group, target)
    if target in nodes and source in nodes and len(nodes) > board.wanted(shard):
        board.take(shard.group, source)


def _trim(board: Board, shard: Placed) -> None:
    nodes = board.sets[shard.group]
    while len(nodes) > board.wanted(shard):
        pinned = shard.pinned
        others = [node for node in nodes if pinned is None or node != pinned[1]]
        victim = min(
            [node for node in others if node not in shard.beside] or others,
            key=lambda node: (
                board.crowding(other for other in nodes if other != node),
                (node == shard.leader) - board.off(node),
                node == shard.leader,
                -board.rank(shard.group, node),
                node,
            ),
        )
        board.take(shard.group, victim)


def _fill(board: Board, shard: Placed) -> None:
    nodes = board.sets[shard.group]
    while len(nodes) < board.wanted(shard):
        free = [node for node in board.takers if node not in nodes]
        if not free:
            return
        board.put(
            shard.group,
            min(
                free,
                key=lambda node: (
                    board.crowding([*nodes, node]),
                    not board.has_room(node),
                    board.rank(shard.group, node),
                    node,
                ),
            ),
        )


def _with_lingering(board: Board, group: int) -> tuple[NodeId, ...]:
    """While there are too few nodes, a replica on one that is drained is better than none."""
    shard, nodes = board.shards[group], list(board.sets[group])
    for node in sorted(shard.members, key=lambda node: (board.rank(group, node), node)):
        seat = board.seats.get(node)
        if len(nodes) < shard.copies and seat is not None and seat.lingers and node not in nodes:
            nodes.append(node)
    return tuple(sorted(nodes))


# --- moves that make it better ---------------------------------------------------------------


def _respread(board: Board, most: int) -> int:
    """How many replicas were moved to a better spread."""
    moved = 0
    if board.places.flat:
        return 0
    for group in sorted(board.sets):
        while moved < most and board.may_be_evened(group):
            better = _less_crowded(board, group)
            if better is None:
                break
            source, target = better
            board.take(group, source)
            board.put(group, target)
            moved += 1
    return moved


def _less_crowded(board: Board, group: int) -> tuple[NodeId, NodeId] | None:
    nodes = board.sets[group]
    now = board.crowding(nodes)
    found = [
        (crowding, not board.has_room(target), -board.off(source), board.rank(group, target), pair)
        for source in nodes
        if source in board.takers
        for target in board.takers
        if target not in nodes
        for pair in ((source, target),)
        for crowding in (board.crowding(_exchanged(nodes, source, target)),)
        if crowding < now
    ]
    return min(found)[-1] if found else None


def _exchanged(nodes: Iterable[NodeId], source: NodeId, target: NodeId) -> list[NodeId]:
    return [target if node == source else node for node in nodes]


def _balance_new(board: Board) -> None:
    """Replicas that are still to be made may as well be made where they need not be moved again."""
    while chain := _best_chain(board, only_new=True):
        for group, source, target in chain:
            board.take(group, source)
            board.put(group, target)


def _balance(board: Board, most: int) -> None:
    """Only among nodes that are there: others are neither emptied nor filled for balance's sake.
    Of a longer chain the first move alone is told: what follows it is shorter, so it ends, in
    whatever order moves are done and whoever plans next."""
    for _ in range(most):
        chain = _best_chain(board)
        if not chain:
            return
        group, source, target = chain[0]
        board.take(group, source)
        board.put(group, target)
        if len(chain) > 1:
            return


Chain = list[tuple[int, NodeId, NodeId]]
"""(group, from, to): one replica each."""


def _best_chain(board: Board, *, only_new: bool = False) -> Chain:
    """The shortest; of those as short the one from the fullest node. Empty: nothing to do."""
    present = sorted(board.takers, key=lambda node: (-board.off(node), node))
    best: Chain = []
    for source in present:
        if board.off(source) - board.off(present[-1]) <= 1 + EPSILON:
            break
        chain = _chain_from(board, source, only_new)
        if chain and (not best or len(chain) < len(best)):
            best = chain
        if len(best) == 1:
            break
    return best


def _chain_from(board: Board, source: NodeId, only_new: bool) -> Chain:
    """The shortest chain to a node that has over one replica less above its fair part; of those as
    short the one to the emptiest."""
    chains: dict[NodeId, Chain] = {source: []}
    waiting = deque([source])
    found: list[tuple[float, NodeId]] = []
    length = len(board.takers)
    while waiting:
        node = waiting.popleft()
        if len(chains[node]) >= length:
            break
        used = {group for group, _, _ in chains[node]}
        for target, group in _exits(board, node, used, only_new).items():
            if target in chains:
                continue
            chains[target] = [*chains[node], (group, node, target)]
            waiting.append(target)
            if board.off(source) - board.off(target) > 1 + EPSILON:
                found.append((board.off(target), target))
                length = len(chains[target])
    return chains[min(found)[1]] if found else []


def _exits(board: Board, node: NodeId, used: set[int], only_new: bool) -> Mapping[NodeId, int]:
    """Where one replica of this node could go without a worse spread, and the best one for it: one
    that it does not lead, on whose walk the target comes first, and this node last."""
    best: dict[NodeId, tuple[bool, int, int, int]] = {}
    for group, nodes in board.sets.items():
        if node not in nodes or group in used or not board.may_move(group, node, only_new):
            continue
        now = board.crowding(nodes)
        for target in board.takers:
            if target in nodes or board.is_left(group, target):
                continue
            if not board.places.flat and board.crowding(_exchanged(nodes, node, target)) > now:
                continue
            leads = board.shards[group].leader == node
            rank = (leads, board.rank(group, target), -board.rank(group, node), group)
            if target not in best or rank < best[target]:
                best[target] = rank
    return {target: best[target][-1] for target in sorted(best)}
