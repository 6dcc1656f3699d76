"""Registers: reads, session reads, writes, compare-and-set and pairs, through all nodes.

Every value is written once, so a value names its write, and a key's version names its value.
Judged: each register is linearizable, no client's session goes back, no version has two values.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from chaos.calling import CLOCK, Caller, Told
from chaos.checkers.linearizability import check_history
from chaos.checkers.sessions import Seen, check_sessions
from chaos.checkers.violation import Violation
from chaos.history import History, Kind, Operation, Result
from chaos.workloads.work import Setting, Work

PREFIX = "register/"
DEFECTS_SHOWN = 10


class RegisterWork(Work):
    kind = "register"
    judges_early = True

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self.log = History()
        self.seen: list[Seen] = []
        self._keys = [f"{PREFIX}r{number}" for number in range(int(self.options["keys"]))]
        self._values: dict[tuple[str, int], str] = {}
        self._lost_cas: list[tuple[Operation, int]] = []
        self._known: dict[tuple[str, str], tuple[int, str | None]] = {}
        """What a client knows of a key."""
        self._sessions: dict[str, dict[str, int]] = {}
        self._two_values: list[str] = []

    async def step(self, caller: Caller) -> Told:
        actions: list[Callable[[Caller, str], Awaitable[Told]]] = [
            self._read,
            self._session_read,
            self._write,
            self._cas,
            self._pair,
        ]
        (action,) = caller.dice.choices(actions, (30, 20, 20, 25, 5))
        told = await action(caller, caller.dice.choice(self._keys))
        if told.done:
            self._keep_session(caller, told)
        return told

    # --- the calls ------------------------------------------------------------------------

    async def _read(self, caller: Caller, key: str) -> Told:
        door, operation = self._begin(caller, key, Kind.READ)
        told = await caller.call("GET", _path(key), door=door)
        if self._settle([operation], told, observed=None):
            value, version = _shown(told)
            operation.observed = value
            self._learn(caller, told, key, version, value, "read")
        return told

    async def _session_read(self, caller: Caller, key: str) -> Told:
        """Judged by what this client has seen, not by the others' writes."""
        session = self._sessions.get(caller.name, {})
        token = ",".join(f"{shard}:{revision}" for shard, revision in session.items())
        headers = {"Consistency-Level": "SESSION", "Session-Token": token}
        told = await caller.call("GET", _path(key), headers=headers)
        if told.done:
            assert told.answer is not None
            if told.answer.headers.get("consistency-level") != "SESSION":
                caller.books.defect(f"a SESSION read was answered with {told.answer.headers}")
            value, version = _shown(told)
            self._learn(caller, told, key, version, value, "SESSION read")
        return told

    async def _write(self, caller: Caller, key: str) -> Told:
        door, operation = self._begin(caller, key, Kind.WRITE, value=self._value(caller))
        told = await caller.call("PUT", _path(key), {"value": operation.value}, door=door)
        if self._settle([operation], told, observed=operation.value):
            self._wrote(caller, told, operation, told.json()["version"])
        return told

    async def _cas(self, caller: Caller, key: str) -> Told:
        version, expected = self._known.get((caller.name, key), (0, None))
        door, operation = self._begin(
            caller, key, Kind.CAS, value=self._value(caller), expected=expected
        )
        body = {"expected_version": version, "new_value": operation.value}
        told = await caller.call("POST", f"{_path(key)}/cas", body, door=door)
        if not told.done:
            self._settle([operation], told, observed=None)
            return told
        answer = told.json()
        if answer["success"]:
            self._settle([operation], told, observed=operation.value)
            self._wrote(caller, told, operation, answer["new_version"])
            return told
        self.log.done(operation, told.at, None, changed=False)
        current: int = answer["current_version"]
        self._lost_cas.append((operation, current))
        self.seen.append(Seen(caller.name, key, current, told.door, "lost CAS", told.at))
        return told

    async def _pair(self, caller: Caller, key: str) -> Told:
        """Two registers as one write."""
        others = [each for each in self._keys if each != key] or [key]
        keys = dict.fromkeys((key, caller.dice.choice(others)))
        door = caller.any_door()
        pair = [
            self._begin(caller, each, Kind.WRITE, value=self._value(caller), door=door)[1]
            for each in keys
        ]
        operations = [{"key": each.key, "value": each.value} for each in pair]
        body = {"operations": operations, "atomic": True}
        told = await caller.call("POST", "/api/v1/batch/put", body, door=door)
        if not told.done:
            self._settle(pair, told, observed=None)
            return told
        for operation, result in zip(pair, told.json()["results"], strict=True):
            self._settle([operation], told, observed=operation.value)
            self._wrote(caller, told, operation, result["version"])
        return told

    # --- the record -----------------------------------------------------------------------

    def _value(self, caller: Caller) -> str:
        return f"{caller.name}-{self.number()}"

    def _begin(
        self, caller: Caller, key: str, kind: Kind, *, value: str | None = None,
        expected: str | None = None, door: str | None = None,
    ) -> tuple[str, Operation]:  # fmt: skip
        door = door or caller.any_door()
        name = f"op-{len(self.log.operations)}"
        operation = Operation(
            name, caller.name, door, key, kind, CLOCK.monotonic(), value, expected
        )
        return door, self.log.invoke(operation)

    def _settle(self, operations: Sequence[Operation], told: Told, observed: str | None) -> bool:
        for operation in operations:
            if told.done:
                self.log.done(operation, told.at, observed)
            elif told.result is Result.FAILED:
                self.log.failed(operation, told.at, told.note)
            else:
                self.log.unknown(operation, told.note)
        return told.done

    def _wrote(self, caller: Caller, told: Told, operation: Operation, version: int) -> None:
        self._learn(caller, told, operation.key, version, operation.value, operation.kind.value)

    def _keep_session(self, caller: Caller, told: Told) -> None:
        """Of every answer, also of a compare-and-set that lost: its token covers what it told."""
        assert told.answer is not None
        session = self._sessions.setdefault(caller.name, {})
        for pair in told.answer.headers.get("session-token", "").split(","):
            shard, _, revision = pair.partition(":")
            if revision:
                session[shard] = max(session.get(shard, 0), int(revision))

    def _learn(
        self, caller: Caller, told: Told, key: str, version: int, value: str | None, what: str
    ) -> None:
        self.seen.append(Seen(caller.name, key, version, told.door, what, told.at))
        if value is not None:
            known = self._values.setdefault((key, version), value)
            if known != value:
                self._two_values.append(f"{key} at version {version} is {known} and {value}")
        self._known[caller.name, key] = (version, value)

    def _settle_lost_cas(self) -> None:
        """A lost CAS was told a version; what value that is, other answers tell. If none does, the
        CAS says nothing that can be checked."""
        for operation, version in self._lost_cas:
            value = self._values.get((operation.key, version))
            if value is None and version:
                operation.result = Result.FAILED
            else:
                operation.observed = value
        self._lost_cas.clear()

    # --- the end --------------------------------------------------------------------------

    async def finish(self) -> None:
        """Read every register at every node once more."""
        caller = self.caller("last")
        try:
            for key in self._keys:
                for door in self.setting.doors:
                    _, operation = self._begin(caller, key, Kind.READ, door=door.name)
                    told = await caller.sure("GET", _path(key), door=door.name, what=f"read {key}")
                    operation.invoked = told.asked
                    value, version = _shown(told)
                    self.log.done(operation, told.at, value)
                    self._learn(caller, told, key, version, value, "read")
        finally:
            caller.close()

    def judge(self) -> list[Violation]:
        self._settle_lost_cas()
        found = [
            violation for _, of_key in self.log.by_key() for violation in check_history(of_key)
        ]
        found += check_sessions(self.seen)
        nowhere = self._from_nowhere()
        if nowhere:
            lines = tuple(nowhere[:DEFECTS_SHOWN])
            found.append(Violation("versions", "a value was shown that nobody wrote", lines))
        if self._two_values:
            lines = tuple(self._two_values[:DEFECTS_SHOWN])
            found.append(Violation("versions", "a version has two values", lines))
        return found

    def _from_nowhere(self) -> list[str]:
        """Also what session reads were told, which nobody else judges."""
        written = {
            (each.key, each.value)
            for each in self.log.operations
            if each.kind is not Kind.READ and each.changed and each.result is not Result.FAILED
        }
        return [
            f"{key} at version {version} is {value}"
            for (key, version), value in self._values.items()
            if (key, value) not in written
        ]

    def history(self) -> Iterator[Mapping[str, Any]]:
        return (asdict(operation) for operation in self.log.operations)

    def figures(self) -> dict[str, int]:
        session_reads = sum(each.what == "SESSION read" for each in self.seen)
        return {"operations": len(self.log.operations), "session_reads": session_reads}


def _shown(told: Told) -> tuple[str | None, int]:
    if told.status == 404:
        return None, 0
    answer = told.json()
    return answer["value"], answer["version"]


def _path(key: str) -> str:
    return f"/api/v1/keys/{key}"
