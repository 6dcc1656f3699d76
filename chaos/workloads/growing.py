"""Two collections that grow: a set of keys that is listed, and lists in one value each.

Both begin anew once they are long, so that a look stays cheap; each generation is judged by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any, Final

from chaos.calling import CLOCK, Caller, Told
from chaos.checkers.linearizability import check_history
from chaos.checkers.sets import Add, SetLook, check_set
from chaos.checkers.violation import Violation
from chaos.history import History, Kind, Operation, Result
from chaos.workloads.work import Setting, Work

SET_PREFIX: Final = "set/"
LIST_PREFIX: Final = "list/"
MEMBERS: Final = 300
"""Of one set; the listing of all of them is one page."""
LOOKS: Final = 0.25
"""The share of looks among what clients do."""


class SetWork(Work):
    """`PUT` of a key that must not exist adds, a listing of the prefix looks."""

    kind = "set"
    judges_early = True

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._adds: list[list[Add]] = [[]]
        self._looks: list[list[SetLook]] = [[]]

    async def step(self, caller: Caller) -> Told:
        generation = len(self._adds) - 1
        if caller.dice.random() < LOOKS:
            return await self._look(caller, max(0, generation - caller.dice.randrange(2)))
        if len(self._adds[generation]) >= MEMBERS:
            self._adds.append([])
            self._looks.append([])
            generation += 1
        member = f"{SET_PREFIX}{generation}/{caller.name}-{self.number()}"
        add = Add(member, CLOCK.monotonic())
        self._adds[generation].append(add)
        body = {"value": member, "if_not_exists": True}
        told = await caller.call("PUT", f"/api/v1/keys/{member}", body)
        add.result, add.answered = told.result, told.at if told.done else None
        return told

    async def _look(self, caller: Caller, generation: int, *, sure: str = "") -> Told:
        path = f"/api/v1/keys?prefix={SET_PREFIX}{generation}/&limit=1000"
        told = (
            await caller.sure("GET", path, door=sure, what="list a set")
            if sure
            else await caller.call("GET", path)
        )
        if told.done:
            answer = told.json()
            if answer["has_more"]:
                caller.books.defect(f"a page of 1000 does not hold {len(answer['keys'])} members")
            members = frozenset(each["key"] for each in answer["keys"])
            self._looks[generation].append(SetLook(told.door, told.asked, told.at, members))
        return told

    async def finish(self) -> None:
        caller = self.caller("last")
        try:
            for generation in range(len(self._adds)):
                for door in self.setting.doors:
                    await self._look(caller, generation, sure=door.name)
        finally:
            caller.close()

    def judge(self) -> list[Violation]:
        both = zip(self._adds, self._looks, strict=True)
        return [violation for adds, looks in both for violation in check_set(adds, looks)]

    def history(self) -> Iterator[Mapping[str, Any]]:
        for adds, looks in zip(self._adds, self._looks, strict=True):
            yield from (asdict(add) for add in adds)
            for look in looks:
                yield {**asdict(look), "members": len(look.members)}

    def figures(self) -> dict[str, int]:
        return {"adds": sum(map(len, self._adds)), "looks": sum(map(len, self._looks))}


class ListWork(Work):
    """A list is one value of elements that end in a comma; appending is a compare-and-set."""

    kind = "list"
    judges_early = True

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self.log = History()
        self._generations = [0] * int(self.options["keys"])

    async def step(self, caller: Caller) -> Told:
        slot = caller.dice.randrange(len(self._generations))
        key = f"{LIST_PREFIX}{slot}-{self._generations[slot]}"
        told, value, version = await self._read(caller, key)
        if not told.done or caller.dice.random() < LOOKS:
            return told
        if (value or "").count(",") >= int(self.options["length"]):
            self._generations[slot] += 1
            return told
        return await self._append(caller, key, value or "", version)

    async def _read(
        self, caller: Caller, key: str, *, sure: str = ""
    ) -> tuple[Told, str | None, int]:
        path = f"/api/v1/keys/{key}"
        told = (
            await caller.sure("GET", path, door=sure, what=f"read {key}")
            if sure
            else await caller.call("GET", path)
        )
        if not told.done:
            return told, None, 0
        value, version = None, 0
        if told.status == 200:
            answer = told.json()
            value, version = answer["value"], answer["version"]
        operation = self._operation(caller, told.door, key, Kind.READ, told.asked)
        self.log.done(self.log.invoke(operation), told.at, value)
        return told, value, version

    async def _append(self, caller: Caller, key: str, before: str, version: int) -> Told:
        door = caller.any_door()
        element = f"{caller.name}.{self.number()},"
        operation = self._operation(caller, door, key, Kind.APPEND, CLOCK.monotonic())
        operation.value = element
        self.log.invoke(operation)
        body = {"expected_version": version, "new_value": before + element}
        told = await caller.call("POST", f"/api/v1/keys/{key}/cas", body, door=door)
        if told.done and told.json()["success"]:
            self.log.done(operation, told.at, before + element)
        elif told.done or told.result is Result.FAILED:
            self.log.failed(operation, told.at, told.note or "it had changed")
        else:
            self.log.unknown(operation, told.note)
        return told

    def _operation(
        self, caller: Caller, door: str, key: str, kind: Kind, asked: float
    ) -> Operation:
        return Operation(f"op-{len(self.log.operations)}", caller.name, door, key, kind, asked)

    async def finish(self) -> None:
        caller = self.caller("last")
        try:
            for slot, generation in enumerate(self._generations):
                for door in self.setting.doors:
                    await self._read(caller, f"{LIST_PREFIX}{slot}-{generation}", sure=door.name)
        finally:
            caller.close()

    def judge(self) -> list[Violation]:
        return [violation for _, ops in self.log.by_key() for violation in check_history(ops)]

    def history(self) -> Iterator[Mapping[str, Any]]:
        return (asdict(operation) for operation in self.log.operations)

    def figures(self) -> dict[str, int]:
        appends = sum(each.kind is Kind.APPEND for each in self.log.operations)
        return {"appends": appends, "reads": len(self.log.operations) - appends}
