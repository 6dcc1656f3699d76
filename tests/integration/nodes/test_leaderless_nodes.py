"""The leaderless regime on three real nodes: RocksDB, real links, no HTTP yet."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from kv.leaderless.dvv import context_of
from kv.leaderless.environment import LeaderlessSettings
from kv.leaderless.get_core import Found, GetResult
from kv.leaderless.keyspace import Wish
from kv.leaderless.put_core import Written
from kv.leaderless.quorum import Level, UnavailableError
from kv.leaderless.rules import Write
from kv.node import Node
from kv.regime import ask
from storage.environment import LMDB, MEMORY, ROCKSDB

pytestmark = pytest.mark.integration

Make = Callable[..., Awaitable[Any]]
DEADLINE_S = 15.0


async def put(node: Node, key: bytes, value: bytes, context: Any = None, **wish: Any) -> Written:
    assert node.leaderless is not None
    regime = node.leaderless.regime
    change = Write(value, context)
    return await ask(lambda done: regime.coordinator.put(1, key, change, done, Wish(**wish)))


async def get(node: Node, key: bytes, **wish: Any) -> GetResult:
    assert node.leaderless is not None
    regime = node.leaderless.regime
    return await ask(lambda done: regime.coordinator.get(1, key, done, Wish(**wish)))


def values(found: GetResult | Found) -> list[bytes | None]:
    return sorted((version.value for version in found.siblings.versions), key=repr)


def held(node: Node, key: bytes) -> list[bytes | None]:
    assert node.leaderless is not None
    answer = node.leaderless.regime.replica.read(1, key)
    return values(answer) if isinstance(answer, Found) else []


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
