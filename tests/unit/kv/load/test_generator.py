"""The generator against a server that counts: what it reports is what the server saw."""

from __future__ import annotations

import asyncio
import json
import random
from base64 import b64decode
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from typing import Any

import pytest

from kv.load import generator
from kv.load.generator import ERRORS_MAX, Generator, UnreachableError
from kv.load.plan import Load, Operation, Outcome
from kv.load.requests import key
from tests.unit.kv.load.conftest import IN_CHUNKS, PLAIN, Peer

Make = Callable[..., Any]
LOOK_NS = 100_000
HTTP_503 = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nbusy"
NO_KEY = b'HTTP/1.1 200 OK\r\nContent-Length: 29\r\n\r\n{"header":{"revision":"7777"}}'[:-1]


@pytest.fixture(autouse=True)
def time_passes_by_being_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """So a run is so many looks, of which each answer is one, however slow the machine."""
    looks = count()
    monkeypatch.setattr(generator, "perf_counter_ns", lambda: next(looks) * LOOK_NS)


def load_of(*peers: Peer, **options: Any) -> Load:
    plain = Load(
        operation=Operation.GET,
        endpoints=tuple(peer.address for peer in peers),
        connections=4,
        seconds=0.2,
        warm_up_s=0.05,
        keys=10,
        value_bytes=20,
    )
    return replace(plain, **options)


async def drive(load: Load) -> Outcome:
    return await asyncio.to_thread(Generator(load, random.Random(load.seed)).run)


@pytest.mark.parametrize("answer", [PLAIN, IN_CHUNKS])
async def test_it_counts_what_the_server_did(peer: Make, answer: bytes) -> None:
    server = await peer(answer=lambda _: answer)
    outcome = await drive(load_of(server))
    assert outcome.errors == {}
    assert outcome.unsettled == 0
    assert outcome.acknowledged == len(server.requests)
    assert 0 < outcome.answered < outcome.acknowledged, "the warm-up is left out"
    # Every request answered in the window and those under way when it closed.
    assert outcome.answered <= outcome.histogram.total <= outcome.answered + 4
    assert 0.2 <= outcome.seconds < 1.0
    assert outcome.per_second == pytest.approx(outcome.answered / outcome.seconds)
    assert 0 < outcome.histogram.percentile_us(50) <= outcome.histogram.percentile_us(99)
    assert server.most_under_way <= 4
    assert len(server.by_connection) == 4, "connections are kept"
    assert all(server.by_connection)


async def test_connections_are_spread_over_the_nodes(peer: Make) -> None:
    servers = [await peer() for _ in range(3)]
    outcome = await drive(load_of(*servers, connections=7))
    assert [len(server.by_connection) for server in servers] == [3, 2, 2]
    assert outcome.acknowledged == sum(len(server.requests) for server in servers)


async def test_fewer_requests_than_nodes_go_round(peer: Make) -> None:
    servers = [await peer() for _ in range(3)]
    outcome = await drive(load_of(*servers, connections=1))
    asked = [len(server.requests) for server in servers]
    assert max(asked) - min(asked) <= 1
    assert [len(server.by_connection) for server in servers] == [1, 1, 1]
    assert outcome.acknowledged == sum(asked)


async def test_requests_are_those_of_the_gateway(peer: Make) -> None:
    server = await peer()
    await drive(load_of(server, operation=Operation.PUT))
    seen = set()
    for request in server.requests:
        head, _, body = request.partition(b"\r\n\r\n")
        assert head.startswith(b"POST /v3/kv/put HTTP/1.1\r\n")
        assert b"Host: 127.0.0.1:%d" % server.address[1] in head
        put = json.loads(body)
        assert len(b64decode(put["value"], validate=True)) == 20
        seen.add(b64decode(put["key"], validate=True))
    assert seen == {key(number) for number in range(10)}
    again = await peer()
    await drive(load_of(again, operation=Operation.PUT, connections=1))
    await drive(load_of(server, operation=Operation.PUT, connections=1))
    mine = [request.partition(b"\r\n\r\n")[2] for request in again.requests]
    assert len(set(mine)) == 10, "a key has one value"


async def test_other_statuses_are_errors(peer: Make) -> None:
    server = await peer(answer=lambda number: HTTP_503 if number % 50 == 0 else PLAIN)
    outcome = await drive(load_of(server))
    asked = len(server.requests)
    assert asked >= 500, "of 2,500 looks at the clock"
    assert outcome.errors == {"status 503": asked // 50}
    assert outcome.unsettled == asked // 50
    assert outcome.acknowledged == asked - asked // 50
    assert len(server.by_connection) == 4, "the connection goes on"


async def test_an_answer_without_the_key_is_an_error(peer: Make) -> None:
    server = await peer(answer=lambda number: NO_KEY if number == 3 else PLAIN)
    outcome = await drive(load_of(server))
    assert outcome.errors == {"an answer without what was asked for": 1}
    puts = await peer(answer=lambda _: NO_KEY)
    assert (await drive(load_of(puts, operation=Operation.PUT))).errors == {}


async def test_a_lost_connection_is_counted_and_opened_again(peer: Make) -> None:
    server = await peer(answer=lambda number: None if number in (5, 9) else PLAIN)
    outcome = await drive(load_of(server))
    assert outcome.failed == 2, outcome.errors
    assert outcome.unsettled == 2
    assert len(server.by_connection) == 6
    assert outcome.acknowledged == len(server.requests) - 2


async def test_a_server_that_only_fails_ends_the_run_early(peer: Make) -> None:
    server = await peer(answer=lambda _: HTTP_503)
    outcome = await drive(load_of(server, seconds=30.0))
    assert outcome.answered == outcome.acknowledged == 0
    assert outcome.seconds < 5.0
    assert ERRORS_MAX < outcome.failed <= ERRORS_MAX + 3 * 4


async def test_a_request_that_is_never_answered_is_an_error(
    peer: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generator, "ANSWER_MAX_S", 0.1)
    monkeypatch.setattr(generator, "IDLE_POLL_S", 0.001)
    server = await peer(answer=lambda number: "silent" if number == 7 else PLAIN)
    outcome = await drive(load_of(server))
    assert outcome.errors == {"no answer within 0 s": 1}
    assert outcome.unsettled == 1
    assert outcome.acknowledged == len(server.requests) - 1


async def test_a_server_that_is_not_there_is_named() -> None:
    load = load_of(replace_address(1))
    with pytest.raises(UnreachableError, match=r"127\.0\.0\.1:1 .*is it still running"):
        await drive(load)


def replace_address(port: int) -> Peer:
    return Peer(address=("127.0.0.1", port))
