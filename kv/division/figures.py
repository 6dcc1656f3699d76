"""Reports of all nodes -> how each shard stands and what it carries. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from kv.division.cuts import before_queue, middle_of
from kv.division.messages import Hot, ReplicaReport, Report, Standing
from raftgroups.membership import Config
from raftgroups.merging import Seen
from raftgroups.transport import NodeId
from storage.errors import KeyRange
from storage.mvcc_state import ShardState


@dataclass(frozen=True, slots=True)
class Figures:
    """What one shard carries. `leader` None: nobody was heard that leads it, and nothing else here
    means anything."""

    shard: int
    leader: NodeId | None = None
    keys: int = 0
    size_bytes: int = 0
    operations_a_second: float = 0.0
    middle: bytes = b""
    load_middle: bytes = b""
    """A cut there leaves each half its part of the load; empty if there is no such key."""
    hot: tuple[Hot, ...] = ()


@dataclass(slots=True)
class Told:
    """The newest report of one node."""

    at_s: float
    """When it was asked for."""
    report: Report


@dataclass(frozen=True, slots=True)
class Shown:
    """`standings`: as leaders show their shards; `durable`: node -> (incarnation, index) of every
    replica that was reported."""

    leaders: Mapping[int, NodeId] = field(default_factory=dict)
    standings: Mapping[int, Standing] = field(default_factory=dict)
    durable: Mapping[int, Mapping[NodeId, tuple[int, int]]] = field(default_factory=dict)


def shown(reports: Mapping[NodeId, Report]) -> Shown:
    """Of two that say that they lead, the one of the higher term."""
    leaders: dict[int, tuple[int, NodeId, Standing]] = {}
    durable: dict[int, dict[NodeId, tuple[int, int]]] = {}
    for node, report in sorted(reports.items()):
        for each in report.replicas:
            told = (report.incarnation, each.durable_applied)
            durable.setdefault(each.group, {})[node] = told
            known = leaders.get(each.group)
            if each.standing is not None and (known is None or known[0] < each.term):
                leaders[each.group] = (each.term, node, each.standing)
    return Shown(
        {group: node for group, (_, node, _) in leaders.items()},
        {group: standing for group, (_, _, standing) in leaders.items()},
        durable,
    )


def seen_of(shard: int, standing: Standing | None) -> Seen | None:
    """As raftgroups/merging.py takes it."""
    if standing is None:
        return None
    state = ShardState(
        shard,
        standing.keyspace,
        0,
        epoch=standing.epoch,
        frozen_by=standing.frozen_by,
        frozen_merge=standing.frozen_merge,
        merging_with=standing.merging_with,
        merge=standing.merge,
        absorbed=standing.absorbed,
    )
    place = KeyRange(standing.start, standing.end, standing.epoch, bool(standing.frozen_by))
    config = Config(
        {NodeId(node): incarnation for node, incarnation in standing.voters},
        {NodeId(node): incarnation for node, incarnation in standing.learners},
    )
    return Seen(state, place, config, standing.settled_config, standing.applied_index)


def durable_of(shown: Shown, shard: int) -> dict[NodeId, int]:
    """Only of replicas on the disks that are members: one that was lost has nothing."""
    standing = shown.standings.get(shard)
    if standing is None:
        return {}
    members = dict((*standing.voters, *standing.learners))
    return {
        node: index
        for node, (incarnation, index) in shown.durable.get(shard, {}).items()
        if members.get(node) == incarnation
    }


def same_members(left: Standing, right: Standing) -> bool:
    """Settled, and on the same disks."""
    return (
        left.settled_config
        and right.settled_config
        and dict((*left.voters, *left.learners)) == dict((*right.voters, *right.learners))
    )


def figures(reports: Mapping[NodeId, Report]) -> dict[int, Figures]:
    """Loads are those of all nodes together, sizes their leaders'."""
    leaders = shown(reports).leaders
    told: dict[int, list[tuple[NodeId, ReplicaReport]]] = {}
    for node, report in sorted(reports.items()):
        for each in report.replicas:
            told.setdefault(each.group, []).append((node, each))
    return {
        group: _figures(group, leaders[group], replicas)
        for group, replicas in sorted(told.items())
        if group in leaders
    }


def _figures(group: int, leader: NodeId, replicas: list[tuple[NodeId, ReplicaReport]]) -> Figures:
    loads = [each.load for _, each in replicas if each.load is not None]
    size = next((each.size for node, each in replicas if node == leader), None)
    standing = next(each.standing for node, each in replicas if node == leader)
    assert standing is not None
    hot: dict[bytes, float] = {}
    for load in loads:
        for each in load.hot:
            hot[each.key] = hot.get(each.key, 0.0) + each.operations_a_second
    marks = [
        (mark, (load.reads_a_second + load.writes_a_second) / len(load.marks))
        for load in loads
        for mark in load.marks
    ]
    return Figures(
        group,
        leader,
        0 if size is None else size.keys,
        0 if size is None else size.size_bytes,
        sum(load.reads_a_second + load.writes_a_second for load in loads),
        b"" if size is None else before_queue(size.middle, standing.start),
        middle_of(marks, standing.start, standing.end),
        tuple(Hot(key, hot[key]) for key in sorted(hot, key=lambda key: (-hot[key], key))),
    )
