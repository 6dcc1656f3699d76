"""Clients of a few registers, through all nodes, and the record of what they did and saw.

Each client does one call after the other: reads, SESSION reads with its token, writes, CAS by the
version that it saw last, and atomic writes of two registers. Every value is written once, so a
value names its write, and a key's version names its value.

Honest outcomes (chaos/history.py): a refused connection and an answer with `outcome: none` are
FAILED; an answer with `outcome: unknown`, a broken connection and a timeout are UNKNOWN; an answer
that the documents do not foresee is a defect of its own (`Record.defects`).
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from chaos.checkers.sessions import Seen
from chaos.checkers.watch import Event, Written
from chaos.history import History, Kind, Operation, Result
from chaos.http import Answer, HttpClient, LostError, NotSentError
from chaos.servers import CLOCK, Server

PREFIX: Final = "registers/"
CLIENT_TIMEOUT_S: Final = 10.0
AFTER_FAILURE_S: Final = 0.02
IMPATIENT_S: Final = 1.0
REFUSALS: Final = frozenset({429, 503})


@dataclass(slots=True)
class Record:
    """Everything that the checkers need."""

    history: History = field(default_factory=History)
    seen: list[Seen] = field(default_factory=list)
    written: list[Written] = field(default_factory=list)
    values: dict[tuple[str, int], str] = field(default_factory=dict)
    lost_cas: list[tuple[Operation, int]] = field(default_factory=list)
    acknowledged_at: list[tuple[float, float]] = field(default_factory=list)
    """(asked, answered) of each acknowledged write."""
    answers: Counter[str] = field(default_factory=Counter)
    defects: list[str] = field(default_factory=list)

    def note_value(self, key: str, version: int, value: str) -> None:
        known = self.values.setdefault((key, version), value)
        if known != value:
            self.defects.append(f"{key} at version {version} is {known} and {value}")

    def settle_lost_cas(self) -> None:
        """A lost CAS was told a version; what value that is, other answers tell. If none does, the
        CAS says nothing that can be checked."""
        for operation, version in self.lost_cas:
            value = self.values.get((operation.key, version))
            if value is None and version:
                operation.result = Result.FAILED
            else:
                operation.observed = value
        self.lost_cas.clear()


class RegisterClient:
    """One client. `run` goes on until it is cancelled or told to stop."""

    def __init__(
        self, number: int, servers: Sequence[Server], keys: Sequence[str], record: Record, seed: str
    ) -> None:
        self.name = f"client-{number}"
        self._keys = keys
        self._record = record
        self._dice = random.Random(f"{seed} {number}")
        self._nodes = [(each.name, HttpClient(each.host, each.port)) for each in servers]
        self._numbers = itertools.count(1)
        self._known: dict[str, tuple[int, str | None]] = {}
        self._session: dict[str, int] = {}
        self.stopping = False

    async def run(self, pause_s: float) -> None:
        actions: list[Callable[[str, HttpClient, str], Awaitable[bool]]] = [
            self._read,
            self._session_read,
            self._write,
            self._cas,
            self._pair,
        ]
        try:
            while not self.stopping:
                (action,) = self._dice.choices(actions, (30, 20, 20, 25, 5))
                node, client = self._dice.choice(self._nodes)
                answered = await action(node, client, self._dice.choice(self._keys))
                wait_s = self._dice.uniform(0.0, 2 * pause_s) if answered else AFTER_FAILURE_S
                await asyncio.sleep(wait_s)
        finally:
            for _, client in self._nodes:
                client.close()

    # --- the calls ------------------------------------------------------------------------

    async def _read(self, node: str, client: HttpClient, key: str) -> bool:
        operation = self._begin(node, key, Kind.READ)
        answer = await self._call([operation], client, "GET", _path(key))
        if answer is None:
            return False
        value, version = _shown(answer)
        self._record.history.done(operation, CLOCK.monotonic(), value)
        self._learn(node, key, version, value, "read")
        return True

    async def _session_read(self, node: str, client: HttpClient, key: str) -> bool:
        """Judged by what this client has seen, not by the others' writes."""
        token = ",".join(f"{shard}:{revision}" for shard, revision in self._session.items())
        headers = {"Consistency-Level": "SESSION", "Session-Token": token}
        answer = await self._call([], client, "GET", _path(key), headers=headers)
        if answer is None:
            return False
        if answer.headers.get("consistency-level") != "SESSION":
            self._record.defects.append(f"a SESSION read was answered with {answer.headers}")
        value, version = _shown(answer)
        self._learn(node, key, version, value, "SESSION read")
        return True

    async def _write(self, node: str, client: HttpClient, key: str) -> bool:
        operation = self._begin(node, key, Kind.WRITE, self._new_value())
        answer = await self._call(
            [operation], client, "PUT", _path(key), {"value": operation.value}
        )
        if answer is not None:
            self._wrote(node, [operation], answer.json()["version"])
        return answer is not None

    async def _cas(self, node: str, client: HttpClient, key: str) -> bool:
        version, expected = self._known.get(key, (0, None))
        operation = self._begin(node, key, Kind.CAS, self._new_value(), expected)
        body = {"expected_version": version, "new_value": operation.value}
        answer = await self._call([operation], client, "POST", f"{_path(key)}/cas", body)
        if answer is None:
            return False
        told = answer.json()
        if told["success"]:
            self._wrote(node, [operation], told["new_version"])
            return True
        now = CLOCK.monotonic()
        self._record.history.done(operation, now, None, changed=False)
        current: int = told["current_version"]
        self._record.lost_cas.append((operation, current))
        self._record.seen.append(Seen(self.name, key, current, node, "lost CAS", now))
        self._note_write([operation], Result.FAILED)
        return True

    async def _pair(self, node: str, client: HttpClient, key: str) -> bool:
        """Two registers as one write."""
        other = self._dice.choice([each for each in self._keys if each != key])
        pair = [self._begin(node, each, Kind.WRITE, self._new_value()) for each in (key, other)]
        operations = [{"key": each.key, "value": each.value} for each in pair]
        body = {"operations": operations, "atomic": True}
        answer = await self._call(pair, client, "POST", "/api/v1/batch/put", body)
        if answer is not None:
            self._wrote(node, pair, answer.json()["results"][0]["version"])
        return answer is not None

    # --- one call ---------------------------------------------------------------------------

    def _new_value(self) -> str:
        return f"{self.name}-{next(self._numbers)}"

    def _begin(
        self, node: str, key: str, kind: Kind, value: str | None = None, expected: str | None = None
    ) -> Operation:
        number = len(self._record.history.operations)
        operation = Operation(
            f"op-{number}", self.name, node, key, kind, CLOCK.monotonic(), value, expected
        )
        return self._record.history.invoke(operation)

    async def _call(
        self,
        operations: Sequence[Operation],
        client: HttpClient,
        method: str,
        path: str,
        body: object = None,
        *,
        headers: Mapping[str, str] | None = None,
    ) -> Answer | None:
        """The answer if it was done; else the operations are settled here."""
        headers = dict(headers or {})
        if self._dice.random() < 0.5:
            headers["Request-Timeout"] = f"{IMPATIENT_S:g}"
        try:
            answer = await client.call(
                method, path, body, headers=headers, timeout_s=CLIENT_TIMEOUT_S
            )
        except NotSentError as error:
            self._failed(operations, f"not sent: {error}")
            self._record.answers["not sent"] += 1
            return None
        except LostError as error:
            self._unknown(operations, f"lost: {error}")
            self._record.answers["lost"] += 1
            return None
        self._record.answers[str(answer.status)] += 1
        self._keep_session(answer)
        if answer.status == 200 or (answer.status == 404 and method == "GET"):
            return answer
        self._refused(operations, answer)
        return None

    def _refused(self, operations: Sequence[Operation], answer: Answer) -> None:
        told: dict[str, Any] = {}
        try:
            told = answer.json()
            outcome = told["outcome"]
        except (ValueError, KeyError, TypeError):
            outcome = "unknown"
            self._record.defects.append(f"{answer.status} without an outcome: {answer.body!r}")
        note = f"{answer.status} {told.get('error')}: {told.get('message')}"
        if answer.status not in (*REFUSALS, 504) or (answer.status == 504) != (outcome != "none"):
            self._record.defects.append(f"an answer that nobody foresaw: {note} ({outcome})")
        if outcome == "none":
            self._failed(operations, note)
        else:
            self._unknown(operations, note)

    def _failed(self, operations: Sequence[Operation], why: str) -> None:
        for operation in operations:
            self._record.history.failed(operation, CLOCK.monotonic(), why)
        self._note_write(operations, Result.FAILED)

    def _unknown(self, operations: Sequence[Operation], why: str) -> None:
        for operation in operations:
            self._record.history.unknown(operation, why)
        self._note_write(operations, Result.UNKNOWN)

    def _wrote(self, node: str, operations: Sequence[Operation], version: int) -> None:
        now = CLOCK.monotonic()
        for operation in operations:
            self._record.history.done(operation, now, operation.value)
            self._learn(node, operation.key, version, operation.value, operation.kind.value)
        self._record.acknowledged_at.append((operations[0].invoked, now))
        self._note_write(operations, Result.DONE, version)

    def _note_write(
        self, operations: Sequence[Operation], result: Result, revision: int | None = None
    ) -> None:
        if operations and operations[0].kind is not Kind.READ:
            events = tuple(Event(each.key, each.value) for each in operations)
            self._record.written.append(Written(operations[0].id, events, result, revision))

    def _keep_session(self, answer: Answer) -> None:
        for pair in answer.headers.get("session-token", "").split(","):
            shard, _, revision = pair.partition(":")
            if revision:
                self._session[shard] = max(self._session.get(shard, 0), int(revision))

    def _learn(self, node: str, key: str, version: int, value: str | None, what: str) -> None:
        self._record.seen.append(Seen(self.name, key, version, node, what, CLOCK.monotonic()))
        if value is not None:
            self._record.note_value(key, version, value)
        self._known[key] = (version, value)


def _shown(answer: Answer) -> tuple[str | None, int]:
    if answer.status == 404:
        return None, 0
    told = answer.json()
    return told["value"], told["version"]


def _path(key: str) -> str:
    return f"/api/v1/keys/{key}"
