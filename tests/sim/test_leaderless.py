"""The leaderless regime under partitions, crashes and power cuts, on virtual time.

What must hold, whatever happens: an acknowledged write is there after the calm, or was replaced by
a write whose author had read it; concurrent writes stay siblings; after the calm, hints and read
repair make all owners of a key equal.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest

from chaos.sim.leaderless import LeaderlessCluster, LeaderlessMachine
from kv.errors import OutcomeUnknownError
from kv.leaderless import replica as replica_module
from kv.leaderless.dvv import Context, context_of
from kv.leaderless.get_core import Found, GetResult, Nothing
from kv.leaderless.handoff import HandoffSettings
from kv.leaderless.keyspace import Keyspace, Wish
from kv.leaderless.parts import CoordinatorSettings
from kv.leaderless.quorum import Level, LevelError, UnavailableError, WriteQuorumError
from kv.leaderless.replica import Replica, ReplicaLimits
from kv.leaderless.rules import Increment, Rule, SetLimits, Write
from kv.leaderless.writing import Written
from storage.engine import Batch
from storage.errors import JanusError, KeyTooLongError, Outcome
from storage.hints import HintLimits
from storage.siblings import SiblingSet
from storage.versions import StorageCanary, Turn

ROOMY = Keyspace(limits=SetLimits(siblings=10_000))


def put(
    cluster: LeaderlessCluster,
    machine: LeaderlessMachine,
    key: bytes,
    value: bytes | None,
    context: Context | None = None,
    **wish: Any,
) -> Written | JanusError:
    answers: list[Written | JanusError] = []
    assert machine.regime is not None
    machine.regime.coordinator.put(1, key, Write(value, context), answers.append, Wish(**wish))
    assert answers == [], "answered inside the call"
    cluster.run(6.0)
    (answer,) = answers
    return answer


def get(
    cluster: LeaderlessCluster, machine: LeaderlessMachine, key: bytes, **wish: Any
) -> GetResult | JanusError:
    answers: list[GetResult | JanusError] = []
    assert machine.regime is not None
    machine.regime.coordinator.get(1, key, answers.append, Wish(**wish))
    assert answers == []
    cluster.run(6.0)
    (answer,) = answers
    return answer


def values(siblings: SiblingSet) -> list[bytes | None]:
    return sorted((version.value for version in siblings.versions), key=repr)


def owners_of(cluster: LeaderlessCluster, key: bytes) -> list[LeaderlessMachine]:
    regime = cluster.running[0].regime
    assert regime is not None
    return [cluster.machine(node) for node in regime.view.place(key, 3).owners]


def held(machine: LeaderlessMachine, key: bytes) -> SiblingSet | None:
    assert machine.regime is not None
    found = machine.regime.replica.read(1, key)
    assert isinstance(found, Found | Nothing)
    return found.siblings if isinstance(found, Found) else None


# --- directed --------------------------------------------------------------------------------


def test_every_node_takes_every_key_and_names_who_has_it() -> None:
    cluster = LeaderlessCluster(1, 5)
    for number, machine in enumerate(cluster.machines):
        written = put(cluster, machine, b"k", b"%d" % number, nodes="ALL")
        assert isinstance(written, Written)
        assert sorted(written.replicas) == sorted(m.node for m in owners_of(cluster, b"k"))
        assert (written.stand_ins, written.level) == ((), Level.ALL)
    result = get(cluster, cluster.machines[0], b"k", nodes="ALL")
    assert isinstance(result, GetResult)
    assert values(result.siblings) == [b"0", b"1", b"2", b"3", b"4"]
    seen = context_of(result.siblings)
    assert isinstance(put(cluster, cluster.machines[4], b"k", b"merged", seen), Written)
    result = get(cluster, cluster.machines[1], b"k")
    assert isinstance(result, GetResult)
    assert values(result.siblings) == [b"merged"]
    assert len(result.replicas) >= 2


def test_a_writers_context_replaces_his_own_write_and_no_sibling_he_never_saw() -> None:
    cluster = LeaderlessCluster(2, 3)
    first, other = cluster.machines[:2]
    put(cluster, other, b"k", b"unseen")
    mine = put(cluster, first, b"k", b"mine")
    assert isinstance(mine, Written)
    put(cluster, first, b"k", b"mine again", mine.context)
    cluster.run(1.0)
    for machine in cluster.machines:
        assert values(held(machine, b"k")) == [b"mine again", b"unseen"]


def test_a_lone_node_takes_writes_of_keys_it_does_not_own_and_hands_them_over() -> None:
    cluster = LeaderlessCluster(3, 5)
    key = b"k"
    lone = next(m for m in cluster.machines if m not in owners_of(cluster, key))
    cluster.partition([lone], [m for m in cluster.machines if m is not lone])
    cluster.run(10.0)
    written = put(cluster, lone, key, b"alone", nodes=1)
    assert isinstance(written, Written)
    assert written.replicas == written.stand_ins == (lone.node,)
    refused = put(cluster, lone, key, b"no", nodes=2)
    assert isinstance(refused, UnavailableError)
    assert refused.outcome is Outcome.NONE
    assert isinstance(put(cluster, lone, key, b"no", nodes=1, owners=1), UnavailableError)
    assert isinstance(put(cluster, lone, key, b"no", nodes=1, strict=True), UnavailableError)
    found = get(cluster, lone, key, nodes=1)
    assert isinstance(found, GetResult)
    assert values(found.siblings) == [b"alone"]
    cluster.calm()
    for machine in owners_of(cluster, key):
        assert values(held(machine, key)) == [b"alone"]
    assert held(lone, key) is None, "a stand-in gives up its copy with its last hint"
    assert lone.regime is not None
    assert lone.regime.replica.hint_usages() == {}


def test_both_sides_of_a_partition_take_writes_and_the_siblings_meet() -> None:
    cluster = LeaderlessCluster(4, 5)
    left, right = cluster.machines[:2], cluster.machines[2:]
    cluster.partition(left, right)
    cluster.run(10.0)
    for number in range(20):
        for name, side in ((b"l", left), (b"r", right)):
            written = put(cluster, side[0], b"k%d" % number, name)
            assert isinstance(written, Written), written
            assert len(written.replicas) >= 2
    cluster.calm()
    for number in range(20):
        key = b"k%d" % number
        sets = [held(machine, key) for machine in owners_of(cluster, key)]
        assert sets[0] == sets[1] == sets[2]
        assert values(sets[0]) == [b"l", b"r"]


def test_a_down_owner_gets_what_it_missed_by_hints_alone() -> None:
    cluster = LeaderlessCluster(5, 3)
    down = cluster.machines[2]
    down.crash(power=True)
    cluster.run(1.0)
    for number in range(300):
        assert cluster.machines[0].regime is not None
        cluster.machines[0].regime.coordinator.put(
            1, b"k%d" % number, Write(b"v"), lambda answer: None
        )
    cluster.run(5.0)
    down.start()
    cluster.run(5.0)
    for number in range(300):
        assert values(held(down, b"k%d" % number)) == [b"v"]
    assert sum(m.regime.handoff.replayed for m in cluster.machines if m.regime) >= 300


def test_without_hints_a_read_repairs_the_replica_that_lacks_the_write() -> None:
    cluster = LeaderlessCluster(6, 3, handoff=HandoffSettings(enabled=False))
    down = cluster.machines[2]
    down.crash(power=False)
    cluster.run(1.0)
    put(cluster, cluster.machines[0], b"k", b"v")
    down.start()
    cluster.run(2.0)
    assert held(down, b"k") is None
    result = get(cluster, cluster.machines[0], b"k", nodes="ALL")
    assert isinstance(result, GetResult)
    assert values(held(down, b"k")) == [b"v"]


def test_an_owner_that_is_connected_and_silent_is_stood_in_for() -> None:
    cluster = LeaderlessCluster(7, 5)
    owners = owners_of(cluster, b"k")
    assert owners[1].process is not None
    for silent in owners[1:]:
        assert silent.process is not None
        silent.process.freeze(cluster.world.now + 5.0)
    answers: list[Any] = []
    assert owners[0].regime is not None
    started = cluster.world.now
    times: list[float] = []

    def done(answer: Any) -> None:
        answers.append(answer)
        times.append(cluster.world.now - started)

    owners[0].regime.coordinator.put(1, b"k", Write(b"v"), done)
    cluster.run(4.0)
    (written,) = answers
    assert isinstance(written, Written)
    assert len(written.replicas) == 2
    assert len(written.stand_ins) == 1
    assert times[0] < 2.0
    cluster.calm()
    for owner in owners:
        assert values(held(owner, b"k")) == [b"v"]


def test_too_few_copies_is_unknown_and_names_got_and_required() -> None:
    cluster = LeaderlessCluster(8, 3)
    for silent in cluster.machines[1:]:
        assert silent.process is not None
        silent.process.freeze(cluster.world.now + 30.0)
    answer = put(cluster, cluster.machines[0], b"k", b"v", nodes=2)
    assert isinstance(answer, WriteQuorumError)
    assert (answer.got, answer.required, answer.outcome) == (1, 2, Outcome.UNKNOWN)
    cluster.world.wake(cluster.machines[1].process)  # type: ignore[arg-type]
    cluster.world.wake(cluster.machines[2].process)  # type: ignore[arg-type]
    cluster.calm()
    assert values(held(cluster.machines[1], b"k")) == [b"v"], "it may still appear, and does"


def test_a_forwarded_write_that_is_not_answered_is_unknown() -> None:
    cluster = LeaderlessCluster(9, 5)
    stranger = next(m for m in cluster.machines if m not in owners_of(cluster, b"k"))
    for owner in owners_of(cluster, b"k"):
        assert owner.process is not None
        owner.process.freeze(cluster.world.now + 30.0)
    answer = put(cluster, stranger, b"k", b"v", deadline_s=0.5)
    assert isinstance(answer, OutcomeUnknownError)


def test_what_cannot_be_asked_for_is_refused_before_anything_is_sent() -> None:
    cluster = LeaderlessCluster(10, 5)
    machine = cluster.machines[0]
    assert isinstance(put(cluster, machine, b"k", b"v", nodes=4), LevelError)
    assert isinstance(put(cluster, machine, b"k", b"v", nodes="MOST"), LevelError)
    assert isinstance(get(cluster, machine, b"k", owners=9), LevelError)
    assert isinstance(put(cluster, machine, b"k" * 433, b"v"), KeyTooLongError)
    result = get(cluster, machine, b"k")
    assert isinstance(result, GetResult)
    assert result.siblings == SiblingSet()


def test_refusals_of_the_rules_come_back_from_the_node_that_mints() -> None:
    cluster = LeaderlessCluster(11, 5, keyspaces={1: Keyspace(limits=SetLimits(siblings=2))})
    stranger = next(m for m in cluster.machines if m not in owners_of(cluster, b"k"))
    for _ in range(2):
        assert isinstance(put(cluster, stranger, b"k", b"v", nodes="ALL"), Written)
    refused = put(cluster, stranger, b"k", b"v")
    assert isinstance(refused, JanusError)
    assert (refused.code, refused.outcome) == ("too_many_siblings", Outcome.NONE)


def test_increments_at_all_nodes_add_up() -> None:
    cluster = LeaderlessCluster(12, 3, keyspaces={1: Keyspace(rule=Rule.COUNTER)})
    cluster.partition(cluster.machines[:1], cluster.machines[1:])
    cluster.run(10.0)
    answers: list[Any] = []
    for machine in cluster.machines:
        assert machine.regime is not None
        for _ in range(10):
            machine.regime.coordinator.put(1, b"k", Increment(1), answers.append, Wish(nodes=1))
    cluster.run(6.0)
    assert all(isinstance(answer, Written) for answer in answers)
    cluster.calm()
    total = sum(int(v.value or b"0") for v in held(cluster.machines[0], b"k").versions)
    assert total == 30


def test_a_node_with_another_ring_is_refused_unread() -> None:
    cluster = LeaderlessCluster(13, 3)
    odd = cluster.machines[0]
    assert odd.regime is not None
    odd.regime.set_members([*odd.members, "n9"])  # type: ignore[list-item]
    answer = put(cluster, odd, b"k", b"v", nodes=2, strict=True)
    assert isinstance(answer, JanusError)
    for machine in cluster.machines[1:]:
        assert held(machine, b"k") is None
        assert machine.regime is not None
        assert machine.regime.messenger.foreign_rings > 0
    odd.regime.set_members(odd.members)
    odd.regime.view = cluster.machines[1].regime.view  # type: ignore[union-attr]


def test_hints_are_bounded_and_the_write_goes_on() -> None:
    cluster = LeaderlessCluster(14, 3, limits=ReplicaLimits(hints=HintLimits(count=5)))
    cluster.machines[2].crash(power=False)
    cluster.run(1.0)
    for number in range(10):
        written = put(cluster, cluster.machines[0], b"k%d" % number, b"v")
        assert isinstance(written, Written)
        assert len(written.replicas) == 2
    usages = [m.regime.replica.hint_usages().get("n2") for m in cluster.machines[:2] if m.regime]
    assert sum(usage.count for usage in usages if usage) <= 10
    assert all(usage.count <= 5 for usage in usages if usage)


# --- seeded ----------------------------------------------------------------------------------


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
            last = set(values(sets[0])) if sets[0] is not None else set()
            self._check_key(key, {value for value in last if value is not None})

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
        result = get(cluster, cluster.machines[0], b"key%d" % number, nodes="ALL", strict=True)
        assert isinstance(result, GetResult), result
    cluster.run(2.0)


def wait(cluster: LeaderlessCluster, condition: Callable[[], bool]) -> None:
    for _ in range(60):
        if condition():
            return
        cluster.run(1.0)
    raise AssertionError("not within a virtual minute")


@pytest.mark.parametrize("seed", range(12))
def test_no_acknowledged_write_is_lost_and_the_owners_become_equal(seed: int) -> None:
    workload = storm(seed)
    workload.check()
    assert sum(attempt.acknowledged for attempt in workload.attempts.values()) > 20


@pytest.mark.slow
def test_many_storms(rounds: int) -> None:
    for seed in range(100, 100 + 25 * rounds):
        storm(seed, nodes=3 + seed % 3).check()


def test_the_same_seed_is_the_same_run() -> None:
    first, second = storm(3, seconds=5.0), storm(3, seconds=5.0)
    assert first.cluster.world.trace_hash() == second.cluster.world.trace_hash()


# --- canaries --------------------------------------------------------------------------------


def assert_caught(seeds: range) -> None:
    for seed in seeds:
        try:
            storm(seed).check()
        except AssertionError:
            return
    raise AssertionError(f"no storm of {seeds} noticed")


def test_a_stand_in_that_keeps_no_hint_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replica_module, "_hinted", lambda *_: True)
    assert_caught(range(12))


def test_an_epoch_counter_that_is_not_kept_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = frozenset({StorageCanary.EPOCH_NOT_KEPT})
    monkeypatch.setattr(replica_module, "Turn", partial(Turn, canaries=broken))
    assert_caught(range(12))


def test_answers_before_the_sync_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    prepare = Replica.prepare

    def hasty(replica: Replica, batch: Batch) -> None:
        prepare(replica, batch)
        answers, replica._answers = replica._answers, []
        for change, answer in answers:
            change.finish(answer)

    monkeypatch.setattr(Replica, "prepare", hasty)
    assert_caught(range(12))
