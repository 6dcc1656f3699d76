"""A proxy in front of a healthy node that tells one kind of lie, now and then.

It proves the checkers: whatever it does to the answers, a run must not pass. It speaks as much
HTTP/1.1 as the workloads do.

    stale-read      an older answer to the same GET: also of a key whose lease is over
    hidden-key      a key that is there is said not to be
    lost-write      a PUT is acknowledged and thrown away
    doubled-event   a watch is told a revision twice
    swapped-order   a watch is told two revisions in the wrong order
    dropped-event   a watch is not told a revision
    split-event     the events of one revision come in two messages
    early-bookmark  a watch is promised that nothing follows before it does
    false-gap       a watch is told that history is gone which is not
    lost-lock       a second client is granted the lock that somebody holds
    lost-money      one of the puts of a transaction is not done
    lost-member     a listing leaves something out
    lost-delete     a DELETE is acknowledged and thrown away
    lost-count      an increment is acknowledged and thrown away
    lost-lease      a lease that lives is said to be over
    lost-renewal    a lease's renewals are acknowledged and thrown away: it ends
    lost-revoke     the end of a lease is acknowledged and thrown away
    undead-lease    a lease that is over is said to live
    free-key        a key is put without the lease that it was to hang on
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from random import Random
from typing import Any, Final

from chaos.http import Answer, HttpClient, LostError, NotSentError
from chaos.links import Door

OFTEN: Final = 0.1
DROPPED_HEADERS: Final = frozenset({"content-length", "transfer-encoding", "connection", "host"})


class Lie(StrEnum):
    NONE = "none"
    STALE_READ = "stale-read"
    LOST_WRITE = "lost-write"
    DOUBLED_EVENT = "doubled-event"
    SWAPPED_ORDER = "swapped-order"
    DROPPED_EVENT = "dropped-event"
    SPLIT_EVENT = "split-event"
    EARLY_BOOKMARK = "early-bookmark"
    LOST_LOCK = "lost-lock"
    LOST_MONEY = "lost-money"
    LOST_MEMBER = "lost-member"
    LOST_DELETE = "lost-delete"
    LOST_COUNT = "lost-count"
    HIDDEN_KEY = "hidden-key"
    FALSE_GAP = "false-gap"
    LOST_LEASE = "lost-lease"
    LOST_RENEWAL = "lost-renewal"
    LOST_REVOKE = "lost-revoke"
    UNDEAD_LEASE = "undead-lease"
    FREE_KEY = "free-key"


@dataclass(frozen=True, slots=True)
class _Request:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def is_locking(self) -> bool:
        return "/locks/" in self.path and self.method == "POST"

    @property
    def is_renewal(self) -> bool:
        return self.path.endswith("/keepalive")

    @property
    def is_revoke(self) -> bool:
        return "/leases/" in self.path and self.method == "DELETE"

    @property
    def lease(self) -> str:
        """Of a renewal or a revoke."""
        return self.path.partition("/leases/")[2].partition("/")[0]


class LyingProxy:
    """One lie; `told` counts how often."""

    def __init__(self, door: Door, lie: Lie, seed: int) -> None:
        self._door, self._lie = door, lie
        self._dice = Random(seed)
        self.told = 0
        self._first: dict[str, Answer] = {}
        self._version = 0
        self._lock: dict[str, Any] | None = None
        self._ttl_s = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Door]:
        serving: set[asyncio.Task[None]] = set()

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            loop = asyncio.get_running_loop()
            task = loop.create_task(_ended(self._serve(reader, writer), writer))
            serving.add(task)
            task.add_done_callback(serving.discard)

        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        try:
            yield Door(f"{self._door.name} lying", "127.0.0.1", server.sockets[0].getsockname()[1])
        finally:
            server.close()
            for task in list(serving):
                task.cancel()
            if serving:
                await asyncio.wait(list(serving))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client = HttpClient(self._door.host, self._door.port)
        try:
            while True:
                request = await _read_request(reader)
                if "/watch" in request.path:
                    await self._stream(client, request, writer)
                    return
                answer = await self._answer(client, request)
                writer.write(_as_bytes(answer))
                await writer.drain()
        finally:
            client.close()

    def repent(self) -> None:
        """From now on it tells the truth."""
        self._lie = Lie.NONE

    def _dares(self) -> bool:
        dares = self._dice.random() < OFTEN
        self.told += dares
        return dares

    # --- answers ----------------------------------------------------------------------------

    async def _answer(self, client: HttpClient, request: _Request) -> Answer:
        body = request.body
        if self._throws_away_lease(request):
            return _of({"id": request.lease, "ttl": self._ttl_s, "revoked": True})
        if self._throws_away(request):
            key = request.path.partition("/keys/")[2]
            made_up = {"key": key, "version": self._version + 1, "value": 1, "deleted": True}
            return _of({**made_up, "timestamp": 0, "status": "updated"})
        if self._lie is Lie.LOST_LOCK and request.is_locking and self._lock is not None:
            self.told += 1
            return _of({**self._lock, "token": self._lock["token"] + 1})
        if self._lie is Lie.LOST_MONEY and request.path.endswith("/txn"):
            body = self._without_a_put(body)
        if self._lie is Lie.FREE_KEY and request.method == "PUT":
            body = self._without_lease(body)
        answer = await client.call(
            request.method, request.path, body or None, headers=request.headers
        )
        return self._twisted(request, answer)

    def _throws_away(self, request: _Request) -> bool:
        lost = {
            Lie.LOST_WRITE: request.method == "PUT",
            Lie.LOST_DELETE: request.method == "DELETE" and "/keys/" in request.path,
            Lie.LOST_COUNT: request.path.endswith("/incr"),
        }
        return lost.get(self._lie, False) and self._dares()

    def _throws_away_lease(self, request: _Request) -> bool:
        """Every one of them: a lease ends only if none of its renewals is done."""
        lost = {Lie.LOST_RENEWAL: request.is_renewal, Lie.LOST_REVOKE: request.is_revoke}
        throws = lost.get(self._lie, False)
        self.told += throws
        return throws

    def _twisted(self, request: _Request, answer: Answer) -> Answer:
        told = answer.json() if answer.status == 200 and answer.body else None
        if isinstance(told, dict) and isinstance(told.get("version"), int):
            self._version = max(self._version, told["version"])
        if request.is_locking and answer.status == 200:
            self._lock = told
        elif "/locks/" in request.path and request.method == "DELETE":
            self._lock = None
        if request.is_renewal:
            return self._of_renewal(request, answer)
        if request.method != "GET" or answer.status not in (200, 404):
            return answer
        return self._of_read(request, answer, told)

    def _of_renewal(self, request: _Request, answer: Answer) -> Answer:
        if answer.status == 200:
            self._ttl_s = answer.json()["ttl"]
            if self._lie is Lie.LOST_LEASE and self._dares():
                return _missing("lease_not_found", f"lease {request.lease} is over")
        elif answer.status == 404 and self._lie is Lie.UNDEAD_LEASE:
            self.told += 1
            return _of({"id": request.lease, "ttl": self._ttl_s})
        return answer

    def _of_read(self, request: _Request, answer: Answer, told: Any) -> Answer:
        if self._lie is Lie.STALE_READ:
            first = self._first.setdefault(request.path, answer)
            if answer.status == 404 and first.status == 200:
                self.told += 1
                return first
            if first.body != answer.body and self._dares():
                return first
        if told is None:
            return answer
        if self._lie is Lie.HIDDEN_KEY and "/keys/" in request.path and self._dares():
            return _missing("key_not_found", "there is no such key")
        if self._lie is Lie.LOST_MEMBER and told.get("keys") and self._dares():
            told["keys"].pop(self._dice.randrange(len(told["keys"])))
            return _of(told)
        return answer

    def _without_lease(self, body: bytes) -> bytes:
        put = json.loads(body)
        self.told += put.pop("lease", None) is not None
        return json.dumps(put).encode()

    def _without_a_put(self, body: bytes) -> bytes:
        txn = json.loads(body)
        puts = [step for step in txn.get("then", ()) if step["op"] == "put"]
        if len(puts) == 2 and puts[0]["value"] != puts[1]["value"] and self._dares():
            lost = puts[0]["key"]
            txn["then"] = [
                {"op": "get", "key": lost} if step.get("key") == lost else step
                for step in txn["then"]
            ]
        return json.dumps(txn).encode()

    # --- watches ----------------------------------------------------------------------------

    async def _stream(
        self, client: HttpClient, request: _Request, writer: asyncio.StreamWriter
    ) -> None:
        head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        writer.write(head.encode())
        held: bytes | None = None
        async with client.stream(
            request.method, request.path, request.body or None, headers=request.headers
        ) as lines:
            async for line in lines:
                sent, held = self._lines(line, held)
                for each in sent:
                    writer.write(b"%x\r\n%s\r\n" % (len(each) + 1, each + b"\n"))
                await writer.drain()

    def _lines(self, line: bytes, held: bytes | None) -> tuple[list[bytes], bytes | None]:
        """What is sent instead of a line, and what is held back until the next one."""
        message = json.loads(line)
        if message.get("type") != "events":
            return [line], held
        if held is not None:
            return [line, held], None
        if self._lie is Lie.SWAPPED_ORDER and self._dares():
            return [], line
        if self._lie is Lie.DOUBLED_EVENT and self._dares():
            return [line, line], None
        if self._lie is Lie.DROPPED_EVENT and self._dares():
            return [], None
        if self._lie is Lie.EARLY_BOOKMARK and self._dares():
            mark = {"type": "progress", "revision": message["revision"]}
            return [json.dumps(mark).encode(), line], None
        if self._lie is Lie.FALSE_GAP and self._dares():
            gap = {"compact_revision": message["revision"]}
            return [json.dumps({"type": "cancelled", "reason": "compacted", **gap}).encode()], None
        if self._lie is Lie.SPLIT_EVENT and len(message["events"]) > 1:
            self.told += 1
            parts = [{**message, "events": [event]} for event in message["events"]]
            return [json.dumps(part).encode() for part in parts], None
        return [line], None


async def _ended(work: Coroutine[Any, Any, None], writer: asyncio.StreamWriter) -> None:
    """Whatever breaks the one connection breaks the other."""
    try:
        await work
    except (OSError, EOFError, ValueError, LostError, NotSentError):
        pass
    finally:
        writer.close()


async def _read_request(reader: asyncio.StreamReader) -> _Request:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    method, path, _ = head[0].split(" ", 2)
    headers = {}
    size = 0
    for line in head[1:-2]:
        name, _, value = line.partition(":")
        if name.lower() == "content-length":
            size = int(value)
        if name.lower() not in (*DROPPED_HEADERS, "content-type"):
            headers[name] = value.strip()
    return _Request(method, path, headers, await reader.readexactly(size))


def _of(told: object) -> Answer:
    return Answer(200, {"content-type": "application/json"}, json.dumps(told).encode())


def _missing(error: str, message: str) -> Answer:
    body = {"error": error, "message": message, "outcome": "none"}
    return Answer(404, {"content-type": "application/json"}, json.dumps(body).encode())


def _as_bytes(answer: Answer) -> bytes:
    lines = [f"HTTP/1.1 {answer.status} x"]
    lines += [f"{k}: {v}" for k, v in answer.headers.items() if k not in DROPPED_HEADERS]
    lines += [f"Content-Length: {len(answer.body)}", "", ""]
    return "\r\n".join(lines).encode("latin-1") + answer.body
