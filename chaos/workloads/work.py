"""What every workload is: clients that run until they are told to stop, a last look, a verdict.

A workload's keys begin with its own prefix, so that several share a cluster. `finish` is called
once the cluster answers again, `judge` in a thread, after everything.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from chaos.calling import AFTER_FAILURE_S, Books, Caller, Told
from chaos.checkers.violation import Violation
from chaos.links import Door
from chaos.scenarios.scenario import Load

PAUSE_S: Final = 0.01
"""Of a client between two calls, on average."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What a workload is made from."""

    load: Load
    doors: Sequence[Door]
    books: Books
    seed: str
    drift: float = 0.0
    """The most by which clocks run wrong in this run."""
    divided: bool = False
    """Keys may lie in several shards."""


class Work(ABC):
    kind: ClassVar[str]
    judges_early: ClassVar[bool] = False
    """`judge` accuses nobody falsely without the last looks of `finish`."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.stopping = False
        self.steps = 0
        """That were done to their end."""
        self._numbers = itertools.count(1)

    @property
    def options(self) -> Mapping[str, Any]:
        return self.setting.load.options

    @property
    def slack(self) -> float:
        """The share of a lease's time on which nobody may rely: clocks may run wrong, and a
        process may wait for its turn."""
        return self.setting.drift + 0.05

    def caller(self, name: str) -> Caller:
        setting = self.setting
        return Caller(f"{self.kind}-{name}", setting.doors, setting.books, setting.seed)

    def number(self) -> int:
        return next(self._numbers)

    async def prepare(self) -> None:  # noqa: B027  most have nothing to do
        """Before the load."""

    def clients(self) -> list[Coroutine[Any, Any, None]]:
        return [self._client(number) for number in range(self.setting.load.clients)]

    async def _client(self, number: int) -> None:
        caller = self.caller(str(number))
        try:
            while not self.stopping:
                told = await self.step(caller)
                self.steps += told is not None and told.done
                if told is None or told.done or told.answer is not None:
                    await caller.pause(PAUSE_S)
                else:
                    await caller.pause(AFTER_FAILURE_S)
        finally:
            caller.close()

    @abstractmethod
    async def step(self, caller: Caller) -> Told | None:
        """One thing that a client does; what came of its last call."""

    async def finish(self) -> None:  # noqa: B027  most have nothing to do
        """After the calm: a last look at everything."""

    @abstractmethod
    def judge(self) -> list[Violation]: ...

    def history(self) -> Iterator[Mapping[str, Any]]:
        """One line each for the file."""
        return iter(())

    def figures(self) -> dict[str, int]:
        """What was done, in numbers."""
        return {}
