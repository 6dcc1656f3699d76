"""Three nodes with real links and real disks in one loop: what needs a cluster but no processes."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from kv.leaderless.environment import LeaderlessSettings
from kv.leaderless.founding import options_of
from kv.node import Node, NodeSettings
from kv.regime import ask
from kv.size_limits import SizeLimits
from kv.strong.shard import ShardSettings
from raftgroups.commands import Command
from raftgroups.host import HostConfig
from storage.environment import EngineSettings

DEADLINE_S = 20.0
HOST = HostConfig(
    election_timeout_s=(0.3, 0.6), heartbeat_s=0.05, leader_silence_s=0.6, propose_timeout_s=2.0
)


async def until(condition: Callable[[], bool], what: str) -> None:
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + DEADLINE_S
    while not condition():
        assert loop.time() < deadline_s, f"not within {DEADLINE_S} s: {what}"
        await asyncio.sleep(0.01)


def free_addresses(count: int) -> list[tuple[str, int]]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname() for each in sockets]
    finally:
        for each in sockets:
            each.close()


class Trio:
    """Nodes by number; a stopped one is None."""

    def __init__(
        self,
        directory: Path,
        engine: str = "lmdb",
        leaderless: LeaderlessSettings | None = None,
        default: str = "leaderless",
    ) -> None:
        """`default`: the regime of the keyspace `default`, where there is a choice."""
        self._directory = directory
        self._engine = engine
        self._leaderless = leaderless
        options = leaderless and options_of(leaderless.default)
        self._default_leaderless = options if default == "leaderless" else None
        self.addresses = free_addresses(3)
        self.nodes: list[Node | None] = [None, None, None]
        self.fatal: list[str] = []

    def settings(self, number: int) -> NodeSettings:
        return NodeSettings(
            data=self._directory / f"n{number}",
            name=f"n{number}",
            cluster_id="trio",
            peer_listen=self.addresses[number],
            initial=tuple(self.addresses),
            engine=self._engine,
            engine_settings=EngineSettings(lmdb_map_size_bytes=1 << 30),
            reserve_bytes=1024 * 1024,
            host=HOST,
            shard=ShardSettings(deadline_s=2.0, sizes=SizeLimits(key_bytes=400)),
            leaderless=self._leaderless,
            default_leaderless=self._default_leaderless,
        )

    async def start(self, *numbers: int) -> None:
        for number in numbers:
            self.nodes[number] = Node(
                self.settings(number),
                loop=asyncio.get_running_loop(),
                on_fatal=lambda _, why: self.fatal.append(why),
            )
        await asyncio.gather(*(self[number].start() for number in numbers))

    async def serve(self) -> None:
        await self.start(0, 1, 2)
        await until(lambda: all(node.ready for node in self.running), "the nodes are ready")

    async def stop(self, *numbers: int) -> None:
        for number in numbers:
            node, self.nodes[number] = self.nodes[number], None
            assert node is not None
            await node.close()

    def __getitem__(self, number: int) -> Node:
        node = self.nodes[number]
        assert node is not None, f"node {number} is stopped"
        return node

    @property
    def running(self) -> list[Node]:
        return [node for node in self.nodes if node is not None]

    @property
    def leader(self) -> int:
        found = [
            n for n, node in enumerate(self.nodes) if node and node.serving.first.group.settled
        ]
        assert len(found) == 1, f"leaders: {found}"
        return found[0]

    async def led(self) -> int:
        def settled() -> bool:
            return sum(node.serving.first.group.settled for node in self.running) == 1

        await until(settled, "one node leads")
        return self.leader

    async def follower(self) -> int:
        leader = await self.led()
        return next(n for n, node in enumerate(self.nodes) if node and n != leader)

    async def write(self, number: int, command: Command, **options: Any) -> Any:
        strong = self[number].serving.first
        return await ask(lambda done: strong.write(command, done, **options))

    async def read(self, number: int, evaluate: Callable[[Any], Any], **options: Any) -> Any:
        strong = self[number].serving.first
        return await ask(lambda done: strong.read(evaluate, done, **options))


@pytest.fixture
async def make_trio(tmp_path: Path) -> AsyncIterator[Callable[..., Awaitable[Trio]]]:
    made: list[Trio] = []

    async def make(
        engine: str = "lmdb",
        serve: bool = True,
        leaderless: LeaderlessSettings | None = None,
        default: str = "leaderless",
    ) -> Trio:
        trio = Trio(tmp_path / f"trio{len(made)}", engine, leaderless, default)
        made.append(trio)
        if serve:
            await trio.serve()
        return trio

    (tmp_path / "trio0").mkdir()
    yield make
    for trio in made:
        for number, node in enumerate(trio.nodes):
            if node is not None:
                await trio.stop(number)
        assert trio.fatal == []
