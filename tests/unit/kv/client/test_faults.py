"""Servers and networks that misbehave: nothing is done twice, nothing unknown is called known."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from typing import Any

import pytest

from kv.client import BatchPut, Client, LeaseLostError, OutcomeUnknownError, UnavailableError
from kv.client.transport import BusyError, Transport
from kv.client.watches import Watch
from raftgroups.commands import Delete
from raftgroups.refusals import LeaseNotFoundError, TokenTooOldError
from storage.errors import JanusError, Outcome


def at(*ports: int, **options: Any) -> Client:
    options.setdefault("timeout_s", 5.0)
    return Client([f"127.0.0.1:{port}" for port in ports], **options)


@pytest.fixture
async def client(faulty: Any) -> AsyncIterator[Client]:
    async with at(faulty.port, try_s=0.5) as made:
        yield made


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - what it looks at tells nobody
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("fault", ["lose", "eat", "refuse", "hang"])
async def test_an_increment_whatever_happens_to_it_is_done_once(
    client: Client, faulty: Any, rest: Any, fault: str
) -> None:
    await client.incr("n")
    faulty.plan = [fault, fault]
    assert (await client.incr("n")).value == 2
    assert (await client.incr("n")).value == 3
    tokens = faulty.sent("Idempotency-Key")
    assert len(tokens) == 5
    assert len({token.rsplit(":", 1)[0] for token in tokens}) == 3


async def test_every_kind_of_write_is_repeated_with_one_effect(
    client: Client, faulty: Any, rest: Any
) -> None:
    async def lost(call: Any, revisions: int = 1) -> Any:
        faulty.plan = ["lose"]
        before = rest.strong.machine.revision
        answer = await call
        assert rest.strong.machine.revision == before + revisions
        first, again = [options.token[:2] for options in rest.strong.options[-2:]]
        assert first == again
        return answer

    assert (await lost(client.put("k", "1", if_absent=True))).created
    assert (await lost(client.cas("k", "2", expected_value="1"))).success
    assert (await lost(client.ttl("k", 60), revisions=0)).version
    assert (await lost(client.delete("k"))).deleted
    faulty.plan = ["lose"]
    lease = await client.grant_only(60)
    assert [each.id async for each in client.leases()] == [lease.id]
    faulty.plan = ["lose"]
    assert await client.revoke(lease.id)


async def test_a_batch_of_single_writes_takes_a_sequence_for_each(
    client: Client, faulty: Any, rest: Any
) -> None:
    faulty.plan = ["lose"]
    before = rest.strong.machine.revision
    items = await client.batch([BatchPut(f"k{place}", "v") for place in range(5)])
    assert rest.strong.machine.revision == before + 5
    assert [item.version for item in items] == list(range(before + 1, before + 6))
    await client.put("after", "v")
    first, _, last = (token.split(":")[1] for token in faulty.sent("Idempotency-Key"))
    assert int(last) == int(first) + 5


@pytest.mark.parametrize("error", [UnavailableError("no leader"), OutcomeUnknownError("who knows")])
async def test_a_batch_is_repeated_until_each_of_its_writes_is_done_once(
    client: Client, rest: Any, error: JanusError
) -> None:
    """An answer may also be lost inside of the node: done, and reported as unknown."""
    calls = 0

    def fail(command: Any) -> JanusError | None:
        nonlocal calls
        calls += 1
        if calls not in (2, 3):
            return None
        if error.outcome is Outcome.UNKNOWN:
            rest.strong.apply(command, rest.strong.options[-1])
        return error

    rest.strong.fail_writes = fail
    before = rest.strong.machine.revision
    items = await client.batch([BatchPut(f"k{place}", "v") for place in range(4)])
    assert [item.error for item in items] == [None] * 4
    assert rest.strong.machine.revision == before + 4
    assert calls == 8


async def test_what_stays_open_of_a_batch_is_told(faulty: Any, rest: Any) -> None:
    rest.strong.fail_writes = lambda command: UnavailableError("no leader")
    async with at(faulty.port, timeout_s=0.3) as client:
        items = await client.batch([BatchPut("k", "v")])
    assert isinstance(items[0].error, UnavailableError)


async def test_without_tokens_a_lost_write_is_unknown_and_not_repeated(
    faulty: Any, rest: Any
) -> None:
    async with at(faulty.port, use_tokens=False) as client:
        await client.put("k", "0")
        for fault in ("lose", "eat"):
            asked = len(faulty.requests)
            faulty.plan = [fault]
            with pytest.raises(OutcomeUnknownError):
                await client.put("k", "1")
            with_lost = len(faulty.requests)
            assert with_lost == asked + 1, "the library below repeated the write unseen"
        faulty.plan = ["refuse"]
        assert (await client.incr("n")).value == 1


async def test_a_kept_connection_that_is_closed_and_a_server_that_is_gone_is_unknown(
    faulty: Any,
) -> None:
    """The request went out on the old connection; that a new one is refused says nothing of it."""
    async with at(faulty.port, use_tokens=False) as client:
        await client.put("k", "0")
        faulty.plan = ["hang"]
        writing = asyncio.ensure_future(client.put("k", "1"))
        await until(lambda: len(faulty.requests) == 2)
        await faulty.stop()
        with pytest.raises(OutcomeUnknownError):
            await writing


async def test_a_write_whose_tries_all_get_lost_is_unknown_and_a_read_is_not(
    faulty: Any,
) -> None:
    async with at(faulty.port, timeout_s=0.3) as client:
        faulty.plan = ["eat"] * 100
        with pytest.raises(OutcomeUnknownError):
            await client.put("k", "v")
        with pytest.raises(UnavailableError):
            await client.get("k")


async def test_nobody_there_is_unavailable_and_says_what_to_do(faulty: Any) -> None:
    await faulty.stop()
    async with at(faulty.port, timeout_s=0.3) as client:
        with pytest.raises(UnavailableError, match=r"Connection refused.*januskv serve"):
            await client.put("k", "v")


async def test_a_connection_that_does_not_come_in_time_is_nothing_sent() -> None:
    """A listener whose backlog is full: the kernel answers no further connection."""
    with socket.socket() as listener, ExitStack() as waiting:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        for _ in range(4):
            filler = waiting.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        async with at(port, timeout_s=0.3, use_tokens=False) as client:
            with pytest.raises(UnavailableError, match="no connection in time"):
                await client.put("k", "v")


async def test_a_dead_endpoint_is_left_alone_while_another_one_serves(
    faulty: Any, rest: Any
) -> None:
    dead = faulty.port
    await faulty.stop()
    async with at(dead, rest.port) as client:
        for place in range(20):
            await client.put(f"k{place}", "v")
    assert rest.strong.machine.revision == 21


async def test_a_hanging_endpoint_is_given_up_for_another_one(faulty: Any, rest: Any) -> None:
    faulty.plan = ["hang"] * 100
    async with at(faulty.port, rest.port, try_s=0.1) as client:
        async with asyncio.timeout(3):
            for _ in range(20):
                await client.incr("n")
        assert (await client.incr("n")).value == 21
    assert len(faulty.requests) <= 1


async def test_calls_overlap_and_hold_back_what_is_settled(faulty: Any, rest: Any) -> None:
    async with at(faulty.port, try_s=0.3) as client:
        faulty.plan = ["hang"]
        slow = asyncio.ensure_future(client.incr("slow"))
        await until(lambda: len(faulty.requests) == 1)
        for _ in range(5):
            await client.incr("fast")
        assert (await slow).value == 1
        await client.incr("fast")
    tokens = [tuple(map(int, token.split(":")[1:])) for token in faulty.sent("Idempotency-Key")]
    assert [settled for sequence, settled in tokens if sequence <= 6] == [1] * 7
    assert tokens[-1] == (7, 7)


async def test_a_client_that_was_forgotten_goes_on_with_a_new_id(client: Client, rest: Any) -> None:
    refusal = TokenTooOldError("token too old: outcome unknown")
    left = [refusal]
    rest.strong.fail_writes = lambda command: left.pop() if left else None
    assert (await client.incr("n")).value == 1
    first, second = rest.strong.options[-2:]
    assert first.token.client < second.token.client
    left[:] = [refusal, refusal]
    with pytest.raises(TokenTooOldError):
        await client.incr("n")


async def test_a_call_that_is_cancelled_settles_its_sequence(client: Client, faulty: Any) -> None:
    faulty.plan = ["hang"]
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(client.put("k", "v"), 0.1)
    await client.put("k", "w")
    assert [token.split(":")[1:] for token in faulty.sent("Idempotency-Key")] == [
        ["1", "1"],
        ["2", "2"],
    ]


# --- watches ---------------------------------------------------------------------------------


async def test_a_watch_misses_nothing_over_cut_connections(
    client: Client, faulty: Any, rest: Any
) -> None:
    async with at(rest.port) as writer, client.watch(prefix="w/") as watch:
        for place in range(30):
            await writer.put(f"w/{place:02}", str(place))
            if place % 5 == 4:
                await faulty.cut()
        seen = [(await asyncio.wait_for(watch.next(), 5)).events[0].key for _ in range(30)]
    assert seen == [b"w/%02d" % place for place in range(30)]
    assert watch.connections > 1


async def test_a_watch_goes_on_at_another_endpoint(faulty: Any, rest: Any) -> None:
    async with at(faulty.port, rest.port) as client, at(rest.port) as writer:
        client._caller.endpoints.worked(f"http://127.0.0.1:{faulty.port}")
        async with client.watch("k") as watch:
            await writer.put("k", "1")
            assert (await watch.next()).events[0].value == b"1"
            assert len(faulty.requests) == 1
            await faulty.stop()
            await writer.put("k", "2")
            assert (await asyncio.wait_for(watch.next(), 5)).events[0].value == b"2"


async def test_a_silent_connection_is_given_up(
    client: Client, faulty: Any, rest: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kv.client.watches.IDLE_S", 0.1)
    monkeypatch.setattr("kv.client.watches.ASK_S", 0.1)
    async with client.watch("k") as watch:
        faulty.plan = ["hang"] * 3  # the node is asked how it is, and says nothing
        await until(lambda: watch.connections == 2)
        async with at(rest.port) as writer:
            await writer.put("k", "1")
        assert (await asyncio.wait_for(watch.next(), 5)).events[0].value == b"1"


async def test_a_watch_that_nobody_begins_is_unavailable(faulty: Any) -> None:
    await faulty.stop()
    async with at(faulty.port, timeout_s=0.2) as client:
        with pytest.raises(UnavailableError, match="began to watch"):
            async with client.watch("k"):
                pass


async def test_a_reader_that_is_slow_holds_the_server_back(
    client: Client, rest: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kv.client.watches.QUEUE_CHANGES", 2)
    watch: Watch
    async with at(rest.port) as writer, client.watch("k") as watch:
        for place in range(40):
            await writer.put("k", str(place))
        assert watch._queue.qsize() <= 128
        values = [(await asyncio.wait_for(watch.next(), 5)).events[0].value for _ in range(40)]
    assert values == [b"%d" % place for place in range(40)]


# --- leases and locks ------------------------------------------------------------------------


async def test_a_lease_is_kept_alive_and_its_end_is_told(client: Client, rest: Any) -> None:
    lease = await client.grant(1)
    told: list[str] = []
    lease.on_lost(lambda: told.append("lost"))
    kept = sum("KeepAlive" in type(command).__name__ for command in rest.strong.commands)
    await until(
        lambda: sum("KeepAlive" in type(each).__name__ for each in rest.strong.commands) >= kept + 2
    )
    assert lease.alive
    lease.check()
    await client.revoke(lease.id)
    await asyncio.wait_for(lease.wait_lost(), 5)
    assert told == ["lost"]
    with pytest.raises(LeaseLostError, match="ended"):
        lease.check()
    with pytest.raises(LeaseNotFoundError):
        await client.keep(lease.id)


async def test_a_lease_that_cannot_be_renewed_is_lost_in_time(client: Client, faulty: Any) -> None:
    lease = await client.grant(1)
    await faulty.stop()
    loop = asyncio.get_running_loop()
    began = loop.time()
    await asyncio.wait_for(lease.wait_lost(), 10)
    assert loop.time() - began <= lease.ttl_s + 0.2
    assert not lease.alive


async def test_a_lost_lock_interrupts_who_holds_it(client: Client, rest: Any) -> None:
    reached = []

    async def hold() -> None:
        async with client.lock("door", ttl=1) as lock:
            await client.revoke(lock.info.lease)
            reached.append(1)
            await asyncio.sleep(60)
            reached.append(2)

    with pytest.raises(LeaseLostError, match="somebody else"):
        await asyncio.wait_for(hold(), 5)
    assert reached == [1]


async def test_who_looks_for_itself_is_not_interrupted(client: Client) -> None:
    async with client.lock("door", ttl=1, cancel_on_loss=False) as lock:
        await client.revoke(lock.info.lease)
        await asyncio.wait_for(lock.wait_lost(), 5)
        assert not lock.alive
        with pytest.raises(LeaseLostError):
            lock.check()


async def test_a_lock_survives_the_late_farewell_of_a_try_that_was_lost(
    client: Client, faulty: Any, rest: Any
) -> None:
    """The node that saw a waiter go deletes its key, perhaps much later: by then it must not be the
    key that the next try got the lock with."""
    late: list[tuple[Any, ...]] = []
    write = rest.strong.write

    def hold_back(command: Any, *others: Any) -> None:
        if isinstance(command, Delete):
            late.append((command, *others))
        else:
            write(command, *others)

    def asked() -> int:
        return sum(b"/locks/door" in request for request in faulty.requests)

    async with at(rest.port) as other:
        async with other.lock("door"):
            taking = asyncio.ensure_future(client.lock("door").acquire())
            await until(lambda: asked() == 1)
            async with asyncio.timeout(5):
                while not (await other.lock_state("door")).waiting:  # noqa: ASYNC110 - a server's
                    await asyncio.sleep(0.005)
            rest.strong.write = hold_back
            await faulty.cut()
            await until(lambda: asked() == 2 and len(late) == 1)
        info = await asyncio.wait_for(taking, 5)
        for command in late:
            write(*command)
        state = await other.lock_state("door")
        assert state.holder is not None
        assert (state.holder.token, state.holder.lease) == (info.token, info.lease)


async def test_a_waiter_that_gives_up_leaves_nothing_behind(client: Client, rest: Any) -> None:
    async with client.lock("door") as lock:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2), client.lock("door"):
                pass
        await until(lambda: rest.strong.machine.leases.ids() == [lock.info.lease])
    await until(lambda: rest.strong.machine.leases.ids() == [])


async def test_a_client_that_closes_says_its_farewells_first(faulty: Any, rest: Any) -> None:
    async with at(rest.port) as other, other.lock("door") as lock:
        async with at(faulty.port) as client:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1), client.lock("door"):
                    pass
        assert rest.strong.machine.leases.ids() == [lock.info.lease]


async def test_a_client_that_closes_during_a_call_ends_it(client: Client, faulty: Any) -> None:
    faulty.plan = ["hang"]
    writing = asyncio.ensure_future(client.put("k", "v"))
    await until(lambda: len(faulty.requests) == 1)
    await client.close()
    with pytest.raises(OutcomeUnknownError):
        await writing
    assert len(faulty.requests) == 1


async def test_more_calls_than_connections_wait_for_each_other(faulty: Any) -> None:
    async with at(faulty.port) as client:
        client._caller.transport._pool = 2
        sums = await asyncio.gather(*[client.incr("n") for _ in range(50)])
        assert sorted(each.value for each in sums) == list(range(1, 51))


async def test_a_call_that_gets_no_connection_was_not_sent(faulty: Any) -> None:
    transport = Transport(pool=1)
    url = f"http://127.0.0.1:{faulty.port}/api/v1/status"
    faulty.plan = ["hang"]
    first = asyncio.ensure_future(transport.send(url, "GET", {}, b"", 30.0))
    await until(lambda: len(faulty.requests) == 1)
    with pytest.raises(BusyError, match="all 1 connections"):
        await transport.send(url, "GET", {}, b"", 0.1)
    first.cancel()
    await asyncio.wait([first])
    assert (await transport.send(url, "GET", {}, b"", 5.0)).status == 200
    await transport.close()


async def test_a_closed_client_says_so(client: Client) -> None:
    watch = client.watch("k")
    lease = await client.grant(60)
    await client.close()
    await client.close()
    for call in (client.put("k", "v"), watch.next(), client.grant(1)):
        with pytest.raises(Exception, match="closed"):
            await call
    assert lease.id
