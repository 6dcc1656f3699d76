"""Nodes that join, drain and are declared dead, with real links and disks in one loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from kv.api.queries import RawKeyQuery
from kv.node import Node, NodeSettings
from kv.placement.joining import JoinRefusedError
from kv.placement.mover import MoverSettings
from kv.placement.service import ShardNotHereError, TooFewNodesError
from kv.regime import ask
from kv.strong.shard import ShardSettings
from raftgroups.commands import Put
from raftgroups.meta.refusals import NodeInUseError, UnknownNodeError, UnknownShardError
from storage.environment import EngineSettings
from storage.errors import ForeignDirectoryError
from tests.integration.nodes.conftest import HOST, free_addresses, until

NEW = 3


class Crowd:
    """Three founders, and nodes that join them; by number."""

    def __init__(self, directory: Path, nodes: int = 5, shards: int = 2) -> None:
        self._directory = directory
        self._shards = shards
        self.addresses = free_addresses(nodes)
        self.nodes: dict[int, Node] = {}
        self.fatal: list[str] = []

    def settings(self, number: int) -> NodeSettings:
        founders = tuple(self.addresses[:NEW])
        return NodeSettings(
            data=self._directory / f"n{number}",
            name=f"n{number}",
            cluster_id="crowd",
            peer_listen=self.addresses[number],
            initial=founders if number < NEW else (),
            join=() if number < NEW else founders,
            engine_settings=EngineSettings(lmdb_map_size_bytes=1 << 30),
            reserve_bytes=1024 * 1024,
            host=HOST,
            shard=ShardSettings(deadline_s=5.0),
            shards=self._shards,
            mover=MoverSettings(busy_s=0.05, idle_s=0.2),
        )

    async def start(self, *numbers: int, **changes: object) -> None:
        for number in numbers:
            self.nodes[number] = Node(
                replace(self.settings(number), **changes),  # type: ignore[arg-type]
                loop=asyncio.get_running_loop(),
                on_fatal=lambda _, why: self.fatal.append(why),
            )
        await asyncio.gather(*(self.nodes[number].start() for number in numbers))

    async def stop(self, *numbers: int) -> None:
        for number in numbers:
            await self.nodes.pop(number).close()

    async def close(self) -> None:
        await self.stop(*self.nodes)

    async def put(self, number: int, key: bytes) -> None:
        default = self.nodes[number].serving.default
        await ask(lambda done: default.write(Put(key, b"value of " + key), done))

    async def get(self, number: int, key: bytes) -> bytes:
        default = self.nodes[number].serving.default
        found = await ask(lambda done: default.read(RawKeyQuery(key), done))
        return found.body

    def on(self, number: int) -> list[int]:
        """The shards that the map places there."""
        node = self.nodes[number]
        return node.placement.service.replicas_of(node.node_id)

    def settled(self) -> bool:
        """Whoever plans has nothing to do, and all nodes have the map that it has."""
        summaries = [node.placement.mover.summary() for node in self.nodes.values()]
        versions = {node.meta.map.view.version for node in self.nodes.values()}
        return any(each is not None and each.settled for each in summaries) and len(versions) == 1


@pytest.fixture
async def crowd(tmp_path: Path) -> AsyncIterator[Crowd]:
    made = Crowd(tmp_path)
    try:
        await made.start(0, 1, 2)
        await until(lambda: all(node.ready for node in made.nodes.values()), "they serve")
        yield made
    finally:
        await made.close()


KEYS = (b"alpha", b"zulu", b" ", b"~~~")


async def test_a_joined_node_serves_what_it_does_not_have_and_gets_its_part(crowd: Crowd) -> None:
    for key in KEYS:
        await crowd.put(0, key)
    await crowd.start(NEW)
    for key in KEYS:
        assert await crowd.get(NEW, key) == b"value of " + key
    await until(lambda: len(crowd.on(NEW)) >= 1 and crowd.settled(), "it got its part")
    counts = [sum(shard > 0 for shard in crowd.on(number)) for number in crowd.nodes]
    assert sum(counts) == 6
    assert max(counts) - min(counts) <= 1
    await until(
        lambda: set(crowd.on(NEW)) - {0} <= set(crowd.nodes[NEW].serving.shards), "it serves them"
    )
    for key in KEYS:
        await crowd.put(NEW, key)
        assert await crowd.get(NEW, key) == b"value of " + key
    await crowd.stop(NEW)
    await crowd.start(NEW)
    assert await crowd.get(NEW, KEYS[0]) == b"value of " + KEYS[0]
    assert crowd.fatal == []


async def test_a_drained_node_is_emptied_removed_and_told(crowd: Crowd) -> None:
    await crowd.start(NEW)
    service = crowd.nodes[0].placement.service
    await until(lambda: service.find("n3").state == "active", "the new node is heard")
    with pytest.raises(NodeInUseError, match="drain it first"):
        await service.remove("n1", dead=False)
    await service.drain("n1")
    with pytest.raises(TooFewNodesError, match="add a node first"):
        await service.drain("n2")
    await until(lambda: crowd.on(1) == [] and crowd.settled(), "it is empty")
    await until(lambda: not crowd.nodes[1].host.groups, "its replicas are erased")
    await crowd.put(1, b"through an empty node")
    _, removed = await service.remove("n1", dead=False)
    assert removed
    await until(lambda: bool(crowd.fatal), "it ends by itself")
    assert "was removed from the cluster" in crowd.fatal[0]
    with pytest.raises(UnknownNodeError):
        service.find("n1")


async def test_a_dead_node_is_replaced_and_does_not_come_back_with_what_it_had(
    crowd: Crowd,
) -> None:
    await crowd.start(NEW)
    for key in KEYS:
        await crowd.put(0, key)
    await until(crowd.settled, "the new node has its part")
    service = crowd.nodes[0].placement.service
    with pytest.raises(NodeInUseError, match="it is not dead"):
        await service.remove("n2", dead=True)
    await crowd.stop(2)
    gone = next(n for n in service.nodes() if n.name == "n2").node

    def is_away() -> bool:
        summaries = [node.placement.mover.summary() for node in crowd.nodes.values()]
        return any(
            each.node == gone and not each.reachable
            for summary in summaries
            if summary is not None
            for each in summary.nodes
        )

    await until(is_away, "its silence is noticed")
    await service.remove("n2", dead=True)
    await until(lambda: not service.replicas_of(gone) and crowd.settled(), "all have three again")
    shards = crowd.nodes[0].meta.map.view.shards.values()
    assert all(len(shard.replicas) == 3 for shard in shards)
    for key in KEYS:
        assert await crowd.get(NEW, key) == b"value of " + key
    await crowd.start(2)
    await until(lambda: bool(crowd.fatal), "it is told")
    assert "declared dead" in crowd.fatal[0]
    _, removed = await service.remove("n2", dead=True)
    assert removed


async def test_silence_for_too_long_is_death_where_another_node_can_take_over(
    tmp_path: Path,
) -> None:
    crowd = Crowd(tmp_path)
    mover = MoverSettings(dead_after_s=2.0, busy_s=0.02, idle_s=0.1)
    try:
        await crowd.start(0, 1, 2, mover=mover)
        await until(crowd.settled, "somebody plans")
        await asyncio.sleep(2 * mover.dead_after_s)  # the newcomer's silence begins later
        await crowd.start(NEW, mover=mover)
        await until(lambda: len(crowd.on(NEW)) >= 1 and crowd.settled(), "it has its part")
        gone = crowd.nodes[1].node_id
        await crowd.stop(1)
        service = crowd.nodes[0].placement.service
        await until(lambda: not service.replicas_of(gone), "its replicas are made anew")
        await until(crowd.settled, "everything is whole")
        assert next(n for n in service.nodes() if n.node == gone).state == "dead"
    finally:
        await crowd.close()


async def test_replicas_and_leaderships_move_by_hand(crowd: Crowd) -> None:
    await crowd.start(NEW)
    await until(lambda: len(crowd.on(NEW)) >= 1 and crowd.settled(), "the new node has its part")
    service = crowd.nodes[1].placement.service
    view = crowd.nodes[1].meta.map.view
    ids = {node.node_id: f"n{number}" for number, node in crowd.nodes.items()}
    shard = view.shards[1]
    # From the node that has one replica more than the others: so the move leaves them as even.
    counts = {node: len(service.replicas_of(node)) for node in shard.replicas}
    fullest = max(shard.replicas, key=lambda node: counts[node])
    source, other = ids[fullest], next(ids[n] for n in shard.replicas if n != fullest)
    target = next(name for node, name in ids.items() if node not in shard.replicas)
    with pytest.raises(ShardNotHereError, match="has no replica on"):
        await service.move(1, target, source)
    with pytest.raises(ShardNotHereError, match="already"):
        await service.move(1, source, other)
    with pytest.raises(UnknownShardError):
        await service.move(99, source, target)
    with pytest.raises(UnknownNodeError, match="list the nodes"):
        await service.move(1, source, "nobody")
    await service.move(1, source, target)
    new = service.find(target).node
    wanted = {new, *shard.replicas} - {fullest}
    await until(
        lambda: set(crowd.nodes[1].meta.map.view.shards[1].replicas) == wanted, "it has moved"
    )
    assert await service.transfer(1, target) == new
    with pytest.raises(ShardNotHereError, match="has no replica on"):
        await service.transfer(1, source)


async def test_directories_of_another_life_do_not_join(crowd: Crowd, tmp_path: Path) -> None:
    with pytest.raises(ForeignDirectoryError, match="belongs to cluster"):
        await crowd.start(NEW, data=tmp_path / "n0", cluster_id="other")
    await crowd.stop(0)
    with pytest.raises(JoinRefusedError, match="of an earlier life"):
        await crowd.nodes[1].placement.join()
