"""One seed from start to verdict.

    0 .. calm_at        clients work while faults strike
    calm_at .. end      everything is repaired; clients go on for a moment, then stop
                        every group must recover within a bound (else: stuck)
    at the end          every client reads every key once more on every node; then logs, states,
                        acknowledgements and the whole history are judged

The result is plain values, so that it can come from another process.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from chaos.checkers.applied_once import check_replicas
from chaos.checkers.durability import check_durability
from chaos.checkers.linearizability import check_history
from chaos.checkers.liveness import check_liveness, unconverged
from chaos.checkers.violation import Violation
from chaos.history import Kind, Operation, Result
from chaos.sim.cluster import Cluster
from chaos.sim.faults import FaultInjector
from chaos.sim.node import SimNode
from chaos.sim.settings import SimConfig, draw
from chaos.sim.workload import Workload
from chaos.sim.world import SpinError, World
from raftgroups.outcomes import ReadReady, ReadResult

RECOVERY_S = 8.0
"""The bound of liveness, from the last fault to a whole group, in virtual seconds."""
COMPARE_EVERY_S = 2.0
POLL_S = 0.25
READ_AGAIN_S = 0.1
FORMING_S = 5.0
"""The patience with which faults wait for the groups to form."""


@dataclass(slots=True)
class SeedResult:
    seed: int
    trace_hash: str = ""
    virtual_s: float = 0.0
    events: int = 0
    elections: int = 0
    applied: int = 0
    snapshots: int = 0
    changes: dict[str, int] = field(default_factory=dict)
    """Transfers and membership changes that were done, and groups whose level rose."""
    cpu_s: float = 0.0
    results: dict[str, int] = field(default_factory=dict)
    faults: dict[str, int] = field(default_factory=dict)
    recovered_s: float | None = None
    """How long after the last fault every group was whole."""
    violations: list[Violation] = field(default_factory=list)
    stuck: list[Violation] = field(default_factory=list)
    recent: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.violations and not self.stuck


def run_seed(
    config: SimConfig, *, memory: int = 60, sink: Callable[[str], None] | None = None
) -> SeedResult:
    dice = World(config.seed).rng("settings")
    cluster = Cluster(config, draw(config, dice), memory=memory, sink=sink)
    return Simulation(cluster).run()


class Simulation:
    """Invariant: after a violation nothing further is run or judged."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.config = cluster.config
        self.world = cluster.world
        drawn = cluster.drawn
        self.workload = Workload(
            cluster.world,
            cluster.nodes,
            cluster.groups,
            clients=drawn.clients,
            think_s=drawn.think_s,
            registers=drawn.registers,
            lists=drawn.lists,
            served=cluster.served,
        )
        self.injector = FaultInjector(
            cluster, drawn.weights, drawn.fault_every_s, drawn.fault_length
        )
        self.result = SeedResult(self.config.seed)

    def run(self) -> SeedResult:
        result, observer = self.result, self.cluster.observer
        try:
            with logs_into(self.world):
                self._play()
                if not observer.violations:
                    self._judge()
        except SpinError as error:
            result.stuck.append(Violation("spin", str(error)))
        except Exception as error:  # noqa: BLE001 - a defect of what is simulated is a finding
            where = traceback.format_exc().strip().splitlines()
            result.violations.append(Violation("exception", repr(error), tuple(where[-14:])))
        result.violations[:0] = observer.violations
        result.trace_hash = self.world.trace_hash()
        result.virtual_s = self.world.now
        result.events = self.world.events
        result.elections = observer.leaderships
        result.applied = observer.applications
        result.snapshots = sum(node.count_snapshots() for node in self.cluster.nodes)
        changes = {**self.cluster.admin.done, "level": observer.levels.raised()}
        result.changes = dict(sorted(changes.items()))
        result.results = dict(sorted(self.workload.results.items()))
        result.faults = dict(sorted(self.injector.injected.items()))
        result.recent = list(self.world.recent)
        return result

    # --- the storm -----------------------------------------------------------------------------

    def _play(self) -> None:
        world, config = self.world, self.config
        self.cluster.start()
        self.workload.start()
        if not self.cluster.drawn.born_in_storm:
            self._await_forming()
        self.injector.start()
        world.after(COMPARE_EVERY_S, self._compare_logs)
        world.run(config.calm_at)
        if world.stop_reason:
            return
        self.injector.calm()
        world.run(config.calm_at + 1.0)
        self.workload.stop()
        self._await_recovery()

    def _await_forming(self) -> None:
        """A group takes its first proposal when every founder was heard, so a storm from the first
        moment would mostly show how a group does not form."""
        world, served = self.world, self.workload.served
        while world.now < FORMING_S and len(served) < self.config.groups and not world.stop_reason:
            world.run(world.now + POLL_S)

    def _compare_logs(self) -> None:
        self.cluster.observer.compare_logs(self.cluster.nodes)
        self.world.after(COMPARE_EVERY_S, self._compare_logs)

    # --- after the storm -----------------------------------------------------------------------

    def _await_recovery(self) -> None:
        """Run until every group is whole, or the bound is over."""
        calm_at = self.config.calm_at
        admin = self.cluster.admin
        while self.world.now < calm_at + RECOVERY_S and not self.world.stop_reason:
            if self._whole():
                self.result.recovered_s = self.world.now - calm_at
                return
            admin.repair()
            self.world.run(self.world.now + POLL_S)
        for group in self.cluster.groups:
            views, members = self.cluster.views(group), self.cluster.members(group)
            level = self.cluster.supported(group)
            self.result.stuck.extend(check_liveness(group, views, members, RECOVERY_S, level))
        if admin.replaced is not None and not self.result.stuck:
            what = f"the groups of {admin.replaced.label} did not take its new disk in time"
            self.result.stuck.append(Violation("liveness", what))
        if not self.workload.idle() and not self.result.stuck:
            self.result.stuck.append(
                Violation("liveness", f"clients still wait {RECOVERY_S:g} s after the last fault")
            )

    def _whole(self) -> bool:
        cluster = self.cluster
        return (
            self.workload.idle()
            and cluster.admin.replaced is None
            and all(
                unconverged(cluster.views(group), cluster.members(group), cluster.supported(group))
                is None
                for group in cluster.groups
            )
        )

    # --- the verdict ---------------------------------------------------------------------------

    def _judge(self) -> None:
        if not self.result.stuck:
            self._read_everything()
        found = self.cluster.observer
        found.compare_logs(self.cluster.nodes, tail=None)
        if not self.result.stuck:
            for group in self.cluster.groups:
                self._judge_group(group)
        for _, operations in self.workload.history.by_key():
            found.report(check_history(operations))

    def _judge_group(self, group: int) -> None:
        """Only when it has converged: a replica that lags has not lost anything."""
        replicas = {
            node.label: dict(node.machines[group].operations())
            for node in self.cluster.nodes
            if node.label in self.cluster.members(group) and group in node.machines
        }
        report = self.cluster.observer.report
        report(check_replicas(group, {n: list(ops.items()) for n, ops in replicas.items()}))
        writes = [
            operation
            for operation in self.workload.history.operations
            if operation.kind is not Kind.READ and operation.key.startswith(f"g{group}/")
        ]
        report(
            check_durability(
                group,
                {op.id: op.index for op in writes if op.result is Result.DONE},
                [op.id for op in writes if op.result is Result.FAILED],
                replicas,
            )
        )

    def _read_everything(self) -> None:
        """A linearizable read of every key through every member, into the history. A read that is
        not answered now, in the calm, means that something is stuck."""
        keys = sorted({op.key for op in self.workload.history.operations})
        open_reads: list[Operation] = []
        for group in self.cluster.groups:
            mine = [key for key in keys if key.startswith(f"g{group}/")]
            members = self.cluster.members(group)
            open_reads += [
                self._read_on(node, group, mine)
                for node in self.cluster.nodes
                if node.label in members and node.host is not None and mine
            ]
        self.world.run(self.config.seconds)
        waiting = sorted(f"{op.key} on {op.node}" for op in open_reads if op.completed is None)
        if waiting and not self.world.stop_reason:
            self.result.stuck.append(
                Violation("liveness", "final reads are not answered", tuple(waiting[:5]))
            )

    def _read_on(self, node: SimNode, group: int, keys: list[str]) -> Operation:
        """One read point serves all keys of a group on a node; a refused one is asked for again.
        Returns the first key's read."""
        history, now, label = self.workload.history, self.world.now, node.label
        reads = [
            history.invoke(Operation(f"final.{label}.{key}", "final", label, key, Kind.READ, now))
            for key in keys
        ]

        def ready(result: ReadResult) -> None:
            if isinstance(result, ReadReady):
                machine = node.machines[group]
                for read in reads:
                    history.done(read, self.world.now, machine.read(read.key))
            else:
                self.world.after(READ_AGAIN_S, ask, owner=node.process)

        def ask() -> None:
            assert node.host is not None
            node.host.group(group).read(ready)

        ask()
        return reads[0]


class _TraceHandler(logging.Handler):
    def __init__(self, world: World) -> None:
        super().__init__(logging.INFO)
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        self._world.trace(f"log {record.levelname.lower()}: {record.getMessage()}")


@contextmanager
def logs_into(world: World) -> Iterator[None]:
    """What the simulated nodes log goes into the trace, and nowhere else."""
    handler = _TraceHandler(world)
    loggers = [logging.getLogger(name) for name in ("raftgroups", "storage", "pysyncobj")]
    before = [(logger.level, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
    try:
        yield
    finally:
        for logger, (level, propagate) in zip(loggers, before, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(level)
            logger.propagate = propagate
