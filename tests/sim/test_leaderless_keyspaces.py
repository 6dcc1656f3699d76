"""Keyspaces that are made and dropped while the ring turns: who may answer for what of them."""

from __future__ import annotations

import gc
import warnings
from typing import Any

from chaos.sim.leaderless import LeaderlessCluster, LeaderlessMachine
from chaos.sim.leaderless_storm import live, values, wait
from kv.cluster.membership import Status
from kv.errors import KeyspaceNotFoundError
from kv.leaderless.founding import seats_of_ring
from kv.leaderless.get_core import Found, GetResult, ReadQuorumError
from kv.leaderless.keyspace import Keyspace, Wish
from kv.leaderless.maintenance import MaintenanceSettings
from kv.leaderless.put_core import Written
from kv.leaderless.rules import Write
from raftgroups.meta.records import RingSeat
from storage.objects import keyspaces_held

NEW = Keyspace(number=7, name="carts")
KEYS = 40
QUICK = MaintenanceSettings(repair_s=0.0)


def make(count: int) -> tuple[LeaderlessCluster, tuple[RingSeat, ...]]:
    cluster = LeaderlessCluster(1, count, maintenance=QUICK)
    return cluster, seats_of_ring(live(cluster.machines[0]).members.membership.serving())


def put(cluster: LeaderlessCluster, machine: LeaderlessMachine, key: bytes, **wish: Any) -> Any:
    answers: list[Any] = []
    live(machine).coordinator.put(NEW.number, key, Write(b"v"), answers.append, Wish(**wish))
    wait(cluster, lambda: bool(answers), 10)
    return answers[0]


def get(cluster: LeaderlessCluster, machine: LeaderlessMachine, key: bytes, **wish: Any) -> Any:
    answers: list[Any] = []
    live(machine).coordinator.get(NEW.number, key, answers.append, Wish(**wish))
    wait(cluster, lambda: bool(answers), 10)
    return answers[0]


def fill(cluster: LeaderlessCluster, machine: LeaderlessMachine) -> None:
    for number in range(KEYS):
        assert isinstance(put(cluster, machine, b"k%d" % number), Written)


def missed(cluster: LeaderlessCluster, machine: LeaderlessMachine, **wish: Any) -> list[bytes]:
    """Keys that a read says are not there."""
    found = []
    for number in range(KEYS):
        answer = get(cluster, machine, b"k%d" % number, **wish)
        if isinstance(answer, GetResult) and values(answer.siblings) != [b"v"]:
            found.append(b"k%d" % number)
    return found


def test_a_node_that_has_not_heard_of_it_costs_a_copy_and_no_write() -> None:
    cluster, seats = make(4)
    for machine in cluster.machines[:3]:
        machine.hear_of(NEW, seats)
    fill(cluster, cluster.machines[0])
    answer = put(cluster, cluster.machines[3], b"k")
    assert isinstance(answer, KeyspaceNotFoundError)
    assert missed(cluster, cluster.machines[1]) == []
    cluster.machines[3].hear_of(NEW, seats)
    wait(cluster, lambda: not any(live(m).replica.hint_usages() for m in cluster.machines))
    assert missed(cluster, cluster.machines[3], nodes="ALL", strict=True) == []


def test_a_founder_that_was_away_answers_when_it_is_back_though_another_is_gone() -> None:
    """It has missed nothing but what it never acknowledged, so its "nothing" counts."""
    cluster, seats = make(3)
    cluster.machines[2].crash(power=False)
    for machine in cluster.machines[:2]:
        machine.hear_of(NEW, seats)
    fill(cluster, cluster.machines[0])
    cluster.machines[2].made[NEW.number] = NEW, seats  # its map came before its ring
    cluster.machines[0].crash(power=False)
    cluster.machines[2].start()
    cluster.run(3.0)
    assert isinstance(put(cluster, cluster.machines[2], b"more"), Written)
    assert not live(cluster.machines[2]).members.lacking
    answers = [get(cluster, cluster.machines[2], b"k%d" % number) for number in range(KEYS)]
    assert all(values(answer.siblings) == [b"v"] for answer in answers)


def test_a_node_that_joined_later_is_filled_before_it_answers() -> None:
    cluster, seats = make(3)
    for machine in cluster.machines:
        machine.hear_of(NEW, seats)
    fill(cluster, cluster.machines[0])
    joiner = cluster.join()
    joiner.hear_of(NEW, seats)
    assert live(joiner).members.fillings[NEW.number].has == ()
    wait(cluster, lambda: live(joiner).members.status is Status.NORMAL)
    assert not live(joiner).members.lacking
    assert not live(joiner).members.forgetful
    assert missed(cluster, joiner, nodes=2) == []


