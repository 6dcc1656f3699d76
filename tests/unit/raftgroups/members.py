"""A group that is whole and at rest, and changes of its members."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from raftgroups.outcomes import Done
from raftgroups.transport import NodeId

Make = Callable[..., Any]
A, B, C, D = (NodeId(name) for name in "abcd")


def steady(make_cluster: Make, size: int = 3, **settings: Any) -> Any:
    cluster = make_cluster(size, **settings)
    cluster.create()
    cluster.put(b"x")
    if size > 1:
        cluster.make_leader(A)
    cluster.converge()
    cluster.run(0.3)
    cluster.network.log.clear()
    return cluster


def change(cluster: Any, verb: str, node: str, on: Any = None) -> list[object]:
    results: list[object] = []
    group = (on or cluster.lead()).group
    getattr(group, verb)(NodeId(node), results.append)
    return results


def changed(cluster: Any, verb: str, node: str) -> Done:
    results = change(cluster, verb, node)
    cluster.until(lambda: bool(results))
    assert isinstance(results[0], Done), results[0]
    return results[0]


def add_voter(cluster: Any, node: str) -> Any:
    made = cluster.start(NodeId(node))
    made.host.join(1)
    changed(cluster, "add_learner", node)
    changed(cluster, "promote", node)
    cluster.converge()
    return made
