"""What a holder of a lease holds against the cluster, and what not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from chaos.checkers.violation import Violation
from chaos.sim.holder import Holder
from chaos.sim.world import NodeClock, World
from raftgroups.commands import LeaseGrant, LeaseKeepAlive, LeaseRevoke, Put

Answered = Callable[[Any], None]


class Keyspace:
    """Grants everything at once; looks are answered when the test says so."""

    def __init__(self) -> None:
        self.looks: list[Answered] = []
        self.written: list[object] = []

    def write(self, command: object, done: Answered, options: object) -> None:
        self.written.append(command)
        ttls = tuple(9 for _ in command.leases) if isinstance(command, LeaseKeepAlive) else ()
        done(SimpleNamespace(ttls_s=ttls))

    def read(self, query: object, done: Answered, options: object) -> None:
        self.looks.append(done)


class Simulation:
    def __init__(self) -> None:
        self.world = World(1)
        self.clock = NodeClock(self.world)
        self.keyspace = Keyspace()
        node = SimpleNamespace(running=True, process=None, keyspace=self.keyspace)
        self.cluster = SimpleNamespace(world=self.world, serving=[node])
        self.workload = SimpleNamespace(stopped=False, results=Counter[str]())
        self.hung: set[bytes] = set()
        self.wrong: list[Violation] = []

    def clocks_well_since(self) -> float:
        return self.clock.fast_at

    def run(self, until: Callable[[], bool]) -> None:
        while not until():
            assert self.world.now < 60.0, "it did not happen"
            self.world.run(self.world.now + 0.01)

    def has_written(self, kind: type) -> bool:
        return any(isinstance(each, kind) for each in self.keyspace.written)


@pytest.fixture
def simulation() -> Simulation:
    """Its holder has a lease with its keys, has renewed it, and its first look is on its way."""
    made = Simulation()
    Holder(cast(Any, made), 0).begin()
    made.run(lambda: len(made.keyspace.looks) == 1)
    assert made.has_written(LeaseGrant)
    assert made.has_written(Put)
    return made


def gone() -> object:
    return SimpleNamespace(results=[SimpleNamespace(found=False)])


def test_a_key_that_is_gone_while_its_lease_is_kept_is_a_violation(simulation: Simulation) -> None:
    simulation.keyspace.looks[0](gone())
    assert [each.invariant for each in simulation.wrong] == ["leases"]


def test_a_look_that_is_on_its_way_when_the_lease_is_let_go_says_nothing(
    simulation: Simulation,
) -> None:
    simulation.run(lambda: simulation.has_written(LeaseRevoke))
    simulation.keyspace.looks[-1](gone())
    assert simulation.wrong == []


def test_an_old_look_says_nothing_of_the_next_lease(simulation: Simulation) -> None:
    def granted() -> int:
        return sum(isinstance(each, LeaseGrant) for each in simulation.keyspace.written)

    simulation.run(lambda: granted() == 2)
    count = len(simulation.keyspace.looks)
    simulation.run(lambda: len(simulation.keyspace.looks) > count)
    simulation.keyspace.looks[0](gone())
    assert simulation.wrong == []
    simulation.keyspace.looks[-1](gone())
    assert len(simulation.wrong) == 1


def test_nobody_relies_on_a_lease_when_a_clock_has_leapt(simulation: Simulation) -> None:
    simulation.clock.jump(2.0)
    simulation.keyspace.looks[0](gone())
    assert simulation.wrong == []


def test_after_the_next_renewal_it_counts_again(simulation: Simulation) -> None:
    simulation.clock.jump(2.0)
    simulation.run(lambda: len(simulation.keyspace.looks) == 2)
    simulation.keyspace.looks[1](gone())
    assert len(simulation.wrong) == 1


def test_a_clock_is_fast_for_as_long_as_it_runs_fast() -> None:
    world = World(1)
    clock = NodeClock(world, rate=1.001)
    assert clock.fast_at == float("-inf")
    clock.drift(1.5)
    world.run(2.0)
    assert clock.fast_at == 2.0
    clock.drift(0.7)
    world.run(3.0)
    assert clock.fast_at == 2.0
    clock.jump_wall(100.0)
    assert clock.fast_at == 2.0
