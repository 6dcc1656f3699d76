"""Members come, leave, die and return: nothing is missed, nothing comes back. On virtual time."""

from __future__ import annotations

from typing import Any

import pytest

from chaos.sim.leaderless import LeaderlessCluster, LeaderlessMachine, _rows
from chaos.sim.leaderless_storm import get, held, values, wait
from kv.cluster.membership import Status
from kv.leaderless.assembly import Leaderless
from kv.leaderless.dvv import Context
from kv.leaderless.exchange import Report
from kv.leaderless.get_core import GetResult
from kv.leaderless.handoff import HandoffSettings
from kv.leaderless.keyspace import Wish
from kv.leaderless.maintenance import MaintenanceSettings
from kv.leaderless.put_core import Written
from kv.leaderless.reap import Canary
from kv.leaderless.reaper import ReapSettings
from kv.leaderless.replica import ReplicaLimits
from kv.leaderless.rules import Write
from storage.buckets import EMPTY_LEAF
from storage.hints import HintLimits

QUICK = MaintenanceSettings(repair_s=0.0, reap=ReapSettings(reap_s=1.0, rest_s=2.0))
KEYS = 60


def regime_of(machine: LeaderlessMachine) -> Leaderless:
    assert machine.regime is not None
    return machine.regime


def write(
    cluster: LeaderlessCluster,
    machine: LeaderlessMachine,
    key: bytes,
    value: bytes | None,
    context: Context | None = None,
    **wish: Any,
) -> list[Any]:
    answers: list[Any] = []
    change = Write(value, context)
    regime_of(machine).coordinator.put(1, key, change, answers.append, Wish(**wish))
    return answers


def fill(cluster: LeaderlessCluster, value: bytes = b"v") -> None:
    answers = [
        write(cluster, cluster.running[number % 2], b"k%d" % number, value)
        for number in range(KEYS)
    ]
    cluster.run(2.0)
    assert all(isinstance(answer[0], Written) for answer in answers)


def read_all(cluster: LeaderlessCluster, machine: LeaderlessMachine) -> list[list[bytes | None]]:
    found = []
    for number in range(KEYS):
        answer = get(cluster, machine, b"k%d" % number, Wish())
        assert isinstance(answer, GetResult), answer
        found.append(values(answer.siblings))
    return found


def holders(cluster: LeaderlessCluster, key: bytes) -> list[LeaderlessMachine]:
    place = regime_of(cluster.running[0]).view.place(key, 3)
    return [cluster.machine(node) for node in place.holders]


def everybody_has(cluster: LeaderlessCluster, value: bytes) -> None:
    for number in range(KEYS):
        key = b"k%d" % number
        for machine in holders(cluster, key):
            assert values(held(machine, key)) == [value], (machine.node, key)
        for machine in cluster.running:
            if machine not in holders(cluster, key):
                assert held(machine, key) is None, f"{machine.node} still has {key!r}"


# --- joining, leaving, dying -----------------------------------------------------------------


def test_a_node_joins_under_load_and_no_read_misses_a_key() -> None:
    cluster = LeaderlessCluster(1, 4, maintenance=QUICK)
    fill(cluster)
    joiner = cluster.join()
    writes: list[list[Any]] = []
    reads: list[list[Any]] = []
    for number in range(200):
        key = b"k%d" % (number % KEYS)
        writes.append(write(cluster, cluster.machines[number % 4], b"new%d" % number, b"n"))
        answers: list[Any] = []
        regime_of(cluster.machines[(number + 1) % 4]).coordinator.get(1, key, answers.append)
        reads.append(answers)
        cluster.run(0.05)
    cluster.run(5.0)
    assert all(isinstance(each[0], Written) for each in writes)
    assert all(values(each[0].siblings) == [b"v"] for each in reads)
    regime = regime_of(joiner)
    wait(cluster, lambda: regime.members.status is Status.NORMAL)
    cluster.run(5.0)
    assert read_all(cluster, joiner) == [[b"v"]] * KEYS
    everybody_has(cluster, b"v")
    for number in range(200):
        for machine in holders(cluster, b"new%d" % number):
            assert values(held(machine, b"new%d" % number)) == [b"n"]
    views = {regime_of(machine).view.epoch for machine in cluster.running}
    assert len(views) == 1
    gossip = regime.members.gossip
    assert gossip is not None
    assert 0 < gossip.convergence_s < 10


def test_while_a_node_joins_writes_go_to_old_and_new_owners() -> None:
    cluster = LeaderlessCluster(2, 4, maintenance=QUICK)
    cluster.run(2.0)
    # It is cut off from one node, so it cannot become normal, and stays where it is.
    joiner = cluster.join()
    cluster.partition([joiner], [cluster.machines[3]])
    cluster.run(12.0)
    regime = regime_of(joiner)
    assert regime.members.status is Status.JOINING
    arriving = 0
    for number in range(30):
        key = b"k%d" % number
        place = regime_of(cluster.machines[0]).view.place(key, 3)
        answers = write(cluster, cluster.machines[0], key, b"v")
        cluster.run(1.0)
        assert isinstance(answers[0], Written), answers
        if joiner.node in place.arrivals:
            arriving += 1
            assert values(held(joiner, key)) == [b"v"]
            if cluster.machines[3].node not in answers[0].replicas:
                assert len(answers[0].replicas) >= 3, "W of the old and W of the new owners"
    assert arriving > 5


