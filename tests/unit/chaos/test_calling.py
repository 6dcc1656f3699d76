"""A client of the harness: what it takes an answer, or none, for."""

from __future__ import annotations

import asyncio
import json
from random import Random

import pytest

from chaos import calling
from chaos.calling import Books, Caller
from chaos.history import Result
from chaos.http import Answer
from chaos.links import Door


class Impatient(Random):
    def random(self) -> float:
        return 0.0


async def test_who_wants_an_answer_soon_does_not_wait_for_a_frozen_node(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(calling, "IMPATIENT_S", 0.05)
    monkeypatch.setattr(calling, "IMPATIENT_GRACE_S", 0.05)
    over = asyncio.Event()

    async def never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        over.set()

    server = await asyncio.start_server(never, "127.0.0.1", 0)
    door = Door("n1", *server.sockets[0].getsockname()[:2])
    caller = Caller("c", [door], Books(), "1")
    caller.dice = Impatient()
    async with server:
        told = await asyncio.wait_for(caller.call("GET", "/api/v1/keys/a"), 5.0)
        assert told.result is Result.UNKNOWN
        caller.close()
        await over.wait()
    await server.wait_closed()


@pytest.mark.parametrize(
    ("status", "outcome", "defects"),
    [(409, "unknown", 0), (409, "none", 1), (500, "unknown", 1)],
)
def test_an_answer_that_was_not_kept_leaves_the_outcome_unknown(
    status: int, outcome: str, defects: int
) -> None:
    books = Books()
    caller = Caller("c", [Door("n1", "127.0.0.1", 1)], books, "1")
    body = {"error": "answer_not_kept", "message": "m", "outcome": outcome}
    told = caller._judge(Answer(status, {}, json.dumps(body).encode()), "POST", "n1", 0.0, ())
    assert told.result is (Result.FAILED if outcome == "none" else Result.UNKNOWN)
    assert len(books.defects) == defects
