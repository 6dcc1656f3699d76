"""A partition with conflicting writes heals soon and cheaply, by hints and by repair alone."""

from __future__ import annotations

import pytest

from chaos.sim.healing import heal
from chaos.sim.leaderless import LeaderlessCluster
from chaos.sim.leaderless_storm import held, live, owners_of, values
from kv.leaderless.handoff import HandoffSettings
from kv.leaderless.keyspace import Wish
from kv.leaderless.maintenance import MaintenanceSettings
from kv.leaderless.reaper import ReapSettings
from kv.leaderless.rules import Write
from storage.buckets import bucket_of


@pytest.mark.parametrize(("hints", "limit_s"), [(True, 10.0), (False, 60.0)])
def test_conflicting_writes_meet_after_the_partition(hints: bool, limit_s: float) -> None:
    healing = heal(1, hints=hints, writes=120, partition_s=15.0)
    assert healing.acknowledged > 100
    assert healing.lacking_keys > 100
    assert healing.healed_s <= limit_s
    assert healing.factor < 3.0, healing


def test_a_copy_that_waits_for_its_hint_is_not_sent_again_with_each_look() -> None:
    maintenance = MaintenanceSettings(repair_s=0.0, reap=ReapSettings(enabled=False))
    cluster = LeaderlessCluster(
        2, 5, handoff=HandoffSettings(enabled=False), maintenance=maintenance
    )
    cluster.run(3.0)
    minority = cluster.machines[4:]
    cluster.partition(cluster.machines[:4], minority)
    cluster.run(3.0)
    (alone,) = minority
    for number in range(40):
        key = b"k%d" % number
        for machine in (alone, cluster.machines[0]):
            live(machine).coordinator.put(1, key, Write(b"v" * 1000), lambda _: None, Wish(nodes=1))
    cluster.run(3.0)
    view = live(alone).view
    strange = [n for n in range(40) if alone.node not in view.holders(bucket_of(b"k%d" % n), 3)]
    assert len(strange) > 5
    cluster.network.heal()
    cluster.run(10.0)
    for number in strange:  # not by its hints, which nobody replays here
        for owner in owners_of(cluster, b"k%d" % number):
            assert len(values(held(owner, b"k%d" % number))) == 2
    before = cluster.network.sent_bytes["replica"]
    cluster.run(10.0)
    assert cluster.network.sent_bytes["replica"] - before < 20_000
    assert live(alone).maintenance.house.foreign >= len(strange)
