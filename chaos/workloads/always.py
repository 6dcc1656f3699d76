"""Leaderless workloads: values with contexts, deletions, carts that are merged, counters.

At the end every key is read at every node with R = 1 until all show the same, or the time for that
is up; reads repair, hints are handed over, and what differs then differs for good.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final, TypeVar

from chaos.calling import CLOCK, Caller, Told
from chaos.checkers.survival import SessionRead, Write, check_counters, check_survival
from chaos.checkers.violation import Violation
from chaos.history import Result
from chaos.workloads.work import Setting, Work

T = TypeVar("T")
CONVERGE_S: Final = 60.0
LOOK_AGAIN_S: Final = 0.5
REFUSED: Final = (409,)
"""Too many siblings: an answer, not a defect."""
ITEM_END: Final = ","
ITEMS: Final = 150
"""Of a cart; then another one is filled."""


class ValueWork(Work):
    """Values that are written blindly or over what was read, deletions of what was read."""

    kind = "unique"
    deletes = 0.1

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        count = int(self.options["keys"])
        self._keys = [f"{self.kind}/{setting.seed}/{number}" for number in range(count)]
        self._writes: list[Write] = []
        self._reads: list[SessionRead] = []
        self._final: dict[str, dict[str, frozenset[str]]] = {}
        self._own: dict[tuple[str, str], Write] = {}
        """By client and key: its last acknowledged write or deletion."""
        self._tokens: dict[str, str] = {}

    async def step(self, caller: Caller) -> Told:
        key = caller.dice.choice(self._keys)
        if caller.dice.random() < 0.1:
            return await self._write(caller, key, "", frozenset())
        told, values, context = await self._read(caller, key)
        if not told.done or caller.dice.random() < 0.3:
            return told
        if values and caller.dice.random() < self.deletes:
            told = await self._delete(caller, key, context, values)
        else:
            told = await self._write(caller, key, context, values)
        if told.done and caller.dice.random() < 0.5:  # is it there, is it gone?
            told, _, _ = await self._read(caller, key)
        return told

    async def _read(self, caller: Caller, key: str) -> tuple[Told, frozenset[str], str]:
        headers = {"Session-Token": self._tokens.get(caller.name, "new")}
        told = await caller.call("GET", f"/api/v1/keys/{key}", headers=headers)
        if not told.done:
            return told, frozenset(), ""
        self._keep(caller, told)
        values, context = shown(told)
        own = self._own.get((caller.name, key))
        if own is not None:
            who, when = (caller.name, key, told.door), (told.asked, told.at)
            self._reads.append(SessionRead(*who, *when, values, own.value, own.replaced))
        return told, values, context

    async def _write(
        self, caller: Caller, key: str, context: str, replaced: frozenset[str]
    ) -> Told:
        write = self._begin(caller, key, f"{caller.name}.{self.number()}", replaced)
        body = {"value": write.value, **({"context": context} if context else {})}
        return await self._send(caller, "PUT", write, body)

    async def _delete(
        self, caller: Caller, key: str, context: str, replaced: frozenset[str]
    ) -> Told:
        write = self._begin(caller, key, None, replaced)
        return await self._send(caller, "DELETE", write, {"context": context})

    def _begin(
        self, caller: Caller, key: str, value: str | None, replaced: frozenset[str]
    ) -> Write:
        write = Write(caller.name, key, value, replaced, CLOCK.monotonic())
        self._writes.append(write)
        return write

    async def _send(
        self, caller: Caller, method: str, write: Write, body: Mapping[str, Any]
    ) -> Told:
        headers = {"Session-Token": self._tokens.get(caller.name, "new")}
        path = f"/api/v1/keys/{write.key}"
        told = await caller.call(method, path, body, headers=headers, foreseen=REFUSED)
        write.result, write.answered = told.result, told.at
        if told.done:
            self._keep(caller, told)
            self._own[caller.name, write.key] = write
        return told

    def _keep(self, caller: Caller, told: Told) -> None:
        assert told.answer is not None
        token = told.answer.headers.get("session-token")
        if token:
            self._tokens[caller.name] = token

    async def finish(self) -> None:
        self._final = await converged(self, self._keys, lambda told: shown(told)[0])

    def judge(self) -> list[Violation]:
        return check_survival(self._writes, self._final, self._reads)

    def history(self) -> Iterator[Mapping[str, Any]]:
        yield from (asdict(write) for write in self._writes)
        for key, nodes in self._final.items():
            yield {"final": key, **{node: sorted(values) for node, values in nodes.items()}}

    def figures(self) -> dict[str, int]:
        return {"writes": len(self._writes), "session_reads": len(self._reads)}


class DeleteWork(ValueWork):
    """Mostly deletions: what was deleted stays so, through hints, repair and reaping."""

    kind = "deletes"
    deletes = 0.6


class CartWork(Work):
    """A cart is read, its siblings are merged, an item is put in, and it is written back."""

    kind = "carts"

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._carts = [0] * int(self.options["keys"])
        self._items: list[Write] = []
        self._final: dict[str, dict[str, frozenset[str]]] = {}

    async def step(self, caller: Caller) -> Told:
        slot = caller.dice.randrange(len(self._carts))
        key = f"carts/{self.setting.seed}/{slot}-{self._carts[slot]}"
        told = await caller.call("GET", f"/api/v1/keys/{key}")
        if not told.done:
            return told
        values, context = shown(told)
        items = items_of(values)
        if len(items) >= ITEMS:
            self._carts[slot] += 1
            return told
        item = f"{caller.name}.{self.number()}"
        added = Write(caller.name, key, item, frozenset(), CLOCK.monotonic())
        self._items.append(added)
        body = {"value": ITEM_END.join(sorted({*items, item}))}
        if context:
            body["context"] = context
        told = await caller.call("PUT", f"/api/v1/keys/{key}", body, foreseen=REFUSED)
        added.result, added.answered = told.result, told.at
        return told

    async def finish(self) -> None:
        keys = sorted({each.key for each in self._items})
        self._final = await converged(self, keys, lambda told: items_of(shown(told)[0]))

    def judge(self) -> list[Violation]:
        """An item is never replaced: whoever writes a cart puts back what it read."""
        return check_survival(self._items, self._final)

    def history(self) -> Iterator[Mapping[str, Any]]:
        return (asdict(each) for each in self._items)

    def figures(self) -> dict[str, int]:
        return {"items": len(self._items), "carts": len(self._final)}


class CounterWork(Work):
    kind = "counters"

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._keys = [
            f"counters/{setting.seed}/{number}" for number in range(int(self.options["keys"]))
        ]
        self._certain = dict.fromkeys(self._keys, 0)
        self._unknown = dict.fromkeys(self._keys, 0)
        self._final: dict[str, dict[str, int]] = {}

    async def step(self, caller: Caller) -> Told:
        key, delta = caller.dice.choice(self._keys), caller.dice.randrange(1, 4)
        told = await caller.call(
            "POST", f"/api/v1/keys/{key}/incr", {"delta": delta}, foreseen=REFUSED
        )
        if told.done:
            self._certain[key] += delta
        elif told.result is Result.UNKNOWN:
            self._unknown[key] += delta
        return told

    async def finish(self) -> None:
        def value(told: Told) -> int:
            return int(told.json()["value"]) if told.status == 200 else 0

        self._final = await converged(self, self._keys, value)

    def judge(self) -> list[Violation]:
        counts = {key: (self._certain[key], self._unknown[key]) for key in self._keys}
        return check_counters(counts, self._final)

    def history(self) -> Iterator[Mapping[str, Any]]:
        for key in self._keys:
            yield {
                "counter": key,
                "certain": self._certain[key],
                "unknown": self._unknown[key],
                "final": self._final.get(key),
            }

    def figures(self) -> dict[str, int]:
        return {"counted": sum(self._certain.values()), "unknown": sum(self._unknown.values())}


# --- what answers say -----------------------------------------------------------------------------


def shown(told: Told) -> tuple[frozenset[str], str]:
    """(values, context) of a read."""
    answer = told.json()
    if told.status == 404:
        return frozenset(), answer.get("context", "")
    if "siblings" in answer:
        return frozenset(each["value"] for each in answer["siblings"]), answer["context"]
    return frozenset({answer["value"]}), answer["context"]


def items_of(values: frozenset[str]) -> frozenset[str]:
    return frozenset(item for value in values for item in value.split(ITEM_END) if item)


async def converged(
    work: Work, keys: Sequence[str], value: Callable[[Told], T]
) -> dict[str, dict[str, T]]:
    """What each node shows of each key with R = 1, once all show the same or the time is up."""
    caller = work.caller("last")
    end = CLOCK.monotonic() + CONVERGE_S
    final: dict[str, dict[str, T]] = {}
    try:
        waiting = list(keys)
        while waiting:
            for key in waiting:
                final[key] = {}
                for door in work.setting.doors:
                    told = await caller.sure(
                        "GET", f"/api/v1/keys/{key}?r=1", door=door.name, what=f"read {key}"
                    )
                    final[key][door.name] = value(told)
            waiting = [key for key in waiting if len(set(final[key].values())) > 1]
            if CLOCK.monotonic() > end:
                break
            if waiting:
                await asyncio.sleep(LOOK_AGAIN_S)
    finally:
        caller.close()
    return final
