"""How late the event loop is: a task that sleeps and measures how much longer it was. Not pure.

Everything on a node waits for one loop. A callback that holds it for 50 ms makes every request 50
ms slower, whoever asked; no histogram of a single part shows that. The probe sees only what falls
into the end of its sleeps, so it is a sample: at an interval of 1 s and a loop that stands still
for 50 ms once a second, one reading in twenty shows it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from kv.cluster.tasks import TaskHandle, TaskOwner
from storage.clock import Clock

INTERVAL_S: Final = 1.0


class LoopLagProbe:
    """Tells `observe` the seconds by which the loop was late, once an interval, until stopped."""

    def __init__(
        self,
        clock: Clock,
        observe: Callable[[float], None],
        *,
        interval_s: float = INTERVAL_S,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        assert interval_s > 0
        self._clock = clock
        self._observe = observe
        self._interval_s = interval_s
        self._sleep = sleep
        self._task: TaskHandle | None = None

    def start(self, tasks: TaskOwner) -> None:
        assert self._task is None, "the probe runs already"
        self._task = tasks.spawn(self._run(), "event loop lag")

    def stop(self) -> None:
        """Safe to call twice; the owner of the tasks ends it, too."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()

    async def _run(self) -> None:
        while True:
            asked_at = self._clock.monotonic()
            await self._sleep(self._interval_s)
            late_s = self._clock.monotonic() - asked_at - self._interval_s
            self._observe(max(0.0, late_s))
