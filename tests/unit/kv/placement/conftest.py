"""A cluster as the planner sees it, in which steps are obeyed, lost, or obeyed and not told."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field, replace

from kv.placement.plan import (
    META_GROUP,
    GroupView,
    Kind,
    Limits,
    NodeView,
    Plan,
    Standing,
    Step,
    plan,
)
from raftgroups.transport import NodeId


@dataclass(slots=True)
class ModelGroup:
    group: int
    copies: int
    voters: set[NodeId]
    learners: set[NodeId] = field(default_factory=set)
    leader: NodeId | None = None
    caught_up: set[NodeId] = field(default_factory=set)
    lost: set[NodeId] = field(default_factory=set)


class Model:
    """Every change of a configuration is checked as it happens."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.nodes: dict[NodeId, NodeView] = {}
        self.groups: dict[int, ModelGroup] = {}
        self.steps: Counter[str] = Counter()
        self.copied: list[tuple[int, NodeId]] = []
        """Every replica that was filled."""

    # --- what happens to it ------------------------------------------------------------------

    def join(self, name: str, rack: str = "", datacentre: str = "", weight: float = 1.0) -> NodeId:
        node = NodeId(name)
        self.nodes[node] = NodeView(node, rack=rack, datacentre=datacentre, weight=weight)
        return node

    def form(self, group: int, copies: int, voters: list[NodeId]) -> None:
        self.groups[group] = ModelGroup(
            group, copies, set(voters), leader=min(voters), caught_up=set(voters)
        )

    def set_node(self, node: NodeId, **changes: object) -> None:
        self.nodes[node] = replace(self.nodes[node], **changes)  # type: ignore[arg-type]

    def there(self, node: NodeId) -> bool:
        found = self.nodes[node]
        return found.reachable and found.standing is not Standing.DEAD

    def well(self, group: ModelGroup, node: NodeId) -> bool:
        return self.there(node) and node in group.caught_up and node not in group.lost

    def sound(self, group: ModelGroup) -> bool:
        """A majority is there and has everything."""
        return sum(self.well(group, n) for n in group.voters) > len(group.voters) // 2

    def elect(self) -> None:
        """A group without a leader that is there gets another one, if it can."""
        for group in self.groups.values():
            if group.leader is not None and not self.well(group, group.leader):
                group.leader = None
            if group.leader is None and self.sound(group):
                heirs = sorted(n for n in group.voters if self.well(group, n))
                group.leader = self.rng.choice(heirs)

    def catch_up(self, chance: float = 1.0) -> None:
        for group in self.groups.values():
            for node in sorted(group.learners | group.voters):
                if self.there(node) and node not in group.lost and self.rng.random() < chance:
                    group.caught_up.add(node)

    # --- what the planner sees and does --------------------------------------------------------

    def views(self) -> tuple[list[NodeView], list[GroupView]]:
        groups = [
            GroupView(
                each.group,
                each.copies,
                tuple(sorted(each.voters)),
                tuple(sorted(each.learners)),
                each.leader,
                caught_up=frozenset(each.caught_up),
                lost=frozenset(each.lost),
            )
            for each in self.groups.values()
        ]
        return list(self.nodes.values()), groups

    def plan(self, limits: Limits) -> Plan:
        nodes, groups = self.views()
        found = plan(nodes, groups, limits)
        assert found == plan(nodes[::-1], groups[::-1], limits), "the order of things mattered"
        return found

    def obey(self, step: Step) -> None:
        group = self.groups[step.group]
        if group.leader != step.leader:
            return  # it was asked too late
        self.steps[step.kind] += 1
        sound = self.sound(group)
        if step.kind is Kind.ADD:
            assert step.node not in group.voters | group.learners
            assert not group.learners, "one change at a time"
            assert self.there(step.node)
            assert self.nodes[step.node].standing is Standing.ACTIVE
            group.learners.add(step.node)
            group.caught_up.discard(step.node)
            group.lost.discard(step.node)
            self.copied.append((step.group, step.node))
        elif step.kind is Kind.PROMOTE:
            assert step.node in group.learners
            assert self.well(group, step.node), "it has not caught up"
            group.learners.remove(step.node)
            group.voters.add(step.node)
        elif step.kind is Kind.REMOVE:
            assert step.node != group.leader, "a leader is never removed"
            assert step.node in group.voters | group.learners
            group.voters.discard(step.node)
            group.learners.discard(step.node)
            group.caught_up.discard(step.node)
            group.lost.discard(step.node)
        else:
            assert step.node in group.voters
            assert self.well(group, step.node)
            group.leader = step.node
        assert not sound or self.sound(group), f"{step} took the majority away"

    def settle(self, limits: Limits, rounds: int = 2000) -> int:
        """Obey plans until nothing is left to do. Returns how many plans it took."""
        for number in range(rounds):
            self.elect()
            found = self.plan(limits)
            if found.finished:
                return number
            for step in found.steps:
                self.obey(step)
            self.catch_up()
        raise AssertionError(f"not finished after {rounds} plans: {found}")

    # --- what is right in the end ----------------------------------------------------------------

    def active(self) -> list[NodeView]:
        return [node for node in self.nodes.values() if node.standing is Standing.ACTIVE]

    def replicas(self) -> Counter[NodeId]:
        return Counter(
            {
                node.node: sum(node.node in group.voters for group in self.groups.values())
                for node in self.active()
            }
        )

    def leaderships(self) -> Counter[NodeId]:
        """Of all groups that count for balance."""
        counted = [group for number, group in self.groups.items() if number != META_GROUP]
        return Counter(
            {node.node: sum(g.leader == node.node for g in counted) for node in self.active()}
        )
