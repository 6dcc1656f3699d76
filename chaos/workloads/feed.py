"""Watchers of keys that may come to lie in several shards: they go on by revision or by cursor,
whichever the last line had, at every node, beside writers of those keys.

Each round of a watcher's life begins where the last line left it; when it breaks off in between is
up to the dice.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping
from dataclasses import asdict
from typing import Any, Final
from urllib.parse import quote

from chaos.calling import CLOCK, SURE_S, Caller, Told
from chaos.checkers.feeds import Change, Wrote, check_feeds
from chaos.checkers.violation import Violation
from chaos.http import HttpClient, LostError, NotSentError
from chaos.links import Door
from chaos.raftcluster import StuckError
from chaos.workloads.work import Setting, Work

PREFIX: Final = "feed/"
BREAK_EVERY_S: Final = 4.0
AGAIN_S: Final = 0.05
CATCH_UP_S: Final = 30.0


class Follower:
    """Invariant: `changes` are in the order in which they came, and of whole lines only."""

    def __init__(self, door: Door, prefix: str) -> None:
        self.name = f"follower at {door.name}"
        self.changes: list[Change] = []
        self.last: dict[str, str | None] = {}
        self.breaks = 0
        self.cursors = 0
        """Lines that had one."""
        self.refusals: list[str] = []
        self._prefix = prefix
        self._where = "from=1"
        self._client = HttpClient(door.host, door.port)

    def break_off(self) -> None:
        self._client.close()

    async def run(self) -> None:
        """Until it is cancelled."""
        try:
            while True:
                path = f"/api/v1/watch?prefix={quote(self._prefix)}&progress=true&{self._where}"
                try:
                    async with self._client.stream("GET", path, headers={}) as lines:
                        await self._read(lines)
                except (LostError, NotSentError) as error:
                    self.refusals.append(str(error)[:300])
                self.breaks += 1
                await asyncio.sleep(AGAIN_S)
        finally:
            self._client.close()

    async def _read(self, lines: AsyncIterator[bytes]) -> None:
        async for line in lines:
            told = json.loads(line)
            if told["type"] == "cancelled":
                return
            for each in told.get("events", ()):
                change = Change(each["key"], told["revision"], each.get("value"))
                self.changes.append(change)
                self.last[change.key] = change.value
            if "cursor" in told:
                self.cursors += 1
                self._where = f"cursor={told['cursor']}"
            elif told["type"] != "created":
                self._where = f"from={told['revision'] + 1}"


class FeedWork(Work):
    kind = "feed"

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        prefix = f"{PREFIX}{setting.seed}/"
        self._keys = [f"{prefix}{number:03}" for number in range(int(self.options["keys"]))]
        self._written: list[Wrote] = []
        self._followers = [Follower(door, prefix) for door in setting.doors]
        self._following: list[asyncio.Task[None]] = []
        self._late: list[str] = []
        self._final: dict[str, str | None] = {}

    def clients(self) -> list[Coroutine[Any, Any, None]]:
        loop = asyncio.get_running_loop()
        self._following = [loop.create_task(each.run()) for each in self._followers]
        return [*super().clients(), self._break_them()]

    async def _break_them(self) -> None:
        caller = self.caller("breaker")
        while not self.stopping:
            average_s = BREAK_EVERY_S / len(self._followers)
            await asyncio.sleep(caller.dice.uniform(0.0, 2 * average_s))
            caller.dice.choice(self._followers).break_off()
            for task in self._following:
                if task.done():
                    task.result()

    async def step(self, caller: Caller) -> Told:
        key = caller.dice.choice(self._keys)
        path = f"/api/v1/keys/{key}"
        if caller.dice.random() < 0.15:
            told = await caller.call("DELETE", path, foreseen=(404,))
            if not told.done or told.json()["deleted"]:
                version = told.json()["version"] if told.done else 0
                self._written.append(Wrote(key, None, told.result, version))
            return told
        value = f"{caller.name}-{self.number()}"
        told = await caller.call("PUT", path, {"value": value})
        version = told.json()["version"] if told.done else 0
        self._written.append(Wrote(key, value, told.result, version))
        return told

    async def finish(self) -> None:
        """The last write of each key, and then everybody is told of it."""
        caller = self.caller("last")
        try:
            for key in self._keys:
                await self._write_last(caller, key)
        finally:
            caller.close()
        await self._catch_up()
        for task in self._following:
            task.cancel()
        await asyncio.wait(self._following)

    async def _write_last(self, caller: Caller, key: str) -> None:
        """Tries without an outcome are written down, too: each has a value of its own."""
        end = CLOCK.monotonic() + SURE_S
        while True:
            value = f"last-{self.number()}"
            told = await caller.call(
                "PUT", f"/api/v1/keys/{key}", {"value": value}, patient=True, counted=False
            )
            version = told.json()["version"] if told.done else 0
            self._written.append(Wrote(key, value, told.result, version))
            if told.done:
                break
            if CLOCK.monotonic() > end:
                raise StuckError(f"within {SURE_S:g} s {key} could not be written ({told.note})")
            await asyncio.sleep(0.1)
        read = await caller.sure("GET", f"/api/v1/keys/{key}", what=f"read {key}")
        self._final[key] = read.json()["value"] if read.status == 200 else None

    async def _catch_up(self) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + CATCH_UP_S
        while loop.time() < end:
            self._late = [
                f"{each.name}, last refused with: {' '.join(each.refusals[-1:])}"
                for each in self._followers
                if any(each.last.get(key) != value for key, value in self._final.items())
            ]
            if not self._late:
                return
            await asyncio.sleep(AGAIN_S)

    def judge(self) -> list[Violation]:
        found = []
        if self._late:
            message = f"late: not told everything within {CATCH_UP_S:g} s"
            found.append(Violation("feeds", message, tuple(self._late)))
        told = {each.name: each.changes for each in self._followers}
        return found + check_feeds(told, self._written, self._final)

    def history(self) -> Iterator[Mapping[str, Any]]:
        yield from (asdict(each) for each in self._written)
        for follower in self._followers:
            yield from ({"follower": follower.name, **asdict(c)} for c in follower.changes)

    def figures(self) -> dict[str, int]:
        return {
            "writes": len(self._written),
            "changes": sum(len(each.changes) for each in self._followers),
            "breaks": sum(each.breaks for each in self._followers),
            "cursors": sum(each.cursors for each in self._followers),
        }
