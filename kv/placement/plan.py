"""The next small steps that bring replicas and leaderships to where they should be. Pure.

    what nodes and groups say now --> targets.py: where replicas should be --> steps

A step is one call to one group's leader, and the groups' own configurations are the only memory:
nothing has to be remembered between two steps, so a crash of anybody at any moment costs a step at
most. For one group, in this order:

    1. a learner that is not wanted, or whose node is away          REMOVE it
    2. a learner that has caught up, in place of a lost voter       REMOVE the lost one, then
    3. a learner that has caught up                                 PROMOTE it
    4. a wanted node that is no member                              ADD it, as a learner
    5. a voter that is not wanted, once all wanted ones vote        REMOVE it; if it leads, first
                                                                    TRANSFER to who leads least
    6. a lost voter that nobody can replace                         REMOVE it

A group is left alone while it has no leader, or a change of it is under way. Invariants: never
fewer voters that are there and caught up than a majority of the voters that a step leaves; never
two learners in a group; a voter that is alive goes only after its replacement votes.

Leaderships are balanced when nothing else is to do in a group: from a node that has over one more
than its fair part than another, straight or through others. The meta group's does not count.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from kv.cluster.ring import Ring
from kv.placement.leaderships import Leaderships
from kv.placement.targets import Placed, Seat, ring_of, targets
from raftgroups.transport import NodeId

META_GROUP: Final = 0


class Kind(StrEnum):
    ADD = "add"
    PROMOTE = "promote"
    REMOVE = "remove"
    TRANSFER = "transfer"


class Why(StrEnum):
    """What a step is for."""

    REPAIR = "repair"
    """A replica is lost, or missing."""
    DRAIN = "drain"
    MOVE = "move"
    """An operator asked."""
    BALANCE = "balance"
    LEADERS = "leaders"
    TIDY = "tidy"
    """A replica too many."""


class Standing(StrEnum):
    """What the cluster has decided about a node."""

    ACTIVE = "active"
    DRAINING = "draining"
    DEAD = "dead"


@dataclass(frozen=True, slots=True)
class NodeView:
    node: NodeId
    standing: Standing = Standing.ACTIVE
    reachable: bool = True
    full: bool = False
    """It has no room on its disk for another replica."""
    rack: str = ""
    datacentre: str = ""
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class GroupView:
    """A group as its leader, or the last one that was heard, tells it."""

    group: int
    copies: int
    """How many voters it should have, if there are so many nodes."""
    voters: tuple[NodeId, ...]
    learners: tuple[NodeId, ...] = ()
    leader: NodeId | None = None
    """None: nobody was heard that leads it; nothing can be done."""
    settled: bool = True
    """Its configuration is committed and applied, and no change of it is under way."""
    caught_up: frozenset[NodeId] = frozenset()
    """Members, the leader among them, that have all but the last few entries."""
    lost: frozenset[NodeId] = frozenset()
    """Members whose replica is gone though the node may live: another incarnation of its disk."""
    fixed: bool = False
    """An operation (a split, a merge) is under way: replicas stay, unless one is lost."""
    still: bool = False
    """It is about to be merged: what is begun is finished, nothing is moved for balance's sake."""
    pinned: tuple[NodeId, NodeId] | None = None
    """An operator's wish: (from, to)."""
    beside: frozenset[NodeId] = frozenset()
    """It is to be merged into a shard that has its replicas on these nodes."""


@dataclass(frozen=True, slots=True)
class Limits:
    streams: int = 2
    """Replicas being filled at a time, in the whole cluster."""
    streams_a_node: int = 1
    """Of those, to one node, and from one leader's node."""
    transfers: int = 1
    """Leaderships moved for balance in one plan."""
    balance: bool = True
    """Move what could stay. Off: only repair, drain, wishes."""


@dataclass(frozen=True, slots=True)
class Step:
    kind: Kind
    group: int
    node: NodeId
    leader: NodeId
    """Who is asked."""
    why: Why


@dataclass(frozen=True, slots=True)
class Plan:
    steps: tuple[Step, ...]
    moving: int
    """Replicas that are being filled, those that the steps begin not counted."""
    waiting: int
    """Replicas that are to be added and wait for their turn."""
    short: tuple[int, ...]
    """Groups with fewer voters that are there than they should have."""
    stuck: tuple[int, ...]
    """Groups that have lost their majority, as far as nodes are reachable."""

    unsettled: int
    """Groups that have no leader now, or are being changed: what they need is not known."""

    @property
    def finished(self) -> bool:
        """Nothing can be done now."""
        return not (self.steps or self.moving or self.waiting)

    @property
    def settled(self) -> bool:
        """Nothing is left to do."""
        return self.finished and not self.unsettled


def plan(
    nodes: Sequence[NodeView], groups: Sequence[GroupView], limits: Limits, ring: Ring | None = None
) -> Plan:
    """`ring`: of the same nodes, if the caller kept it."""
    return _Planner(nodes, groups, limits, ring).plan()


def ring_of_nodes(nodes: Sequence[NodeView]) -> Ring:
    return ring_of([_seat(node) for node in nodes])


