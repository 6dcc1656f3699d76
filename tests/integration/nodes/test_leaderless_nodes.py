"""The leaderless regime on three real nodes: RocksDB, real links, no HTTP yet."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from kv.errors import KeyspaceNotFoundError
from kv.errors import UnavailableError as UnavailableHere
from kv.leaderless.dvv import context_of
from kv.leaderless.environment import LeaderlessSettings
from kv.leaderless.get_core import Found, GetResult
from kv.leaderless.keyspace import Keyspace, Wish
from kv.leaderless.put_core import Written
from kv.leaderless.quorum import Level, UnavailableError
from kv.leaderless.rules import Write
from kv.node import Node
from kv.regime import ask
from raftgroups.meta.commands import CreateLeaderless, DropKeyspace, KeyspaceMade
from raftgroups.meta.records import KeyspaceOptions
from raftgroups.meta.refusals import NodeInUseError
from storage.environment import LMDB, MEMORY, ROCKSDB
from storage.objects import keyspaces_held

pytestmark = pytest.mark.integration

Make = Callable[..., Awaitable[Any]]
DEADLINE_S = 15.0


async def put(
    node: Node, key: bytes, value: bytes, context: Any = None, keyspace: int = 1, **wish: Any
) -> Written:
    assert node.leaderless is not None
    regime = node.leaderless.regime
    change = Write(value, context)
    return await ask(lambda done: regime.coordinator.put(keyspace, key, change, done, Wish(**wish)))


async def get(node: Node, key: bytes, keyspace: int = 1, **wish: Any) -> GetResult:
    assert node.leaderless is not None
    regime = node.leaderless.regime
    return await ask(lambda done: regime.coordinator.get(keyspace, key, done, Wish(**wish)))


def values(found: GetResult | Found) -> list[bytes | None]:
    return sorted((version.value for version in found.siblings.versions), key=repr)


def held(node: Node, key: bytes) -> list[bytes | None]:
    assert node.leaderless is not None
    answer = node.leaderless.regime.replica.read(1, key)
    return values(answer) if isinstance(answer, Found) else []


def here(node: Node) -> list[int]:
    """Keyspaces that have keys on the node."""
    assert node.leaderless is not None
    return keyspaces_held(node.leaderless.regime.replica.reader())


async def until(condition: Callable[[], bool], what: str) -> None:
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + DEADLINE_S
    while not condition():
        assert loop.time() < deadline_s, f"not within {DEADLINE_S} s: {what}"
        await asyncio.sleep(0.02)


async def connected(nodes: list[Node]) -> None:
    await until(
        lambda: all(
            node.leaderless is not None and node.leaderless.regime.reachable(other.node_id)
            for node in nodes
            for other in nodes
        ),
        "every node reaches every other",
    )


@pytest.mark.parametrize("engine", [ROCKSDB, LMDB, MEMORY])
async def test_any_node_writes_and_all_have_it(make_trio: Make, engine: str) -> None:
    trio = await make_trio(leaderless=LeaderlessSettings(engine=engine))
    await connected(trio.running)
    for number in range(3):
        written = await put(trio[number], b"k", b"%d" % number, nodes="ALL")
        assert sorted(written.replicas) == sorted(node.node_id for node in trio.running)
        assert written.level is Level.ALL
    for node in trio.running:
        assert held(node, b"k") == [b"0", b"1", b"2"]
    found = await get(trio[2], b"k")
    merged = await put(trio[1], b"k", b"merged", context_of(found.siblings))
    assert len(merged.replicas) >= 2
    assert values(await get(trio[0], b"k", nodes="ALL")) == [b"merged"]


async def test_many_writes_at_once_share_frames_and_syncs(make_trio: Make) -> None:
    trio = await make_trio(leaderless=LeaderlessSettings())
    await connected(trio.running)
    node = trio[0]
    commits = node.leaderless.committer.commits
    await asyncio.gather(*(put(node, b"k%d" % n, b"v") for n in range(500)))
    regime = node.leaderless.regime
    assert node.leaderless.committer.commits - commits < 100
    assert regime.messenger.sent_frames < 200
    assert regime.messenger.sent_messages < 500, "copies of one turn are one message a peer"


async def test_a_node_that_was_away_gets_its_hints_and_a_restart_keeps_all(make_trio: Make) -> None:
    trio = await make_trio(leaderless=LeaderlessSettings())
    await connected(trio.running)
    first = await put(trio[2], b"mine", b"1", nodes="ALL")
    away = trio[2].node_id
    await trio.stop(2)
    await until(lambda: not trio[0].link.connected(away), "its going is noticed")
    for number in range(50):
        written = await put(trio[0], b"k%d" % number, b"v")
        assert len(written.replicas) == 2
    with pytest.raises(UnavailableError, match="3 are required"):
        await put(trio[0], b"k", b"v", nodes="ALL")
    await trio.start(2)
    await until(
        lambda: all(held(trio[2], b"k%d" % number) == [b"v"] for number in range(50)),
        "the hints are replayed",
    )
    again = await put(trio[2], b"mine", b"2", first.context, nodes="ALL")
    assert held(trio[0], b"mine") == [b"2"]
    assert [actor.incarnation for actor in again.context.clock.actors()] == [
        actor.incarnation for actor in first.context.clock.actors()
    ]
    await until(
        lambda: not any(node.leaderless.regime.replica.hint_usages() for node in trio.running),
        "no hint is left",
    )
    assert not any(node.leaderless.regime.replica.alarms for node in trio.running)


async def test_a_strong_cluster_gets_a_ring_with_its_first_leaderless_keyspace(
    make_trio: Make,
) -> None:
    trio = await make_trio(leaderless=LeaderlessSettings(engine=MEMORY), default="strong")
    assert all(node.leaderless is None for node in trio.running)
    await trio.stop(2)
    node = trio[0]
    command = CreateLeaderless("carts", KeyspaceOptions(), node.stand.seats())
    made = await node.meta.propose(command)
    assert isinstance(made, KeyspaceMade)
    number = made.record.keyspace
    nodes = [each.node_id for each in trio.running]
    assert await node.stand.serving.count(number, nodes, 2) == 2
    await connected(trio.running)
    assert (await put(node, b"k", b"v", keyspace=number)).level is Level.QUORUM
    await trio.start(2)
    await connected(trio.running)
    found = await get(trio[2], b"k", keyspace=number, nodes=2)
    assert values(found) == [b"v"]
    assert not trio[2].leaderless.regime.members.lacking
    await until(lambda: all(here(node) == [number] for node in trio.running), "all hold the key")
    await trio[2].meta.propose(DropKeyspace("carts"))
    await until(
        lambda: all(here(node) == [] for node in trio.running),
        "its keys are erased everywhere",
    )
    with pytest.raises(KeyspaceNotFoundError):
        await put(trio[1], b"k", b"v", keyspace=number)
    assert trio[1].serving.first.group.readable


async def test_operators_let_a_node_leave_the_ring_and_declare_another_one_dead(
    make_trio: Make,
) -> None:
    one_copy = Keyspace(n=1, r=1, w=1)
    trio = await make_trio(leaderless=LeaderlessSettings(engine=MEMORY, default=one_copy))
    await connected(trio.running)
    keys = [b"k%d" % number for number in range(30)]
    for key in keys:
        await put(trio[0], key, b"v")
    assert any(held(trio[2], key) for key in keys)
    service = trio[0].placement.service
    leaver, lost = trio[2].node_id, trio[1].node_id
    with pytest.raises(NodeInUseError):
        await service.remove("n2", dead=False)
    await service.drain("n2")
    await until(lambda: trio[0].stand.has_left(leaver), "it has left the ring")
    await until(lambda: trio[2].stand.standing().status == "left", "it says so")
    for key in keys:
        assert values(await get(trio[0], key)) == [b"v"]
    with pytest.raises(NodeInUseError, match="empty its directory"):
        await service.undrain("n2")
    await trio.stop(1)
    await until(lambda: not trio[0].link.connected(lost), "its going is noticed")
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + DEADLINE_S
    while True:
        try:
            record, _ = await service.remove("n1", dead=True)
            break
        except (NodeInUseError, UnavailableHere):
            # The planner has not missed it yet, or is being elected.
            assert loop.time() < deadline_s
            await asyncio.sleep(0.1)
    assert record.state == "dead"
    await until(lambda: not trio[0].stand.is_member(lost), "the ring goes on without it")
    assert list(trio[0].leaderless.regime.view.ring.members) == [trio[0].node_id]
    await put(trio[0], b"after", b"v")
