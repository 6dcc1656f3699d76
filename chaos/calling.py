"""How workloads talk to the nodes: one call, one honest outcome, counted.

    DONE      it was answered as asked
    FAILED    surely not done: a refused connection, or an answer with `outcome: none`
    UNKNOWN   everything else: a broken connection, a timeout, `outcome: unknown`

An answer that the documents do not foresee is a defect of its own (`Books.defects`), and fails the
run whatever the checkers say.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from chaos.history import Result
from chaos.http import NO_HEADERS, Answer, HttpClient, LostError, NotSentError
from chaos.links import Door
from chaos.raftcluster import StuckError
from storage.system_clock import SystemClock

CLOCK: Final = SystemClock()
CLIENT_TIMEOUT_S: Final = 10.0
IMPATIENT_S: Final = 1.0
IMPATIENT_GRACE_S: Final = 0.5
"""A node that does not tell by then that the time is over is frozen, or cut off: nobody waits there
while others would answer."""
AFTER_FAILURE_S: Final = 0.02
SURE_S: Final = 60.0
AVOID_S: Final = 0.3
"""A client leaves a node alone for so long after a broken connection."""
REFUSALS: Final = frozenset({429, 503, 507})
"""Statuses that any call may be refused with, surely undone."""
NOT_KEPT: Final = (409, "answer_not_kept", "unknown")
"""Of a transaction over several shards, whose coordinator lost sight of what it was told."""
DEFECTS_KEPT: Final = 50


@dataclass(frozen=True, slots=True)
class Told:
    """What became of a call."""

    result: Result
    door: str
    asked: float
    at: float
    note: str = ""
    answer: Answer | None = None
    """There is one if the result is DONE, and if a status in `foreseen` refused it."""

    @property
    def done(self) -> bool:
        return self.result is Result.DONE

    @property
    def status(self) -> int:
        return 0 if self.answer is None else self.answer.status

    def json(self) -> Any:
        assert self.answer is not None
        return self.answer.json()


@dataclass(slots=True)
class Books:
    """Of all clients of a run."""

    calls: list[tuple[float, float, Result]] = field(default_factory=list)
    """(when it ended, how long it took, what came of it) of each."""
    answers: Counter[str] = field(default_factory=Counter)
    acknowledged: list[tuple[float, float]] = field(default_factory=list)
    """(asked, answered) of each acknowledged write."""
    defects: list[str] = field(default_factory=list)
    counts: Counter[Result] = field(default_factory=Counter)

    def note(self, told: Told, what: str, *, writes: bool) -> None:
        self.calls.append((told.at, told.at - told.asked, told.result))
        self.counts[told.result] += 1
        self.answers[what] += 1
        if writes and told.done:
            self.acknowledged.append((told.asked, told.at))

    def defect(self, what: str) -> None:
        if len(self.defects) < DEFECTS_KEPT:
            self.defects.append(what)


class Caller:
    """One client: one call at a time, at any node."""

    def __init__(self, name: str, doors: Sequence[Door], books: Books, seed: str) -> None:
        self.name = name
        self.dice = random.Random(f"{seed} {name}")
        self.books = books
        self._avoided_until: dict[str, float] = {}
        self._clients = {each.name: HttpClient(each.host, each.port) for each in doors}

    def close(self) -> None:
        for client in self._clients.values():
            client.close()

    def any_door(self) -> str:
        """One that did not break off just now, if there is one."""
        now = CLOCK.monotonic()
        good = [name for name in self._clients if self._avoided_until.get(name, 0.0) <= now]
        return self.dice.choice(good or list(self._clients))

    async def pause(self, average_s: float) -> None:
        await asyncio.sleep(self.dice.uniform(0.0, 2 * average_s))

    async def call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        door: str | None = None,
        headers: Mapping[str, str] = NO_HEADERS,
        foreseen: Sequence[int] = (),
        patient: bool = False,
        counted: bool = True,
    ) -> Told:
        """`foreseen`: statuses beside 200 (and 404 of a GET) that are answers, not refusals."""
        door = door or self.any_door()
        asked = CLOCK.monotonic()
        headers, timeout_s = dict(headers), CLIENT_TIMEOUT_S
        if not patient and self.dice.random() < 0.5:
            headers["Request-Timeout"] = f"{IMPATIENT_S:g}"
            timeout_s = IMPATIENT_S + IMPATIENT_GRACE_S
        try:
            answer = await self._clients[door].call(
                method, path, body, headers=headers, timeout_s=timeout_s
            )
        except NotSentError as error:
            told = Told(Result.FAILED, door, asked, CLOCK.monotonic(), f"not sent: {error}")
            what = "not sent"
            self._avoided_until[door] = told.at + AVOID_S
        except LostError as error:
            told = Told(Result.UNKNOWN, door, asked, CLOCK.monotonic(), f"lost: {error}")
            what = "lost"
            self._avoided_until[door] = told.at + AVOID_S
        else:
            told, what = self._judge(answer, method, door, asked, foreseen), str(answer.status)
        if counted:
            self.books.note(told, what, writes=method != "GET")
        return told

    def _judge(
        self, answer: Answer, method: str, door: str, asked: float, foreseen: Sequence[int]
    ) -> Told:
        now = CLOCK.monotonic()
        if answer.status == 200 or (answer.status == 404 and method == "GET"):
            return Told(Result.DONE, door, asked, now, "", answer)
        try:
            told = answer.json()
            outcome, note = told["outcome"], f"{answer.status} {told['error']}: {told['message']}"
        except (ValueError, KeyError, TypeError):
            self.books.defect(f"{answer.status} without an outcome: {answer.body[:300]!r}")
            return Told(Result.UNKNOWN, door, asked, now, str(answer.status))
        if answer.status in foreseen:
            return Told(Result.FAILED, door, asked, now, note, answer)
        if (answer.status, told["error"], outcome) == NOT_KEPT:
            return Told(Result.UNKNOWN, door, asked, now, note)
        if answer.status not in (*REFUSALS, 504) or (answer.status == 504) != (outcome != "none"):
            self.books.defect(f"an answer that nobody foresaw at {door}: {note} ({outcome})")
        result = Result.FAILED if outcome == "none" else Result.UNKNOWN
        return Told(result, door, asked, now, note)

    async def sure(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        what: str,
        door: str | None = None,
        headers: Mapping[str, str] = NO_HEADERS,
        foreseen: Sequence[int] = (),
    ) -> Told:
        """Again and again until it is done; only for what may be done twice."""
        end = CLOCK.monotonic() + SURE_S
        while True:
            told = await self.call(
                method, path, body, door=door, headers=headers, foreseen=foreseen,
                patient=True, counted=False,
            )  # fmt: skip
            if told.done or told.answer is not None:
                return told
            if CLOCK.monotonic() > end:
                raise StuckError(f"within {SURE_S:g} s it could not be done: {what} ({told.note})")
            await asyncio.sleep(0.1)
