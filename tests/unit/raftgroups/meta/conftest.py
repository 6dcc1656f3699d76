"""A cluster's state to begin with."""

from __future__ import annotations

import pytest

from raftgroups.meta.commands import Bootstrap, MetaCommand, NewShard
from raftgroups.meta.records import KeyspaceOptions, NodeRecord
from raftgroups.meta.rules import execute
from raftgroups.meta.view import MetaView, even_ranges

FOUNDERS = (("a", 11), ("b", 12), ("c", 13))


def node(name: str, incarnation: int) -> NodeRecord:
    return NodeRecord(name, incarnation, f"node-{name}", ("127.0.0.1", 7401))


def new_shards(count: int) -> tuple[NewShard, ...]:
    return tuple(NewShard(start, end, FOUNDERS) for start, end in even_ranges(count))


def bootstrap(shards: int = 4, *, formed: bool = False) -> Bootstrap:
    nodes = tuple(node(*each) for each in FOUNDERS)
    replicas = tuple(name for name, _ in FOUNDERS)
    return Bootstrap(nodes, replicas, KeyspaceOptions(), new_shards(shards), formed)


def after(view: MetaView, *commands: MetaCommand) -> MetaView:
    for command in commands:
        view, _ = execute(view, command, 1_000)
    return view


@pytest.fixture
def begun() -> MetaView:
    return after(MetaView(), bootstrap())
