"""What the lane does beside answering: order, back pressure, time limits, the limit, the end."""

from __future__ import annotations

import asyncio
import json
from base64 import b64encode
from collections.abc import Sequence
from typing import Any

import pytest

from kv.errors import UnavailableError
from kv.etcd.answers import Headers
from kv.lane.connection import KEPT_MAX_BYTES, WINDOW
from kv.lane.heads import KNOWN_MAX
from kv.lane.lane import LaneLimits
from raftgroups.commands import Command, Put

BY_HAND = LaneLimits(connections=3, head_s=2_000, body_s=3_000, idle_s=4_000, tick_s=1_000)
"""Nothing sweeps but the test."""


def post(path: str, document: Any) -> bytes:
    body = json.dumps(document).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def put(value: bytes = b"1") -> bytes:
    return post("/v3/kv/put", {"key": "YQ==", "value": b64encode(value).decode()})


RANGE = post("/v3/kv/range", {"key": "YQ=="})
TXN = post("/v3/kv/txn", {})
VERSION = b"GET /version HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


def answers(wire: Any) -> int:
    return int(wire.written.count(b"HTTP/1.1 200 OK\r\n"))


def revisions(wire: Any) -> list[int]:
    parts = bytes(wire.written).split(b'"revision":"')[1:]
    return [int(part.partition(b'"')[0]) for part in parts]


async def test_writes_run_together_and_are_answered_in_order(make_server: Any, quiet: Any) -> None:
    server = await make_server()
    server.strong.hold = True
    wire = server.connect()
    wire.protocol.data_received(put() * 80)
    server.lane.begin_for_turn()
    assert server.strong.under_way == WINDOW
    server.strong.held.reverse()
    server.strong.release()
    await quiet([wire])
    assert revisions(wire) == list(range(2, 82))
    assert server.strong.most_under_way == WINDOW


async def test_answers_of_one_pass_leave_in_one_write(make_server: Any, quiet: Any) -> None:
    server = await make_server()
    server.strong.hold = True
    wire = server.connect()
    wire.protocol.data_received(put() * 20)
    server.strong.release()
    await quiet([wire])
    assert answers(wire) == 20
    assert wire.writes == 1


