"""The link over real sockets: order, bounds, fairness, loss and return."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import random
import socket

import pytest

from kv.cluster.link_protocol import FRAGMENT_BYTES, LinkUsageError
from kv.cluster.link_tls import LinkTls
from raftgroups.transport import NodeId

KIB = 1024
CHANNELS = ("raft", "snapshot", "gossip")


async def test_each_channel_arrives_whole_and_in_order(links, until) -> None:
    a, b = await links.pair()
    dice = random.Random(3)
    sent: dict[str, list[bytes]] = {channel: [] for channel in CHANNELS}
    sizes = (0, 1, 200, FRAGMENT_BYTES - 1, FRAGMENT_BYTES, FRAGMENT_BYTES + 1, 200 * KIB)
    for _ in range(40):
        for _ in range(10):
            channel = dice.choice(CHANNELS)
            frame = dice.randbytes(dice.choice(sizes))
            if a.link.send(b.id, channel, frame):
                sent[channel].append(frame)
        await asyncio.sleep(0)
    total = sum(len(frames) for frames in sent.values())
    assert total > 250, "most of it was taken"
    await until(lambda: len(b.frames) == total, "every frame that was taken arrived")
    for channel in CHANNELS:
        assert b.of(channel) == sent[channel]
        status = a.peer(b).channels[channel]
        assert (
            status.sent_frames == len(sent[channel]) == b.peer(a).channels[channel].received_frames
        )
        assert (status.queued_frames, status.queued_bytes) == (0, 0)
    assert {peer for _, peer, _ in b.frames} == {"a"}


async def test_both_directions_at_once(links, until) -> None:
    a, b = await links.pair()
    for number in range(2000):
        a.link.send(b.id, "raft", b"to b %d" % number)
        b.link.send(a.id, "raft", b"to a %d" % number)
    await until(lambda: len(a.frames) == len(b.frames) == 2000, "all frames arrived")
    assert a.of("raft") == [b"to a %d" % number for number in range(2000)]
    assert b.of("raft") == [b"to b %d" % number for number in range(2000)]


async def test_a_push_writes_at_once_what_would_wait_for_the_next_pass(links, until) -> None:
    a, b = await links.pair()
    before = a.peer(b).sent_bytes
    a.link.send(b.id, "raft", b"first")
    a.link.send(b.id, "gossip", b"second")
    assert a.peer(b).sent_bytes == before
    a.link.push()
    pushed = a.peer(b).sent_bytes
    assert pushed > before
    a.link.push()
    await until(lambda: len(b.frames) == 2, "both arrived")
    assert a.peer(b).sent_bytes == pushed, "nothing is written twice"
    a.link.send(b.id, "raft", b"third")
    await until(lambda: len(b.frames) == 3, "without a push it leaves with the pass")


async def test_nothing_is_delivered_from_inside_send(links, until) -> None:
    a, b = await links.pair()
    inside = False
    seen: list[bool] = []
    b.link.subscribe("raft", lambda _peer, _frame: seen.append(inside))
    for _ in range(100):
        inside = True
        a.link.send(b.id, "raft", b"x")
        b.link.send(a.id, "raft", b"x")
        inside = False
    await until(lambda: len(seen) == 100, "the frames arrived")
    assert not any(seen)


async def test_what_is_sent_at_once_is_written_before_the_pass_ends(links, until) -> None:
    """Past the queue if nothing is in it, else after what is: frames of a channel keep their order
    whichever way they go, and all of them count."""
    a, b = await links.pair()
    sent = a.peer(b).sent_bytes
    assert a.link.send(b.id, "raft", b"1", at_once=True)
    assert a.peer(b).sent_bytes == sent + 12 + 1, "written, with its header"
    assert a.link.send(b.id, "raft", b"2")
    assert a.peer(b).sent_bytes == sent + 12 + 1, "it waits for the end of the pass"
    assert a.link.send(b.id, "raft", b"3", at_once=True)
    assert a.peer(b).sent_bytes == sent + 3 * (12 + 1)
    assert a.link.send(b.id, "raft", b"4")
    large = b"5" * (3 * FRAGMENT_BYTES + 5)
    assert a.link.send(b.id, "raft", large, at_once=True)
    assert not a.link.send(b.id, "raft", b"x" * (17 * 1024 * 1024), at_once=True)
    assert b.frames == []
    await until(lambda: len(b.of("raft")) == 5, "all has arrived")
    assert b.of("raft") == [b"1", b"2", b"3", b"4", large]
    assert a.peer(b).channels["raft"].sent_frames == 5


async def test_nothing_passes_a_connection_that_is_full(links, until) -> None:
    """What is sent at once stands in the line as everything else while the other side reads
    nothing."""
    a, b = await links.pair()
    connection = a.link._peers.get(b.id).connection
    connection.pause_writing()
    sent = a.peer(b).sent_bytes
    assert a.link.send(b.id, "raft", b"first", at_once=True)
    assert a.link.send(b.id, "raft", b"second", at_once=True)
    assert a.peer(b).sent_bytes == sent
    connection.resume_writing()
    await until(lambda: b.of("raft") == [b"first", b"second"], "both arrived, in order")


async def test_a_slow_reader_costs_bounded_memory_and_nobody_else_suffers(links, until) -> None:
    """The proxy reads nothing more: what fits into the kernel leaves, then the queue fills, then
    `send` says False; every frame that was taken arrives once the reader goes on."""
    b = await links.node("b")
    c = await links.node("c")
    proxy = await links.proxy(b.address)
    a = await links.node("a", address_overrides={b.id: proxy.address})
    a.link.set_peer(b.id, b.address)
    a.link.set_peer(c.id, c.address)
    await until(lambda: a.knows(b, c) and b.knows(a), "all are connected")
    proxy.stop()
    frame, taken = bytes(100 * KIB), 0
    refused = 0
    while refused < 50:
        if a.link.send(b.id, "snapshot", frame):
            taken += 1
        else:
            refused += 1
        await asyncio.sleep(0)
        assert taken < 1000, "nothing bounds what is taken for a reader that stands still"
    status = a.peer(b).channels["snapshot"]
    limit = 16 * KIB * KIB
    assert limit - len(frame) <= status.queued_bytes <= limit
    assert status.dropped == {"full": 50}
    transport = a.link._peers.get(b.id).connection.transport
    assert transport.get_write_buffer_size() <= 2 * 128 * KIB + FRAGMENT_BYTES
    # Another channel to the same peer and another peer go on.
    assert a.link.send(b.id, "raft", b"heartbeat")
    assert a.link.send(c.id, "snapshot", b"for c")
    await until(lambda: c.frames, "c got its frame although b stands still")
    proxy.go_on()
    await until(lambda: len(b.of("snapshot")) == taken, "what was taken arrived")
    assert b.of("raft") == [b"heartbeat"]
    # It overtook nearly everything that was queued before it.
    position = [channel for channel, _, _ in b.frames].index("raft")
    behind = taken - position
    assert behind * len(frame) > limit - 4 * 128 * KIB


async def test_a_flood_of_snapshot_never_delays_raft(links, until) -> None:
    """While megabytes of snapshot flow, every raft frame finds at most a few bursts before it."""
    a, b = await links.pair()
    waiting: list[int] = []
    chunk = bytes(512 * KIB)

    def refill(_peer: NodeId, _frame: bytes) -> None:
        while a.link.send(b.id, "snapshot", chunk):
            pass
        a.link.send(b.id, "raft", b"heartbeat")

    def heartbeat(_peer: NodeId, _frame: bytes) -> None:
        waiting.append(a.peer(b).channels["snapshot"].queued_bytes)

    b.link.subscribe("snapshot", refill)
    b.link.subscribe("raft", heartbeat)
    refill(b.id, b"")
    await until(lambda: len(waiting) > 60, "60 heartbeats passed through the flood")
    b.link.subscribe("snapshot", lambda _peer, _frame: None)
    waiting.sort()
    assert waiting[len(waiting) // 2] > 7 * KIB * KIB, "seven of eight megabytes still waited"
    assert waiting[2] > 5 * KIB * KIB


async def test_send_says_false_when_it_is_in_vain_and_counts_it(links, until) -> None:
    a, b = await links.pair()
    assert not a.link.send(NodeId("nobody"), "raft", b"x")
    assert a.problems()["send_to_unknown_peer"] == 1
    assert not a.link.send(b.id, "gossip", bytes(1024 * KIB + 1)), "over the channel's frame limit"
    absent = NodeId("absent")
    a.link.set_peer(absent, ("127.0.0.1", 1))
    assert not a.link.send(absent, "raft", b"x")
    assert a.link.status().peers[absent].channels["raft"].dropped == {"not_connected": 1}
    assert a.peer(b).channels["gossip"].dropped == {"too_large": 1}
    with pytest.raises(LinkUsageError, match="no channel 'typo'; the channels are raft"):
        a.link.send(b.id, "typo", b"x")
    with pytest.raises(LinkUsageError, match="no channel"):
        a.link.subscribe("typo", lambda _peer, _frame: None)


async def test_frames_of_a_channel_without_a_handler_are_counted(links, until) -> None:
    a, b = await links.pair(subscribe=())
    a.link.send(b.id, "raft", b"x")
    await until(
        lambda: b.peer(a).channels["raft"].dropped == {"no_handler": 1}, "the frame was counted"
    )


async def test_a_handler_that_raises_loses_its_frame_and_nothing_else(
    links, until, caplog: pytest.LogCaptureFixture
) -> None:
    a, b = await links.pair()
    good: list[bytes] = []

    def handler(_peer: NodeId, frame: bytes) -> None:
        if frame == b"bad":
            raise ValueError("cannot read this")
        good.append(frame)

    b.link.subscribe("raft", handler)
    for _ in range(5):
        a.link.send(b.id, "raft", b"bad")
        a.link.send(b.id, "raft", b"good")
    await until(lambda: len(good) == 5, "the good frames arrived")
    assert b.problems()["handler_defect"] == 5
    told = [record for record in caplog.records if "cannot read this" in record.getMessage()]
    assert len(told) == 1, "said once"
    assert told[0].exc_info is not None, "with the traceback"
    assert a.knows(b)


async def test_a_peer_handler_that_raises_does_not_keep_the_next_one_from_hearing(
    links, until
) -> None:
    a = await links.node("a")
    heard: list[tuple[NodeId, bool]] = []

    def broken(peer: NodeId, up: bool) -> None:
        raise ValueError("broken")

    a.link.on_peer_change(broken)
    a.link.on_peer_change(lambda peer, up: heard.append((peer, up)))
    b = await links.node("b")
    b.link.set_peer(a.id, a.address)
    await until(lambda: heard == [("b", True)], "the second handler heard of it")
    assert a.problems()["peer_handler_defect"] == 1


async def test_a_reset_is_followed_by_a_reconnect(links, until) -> None:
    b = await links.node("b")
    proxy = await links.proxy(b.address)
    a = await links.node("a", address_overrides={b.id: proxy.address})
    a.link.set_peer(b.id, ("127.0.0.1", 1))
    for number in range(1, 4):
        await until(lambda: a.knows(b) and b.knows(a), "a and b are connected")
        assert a.link.send(b.id, "raft", b"frame %d" % number)
        await until(lambda n=number: len(b.frames) == n, "the frame arrived")
        assert a.peer(b).connections == number
        proxy.cut()
        await until(lambda n=number: a.changes.count(("b", False)) == n, "a noticed")
    assert b.of("raft") == [b"frame 1", b"frame 2", b"frame 3"]
    assert a.changes[:6] == [("b", True), ("b", False)] * 3
    await until(
        lambda: b.changes[:5] == [("a", True), ("a", False)] * 2 + [("a", True)], "so did b"
    )


async def test_an_unreachable_peer_is_tried_again_and_said_once(
    links, until, caplog: pytest.LogCaptureFixture
) -> None:
    a = await links.node("a")
    b = await links.node("b")
    await b.link.close()
    a.link.set_peer(b.id, b.address)
    await until(lambda: a.peer(b).failed_dials >= 4, "a tried again and again")
    assert "cannot be reached" in a.peer(b).last_problem
    told = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(told) == 1
    back = await links.node("b", boot="boot-2", listen=b.address)
    await until(lambda: a.knows(back), "a found it once it was back")
    assert a.peer(back).boot_id == "boot-2"
    assert a.peer(back).last_problem == ""


async def test_a_restarted_peer_replaces_its_old_connection(links, until) -> None:
    """The old process is gone without a word (the proxy hides its end); the new one dials."""
    a = await links.node("a", idle_timeout_s=60.0, unanswered_timeout_s=60.0)
    proxy = await links.proxy(a.address)
    old = await links.node("b", boot="boot-1", address_overrides={a.id: proxy.address})
    old.link.set_peer(a.id, a.address)
    await until(lambda: a.knows(old) and old.knows(a), "connected with the first start")
    proxy.silent = True
    proxy.stop()
    old.link.remove_peer(a.id)
    await until(lambda: not old.knows(a), "the first start is gone")
    assert a.knows(old), "a has not noticed"
    new = await links.node("b", boot="boot-2")
    new.link.set_peer(a.id, a.address)
    await until(lambda: new.knows(a) and a.peer(new).boot_id == "boot-2", "a knows the new start")
    assert a.changes == [("b", True), ("b", False), ("b", True)]
    assert a.link.send(new.id, "raft", b"to the new one")
    await until(lambda: new.of("raft") == [b"to the new one"], "and talks with it")
    assert a.link.status().connections == 1


async def test_a_connection_that_died_without_a_word_is_found(links, until) -> None:
    b = await links.node("b", idle_timeout_s=0.5)
    proxy = await links.proxy(b.address)
    a = await links.node("a", address_overrides={b.id: proxy.address}, idle_timeout_s=0.5)
    a.link.set_peer(b.id, b.address)
    await until(lambda: a.knows(b) and b.knows(a), "a and b are connected")
    await until(lambda: a.peer(b).rtt_s is not None, "the round trip was measured")
    assert 0 < a.peer(b).rtt_s < 5
    proxy.stop()
    await until(lambda: not a.knows(b) and not b.knows(a), "both gave the connection up")
    assert a.problems()["dead"] >= 1
    await until(lambda: a.changes[:2] == [("b", True), ("b", False)], "a heard of it")
    proxy.go_on()
    await until(lambda: a.knows(b) and b.knows(a), "and found each other again")


async def test_an_idle_connection_is_kept(links, until) -> None:
    a, b = await links.pair(idle_timeout_s=0.2)
    loop = asyncio.get_running_loop()
    end = loop.time() + 0.6
    await until(lambda: loop.time() > end, "three idle timeouts passed")
    assert a.changes == [("b", True)]
    assert b.changes == [("a", True)]


async def test_our_own_standstill_is_not_held_against_the_peer(links, until) -> None:
    """A process that was stopped (SIGSTOP, a hanging disk) wakes up with old timestamps."""

    class Jumping:
        def __init__(self) -> None:
            self.ahead_s = 0.0
            self.inner = asyncio.get_running_loop().time

        def monotonic(self) -> float:
            return self.inner() + self.ahead_s

        def wall(self) -> float:
            return 0.0

    a, b = await links.pair()
    clock = a.link._clock = a.link._peers.get(b.id).connection._clock = Jumping()
    for jump_s in (10.0, 100.0):
        before = a.link._keepalive_at
        clock.ahead_s += jump_s
        await until(lambda t=before, j=jump_s: a.link._keepalive_at > t + j, "it woke up")
        assert a.knows(b)
    await asyncio.sleep(0)
    assert a.changes == [("b", True)]
    assert a.problems().get("dead") is None


@pytest.mark.parametrize("turn", range(10))
async def test_simultaneous_dials_end_in_one_connection(links, until, turn: int) -> None:
    names = ("a", "b") if turn % 2 else ("b", "a")
    first, second = await links.node(names[0]), await links.node(names[1])
    first.link.set_peer(second.id, second.address)
    for _ in range(turn // 2):
        await asyncio.sleep(0)
    second.link.set_peer(first.id, first.address)
    await until(lambda: first.knows(second) and second.knows(first), "they are connected")
    await until(
        lambda: first.link.status().connections == second.link.status().connections == 1,
        "one connection is left",
    )
    assert first.peer(second).dialed != second.peer(first).dialed, "and it is the same one"
    assert first.link.send(second.id, "raft", b"1")
    assert second.link.send(first.id, "raft", b"2")
    await until(lambda: first.frames and second.frames, "it works in both directions")
    assert first.changes == [(second.id, True)]
    assert second.changes == [(first.id, True)]


async def test_a_peer_that_only_dials_us_is_answered_and_then_forgotten(links, until) -> None:
    a = await links.node("a")
    b = await links.node("b")
    b.link.set_peer(a.id, a.address)
    await until(lambda: a.knows(b), "b is known by its dial")
    assert a.link.send(b.id, "raft", b"answer")
    await until(lambda: b.of("raft") == [b"answer"], "b was answered")
    b.link.remove_peer(a.id)
    await until(lambda: a.changes == [("b", True), ("b", False)], "b left")
    assert a.link.status().peers == {}, "nothing is kept of it"
    assert not b.link.send(a.id, "raft", b"x")


async def test_a_removed_peer_is_told_and_forgotten(links, until) -> None:
    a, b = await links.pair()
    a.link.remove_peer(b.id)
    assert not a.link.connected(b.id), "at once"
    assert not a.link.send(b.id, "raft", b"x")
    b.link.remove_peer(a.id)
    await until(lambda: not a.link.status().peers and not b.link.status().peers, "both forgot")
    assert a.changes == [("b", True), ("b", False)]
    assert b.changes == [("a", True), ("a", False)]
    a.link.remove_peer(NodeId("nobody"))


async def test_a_new_address_is_used_at_once(links, until) -> None:
    a = await links.node("a", backoff_first_s=30.0, backoff_max_s=30.0)
    b = await links.node("b")
    a.link.set_peer(b.id, ("127.0.0.1", 1))
    await until(lambda: a.peer(b).failed_dials == 1, "the wrong address failed")
    a.link.set_peer(b.id, b.address)
    await until(lambda: a.knows(b), "the right one was dialed without waiting for the backoff")


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
async def test_an_address_that_is_none_is_refused_or_tried_in_vain(
    links, until, certificates, tls: bool
) -> None:
    contexts = LinkTls(certificates.mutual().server, certificates.mutual().client) if tls else None
    a = await links.node("a", tls=contexts)
    for address in (("127.0.0.1", 0), ("127.0.0.1", 65536), ("", 7401)):
        with pytest.raises(LinkUsageError, match="cannot be dialed at"):
            a.link.set_peer(NodeId("b"), address)
    assert a.link.status().peers == {}
    for name, host in (("c", "a..b"), ("d", "x" * 300), ("e", "nul\x00")):
        a.link.set_peer(NodeId(name), (host, 7401))
    await until(
        lambda: all(peer.failed_dials >= 2 for peer in a.link.status().peers.values()),
        "each was tried twice, and no task failed of it",
    )


async def test_two_processes_under_one_node_id_are_told_apart(links, until) -> None:
    """A copied data directory: they take each other's place a few times, then one is refused."""
    a = await links.node("a")
    first, second = [await links.node("b", boot=boot) for boot in ("boot-1", "boot-2")]
    first.link.set_peer(a.id, a.address)
    second.link.set_peer(a.id, a.address)
    await until(lambda: a.problems().get("twin", 0) >= 3, "a refused one of them again and again")
    assert "two processes run as node 'b'" in a.peer(first).last_problem
    before = len(a.changes)
    await until(lambda: a.problems()["twin"] >= 6, "and goes on refusing it")
    assert len(a.changes) == before, "the other one is left in peace"
    assert a.knows(first)
    assert before <= 14


