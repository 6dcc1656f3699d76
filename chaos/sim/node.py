"""A simulated machine: a disk and a clock that last, and one process at a time that runs on them.

start() is what a composition root does: engine, committer, link, group host, state machines, all of
them production code but for the writer and the link. crash() ends the process between two events:
its callbacks die with it, a write under way reached the disk or did not, and what its clients asked
is never answered. The next start gets a new engine with the rows that the disk held, so that a
forgotten callback of an earlier life that touches the old one is an error and not a silent repair.
"""

from __future__ import annotations

import random
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from chaos.checkers.violation import Violation
from chaos.sim.disk import DiskSettings, SimWriter
from chaos.sim.machine import NEWER_LEVEL, OLDER_LEVEL, AppliedRecord, RegisterMachine
from chaos.sim.network import SimNetwork
from chaos.sim.observer import Observer, TurnWatcher
from chaos.sim.world import NodeClock, NodeScheduler, Process, World
from raftgroups.config import HostConfig
from raftgroups.errors import NewerLevelError
from raftgroups.group import Group
from raftgroups.host import GroupHost
from raftgroups.machine_api import StateMachine
from raftgroups.transport import Link, NodeId
from storage.committer import Committer
from storage.engine import Batch, iterate
from storage.errors import WriteFailedError
from storage.faulty import FaultyEngine
from storage.memory import MemoryEngine

STALL_AFTER_S = 0.5


