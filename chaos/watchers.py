"""Watchers that write down what they are told, of one node each, and go on after every break.

Two kinds: REST (NDJSON) and etcd's /v3/watch. Each resumes behind the last revision that it was
told, at the same node, however the connection ended; one that is refused for compacted history
says so and ends. What they were told is for chaos/checkers/watch.py.
"""

from __future__ import annotations

import asyncio
import json
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any, Final, Protocol
from urllib.parse import quote

from chaos.checkers.watch import Batch, Event
from chaos.http import HttpClient, LostError, NotSentError
from chaos.servers import Server

AGAIN_S: Final = 0.05


class BrokenWatchError(Exception):
    """What a watch was told makes no sense, or it cannot go on."""


class Watcher(Protocol):
    """Invariant: `batches` are in the order in which they came."""

    name: str
    batches: list[Batch]
    breaks: int
    """How often it had to go on."""

    async def run(self) -> None:
        """Until it is cancelled."""
        ...

    async def told_up_to(self, revision: int) -> None:
        """Returns once it was told this revision."""
        ...


class _Resuming:
    kind = ""

    def __init__(self, server: Server, prefix: str, since: int) -> None:
        self.name = f"{self.kind} at {server.name}"
        self.batches: list[Batch] = []
        self.breaks = 0
        self._prefix = prefix
        self._next = since
        self._more = asyncio.Event()
        self._client = HttpClient(server.host, server.port)

    async def run(self) -> None:
        try:
            while True:
                with suppress(LostError, NotSentError):
                    await self._listen()
                self.breaks += 1
                await asyncio.sleep(AGAIN_S)
        finally:
            self._client.close()

    async def told_up_to(self, revision: int) -> None:
        while self._next <= revision:
            self._more.clear()
            await self._more.wait()

    async def _listen(self) -> None:
        raise NotImplementedError

    def _told(self, revision: int, events: list[Event]) -> None:
        self.batches.append(Batch(revision, tuple(events)))
        self._next = max(self._next, revision + 1)
        self._more.set()


class RestWatcher(_Resuming):
    kind = "REST"

    async def _listen(self) -> None:
        path = f"/api/v1/watch?prefix={quote(self._prefix)}&from={self._next}"
        async with self._client.stream("GET", path, headers={}) as lines:
            await self._read(lines)

    async def _read(self, lines: AsyncIterator[bytes]) -> None:
        async for line in lines:
            told = json.loads(line)
            if told["type"] == "events":
                events = [Event(each["key"], each.get("value")) for each in told["events"]]
                self._told(told["revision"], events)
            elif told["type"] == "cancelled":
                if told["reason"] == "compacted":
                    raise BrokenWatchError(f"{self.name}: {told}")
                return


class EtcdWatcher(_Resuming):
    kind = "/v3/watch"

    async def _listen(self) -> None:
        key = self._prefix.encode()
        request = {
            "key": b64encode(key).decode(),
            "range_end": b64encode(key[:-1] + bytes([key[-1] + 1])).decode(),
            "start_revision": str(self._next),
        }
        body = {"create_request": request}
        async with self._client.stream("POST", "/v3/watch", body, headers={}) as lines:
            async for line in lines:
                if not self._read(json.loads(line)):
                    return

    def _read(self, message: dict[str, Any]) -> bool:
        """False if it was the last message."""
        if "result" not in message:
            return False  # an error: the node stops, or the like
        result = message["result"]
        if result.get("canceled"):
            if result.get("compact_revision"):
                raise BrokenWatchError(f"{self.name}: {result}")
            return False
        whole: dict[int, list[Event]] = {}
        for event in result.get("events", ()):
            record = event["kv"]
            value = None if event.get("type") == "DELETE" else _text(record.get("value", ""))
            whole.setdefault(int(record["mod_revision"]), []).append(
                Event(_text(record["key"]), value)
            )
        for revision, events in whole.items():
            self._told(revision, events)
        return True


def _text(encoded: str) -> str:
    return b64decode(encoded).decode()
