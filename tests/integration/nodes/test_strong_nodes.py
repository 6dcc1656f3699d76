"""A strong keyspace on three nodes: any node takes any call, and what it answers is right."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from kv.errors import OutcomeUnknownError, StoppingError, UnavailableError
from kv.model import Level, ReadOptions, SessionToken, WriteOptions
from kv.watch.index import KeyRange
from kv.watch.messages import EventBatch
from kv.watch.watcher import WatchRequest
from raftgroups.commands import (
    Cas,
    Compact,
    Delete,
    Increment,
    LeaseGrant,
    LeaseKeepAlive,
    Put,
    Range,
    Token,
    Txn,
)
from raftgroups.refusals import LeaseNotFoundError
from storage.errors import CompactedError, KeyTooLongError, NoSpaceError
from storage.space import SpaceGuard
from storage.system_clock import SystemClock
from storage.writers import kernel_syncs
from tests.integration.nodes.conftest import until

pytestmark = pytest.mark.integration

Make = Callable[..., Awaitable[Any]]
EVENTUAL = ReadOptions(level=Level.EVENTUAL)


async def test_every_node_writes_and_every_node_reads_it(make_trio: Make) -> None:
    trio = await make_trio()
    for number in range(3):
        result = await trio.write(number, Put(b"k%d" % number, b"v"))
        for reader in range(3):
            answer = await trio.read(reader, lambda shard: shard.range(Range(b"k", b"l")))
            assert [item.key for item in answer.items] == [b"k%d" % n for n in range(number + 1)]
            assert answer.revision == result.revision


@pytest.mark.parametrize("engine", ["memory", "rocksdb"])
async def test_other_engines_serve_the_strong_regime(make_trio: Make, engine: str) -> None:
    trio = await make_trio(engine)
    await trio.write(1, Put(b"k", b"v"))
    assert (await trio.read(2, lambda shard: shard.get(b"k"))).value == b"v"


async def test_concurrent_increments_through_all_nodes_add_up(make_trio: Make) -> None:
    trio = await make_trio()
    await asyncio.gather(*(trio.write(n % 3, Increment(b"n", 1)) for n in range(300)))
    assert (await trio.read(0, lambda shard: shard.get(b"n"))).value == b"300"


async def test_under_load_the_kernel_syncs_the_logs(make_trio: Make) -> None:
    """Of the leader, whose turns are large, and of those that take what it sends."""
    told: list[str] = []
    kernel = kernel_syncs(SystemClock(), asyncio.get_running_loop(), told.append)
    if kernel is None:
        pytest.skip(told[0])
    kernel.close()
    trio = await make_trio()

    def by_kernel(number: int) -> float:
        details = trio.nodes[number].engine.statistics().details
        assert details["log_kernel_syncs"] <= details["log_syncs"]
        return float(details["log_kernel_syncs"])

    for turn in range(100):  # how large a batch becomes is a matter of moments
        puts = [Put(b"%d-%d" % (turn, n), bytes(200)) for n in range(50)]
        await asyncio.gather(*(trio.write(n % 3, put) for n, put in enumerate(puts)))
        if all(by_kernel(n) >= 2 for n in range(3)):
            break
    await until(lambda: all(by_kernel(n) >= 2 for n in range(3)), "syncs made by the kernel")
    assert not trio.fatal


async def test_refusals_of_a_forwarded_write_are_those_of_the_machine(make_trio: Make) -> None:
    trio = await make_trio()
    follower = await trio.follower()
    with pytest.raises(LeaseNotFoundError):
        await trio.write(follower, Put(b"k", b"v", lease=99))
    with pytest.raises(KeyTooLongError, match="over the limit of 432"):
        await trio.write(follower, Put(b"k" * 433, b"v"))
    with pytest.raises(KeyTooLongError, match=r"limit of 400 \(limits.key_bytes\)"):
        await trio.write(follower, Put(b"k" * 401, b"v"))
    await trio.write(follower, Put(b"k", b"1"))
    await trio.write(follower, Put(b"k", b"2"))
    await trio.write(follower, Compact(3))
    with pytest.raises(CompactedError) as caught:
        await trio.read(follower, lambda shard: shard.get(b"k", 2))
    assert caught.value.compact_revision == 3


async def test_a_session_read_waits_for_what_the_session_has_seen(make_trio: Make) -> None:
    trio = await make_trio()
    leader, follower = await trio.led(), await trio.follower()
    for n in range(50):
        result = await trio.write(leader, Put(b"k", b"%d" % n))
        session = SessionToken({1: result.revision})
        options = ReadOptions(level=Level.SESSION, session=session)
        found = await trio.read(follower, lambda shard: shard.get(b"k"), options=options)
        assert found.value == b"%d" % n


async def test_a_session_from_the_future_is_refused_in_time(make_trio: Make) -> None:
    trio = await make_trio()
    options = ReadOptions(level=Level.SESSION, session=SessionToken({1: 10**9}), deadline_s=0.2)
    with pytest.raises(UnavailableError, match="has seen 1000000000"):
        await trio.read(0, lambda shard: shard.get(b"k"), options=options)


async def test_a_retry_with_its_token_answers_what_the_first_try_answered(make_trio: Make) -> None:
    trio = await make_trio()
    options = WriteOptions(token=Token(b"client", 1))
    first = await trio.write(0, Increment(b"n", 5), options=options)
    again = await trio.write(1, Increment(b"n", 5), options=options)
    assert again == first
    assert first.value == 5


async def test_a_write_survives_the_loss_of_its_leader(make_trio: Make) -> None:
    trio = await make_trio()
    leader = await trio.led()
    await trio.write(leader, Put(b"k", b"v"))
    await trio.stop(leader)
    other = await trio.led()
    assert other != leader
    assert (await trio.read(other, lambda shard: shard.get(b"k"))).value == b"v"
    await trio.start(leader)
    assert (await trio.read(leader, lambda shard: shard.get(b"k"))).value == b"v"


async def test_a_write_waits_for_a_new_leader_inside_its_deadline(make_trio: Make) -> None:
    trio = await make_trio()
    leader, follower = await trio.led(), await trio.follower()
    await trio.stop(leader)
    options = WriteOptions(token=Token(b"client", 1), deadline_s=5.0)
    result = await trio.write(follower, Increment(b"n", 1), options=options)
    assert result.value == 1


async def test_a_minority_refuses_in_time_and_still_reads_locally(make_trio: Make) -> None:
    trio = await make_trio()
    await trio.write(0, Put(b"k", b"v"))
    for number in range(3):
        await trio.read(number, lambda shard: shard.get(b"k"))
    await trio.stop(1, 2)
    with pytest.raises((UnavailableError, OutcomeUnknownError)):
        await trio.write(0, Put(b"k", b"w"))
    with pytest.raises(UnavailableError):
        await trio.read(0, lambda shard: shard.get(b"k"))
    found = await trio.read(0, lambda shard: shard.get(b"k"), options=EVENTUAL)
    assert found.value == b"v"


async def test_a_restart_of_all_resumes(make_trio: Make) -> None:
    trio = await make_trio()
    await trio.write(0, LeaseGrant(7, 600))
    result = await trio.write(0, Put(b"k", b"v", lease=7))
    await trio.stop(0, 1, 2)
    await trio.start(0, 1, 2)
    found = await trio.read(2, lambda shard: (shard.get(b"k"), shard.lease(7)))
    assert found[0].mod_revision == result.revision
    assert 590_000 < found[1].remaining_ms <= 600_000
    names = sorted(card.name for card in trio[2].neighbours.all.values())
    assert names == ["n0", "n1", "n2"]


async def test_a_lease_ends_on_time_and_not_before(make_trio: Make) -> None:
    trio = await make_trio()
    loop = asyncio.get_running_loop()
    begun_s = loop.time()
    await trio.write(1, LeaseGrant(7, 1))
    await trio.write(1, Put(b"k", b"v", lease=7))
    await trio.write(1, Put(b"own", b"v", ttl_ms=300))
    gone: dict[bytes, float] = {}
    while len(gone) < 2:
        assert loop.time() < begun_s + 15
        for key in {b"k", b"own"} - gone.keys():
            if await trio.read(2, lambda shard, key=key: shard.get(key)) is None:
                gone[key] = loop.time() - begun_s
        await asyncio.sleep(0.01)
    assert 1.0 <= gone[b"k"] < 4.0
    assert 0.3 <= gone[b"own"] < 3.0


async def test_remaining_lease_time_survives_a_leader_change(make_trio: Make) -> None:
    trio = await make_trio()
    leader = await trio.led()
    await trio.write(leader, LeaseGrant(7, 5))
    loop = asyncio.get_running_loop()
    granted_s = loop.time()
    # The clock that a new leader goes on from is that of the last entry: a Tick comes every 0.8 s.
    machine = trio[leader].serving.first.machine
    begun_ms = machine.clock_ms
    while machine.clock_ms < begun_ms + 1_500:
        assert loop.time() < granted_s + 10
        await asyncio.sleep(0.02)
    await trio.stop(leader)
    other = await trio.led()
    lease = await trio.read(other, lambda shard: shard.lease(7))
    passed_ms = (loop.time() - granted_s) * 1000
    assert lease.remaining_ms <= 5_000 - 1_500
    assert lease.remaining_ms >= 5_000 - passed_ms - 50
    (ttl_s,) = (await trio.write(other, LeaseKeepAlive((7,)))).ttls_s
    assert ttl_s == 5


async def test_a_lease_ends_under_a_new_leader_though_nobody_writes(make_trio: Make) -> None:
    trio = await make_trio()
    leader, follower = await trio.led(), await trio.follower()
    await trio.write(leader, LeaseGrant(7, 2))
    result = await trio.write(leader, Put(b"k", b"v", lease=7))
    session = ReadOptions(level=Level.SESSION, session=SessionToken({1: result.revision}))
    assert await trio.read(follower, lambda shard: shard.get(b"k"), options=session) is not None
    await trio.stop(leader)
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + 10
    while await trio.read(follower, lambda shard: shard.get(b"k"), options=EVENTUAL) is not None:
        assert loop.time() < deadline_s, "the new leader let the lease live"
        await asyncio.sleep(0.02)


async def test_watchers_on_every_node_see_the_same(make_trio: Make) -> None:
    trio = await make_trio()
    seen: list[list[tuple[int, int]]] = [[], [], []]
    for number in range(3):
        hub = trio[number].serving.first.watches(lambda event, with_prev: event.kv.key)
        state: dict[str, Any] = {}

        def wake(hub: Any = hub, state: Any = state, number: int = number) -> None:
            while messages := hub.take(state["id"]):
                seen[number] += [
                    (m.revision, m.count) for m in messages if isinstance(m, EventBatch)
                ]
                hub.room(state["id"])

        state["id"] = hub.create(WatchRequest(KeyRange(b"w", b"x")), wake).identity
    for n in range(30):
        await trio.write(n % 3, Put(b"w%d" % (n % 5), b"v"))
    last = (await trio.write(0, Delete(b"w", b"x"))).revision
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + 10
    while not all(each and each[-1][0] == last for each in seen):
        assert loop.time() < deadline_s
        await asyncio.sleep(0.01)
    assert seen[0] == seen[1] == seen[2]
    assert seen[0][-1] == (last, 5)
    assert len(seen[0]) == 31


async def test_drain_moves_the_leadership_and_takes_nothing_new(make_trio: Make) -> None:
    trio = await make_trio()
    leader = await trio.led()
    await trio[leader].hand_over_all()
    trio[leader].drain("this node is told to stop")
    with pytest.raises(StoppingError):
        await trio.write(leader, Put(b"k", b"v"))
    follower = next(n for n in range(3) if n != leader)
    await trio.write(follower, Put(b"k", b"v"))
    assert not trio[leader].serving.first.group.leads


async def test_a_full_disk_of_one_member_refuses_growth_on_all(make_trio: Make) -> None:
    trio = await make_trio()
    await trio.write(0, Put(b"k", b"v"))
    node = trio[0]
    node.gate._guard = node.guard = SpaceGuard(1 << 62)
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + 10
    while not all(trio[n].gate.full_peers for n in (1, 2)):
        assert loop.time() < deadline_s
        await asyncio.sleep(0.02)
    for number in range(3):
        with pytest.raises(NoSpaceError):
            await trio.write(number, Put(b"k2", b"v"))
        with pytest.raises(NoSpaceError):
            await trio.write(number, Txn(then=(Put(b"k2", b"v"),)))
        await trio.write(number, Delete(b"nothing"))
    assert await trio.read(1, lambda shard: shard.get(b"k2")) is None


async def test_cas_of_many_writers_loses_no_update(make_trio: Make) -> None:
    trio = await make_trio()
    await trio.write(0, Put(b"n", b"0"))

    async def add(number: int) -> None:
        for _ in range(10):
            while True:
                found = await trio.read(number, lambda shard: shard.get(b"n"))
                value = b"%d" % (int(found.value) + 1)
                cas = Cas(b"n", value, expected_revision=found.mod_revision)
                if (await trio.write(number, cas)).succeeded:
                    break

    await asyncio.gather(*(add(n) for n in range(3)))
    assert (await trio.read(0, lambda shard: shard.get(b"n"))).value == b"30"
