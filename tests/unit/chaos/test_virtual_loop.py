"""Tasks on the virtual time of a simulated node."""

from __future__ import annotations

import asyncio
import gc
import warnings

from chaos.sim.virtual_loop import VirtualLoop
from chaos.sim.world import NodeClock, NodeScheduler, Process, World


def test_a_task_that_its_process_did_not_live_to_begin_is_no_forgotten_one() -> None:
    world, process = World(1), Process("n1/1")
    clock = NodeClock(world)
    loop = VirtualLoop(NodeScheduler(world, process, clock), clock, lambda context: None)
    begun: list[str] = []

    async def work(name: str) -> None:
        begun.append(name)
        await asyncio.sleep(1.0)

    first = loop.create_task(work("first"))
    world.run(0.5)
    second = loop.create_task(work("second"))
    process.alive = False
    loop.end()
    world.run(5.0)
    assert (begun, first.done(), second.done()) == (["first"], False, False)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        del first, second
        gc.collect()
    assert found == []
