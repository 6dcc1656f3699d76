"""Watch streams: one message a chunk, slow clients, clients that go, nodes that stop."""

from __future__ import annotations

import asyncio
import json
from base64 import b64encode
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from kv.etcd.context import GatewayLimits
from kv.etcd.watch_calls import WatchCalls
from kv.watch.watcher import WatchLimits
from raftgroups.commands import Put
from storage.clock import ManualClock

Talker = Callable[..., Any]
WATCH = "/v3/watch"


def b64(text: str) -> str:
    return b64encode(text.encode()).decode()


def create(key: str = "", **options: Any) -> dict[str, Any]:
    """A watch of one key, or of those that begin with p/."""
    keys = {"key": b64(key)} if key else {"key": b64("p/"), "range_end": b64("p0")}
    return {"create_request": keys | options}


async def test_every_message_has_its_own_chunk(talk: Talker) -> None:
    one = await talk()
    stream = await one.open(WATCH, create())
    assert (await stream.result())["created"] is True
    for number in range(50):
        await one.put(f"p/{number}", str(number))
    for number in range(50):
        result = await stream.result()
        assert result["header"]["revision"] == str(number + 2)
        assert [event["kv"]["key"] for event in result["events"]] == [b64(f"p/{number}")]
    stream.close()


async def test_a_client_that_hangs_up_leaves_no_watcher(talk: Talker) -> None:
    one = await talk()
    streams = [await one.open(WATCH, [create(), create("q")]) for _ in range(3)]
    for stream in streams:
        await stream.result()
        await stream.result()
    assert one.watchers == 6
    for stream in streams:
        stream.close()
    await one.until(lambda: one.watchers == 0, "the watchers of those who went are gone")
    assert len(one.gateway._presence) == 0


async def test_a_slow_client_delays_nobody_and_misses_nothing(talk: Talker) -> None:
    limits = WatchLimits(outbox_events=4, outbox_bytes=64 * 1024, message_events=8)
    one = await talk(limits)
    slow, quick = await one.open(WATCH, create()), await one.open(WATCH, create())
    await slow.result()
    await quick.result()
    value = "v" * 20_000
    for number in range(600):  # 16 MB in base64: more than the sockets hold
        one.strong.apply(Put(b"p/%d" % number, value.encode()))
        if number % 20 == 19:
            await quick.events(20)
    state = one.gateway.watches.statistics()
    assert state.victims + state.catching_up == 1  # the slow one, which waits in the hub
    seen = await slow.events(600)
    assert [key for key, _ in seen] == [b"p/%d" % number for number in range(600)]
    slow.close()
    quick.close()


async def test_requests_that_come_later_in_the_body(talk: Talker) -> None:
    one = await talk()
    given: asyncio.Queue[bytes | None] = asyncio.Queue()

    async def body() -> AsyncIterator[bytes]:
        while (part := await given.get()) is not None:
            yield part

    first = json.dumps(create()).encode()
    given.put_nowait(first[:10])
    given.put_nowait(first[10:])
    stream = await one.open(WATCH, body())
    assert (await stream.result())["created"] is True
    await one.put("p/1")
    assert len((await stream.result())["events"]) == 1
    given.put_nowait(json.dumps(create("q")).encode())
    second = await stream.result()
    assert (second["watch_id"], second["created"]) == ("1", True)
    given.put_nowait(b'{"cancelRequest":{"watchId":"0"}}')
    assert (await stream.result()).get("canceled") is True
    await one.put("p/2")
    await one.put("q")
    assert (await stream.result())["watch_id"] == "1"
    given.put_nowait(None)
    await one.put("q", "2")  # the stream goes on when the body is over
    assert (await stream.result())["watch_id"] == "1"
    stream.close()


async def test_a_node_that_stops_says_so_and_ends_the_stream(talk: Talker) -> None:
    one = await talk()
    stream = await one.open(WATCH, [create(), create("q")])
    await stream.result()
    await stream.result()
    await one.put("p/1")
    one.gateway.stop("the node stops")
    assert len((await stream.result())["events"]) == 1
    for watch_id in (None, "1"):
        result = await stream.result()
        assert result.get("watch_id") == watch_id
        assert (result["canceled"], result["cancel_reason"]) == (True, "the node stops")
    assert await stream.next() is None


async def test_progress_is_told_on_time(talk: Talker, clock: ManualClock) -> None:
    one = await talk(WatchLimits(progress_interval_s=0.02))
    stream = await one.open(WATCH, [create(progress_notify=True), create("q")])
    await stream.result()
    await stream.result()
    await one.put("elsewhere")
    clock.advance(1)
    result = await stream.result()
    if "events" not in result:
        assert result == {"header": result["header"]}  # watch id 0, no events
    assert result["header"]["revision"] == "2"
    stream.close()


async def test_a_revision_may_come_in_fragments(talk: Talker) -> None:
    one = await talk(WatchLimits(fragment_bytes=150))
    whole, pieces = await one.open(WATCH, create()), await one.open(WATCH, create(fragment=True))
    await whole.result()
    await pieces.result()
    puts = [{"request_put": {"key": b64(f"p/{n}"), "value": b64("v" * 20)}} for n in range(5)]
    status, _ = await one.post("/v3/kv/txn", {"success": puts})
    assert status == 200
    assert len((await whole.result())["events"]) == 5
    seen, fragments = 0, []
    while seen < 5:
        result = await pieces.result()
        assert result["header"]["revision"] == "2"
        seen += len(result["events"])
        fragments.append(result.get("fragment", False))
    assert len(fragments) > 1
    assert fragments == [True] * (len(fragments) - 1) + [False]
    whole.close()
    pieces.close()


