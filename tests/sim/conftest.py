"""A host that cheats: it replicates through one list in this process, and lies on demand.

It offers what chaos/sim uses of GroupHost and Group, so that the simulator itself can be tested:
honest, every checker must be content; with one of its lies, the right checker must speak up.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

from chaos.sim.cluster import Cluster
from chaos.sim.machine import RegisterMachine
from chaos.sim.settings import SimConfig, draw
from chaos.sim.simulation import SeedResult, Simulation
from chaos.sim.world import World
from raftgroups.outcomes import Applied, ReadReady, Refused
from raftgroups.status import GroupStatus, Role
from storage.committer import Need
from storage.engine import Batch


class Record(NamedTuple):
    number: int
    term: int
    payload: bytes


@dataclass
class Oracle:
    """What all replicas agree on, by magic."""

    lie: str = ""
    logs: dict[int, list[Record]] = field(default_factory=dict)
    hosts: list[OracleHost] = field(default_factory=list)
    terms: dict[str, int] = field(default_factory=dict)
    term: int = 0

    def leader(self) -> OracleHost | None:
        return next((host for host in self.hosts if host.alive()), None)


class OracleGroup:
    def __init__(self, host: OracleHost, group_id: int) -> None:
        self.host = host
        self.oracle = host.oracle
        self.group_id = group_id
        self.log_list = host.oracle.logs.setdefault(group_id, [])
        self.machine: RegisterMachine = host.machines(group_id)
        self.machine.restored(self.machine.index)
        self.waiting: list[tuple[int, Callable[[Any], None], Any]] = []

    @property
    def role(self) -> Role:
        leads = self.oracle.leader() is self.host or self.oracle.lie == "two leaders"
        return Role.LEADER if leads else Role.FOLLOWER

    @property
    def term(self) -> int:
        return 1 if self.oracle.lie == "two leaders" else self.oracle.terms[self.host.boot_id]

    feature_level = 1

    @property
    def replica(self) -> Any:
        """As much of one as the observer looks at."""
        raft = SimpleNamespace(leads=self.role is Role.LEADER)
        return SimpleNamespace(raft=raft, waiting=False)

    def log(self, first: int, last: int) -> list[Record]:
        return self.log_list[first - 1 : last]

    def status(self) -> GroupStatus:
        leader = self.oracle.leader()
        nodes = tuple(host.node_id for host in self.oracle.hosts)
        last = len(self.log_list)
        leader_id = leader.node_id if leader else None
        return GroupStatus(
            group_id=self.group_id, role=self.role, term=self.term, voted_for=None,
            leader=leader_id, commit_index=last, applied_index=self.machine.index,
            durable_applied_index=self.machine.index, last_index=last, first_index=1,
            voters=nodes, learners=(), incarnations=dict.fromkeys(nodes, 1), config_index=1,
            feature_level=1, peers={}, elections=0, snapshots_sent=0, snapshots_received=0,
            installing=False, pending=0, hibernating=False,
        )  # fmt: skip

    def propose(self, payload: bytes, done: Callable[[Any], None]) -> None:
        if self.role is not Role.LEADER:
            leader = self.oracle.leader()
            self.host.soon(done, Refused("not leader", leader.node_id if leader else None))
            if self.oracle.lie != "refused but done":
                return
        index = len(self.log_list) + 1
        for _ in range(2 if self.oracle.lie == "applied twice" else 1):
            self.log_list.append(Record(len(self.log_list) + 1, self.oracle.term, payload))
        if self.role is Role.LEADER:
            self.waiting.append((index, done, None))
        self.oracle_kick()

    def oracle_kick(self) -> None:
        for host in self.oracle.hosts:
            host.kick()

    def read(self, done: Callable[[Any], None]) -> None:
        if self.oracle.lie == "stale read":
            self.host.soon(done, ReadReady(self.machine.index))
            return
        self.waiting.append((len(self.log_list), done, "read"))
        self.host.kick()

    def compact(self, keep: int) -> int:
        return 1

    def refuse(self, _node: object, done: Callable[[Any], None]) -> None:
        self.host.soon(done, Refused("the oracle has no membership"))

    transfer = add_learner = promote = remove = refuse

    def turn(self) -> bool:
        todo = self.log_list[self.machine.index :]
        lazy = self.oracle.lie == "never recovers" and self.role is not Role.LEADER
        for record in [] if lazy else todo:
            payload = record.payload
            if self.oracle.lie == "diverges" and record.number == 50:
                payload = payload.replace(b"reg", b"xxx" if self.host.odd else b"yyy")
            self.machine.apply(record.number, payload)
        return bool(todo) and not lazy

    def answer(self) -> None:
        ready = [item for item in self.waiting if item[0] <= self.machine.index]
        self.waiting = [item for item in self.waiting if item[0] > self.machine.index]
        for index, done, what in ready:
            record = self.host.results.get((self.group_id, index))
            done(ReadReady(index) if what == "read" else Applied(index, record))


class OracleHost:
    def __init__(self, oracle: Oracle, **given: Any) -> None:
        self.oracle = oracle
        self.given = given
        self.node_id = given["node_id"]
        self.boot_id = given["boot_id"]
        self.scheduler = given["scheduler"]
        self.groups: dict[int, OracleGroup] = {}
        self.results: dict[tuple[int, int], object] = {}
        oracle.hosts = [host for host in oracle.hosts if host.node_id != self.node_id]
        oracle.hosts.append(self)
        oracle.hosts.sort(key=lambda host: host.node_id)
        oracle.term += 1
        oracle.terms[self.boot_id] = oracle.term
        self.odd = oracle.hosts.index(self) % 2
        given["committer"].add(self)

    def alive(self) -> bool:
        return bool(self.scheduler._process.alive)

    def soon(self, done: Callable[..., None], *args: object) -> None:
        self.scheduler.call_soon(done, *args)

    def kick(self) -> None:
        self.soon(self.given["committer"].kick)

    def machines(self, group_id: int) -> RegisterMachine:
        machine: RegisterMachine = self.given["machines"](group_id)
        apply = machine.apply

        def remember(index: int, payload: bytes) -> object:
            result = self.results[group_id, index] = apply(index, payload)
            return result

        machine.apply = remember  # type: ignore[assignment, method-assign]
        return machine

    def start(self) -> None:
        for group_id in self.oracle.logs:
            self.groups[group_id] = OracleGroup(self, group_id)
        self.kick()

    def create(self, group_id: int, voters: object) -> OracleGroup:
        group = self.groups[group_id] = OracleGroup(self, group_id)
        return group

    join = create

    def group(self, group_id: int) -> OracleGroup:
        return self.groups[group_id]

    def stop(self) -> None:
        pass

    def begin_turn(self) -> Need:
        worked = [group.turn() for group in self.groups.values()]
        if any(worked):
            return Need.NOW
        self.after_commit()
        return Need.NOTHING

    def prepare(self, batch: Batch) -> None:
        for group in self.groups.values():
            group.machine.prepare(batch)

    def after_commit(self) -> None:
        for group in self.groups.values():
            group.machine.after_commit()
            group.answer()
            if self.oracle.lie == "loses writes" and len(group.log_list) == 40:
                # The last write was answered; now nobody has it.
                group.log_list.pop()
                for host in self.oracle.hosts:
                    machine = host.groups[group.group_id].machine
                    machine._overlay.clear()
                    machine._load()

    def stalled(self, seconds: float) -> None:
        pass


@pytest.fixture
def oracle_run() -> Callable[..., SeedResult]:
    """Run one seed on the oracle: oracle_run(seed, faults, lie=...)."""

    def run(seed: int, faults: frozenset[str], *, lie: str = "", seconds: float = 20.0) -> Any:
        config = SimConfig(seed=seed, faults=faults, seconds=seconds, dense=True)
        oracle = Oracle(lie)
        drawn = draw(config, World(seed).rng("settings"))
        make = lambda **given: OracleHost(oracle, **given)  # noqa: E731
        return Simulation(Cluster(config, drawn, make_host=make)).run()

    return run
