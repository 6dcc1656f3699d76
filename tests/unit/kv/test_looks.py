"""Looks at something until it is so, on virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from chaos.sim.virtual_loop import VirtualLoop
from chaos.sim.world import NodeClock, NodeScheduler, Process, World
from kv.looks import Looks


def run(work: Coroutine[Any, Any, None]) -> None:
    world, process = World(1), Process("n1/1")
    clock = NodeClock(world)
    loop = VirtualLoop(NodeScheduler(world, process, clock), clock, lambda context: None)
    task = loop.create_task(work)
    world.run(60.0)
    task.result()


def times(within_s: float, every_s: float, look_s: float = 0.0) -> list[tuple[int, float]]:
    """(number, when it began)."""
    seen: list[tuple[int, float]] = []

    async def look() -> None:
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        async for number in Looks(within_s, every_s):
            seen.append((number, round(loop.time() - began_s, 6)))
            if look_s:
                await asyncio.sleep(look_s)

    run(look())
    return seen


def test_the_first_look_is_at_once_and_the_last_when_the_time_is_over() -> None:
    assert times(1.0, 0.4) == [(0, 0.0), (1, 0.4), (2, 0.8), (3, 1.0)]


def test_the_time_that_looks_take_counts() -> None:
    assert times(1.0, 0.1, look_s=0.7) == [(0, 0.0), (1, 0.8)]


def test_without_time_there_is_one_look() -> None:
    assert times(0.0, 0.1) == [(0, 0.0)]


def test_whoever_has_seen_enough_leaves() -> None:
    seen: list[int] = []

    async def look() -> None:
        async for number in Looks(5.0, 0.1):
            seen.append(number)
            if number == 2:
                break

    run(look())
    assert seen == [0, 1, 2]
