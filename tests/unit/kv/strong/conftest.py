"""An event loop that runs when it is told to, on a clock that stands still meanwhile."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import pytest

from storage.clock import ManualClock


class Timer:
    def __init__(self) -> None:
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Loop:
    """A scheduler that runs when it is told to."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.soon: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self.later: list[tuple[float, Timer, Callable[..., object], tuple[Any, ...]]] = []

    def call_soon(self, callback: Callable[..., object], /, *args: Any) -> Timer:
        self.soon.append((callback, args))
        return Timer()

    def call_later(self, delay_s: float, callback: Callable[..., object], /, *args: Any) -> Timer:
        timer = Timer()
        self.later.append((self.clock.monotonic() + delay_s, timer, callback, args))
        return timer

    def run(self) -> None:
        while self.soon:
            callback, args = self.soon.popleft()
            callback(*args)

    def advance(self, seconds: float) -> None:
        until_s = self.clock.monotonic() + seconds
        self.run()
        while due := sorted((e for e in self.later if e[0] <= until_s), key=lambda e: e[0]):
            self.later.remove(due[0])
            self.clock.advance(max(0.0, due[0][0] - self.clock.monotonic()))
            if not due[0][1].cancelled:
                due[0][2](*due[0][3])
            self.run()
        self.clock.advance(until_s - self.clock.monotonic())


@pytest.fixture
def loop() -> Loop:
    return Loop(ManualClock())
