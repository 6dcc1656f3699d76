"""As much of an asyncio event loop as tasks, futures and sleeps need, on a node's virtual time.

What it runs ends with the node's process, between two steps, as kill -9 would end it.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
from collections.abc import Callable, Coroutine
from typing import Any, cast
from weakref import WeakSet

from chaos.sim.world import NodeClock, NodeScheduler, SimTimer

Report = Callable[[dict[str, Any]], None]


class VirtualLoop:
    def __init__(self, scheduler: NodeScheduler, clock: NodeClock, report: Report) -> None:
        """`report` is told what nobody else looks after, such as an exception of a callback."""
        self._scheduler = scheduler
        self._clock = clock
        self._report = report
        self._tasks: WeakSet[asyncio.Task[Any]] = WeakSet()

    @property
    def as_loop(self) -> asyncio.AbstractEventLoop:
        """For whoever wants one, and uses no more of it than there is."""
        return cast(asyncio.AbstractEventLoop, self)

    def time(self) -> float:
        return self._clock.monotonic()

    def call_soon(
        self, callback: Callable[..., object], *args: Any, context: Any = None
    ) -> SimTimer:
        return self._scheduler.call_soon(self._run, callback, args, context)

    def call_later(
        self, delay: float, callback: Callable[..., object], *args: Any, context: Any = None
    ) -> SimTimer:
        return self._scheduler.call_later(delay, self._run, callback, args, context)

    def call_at(
        self, when: float, callback: Callable[..., object], *args: Any, context: Any = None
    ) -> SimTimer:
        return self.call_later(when - self.time(), callback, *args, context=context)

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self.as_loop)

    def create_task(
        self,
        coro: Coroutine[Any, Any, Any],
        *,
        name: str | None = None,
        context: contextvars.Context | None = None,
    ) -> asyncio.Task[Any]:
        made = asyncio.Task(coro, loop=self.as_loop, name=name, context=context)
        cast(Any, made)._log_destroy_pending = False  # its process may be killed
        self._tasks.add(made)
        return made

    def end(self) -> None:
        """Its process was killed. What has not begun yet would be taken for forgotten."""
        for task in self._tasks:
            coro = task.get_coro()
            if (
                inspect.iscoroutine(coro)
                and inspect.getcoroutinestate(coro) == inspect.CORO_CREATED
            ):
                coro.close()

    def _run(self, callback: Callable[..., object], args: tuple[Any, ...], context: Any) -> None:
        before = asyncio._get_running_loop()
        asyncio._set_running_loop(self.as_loop)
        try:
            if context is None:
                callback(*args)
            else:
                context.run(callback, *args)
        finally:
            asyncio._set_running_loop(before)

    def get_debug(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self._report(context)
