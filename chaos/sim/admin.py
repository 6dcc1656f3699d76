"""An operator in the simulation: transfers leadership and changes the members of groups.

One change a group at a time, each the next sensible step from what the leader says: a learner is
promoted, a voter too many is removed, a missing one is added. The number of voters stays within one
of the wanted number. Answers only end the wait; the next step looks again.

It also replaces a disk: the node comes back empty under its old id, and has no vote before it was
removed from each of its groups and added again. One disk at a time, and nothing else is changed
meanwhile, or data would be lost that no protocol can save. It goes by committed configurations: one
that is only in force may be gone with its leader, and a step taken on trust would not be done.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

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
        self.replaced: SimNode | None = None
        """Whose disk is new, until all its groups have it again."""
        self._missing: dict[int, None] = {}
        """Its groups that do not."""
        self._new_incarnation = 0

    def leader(self, group_id: int) -> tuple[SimNode, Group] | None:
        """Whoever leads with the highest term, as far as nodes say."""
        found: tuple[SimNode, Group] | None = None
        for node in self.cluster.nodes:
            if node.host is None or node.frozen:
                continue
            group = node.host.groups.get(group_id)
            if group is None or group.role is not Role.LEADER:
                continue
            if found is None or group.term > found[1].term:
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
        self._change(rng.choice(sorted(self._missing) or self.cluster.groups), rng)

    def repair(self) -> None:
        """The next step of everything that a replaced disk still needs."""
        for group_id in sorted(self._missing):
            self._change(group_id, random.Random(0))

    def _change(self, group_id: int, rng: random.Random) -> None:
        found = self.leader(group_id)
        if found is None or group_id in self._busy:
            return
        group = found[1]
        self._attempts += 1
        attempt = self._busy[group_id] = self._attempts
        self.cluster.world.after(5.0, self._forget, group_id, attempt)
        if self.replaced is None:
            self._step(group_id, attempt, group, group.status(), rng)
        else:
            self._readmit(group_id, attempt, group, group.status(), self.replaced)

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
            if newcomer.join(group_id):
                self._trace(group_id, f"add {newcomer.label}")
                group.add_learner(newcomer.node_id, answered("learner"))
            else:
                self._forget(group_id, attempt)
        else:
            victim = rng.choice(status.voters)
            self._trace(group_id, f"remove {self.cluster.label(victim)}")
            group.remove(victim, answered("removal"))

    # --- a new disk ----------------------------------------------------------------------------

    def replace_disk(self, rng: random.Random) -> None:
        """Take the disk out of a running node, if the cluster can bear it: everybody is up, every
        group was formed, no change is under way, and each group is known by all to have three
        voters or more."""
        nodes = self.cluster.nodes
        if self.replaced or self._busy or not all(node.running for node in nodes):
            return
        if len(self.cluster.served) < len(self.cluster.groups):
            return
        victim = rng.choice(nodes)
        for group_id in self.cluster.groups:
            found = self.leader(group_id)
            if found is None:
                return
            status = found[1].status()
            views = self.cluster.views(group_id).values()
            agreed = {view.voters for view in views if view.role != Role.REMOVED.value}
            if len(agreed) > 1 or len(status.voters) < 3 or status.learners:
                return
            if len(views) < len(status.voters):
                return  # a shard that was born where one of its members has been behind
        self.replaced = victim
        for group_id, group in victim.groups():
            if group.role is not Role.REMOVED and group_id in self.cluster.groups:
                self._missing[group_id] = None
        victim.replace_disk(self.cluster.groups)
        assert victim.host is not None
        self._new_incarnation = victim.host.incarnation
        self._finish_replacement()

    def _readmit(
        self, group_id: int, attempt: int, group: Group, status: GroupStatus, node: SimNode
    ) -> None:
        """Whatever a committed configuration says is next: remove, add, promote, or nothing."""
        step = None
        if status.config_index <= status.commit_index:
            step = self._next_step(status, node)
            if step is None:
                self._missing.pop(group_id)
                self._finish_replacement()
        if step is None:
            self._forget(group_id, attempt)
            return
        self._trace(group_id, f"new disk of {node.label}: {step}")
        call = {
            "removal": group.remove,
            "learner": group.add_learner,
            "promotion": group.promote,
        }[step]
        call(node.node_id, lambda result: self._answered(group_id, attempt, step, result))

    def _next_step(self, status: GroupStatus, node: SimNode) -> str | None:
        if node.node_id in status.learners:
            return "promotion"
        if node.node_id not in status.voters:
            return "learner"
        admitted = status.incarnations[node.node_id] == self._new_incarnation
        return None if admitted else "removal"

    def born(self, group_id: int) -> None:
        """A split has made this group, on the members of its parent: if one of them has lost its
        disk, the child has the lost one."""
        if self.replaced is not None:
            self._missing[group_id] = None
            self.replaced.join(group_id)

    def ended(self, group_id: int) -> None:
        self._busy.pop(group_id, None)
        if self.replaced is not None:
            self._missing.pop(group_id, None)
            self._finish_replacement()

    def _finish_replacement(self) -> None:
        if not self._missing:
            self.replaced = None
            self.done["disk"] += 1

    # --- answers -------------------------------------------------------------------------------

    def _answered(self, group_id: int, attempt: int, kind: str, result: ChangeResult) -> None:
        self._trace(group_id, f"{kind} answered {result}")
        self.done[kind] += isinstance(result, Done)
        self._forget(group_id, attempt)

    def _forget(self, group_id: int, attempt: int) -> None:
        if self._busy.get(group_id) == attempt:
            del self._busy[group_id]

    def _trace(self, group_id: int, line: str) -> None:
        self.cluster.world.trace(f"admin: g{group_id} {line}")
