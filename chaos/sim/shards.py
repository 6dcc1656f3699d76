"""Shards that split and merge, in the simulator, while all other faults strike.

`januskv sim --faults all,splits,merges` comes here, and with what an operator does to governed.py,
which has more above it. Judged are: every key linearizable, every write once (its token is repeated
across splits, merges and changes of leaders), nothing lost, the same results and states on all
replicas, the shards of a keyspace without gap or overlap, cursors of watches and of listings exact.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, Final, cast

from chaos.checkers.linearizability import check_history
from chaos.checkers.liveness import unconverged
from chaos.checkers.violation import Violation
from chaos.history import Kind, Operation
from chaos.sim.bank import Bank
from chaos.sim.faults import MENU, FaultInjector
from chaos.sim.node import SimNode
from chaos.sim.operator import KINDS
from chaos.sim.shard_clients import KEYS, ShardWorkload
from chaos.sim.shard_node import ShardCluster, ShardNode
from chaos.sim.simulation import POLL_S, READ_AGAIN_S, Simulation
from raftgroups.commands import Command, Split, encode
from raftgroups.group import Group
from raftgroups.merging import Merge, Outcome, Seen
from raftgroups.outcomes import Applied, ProposeResult, ReadReady, ReadResult
from raftgroups.results import SplitResult
from raftgroups.transport import NodeId
from storage.errors import WrongShardError
from storage.mvcc_hash import ShardDigest, ShardHash

SPLITS: Final = "splits"
MERGES: Final = "merges"
BANK: Final = "bank"
"""No fault: tellers move money between shards meanwhile (bank.py)."""
LEASES: Final = "leases"
"""No fault: leases and merged watches on nodes that serve (served.py), governed by a map."""
GOVERNED: Final = frozenset(KINDS)
"""What an operator does (operator.py)."""
FAULTS: Final = frozenset({SPLITS, MERGES, BANK, LEASES}) | GOVERNED
NO_FAULTS: Final = frozenset({BANK, LEASES})
FINAL_READS_S: Final = 4.0
PLAN_S: Final = 0.1


class Planner:
    """Splits and merges shards; stands outside, as if nothing ever happened to it."""

    def __init__(self, cluster: ShardCluster, rng: random.Random) -> None:
        self.cluster = cluster
        self.world = cluster.world
        self.rng = rng
        self.merges: list[Merge] = []
        self.careless = "absorb-unchecked" in cluster.config.canaries
        self.world.after(PLAN_S, self._step)

    def _leader(self, group_id: int) -> tuple[SimNode, Group] | None:
        return self.cluster.admin.leader(group_id)

    def split(self) -> None:
        group_id = self.rng.choice(self.cluster.groups)
        found = self._leader(group_id)
        if found is None or found[1].feature_level < 2 or len(self.cluster.groups) > 12:
            return
        shard = cast(ShardNode, found[0]).shard(group_id)
        if shard is None:
            return
        place = shard.view.place
        inside = [
            key[:1]
            for key in KEYS
            if key[:1] > place.start and (place.end is None or key[:1] < place.end)
        ]
        if inside:
            key, number = self.rng.choice(inside), self.cluster.number
            self._propose(group_id, Split(key, number(), number(), number()), self._split)

    def _split(self, command: Command, result: object) -> None:
        self.cluster.admin.done["split"] += isinstance(result, SplitResult)

    def merge(self) -> None:
        """Two neighbours, by what any replica shows."""
        pairs = set()
        for node in self.cluster.shard_nodes:
            ends = {}
            for group_id, _ in node.groups():
                shard = node.shard(group_id)
                if shard is not None and group_id in self.cluster.groups:
                    place = shard.view.place
                    ends[shard.shard.state.keyspace, place.start] = group_id, place.end
            for (keyspace, _), (group_id, end) in ends.items():
                neighbour = None if end is None else ends.get((keyspace, end))
                if neighbour is not None:
                    pairs.add((group_id, neighbour[0]))
        busy = {group for merge in self.merges for group in (merge.left, merge.right)}
        free = sorted(pair for pair in pairs if not busy.intersection(pair))
        if free:
            self._begin(*self.rng.choice(free), self.rng.choice((1.0, 3.0, 8.0)))

    def _begin(self, left: int, right: int, patience_s: float) -> Merge:
        merge = Merge(left, right, self.cluster.number(), self.world.now + patience_s)
        self.merges.append(merge)
        self.world.trace(f"planner: merge g{right} into g{left}")
        return merge

    def _step(self) -> None:
        for merge in list(self.merges):
            self._step_merge(merge)
        self.world.after(PLAN_S, self._step)

    def _step_merge(self, merge: Merge) -> None:
        left, right = (self._seen(group) for group in (merge.left, merge.right))
        step = merge.next(self.world.now, left, right, self._durable(merge.right))
        if step is not None:
            self._propose(*step, merge.answered)
        if merge.outcome is not None:
            self.world.trace(f"planner: g{merge.right} into g{merge.left}: {merge.outcome.value}")
            kind = "merge" if merge.outcome is Outcome.MERGED else "merge given up"
            self.cluster.admin.done[kind] += 1
            self.merges.remove(merge)
        elif merge.left in self.cluster.gone:
            self.merges.remove(merge)

    def _seen(self, group_id: int) -> Seen | None:
        found = self._leader(group_id)
        return None if found is None else Seen.of(found[1])

    def _durable(self, group_id: int) -> dict[NodeId, int]:
        found = {}
        for node in self.cluster.shard_nodes:
            group = None if node.host is None else node.host.groups.get(group_id)
            if self.careless:
                found[node.node_id] = 1 << 60
            elif group is not None and not node.frozen and not group.replica.waiting:
                found[node.node_id] = group.status().durable_applied_index
        return found

    def _propose(
        self, group_id: int, command: Command, answered: Callable[[Command, object], None]
    ) -> None:
        found = self._leader(group_id)
        if found is None:
            return
        self.world.trace(f"planner: g{group_id} {command}")

        def done(result: ProposeResult) -> None:
            self.world.trace(f"planner: g{group_id} {type(command).__name__} {result}")
            if isinstance(result, Applied):
                answered(command, result.result)

        found[1].propose(encode(command), done)

    def settle(self) -> None:
        """In the calm: finish or undo whatever is under way, also what nobody knows of."""
        for merge in self.merges:
            merge.give_up()
        known = {(merge.left, merge.right) for merge in self.merges}
        for group_id in self.cluster.groups:
            seen = self._seen(group_id)
            if seen is None:
                continue
            for pair in (
                (group_id, seen.state.merging_with),
                (seen.state.frozen_by, group_id),
            ):
                if 0 not in pair and pair not in known and pair[0] in self.cluster.groups:
                    known.add(pair)
                    self._begin(*pair, 0.0)

    def busy(self) -> str | None:
        if self.merges:
            return f"{len(self.merges)} merges are under way"
        for group_id in self.cluster.groups:
            seen = self._seen(group_id)
            if seen is None or seen.state.merging_with or seen.state.frozen_by:
                return f"group {group_id} takes part in a merge"
        return None


class ShardSimulation(Simulation):
    cluster: ShardCluster
    workload: ShardWorkload  # type: ignore[assignment]
    settle_s = 10.0

    def __init__(self, cluster: ShardCluster) -> None:
        super().__init__(cluster)
        self.workload = ShardWorkload(cluster)
        self.bank = Bank(cluster) if BANK in cluster.config.faults else None
        if self.bank is not None:
            self.bank.start()
        self.planner = Planner(cluster, cluster.world.rng("planner"))
        self.injector = self._make_injector()

    def _make_injector(self) -> FaultInjector:
        drawn = self.cluster.drawn
        made = FaultInjector(self.cluster, drawn.weights, drawn.fault_every_s, drawn.fault_length)
        made.menu = {
            **MENU,
            SPLITS: lambda _: self.planner.split(),
            MERGES: lambda _: self.planner.merge(),
            BANK: lambda _: None,
        }
        return made

    def _await_recovery(self) -> None:
        world = self.world
        until = world.now + self.settle_s
        why: str | None = "it was not looked at"
        while world.now < until and not world.stop_reason:
            self._settle()
            world.run(world.now + POLL_S)
            why = self._unsettled()
            if why is None:
                self.result.recovered_s = world.now - self.config.calm_at
                return
        if not world.stop_reason:
            passed_s = world.now - self.config.calm_at
            self.result.stuck.append(
                Violation("liveness", f"not at rest {passed_s:.0f} s after the last fault: {why}")
            )

    def _settle(self) -> None:
        self.planner.settle()
        self.cluster.admin.repair()

    def _unsettled(self) -> str | None:
        cluster = self.cluster
        if not self.workload.idle():
            return "clients wait"
        if self.bank is not None:
            self.bank.stop()
            if not self.bank.clear():
                return "transactions hold locks"
        if cluster.admin.replaced is not None:
            return f"{cluster.admin.replaced.label} does not have everything back"
        for group in cluster.groups:
            reason = unconverged(cluster.views(group), cluster.members(group))
            if reason is not None:
                return f"group {group}: {reason}"
        for node in cluster.shard_nodes:
            for group_id, found in node.groups():
                if not (found.replica.waiting or self._belongs(node.label, group_id)):
                    return f"{node.label} still has group {group_id}"
        return self.planner.busy()

    def _belongs(self, label: str, group_id: int) -> bool:
        gone = group_id in self.cluster.gone
        return not gone and label in self.cluster.members(group_id)

    # --- the verdict ---------------------------------------------------------------------------

    def _judge(self) -> None:
        report = self.cluster.observer.report
        if not self.result.stuck:
            self._read_all()
            report(self._compare_states())
            if self.bank is not None:
                report(self.bank.judge())
                self.cluster.admin.done.update(self.bank.results)
            for watcher in self.workload.watchers:
                watcher.finish()
                report(self.cluster.events.check_cursor(watcher.keyspace, watcher.seen))
            hops = sum(watcher.hops for watcher in self.workload.watchers)
            self.cluster.admin.done["cursor in a new segment"] += hops
        self.cluster.observer.compare_logs(self.cluster.nodes, tail=None)
        for _, operations in self.workload.history.by_key():
            report(check_history(operations))

    def _compare_states(self) -> list[Violation]:
        found = []
        held: dict[int, list[tuple[bytes, bytes | None]]] = {}
        for group in self.cluster.groups:
            digests: dict[str, tuple[ShardDigest, int]] = {}
            for node in self.cluster.shard_nodes:
                shard = node.shard(group)
                if shard is not None and node.label in self.cluster.members(group):
                    digests[node.label] = _digest(shard), len(shard.dedupe)
                    place, keyspace = shard.view.place, shard.shard.state.keyspace
            if len({digest[1:] for digest in map(repr, digests.values())}) > 1:
                found.append(Violation("replicas_equal", f"group {group}: {digests}"))
            held.setdefault(keyspace, []).append((place.start, place.end))
        for keyspace, ranges in held.items():
            ranges.sort()
            edges = [end for _, end in ranges]
            if [b"", *edges] != [*(start for start, _ in ranges), None]:
                found.append(Violation("shard_ranges", f"keyspace {keyspace}: {ranges}"))
        return found

    def _read_all(self) -> None:
        """A linearizable read of every key through every member of its shard."""
        reads: list[Operation] = []
        for group in self.cluster.groups:
            members = self.cluster.members(group)
            for node in self.cluster.shard_nodes:
                if node.label in members:
                    reads += self._read_keys(node, group)
        self.world.run(max(self.config.seconds, self.world.now + FINAL_READS_S))
        waiting = sorted(f"{op.key} on {op.node}" for op in reads if op.completed is None)
        if waiting and not self.world.stop_reason:
            what = Violation("liveness", "final reads are not answered", tuple(waiting[:5]))
            self.result.stuck.append(what)

    def _read_keys(self, node: ShardNode, group: int) -> list[Operation]:
        shard = node.shard(group)
        assert shard is not None and node.host is not None, "the group has converged"  # noqa: PT018
        place, keyspace = shard.view.place, shard.shard.state.keyspace
        mine = [k for k in KEYS if k >= place.start and (place.end is None or k < place.end)]
        reads = {
            key: self.workload.history.invoke(
                Operation(
                    f"final.{node.label}.{keyspace}.{key.decode()}",
                    "final",
                    node.label,
                    f"k{keyspace}/{key.decode()}",
                    Kind.READ,
                    self.world.now,
                )
            )
            for key in mine
        }

        def ready(result: ReadResult) -> None:
            machine = node.shard(group)
            if not isinstance(result, ReadReady) or machine is None:
                self.world.after(READ_AGAIN_S, ask, owner=node.process)
                return
            for key, read in reads.items():
                try:
                    found = machine.view.get(key)
                except WrongShardError as error:
                    raise AssertionError("a shard at rest was split") from error
                value = None if found is None else found.value.decode()
                self.workload.history.done(read, self.world.now, value)

        def ask() -> None:
            assert node.host is not None
            node.host.group(group).read(ready)

        ask()
        return list(reads.values())


def _digest(shard: Any) -> ShardDigest:
    walk = ShardHash(shard.view)
    while (found := walk.step(shard.view)) is None:
        pass
    return found
