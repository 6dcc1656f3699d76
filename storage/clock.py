"""Time, dice and scheduling as arguments. Pure.

Nothing below the composition root asks the operating system what time it is or rolls its own dice:
it takes these protocols. In production they are the system's (storage/system_clock.py); in the
simulator they are virtual and seeded, so that one seed replays a run exactly.

`asyncio` event loops satisfy Scheduler; `random.Random` satisfies Rng.
"""

from __future__ import annotations

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


class ManualClock:
    """Stands still until it is told to go on: for tests and simulations."""

    def __init__(self, now_s: float = 0.0, wall_s: float = 1_700_000_000.0) -> None:
        self._now_s = now_s
        self._wall_s = wall_s

    def monotonic(self) -> float:
        return self._now_s

    def wall(self) -> float:
        return self._wall_s

    def advance(self, seconds: float) -> None:
        assert seconds >= 0
        self._now_s += seconds
        self._wall_s += seconds
