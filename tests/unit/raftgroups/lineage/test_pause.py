"""A split's pause: both halves take writes long before the next heartbeat is due."""

from __future__ import annotations

from raftgroups.config import HostConfig
from tests.unit.raftgroups.lineage.conftest import ShardCluster


def test_nobody_waits_for_a_heartbeat(shards: ShardCluster) -> None:
    for key in (b"a", b"m", b"x"):
        shards.put(1, key)
    shards.settle(1)
    heartbeat_s = HostConfig().heartbeat_s
    shards.split(1, b"m", 2)
    began_s = shards.world.now
    shards.put(2, b"n")
    shards.put(1, b"b")
    paused_s = shards.world.now - began_s
    assert paused_s < heartbeat_s / 2, paused_s
