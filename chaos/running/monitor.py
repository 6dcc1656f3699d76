"""Watches the nodes during a run: who leads, who is down, whose process ended unasked, and into how
many shards the keys lie."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Any, Final

from chaos.calling import CLOCK
from chaos.faults.operating import SHARDS
from chaos.http import HttpClient, LostError, NotSentError
from chaos.running.ranges import Ranges
from chaos.servers import Servers

EVERY_S: Final = 0.25
SHARDS_EVERY: Final = 4
"""Looks."""
ANSWER_S: Final = 0.5
MARKS: Final = {"leader": "leads", "follower": "follows", "candidate": "asks for votes"}


class Monitor:
    """Invariant: `ended` names each end of a process that no fault asked for, once."""

    def __init__(self, servers: Servers, down: Collection[str]) -> None:
        """`down`: who is meant to be down; it changes while this runs."""
        self._servers, self._down = servers, down
        self.states: dict[str, str] = dict.fromkeys(servers.nodes, "starts")
        self.leaders: list[tuple[float, str]] = []
        self.ended: list[str] = []
        self.ranges = Ranges()
        self._terms: dict[str, int] = {}
        self._seen_ended: set[int] = set()

    def role_of(self, name: str) -> str:
        return self.states[name]

    async def run(self) -> None:
        """Until it is cancelled."""
        clients = {
            name: HttpClient(server.host, server.port)
            for name, server in self._servers.nodes.items()
        }
        try:
            for number in itertools.count():
                await asyncio.gather(
                    *(self._look(name, client) for name, client in clients.items())
                )
                self._note_leader()
                if number % SHARDS_EVERY == 0 and self.leaders:
                    await self._look_at_shards(clients)
                await asyncio.sleep(EVERY_S)
        finally:
            for client in clients.values():
                client.close()

    async def _look(self, name: str, client: HttpClient) -> None:
        server = self._servers.nodes[name]
        if not server.running:
            self.states[name] = "down"
            process = server.process
            if (
                process is not None
                and name not in self._down
                and process.pid not in self._seen_ended
            ):
                self._seen_ended.add(process.pid)
                self.ended.append(f"{name} ended with code {process.returncode}")
            return
        if server.frozen:
            self.states[name] = "frozen"
            return
        status: Mapping[str, Any] | None = None
        with suppress(NotSentError, LostError, ValueError):
            answer = await client.call("GET", "/api/v1/status", timeout_s=ANSWER_S)
            status = answer.json() if answer.status == 200 else None
        if status is None:
            self.states[name] = "silent"
            self._terms.pop(name, None)
            return
        self.states[name] = str(status.get("role") or "serves")
        self._terms[name] = int(status.get("term") or 0)

    async def _look_at_shards(self, clients: Mapping[str, HttpClient]) -> None:
        """As the node shows them that answers first, beginning with the leader."""
        for name in sorted(clients, key=lambda name: self.states[name] != "leader"):
            with suppress(NotSentError, LostError, ValueError):
                answer = await clients[name].call("GET", SHARDS, timeout_s=ANSWER_S)
                if answer.status == 200:
                    found = answer.json()["shards"]
                    epochs = {each["shard"]: each["epoch"] for each in found}
                    self.ranges.look(CLOCK.monotonic(), epochs)
                    return

    def _note_leader(self) -> None:
        leading = [name for name, state in self.states.items() if state == "leader"]
        if not leading:
            return
        newest = max(leading, key=lambda name: self._terms.get(name, 0))
        if not self.leaders or self.leaders[-1][1] != newest:
            self.leaders.append((CLOCK.monotonic(), newest))

    def line(self) -> str:
        return "  ".join(f"{name} {MARKS.get(state, state)}" for name, state in self.states.items())