def test_nobody_joins_while_a_member_knows_a_keyspace_that_the_others_do_not() -> None:
    """Else it would own what it has not got, and say that there is nothing."""
    cluster, seats = make(3)
    for machine in cluster.machines:
        machine.hear_of(NEW, seats)
    fill(cluster, cluster.machines[0])
    joiner = cluster.join()  # it has not heard of the keyspace
    cluster.run(20.0)
    assert live(joiner).members.status is Status.JOINING
    joiner.hear_of(NEW, seats)
    wait(cluster, lambda: live(joiner).members.status is Status.NORMAL)
    assert missed(cluster, joiner) == []


def test_what_a_death_brought_is_not_answered_for_by_who_hears_of_the_keyspace_late() -> None:
    cluster, seats = make(4)
    late, dead = cluster.machines[3], cluster.machines[0]
    for machine in cluster.machines[:3]:
        machine.hear_of(NEW, seats)
    fill(cluster, cluster.machines[1])
    dead.crash(power=True)
    dead.gone = True
    gossip = live(cluster.machines[1]).members.gossip
    assert gossip is not None
    gossip.declare_dead(dead.node, "lost")
    cluster.run(1.0)
    cluster.network.block(late.node, cluster.machines[1].node)
    cluster.network.block(late.node, cluster.machines[2].node)
    late.hear_of(NEW, seats)
    filling = live(late).members.fillings[NEW.number]
    assert filling.lacking, "it came to own ranges after the keyspace was made"
    assert filling.has, "it owned others already then"
    cluster.network.heal()
    wait(cluster, lambda: not live(late).members.lacking)
    assert missed(cluster, late) == []


def test_what_a_node_has_of_it_outlives_a_restart_and_not_its_disk() -> None:
    cluster, seats = make(3)
    for machine in cluster.machines:
        machine.hear_of(NEW, seats)
    fill(cluster, cluster.machines[0])
    again = cluster.machines[2]
    again.crash(power=True)
    again.start()
    cluster.run(1.0)
    assert not live(again).members.lacking
    again.lose_disk()
    cluster.run(0.5)
    assert live(again).members.forgetful
    answer = get(cluster, again, b"k1", nodes=1, strict=True)
    assert isinstance(answer, ReadQuorumError | GetResult)
    wait(cluster, lambda: not live(again).members.lacking)
    wait(cluster, lambda: not live(again).members.forgetful)
    assert missed(cluster, again, nodes=1) == []


def test_a_dropped_keyspace_is_erased_with_its_hints_and_comes_back_with_nobody() -> None:
    cluster, seats = make(4)
    for machine in cluster.machines:
        machine.hear_of(NEW, seats)
    cluster.run(0.5)
    away = cluster.machines[3]
    away.crash(power=False)
    cluster.run(1.0)
    fill(cluster, cluster.machines[0])
    others = cluster.machines[:3]
    assert any(live(machine).replica.hint_usages() for machine in others)
    answers: list[Any] = []
    live(others[0]).coordinator.put(NEW.number, b"late", Write(b"v"), answers.append, Wish())
    for machine in others:
        machine.hear_of_drop(NEW.number)
    cluster.run(3.0)
    for machine in others:
        assert keyspaces_held(live(machine).replica.reader()) == []
    del away.made[NEW.number]
    away.start()
    live(away).drop_keyspace(NEW.number)  # its map says so: the number was given, and is gone
    wait(cluster, lambda: not any(live(m).replica.hint_usages() for m in cluster.machines))
    for machine in cluster.machines:
        assert keyspaces_held(live(machine).replica.reader()) == []
        assert not isinstance(live(machine).replica.read(NEW.number, b"k1"), Found)
    assert isinstance(put(cluster, others[1], b"k1"), KeyspaceNotFoundError)


def test_a_run_that_ends_in_the_middle_leaves_no_work_that_was_never_begun() -> None:
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        cluster, seats = make(3)
        for machine in cluster.machines:
            machine.hear_of(NEW, seats)
        cluster.machines[0].crash(power=False)
        del cluster, machine
        gc.collect()
    assert [str(each.message) for each in warned] == []
