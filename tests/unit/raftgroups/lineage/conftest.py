"""A hand-driven cluster whose groups are shards of one keyspace."""

from __future__ import annotations

from typing import Any

import pytest

from raftgroups.commands import (
    Absorb,
    Command,
    Freeze,
    MergeAbort,
    MergeBegin,
    Put,
    Split,
    Thaw,
    Token,
    encode,
)
from raftgroups.group import Group
from raftgroups.machine import ShardMachine
from raftgroups.machine_parts import ShardPlace
from raftgroups.outcomes import Applied
from raftgroups.transport import NodeId
from storage.latest import Latest
from storage.memory import MemoryEngine
from tests.unit.raftgroups.conftest import Cluster, Life, TestNode

KEYSPACE = 3
FIRST = ShardPlace(group=1, shard=1, keyspace=KEYSPACE, segment=1)


class ShardCluster(Cluster):
    """Group 1 begins as the keyspace's only shard; others are born by splits, or joined."""

    def __init__(self, size: int = 3, **settings: Any) -> None:
        self.segments = 1
        super().__init__(size, **{"feature_level": 2, "hibernate_after_s": 0.0, **settings})
        self.create(1)
        level = self.settings["feature_level"]
        self.until(lambda: self.lead(1).host.group(1).feature_level == level)

    def make_machine(self, group_id: int, engine: MemoryEngine, life: Life) -> ShardMachine:
        place = FIRST if group_id == 1 else ShardPlace.stored(group_id)
        return ShardMachine(Latest(engine, life), place)

    def shard(self, node: TestNode | str, group_id: int) -> ShardMachine:
        found = self[node] if isinstance(node, str) else node
        machine = found.host.group(group_id).machine
        assert isinstance(machine, ShardMachine)
        return machine

    def group(self, node: str, group_id: int) -> Group:
        return self[node].host.group(group_id)

    def do(self, group_id: int, command: Command, token: Token | None = None) -> Any:
        """Through the group's leader."""
        results: list[Any] = []
        leader = self.lead(group_id)
        leader.host.group(group_id).propose(encode(command, token), results.append)
        self.until(lambda: bool(results))
        assert isinstance(results[0], Applied), results[0]
        return results[0].result

    def put(self, group_id: int, key: bytes, value: bytes = b"", **more: Any) -> Any:
        return self.do(group_id, Put(key, value, **more))

    def split(self, group_id: int, key: bytes, right: int) -> Any:
        self.segments += 2
        return self.do(group_id, Split(key, right, self.segments - 1, self.segments))

    def settled(self, group_id: int, nodes: str | None = None) -> bool:
        """All have applied all."""
        found = [self[node] for node in (nodes or self.ids)]
        if not all(group_id in node.host.groups for node in found):
            return False
        status = [node.host.group(group_id).status() for node in found]
        return len({s.applied_index for s in status}) == 1 == len({s.last_index for s in status})

    def settle(self, group_id: int, nodes: str | None = None) -> None:
        self.until(lambda: self.settled(group_id, nodes))

    def freeze(self, left: int, right: int) -> tuple[int, int]:
        """(attempt, freeze index), durable on every replica."""
        merge = self.do(left, MergeBegin(right)).merge
        index = self.do(right, Freeze(left, merge)).index
        status = self.lead(right).host.group(right).status()
        members = {*status.voters, *status.learners}

        def durable() -> bool:
            return all(
                node.host.group(right).status().durable_applied_index >= index
                for node in self.alive()
                if node.id in members
            )

        self.until(durable)
        return merge, index

    def merge(self, left: int, right: int) -> Any:
        merge, index = self.freeze(left, right)
        self.segments += 1
        start = self.shard(self.lead(right), right).view.place.start
        return self.do(left, Absorb(right, merge, index, self.segments, KEYSPACE, start))

    def give_up(self, left: int, right: int, merge: int) -> None:
        self.do(left, MergeAbort(merge))
        self.do(right, Thaw(merge))

    def rows(self, node: NodeId | str) -> list[tuple[bytes, bytes]]:
        with self[node].engine.snapshot() as snapshot:
            return snapshot.scan(limit=1 << 30, max_bytes=1 << 40).items


@pytest.fixture
def shards() -> ShardCluster:
    return ShardCluster()


def value(machine: ShardMachine, key: bytes) -> bytes | None:
    found = machine.view.get(key)
    return None if found is None else found.value


def read_all(machine: ShardMachine) -> dict[bytes, bytes]:
    own = machine.view.segments.own
    return {item.key: item.value for item in machine.view.range(own.start, own.end).items}
