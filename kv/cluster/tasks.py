"""Every task has an owner. Nothing below the composition root starts one itself: it asks this.

A task that dies unseen is a node that half works. So the owner keeps every task until it ends,
tells `on_failure` of each exception at the moment it happens, refuses new work once it closes, and
cancels and waits for what is left. A task that a component cancels on purpose is no failure.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, ClassVar, Protocol

from storage.errors import JanusError

_log = logging.getLogger(__name__)

OnFailure = Callable[[str, BaseException], None]


class TaskHandle(Protocol):
    def cancel(self) -> object: ...


class TaskOwner(Protocol):
    def spawn(self, coro: Coroutine[Any, Any, None], name: str) -> TaskHandle:
        """Run it on the node's loop. Its failure is the owner's business, not the caller's."""
        ...


class TasksClosedError(JanusError):
    """The node is stopping; nothing new is started."""

    code: ClassVar[str] = "tasks_closed"


class Tasks:
    """The real owner. `on_failure(name, error)` is called once for each task that raises; the
    composition root ends the process there, because nobody else will ever notice."""

    def __init__(self, loop: asyncio.AbstractEventLoop, on_failure: OnFailure) -> None:
        self._loop = loop
        self._on_failure = on_failure
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False
        self.spawned = 0
        self.failed = 0

    @property
    def running(self) -> int:
        return len(self._tasks)

    def spawn(self, coro: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        if self._closed:
            coro.close()
            raise TasksClosedError(f"task {name!r} was not started: the node is stopping")
        task = self._loop.create_task(coro, name=name)
        self._tasks.add(task)
        self.spawned += 1
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            self.failed += 1
            _log.error("task %r failed", task.get_name(), exc_info=error)
            self._on_failure(task.get_name(), error)

    async def close(self) -> None:
        """Cancel what still runs and wait until it has ended. Safe to call twice."""
        self._closed = True
        for task in list(self._tasks):
            task.cancel()
        while self._tasks:
            await asyncio.wait(list(self._tasks))
