"""What simulated nodes and their operator do with replicas that nobody needs any more."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from chaos.sim.disk import DiskSettings
from chaos.sim.network import NetworkSettings
from chaos.sim.settings import DrawnSettings, SimConfig
from chaos.sim.shard_node import ShardCluster, ShardNode
from raftgroups.config import HostConfig
from raftgroups.outcomes import ChangeResult, Done
from raftgroups.status import Role

pytestmark = pytest.mark.sim


@pytest.fixture
def cluster() -> ShardCluster:
    """Quiet; n4 is in no group yet."""
    disks = [DiskSettings(spike_p=0.0) for _ in range(4)]
    drawn = DrawnSettings(HostConfig(), NetworkSettings(), disks, 0, 1.0, 1, 1)
    config = SimConfig(seed=1, nodes=3, groups=1, faults=frozenset({"membership"}))
    made = ShardCluster(config, drawn)
    made.start()
    run(made, lambda: leader_takes_changes(made))
    return made


def run(cluster: ShardCluster, until: Callable[[], bool], seconds: float = 10.0) -> None:
    end = cluster.world.now + seconds
    while not until():
        assert cluster.world.now < end, "it did not happen in time"
        cluster.world.run(cluster.world.now + 0.05)


def leader_takes_changes(cluster: ShardCluster) -> bool:
    found = cluster.admin.leader(1)
    return found is not None and found[1].settled and not found[1].changing and found[1].formed


def change(cluster: ShardCluster, kind: str, node: ShardNode) -> None:
    run(cluster, lambda: leader_takes_changes(cluster))
    found = cluster.admin.leader(1)
    assert found is not None
    results: list[ChangeResult] = []
    getattr(found[1], kind)(node.node_id, results.append)
    run(cluster, lambda: bool(results))
    assert isinstance(results[0], Done), results


def holds(node: ShardNode) -> bool:
    return node.host is not None and 1 in node.host.groups


def test_who_was_away_when_it_was_removed_is_told_and_forgets(cluster: ShardCluster) -> None:
    """A learner neither votes nor stands, so it never asks (seeds 134 and 168 of the storms)."""
    node = cluster.shard_nodes[3]
    assert node.join(1)
    change(cluster, "add_learner", node)
    run(cluster, lambda: node.shard(1) is not None)
    node.crash(power=False)
    change(cluster, "remove", node)
    node.start()
    assert holds(node)
    run(cluster, lambda: not holds(node), 4.0)


def test_nobody_is_added_with_what_it_has_of_an_earlier_membership(cluster: ShardCluster) -> None:
    """Else the leader would send it entries that absorb what is not here any more."""
    node = cluster.shard_nodes[3]
    assert node.join(1)
    change(cluster, "add_learner", node)
    run(cluster, lambda: node.shard(1) is not None)
    node.crash(power=False)
    change(cluster, "remove", node)
    node.start()
    assert not node.join(1)
    cluster.admin.change(random.Random(1))
    found = cluster.admin.leader(1)
    assert found is not None
    assert found[1].status().learners == ()
    run(cluster, lambda: node.join(1))
    group = node.host.groups[1] if node.host is not None else None
    assert group is not None
    assert group.role is not Role.REMOVED
    change(cluster, "add_learner", node)
    run(cluster, lambda: node.shard(1) is not None)
