"""A bank: money moves between two accounts in one transaction, and the total never changes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any, Final

from chaos.calling import Caller, Told
from chaos.checkers.totals import Look, check_totals
from chaos.checkers.violation import Violation
from chaos.workloads.work import Setting, Work

PREFIX: Final = "bank/"
LOOKS: Final = 0.3


class BankWork(Work):
    kind = "bank"

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        count = int(self.options["accounts"])
        self._accounts = [f"{PREFIX}{number:04}" for number in range(count)]
        self._looks: list[Look] = []
        self._moved = 0

    @property
    def total(self) -> int:
        return len(self._accounts) * int(self.options["balance"])

    async def prepare(self) -> None:
        caller = self.caller("first")
        balance = str(self.options["balance"])
        puts = [{"op": "put", "key": each, "value": balance} for each in self._accounts]
        try:
            await caller.sure("POST", "/api/v1/txn", {"then": puts}, what="open the accounts")
        finally:
            caller.close()

    async def step(self, caller: Caller) -> Told:
        if caller.dice.random() < LOOKS:
            return await self._look(caller)
        source, target = caller.dice.sample(self._accounts, 2)
        gets = [{"op": "get", "key": source}, {"op": "get", "key": target}]
        told = await caller.call("POST", "/api/v1/txn", {"then": gets})
        if not told.done:
            return told
        one, other = told.json()["results"]
        if not (one["found"] and other["found"]):
            caller.books.defect(f"an account is gone: {one}, {other}")
            return told
        amount = min(caller.dice.randrange(1, 20), int(one["value"]))
        body = {
            "compare": [
                {"key": each["key"], "target": "version", "op": "=", "operand": each["version"]}
                for each in (one, other)
            ],
            "then": [
                {"op": "put", "key": source, "value": str(int(one["value"]) - amount)},
                {"op": "put", "key": target, "value": str(int(other["value"]) + amount)},
            ],
        }
        told = await caller.call("POST", "/api/v1/txn", body)
        self._moved += told.done and told.json()["succeeded"]
        return told

    async def _look(self, caller: Caller, *, sure: str = "") -> Told:
        body = {"then": [{"op": "range", "prefix": PREFIX}]}
        told = (
            await caller.sure("POST", "/api/v1/txn", body, door=sure, what="look at the accounts")
            if sure
            else await caller.call("POST", "/api/v1/txn", body)
        )
        if told.done:
            answer = told.json()
            keys = answer["results"][0]["keys"]
            balances = {each["key"]: int(each["value"]) for each in keys}
            look = Look(told.door, told.asked, told.at, answer["revision"], balances)
            self._looks.append(look)
        return told

    async def finish(self) -> None:
        caller = self.caller("last")
        try:
            for door in self.setting.doors:
                await self._look(caller, sure=door.name)
        finally:
            caller.close()

    def judge(self) -> list[Violation]:
        return check_totals(self._looks, self._accounts, self.total)

    def history(self) -> Iterator[Mapping[str, Any]]:
        return (asdict(look) for look in self._looks)

    def figures(self) -> dict[str, int]:
        return {"transfers": self._moved, "looks": len(self._looks)}
