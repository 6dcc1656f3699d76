"""Leaderless nodes in the simulated world: the production regime on virtual time.

A machine has a disk and a clock that last, and one process at a time; start() does what a
composition root does. Only link and writer are simulated. crash() ends the process between two
events; a write under way then reached the disk or did not. A client of a node that crashes is never
answered.

LeaderlessCluster adds the faults of a run (partitions, resets, crashes, power cuts, frozen
processes, failing and slow disks, wall clocks that jump) and the calm after them, in which
everything is up and connected.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import cast

from chaos.sim.disk import DiskSettings, SimWriter
from chaos.sim.network import NetworkSettings, SimNetwork
from chaos.sim.world import NodeClock, NodeScheduler, Process, World
from kv.cluster.mail import Mail
from kv.leaderless.assembly import Leaderless
from kv.leaderless.founding import owned
from kv.leaderless.handoff import HandoffSettings
from kv.leaderless.keyspace import Keyspace
from kv.leaderless.maintenance import MaintenanceSettings
from kv.leaderless.members import MemberSettings
from kv.leaderless.parts import CoordinatorSettings
from kv.leaderless.replica import ReplicaLimits
from raftgroups.meta.records import RingSeat
from raftgroups.transport import NodeId
from storage.committer import Committer
from storage.engine import Batch, Engine, iterate
from storage.errors import WriteFailedError
from storage.faulty import FaultyEngine
from storage.memory import MemoryEngine
from storage.objects import keyspaces_held
from storage.space import SpaceGuard

VNODES = 16
FAULTS = (
    *("partition", "one way", "heal", "kill", "power", "restart", "restart", "reset"),
    *("freeze", "bad disk", "slow disk", "wall clock"),
)


class LeaderlessMachine:
    """Invariant: `process` lives exactly while `regime` is set."""

    def __init__(
        self,
        world: World,
        network: SimNetwork,
        label: str,
        *,
        keyspaces: Mapping[int, Keyspace],
        settings: CoordinatorSettings,
        handoff: HandoffSettings,
        limits: ReplicaLimits,
        maintenance: MaintenanceSettings,
    ) -> None:
        self.world = world
        self.network = network
        self.node = NodeId(label)
        self.rng = world.rng(f"node/{label}")
        network.labels[self.node] = label
        self.clock = NodeClock(
            world, rate=self.rng.uniform(0.999, 1.001), wall_offset=self.rng.uniform(-5.0, 5.0)
        )
        self.disk = DiskSettings()
        self.engine = FaultyEngine(MemoryEngine(clock=self.clock), rng=self.rng)
        self.members: list[NodeId] = []
        self.directory_incarnation = 1
        self.lives = 0
        self.gone = False
        """It has left or was declared dead."""
        self.founder = True
        """One of those that form the cluster; anybody else joins."""
        self.made: dict[int, tuple[Keyspace, Sequence[RingSeat]]] = {}
        """Keyspaces that this machine has heard of, as its map has them: `hear_of`."""
        self.dropped: set[int] = set()
        """Those that it has heard the end of."""
        self.guard: SpaceGuard | None = None
        """From the next start on."""
        self.fatal: list[BaseException] = []
        self.process: Process | None = None
        self.regime: Leaderless | None = None
        self._keyspaces = keyspaces
        self._settings = settings
        self._handoff = handoff
        self._limits = limits
        self._maintenance = maintenance
        self._writer: SimWriter | None = None

    def start(self) -> None:
        assert self.process is None, f"{self.node} runs already"
        self.lives += 1
        process = self.process = Process(
            f"{self.node}/{self.lives}", timers_first=self.rng.random() < 0.5
        )
        self.world.trace(f"{self.node} starts, life {self.lives}")
        scheduler = NodeScheduler(self.world, process, self.clock)
        self._writer = SimWriter(
            self.world,
            process,
            self.disk,
            self.rng,
            inline=self.rng.random() < 0.5,
            on_hang=lambda _: self.crash(power=False),
        )
        committer = Committer(
            self.engine, self._writer, scheduler, self.clock, on_fatal=self._broken
        )
        link = self.network.attach(self.node, process)
        # Mail asks with asyncio's futures; gossip only tells, and so needs no loop.
        mail = Mail(link, cast(asyncio.AbstractEventLoop, scheduler))
        self.regime = Leaderless(
            node=self.node,
            directory_incarnation=self.directory_incarnation,
            engine=self.engine,
            committer=committer,
            link=link,
            post=mail,
            clock=self.clock,
            scheduler=scheduler,
            rng=random.Random(self.rng.getrandbits(64)),
            keyspaces=self._keyspaces,
            guard=self.guard,
            settings=self._settings,
            handoff=self._handoff,
            limits=self._limits,
            maintenance=self._maintenance,
            members=MemberSettings(vnodes=VNODES),
            on_dead=self._left,
        )
        self.regime.maintenance.on_left = self._left
        self.regime.members.on_member = lambda info: link.set_peer(info.node, (info.node, 1))
        self.regime.start(self.members if self.founder and self.lives == 1 else None)
        for keyspace, seats in self.made.values():
            self._serve(keyspace, seats)
        for number in keyspaces_held(self.regime.replica.reader()):
            if number in self.dropped:
                self.regime.drop_keyspace(number)
        self.regime.replica.dropped |= self.dropped
        for peer in dict.fromkeys([*self.members, *sorted(self.regime.view.members)]):
            if peer != self.node:
                link.set_peer(peer, (str(peer), 1))

    def hear_of(self, keyspace: Keyspace, seats: Sequence[RingSeat]) -> None:
        """The map names a keyspace that was made on this ring."""
        self.made[keyspace.number] = keyspace, seats
        if self.regime is not None:
            self._serve(keyspace, seats)

    def _serve(self, keyspace: Keyspace, seats: Sequence[RingSeat]) -> None:
        assert self.regime is not None
        self.regime.add_keyspace(keyspace, owned(self.node, seats, keyspace.n))

    def hear_of_drop(self, number: int) -> None:
        self.made.pop(number, None)
        self.dropped.add(number)
        if self.regime is not None:
            self.regime.drop_keyspace(number)

    def crash(self, *, power: bool) -> None:
        """kill -9, or a power cut, which also loses what the kernel had to send."""
        if self.process is None:
            return
        self.world.trace(f"{self.node} {'loses power' if power else 'is killed'}")
        assert self._writer is not None
        self._writer.crash()
        if power:
            self.engine.power_cut()
        self.process.alive = False
        self.process = self.regime = self._writer = None
        self.network.detach(self.node, flush=not power and self.rng.random() < 0.5)
        self.engine.recover()
        survivor = FaultyEngine(MemoryEngine(clock=self.clock), rng=self.rng)
        survivor.write(_rows(self.engine), sync=True)
        self.engine.close()
        self.engine = survivor

    def lose_disk(self) -> None:
        """It comes back with nothing, as a new incarnation of itself."""
        self.crash(power=True)
        self.engine.close()
        self.engine = FaultyEngine(MemoryEngine(clock=self.clock), rng=self.rng)
        self.directory_incarnation += 1
        self.start()

    def _left(self, why: str = "it has left") -> None:
        """It is no member any more; its process ends and never comes back."""
        self.world.trace(f"{self.node} is out: {why}")
        self.gone = True
        process = self.process

        def end() -> None:
            if process is not None and self.process is process:
                self.crash(power=False)

        self.world.after(0.5, end)

    def _broken(self, error: BaseException) -> None:
        self.world.trace(f"{self.node} fatal: {error}")
        if not isinstance(error, WriteFailedError):
            self.fatal.append(error)
        process = self.process

        def end() -> None:
            if process is not None and self.process is process:
                self.crash(power=False)

        self.world.after(0.0, end)


class LeaderlessCluster:
    def __init__(
        self,
        seed: int,
        count: int,
        *,
        keyspaces: Mapping[int, Keyspace] | None = None,
        settings: CoordinatorSettings | None = None,
        handoff: HandoffSettings | None = None,
        limits: ReplicaLimits | None = None,
        maintenance: MaintenanceSettings | None = None,
        network: NetworkSettings | None = None,
    ) -> None:
        self.world = World(seed)
        self.network = SimNetwork(self.world, network)
        self.rng = self.world.rng("faults")
        self.faults: Counter[str] = Counter()
        """What was done to it, by name."""
        self._make = partial(
            LeaderlessMachine,
            self.world,
            self.network,
            keyspaces=keyspaces or {1: Keyspace()},
            settings=settings or CoordinatorSettings(),
            handoff=handoff or HandoffSettings(),
            limits=limits or ReplicaLimits(),
            maintenance=maintenance or MaintenanceSettings(),
        )
        self.machines = [self._make(f"n{number}") for number in range(count)]
        for machine in self.machines:
            machine.members = [other.node for other in self.machines]
        for machine in self.machines:
            machine.start()
        self.run(0.5)

    @staticmethod
    def dice(seed: int) -> random.Random:
        """For what is decided before there is a cluster."""
        return World(seed).rng("configuration")

    def count(self, fault: str) -> None:
        self.faults[fault] += 1
        self.world.trace(f"fault: {fault}")

    def run(self, seconds: float) -> None:
        self.world.run(self.world.now + seconds)
        for machine in self.machines:
            if machine.fatal:
                raise AssertionError(f"{machine.node} broke") from machine.fatal[0]

    def join(self) -> LeaderlessMachine:
        """A new machine with an empty disk joins the cluster."""
        machine = self._make(f"n{len(self.machines)}")
        machine.founder = False
        machine.members = [other.node for other in self.machines if not other.gone]
        self.machines.append(machine)
        machine.start()
        return machine

    def machine(self, node: NodeId) -> LeaderlessMachine:
        return next(machine for machine in self.machines if machine.node == node)

    @property
    def running(self) -> list[LeaderlessMachine]:
        return [machine for machine in self.machines if machine.regime is not None]

    def partition(self, *sides: Sequence[LeaderlessMachine]) -> None:
        """Nothing passes between nodes of different sides."""
        for side in sides:
            for machine in side:
                for other_side in sides:
                    if other_side is not side:
                        for other in other_side:
                            self.network.block(machine.node, other.node)

    def fault(self) -> None:
        """One seeded fault; some end by themselves, all with `calm`."""
        rng = self.rng
        kind = rng.choice(FAULTS)
        machine = rng.choice(self.machines)
        other = rng.choice(self.machines)
        self.count(kind)
        if kind == "partition":
            shuffled = rng.sample(self.machines, len(self.machines))
            cut = rng.randrange(1, len(shuffled))
            self.partition(shuffled[:cut], shuffled[cut:])
        elif kind == "one way" and machine is not other:
            self.network.block(machine.node, other.node)
        elif kind == "heal":
            self.network.heal()
        elif kind in ("kill", "power"):
            machine.crash(power=kind == "power")
        elif kind == "restart" and machine.process is None and not machine.gone:
            machine.start()
        elif kind == "reset" and machine is not other:
            self.network.reset(machine.node, other.node)
        else:
            self._fault_of_machine(kind, machine)

    def _fault_of_machine(self, kind: str, machine: LeaderlessMachine) -> None:
        rng = self.rng
        if kind == "freeze" and machine.process is not None:
            machine.process.freeze(self.world.now + rng.uniform(0.1, 3.0))
        elif kind == "bad disk":
            machine.disk.fail_next = True
        elif kind == "slow disk":
            machine.disk.slow_factor = rng.choice([1.0, 10.0])
        elif kind == "wall clock":
            machine.clock.jump_wall(rng.uniform(-20.0, 20.0))

    def calm(self) -> None:
        """Everybody is up and connected."""
        self.network.heal()
        for machine in self.machines:
            machine.disk.fail_next = False
            machine.disk.slow_factor = 1.0
            if machine.process is None and not machine.gone:
                machine.start()
        self.run(10.0)


def _rows(engine: Engine) -> Batch:
    batch = Batch()
    with engine.snapshot() as snapshot:
        for key, value in iterate(snapshot):
            batch.put(key, value)
    return batch
