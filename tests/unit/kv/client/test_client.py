"""Every call of the client against a served REST face."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from kv.api.failures import KeyExistsError, LockHeldError, VersionMismatchError
from kv.client import BatchDelete, BatchPut, Client, Level, Txn
from kv.client.records import DeleteResult, TxnDelete, TxnGet, TxnPut, TxnRange
from raftgroups.refusals import KeyNotFoundError, LeaseNotFoundError, NotAnIntegerError
from storage.errors import CompactedError, InvalidOptionError, KeyTooLongError

KEYS = [
    b"a",
    b"with/slashes//and space",
    b"..",
    b".",
    b"a/cas",
    b"a?b#c%2F+&=",
    "schlüssel ☃".encode(),
    b"\xff\x00\x80",
    b"\x00",
]


@pytest.mark.parametrize("key", KEYS)
async def test_a_key_of_any_bytes_is_written_read_and_deleted(client: Client, key: bytes) -> None:
    value = b"\xfe" + key
    made = await client.put(key, value)
    assert made.created
    record = await client.get(key)
    assert record is not None
    assert (record.key, record.value, record.version) == (key, value, made.version)
    assert record.ttl_remaining_s is None
    assert record.lease is None
    assert (await client.cas(key, "text", expected_value=value)).success
    assert (await client.delete(key)).deleted
    assert await client.get(key) is None
    assert await client.delete(key) == DeleteResult(False, 0)


async def test_text_stands_for_its_utf8(client: Client) -> None:
    await client.put("ключ", "значение")
    record = await client.get("ключ".encode())
    assert record is not None
    assert record.value == "значение".encode()


async def test_conditions_of_a_put_are_errors_with_the_version(client: Client) -> None:
    first = await client.put("k", "1", if_absent=True)
    with pytest.raises(KeyExistsError) as exists:
        await client.put("k", "2", if_absent=True)
    assert exists.value.version == first.version
    with pytest.raises(VersionMismatchError) as mismatch:
        await client.put("k", "2", if_version=first.version + 1)
    assert mismatch.value.version == first.version
    with pytest.raises(VersionMismatchError):
        await client.put("k", "2", if_version=0)
    second = await client.put("k", "2", if_version=first.version)
    assert not second.created
    with pytest.raises(VersionMismatchError):
        await client.delete("k", if_version=first.version)
    assert (await client.delete("k", if_version=second.version)).deleted


async def test_cas_says_who_won(client: Client) -> None:
    won = await client.cas("k", b"1", expected_version=0)
    assert won.success
    lost = await client.cas("k", b"2", expected_version=0)
    assert not lost.success
    assert lost.version == won.version
    gone = await client.cas("k", None, expected_version=won.version, expected_value="1")
    assert gone == (True, 0)
    with pytest.raises(InvalidOptionError):
        await client.cas("k", "x")


async def test_counters_and_times_to_live(client: Client, rest: Any) -> None:
    assert (await client.incr("n")).value == 1
    assert (await client.incr("n", 41)).value == 42
    assert (await client.ttl("n", 30)).ttl_remaining_s == pytest.approx(30)
    record = await client.get("n")
    assert record is not None
    assert record.ttl_remaining_s == pytest.approx(30)
    rest.strong.pass_time(31)
    assert await client.get("n") is None
    with pytest.raises(KeyNotFoundError):
        await client.ttl("n", 5)
    await client.put("text", "x")
    with pytest.raises(NotAnIntegerError):
        await client.incr("text")


async def test_errors_come_back_as_what_they_were(client: Client) -> None:
    with pytest.raises(KeyTooLongError):
        await client.put("k" * 500, "v")
    first = await client.put("k", "1")
    await client.put("k", "2")
    third = await client.put("k", "3")
    await client.compact(third.version)
    with pytest.raises(CompactedError) as compacted:
        await client.get("k", revision=first.version)
    assert compacted.value.compact_revision == third.version


async def test_listings_go_over_pages_of_one_revision(client: Client) -> None:
    names = [b"l/%04d" % place for place in range(1203)]
    for begin in range(0, len(names), 1000):
        items = await client.batch([BatchPut(key, b"v") for key in names[begin : begin + 1000]])
        assert all(item.error is None for item in items)
    seen = []
    async for entry in client.list("l/"):
        if not seen:
            await client.put("l/9999", "later")
        seen.append(entry.key)
    assert seen == names
    reverse = [entry async for entry in client.list("l/", reverse=True, limit=3, values=True)]
    assert [entry.key for entry in reverse] == [b"l/9999", names[-1], names[-2]]
    assert reverse[0].value == b"later"
    assert [entry.key async for entry in client.scan("l/")] == [*names, b"l/9999"]
    assert (await client.count("l/")).total == 1204
    assert (await client.count(start="l/0001", end="l/0003")).total == 2
    assert await client.delete_prefix("l/") == 1204
    assert (await client.count()).total == 0


async def test_many_keys_at_once(client: Client) -> None:
    items = await client.batch(
        [BatchPut("a", "1"), BatchPut(b"\xff", b"\xfe", ttl=60), BatchDelete("b")]
    )
    assert [item.error for item in items] == [None, None, None]
    found = await client.get_many(["a", b"\xff", "b"])
    assert {key: record and record.value for key, record in found.items()} == {
        b"a": b"1",
        b"\xff": b"\xfe",
        b"b": None,
    }
    lost = await client.batch([BatchPut("a", "2"), BatchPut("b", "2", if_version=77)], atomic=True)
    assert [item.error and item.error.code for item in lost] == ["not_done", "version_mismatch"]
    alone = await client.batch([BatchPut("a", "2"), BatchPut("b", "2", if_version=77)])
    assert [item.error and item.error.code for item in alone] == [None, "version_mismatch"]


async def test_a_transaction_takes_one_of_two_branches(client: Client) -> None:
    txn = (
        Txn()
        .if_absent("t")
        .put("t", b"\xff")
        .put("t/2", "x")
        .otherwise()
        .get("t")
        .range("t", values=False)
        .delete_prefix("t/")
    )
    first = await client.txn(txn)
    assert first.succeeded
    assert first.results == (TxnPut(b"t", first.revision), TxnPut(b"t/2", first.revision))
    second = await client.txn(txn)
    assert not second.succeeded
    got, ranged, deleted = second.results
    assert isinstance(got, TxnGet)
    assert got.record is not None
    assert got.record.value == b"\xff"
    assert isinstance(ranged, TxnRange)
    assert [entry.key for entry in ranged.entries] == [b"t", b"t/2"]
    assert deleted == TxnDelete(1)
    reads = await client.txn(Txn().if_exists("t").get("t/2"))
    assert reads.results == (TxnGet(b"t/2", None),)


async def test_sessions_read_what_they_have_written(client: Client, rest: Any) -> None:
    session = client.session()
    assert session.session_token == ""
    put = await session.put("s", "1")
    assert session.session_token == f"3:{put.version}"
    await session.get("s")
    asked = rest.strong.options[-1]
    assert asked.level is Level.SESSION
    assert asked.session.revisions == {3: put.version}
    other = client.session(session.session_token)
    await other.get("s", level="eventual")
    assert rest.strong.options[-1].level is Level.EVENTUAL
    assert rest.strong.options[-1].session.revisions == {3: put.version}


async def test_a_watch_gives_whole_revisions(client: Client) -> None:
    await client.put("w/a", "0")
    async with client.watch(prefix="w/", previous=True) as watch:
        await client.txn(Txn().put("w/a", "1").put("w/b", b"\xff"))
        await client.delete("w/a")
        both = await asyncio.wait_for(watch.next(), 5)
        assert [(event.type, event.key, event.value) for event in both.events] == [
            ("put", b"w/a", b"1"),
            ("put", b"w/b", b"\xff"),
        ]
        before = both.events[0].previous
        assert before is not None
        assert before.value == b"0"
        gone = await asyncio.wait_for(watch.next(), 5)
        assert gone.revision == both.revision + 1
        assert gone.events[0].value is None
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(watch.next(), 0.05)
        await client.put("w/c", "2")
        after = await asyncio.wait_for(watch.next(), 5)  # a wait that was given up loses nothing
        assert after.events[0].key == b"w/c"
    assert [change async for change in watch] == []


async def test_a_watch_may_just_be_iterated(client: Client) -> None:
    for value in "123":
        await client.put("k", value)
    seen = []
    async for change in client.watch("k", from_revision=3, only="put"):
        seen.append(change.events[0].value)
        if len(seen) == 2:
            break
    assert seen == [b"2", b"3"]


async def test_a_watch_of_what_was_compacted_is_a_typed_error(client: Client) -> None:
    for value in "123":
        last = await client.put("k", value)
    await client.compact(last.version)
    with pytest.raises(CompactedError) as compacted:
        async with client.watch("k", from_revision=2):
            pass
    assert compacted.value.compact_revision == last.version


async def test_leases_hold_keys(client: Client, rest: Any) -> None:
    info = await client.grant_only(60)
    await client.put("held", "1", lease=info.id)
    record = await client.get("held")
    assert record is not None
    assert record.lease == info.id
    seen = await client.lease(info.id, keys=True)
    assert seen is not None
    assert seen.keys == (b"held",)
    assert [each.id async for each in client.leases()] == [info.id]
    assert await client.revoke(info.id)
    assert not await client.revoke(info.id)
    assert await client.get("held") is None
    assert await client.lease(info.id) is None
    with pytest.raises(LeaseNotFoundError):
        await client.keep_alive(info.id)


async def test_a_lock_excludes_and_its_token_rises(client: Client) -> None:
    async with client.lock("door", owner="me") as first:
        assert first.alive
        state = await client.lock_state("door")
        assert state.holder is not None
        assert (state.holder.token, state.holder.owner) == (first.token, "me")
        with pytest.raises(LockHeldError):
            await client.lock("door", wait_s=0).acquire()
        waiting = asyncio.ensure_future(client.lock("door").acquire())
        async with asyncio.timeout(5):
            while (await client.lock_state("door")).waiting != 1:  # noqa: ASYNC110 - a server's state
                await asyncio.sleep(0.005)
        token = first.token
    second = await asyncio.wait_for(waiting, 5)
    assert second.token > token
    assert not first.alive


async def test_status_of_a_node_and_of_all(client: Client) -> None:
    assert (await client.status()).node_id == "n1"
    assert (await client.cluster()).nodes[0].address == "127.0.0.1:7400"
    assert await client.transfer_leader("n9") == "n9"
    assert 0 < await client.ping() < 5
