"""Keyspaces that are made and dropped while a storm blows, and what must be true of them.

Each machine hears of a keyspace, and of its end, at a moment of its own, those that are down as
well: their map comes when they start. Clients write each key once, with two owners (`strict`), and
read what was acknowledged in the same way, so that the two quorums meet.

- a strict read of an acknowledged key finds it, whoever joined, left or had not heard of the
  keyspace meanwhile;
- after the calm all owners hold every acknowledged key of a keyspace that was not dropped;
- nobody holds a row of one that was.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Final

from chaos.sim.leaderless import LeaderlessCluster, LeaderlessMachine
from kv.leaderless.founding import seats_of_ring
from kv.leaderless.get_core import Found, GetResult
from kv.leaderless.keyspace import Keyspace, Wish
from kv.leaderless.put_core import Written
from kv.leaderless.rules import Write
from raftgroups.meta.records import RingSeat
from storage.errors import JanusError
from storage.objects import keyspaces_held

FIRST: Final = 2
LIVING_MAX: Final = 3
LATE_MAX_S: Final = 2.0
STRICT: Final = Wish(nodes=2, strict=True)


class KeyspaceStorm:
    def __init__(self, cluster: LeaderlessCluster) -> None:
        self._cluster = cluster
        self._rng = cluster.world.rng("keyspaces")
        self._next = FIRST
        self._living: dict[int, tuple[Keyspace, Sequence[RingSeat]]] = {}
        self._dropped: set[int] = set()
        self._told: set[tuple[str, int, bool]] = set()
        """(machine, keyspace, whether of its end): news that is on its way or there."""
        self._keys = 0
        self.acknowledged: dict[tuple[int, bytes], bytes] = {}
        self.reads = 0
        self.wrong: list[str] = []

    def step(self) -> None:
        rng, running = self._rng, self._cluster.running
        if not running:
            return
        machine = rng.choice(running)
        if rng.random() < 0.03 and len(self._living) < LIVING_MAX:
            self._make(machine)
        elif rng.random() < 0.01 and self._living:
            self._drop(rng.choice(sorted(self._living)))
        self._spread()
        if self._living and rng.random() < 0.5:
            self._write(machine, rng.choice(sorted(self._living)))
        known = sorted(place for place in self.acknowledged if place[0] in self._living)
        if known and rng.random() < 0.5:
            self._read(machine, *rng.choice(known))

    # --- made and dropped ---------------------------------------------------------------------

    def _make(self, maker: LeaderlessMachine) -> None:
        assert maker.regime is not None
        seats = seats_of_ring(maker.regime.members.membership.serving())
        if not seats:
            return  # it has just begun to join
        keyspace = Keyspace(number=self._next, name=f"made{self._next}")
        self._living[self._next] = keyspace, seats
        self._next += 1
        self._cluster.count("keyspace made")

    def _drop(self, number: int) -> None:
        del self._living[number]
        self._dropped.add(number)
        self._cluster.count("keyspace dropped")

    def _spread(self, *, late_s: float = LATE_MAX_S) -> None:
        """News that somebody has not heard sets out; a machine that joins hears all of it."""
        news = [(number, False) for number in self._living]
        news += [(number, True) for number in sorted(self._dropped)]
        for machine in self._cluster.machines:
            for number, ended in news:
                if (machine.node, number, ended) not in self._told:
                    self._told.add((machine.node, number, ended))
                    hear = partial(self._hear, machine, number, ended)
                    self._cluster.world.after(self._rng.uniform(0.0, late_s), hear)

    def _hear(self, machine: LeaderlessMachine, number: int, ended: bool) -> None:
        if machine.gone:
            return
        if ended:
            machine.hear_of_drop(number)
        elif number in self._living and number not in machine.dropped:
            machine.hear_of(*self._living[number])

    # --- clients ------------------------------------------------------------------------------

    def _write(self, machine: LeaderlessMachine, number: int) -> None:
        self._keys += 1
        key, value = b"key%d" % self._keys, b"value%d" % self._keys

        def done(answer: Written | JanusError) -> None:
            if isinstance(answer, Written):
                self.acknowledged[number, key] = value

        assert machine.regime is not None
        machine.regime.coordinator.put(number, key, Write(value), done, STRICT)

    def _read(self, machine: LeaderlessMachine, number: int, key: bytes) -> None:
        def done(answer: GetResult | JanusError) -> None:
            if isinstance(answer, GetResult):
                self.reads += 1
                found = [version.value for version in answer.siblings.versions]
                if found != [self.acknowledged[number, key]] and number in self._living:
                    heard = ", ".join(answer.replicas)
                    self.wrong.append(
                        f"{machine.node} read {found} of {key!r} in keyspace {number} from {heard}"
                    )

        assert machine.regime is not None
        machine.regime.coordinator.get(number, key, done, STRICT)

    # --- the end ------------------------------------------------------------------------------

    def calm(self) -> None:
        """Everybody hears of everything."""
        self._spread(late_s=0.1)
        self._cluster.run(LATE_MAX_S + 0.5)

    def check(self) -> None:
        assert not self.wrong, self.wrong[0]
        for machine in self._cluster.running:
            assert machine.regime is not None
            left = set(keyspaces_held(machine.regime.replica.reader())) & self._dropped
            assert not left, f"{machine.node} still has rows of the dropped keyspaces {left}"
        for (number, key), value in self.acknowledged.items():
            if number in self._living:
                self._check_key(number, key, value)

    def _check_key(self, number: int, key: bytes, value: bytes) -> None:
        regime = self._cluster.running[0].regime
        assert regime is not None
        for node in regime.view.place(key, 3).owners:
            owner = self._cluster.machine(node).regime
            assert owner is not None
            found = owner.replica.read(number, key)
            held = found.siblings.versions if isinstance(found, Found) else ()
            values = [version.value for version in held]
            assert values == [value], f"{node} holds {values} of {key!r} in keyspace {number}"
