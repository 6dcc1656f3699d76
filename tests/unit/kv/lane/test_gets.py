"""The gets of a read point, as a run: in order, each answered once, and a client that is gone or a
defect costs no other its answer."""

from __future__ import annotations

import json
from base64 import b64encode
from typing import Any

import pytest

from kv.errors import UnavailableError
from kv.etcd.answers import Headers
from kv.lane.answers import HEADS_MAX, Answers
from kv.lane.connection import WINDOW
from kv.regime import Give
from storage.mvcc_records import Fields

Get = tuple[bytes, Any, Give]


def post(path: str, document: Any, host: str = "127.0.0.1") -> bytes:
    body = json.dumps(document).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def get(key: bytes) -> bytes:
    return post("/v3/kv/range", {"key": b64encode(key).decode()})


PUT = post("/v3/kv/put", {"key": "YQ==", "value": "MQ=="})
TXN = post("/v3/kv/txn", {})


def fields(key: bytes, value: bytes) -> Fields:
    return (key, 2, 3, 4, 0, value, 0)


class Point:
    """Gets of a server that wait for it."""

    def __init__(self, server: Any) -> None:
        self.gets: list[Get] = []
        server.strong.get = lambda *get: self.gets.append(get)

    def give(self, *values: bytes | None) -> None:
        """A value each; None: there is no such key. Without any, its key is its value."""
        gets, self.gets = self.gets, []
        keys, askers, gives = zip(*gets, strict=True)
        found = [
            None if value is None else fields(key, value)
            for key, value in zip(keys, values or keys, strict=True)
        ]
        gives[0](askers, found, 7, 5)


def values(wire: Any) -> list[str]:
    return [part.partition(b'"')[0].decode() for part in wire.written.split(b'"value":"')[1:]]


def shown(*each: bytes) -> list[str]:
    return [b64encode(value).decode() for value in each]


