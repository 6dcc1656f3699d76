"""An operator in the simulation: transfers leadership and changes the members of groups.

One change a group at a time, each the next sensible step from what the leader says: a learner is
promoted, a voter too many is removed, a missing one is added. The number of voters stays within one
of the wanted number. Answers only end the wait; the next step looks again.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from chaos.sim.observer import role_of, term_of
from raftgroups.group import Group
from raftgroups.outcomes import ChangeResult, Done
from raftgroups.status import GroupStatus, Role

if TYPE_CHECKING:
    from chaos.sim.cluster import Cluster
    from chaos.sim.node import SimNode


class Admin:
    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.done: Counter[str] = Counter()
        """What was answered Done, by kind."""
        self._busy: dict[int, int] = {}
        self._attempts = 0

    def leader(self, group_id: int) -> tuple[SimNode, Group] | None:
        """Whoever leads with the highest term, as far as nodes say."""
        found: tuple[SimNode, Group] | None = None
        for node in self.cluster.nodes:
            if node.host is None or node.frozen:
                continue
            group = node.host.groups.get(group_id)
            if group is None or role_of(group) is not Role.LEADER:
                continue
            if found is None or term_of(group) > term_of(found[1]):
                found = (node, group)
        return found

    def transfer(self, rng: random.Random) -> None:
        group_id = rng.choice(self.cluster.groups)
        found = self.leader(group_id)
        if found is None:
            return
        node, group = found
        others = [voter for voter in group.status().voters if voter != node.node_id]
        if others:
            target = rng.choice(others)
            self._trace(group_id, f"transfer {node.label} to {self.cluster.label(target)}")
            group.transfer(target, lambda result: self._answered(group_id, 0, "transfer", result))

    def change(self, rng: random.Random) -> None:
        """Begin one membership change somewhere, if none is under way there."""
        group_id = rng.choice(self.cluster.groups)
        found = self.leader(group_id)
        if found is None or group_id in self._busy:
            return
        group = found[1]
        self._attempts += 1
        attempt = self._busy[group_id] = self._attempts
        self.cluster.world.after(5.0, self._forget, group_id, attempt)
        self._step(group_id, attempt, group, group.status(), rng)

    def _step(
        self,
        group_id: int,
        attempt: int,
        group: Group,
        status: GroupStatus,
        rng: random.Random,
    ) -> None:
        wanted = self.cluster.config.nodes

        def answered(kind: str) -> Callable[[ChangeResult], None]:
            return lambda result: self._answered(group_id, attempt, kind, result)

        if status.learners and rng.random() < 0.8:
            learner = rng.choice(status.learners)
            self._trace(group_id, f"promote {self.cluster.label(learner)}")
            group.promote(learner, answered("promotion"))
        elif status.learners or len(status.voters) > wanted:
            victim = rng.choice(status.learners or status.voters)
            self._trace(group_id, f"remove {self.cluster.label(victim)}")
            group.remove(victim, answered("removal"))
        elif outside := [n for n in self.cluster.nodes if n.node_id not in status.voters]:
            newcomer = rng.choice(outside)
            newcomer.join(group_id)
            self._trace(group_id, f"add {newcomer.label}")
            group.add_learner(newcomer.node_id, answered("learner"))
        else:
            victim = rng.choice(status.voters)
            self._trace(group_id, f"remove {self.cluster.label(victim)}")
            group.remove(victim, answered("removal"))

    def _answered(self, group_id: int, attempt: int, kind: str, result: ChangeResult) -> None:
        self._trace(group_id, f"{kind} answered {result}")
        self.done[kind] += isinstance(result, Done)
        self._forget(group_id, attempt)

    def _forget(self, group_id: int, attempt: int) -> None:
        if self._busy.get(group_id) == attempt:
            del self._busy[group_id]

    def _trace(self, group_id: int, line: str) -> None:
        self.cluster.world.trace(f"admin: g{group_id} {line}")