async def test_puts_of_a_pass_are_begun_together_and_nothing_passes_them(
    make_server: Any, quiet: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await make_server()
    begun: list[list[Command]] = []
    write = server.strong.write_each

    def noted(commands: Sequence[Command], dones: Sequence[Any]) -> None:
        begun.append(list(commands))
        write(commands, dones)

    monkeypatch.setattr(server.strong, "write_each", noted)
    one, other = server.connect(), server.connect()
    one.protocol.data_received(put(b"1") + put(b"2"))
    other.protocol.data_received(post("/v3/kv/put", {"key": "!"}))
    other.protocol.data_received(put(b"3"))
    await quiet([one, other])
    assert begun == [[Put(b"a", b"1"), Put(b"a", b"2"), Put(b"a", b"3")]]
    assert (revisions(one), revisions(other)) == ([2, 3], [4])
    assert b"HTTP/1.1 400 " in other.written
    rest = b"PUT /api/v1/keys/a HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 13\r\n\r\n"
    one.protocol.data_received(put(b"4") + rest + b'{"value":"5"}' + put(b"6"))
    await quiet([one])
    other.protocol.data_received(RANGE)
    await quiet([other])
    assert b64encode(b"6") in other.written


async def test_puts_of_a_pass_are_encoded_in_one_go_and_a_defect_costs_only_them(
    make_server: Any, quiet: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[int] = []
    encode = Headers.encode_puts

    def counted(self: Headers, results: Any, term: int) -> list[bytes]:
        runs.append(len(results))
        if broken:
            raise RuntimeError("a defect")
        return encode(self, results, term)

    broken = False
    monkeypatch.setattr(Headers, "encode_puts", counted)
    server = await make_server()
    server.strong.hold = True
    one, other, third = server.connect(), server.connect(), server.connect()
    one.protocol.data_received(put() * 3)
    other.protocol.data_received(put())
    assert not server.strong.held
    server.lane.begin_for_turn()
    server.strong.held[:2] = reversed(server.strong.held[:2])
    server.strong.release()
    await quiet([one, other])
    assert (revisions(one), revisions(other), runs) == ([2, 3, 4], [5], [4])
    broken = True
    one.protocol.data_received(put() * 2)
    third.protocol.data_received(RANGE)
    await quiet([one, third])
    assert bytes(one.written).count(b"HTTP/1.1 500 ") == 1
    assert one.is_closing()
    assert answers(third) == 1


async def test_answers_given_in_the_pass_of_a_host_leave_at_its_end(
    make_server: Any, quiet: Any
) -> None:
    server = await make_server()
    server.strong.hold = True
    one, other = server.connect(), server.connect()
    one.protocol.data_received(RANGE)
    other.protocol.data_received(put())
    lane = server.lane
    lane.begin_for_turn()
    lane.hold()
    server.strong.release()
    await asyncio.sleep(0)
    assert answers(one) + answers(other) == 0, "nobody comes for them but the host"
    lane.flush()
    assert (answers(one), answers(other)) == (1, 1)
    lane.hold()
    lane.flush()
    one.protocol.data_received(RANGE)
    await quiet([one])
    assert answers(one) == 2
    assert "januskv_requests_in_flight 0" in server.metrics.render().decode()


@pytest.mark.parametrize("alone", [RANGE, TXN])
async def test_reads_and_transactions_run_alone(make_server: Any, quiet: Any, alone: bytes) -> None:
    server = await make_server()
    server.strong.hold = True
    wire = server.connect()
    wire.protocol.data_received(put() + alone + put() + put())
    for under_way in (1, 1, 2):
        await asyncio.sleep(0)
        assert server.strong.under_way == under_way
        server.strong.release()
        server.strong.hold = True
        await quiet([wire])
    assert answers(wire) == 4


async def test_the_hand_over_waits_for_what_is_under_way(make_server: Any, quiet: Any) -> None:
    server = await make_server()
    server.strong.hold = True
    wire = server.connect()
    wire.protocol.data_received(put() + put() + VERSION)
    await quiet([wire])
    wire.protocol.data_received(put())
    await quiet([wire])
    assert not wire.written
    server.strong.release()
    await quiet([wire])
    assert type(wire.protocol).__name__ == "Handed"
    assert answers(wire) == 4
    assert wire.written.index(b"etcdserver") > wire.written.index(b'"revision":"3"')
    assert server.lane.connections == 1


async def test_nothing_begins_while_the_client_does_not_read(make_server: Any, quiet: Any) -> None:
    server = await make_server()
    wire = server.connect()
    wire.protocol.pause_writing()
    wire.protocol.data_received(put() + put())
    await quiet([wire])
    assert server.strong.machine.revision == 1
    wire.protocol.resume_writing()
    await quiet([wire])
    assert answers(wire) == 2


async def test_a_hand_over_takes_the_pause_along(make_server: Any, quiet: Any) -> None:
    server = await make_server()
    wire = server.connect()
    wire.protocol.pause_writing()
    wire.protocol.data_received(VERSION)
    await quiet([wire])
    wire.protocol.resume_writing()
    await quiet([wire])
    assert answers(wire) == 1


async def test_large_answers_make_the_window_small(make_server: Any, quiet: Any) -> None:
    """Else a client that reads nothing could have a window full of them under way."""
    server = await make_server()
    wire = server.connect()
    large = {"key": "YQ==", "value": b64encode(b"x" * 13_000).decode()}
    wire.protocol.data_received(post("/v3/kv/put", large))
    await quiet([wire])
    prev = post("/v3/kv/put", {**large, "prev_kv": True})
    wire.protocol.data_received(prev)
    await quiet([wire])
    server.strong.hold = True
    wire.protocol.data_received(prev * 4)
    server.lane.begin_for_turn()
    assert server.strong.under_way == 1
    server.strong.release()
    await quiet([wire])
    assert answers(wire) == 6


async def test_reading_pauses_while_much_is_kept(make_server: Any, quiet: Any) -> None:
    server = await make_server()
    server.strong.hold = True
    wire = server.connect()
    wire.protocol.data_received(put() * WINDOW)
    many = -(-KEPT_MAX_BYTES // len(put())) + 1
    wire.protocol.data_received(put() * (many // 2))
    assert wire.reading
    wire.protocol.data_received(put() * (many // 2 + 1))
    assert not wire.reading
    server.strong.release()
    await quiet([wire])
    assert wire.reading
    assert answers(wire) == WINDOW + many // 2 + many // 2 + 1


async def test_a_half_closed_client_gets_its_answers(make_server: Any, quiet: Any) -> None:
    server = await make_server()
    server.strong.hold = True
    wire = server.connect()
    wire.protocol.data_received(put() + RANGE)
    assert wire.protocol.eof_received() is True
    for _ in range(2):
        server.strong.release()
        await quiet([wire])
    assert answers(wire) == 2
    assert wire.closed


async def test_an_idle_client_that_ends_is_let_go(make_server: Any) -> None:
    server = await make_server()
    wire = server.connect()
    assert not wire.protocol.eof_received()
    wire.protocol.data_received(b"POST /v3/kv/")
    assert not wire.protocol.eof_received()


async def test_a_client_that_is_gone_is_counted_as_that(make_server: Any, quiet: Any) -> None:
    server = await make_server()
    server.strong.hold = True
    wire = server.connect()
    wire.protocol.data_received(put())
    wire.abort()
    await quiet([wire])
    server.strong.release()
    await quiet([wire])
    page = server.metrics.render().decode()
    assert 'januskv_requests_total{route="/v3/kv/put",method="POST",code="499"} 1' in page
    assert "januskv_requests_in_flight 0" in page
    assert server.lane.connections == 0


async def test_what_is_measured(make_server: Any, quiet: Any) -> None:
    server = await make_server()
    wire = server.connect()
    get = b"GET /api/v1/keys/nope HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    wire.protocol.data_received(put() + RANGE + post("/v3/kv/range", {}) + get)
    await quiet([wire])
    page = server.metrics.render().decode()
    for route, method, code in (
        ("/v3/kv/put", "POST", 200),
        ("/v3/kv/range", "POST", 200),
        ("/v3/kv/range", "POST", 400),
        ("/api/v1/keys/{key}", "GET", 404),
    ):
        line = f'januskv_requests_total{{route="{route}",method="{method}",code="{code}"}} 1'
        assert line in page
    assert "januskv_requests_in_flight 0" in page


async def test_a_key_whose_name_begins_with_a_dot_keeps_its_connection_fast(
    make_server: Any, quiet: Any
) -> None:
    server = await make_server()
    wire = server.connect()
    for name in (b".profile", b"a/.b", b"..."):
        wire.protocol.data_received(
            b"GET /api/v1/keys/%s HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" % name
        )
        await quiet([wire])
        assert not server.lane._handed, name
    wire.protocol.data_received(b"GET /api/v1/keys/a/../b HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    await quiet([wire])
    assert server.lane._handed


async def test_latencies_are_measured_by_the_level_that_was_met(
    make_server: Any, quiet: Any
) -> None:
    server = await make_server()
    wire = server.connect()
    local = post("/v3/kv/range", {"key": "YQ==", "serializable": True})
    get = b"GET /api/v1/keys/a HTTP/1.1\r\nHost: 127.0.0.1\r\n%b\r\n"
    nowhere = get % b"Consistency-Level: nothing\r\n"  # aiohttp says so, and has what follows
    requests = [put(), RANGE, local, post("/v3/kv/range", {}), get % b""]
    requests += [get % b"Consistency-Level: eventual\r\n", get % b"Consistency-Level: session\r\n"]
    wire.protocol.data_received(b"".join(requests) + nowhere)
    await quiet([wire])
    page = server.metrics.render().decode()
    for route, method, levels in (
        ("/v3/kv/put", "POST", {"linearizable": 1}),
        ("/v3/kv/range", "POST", {"linearizable": 1, "eventual": 1, "": 1}),
        ("/api/v1/keys/{key}", "GET", {"linearizable": 1, "eventual": 1, "session": 1}),
    ):
        labels = f'januskv_request_duration_seconds_count{{route="{route}",method="{method}",level='
        for level in ("linearizable", "session", "eventual", ""):
            count = levels.get(level, 0)
            assert (f'{labels}"{level}"}} {count}' in page) is (level in levels) or not count


async def test_a_defect_is_answered_and_ends_the_connection(make_server: Any, quiet: Any) -> None:
    server = await make_server()
    wire = server.connect()
    wire.protocol.data_received(put())
    await quiet([wire])
    server.strong.write = None  # a call of this is a TypeError
    wire.protocol.data_received(put() + put())
    await quiet([wire])
    assert b"HTTP/1.1 500 Internal Server Error\r\n" in wire.written
    assert wire.written.count(b"HTTP/1.1 500") == 1
    assert wire.closed


async def test_errors_of_the_regime_are_answered(make_pair: Any) -> None:
    pair = await make_pair()
    for server in (pair.with_lane, pair.without):
        server.strong.restart = lambda seed: None
        server.strong.down = UnavailableError("nobody leads")
    get = b"GET /api/v1/keys/a HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    outcome = await pair.same(put() + RANGE + get)
    assert outcome.answers.count(b"HTTP/1.1 503 Service Unavailable\r\n") == 3
    assert b"nobody leads" in outcome.answers
    assert not outcome.closed


# --- time ------------------------------------------------------------------------------------


async def ticks(server: Any, count: int) -> None:
    for _ in range(count):
        server.lane.sweep()
        await asyncio.sleep(0)


async def test_an_idle_connection_is_closed(make_server: Any, quiet: Any) -> None:
    server = await make_server(limits=BY_HAND)
    wire = server.connect()
    await ticks(server, 3)
    wire.protocol.data_received(RANGE)
    await quiet([wire])
    await ticks(server, 4)
    assert not wire.closed
    await ticks(server, 1)
    assert wire.closed


async def test_a_slow_head_is_closed(make_server: Any) -> None:
    """However regularly a byte comes."""
    server = await make_server(limits=BY_HAND)
    wire = server.connect()
    for byte in RANGE[:2]:
        wire.protocol.data_received(bytes([byte]))
        await ticks(server, 1)
    assert not wire.closed
    wire.protocol.data_received(RANGE[2:3])
    await ticks(server, 1)
    assert wire.closed


async def test_a_slow_body_is_closed(make_server: Any) -> None:
    server = await make_server(limits=BY_HAND)
    wire = server.connect()
    wire.protocol.data_received(RANGE[:-3])
    for at in range(3, 0, -1):
        await ticks(server, 1)
        assert not wire.closed
        wire.protocol.data_received(RANGE[-at:][:1] if at > 1 else b"")
    await ticks(server, 1)
    assert wire.closed


async def test_what_is_under_way_is_not_idle(make_server: Any, quiet: Any) -> None:
    server = await make_server(limits=BY_HAND)
    server.strong.hold = True
    wire = server.connect()
    wire.protocol.data_received(put())
    await ticks(server, 9)
    assert not wire.closed
    server.strong.release()
    await quiet([wire])
    assert answers(wire) == 1


async def test_a_client_that_never_reads_is_dropped(make_server: Any, quiet: Any) -> None:
    server = await make_server(limits=BY_HAND)
    wire = server.connect()
    wire.protocol.data_received(put())
    await quiet([wire])
    wire.protocol.pause_writing()
    await ticks(server, 5)
    assert wire.aborted


async def test_a_slow_head_is_closed_where_aiohttp_reads_it(make_server: Any, quiet: Any) -> None:
    server = await make_server(limits=BY_HAND)
    wire = server.connect()
    wire.protocol.data_received(VERSION)
    await quiet([wire])
    assert type(wire.protocol).__name__ == "Handed"
    await ticks(server, 5)
    assert not wire.closed, "idle is aiohttp's to judge"
    for byte in VERSION[:3]:
        assert not wire.closed
        wire.protocol.data_received(bytes([byte]))
        await quiet([wire])
        await ticks(server, 1)
    assert wire.closed


async def test_a_slow_body_is_closed_where_aiohttp_reads_it(make_server: Any, quiet: Any) -> None:
    server = await make_server(limits=BY_HAND)
    wire = server.connect()
    grant = post("/v3/lease/grant", {"TTL": 60})
    wire.protocol.data_received(grant[:-2])
    await quiet([wire])
    await ticks(server, 4)
    assert not wire.closed
    await ticks(server, 1)
    assert wire.closed


async def test_a_stream_may_send_for_as_long_as_it_likes(make_server: Any, quiet: Any) -> None:
    server = await make_server(limits=BY_HAND)
    wire = server.connect()
    chunked = b"Transfer-Encoding: chunked\r\n\r\n"
    wire.protocol.data_received(b"POST /v3/watch HTTP/1.1\r\nHost: 127.0.0.1\r\n" + chunked)
    create = json.dumps({"create_request": {"key": "YQ=="}}).encode()
    wire.protocol.data_received(b"%x\r\n%b\r\n" % (len(create), create))
    await quiet([wire])
    assert b'"created":true' in wire.written
    await ticks(server, 20)
    assert not wire.closed


async def test_the_date_is_renewed(make_server: Any, quiet: Any) -> None:
    server = await make_server(limits=BY_HAND)
    dates = []
    for _ in range(2):
        wire = server.connect()
        wire.protocol.data_received(RANGE)
        await quiet([wire])
        dates.append(bytes(wire.written).partition(b"Date: ")[2][:29])
        server.clock.advance(60)
        server.lane.sweep()
    assert dates == [b"Tue, 14 Nov 2023 22:13:20 GMT", b"Tue, 14 Nov 2023 22:14:20 GMT"]


# --- many, and the end -------------------------------------------------------------------------


async def test_connections_over_the_limit_are_told_so(make_server: Any, quiet: Any) -> None:
    server = await make_server(limits=BY_HAND)
    wires = [server.connect() for _ in range(3)]
    wires[0].protocol.data_received(VERSION)
    await quiet(wires)
    assert server.lane.connections == 3, "one with aiohttp, two here"
    refused = server.connect()
    assert refused.written.startswith(b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\n")
    assert b"Connection: close\r\n" in refused.written
    body = json.loads(bytes(refused.written).partition(b"\r\n\r\n")[2])
    assert body["outcome"] == "none"
    assert "limits.connections" in body["message"]
    assert not refused.closed, "the answer would be lost with what the client has sent"
    refused.protocol.data_received(put())
    assert refused.closed
    assert server.strong.machine.revision == 1
    silent = server.connect()
    await ticks(server, 1)
    assert silent.closed
    wires[0].abort()
    await quiet(wires)
    again = server.connect()
    again.protocol.data_received(put())
    await quiet([again])
    assert answers(again) == 1


async def test_the_end_closes_what_is_idle_and_finishes_the_rest(
    make_server: Any, quiet: Any
) -> None:
    server = await make_server()
    server.strong.hold = True
    idle, busy, half = (server.connect() for _ in range(3))
    busy.protocol.data_received(put())
    half.protocol.data_received(RANGE[:-3])
    stopping = asyncio.ensure_future(server.lane.stop(5))
    await quiet([idle, busy, half])
    assert idle.closed
    assert half.closed
    assert not busy.closed
    busy.protocol.data_received(put())
    server.strong.release()
    await stopping
    assert answers(busy) == 1, "what came after the end had begun is not begun"
    assert busy.closed


async def test_the_end_does_not_wait_for_ever(make_server: Any) -> None:
    server = await make_server()
    server.strong.hold = True
    wire = server.connect()
    wire.protocol.data_received(put())
    await server.lane.stop(0.05)
    assert wire.aborted


async def test_what_is_remembered_of_heads_is_bounded(make_server: Any, quiet: Any) -> None:
    server = await make_server()
    wire = server.connect()
    for number in range(KNOWN_MAX + 50):
        head = b"GET /api/v1/keys/a HTTP/1.1\r\nHost: 127.0.0.1\r\nTraceparent: %d\r\n\r\n" % number
        wire.protocol.data_received(head)
        async with asyncio.timeout(5):
            while len(wire.protocol.queue):  # noqa: ASYNC110 - a few passes of the loop
                await asyncio.sleep(0)
    assert 0 < len(server.lane.heads.shapes) <= KNOWN_MAX
    assert type(wire.protocol).__name__ == "Connection"