async def test_a_stream_has_only_so_many_watches(talk: Talker) -> None:
    one = await talk(limits=GatewayLimits(watches_a_stream=2, gone_after_s=0.05))
    stream = await one.open(WATCH, [create()] * 3)
    assert [(await stream.result()).get("watch_id") for _ in range(2)] == [None, "1"]
    third = await stream.result()
    assert (third["watch_id"], third["created"], third["canceled"]) == ("-1", True, True)
    assert "which is the limit" in third["cancel_reason"]
    assert one.watchers == 2
    stream.close()


async def test_a_free_id_is_used_again_only_if_it_was_chosen(talk: Talker) -> None:
    one = await talk()
    cancel = {"cancel_request": {"watch_id": 5}}
    stream = await one.open(
        WATCH, [create(watch_id=5), cancel, create(watch_id=5), create(), create()]
    )
    seen = [await stream.result() for _ in range(5)]
    assert [each.get("watch_id") for each in seen] == ["5", "5", "5", None, "1"]
    assert [each.get("canceled", False) for each in seen] == [False, True, False, False, False]
    stream.close()


async def test_a_request_that_never_ends_is_refused(talk: Talker) -> None:
    one = await talk(limits=GatewayLimits(stream_message_bytes=1000, gone_after_s=0.05))
    status, answer = await one.post(WATCH, '{"create_request":{"key":"' + "A" * 2000)
    assert (status, answer["code"]) == (500, 2)
    assert "over the limit of 1000 bytes" in answer["message"]
    assert one.watchers == 0


async def test_an_empty_body_ends_at_once(talk: Talker) -> None:
    one = await talk()
    assert await one.post(WATCH, b"") == (200, b"")


async def test_what_one_stream_sends_is_made_once_for_all(talk: Talker) -> None:
    one = await talk()
    streams = [await one.open(WATCH, create()) for _ in range(5)]
    for stream in streams:
        await stream.result()
    await one.put("p/1", "x")
    assert len({json.dumps(await stream.result()) for stream in streams}) == 1
    for stream in streams:
        stream.close()


async def test_an_event_is_framed_once_for_the_watchers_of_all_streams(
    talk: Talker, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    whole = WatchCalls.line

    def counted(calls: WatchCalls, revision: int, watch_id: int, fields: bytes) -> bytes:
        if b'"events"' in fields:
            made.append(revision)
        return whole(calls, revision, watch_id, fields)

    monkeypatch.setattr(WatchCalls, "line", counted)
    one = await talk()
    streams = [await one.open(WATCH, create()) for _ in range(5)]
    for stream in streams:
        await stream.result()
    for number in range(3):
        await one.put(f"p/{number}")
        for stream in streams:
            assert (await stream.result())["header"]["revision"] == str(number + 2)
    assert made == [2, 3, 4]
    for stream in streams:
        stream.close()


async def test_a_wake_writes_without_the_loop_of_the_stream(talk: Talker) -> None:
    """And what the client has no room for waits in the hub until it has."""
    one = await talk(WatchLimits(outbox_events=4, message_events=8))
    stream = await one.open(WATCH, create())
    await stream.result()
    await one.put("p/0")
    await stream.events(1)
    for number in range(1, 9):  # each more than a connection's buffer
        one.strong.apply(Put(b"p/%d" % number, b"v" * 1_000_000))
        await asyncio.sleep(0)
    state = one.gateway.watches.statistics()
    assert state.victims + state.catching_up == 1
    seen = await stream.events(8)
    assert [key for key, _ in seen] == [b"p/%d" % number for number in range(1, 9)]
    await one.put("p/9")
    assert [key for key, _ in await stream.events(1)] == [b"p/9"]
    stream.close()


async def test_a_client_of_http_1_0_gets_lines(talk: Talker) -> None:
    one = await talk()
    reader, writer = await asyncio.open_connection("127.0.0.1", one.client.port)
    body = json.dumps(create()).encode()
    head = b"POST /v3/watch HTTP/1.0\r\nContent-Length: %d\r\n\r\n" % len(body)
    writer.write(head + body)
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
    assert b"chunked" not in head.lower()
    assert json.loads(await asyncio.wait_for(reader.readline(), 10))["result"]["created"] is True
    await one.put("p/1", "x")
    assert len(json.loads(await asyncio.wait_for(reader.readline(), 10))["result"]["events"]) == 1
    writer.close()
    await one.until(lambda: one.watchers == 0, "the watcher is gone")


async def test_what_is_ready_together_is_still_one_message_a_chunk(talk: Talker) -> None:
    one = await talk()
    stream = await one.open(WATCH, create())
    await stream.result()
    for number in range(100):  # in one turn of the loop
        one.strong.apply(Put(b"p/%d" % number, b"v"))
    revisions = [(await stream.result())["header"]["revision"] for _ in range(100)]
    assert revisions == [str(number + 2) for number in range(100)]
    stream.close()


async def test_a_body_in_broken_chunks_does_no_harm(talk: Talker) -> None:
    """aiohttp tells nobody of it while a handler runs; what was asked for before goes on."""
    one = await talk()
    reader, writer = await asyncio.open_connection("127.0.0.1", one.client.port)
    try:
        body = json.dumps(create()).encode()
        head = b"POST /v3/watch HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        writer.write(head + b"%x\r\n%b\r\n" % (len(body), body))
        await asyncio.wait_for(reader.readuntil(b'"created":true}}\n'), 10)
        writer.write(b"no size\r\n")
        await one.put("p/1", "x")
        await asyncio.wait_for(reader.readuntil(b'"value":"eA=="}}]}}\n'), 10)
    finally:
        writer.close()
    await one.until(lambda: one.watchers == 0, "the watcher is gone")