async def test_what_is_queued_leaves_before_the_link_closes(links, until) -> None:
    a, b = await links.pair(close_timeout_s=10.0)
    for _ in range(16):
        assert a.link.send(b.id, "snapshot", bytes(500 * KIB))
    assert a.link.send(b.id, "raft", b"last words")
    await a.link.close()
    await until(lambda: len(b.frames) == 17, "all of it arrived")
    await until(lambda: b.changes == [("a", True), ("a", False)], "b heard of the end")
    assert a.link.status().listening is None
    await a.link.close()


async def test_who_comes_while_the_door_is_shut_is_closed_too(links, until) -> None:
    """Accepted by the loop and not yet told to us: it must not be left open."""
    for passes in range(6):
        a = await links.node("a")
        visitors = [socket.create_connection(a.address, timeout=5) for _ in range(3)]
        for _ in range(passes):
            await asyncio.sleep(0)
        await a.link.close()
        for visitor in visitors:
            with contextlib.suppress(ConnectionError):
                while visitor.recv(1000):
                    pass
            visitor.close()


async def test_who_comes_while_the_link_is_being_closed_is_closed_too(links, until) -> None:
    """Also in its very last moment, when the loop would take somebody in and forget them."""
    for passes in range(9):
        a = await links.node("a")
        closing = asyncio.ensure_future(a.link.close())
        for _ in range(passes):
            await asyncio.sleep(0)
        visitor = socket.socket()
        with contextlib.suppress(ConnectionError):
            visitor.connect(a.address)
        await closing
        for _ in range(5):
            await asyncio.sleep(0)
        visitor.close()
        gc.collect()  # what was forgotten is told of now, and fails the test


