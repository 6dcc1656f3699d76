"""A replica counts the leaders that it came to know, itself included, each term once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from raftgroups.transport import NodeId

Make = Callable[..., Any]


def test_every_replica_counts_each_leader_once(make_cluster: Make) -> None:
    cluster = make_cluster(3)
    cluster.create()
    cluster.put(b"x")
    cluster.make_leader(NodeId("a"))
    cluster.converge()
    cluster.run(1.0)
    before = {node: cluster[node].group.status().leader_changes for node in cluster.ids}
    assert min(before.values()) >= 1
    cluster.run(5.0)
    cluster.put(b"y")
    cluster.converge()
    assert {n: cluster[n].group.status().leader_changes for n in cluster.ids} == before, "calm"
    cluster.make_leader(NodeId("b"))
    cluster.converge()
    cluster.run(1.0)
    after = {node: cluster[node].group.status().leader_changes for node in cluster.ids}
    assert after == {node: count + 1 for node, count in before.items()}
