"""A storm over leaderless nodes: seeded clients and faults, a calm, and what must be true then.

Clients read, merge and write, or write blindly, at nodes that the dice choose, while nodes are cut
off, killed and started. After the calm (hints delivered, every key read once, which repairs):

- an acknowledged write is there, or was replaced by one whose author had read it and which itself
  is there or was so replaced;
- what an acknowledged write replaced is gone: nothing comes back;
- a write that was surely refused never appears;
- all owners of a key hold the same, and no replica has raised an alarm.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from chaos.sim.leaderless import LeaderlessCluster, LeaderlessMachine
from kv.leaderless.dvv import Context, context_of
from kv.leaderless.get_core import Found, GetResult
from kv.leaderless.keyspace import Keyspace, Wish
from kv.leaderless.parts import CoordinatorSettings
from kv.leaderless.put_core import Written
from kv.leaderless.rules import SetLimits, Write
from storage.errors import JanusError, Outcome
from storage.siblings import SiblingSet

ROOMY = Keyspace(limits=SetLimits(siblings=10_000))


def values(siblings: SiblingSet | None) -> list[bytes | None]:
    versions = () if siblings is None else siblings.versions
    return sorted((version.value for version in versions), key=repr)


def owners_of(cluster: LeaderlessCluster, key: bytes) -> list[LeaderlessMachine]:
    regime = cluster.running[0].regime
    assert regime is not None
    return [cluster.machine(node) for node in regime.view.place(key, 3).owners]


def held(machine: LeaderlessMachine, key: bytes) -> SiblingSet | None:
    """What is committed at this node."""
    assert machine.regime is not None
    found = machine.regime.replica.read(1, key)
    return found.siblings if isinstance(found, Found) else None


def get(
    cluster: LeaderlessCluster, machine: LeaderlessMachine, key: bytes, wish: Wish
) -> GetResult | JanusError:
    """One read, and the time that it may take."""
    answers: list[GetResult | JanusError] = []
    assert machine.regime is not None
    machine.regime.coordinator.get(1, key, answers.append, wish)
    assert not answers, "answered inside the call"
    cluster.run(6.0)
    (answer,) = answers
    return answer


@dataclass
class Attempt:
    """One write of the workload. `read`: what its author had read and replaces."""

    key: bytes
    value: bytes
    read: frozenset[bytes]
    acknowledged: bool = False


@dataclass
class Workload:
    """Clients that read, merge and write, or write blindly, at nodes drawn by the dice."""

    cluster: LeaderlessCluster
    keys: int = 6
    attempts: dict[bytes, Attempt] = field(default_factory=dict)

    def step(self) -> None:
        rng = self.cluster.rng
        machines = self.cluster.running
        if not machines:
            return
        machine = rng.choice(machines)
        assert machine.regime is not None
        key = b"key%d" % rng.randrange(self.keys)
        wish = Wish(nodes=rng.choice([1, 1, 2, None]))
        if rng.random() < 0.5:
            self._write(machine, key, wish, None, frozenset())
            return

        def read(answer: GetResult | JanusError) -> None:
            if isinstance(answer, JanusError) or machine.regime is None:
                return
            seen = frozenset(v.value for v in answer.siblings.versions if v.value is not None)
            self._write(machine, key, wish, context_of(answer.siblings), seen)

        machine.regime.coordinator.get(1, key, read, wish)

    def _write(
        self,
        machine: LeaderlessMachine,
        key: bytes,
        wish: Wish,
        context: Context | None,
        seen: frozenset[bytes],
    ) -> None:
        value = b"v%d" % len(self.attempts)
        attempt = self.attempts[value] = Attempt(key, value, seen)

        def done(answer: Written | JanusError) -> None:
            attempt.acknowledged = isinstance(answer, Written)
            if isinstance(answer, JanusError) and answer.outcome is Outcome.NONE:
                del self.attempts[value]
                self.attempts[value + b"-refused"] = attempt

        assert machine.regime is not None
        machine.regime.coordinator.put(1, key, Write(value, context), done, wish)

    def check(self) -> None:
        """After the calm."""
        for machine in self.cluster.running:
            assert machine.regime is not None
            assert not machine.regime.replica.alarms, f"{machine.node} raised an alarm"
        for number in range(self.keys):
            key = b"key%d" % number
            sets = [held(machine, key) for machine in owners_of(self.cluster, key)]
            assert sets[0] == sets[1] == sets[2], f"the owners of {key!r} differ"
            last = {value for value in values(sets[0]) if value is not None}
            self._check_key(key, last)

    def _check_key(self, key: bytes, last: set[bytes]) -> None:
        attempts = [each for each in self.attempts.values() if each.key == key]
        kept: dict[bytes, bool] = {}

        def lives_on(attempt: Attempt) -> bool:
            if attempt.value not in kept:
                kept[attempt.value] = attempt.value in last
                if not kept[attempt.value]:
                    followers = [each for each in attempts if attempt.value in each.read]
                    kept[attempt.value] = any(lives_on(each) for each in followers)
            return kept[attempt.value]

        for attempt in attempts:
            if attempt.acknowledged:
                assert lives_on(attempt), f"{attempt} was lost; {key!r} holds {sorted(last)}"
                for old in attempt.read:
                    assert old not in last, f"{old!r} is back, although {attempt} replaced it"
        assert all(value in self.attempts for value in last), "a refused write appeared"


def storm(seed: int, *, nodes: int = 5, seconds: float = 20.0) -> Workload:
    cluster = LeaderlessCluster(
        seed,
        nodes,
        keyspaces={1: ROOMY},
        settings=CoordinatorSettings(deadline_s=2.0, replica_timeout_s=0.5),
    )
    for machine in cluster.machines:
        machine.disk.sync_s = (0.001, 0.05)  # slow, so that power fails in the middle of writes
    workload = Workload(cluster)
    rng = cluster.rng
    until = cluster.world.now + seconds
    while cluster.world.now < until:
        if rng.random() < 0.1:
            cluster.fault()
        for _ in range(rng.randrange(3)):
            workload.step()
        cluster.run(rng.uniform(0.01, 0.2))
    cluster.calm()
    settle(cluster, workload.keys)
    return workload


def settle(cluster: LeaderlessCluster, keys: int) -> None:
    """Hints first, then a read of everything, then what the reads repair."""
    wait(
        cluster,
        lambda: all(not m.regime.replica.hint_usages() for m in cluster.running if m.regime),
    )
    for number in range(keys):
        key, wish = b"key%d" % number, Wish(nodes="ALL", strict=True)
        result = get(cluster, cluster.machines[0], key, wish)
        assert isinstance(result, GetResult), result
    cluster.run(2.0)


def wait(cluster: LeaderlessCluster, condition: Callable[[], bool]) -> None:
    for _ in range(60):
        if condition():
            return
        cluster.run(1.0)
    raise AssertionError("not within a virtual minute")
