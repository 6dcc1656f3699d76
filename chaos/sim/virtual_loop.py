"""As much of an asyncio event loop as tasks, futures and sleeps need, on a node's virtual time.

What it runs ends with the node's process, between two steps, as kill -9 would end it.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Coroutine, Generator
from typing import Any

from chaos.sim.world import NodeClock, NodeScheduler, SimTimer

Report = Callable[[dict[str, Any]], None]


class VirtualLoop(asyncio.AbstractEventLoop):
    def __init__(self, scheduler: NodeScheduler, clock: NodeClock, report: Report) -> None:
        """`report` is told what nobody else looks after, such as an exception of a callback."""
        self._scheduler = scheduler
        self._clock = clock
        self._report = report

    def time(self) -> float:
        return self._clock.monotonic()

    def call_soon(  # type: ignore[override] - its timers can be cancelled, as handles can
        self, callback: Callable[..., object], *args: Any, context: Any = None
    ) -> SimTimer:
        return self._scheduler.call_soon(self._run, callback, args, context)

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., object], *args: Any, context: Any = None
    ) -> SimTimer:
        return self._scheduler.call_later(delay, self._run, callback, args, context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: Any = None
    ) -> SimTimer:
        return self.call_later(when - self.time(), callback, *args, context=context)

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(  # type: ignore[override]
        self,
        coro: Coroutine[Any, Any, Any] | Generator[Any, None, Any],
        *,
        name: str | None = None,
        context: contextvars.Context | None = None,
    ) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.Task(coro, loop=self, name=name, context=context)  # type: ignore[arg-type]
        task._log_destroy_pending = False  # type: ignore[attr-defined] - its process was killed
        return task

    def _run(self, callback: Callable[..., object], args: tuple[Any, ...], context: Any) -> None:
        before = asyncio._get_running_loop()
        asyncio._set_running_loop(self)
        try:
            if context is None:
                callback(*args)
            else:
                context.run(callback, *args)
        finally:
            asyncio._set_running_loop(before)

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self._report(context)
