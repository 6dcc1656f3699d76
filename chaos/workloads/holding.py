"""What is held for a time: a lock with its fencing token, and keys on leases.

A holder writes what the lock guards in a transaction that asks whether the lock's key is still the
one of its token; so a holder that lost the lock without knowing it writes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any, Final
from urllib.parse import quote

from chaos.calling import CLOCK, Caller, Told
from chaos.checkers.fencing import Guarded, Holding, check_fencing
from chaos.checkers.leases import Kept, check_leases
from chaos.checkers.violation import Violation
from chaos.workloads.work import Setting, Work

LOCK: Final = "lock-of-all"
GUARDED: Final = "guarded/by-the-lock"
WAIT_S: Final = 2
WRITES: Final = 4
"""Of a holder, at most."""
LEASE_PREFIX: Final = "leased/"
RENEWALS: Final = 13
"""Of a lease, fewer: about as often it lives on by them as it would have lived without."""
OVER_S: Final = 20.0
"""How long after their time keys of leases may stay at most."""


class LockWork(Work):
    kind = "lock"
    judges_early = True

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._holdings: list[Holding] = []
        self._writes: list[Guarded] = []

    async def step(self, caller: Caller) -> Told:
        ttl_s = int(self.options["ttl_s"])
        body = {"ttl": ttl_s, "wait_seconds": WAIT_S, "owner": caller.name}
        told = await caller.call(
            "POST", f"/api/v1/locks/{LOCK}", body, foreseen=(409,), patient=True
        )
        if not told.done:
            return told
        lock = told.json()
        holding = Holding(caller.name, lock["token"], told.asked, told.at, told.at)
        self._holdings.append(holding)
        for _ in range(caller.dice.randrange(WRITES + 1)):
            if not await self._renew(caller, holding, lock["lease"], ttl_s):
                break
            await self._write(caller, holding, lock["key"])
            await caller.pause(0.02)
        if caller.dice.random() < 0.9:  # else it is forgotten, and its time must end it
            holding.ended = CLOCK.monotonic()
            path = f"/api/v1/locks/{LOCK}?key={quote(lock['key'], safe='')}"
            return await caller.call("DELETE", path, foreseen=(404, 409))
        return told

    async def _renew(self, caller: Caller, holding: Holding, lease: str, ttl_s: int) -> bool:
        told = await caller.call("POST", f"/api/v1/leases/{lease}/keepalive", foreseen=(404,))
        if told.done:
            covered = told.asked + ttl_s * (1 - self.slack)
            holding.covered_until = max(holding.covered_until, covered)
        elif told.status == 404:
            holding.lost_at.append((told.asked, told.at))
        return told.done

    async def _write(self, caller: Caller, holding: Holding, key: str) -> None:
        body = {
            "compare": [{"key": key, "target": "create", "op": "=", "operand": holding.token}],
            "then": [{"op": "put", "key": GUARDED, "value": str(holding.token)}],
        }
        told = await caller.call("POST", "/api/v1/txn", body)
        if told.done:
            answer = told.json()
            if answer["succeeded"]:
                version = answer["results"][0]["version"]
                self._writes.append(Guarded(caller.name, holding.token, version))
            else:
                holding.lost_at.append((told.asked, told.at))

    def judge(self) -> list[Violation]:
        return check_fencing(self._holdings, self._writes)

    def history(self) -> Iterator[Mapping[str, Any]]:
        yield from (asdict(holding) for holding in self._holdings)
        yield from (asdict(write) for write in self._writes)

    def figures(self) -> dict[str, int]:
        return {"holdings": len(self._holdings), "guarded_writes": len(self._writes)}


class LeaseWork(Work):
    kind = "lease"
    judges_early = True

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._kept: list[Kept] = []
        self._left_over: set[str] = set()

    async def step(self, caller: Caller) -> Told:
        """One lease, from its grant until it is revoked or forgotten."""
        told = await caller.call("POST", "/api/v1/leases", {"ttl": int(self.options["ttl_s"])})
        if not told.done:
            return told
        lease, ttl_s, granted = told.json()["id"], float(told.json()["ttl"]), told
        key = f"{LEASE_PREFIX}{caller.name}-{self.number()}"
        covered_until = granted.asked + ttl_s * (1 - self.slack)
        body = {"value": lease, "lease": lease}
        told = await caller.call("PUT", f"/api/v1/keys/{key}", body, foreseen=(404,))
        if told.status == 404:
            refused = [(told.asked, told.at)]
            each = Kept(lease, key, granted.at, covered_until, refused_at=refused)
            self._kept.append(each)
        if not told.done:
            return told
        each = Kept(lease, key, told.at, covered_until)
        self._kept.append(each)
        for _ in range(caller.dice.randrange(1, RENEWALS)):
            await self._renew(caller, each)
            await self._look(caller, each)
            await caller.pause(ttl_s / 6)
            if self.stopping:
                break
        if caller.dice.random() < 0.5:
            await self._end(caller, each)
        return told

    async def _renew(self, caller: Caller, each: Kept) -> None:
        told = await caller.call("POST", f"/api/v1/leases/{each.lease}/keepalive", foreseen=(404,))
        if told.done:
            covers_s = float(told.json()["ttl"]) * (1 - self.slack)
            each.renewed(told.asked, told.at, covers_s)
        elif told.status == 404:
            each.refused_at.append((told.asked, told.at))

    async def _look(self, caller: Caller, each: Kept) -> None:
        told = await caller.call("GET", f"/api/v1/keys/{each.key}")
        if told.done:
            looks = each.gone_at if told.status == 404 else each.there_at
            looks.append((told.asked, told.at))

    async def _end(self, caller: Caller, each: Kept) -> None:
        """And looks whether it is."""
        each.ended = CLOCK.monotonic()
        told = await caller.call("DELETE", f"/api/v1/leases/{each.lease}", foreseen=(404,))
        if told.done:
            each.over = told.at
        await self._look(caller, each)
        await self._renew(caller, each)

    async def finish(self) -> None:
        """Wait until the last of them must be over."""
        caller = self.caller("last")
        end = CLOCK.monotonic() + int(self.options["ttl_s"]) * (1 + self.slack) + OVER_S
        path = f"/api/v1/keys?prefix={LEASE_PREFIX}&limit=1000"
        try:
            while True:
                told = await caller.sure("GET", path, what="list the keys of leases")
                self._left_over = {each["key"] for each in told.json()["keys"]}
                if not self._left_over or CLOCK.monotonic() > end:
                    return
                await asyncio.sleep(0.5)
        finally:
            caller.close()

    def judge(self) -> list[Violation]:
        return check_leases(self._kept, self._left_over, one_shard=not self.setting.divided)

    def history(self) -> Iterator[Mapping[str, Any]]:
        return (asdict(each) for each in self._kept)

    def figures(self) -> dict[str, int]:
        return {"leases": len(self._kept)}
