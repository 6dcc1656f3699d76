"""Watchers of both faces at every node, which break off and go on, beside writers that write,
delete and write two keys at once."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator, Mapping
from typing import Any, Final

from chaos.calling import Caller, Told
from chaos.checkers.violation import Violation
from chaos.checkers.watch import Event, Written, check_watches
from chaos.history import Result
from chaos.workloads.watchers import EtcdWatcher, RestWatcher, Watcher
from chaos.workloads.work import Setting, Work

PREFIX: Final = "watch/"
MARK: Final = f"{PREFIX}mark"
BREAK_EVERY_S: Final = 4.0
CATCH_UP_S: Final = 30.0


class WatchWork(Work):
    kind = "watch"

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._keys = [f"{PREFIX}k{number}" for number in range(int(self.options["keys"]))]
        self._written: list[Written] = []
        self._watchers: list[Watcher] = []
        self._late: list[str] = []
        self._listening: list[asyncio.Task[None]] = []
        self._upto = 0
        self._final: dict[str, str] = {}
        self._compacted = 0

    async def prepare(self) -> None:
        """All watchers begin at one revision."""
        caller = self.caller("first")
        try:
            revision = await self._mark(caller)
        finally:
            caller.close()
        kinds = (RestWatcher, EtcdWatcher)
        self._watchers = [
            kind(door, PREFIX, revision) for kind in kinds for door in self.setting.doors
        ]

    def clients(self) -> list[Coroutine[Any, Any, None]]:
        loop = asyncio.get_running_loop()
        self._listening = [loop.create_task(each.run()) for each in self._watchers]
        return [*super().clients(), self._break_them()]

    async def _break_them(self) -> None:
        caller = self.caller("breaker")
        while not self.stopping:
            await asyncio.sleep(caller.dice.uniform(0.0, 2 * BREAK_EVERY_S / len(self._watchers)))
            caller.dice.choice(self._watchers).break_off()
            self._raise_failures()

    def _raise_failures(self) -> None:
        for task in self._listening:
            if task.done() and not task.cancelled():
                task.result()

    async def step(self, caller: Caller) -> Told:
        key, name = caller.dice.choice(self._keys), f"{caller.name}-{self.number()}"
        (what,) = caller.dice.choices(("put", "delete", "pair"), (70, 15, 15))
        if what == "delete":
            told = await caller.call("DELETE", f"/api/v1/keys/{key}", foreseen=(404,))
            if told.done and not told.json()["deleted"]:
                return told
            self._note(name, (Event(key, None),), told, told.json()["version"] if told.done else 0)
        elif what == "pair":
            keys = caller.dice.sample(self._keys, min(2, len(self._keys)))
            events = tuple(Event(each, f"{name}-{each}") for each in keys)
            operations = [{"key": each.key, "value": each.value} for each in events]
            body = {"operations": operations, "atomic": True}
            told = await caller.call("POST", "/api/v1/batch/put", body)
            self._note(name, events, told, told.json()["results"][0]["version"] if told.done else 0)
        else:
            told = await caller.call("PUT", f"/api/v1/keys/{key}", {"value": name})
            self._note(name, (Event(key, name),), told, told.json()["version"] if told.done else 0)
        return told

    def _note(self, name: str, events: tuple[Event, ...], told: Told, revision: int) -> None:
        self._written.append(Written(name, events, told.result, revision or None))

    async def _mark(self, caller: Caller) -> int:
        """A write of whose revision we are sure; tries without an outcome are written down, too."""
        while True:
            value = f"mark-{self.number()}"
            told = await caller.call(
                "PUT", f"/api/v1/keys/{MARK}", {"value": value}, patient=True, counted=False
            )
            revision = int(told.json()["version"]) if told.done else 0
            self._note(value, (Event(MARK, value),), told, revision)
            if told.done:
                return revision
            await asyncio.sleep(0.1)

    async def finish(self) -> None:
        caller = self.caller("last")
        try:
            async with asyncio.timeout(CATCH_UP_S):
                self._upto = await self._mark(caller)
            path = f"/api/v1/keys?prefix={PREFIX}&values=true&limit=1000"
            told = await caller.sure("GET", path, what="read what is watched")
            self._final = {each["key"]: each["value"] for each in told.json()["keys"]}
            for door in self.setting.doors:
                told = await caller.sure(
                    "GET", "/api/v1/status", door=door.name, what="ask what was compacted"
                )
                self._compacted = max(self._compacted, int(told.json()["compact_revision"]))
        finally:
            caller.close()
        await self._caught_up()
        for task in self._listening:
            task.cancel()
        await asyncio.wait(self._listening)
        self._raise_failures()

    async def _caught_up(self) -> None:
        loop = asyncio.get_running_loop()
        waiting = {
            loop.create_task(watcher.told_up_to(self._upto)): watcher.name
            for watcher in self._watchers
        }
        _, late = await asyncio.wait(waiting, timeout=CATCH_UP_S)
        for task in late:
            task.cancel()
        self._late = sorted(waiting[task] for task in late)

    def judge(self) -> list[Violation]:
        found = []
        if self._late:
            message = f"not told revision {self._upto} within {CATCH_UP_S:g} s"
            found.append(Violation("watch", message, tuple(self._late)))
        return found + check_watches(
            {each.name: each.batches for each in self._watchers},
            self._written,
            upto=self._upto,
            marks={each.name: each.marks for each in self._watchers},
            gaps={each.name: each.gaps for each in self._watchers},
            final=self._final,
            compacted=self._compacted,
        )

    def history(self) -> Iterator[Mapping[str, Any]]:
        for each in self._written:
            events = {event.key: event.value for event in each.events}
            yield {"id": each.id, "events": events, "result": each.result.value,
                   "revision": each.revision}  # fmt: skip
        for watcher in self._watchers:
            for batch in watcher.batches:
                events = {event.key: event.value for event in batch.events}
                yield {"watcher": watcher.name, "revision": batch.revision, "events": events}
            for mark in watcher.marks:
                yield {"watcher": watcher.name, "promised": mark.revision, "behind": mark.batches}
            for first, last in watcher.gaps:
                yield {"watcher": watcher.name, "gone_from": first, "gone_to": last}
        yield {"final": self._final, "upto": self._upto, "compacted": self._compacted}

    def figures(self) -> dict[str, int]:
        return {
            "writes": sum(each.result is Result.DONE for each in self._written),
            "watchers": len(self._watchers),
            "events": sum(len(each.batches) for each in self._watchers),
            "breaks": sum(each.breaks for each in self._watchers),
        }
