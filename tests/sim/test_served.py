"""Leases and merged watches on nodes that serve, under all faults; the whole is
`januskv sim --faults all,splits,merges,moves,bank,leases`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from chaos.sim.bank import Bank, Drive
from chaos.sim.faults import MENU
from chaos.sim.map_node import draw_with_map
from chaos.sim.play import play_seed
from chaos.sim.served_node import ServedCluster, ServedNode
from chaos.sim.settings import SimConfig
from kv.strong.crossing import Steps
from raftgroups.commands import Command, LeaseGrant, Put
from storage.errors import JanusError


def test_leases_end_everywhere_and_a_watch_tells_everything_once() -> None:
    faults = frozenset(MENU) | {"splits", "merges", "moves", "leases"}
    result = play_seed(SimConfig(seed=9, seconds=22.0, faults=faults))
    assert result.ok, [str(each) for each in (*result.violations, *result.stuck)]
    assert result.changes["splits"] + result.changes["merges"]
    assert result.changes["connection of the watch"] > 1
    assert sum(count for name, count in result.results.items() if name.startswith("lease ")) > 3


OLD_S = 30.0
"""So much older is the world than the clocks of the shards."""
TTL_S = 9
KEY, LEASE = b"b7-kept", 5


@pytest.fixture
def old_world() -> ServedCluster:
    config = SimConfig(seed=3, groups=1)
    cluster = ServedCluster(config, draw_with_map(config))
    cluster.world.run(OLD_S)
    cluster.start()
    cluster.begin()
    return cluster


def wait(cluster: ServedCluster, until: Callable[[], Any]) -> None:
    world = cluster.world
    over = world.now + 20.0
    while not until():
        assert world.now < over, list(world.recent)[-5:]
        world.run(world.now + 0.05)


def leader(cluster: ServedCluster) -> ServedNode | None:
    """Of the shard, with its duties begun and the map known."""
    for node in cluster.serving:
        if not node.view.version:
            continue
        for shard in node.strong.values():
            if shard.group.leads and shard.duties.leading:
                return node
    return None


def written(cluster: ServedCluster, command: Command) -> Any:
    answers: list[Any] = []
    wait(cluster, lambda: leader(cluster))
    node = leader(cluster)
    assert node is not None
    assert node.keyspace is not None
    cluster.world.after(0.0, node.keyspace.write, command, answers.append, owner=node.process)
    wait(cluster, lambda: answers)
    return answers[0]


def asked_by_a_teller(command: Command) -> Steps[Any]:
    answers = yield [command]
    return answers[0]


def test_what_a_teller_of_the_bank_proposes_moves_no_clock_of_a_shard(
    old_world: ServedCluster,
) -> None:
    """Stamped with the time of the world it would end leases long before their time."""
    cluster = old_world
    for command in (LeaseGrant(LEASE, TTL_S), Put(KEY, b"v", lease=LEASE)):
        assert not isinstance(written(cluster, command), JanusError)
    granted_s = cluster.world.now
    answers: list[Any] = []
    steps = asked_by_a_teller(Put(b"y9", b"of the bank"))
    Drive(Bank(cluster), cluster.keyspaces[0], steps, granted_s + 5.0, answers.append)
    wait(cluster, lambda: answers)
    assert not isinstance(answers[0], JanusError)
    cluster.world.run(granted_s + 0.5 * TTL_S)
    assert not cluster.observer.violations
    replicas = [shard.machine for node in cluster.serving for shard in node.strong.values()]
    assert [list(each.leases.ids()) for each in replicas] == [[LEASE]] * cluster.config.nodes
    assert all(each.view.get(KEY) is not None for each in replicas)
    cluster.world.run(granted_s + 2 * TTL_S)
    assert not any(each.view.get(KEY) for each in replicas), "and they do end"