def copies_of_meta(active: int) -> int:
    """Voters of the meta group: five, once two of them may be lost without being missed."""
    return 5 if active >= 5 else 3


def _seat(node: NodeView) -> Seat:
    active = node.standing is Standing.ACTIVE
    return Seat(
        node.node,
        keeps=active,
        takes=active and node.reachable and not node.full,
        lingers=node.standing is Standing.DRAINING,
        rack=node.rack,
        datacentre=node.datacentre,
        weight=node.weight,
    )


@dataclass(slots=True)
class _Traffic:
    """Replicas being filled: by the node that is filled, and by the node that sends."""

    total: int = 0
    into: dict[NodeId, int] = field(default_factory=dict)
    out_of: dict[NodeId, int] = field(default_factory=dict)

    def add(self, target: NodeId, leader: NodeId | None) -> None:
        self.total += 1
        self.into[target] = self.into.get(target, 0) + 1
        if leader is not None:
            self.out_of[leader] = self.out_of.get(leader, 0) + 1

    def room(self, target: NodeId, leader: NodeId, limits: Limits) -> bool:
        return (
            self.total < limits.streams
            and self.into.get(target, 0) < limits.streams_a_node
            and self.out_of.get(leader, 0) < limits.streams_a_node
        )


class _Planner:
    def __init__(
        self,
        nodes: Sequence[NodeView],
        groups: Sequence[GroupView],
        limits: Limits,
        ring: Ring | None,
    ) -> None:
        self.nodes = {node.node: node for node in nodes}
        self.groups = sorted(groups, key=lambda group: group.group)
        self.limits = limits
        self.seats = [_seat(node) for node in nodes]
        self.ring = ring or ring_of(self.seats)
        self.traffic = _Traffic()
        self.waiting = 0
        self.leads = Counter(
            group.leader
            for group in groups
            if group.leader is not None and group.group != META_GROUP
        )

    def plan(self) -> Plan:
        for group in self.groups:
            for learner in group.learners:
                if self._is_there(learner):
                    self.traffic.add(learner, group.leader)
        moving = self.traffic.total
        wanted = self._targets()
        steps: list[Step] = []
        calm: list[GroupView] = []
        for group in sorted(self.groups, key=self._urgency):
            if group.leader is None or not group.settled:
                continue
            step = self._next(group, frozenset(wanted[group.group]))
            if step is not None:
                steps.append(step)
            elif set(wanted[group.group]) == set(group.voters) and not group.learners:
                calm += [group] if self._may_be_led_elsewhere(group) else []
        if self.limits.balance:
            steps += self._balance_leaders(calm)
        return Plan(
            tuple(steps),
            moving,
            self.waiting,
            tuple(g.group for g in self.groups if self._healthy(g) < self._should_have(g)),
            tuple(
                g.group
                for g in self.groups
                if sum(self._is_there(n) and n not in g.lost for n in g.voters)
                < _majority(len(g.voters))
            ),
            sum(g.leader is None or not g.settled for g in self.groups),
        )

    def _targets(self) -> dict[int, tuple[NodeId, ...]]:
        """Nothing is moved for balance's sake while something is lost: repair comes first. What is
        being moved is found anew in each plan, so it is among the moves: else it would be taken
        back for want of a stream, which it has."""
        placed = [
            Placed(
                group.group,
                group.copies,
                tuple(n for n in self._members(group) if n not in group.lost),
                fixed=group.fixed or group.still or group.leader is None or not group.settled,
                pinned=group.pinned,
                beside=group.beside,
                leader=group.leader,
            )
            for group in self.groups
        ]
        repairing = any(self._gone(group) for group in self.groups)
        moves = self.limits.streams if self.limits.balance and not repairing else 0
        return targets(self.seats, placed, self.ring, moves=moves)

    def _members(self, group: GroupView) -> tuple[NodeId, ...]:
        """With those learners that will be: one whose node is away will not."""
        learners = tuple(n for n in group.learners if self._is_there(n))
        return (*group.voters, *learners)

    # --- what is true of nodes and groups -----------------------------------------------------

    def _is_there(self, node: NodeId) -> bool:
        found = self.nodes.get(node)
        return found is not None and found.reachable and found.standing is not Standing.DEAD

    def _is_lost(self, group: GroupView, node: NodeId) -> bool:
        """Its replica never comes back."""
        found = self.nodes.get(node)
        return found is None or found.standing is Standing.DEAD or node in group.lost

    def _gone(self, group: GroupView) -> list[NodeId]:
        return [node for node in group.voters if self._is_lost(group, node)]

    def _well(self, group: GroupView, node: NodeId) -> bool:
        there = self._is_there(node) and node not in group.lost
        return there and node in group.caught_up

    def _healthy(self, group: GroupView) -> int:
        return sum(self._well(group, node) for node in group.voters)

    def _should_have(self, group: GroupView) -> int:
        there = sum(node.standing is not Standing.DEAD for node in self.nodes.values())
        return min(group.copies, there)

    def _urgency(self, group: GroupView) -> tuple[int, int]:
        """The meta group first, then whoever is nearest to losing its majority."""
        spare = self._healthy(group) - _majority(len(group.voters))
        return (-1 if group.group == META_GROUP else spare, group.group)

    # --- one group ------------------------------------------------------------------------------

    def _next(self, group: GroupView, wanted: frozenset[NodeId]) -> Step | None:
        assert group.leader is not None
        if group.fixed and not self._gone(group):
            return None
        for learner in group.learners:
            if learner not in wanted or not self._is_there(learner):
                return self._step(Kind.REMOVE, group, learner, Why.TIDY)
        lost = self._gone(group)
        ready = [node for node in group.learners if self._well(group, node)]
        missing = sorted(wanted - set(group.voters) - set(group.learners))
        if ready and lost:
            return self._removal(group, lost[0], Why.REPAIR)
        if ready:
            return self._step(Kind.PROMOTE, group, ready[0], self._why(group))
        if group.learners:
            return None
        if missing:
            return self._addition(group, missing)
        if lost:
            return self._removal(group, lost[0], Why.REPAIR)
        for node in self._in_order_of_leaving(group, wanted):
            return self._removal(group, node, self._why_leaving(node))
        return None

    def _step(self, kind: Kind, group: GroupView, node: NodeId, why: Why) -> Step:
        assert group.leader is not None
        return Step(kind, group.group, node, group.leader, why)

    def _in_order_of_leaving(self, group: GroupView, wanted: frozenset[NodeId]) -> list[NodeId]:
        """Who is away before who is there; the leader last."""
        leaving = [node for node in group.voters if node not in wanted]
        return sorted(leaving, key=lambda n: (self._well(group, n), n == group.leader, n))

    def _addition(self, group: GroupView, missing: Sequence[NodeId]) -> Step | None:
        """One of the missing nodes that can take another stream now, if the group is sound."""
        assert group.leader is not None
        if self._healthy(group) < _majority(len(group.voters)):
            return None
        for node in missing:
            if self._is_there(node) and self.traffic.room(node, group.leader, self.limits):
                self.traffic.add(node, group.leader)
                return self._step(Kind.ADD, group, node, self._why(group))
        self.waiting += 1
        return None

    def _removal(self, group: GroupView, node: NodeId, why: Why) -> Step | None:
        """By way of a hand-over if it leads; nothing if too few would be left."""
        rest = [other for other in group.voters if other != node]
        well = [other for other in rest if self._well(group, other)]
        if not rest or len(well) < _majority(len(rest)):
            return None
        if node != group.leader:
            return self._step(Kind.REMOVE, group, node, why)
        heir = min(well, key=lambda other: (self._is_draining(other), self._leading(other), other))
        self.leads[heir] += 1
        return self._step(Kind.TRANSFER, group, heir, why)

    def _leading(self, node: NodeId) -> float:
        """What it leads, by its weight. Whoever leads least inherits, so that leaderships go to a
        new node with the replicas that it gets, and not once more for balance: clients wait for
        each."""
        found = self.nodes.get(node)
        return self.leads[node] / (found.weight if found is not None else 1.0)

    def _is_draining(self, node: NodeId) -> bool:
        found = self.nodes.get(node)
        return found is not None and found.standing is Standing.DRAINING

    def _why(self, group: GroupView) -> Why:
        """What the replica that is being added is for."""
        if self._gone(group) or len(group.voters) < self._should_have(group):
            return Why.REPAIR
        if any(self._is_draining(node) for node in group.voters):
            return Why.DRAIN
        return Why.BALANCE if group.pinned is None else Why.MOVE

    def _why_leaving(self, node: NodeId) -> Why:
        return Why.DRAIN if self._is_draining(node) else Why.TIDY

    # --- leaderships ------------------------------------------------------------------------------

    def _may_be_led_elsewhere(self, group: GroupView) -> bool:
        """The meta group's leader plans: it changes for a drain, not for balance. Nor does it count
        there: it has little to do, and the clients of what is handed over instead have to wait."""
        assert group.leader is not None
        return group.group != META_GROUP or self._is_draining(group.leader)

    def _balance_leaders(self, calm: Sequence[GroupView]) -> list[Step]:
        """Off nodes that are drained, then from nodes with many to nodes with few."""
        steps: list[Step] = []
        board = Leaderships(
            {
                seat.node: self.nodes[seat.node].weight
                for seat in self.seats
                if seat.keeps and self.nodes[seat.node].reachable
            },
            {
                group.group: group.leader
                for group in self.groups
                if group.leader is not None and self._may_be_led_elsewhere(group)
            },
            {
                group.group: frozenset(
                    node
                    for node in group.voters
                    if self._well(group, node) and not self._is_draining(node)
                )
                for group in calm
            },
        )
        for _ in range(self.limits.transfers):
            found = board.move()
            if found is None:
                break
            group_id, source, heir = found
            steps.append(Step(Kind.TRANSFER, group_id, heir, source, Why.LEADERS))
        return steps


def _majority(voters: int) -> int:
    return voters // 2 + 1