def test_a_node_leaves_under_load_and_hands_everything_over() -> None:
    cluster = LeaderlessCluster(3, 5, maintenance=QUICK)
    fill(cluster)
    leaver = cluster.machines[4]
    regime_of(leaver).maintenance.leave()
    answers = []
    for number in range(100):
        answers.append(write(cluster, cluster.machines[number % 4], b"new%d" % number, b"n"))
        cluster.run(0.05)
    wait(cluster, lambda: leaver.gone and leaver.process is None)
    assert all(isinstance(each[0], Written) for each in answers)
    cluster.run(5.0)
    assert read_all(cluster, cluster.machines[0]) == [[b"v"]] * KEYS
    everybody_has(cluster, b"v")
    assert leaver.node not in regime_of(cluster.machines[0]).view.members


def test_a_dead_node_is_replaced_by_an_empty_one_and_may_not_return() -> None:
    cluster = LeaderlessCluster(4, 4, maintenance=QUICK)
    fill(cluster)
    dead = cluster.machines[3]
    dead.crash(power=True)
    fill(cluster, b"w")  # without context: siblings
    gossip = regime_of(cluster.machines[0]).members.gossip
    assert gossip is not None
    gossip.declare_dead(dead.node, "by hand")
    replacement = cluster.join()
    wait(cluster, lambda: regime_of(replacement).members.status is Status.NORMAL)
    cluster.run(5.0)
    assert read_all(cluster, replacement) == [[b"v", b"w"]] * KEYS
    for machine in cluster.running:
        assert regime_of(machine).replica.hint_usages() == {}, "its hints went to the owners"
    dead.start()
    cluster.run(5.0)
    assert dead.gone, "it is told that it is dead"
    assert dead.process is None


def test_after_a_death_new_owners_answer_no_read_before_they_have_the_data() -> None:
    cluster = LeaderlessCluster(5, 5, maintenance=QUICK, handoff=HandoffSettings(enabled=False))
    fill(cluster)
    dead = cluster.machines[4]
    dead.crash(power=True)
    cluster.run(1.0)
    gossip = regime_of(cluster.machines[0]).members.gossip
    assert gossip is not None
    gossip.declare_dead(dead.node, "by hand")
    for _ in range(3):
        # Each read at R=2 finds the value, filled or not.
        for number in range(KEYS):
            answers: list[Any] = []
            regime_of(cluster.machines[1]).coordinator.get(1, b"k%d" % number, answers.append)
            cluster.run(0.02)
            if answers and isinstance(answers[0], GetResult):
                assert values(answers[0].siblings) == [b"v"]
    wait(cluster, lambda: not any(regime_of(m).members.lacking for m in cluster.running))
    everybody_has(cluster, b"v")


def test_two_halves_of_a_partition_never_declare_each_other_dead() -> None:
    cluster = LeaderlessCluster(6, 4, maintenance=QUICK)
    for machine in cluster.machines:
        gossip = regime_of(machine).members.gossip
        assert gossip is not None
        gossip._settings = type(gossip._settings)(dead_after_s=5.0)
    cluster.partition(cluster.machines[:2], cluster.machines[2:])
    cluster.run(120.0)
    for machine in cluster.machines:
        assert not regime_of(machine).members.membership.deaths
    cluster.network.heal()
    cluster.partition(cluster.machines[:1], cluster.machines[1:])
    cluster.run(120.0)
    deaths = regime_of(cluster.machines[1]).members.membership.deaths
    assert list(deaths) == [cluster.machines[0].node], "three of four may, if that is configured"


# --- repair on demand ------------------------------------------------------------------------


def test_repair_on_demand_makes_equal_what_no_hint_brings_and_equal_nodes_compare_roots() -> None:
    cluster = LeaderlessCluster(
        7, 3, maintenance=QUICK, handoff=HandoffSettings(enabled=False),
        limits=ReplicaLimits(hints=HintLimits(count=1)),
    )  # fmt: skip
    away = cluster.machines[2]
    away.crash(power=False)
    cluster.run(1.0)
    fill(cluster)
    away.disk.sync_s = (0.0002, 0.001)
    cluster.network.meddler = lambda source, target, channel, frame: frame
    away.start()
    reports: list[Report] = []
    seen: list[Any] = []
    regime = regime_of(cluster.machines[0])
    assert regime.maintenance.repair(reports.append, progress=lambda *each: seen.append(each))
    wait(cluster, lambda: bool(reports))
    everybody_has(cluster, b"v")
    assert reports[0].broken_off == {}
    assert {peer for peer, _, _ in seen} == {m.node for m in cluster.machines[1:]}
    again: list[Report] = []
    regime.maintenance.repair(again.append)
    wait(cluster, lambda: bool(again))
    assert (again[0].exchanges, again[0].equal, again[0].compared) == (2, 2, 2)
    assert again[0].transferred_bytes == 0


