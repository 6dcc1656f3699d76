"""Watches of a leaderless keyspace over one node in memory."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from kv.api.leaderless.watching import encoder_of
from kv.client.leaderless_watch import CursorPosition
from kv.leaderless import watching
from kv.leaderless.feed import Feed, FeedPage
from kv.watch.hub import Created
from kv.watch.index import EVERYTHING, with_prefix
from kv.watch.messages import Cancelled, CancelReason
from kv.watch.watcher import WatchLimits, WatchRequest

from .conftest import MakeRest, Rest, Single

WATCH = "/api/v1/watch"
K = "/api/v1/keys/"


@pytest.fixture
async def single() -> AsyncIterator[Single]:
    made = Single()
    yield made
    await made.stop()


@pytest.fixture
async def face(make_rest: MakeRest, single: Single) -> Rest:
    return await make_rest(leaderless=single)


def shown(line: Any) -> list[tuple[str, str, Any]]:
    return [
        (each["type"], each["key"], each.get("value", each.get("siblings")))
        for each in line["events"]
    ]


async def test_values_siblings_and_deletions_are_told(face: Rest) -> None:
    async with face.lines(f"{WATCH}?prefix=a") as line:
        assert (await line())["type"] == "created"
        await face.put(K + "b", "other")
        await face.put(K + "a1", "one")
        told = await line()
        assert shown(told) == [("put", "a1", "one")]
        await face.put(K + "a1", "two")
        told = await line()
        ((kind, key, siblings),) = shown(told)
        assert (kind, key) == ("put", "a1")
        assert sorted(each["value"] for each in siblings) == ["one", "two"]
        await face.put(K + "a1", "three", context=told["events"][0]["context"])
        told = await line()
        assert shown(told) == [("put", "a1", "three")]
        context = told["events"][0]["context"]
        await face.ask("DELETE", K + "a1", {"context": context})
        assert shown(await line()) == [("delete", "a1", None)]


async def test_a_cursor_goes_on_where_it_was(face: Rest, single: Single) -> None:
    async with face.lines(f"{WATCH}?prefix=") as line:
        begun = await line()
        await face.put(K + "a", "1")
        first = await line()
    await face.put(K + "b", "2")
    for cursor, expected in ((begun, ["a", "b"]), (first, ["b"])):
        async with face.lines(f"{WATCH}?prefix=&from={cursor['cursor']}") as line:
            again = await line()
            assert again["type"] == "created"
            got: list[str] = []
            while "b" not in got:
                got += [each["key"] for each in (await line())["events"]]
            assert got == expected
    # The same without a tail that knows it: it begins at the cursor.
    for tail in single.watching._tails:
        tail.stop("test")
    answer = await face.get(f"{WATCH}?prefix=&poll=5&from={first['cursor']}")
    assert [key for page in answer.body["events"] for _, key, _ in shown(page)] == ["b"]
    answer = await face.get(f"{WATCH}?prefix=&poll=0.01&from={answer.body['next']}")
    assert answer.body["events"] == []
    assert answer.body["next"]


async def test_a_watch_of_some_keys_is_sent_no_others(face: Rest, single: Single) -> None:
    pulled: list[bytes] = []
    page_of = single.own.feed.page

    def page(*args: Any, **options: Any) -> FeedPage:
        found = page_of(*args, **options)
        pulled.extend(each.key for each in found.items)
        return found

    object.__setattr__(single.own.feed, "page", page)
    async with face.lines(f"{WATCH}?prefix=a") as line:
        begun = await line()
        for number in range(20):
            await face.put(f"{K}b{number}", "other")
        await face.put(K + "a1", "one")
        told = await line()
        assert shown(told) == [("put", "a1", "one")]
        assert pulled == [b"a1"]
        assert [tail.keys for tail in single.watching._tails] == [with_prefix(b"a")]
        async with face.lines(f"{WATCH}?key=a1&from={begun['cursor']}") as other:
            await other()
            assert shown(await other()) == [("put", "a1", "one")]
        assert len(single.watching._tails) == 1
    # Its cursor is a time for all keys, whoever goes on from it.
    answer = await face.get(f"{WATCH}?prefix=b&poll=5&from={begun['cursor']}")
    seen = {key for page in answer.body["events"] for _, key, _ in shown(page)}
    assert seen <= {f"b{number}" for number in range(20)}
    assert seen


async def test_many_watches_of_some_keys_share_one_of_everything(single: Single) -> None:
    tails = {
        (await single.watching.begin(single.space, None, encoder_of(single.face), keys))[0]
        for keys in (with_prefix(b"%d" % number) for number in range(9))
    }
    assert len(tails) == watching.NARROW_MAX + 1
    assert sum(tail.keys == EVERYTHING for tail in tails) == 1


async def test_server_sent_events_carry_the_cursor(face: Rest) -> None:
    poll = await face.get(f"{WATCH}?key=a&poll=0.01")
    await face.put(K + "a", "1")
    answer = await face.get(f"{WATCH}?key=a&poll=5", **{"Last-Event-ID": poll.body["next"]})
    assert shown(answer.body["events"][0]) == [("put", "a", "1")]


@pytest.mark.parametrize("bad", ["from=x", "from=AAAA", "from=7", ""])
async def test_what_cannot_be_watched_is_refused(face: Rest, bad: str) -> None:
    query = f"prefix=a&{bad}" if bad else "filter=put"
    assert (await face.get(f"{WATCH}?{query}")).status == 400


async def test_a_node_that_forgot_says_so(face: Rest, single: Single) -> None:
    poll = await face.get(f"{WATCH}?prefix=&poll=0.01")
    for tail in single.watching._tails:
        tail.stop("test")
    single.own.feed = single.own.replica.feed = Feed(99)
    answer = await face.get(f"{WATCH}?prefix=&poll=1&from={poll.body['next']}")
    assert (answer.status, answer.body["error"]) == (410, "compacted")


async def test_a_watch_whose_node_forgot_hears_its_end(face: Rest, single: Single) -> None:
    async with face.lines(f"{WATCH}?prefix=") as line:
        await line()
        await face.put(K + "a", "1")
        await line()
        single.own.feed = single.own.replica.feed = Feed(99)
        end = await line()
    assert (end["type"], end["reason"]) == ("cancelled", "compacted")
    assert "list the keys again" in end["message"]


async def test_a_slow_watcher_delays_nobody_and_hears_that_it_fell_behind(
    face: Rest, single: Single, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "LOG_PAGES", 4)
    monkeypatch.setattr(watching, "LIMITS", WatchLimits(outbox_events=2))
    tail, _ = await single.watching.begin(single.space, None, encoder_of(single.face))
    slow = tail.watches.create(WatchRequest(EVERYTHING), lambda: None)
    assert isinstance(slow, Created)
    async with face.lines(f"{WATCH}?prefix=") as line:
        await line()
        for number in range(12):
            assert (await face.put(K + f"k{number}", "v")).status == 200
            assert shown(await line()) == [("put", f"k{number}", "v")]
    got = tail.watches.take(slow.identity)
    assert len(got) < 12
    assert isinstance(got[-1], Cancelled)
    assert got[-1].reason is CancelReason.COMPACTED


async def test_a_stopping_node_ends_its_watches(face: Rest, single: Single) -> None:
    async with face.lines(f"{WATCH}?prefix=") as line:
        await line()
        single.watching.stop()
        end = await line()
    assert (end["type"], end["reason"]) == ("cancelled", "closed")


def test_the_client_goes_on_from_the_last_cursor() -> None:
    position = CursorPosition()
    assert position.read(b'{"type":"created","cursor":"c1"}') is None
    assert (position.created, position.next) == (True, "c1")
    event = {"type": "put", "key": "a", "context": "x", "value": "1", "timestamp": 5}
    line = {"type": "events", "cursor": "c2", "events": [event]}
    change = position.read(json.dumps(line).encode())
    assert change is not None
    assert (change.states[0].value, change.cursor, position.next) == (b"1", "c2", "c2")
    assert position.read(b'{"type":"cancelled","reason":"closed","message":"m"}') is None
    assert position.over
