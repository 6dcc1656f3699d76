"""Long work of a node in named steps, written as `async def`, without an event loop of its own.

Repair, reaping, joining: each asks, waits, pauses and asks again, for minutes. Written as callbacks
nobody could read them; as asyncio tasks they could not run on the simulator's clock. So they are
coroutines, and `Procedures` drives them with the node's Scheduler, in production and in simulation:

    procedures.start(work, "repair n2")         runs until its first wait, in a pass of its own
    await procedures.pause(1.0)
    reply = await signal                        a Signal is set once, by whoever has the answer

A procedure belongs to its Procedures: `stop` closes it at the wait where it stands, and what it
raises goes to `on_failure`, because a node whose repair died unseen only looks whole. Nothing runs
inside `start` or `set`: the coroutine itself is made in its first pass, so a node that ends before
it leaves none behind that never ran.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from functools import partial
from typing import Any, Final, Generic, TypeVar

from storage.clock import Scheduler

T = TypeVar("T")
_NOT_SET: Final = object()


class Signal(Generic[T]):
    """A value that comes once; one procedure waits for it."""

    __slots__ = ("_value", "_waiter")

    def __init__(self) -> None:
        self._value: Any = _NOT_SET
        self._waiter: Callable[[], object] | None = None

    def set(self, value: T) -> None:
        assert self._value is _NOT_SET, "a signal is set once"
        self._value = value
        if self._waiter is not None:
            self._waiter()

    def __await__(self) -> Generator[Signal[T], None, T]:
        if self._value is _NOT_SET:
            yield self
        value: T = self._value
        return value

    def _wake(self, waiter: Callable[[], object]) -> None:
        assert self._waiter is None, "one procedure waits for a signal"
        self._waiter = waiter


Work = Callable[[], Coroutine[Any, Any, None]]


class _Procedure:
    __slots__ = ("name", "steps", "work")

    def __init__(self, work: Work, name: str) -> None:
        self.work: Final = work
        self.name: Final = name
        self.steps: Coroutine[Any, Any, None] | None = None
        """From its first pass on."""


class Procedures:
    def __init__(self, scheduler: Scheduler, on_failure: Callable[[BaseException], None]) -> None:
        self._scheduler = scheduler
        self._on_failure = on_failure
        self._running: dict[_Procedure, None] = {}
        self._stopped = False

    @property
    def running(self) -> list[str]:
        return [procedure.name for procedure in self._running]

    def start(self, work: Work, name: str) -> None:
        """Nothing, once it was stopped."""
        if self._stopped:
            return
        procedure = _Procedure(work, name)
        self._running[procedure] = None
        self._scheduler.call_soon(self._go_on, procedure)

    def pause(self, seconds: float) -> Signal[None]:
        signal: Signal[None] = Signal()
        self._scheduler.call_later(seconds, signal.set, None)
        return signal

    def stop(self) -> None:
        self._stopped = True
        for procedure in list(self._running):
            if procedure.steps is not None:
                procedure.steps.close()
        self._running.clear()

    def _go_on(self, procedure: _Procedure) -> None:
        if procedure not in self._running:
            return  # stopped meanwhile
        steps = procedure.steps
        try:
            if steps is None:
                steps = procedure.steps = procedure.work()
            signal: Signal[Any] = steps.send(None)
        except StopIteration:
            self._running.pop(procedure, None)
        except Exception as error:  # noqa: BLE001 - whatever it is, somebody has to know
            self._running.pop(procedure, None)
            self._on_failure(error)
        else:
            signal._wake(partial(self._scheduler.call_soon, self._go_on, procedure))