async def test_closing_does_not_wait_for_a_peer_that_reads_nothing(links, until) -> None:
    b = await links.node("b")
    proxy = await links.proxy(b.address)
    a = await links.node("a", address_overrides={b.id: proxy.address}, close_timeout_s=0.2)
    a.link.set_peer(b.id, b.address)
    await until(lambda: a.knows(b), "a and b are connected")
    proxy.stop()
    while a.link.send(b.id, "snapshot", bytes(1024 * KIB)):
        pass
    await asyncio.wait_for(a.link.close(), 5)
    assert a.link.status().connections == 0


async def test_a_node_is_no_peer_of_itself(links, until) -> None:
    a = await links.node("a")
    with pytest.raises(LinkUsageError, match="cannot be a peer of itself"):
        a.link.set_peer(a.id, a.address)
    # And under another name its own address is found out.
    a.link.set_peer(NodeId("b"), a.address)
    await until(lambda: "reached itself" in a.link.status().peers[NodeId("b")].last_problem, "told")
    assert not a.link.connected(NodeId("b"))
    assert a.changes == []


async def test_unprotected_outside_addresses_are_refused_before_listening(links) -> None:
    with pytest.raises(LinkUsageError, match="insecure = true"):
        await links.node("a", listen=("0.0.0.0", 0))