class SimNode:
    """Invariant: `process` lives exactly while `host` is set."""

    def __init__(
        self,
        world: World,
        network: SimNetwork,
        observer: Observer,
        label: str,
        disk: DiskSettings,
        config: HostConfig,
        make_host: Callable[..., GroupHost] = GroupHost,
    ) -> None:
        """`make_host` makes the thing that is simulated; tests of the simulator give another."""
        self._make_host = make_host
        self.world = world
        self.network = network
        self.observer = observer
        self.label = label
        self.disk = disk
        self.config = config
        self.rng = world.rng(f"node/{label}")
        self.node_id = NodeId(f"{label}-{self.rng.randbytes(4).hex()}")
        network.labels[self.node_id] = label
        self.clock = NodeClock(
            world, rate=self.rng.uniform(0.999, 1.001), wall_offset=self.rng.uniform(-5.0, 5.0)
        )
        self.engine = self._new_engine()
        self.incarnation = 0
        """Of the disk; drawn at the first start on it."""
        self.peers: list[NodeId] = []
        self.to_form: dict[int, Sequence[NodeId]] = {}
        """Groups that this node forms at its first start: group -> initial voters."""
        self.to_join: dict[int, None] = {}
        """Groups that an operator told it to join."""
        self.installed_level = OLDER_LEVEL
        """What its program supports from the next start on, and `level` in this life."""
        self.level = OLDER_LEVEL
        self.lives = 0
        self.boot_id = ""
        self.process: Process | None = None
        self.host: GroupHost | None = None
        self.committer: Committer | None = None
        """Of this life, or the last one."""
        self.machines: dict[int, RegisterMachine] = {}
        self.on_death: Callable[[SimNode], None] = _nothing
        self.snapshots_received = 0
        """In earlier lives."""
        self._writer: SimWriter | None = None

    def _new_engine(self) -> FaultyEngine:
        return FaultyEngine(MemoryEngine(clock=self.clock), rng=self.rng)

    @property
    def running(self) -> bool:
        return self.host is not None

    @property
    def frozen(self) -> bool:
        return self.process is not None and self.process.frozen_until > self.world.now

    def start(self) -> None:
        assert self.process is None, f"{self.label} runs already"
        self.lives += 1
        self.level = self.installed_level
        self.boot_id = f"{self.node_id}/{self.lives}"
        process = self.process = Process(
            f"{self.label}/{self.lives}", timers_first=self.rng.random() < 0.5
        )
        self.world.trace(f"{self.label} starts, life {self.lives}")
        scheduler = NodeScheduler(self.world, process, self.clock)
        self._writer = SimWriter(
            self.world,
            process,
            self.disk,
            self.rng,
            inline=self.rng.random() < 0.5,
            on_hang=self._hung,
        )
        committer = Committer(
            self.engine,
            self._writer,
            scheduler,
            self.clock,
            on_fatal=self._fatal,
            stall_after_s=STALL_AFTER_S,
        )
        self.committer = committer
        link = self.network.attach(self.node_id, process)
        dice = random.Random(self.rng.getrandbits(64))
        if not self.incarnation:
            self.incarnation = 1 + dice.getrandbits(48)
        self.machines = {}
        host = self._make_host(
            node_id=self.node_id,
            incarnation=self.incarnation,
            boot_id=self.boot_id,
            engine=self.engine,
            committer=committer,
            link=link,
            clock=self.clock,
            rng=dice,
            scheduler=scheduler,
            config=replace(self.config, feature_level=self.level),
            machines=self._make_machine,
        )
        committer.add(TurnWatcher(self.observer, self))
        for peer in self.peers:
            link.set_peer(peer, (str(peer), 1))
        self.host = host
        self._assembled(host, link, scheduler)
        host.start()
        for group_id, voters in sorted(self.to_form.items()):
            if group_id not in host.groups:
                host.create(group_id, voters)
        for group_id in self.to_join:
            self._join(group_id)

    def _assembled(self, host: GroupHost, link: Link, scheduler: NodeScheduler) -> None:
        """For what stands on the host, before it begins."""

    def join(self, group_id: int) -> bool:
        """Told to join a group: it does so now, and again if it forgets in a crash. Whether it may
        be added now."""
        self.to_join[group_id] = None
        self._join(group_id)
        return True

    def _join(self, group_id: int) -> None:
        if self.host is not None and group_id not in self.host.groups:
            self.host.join(group_id)

    def _make_machine(self, group_id: int) -> StateMachine:
        last_index = 0

        def applied(record: AppliedRecord) -> None:
            nonlocal last_index
            self.observer.applied(self, record, last_index)
            last_index = record.index

        machine = RegisterMachine(group_id, self.engine, applied)
        last_index = machine.index
        self.machines[group_id] = machine
        return machine

    def groups(self) -> Iterator[tuple[int, Group]]:
        if self.host is not None:
            yield from sorted(self.host.groups.items())

    def count_snapshots(self) -> int:
        """Snapshots installed in all lives."""
        received = [group.status().snapshots_received for _, group in self.groups()]
        return self.snapshots_received + sum(received)

    # --- ends --------------------------------------------------------------------------------

    def crash(self, *, power: bool, keep: bool | None = None) -> None:
        """kill -9, or with `power` a power cut, which also loses what the kernel had to send.
        `keep`: whether the write under way gets as far as the kernel (None: dice)."""
        if self.process is None:
            return
        self.world.trace(f"{self.label} {'loses power' if power else 'is killed'}")
        assert self._writer is not None
        self._writer.crash(keep=keep)
        if power:
            survived = self.engine.power_cut()
            self.world.trace(f"{self.label} keeps {survived} unsynced batches")
        self._end(flush=not power and self.rng.random() < 0.5)

    def replace_disk(self, groups: Sequence[int]) -> None:
        """The machine comes back with nothing on its disk, under its old id, and its operator
        tells it to join what it was in."""
        self.crash(power=True)
        self.world.trace(f"{self.label} gets a new disk")
        self.engine.close()
        self.engine = self._new_engine()
        self.incarnation = 0
        self.to_form = {}
        self.to_join = dict.fromkeys(groups)
        self.start()

    def stop(self) -> None:
        """An orderly end: the host answers what is pending, the loop turns a little longer."""
        if self.host is None:
            return
        self.world.trace(f"{self.label} stops")
        self.host.stop()
        process = self.process

        def end() -> None:
            if self.process is process:
                self.crash(power=False)

        self.world.after(self.rng.uniform(0.001, 0.05), end)

    def _end(self, *, flush: bool) -> None:
        assert self.process is not None
        self.snapshots_received = self.count_snapshots()
        self.process.alive = False
        self.process = None
        self.host = None
        self.machines = {}
        self._writer = None
        self.network.detach(self.node_id, flush=flush)
        self.engine.recover()
        survivor = self._new_engine()
        survivor.write(_rows(self.engine), sync=True)
        self.engine.close()
        self.engine = survivor
        self.on_death(self)

    def _fatal(self, error: BaseException) -> None:
        """The committer gave up; a real process exits now. A failed write is the disk's fault;
        anything else is a defect of what is simulated."""
        self.world.trace(f"{self.label} fatal: {error}")
        if not isinstance(error, WriteFailedError):
            where = traceback.format_exception(error)
            kind = "feature_levels" if isinstance(error, NewerLevelError) else "fatal"
            self.observer.report(
                [Violation(kind, f"{self.label} stopped: {error!r}", tuple(where[-4:]))]
            )
        process = self.process

        def end() -> None:
            if process is not None and self.process is process:
                self.crash(power=False)

        self.world.after(0.0, end)

    def _hung(self, seconds: float) -> None:
        """The watchdog ends a process whose write does not."""
        self.world.trace(f"{self.label}: a write has lasted {seconds:g} s")
        self.crash(power=False)

    def upgrade(self) -> bool:
        """From its next start on it runs the newer program; False if it does so already."""
        if self.installed_level >= NEWER_LEVEL:
            return False
        self.world.trace(f"{self.label} gets the newer program")
        self.installed_level = NEWER_LEVEL
        return True

    def recover(self) -> None:
        """The calm: a quick disk, a true clock, nothing stands still."""
        self.disk.slow_factor = 1.0
        self.disk.stalled_until = 0.0
        self.disk.fail_next = False
        self.clock.drift(1.0)
        if self.process is None:
            self.start()
            return
        assert self._writer is not None
        self._writer.hurry()
        self.world.wake(self.process)

    def freeze(self, seconds: float) -> None:
        """SIGSTOP, and SIGCONT after a while."""
        if self.process is not None:
            self.world.trace(f"{self.label} frozen for {seconds:.3f} s")
            self.process.freeze(self.world.now + seconds)


def _rows(engine: FaultyEngine) -> Batch:
    batch = Batch()
    with engine.snapshot() as snapshot:
        for key, value in iterate(snapshot):
            batch.put(key, value)
    return batch


def _nothing(node: SimNode) -> None:
    pass
