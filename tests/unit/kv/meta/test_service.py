"""The map on a node: how new it is for whoever asked for a newer one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kv.cluster.tasks import Tasks, TasksClosedError
from kv.meta import service
from kv.meta.service import MetaService
from raftgroups.outcomes import ReadReady, ReadResult
from raftgroups.transport import NodeId
from storage.clock import ManualClock


class GroupDouble:
    """A replica whose reads are answered when the test says so."""

    def __init__(self) -> None:
        self.asked: list[Callable[[ReadResult], None]] = []

    def read(self, done: Callable[[ReadResult], None]) -> None:
        self.asked.append(done)


class World:
    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.failures: list[tuple[str, BaseException]] = []
        self.tasks = Tasks(loop, lambda name, error: self.failures.append((name, error)))
        self.group = GroupDouble()
        ignored: Any = SimpleNamespace(
            on=lambda *_: None, on_peer_change=lambda *_: None, ask=None, tell=None
        )
        self.meta = MetaService(
            node_id=NodeId("a"),
            directory=Path("unused"),
            forwarder=ignored,
            mail=ignored,
            link=ignored,
            peers=lambda: iter(()),
            loop=loop,
            clock=ManualClock(),
            entropy=bytes,
            tasks=self.tasks,
        )
        self.meta.group = self.group  # type: ignore[assignment]

    def refreshed(self) -> asyncio.Task[None]:
        return asyncio.create_task(self.meta.refresh())


async def turns(count: int = 8) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def test_nobody_is_told_by_a_question_that_was_asked_before_they_came() -> None:
    async def run() -> None:
        world = World()
        first = [world.refreshed(), world.refreshed()]
        await turns()
        assert len(world.group.asked) == 1, "who comes together shares a question"
        later = [world.refreshed(), world.refreshed()]
        await turns()
        world.group.asked[0](ReadReady(1))
        await turns()
        assert [each.done() for each in first + later] == [True, True, False, False]
        assert len(world.group.asked) == 2
        world.group.asked[1](ReadReady(2))
        await turns()
        assert all(each.done() for each in later)
        last = world.refreshed()
        await turns()
        assert len(world.group.asked) == 3, "it asks anew each time"
        world.group.asked[2](ReadReady(2))
        await last
        assert not world.tasks.running
        assert not world.failures

    asyncio.run(run())


def test_who_cannot_be_told_waits_only_so_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "ANSWER_WITHIN_S", 0.01)

    async def run() -> None:
        world = World()
        first = world.refreshed()
        await turns()
        second = world.refreshed()
        await asyncio.wait_for(asyncio.gather(first, second), 5.0)
        assert len(world.group.asked) == 2

    asyncio.run(run())


def test_a_node_that_stops_leaves_nobody_waiting() -> None:
    async def run() -> None:
        world = World()
        first = world.refreshed()
        await turns()
        second = world.refreshed()
        await turns()
        await world.tasks.close()
        await asyncio.wait_for(asyncio.gather(first, second), 5.0)
        with pytest.raises(TasksClosedError):
            await asyncio.wait_for(world.meta.refresh(), 5.0)
        with pytest.raises(TasksClosedError):
            await asyncio.wait_for(world.meta.refresh(), 5.0)

    asyncio.run(run())


def test_a_node_that_stops_before_it_asked_leaves_nobody_waiting() -> None:
    async def run() -> None:
        world = World()
        first = world.refreshed()
        await asyncio.sleep(0)
        assert not world.group.asked
        world.meta.stop()
        await world.tasks.close()
        await asyncio.wait_for(first, 5.0)

    asyncio.run(run())