def test_lost_hints_make_their_target_mend_itself() -> None:
    cluster = LeaderlessCluster(
        8, 3, maintenance=QUICK, limits=ReplicaLimits(hints=HintLimits(count=3))
    )
    away = cluster.machines[2]
    away.crash(power=False)
    cluster.run(1.0)
    fill(cluster)
    usage = regime_of(cluster.machines[0]).replica.hint_usages()[away.node]
    assert usage.overflowed > 0
    away.start()
    wait(
        cluster,
        lambda: (
            not any(
                each.overflowed
                for machine in cluster.running
                for each in regime_of(machine).replica.hint_usages().values()
            )
        ),
    )
    everybody_has(cluster, b"v")


# --- reaping ---------------------------------------------------------------------------------


def delete_all(cluster: LeaderlessCluster) -> None:
    for number in range(KEYS):
        key = b"k%d" % number
        record = held(holders(cluster, key)[0], key)
        assert record is not None
        write(cluster, cluster.running[0], key, None, Context(record.clock))
    cluster.run(1.0)


def rows_left(cluster: LeaderlessCluster) -> int:
    return sum(
        held(machine, b"k%d" % number) is not None
        for machine in cluster.running
        for number in range(KEYS)
    )


def test_deleted_keys_are_forgotten_by_all_owners() -> None:
    cluster = LeaderlessCluster(9, 5, maintenance=QUICK)
    fill(cluster)
    delete_all(cluster)
    assert rows_left(cluster) >= 3 * KEYS
    wait(cluster, lambda: rows_left(cluster) == 0)
    for machine in cluster.running:
        regime = regime_of(machine)
        assert regime.replica.alarms == {}
        assert regime.maintenance.roots[1].root(cluster.machines[0].node) == EMPTY_LEAF
    wait(cluster, lambda: all(regime_of(m).maintenance.reaper.held == 0 for m in cluster.running))
    fill(cluster, b"again")
    everybody_has(cluster, b"again")


def test_expired_keys_are_shed_and_forgotten() -> None:
    cluster = LeaderlessCluster(10, 3, maintenance=QUICK)
    regime = regime_of(cluster.machines[0])
    expiry_ms = regime.replica.now_ms() + 10_000
    for number in range(KEYS):
        change = Write(b"short", None, expiry_ms)
        regime.coordinator.put(1, b"k%d" % number, change, lambda answer: None)
    cluster.run(2.0)
    assert rows_left(cluster) == 3 * KEYS
    wait(cluster, lambda: rows_left(cluster) == 0)
    assert sum(regime_of(m).maintenance.reaper.shed for m in cluster.running) >= KEYS


def test_a_restored_directory_comes_back_empty_and_brings_no_deleted_key() -> None:
    cluster = LeaderlessCluster(12, 3, maintenance=QUICK)
    fill(cluster)
    restored = cluster.machines[2]
    copy = _rows(restored.engine)
    delete_all(cluster)
    wait(cluster, lambda: rows_left(cluster) == 0)
    restored.crash(power=False)
    restored.engine.write(copy, sync=True)
    restored.directory_incarnation += 1
    restored.start()
    wait(cluster, lambda: regime_of(restored).members.status is Status.NORMAL)
    wait(cluster, lambda: not regime_of(restored).members.lacking)
    assert rows_left(cluster) == 0
    assert regime_of(restored).emptied


def resurrects(canaries: frozenset[Canary]) -> bool:
    """A stand-in that is cut off holds an old value; the key is deleted, and it returns."""
    settings = ReapSettings(reap_s=1.0, rest_s=2.0, canaries=canaries)
    cluster = LeaderlessCluster(11, 5, maintenance=MaintenanceSettings(reap=settings))
    key = b"k0"
    owners = holders(cluster, key)
    stand_in = next(m for m in cluster.machines if m not in owners)
    others = [m for m in cluster.machines if m is not stand_in]
    cluster.partition([stand_in, owners[0]], [m for m in others if m is not owners[0]])
    cluster.run(8.0)
    first = write(cluster, owners[0], key, b"old")
    cluster.run(3.0)
    assert isinstance(first[0], Written)
    assert stand_in.node in first[0].stand_ins
    # Now only the stand-in is apart, with its hint; the owners delete what they have.
    cluster.network.heal()
    stand_in.crash(power=False)
    cluster.run(3.0)
    deleted = write(cluster, owners[0], key, None, first[0].context)
    cluster.run(60.0)
    assert isinstance(deleted[0], Written)
    if not canaries:
        assert held(owners[0], key) is not None, "nothing is forgotten while a member is away"
    stand_in.start()
    cluster.calm()
    answer = get(cluster, owners[0], key, Wish(nodes="ALL"))
    assert isinstance(answer, GetResult)
    return b"old" in values(answer.siblings)


def test_a_deleted_key_does_not_come_back_with_a_node_that_was_away() -> None:
    assert not resurrects(frozenset())


def test_reaping_without_asking_the_others_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Leaderless, "reachable", lambda self, node: True)
    assert resurrects(frozenset({Canary.NO_WAVES}))
