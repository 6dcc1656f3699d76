"""Who owns what a client does by itself: renewing leases, following watches, and farewells.

work        ends at once when the client closes
farewells   what tells a server that something is not needed any more; they get a moment more,
            because whoever waits for the lock that is given up here waits for them
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Final

from kv.cluster.tasks import TaskHandle, Tasks

FAREWELL_S: Final = 2.0


class Background:
    """Made in the loop that the client is used in."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self._work = Tasks(loop, _told_by_the_log)
        self._farewells = Tasks(loop, _told_by_the_log)
        self._leaving: set[asyncio.Task[None]] = set()

    def spawn(self, coro: Coroutine[Any, Any, None], name: str) -> TaskHandle:
        return self._work.spawn(coro, name)

    def farewell(self, coro: Coroutine[Any, Any, None], name: str) -> None:
        task = self._farewells.spawn(coro, name)
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    async def close(self) -> None:
        await self._work.close()
        if self._leaving:
            await asyncio.wait(self._leaving, timeout=FAREWELL_S)
        await self._farewells.close()


def _told_by_the_log(name: str, error: BaseException) -> None:
    """Tasks has logged it; nothing else depends on it."""
