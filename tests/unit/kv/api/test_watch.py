"""Watches: NDJSON, server-sent events, long polls; resume, compaction, clients that go away."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from typing import Any

import pytest

from kv.api.streams import STUCK_BYTES
from kv.api.watching import http_chunk
from kv.watch.watcher import WatchLimits
from raftgroups.commands import BatchWrite, Compact, Delete, Put

from .conftest import WALL_MS, MakeRest, Rest

WATCH = "/api/v1/watch"


async def test_an_event_is_framed_once_for_all_streams(
    rest: Rest, monkeypatch: pytest.MonkeyPatch
) -> None:
    framed: list[bytes] = []

    def counted(data: bytes) -> bytes:
        framed.append(data)
        return http_chunk(data)

    monkeypatch.setattr("kv.api.watching.http_chunk", counted)
    async with AsyncExitStack() as stack:
        streams = [
            await stack.enter_async_context(rest.lines(f"{WATCH}?prefix=a")) for _ in range(4)
        ]
        for line in streams:
            assert (await line())["type"] == "created"
        for number in range(3):
            await rest.put(f"/api/v1/keys/a{number}", "one")
            for line in streams:
                assert (await line())["events"][0]["key"] == f"a{number}"
    assert [json.loads(data)["revision"] for data in framed] == [2, 3, 4]


async def test_ndjson(rest: Rest) -> None:
    async with rest.lines(f"{WATCH}?prefix=a&prev=true") as line:
        assert await line() == {"type": "created", "revision": 1}
        await rest.put("/api/v1/keys/a1", "one", lease=None)
        await rest.put("/api/v1/keys/b", "other")
        await rest.put("/api/v1/keys/a1", "two")
        await rest.ask("DELETE", "/api/v1/keys/a1")
        assert await line() == {
            "type": "events",
            "revision": 2,
            "events": [
                {"type": "put", "key": "a1", "version": 2, "timestamp": WALL_MS, "value": "one"}
            ],
        }
        changed = await line()
        assert changed["revision"] == 4
        assert changed["events"][0]["prev"] == {
            "value": "one",
            "version": 2,
            "timestamp": WALL_MS,
        }
        gone = await line()
        assert gone["events"] == [
            {
                "type": "delete",
                "key": "a1",
                "version": 5,
                "timestamp": WALL_MS + 3,
                "prev": {"value": "two", "version": 4, "timestamp": WALL_MS + 2},
            }
        ]


async def test_a_revision_is_one_line(rest: Rest) -> None:
    three = BatchWrite((Put(b"a", b"1"), Put(b"b", b"\xff"), Put(b"c\xff", b"3")))
    async with rest.lines(f"{WATCH}?prefix=") as line:
        await line()
        rest.strong.apply(three)
        live = await line()
    assert live["revision"] == 2
    assert [event["key"] for event in live["events"]] == ["a", "b", "Y/8="]
    assert live["events"][1]["encoding"] == "base64"
    assert live["events"][2]["key_encoding"] == "base64"
    rest.strong.apply(Delete(b"a", b"b\x00"))
    async with rest.lines(f"{WATCH}?prefix=&from=2") as line:
        assert await line() == {"type": "created", "revision": 3}
        assert await line() == live
        deleted = await line()
        assert (deleted["revision"], len(deleted["events"])) == (3, 2)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("key=b", [3]),
        ("key=%62", [3]),
        ("prefix=b", [3, 4]),
        ("start=b&end=c", [3, 4]),
        ("start=b", [3, 4, 5, 6]),
        ("end=b", [2]),
        ("prefix=&filter=put", [2, 3, 4, 5]),
        ("prefix=&filter=delete", [6]),
        ("prefix=&from=4", [4, 5, 6]),
    ],
)
async def test_what_is_watched(rest: Rest, query: str, expected: list[int]) -> None:
    for key in (b"a", b"b", b"b1", b"c"):
        rest.strong.apply(Put(key, b"v"))
    rest.strong.apply(Delete(b"c"))
    query = query if "from" in query else query + "&from=1"
    answer = await rest.get(f"{WATCH}?{query}&poll=2")
    assert [revision["revision"] for revision in answer.body["events"]] == expected


async def sse_event(response: Any) -> tuple[str | None, Any]:
    """(id, data) of the next event."""
    event_id, data = None, None
    while True:
        line = (await asyncio.wait_for(response.content.readline(), 5)).decode().rstrip("\n")
        if not line:
            return event_id, data
        name, _, value = line.partition(": ")
        if name == "id":
            event_id = value
        else:
            assert name == "data"
            data = json.loads(value)


async def test_server_sent_events_resume(rest: Rest) -> None:
    sse = {"Accept": "text/event-stream"}
    async with rest.stream(f"{WATCH}?key=a", **sse) as response:
        assert response.headers["Content-Type"] == "text/event-stream"
        assert await sse_event(response) == ("1", {"type": "created", "revision": 1})
        await rest.put("/api/v1/keys/a", "one")
        event_id, data = await sse_event(response)
        assert (event_id, data["events"][0]["value"]) == ("2", "one")
    await rest.put("/api/v1/keys/a", "two")
    async with rest.stream(f"{WATCH}?key=a", Last_Event_ID="2", **sse) as response:
        assert await sse_event(response) == ("2", {"type": "created", "revision": 3})
        event_id, data = await sse_event(response)
        assert (event_id, data["events"][0]["value"]) == ("3", "two")
    assert await rest.refused("GET", f"{WATCH}?key=a", Last_Event_ID="x") == (400, "invalid_header")


async def test_long_poll(rest: Rest) -> None:
    nothing = await rest.get(f"{WATCH}?key=a&poll=0.02")
    assert nothing.body == {"events": [], "next": 2}
    waiting = asyncio.ensure_future(rest.get(f"{WATCH}?key=a&poll=5&from=2"))
    await rest.until(lambda: rest.strong.watchers == 1)
    await rest.put("/api/v1/keys/a", "one")
    answer = await waiting
    assert answer.body["next"] == 3
    assert answer.body["events"][0]["events"][0]["value"] == "one"
    await rest.put("/api/v1/keys/a", "two")
    missed = await rest.get(f"{WATCH}?key=a&poll=5&from=3")
    assert [revision["revision"] for revision in missed.body["events"]] == [3]
    future = await rest.get(f"{WATCH}?key=a&poll=0.02&from=50")
    assert future.body == {"events": [], "next": 50}
    assert rest.strong.watchers == 0


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("", "invalid_query"),
        ("key=a&prefix=b", "invalid_query"),
        ("key=", "empty_key"),
        ("key=" + "k" * 433, "invalid_query"),
        ("start=b&end=a", "invalid_query"),
        ("key=a&from=x", "invalid_query"),
        ("key=a&filter=all", "invalid_query"),
        ("key=a&poll=0", "invalid_query"),
        ("key=a&poll=301", "invalid_query"),
        ("key=a&prev=1", "invalid_query"),
    ],
)
async def test_a_bad_watch_is_refused(rest: Rest, query: str, code: str) -> None:
    assert await rest.refused("GET", f"{WATCH}?{query}") == (400, code)
    assert rest.strong.watchers == 0


@pytest.mark.parametrize("form", ["", "&poll=1"])
async def test_a_watch_from_before_the_compaction_is_gone(rest: Rest, form: str) -> None:
    for number in range(5):
        await rest.put("/api/v1/keys/a", str(number))
    await rest.post("/api/v1/admin/compact", {"revision": 4})
    answer = await rest.get(f"{WATCH}?key=a&from=3{form}")
    assert (answer.status, answer.body["error"]) == (410, "compacted")
    assert answer.body["compact_revision"] == 4
    assert (await rest.get(f"{WATCH}?key=a&from=4&poll=1")).body["next"] == 7


async def test_a_watch_that_is_compacted_away_is_cancelled(make_rest: MakeRest) -> None:
    """It did not read while events came, so it has to catch up, and then cannot."""
    rest = await make_rest()
    rest.strong.limits = WatchLimits(outbox_events=1)
    async with rest.lines(f"{WATCH}?prefix=") as line:
        await line()
        for number in range(20):  # all in one pass: the outbox takes one of them
            rest.strong.apply(Put(b"a", b"%d" % number))
        rest.strong.apply(Compact(15))
        last = await line()
        while last["type"] == "events":
            last = await line()
        assert last["type"] == "cancelled"
        assert last["reason"] == "compacted"
        assert last["compact_revision"] == 15
        assert len(last["message"]) > 10
        assert await line() is None
    await rest.until(lambda: rest.strong.watchers == 0)


async def test_the_limit_of_watchers(make_rest: MakeRest) -> None:
    rest = await make_rest()
    rest.strong.limits = WatchLimits(watchers=1)
    async with rest.lines(f"{WATCH}?key=a") as line:
        await line()
        answer = await rest.get(f"{WATCH}?key=b")
        assert (answer.status, answer.body["error"]) == (429, "overloaded")
        assert answer.headers["Retry-After"] == "5"


async def test_progress(make_rest: MakeRest) -> None:
    rest = await make_rest()
    rest.strong.limits = WatchLimits(progress_interval_s=0.02)
    async with rest.lines(f"{WATCH}?key=a&progress=true") as line:
        await line()
        await rest.put("/api/v1/keys/b")
        told = await line()
        while told["revision"] < 2:
            told = await line()
        assert told == {"type": "progress", "revision": 2}
    async with rest.stream(f"{WATCH}?key=a&progress=true", Accept="text/event-stream") as response:
        await sse_event(response)
        assert await sse_event(response) == ("2", {"type": "progress", "revision": 2})


async def test_a_client_that_goes_away_is_forgotten(rest: Rest) -> None:
    async with rest.stream(f"{WATCH}?key=a") as response:
        await response.content.readline()
        assert rest.strong.watchers == 1
        response.close()
    await rest.until(lambda: rest.strong.watchers == 0)
    poll = asyncio.ensure_future(rest.get(f"{WATCH}?key=a&poll=60"))
    await rest.until(lambda: rest.strong.watchers == 1)
    poll.cancel()
    await rest.until(lambda: rest.strong.watchers == 0)


async def test_a_client_that_does_not_read_holds_nobody_up(make_rest: MakeRest) -> None:
    """It becomes a victim of bounded size, others go on, and it gets everything in the end."""
    rest = await make_rest()
    rest.strong.limits = WatchLimits(outbox_events=2, outbox_bytes=10 * STUCK_BYTES)
    value = b"x" * STUCK_BYTES
    async with rest.lines(f"{WATCH}?prefix=") as slow, rest.lines(f"{WATCH}?key=mark") as quick:
        await slow()
        await quick()
        for number in range(400):
            rest.strong.apply(Put(b"k%03d" % number, value))
            if number % 20 == 0:
                await asyncio.sleep(0)
        rest.strong.apply(Put(b"mark", b"m"))
        assert (await quick())["events"][0]["key"] == "mark"
        held = [hub.statistics() for hub in rest.strong.hubs]
        assert sum(each.victims + each.catching_up for each in held) == 1
        keys = [(await slow())["events"][0]["key"] for _ in range(401)]
    assert keys == [f"k{number:03d}" for number in range(400)] + ["mark"]


async def test_a_node_that_stops_says_so(rest: Rest) -> None:
    async with rest.lines(f"{WATCH}?key=a") as line:
        await line()
        rest.api.close()
        end = await line()
        assert (end["type"], end["reason"]) == ("cancelled", "closed")
        assert await line() is None
    answer = await rest.get(f"{WATCH}?key=a")
    assert (answer.status, answer.body["error"]) == (503, "stopping")
    assert answer.headers["Retry-After"] == "1"


async def test_old_http(rest: Rest) -> None:
    """HTTP/1.0 knows no chunks: the lines come bare, until the connection ends."""
    reader, writer = await asyncio.open_connection("127.0.0.1", rest.port)
    writer.write(b"GET /api/v1/watch?key=a HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n")
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
    assert b"chunked" not in head.lower()
    assert json.loads(await reader.readline())["type"] == "created"
    await rest.put("/api/v1/keys/a", "one")
    assert json.loads(await reader.readline())["events"][0]["value"] == "one"
    writer.close()
    await writer.wait_closed()
    await rest.until(lambda: rest.strong.watchers == 0)
