"""Puts the faults of a schedule in force at their moments, and heals them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from random import Random
from typing import TypeVar

from chaos.calling import CLOCK
from chaos.faults.stage import BusyError, Stage
from chaos.faults.table import TABLE
from chaos.running.results import FaultSpan
from chaos.scenarios.schedule import Step

T = TypeVar("T")


class Driver:
    """Invariant: what came into force is healed when `run` returns, also when it is cancelled or a
    fault fails."""

    def __init__(self, stage: Stage, steps: Sequence[Step]) -> None:
        self._stage, self._steps = stage, steps
        self._over = asyncio.Event()
        self.spans: list[FaultSpan] = []
        """`at_s` is of the clock here; the runner counts from the start of the load."""
        self.in_force: list[str] = []
        self.turned_away = 0

    def end(self) -> None:
        """No new ones; those in force are healed now."""
        self._over.set()
        self._stage.over.set()

    async def run(self) -> None:
        began = CLOCK.monotonic()
        async with asyncio.TaskGroup() as group:
            for step in self._steps:
                group.create_task(self._step(step, began + step.at_s))

    async def _step(self, step: Step, at: float) -> None:
        if await self._wait(at - CLOCK.monotonic()):
            return
        context = TABLE[step.fault.kind](self._stage, step.fault, Random(step.seed))
        began = CLOCK.monotonic()
        try:
            what = await _finish(context.__enter__)
        except BusyError:
            self.turned_away += 1
            return
        in_force = CLOCK.monotonic()
        self.in_force.append(what)
        try:
            await self._wait(step.lasts_s)
        finally:
            await _finish(lambda: context.__exit__(None, None, None))
            self.in_force.remove(what)
            lasted_s = CLOCK.monotonic() - began
            span = FaultSpan(step.fault.kind, what, began, lasted_s, in_force_s=in_force)
            self.spans.append(span)

    async def _wait(self, seconds: float) -> bool:
        """True if the time of faults is over."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._over.wait(), max(0.0, seconds))
        return self._over.is_set()


async def _finish(work: Callable[[], T]) -> T:
    """In a thread. A cancellation waits for its end: half a fault would stay for ever."""
    task = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise
