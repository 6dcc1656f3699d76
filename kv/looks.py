"""Looks at something that changes by itself, until it is as wanted or the time is over.

    async for number in Looks(within_s, every_s):       0 at once, 1, 2, ... one each `every_s`
        if it is so:
            return ...
    what to say if it never was

The time is over by the loop's clock, not by the count: a look may itself wait for an answer. One
that has begun is never cut off, so what it asks for is bounded on its own.
"""

from __future__ import annotations

import asyncio


class Looks:
    __slots__ = ("_every_s", "_number", "_until_s", "_within_s")

    def __init__(self, within_s: float, every_s: float) -> None:
        self._within_s = within_s
        self._every_s = every_s
        self._number = -1
        self._until_s = 0.0

    def __aiter__(self) -> Looks:
        return self

    async def __anext__(self) -> int:
        loop = asyncio.get_running_loop()
        if self._number < 0:
            self._until_s = loop.time() + self._within_s
        elif loop.time() >= self._until_s:
            raise StopAsyncIteration
        else:
            await asyncio.sleep(min(self._every_s, self._until_s - loop.time()))
        self._number += 1
        return self._number