async def test_a_run_is_encoded_in_one_go_and_written_once_a_connection(
    make_server: Any, quiet: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[int] = []
    encode = Headers.encode_each

    def counted(self: Headers, found: Any, revision: int, term: int) -> list[bytes]:
        runs.append(len(found))
        return encode(self, found, revision, term)

    monkeypatch.setattr(Headers, "encode_each", counted)
    server = await make_server()
    point = Point(server)
    wires = [server.connect() for _ in range(3)]
    for wire, key in zip(wires, (b"a", b"longer", b"c"), strict=True):
        wire.protocol.data_received(get(key))
    point.give(b"1", b"22", None)
    assert not any(wire.written for wire in wires), "they leave with the flush"
    await quiet(wires)
    assert (runs, [wire.writes for wire in wires]) == ([3], [1, 1, 1])
    assert [values(wire) for wire in wires] == [shown(b"1"), shown(b"22"), []]
    assert b'"raft_term":"5"}}' in wires[2].written
    page = server.metrics.render().decode()
    assert 'januskv_requests_total{route="/v3/kv/range",method="POST",code="200"} 3' in page
    count = 'januskv_request_duration_seconds_count{route="/v3/kv/range",method="POST",level='
    assert f'{count}"linearizable"}} 3' in page
    assert "januskv_requests_in_flight 0" in page


async def test_what_follows_a_get_begins_when_it_has_left(make_server: Any, quiet: Any) -> None:
    server = await make_server()
    point = Point(server)
    wire = server.connect()
    wire.protocol.data_received(get(b"a") + get(b"b"))
    wire.protocol.data_received(get(b"c"))
    for key in (b"a", b"b", b"c"):
        assert [each for each, _, _ in point.gets] == [key]
        point.give()
        await quiet([wire])
    assert values(wire) == shown(b"a", b"b", b"c")


async def test_an_answer_before_it_that_has_not_left_leaves_before_it(
    make_server: Any, quiet: Any
) -> None:
    server = await make_server()
    point = Point(server)
    server.strong.hold = True
    wire, other = server.connect(), server.connect()
    wire.protocol.data_received(PUT)
    server.lane.begin_for_turn()
    server.lane.hold()
    server.strong.release()
    wire.protocol.data_received(get(b"a"))
    other.protocol.data_received(get(b"b"))
    point.give()
    server.lane.flush()
    await quiet([wire, other])
    assert wire.written.count(b"HTTP/1.1 200 OK") == 2
    assert values(wire) == shown(b"a")
    assert wire.written.index(b'"revision":"2"') < wire.written.index(b'"value"')
    assert values(other) == shown(b"b")
    assert "januskv_requests_in_flight 0" in server.metrics.render().decode()


async def test_a_client_that_is_gone_costs_no_other_its_answer(
    make_server: Any, quiet: Any
) -> None:
    server = await make_server()
    point = Point(server)
    gone, there = server.connect(), server.connect()
    for wire in (gone, there):
        wire.protocol.data_received(get(b"a"))
    gone.abort()
    await quiet([gone])
    point.give()
    await quiet([there])
    assert (values(gone), values(there)) == ([], shown(b"a"))
    page = server.metrics.render().decode()
    for code in (200, 499):
        line = f'januskv_requests_total{{route="/v3/kv/range",method="POST",code="{code}"}} 1'
        assert line in page
    assert "januskv_requests_in_flight 0" in page


async def test_a_get_is_answered_once(
    make_server: Any, quiet: Any, caplog: pytest.LogCaptureFixture
) -> None:
    server = await make_server()
    point = Point(server)
    one, other = server.connect(), server.connect()
    for wire in (one, other):
        wire.protocol.data_received(get(b"a"))
    twice = list(point.gets)
    point.give()
    await quiet([one, other])
    one.protocol.data_received(get(b"new"))
    new, point.gets = point.gets, twice
    point.give(b"again", b"again")
    await quiet([one, other])
    assert [values(wire) for wire in (one, other)] == [shown(b"a")] * 2
    assert caplog.text.count("a get was answered twice") == 2
    point.gets = new
    point.give()
    await quiet([one])
    assert values(one) == shown(b"a", b"new")
    assert "januskv_requests_in_flight 0" in server.metrics.render().decode()


async def test_a_refusal_is_answered_to_each(make_server: Any, quiet: Any) -> None:
    server = await make_server()
    point = Point(server)
    wires = [server.connect(), server.connect()]
    for wire in wires:
        wire.protocol.data_received(get(b"a"))
    (_, _, give), *_ = point.gets
    give([asker for _, asker, _ in point.gets], UnavailableError("nobody leads"), 0, 0)
    await quiet(wires)
    for wire in wires:
        assert wire.written.startswith(b"HTTP/1.1 503 ")
        assert not wire.closed


async def test_a_defect_in_encoding_is_answered_to_each_of_the_run(
    make_server: Any, quiet: Any
) -> None:
    server = await make_server()
    point = Point(server)
    wires = [server.connect(), server.connect()]
    for wire in wires:
        wire.protocol.data_received(get(b"a"))
    (_, _, give), *_ = point.gets
    give([asker for _, asker, _ in point.gets], [("no", "record")], 7, 5)
    await quiet(wires)
    for wire in wires:
        assert wire.written.startswith(b"HTTP/1.1 500 ")
        assert wire.closed


async def test_a_large_answer_makes_the_window_small_and_a_small_one_wide_again(
    make_server: Any, quiet: Any
) -> None:
    server = await make_server()
    point = Point(server)
    wire = server.connect()
    large, small = b"x" * 13_000, b"x"
    for run, under_way in (((large,), 1), ((large, small), WINDOW)):
        for value in run:
            wire.protocol.data_received(get(b"a"))
            point.give(value)
            await quiet([wire])
        server.strong.hold = True
        wire.protocol.data_received(PUT * (WINDOW + 1))
        server.lane.begin_for_turn()
        assert server.strong.under_way == under_way
        server.strong.release()
        await quiet([wire])


@pytest.mark.parametrize("how", ["drained", "half closed"])
async def test_a_connection_that_ends_is_closed_behind_its_get(
    make_server: Any, quiet: Any, how: str
) -> None:
    server = await make_server()
    point = Point(server)
    wire = server.connect()
    wire.protocol.data_received(get(b"a"))
    if how == "drained":
        wire.protocol.drain()
    else:
        assert wire.protocol.eof_received() is True
    point.give()
    assert not wire.closed
    await quiet([wire])
    assert values(wire) == shown(b"a")
    assert wire.closed


async def test_requests_with_other_heads_than_the_last_are_told_apart(
    make_server: Any, quiet: Any
) -> None:
    """As long as the last, or longer than their heads say."""
    server = await make_server()
    wire, other = server.connect(), server.connect()
    body = b'{"key":"YQ=="}'
    head = b"POST /v3/kv/%b HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 14\r\n%b\r\n"
    requests = (
        head % (b"range", b"X: 1\r\n") + body,
        head % (b"put", b"X: 123\r\n") + body,
        head % (b"range", b"") + body,
        (head % (b"range", b"") + body) * 2,
        head % (b"deleterange", b"") + body,
        head % (b"range", b"") + body,
        TXN,
    )
    for request in requests:
        for each in (wire, other):
            each.protocol.data_received(request)
            await quiet([each])
    for each in (wire, other):
        assert each.written.count(b"HTTP/1.1 200 OK") == 8
    assert server.strong.machine.revision == 4, "two puts, and the delete that found one"


def test_heads_of_answers_are_those_of_their_date_and_few() -> None:
    answers = Answers(server="S", good={}, bad={}, shared=())
    for date in ("today", "tomorrow"):
        answers.set_date(date)
        for length in range(HEADS_MAX + 10):
            body = b"x" * length
            assert answers.good_head(length) + body == answers.etcd(200, body)
            assert answers.heads[length] == answers.good_head(length)
            assert len(answers.heads) <= HEADS_MAX
