"""Watchers that write down what they are told, of one node each, and go on after every break.

Two kinds: REST (NDJSON) and etcd's /v3/watch. Each resumes behind the last revision that it was
told, or was promised to have behind it, at the same node, however the connection ended. One that is
refused for compacted history notes the gap and goes on behind it. What they were told is for
chaos/checkers/watch.py.
"""

from __future__ import annotations

import asyncio
import json
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator
from typing import Any, Final, Protocol
from urllib.parse import quote

from chaos.checkers.watch import Batch, Event, Gap, Mark
from chaos.http import HttpClient, LostError, NoStreamError, NotSentError
from chaos.links import Door

AGAIN_S: Final = 0.05


class Watcher(Protocol):
    """Invariant: `batches` are in the order in which they came."""

    name: str
    batches: list[Batch]
    breaks: int
    """How often it had to go on."""
    marks: list[Mark]
    gaps: list[Gap]

    def break_off(self) -> None:
        """Hang up; it goes on by itself."""
        ...

    async def run(self) -> None:
        """Until it is cancelled."""
        ...

    async def told_up_to(self, revision: int) -> None:
        """Returns once it was told this revision."""
        ...


class _Resuming:
    kind = ""

    def __init__(self, door: Door, prefix: str, since: int) -> None:
        self.name = f"{self.kind} at {door.name}"
        self.batches: list[Batch] = []
        self.breaks = 0
        self.marks: list[Mark] = []
        self.gaps: list[Gap] = []
        self._prefix = prefix
        self._next = since
        self._more = asyncio.Event()
        self._client = HttpClient(door.host, door.port)

    async def run(self) -> None:
        try:
            while True:
                try:
                    await self._listen()
                except NoStreamError as error:
                    if error.status == 410:
                        self._compacted(int(json.loads(error.body)["compact_revision"]))
                except (LostError, NotSentError):
                    pass
                self.breaks += 1
                await asyncio.sleep(AGAIN_S)
        finally:
            self._client.close()

    async def told_up_to(self, revision: int) -> None:
        while self._next <= revision:
            self._more.clear()
            await self._more.wait()

    def break_off(self) -> None:
        self._client.close()

    async def _listen(self) -> None:
        raise NotImplementedError

    def _promised(self, revision: int) -> None:
        self.marks.append(Mark(len(self.batches), revision))
        self._next = max(self._next, revision + 1)
        self._more.set()

    def _compacted(self, revision: int) -> None:
        """History up to there is gone, and what it held was not told."""
        if revision >= self._next:
            self.gaps.append((self._next, revision))
            self._next = revision + 1
            self._more.set()

    def _told(self, revision: int, events: list[Event]) -> None:
        self.batches.append(Batch(revision, tuple(events)))
        self._next = max(self._next, revision + 1)
        self._more.set()


class RestWatcher(_Resuming):
    kind = "REST"

    async def _listen(self) -> None:
        path = f"/api/v1/watch?prefix={quote(self._prefix)}&from={self._next}&progress=true"
        async with self._client.stream("GET", path, headers={}) as lines:
            await self._read(lines)

    async def _read(self, lines: AsyncIterator[bytes]) -> None:
        async for line in lines:
            told = json.loads(line)
            if told["type"] == "events":
                events = [Event(each["key"], each.get("value")) for each in told["events"]]
                self._told(told["revision"], events)
            elif told["type"] == "progress":
                self._promised(told["revision"])
            elif told["type"] == "cancelled":
                if told["reason"] == "compacted":
                    self._compacted(told["compact_revision"])
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
                self._compacted(int(result["compact_revision"]))
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
