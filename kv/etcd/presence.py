"""Who of the callers that wait is still there: locks, elections and streams ask for it.

aiohttp does not tell a handler that waits for something else than its client that the client hung
up. One timer looks after all of them, because there may be thousands, and runs only while there is
someone to look after.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Final

from aiohttp import web

Notify = Callable[[], None]


class Caller:
    """The client of one call; `with` keeps an eye on it. `notify` is called once, when it went."""

    __slots__ = ("_presence", "is_gone", "notify", "request")

    def __init__(self, presence: Presence, request: web.BaseRequest) -> None:
        self._presence = presence
        self.request: Final = request
        self.notify: Notify | None = None
        self.is_gone = False

    def look(self) -> None:
        transport = self.request.transport
        if not self.is_gone and (transport is None or transport.is_closing()):
            self.is_gone = True
            if self.notify is not None:
                self.notify()

    def __enter__(self) -> Caller:
        self._presence.add(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._presence.remove(self)


class Presence:
    def __init__(self, every_s: float) -> None:
        self._every_s: Final = every_s
        self._callers: dict[Caller, None] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._callers)

    def of(self, request: web.BaseRequest) -> Caller:
        return Caller(self, request)

    def add(self, caller: Caller) -> None:
        self._callers[caller] = None
        self._arm()

    def remove(self, caller: Caller) -> None:
        self._callers.pop(caller, None)
        if not self._callers and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self) -> None:
        if self._timer is None and self._callers:
            self._timer = asyncio.get_running_loop().call_later(self._every_s, self._look)

    def _look(self) -> None:
        self._timer = None
        for caller in list(self._callers):
            caller.look()
        self._arm()
