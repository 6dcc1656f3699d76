"""A bank: money moves between two accounts in one transaction, and the total never changes.

The accounts may live in several shards. The value of one is `BALANCE:TURN`; checkers/totals.py says
what the turns are for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any, Final

from chaos.calling import Caller, Told
from chaos.checkers.totals import Look, Transfer, check_totals
from chaos.checkers.violation import Violation
from chaos.history import Result
from chaos.workloads.work import Setting, Work

PREFIX: Final = "bank/"
LOOKS: Final = 0.3


class BankWork(Work):
    kind = "bank"
    judges_early = True

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        count = int(self.options["accounts"])
        self._accounts = [f"{PREFIX}{number:04}" for number in range(count)]
        self._looks: list[Look] = []
        self._transfers: list[Transfer] = []

    @property
    def total(self) -> int:
        return len(self._accounts) * int(self.options["balance"])

    async def prepare(self) -> None:
        caller = self.caller("first")
        value = written(int(self.options["balance"]), 0)
        try:
            for each in self._accounts:
                path = f"/api/v1/keys/{each}"
                await caller.sure("PUT", path, {"value": value}, what="open an account")
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
        (has, one_turn), (gets_more, other_turn) = read(one["value"]), read(other["value"])
        amount = min(caller.dice.randrange(1, 20), has)
        body = {
            "compare": [
                {"key": each["key"], "target": "version", "op": "=", "operand": each["version"]}
                for each in (one, other)
            ],
            "then": [
                {"op": "put", "key": source, "value": written(has - amount, one_turn + 1)},
                {"op": "put", "key": target, "value": written(gets_more + amount, other_turn + 1)},
            ],
        }
        told = await caller.call("POST", "/api/v1/txn", body)
        if told.result is Result.UNKNOWN or (told.done and told.json()["succeeded"]):
            turns = {source: one_turn + 1, target: other_turn + 1}
            balances = {source: has - amount, target: gets_more + amount}
            transfer = Transfer(told.at, turns, balances, told.asked, told.result)
            self._transfers.append(transfer)
        return told

    async def _look(self, caller: Caller, *, sure: str = "") -> Told:
        body = {"then": [{"op": "range", "prefix": PREFIX}]}
        told = (
            await caller.sure("POST", "/api/v1/txn", body, door=sure, what="look at the accounts")
            if sure
            else await caller.call("POST", "/api/v1/txn", body)
        )
        if told.done:
            keys = told.json()["results"][0]["keys"]
            found = {each["key"]: read(each["value"]) for each in keys}
            balances = {account: balance for account, (balance, _) in found.items()}
            turns = {account: turn for account, (_, turn) in found.items()}
            self._looks.append(Look(told.door, told.asked, told.at, balances, turns))
        return told

    async def finish(self) -> None:
        caller = self.caller("last")
        try:
            for door in self.setting.doors:
                await self._look(caller, sure=door.name)
        finally:
            caller.close()

    def judge(self) -> list[Violation]:
        opened = int(self.options["balance"])
        return check_totals(self._looks, self._accounts, self.total, self._transfers, opened=opened)

    def history(self) -> Iterator[Mapping[str, Any]]:
        yield from (asdict(look) for look in self._looks)
        yield from (asdict(transfer) for transfer in self._transfers)

    def figures(self) -> dict[str, int]:
        done = sum(each.result is Result.DONE for each in self._transfers)
        return {"transfers": done, "looks": len(self._looks)}


def written(balance: int, turn: int) -> str:
    return f"{balance}:{turn}"


def read(value: str) -> tuple[int, int]:
    balance, _, turn = value.partition(":")
    return int(balance), int(turn)
