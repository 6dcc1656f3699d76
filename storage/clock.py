"""Time, dice and scheduling as arguments.

Nothing below the composition root asks the operating system what time it is or rolls its own dice:
it takes these protocols. In production they are the system's; in the simulator they are virtual and
seeded, so that one seed replays a run exactly. This is the only file that may call `time`.

`asyncio` event loops satisfy Scheduler; `random.Random` satisfies Rng.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol


class Clock(Protocol):
    def monotonic(self) -> float:
        """Seconds that never go back; only differences mean something."""
        ...

    def wall(self) -> float:
        """Seconds since the Unix epoch, for people and for TTLs given as dates. May jump."""
        ...


class Rng(Protocol):
    def random(self) -> float: ...

    def randrange(self, start: int, stop: int, /) -> int: ...

    def uniform(self, a: float, b: float, /) -> float: ...

    def randbytes(self, n: int, /) -> bytes: ...


class Timer(Protocol):
    def cancel(self) -> None: ...


class Scheduler(Protocol):
    """The part of an event loop that cores may use."""

    def call_soon(self, callback: Callable[..., object], /, *args: Any) -> Timer: ...

    def call_later(
        self, delay_s: float, callback: Callable[..., object], /, *args: Any
    ) -> Timer: ...


class SystemClock:
    """The operating system's clock."""

    def monotonic(self) -> float:
        return time.monotonic()

    def wall(self) -> float:
        return time.time()
