"""Clients that retry until it is done: increments with an idempotency key, at any node.

What a user of JanusKV is told to do: every write carries `client:sequence`, and whatever does not
answer 200 is asked again, at another node, with the same key. Then nothing fails and nothing is
done twice: after k increments the client's own counter says k, each time.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from chaos.http import Answer, HttpClient, LostError, NotSentError
from chaos.server import Server
from chaos.servers import CLOCK

RETRIED: Final = frozenset({429, 503, 504})
AGAIN_S: Final = 0.05
GIVE_UP_S: Final = 30.0
SHARED: Final = "counters/shared"


@dataclass(slots=True)
class Counts:
    """Of all clients."""

    increments: int = 0
    """Acknowledged, own and shared ones together."""
    shared: int = 0
    retries: Counter[str] = field(default_factory=Counter)
    """By reason."""
    slowest_s: float = 0.0
    failures: list[str] = field(default_factory=list)


class Incrementer:
    """One client: it adds one to a counter of its own, and to one that all share, in turns."""

    def __init__(self, number: int, servers: Sequence[Server], counts: Counts, seed: str) -> None:
        self.name = f"incrementer-{seed}-{number}"
        self.own = 0
        self.stopping = False
        self._counts = counts
        self._dice = random.Random(f"{seed} {number}")
        self._clients = [HttpClient(each.host, each.port) for each in servers]
        self._sequence = 0

    @property
    def key(self) -> str:
        return f"counters/{self.name}"

    async def run(self, pause_s: float) -> None:
        try:
            while not self.stopping:
                value = await self._increment(self.key)
                self.own += 1
                if value != self.own:
                    self._counts.failures.append(f"{self.key} is {value} after {self.own} times")
                await self._increment(SHARED)
                self._counts.shared += 1
                await asyncio.sleep(self._dice.uniform(0.0, 2 * pause_s))
        finally:
            for client in self._clients:
                client.close()

    async def _increment(self, key: str) -> int:
        self._sequence += 1
        headers = {"Idempotency-Key": f"{self.name}:{self._sequence}:{self._sequence - 1}"}
        began = CLOCK.monotonic()
        while True:
            answer = await self._try(self._dice.choice(self._clients), key, headers)
            took_s = CLOCK.monotonic() - began
            if answer is not None and answer.status == 200:
                self._counts.increments += 1
                self._counts.slowest_s = max(self._counts.slowest_s, took_s)
                return int(answer.json()["value"])
            if answer is not None and answer.status not in RETRIED:
                self._fail(f"{key}: {answer.status} {answer.body.decode(errors='replace')}")
            if took_s > GIVE_UP_S:
                self._fail(f"{key}: not done within {GIVE_UP_S:g} s")
            await asyncio.sleep(AGAIN_S)

    async def _try(self, client: HttpClient, key: str, headers: dict[str, str]) -> Answer | None:
        try:
            answer = await client.call("POST", f"/api/v1/keys/{key}/incr", {}, headers=headers)
        except (NotSentError, LostError) as error:
            self._counts.retries[type(error).__name__] += 1
            return None
        if answer.status != 200:
            self._counts.retries[str(answer.status)] += 1
        return answer

    def _fail(self, what: str) -> None:
        self._counts.failures.append(f"{self.name}: {what}")
        raise AssertionError(f"{self.name}: {what}")
