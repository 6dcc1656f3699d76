"""A session that has seen a shard which the map here does not know yet."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

from kv.model import Level, ReadOptions, SessionToken
from kv.strong.keyspace import Keyspace
from storage.clock import ManualClock


class Meta:
    """A map in which shard 4 is the next one; asking makes it newer."""

    def __init__(self, *, learns: bool) -> None:
        self.view = SimpleNamespace(next=SimpleNamespace(shard=4), keyspaces={}, nodes={})
        self.map = SimpleNamespace(view=self.view, on_change=lambda _: None)
        self.learns = learns
        self.asked = 0

    async def refresh(self) -> None:
        self.asked += 1
        if self.learns:
            self.view.next.shard = 6


class Tasks:
    def spawn(self, task: Any, name: str) -> None:
        self.task = asyncio.ensure_future(task)


async def read(meta: Meta, token: dict[int, int]) -> tuple[bool, list[Any]]:
    """(taken over, the tokens with which it was read then)"""
    tasks = Tasks()
    keyspace = Keyspace(
        1,
        meta=cast(Any, meta),
        forwarder=cast(Any, None),
        scheduler=asyncio.get_running_loop(),
        clock=ManualClock(),
        tasks=cast(Any, tasks),
        gate=cast(Any, None),
        settings=cast(Any, SimpleNamespace(sizes=SimpleNamespace(narrowed=lambda: None))),
    )
    reads: list[Any] = []
    keyspace.read = lambda evaluate, done, options: reads.append(options.session)  # type: ignore
    options = ReadOptions(Level.SESSION, SessionToken(token))
    taken = keyspace._with_newer_map(lambda reader: None, lambda answer: None, options)
    if taken:
        await tasks.task
    return taken, reads


async def test_what_the_map_knows_is_read_at_once() -> None:
    meta = Meta(learns=True)
    assert await read(meta, {1: 9, 3: 2}) == (False, [])
    assert not meta.asked


async def test_a_younger_shard_is_looked_up_first() -> None:
    meta = Meta(learns=True)
    assert await read(meta, {1: 9, 5: 2}) == (True, [SessionToken({1: 9, 5: 2})])
    assert meta.asked == 1


async def test_a_shard_that_nobody_knows_is_asked_for_once() -> None:
    meta = Meta(learns=False)
    assert await read(meta, {1: 9, 77: 2}) == (True, [SessionToken({1: 9})])
    assert meta.asked == 1
