"""Asking an address who is there, over real sockets."""

from __future__ import annotations

import asyncio
import logging
import socket

import pytest

from kv.cluster.link_discovery import DiscoveryError
from kv.cluster.link_handshake import Identity
from kv.cluster.link_protocol import LinkUsageError
from raftgroups.transport import NodeId


async def why(link, address, timeout_s: float = 5.0) -> DiscoveryError:
    with pytest.raises(DiscoveryError) as caught:
        await link.discover(address, timeout_s)
    host, port = address
    assert str(caught.value).startswith(f"{host}:{port}: ")
    return caught.value


async def settled(until, *nodes) -> None:
    await until(
        lambda: all(node.link.status().connections == 0 for node in nodes), "no connection is left"
    )


async def test_an_address_alone_tells_who_is_there_and_set_peer_follows(links, until) -> None:
    a, b = await links.node("a"), await links.node("b", boot="boot-7")
    found = await a.link.discover(b.address)
    assert (found.node_id, found.boot_id, found.version) == ("b", "boot-7", 1)
    await settled(until, a, b)
    assert a.link.status().peers == b.link.status().peers == {}, "asking makes no peer of anybody"
    assert a.changes == b.changes == []
    assert a.problems() == b.problems() == {}
    a.link.set_peer(found.node_id, b.address)
    await until(lambda: a.knows(b) and b.knows(a), "the two are connected")


async def test_asking_does_not_touch_the_connection_that_is_there(links, until) -> None:
    a, b = await links.pair()
    before = list(a.changes), list(b.changes)
    for asker, asked in ((a, b), (b, a), (a, b)):
        assert (await asker.link.discover(asked.address)).node_id == asked.id
    a.link.send(b.id, "raft", b"still the same")
    await until(lambda: b.frames, "the frame arrived")
    assert (a.changes, b.changes) == before
    assert a.peer(b).connections == b.peer(a).connections == 1


async def test_many_ask_each_other_at_once(links, until) -> None:
    nodes = [await links.node(name) for name in "abcde"]
    pairs = [(one, other) for one in nodes for other in nodes if one is not other]
    found = await asyncio.gather(*(one.link.discover(other.address) for one, other in pairs))
    assert [peer.node_id for peer in found] == [other.id for _, other in pairs]
    await settled(until, *nodes)


async def test_a_link_that_does_not_listen_yet_may_ask(links) -> None:
    a, b = await links.node("a"), await links.node("b")
    await a.link.close()
    assert (await a.link.discover(b.address)).node_id == "b"


async def test_the_own_address_is_told_apart_and_not_complained_of(links, caplog) -> None:
    a = await links.node("a")
    with caplog.at_level(logging.WARNING):
        error = await why(a.link, a.address)
    assert error.reason == "self"
    assert not error.may_pass
    assert "reached itself" in str(error)
    assert not caplog.records, "the same list on every node has each node's own address"


@pytest.mark.parametrize(
    ("theirs", "reason", "words"),
    [
        ({"cluster": "c2"}, "cluster", "check [cluster] id"),
        ({"secret": b"another"}, "secret", "cluster secret differs"),
        ({"secret": None}, "secret", "secret_file"),
        ({"versions": (9, 9)}, "version", "upgrade the older one"),
    ],
)
async def test_a_misfit_is_named(links, until, theirs, reason, words) -> None:
    a, b = await links.node("a"), await links.node("b", **theirs)
    error = await why(a.link, b.address)
    assert error.reason == reason
    assert words in str(error)
    assert not error.may_pass
    await settled(until, a, b)


async def test_a_copy_of_this_node_is_named(links) -> None:
    a, twin = await links.node("a", boot="first"), await links.node("a", boot="second")
    error = await why(a.link, twin.address)
    assert error.reason == "twin"
    assert "a data directory was copied" in str(error)


async def test_an_impostor_without_the_secret_learns_nothing_and_proves_nothing(links) -> None:
    """It welcomes everybody, but its MAC is made with another secret."""
    a, b = await links.node("a"), await links.node("b")
    # The acceptor's check is switched off; what it says itself is still made with its own secret.
    b.link.identity = Identity("c1", NodeId("b"), "boot-b", b"guessed")
    accept = b.link._stranger

    def gullible():
        connection = accept()
        connection.handshake._check_mac = lambda *_: None
        return connection

    b.link._listener._accept = gullible
    await b.link._listener.closed()
    await b.link._listener.start()
    error = await why(a.link, b.link.status().listening)
    assert error.reason == "secret"


async def test_nobody_there_may_pass(links) -> None:
    a = await links.node("a")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        error = await why(a.link, free.getsockname())
    assert error.reason == "unreachable"
    assert error.may_pass


async def test_somebody_who_says_nothing_is_given_up_in_time(links, until) -> None:
    a = await links.node("a")
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen(4)
        began = asyncio.get_running_loop().time()
        error = await why(a.link, mute.getsockname(), 0.05)
        assert asyncio.get_running_loop().time() - began < 2.0
    assert error.reason == "timeout"
    assert error.may_pass
    assert "finish the handshake in 0.05 s" in str(error)


async def test_something_else_at_the_address_is_said(links) -> None:
    left = asyncio.Event()

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example ESMTP at your service\r\n")
        await reader.read()
        writer.close()
        left.set()

    a = await links.node("a")
    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    error = await why(a.link, server.sockets[0].getsockname())
    server.close()
    await left.wait()
    assert error.reason == "bad_version"
    assert "no peer address of a JanusKV node" in str(error)
    assert not error.may_pass


async def test_closing_ends_what_is_under_way(links) -> None:
    a = await links.node("a")
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen(4)
        asking = asyncio.ensure_future(why(a.link, mute.getsockname()))
        cancelled = asyncio.ensure_future(a.link.discover(mute.getsockname()))
        await asyncio.sleep(0.02)
        cancelled.cancel()
        await a.link.close()
        assert (await asking).reason == "closing"
        with pytest.raises(asyncio.CancelledError):
            await cancelled
    assert a.link._discovery.under_way == 0


async def test_giving_up_at_any_moment_leaves_nothing(links, until) -> None:
    """After so many passes of the loop, through every step of TCP and of the handshake."""
    a, b = await links.node("a"), await links.node("b")
    finished = 0
    for passes in range(40):
        asking = asyncio.ensure_future(a.link.discover(b.address))
        for _ in range(passes):
            await asyncio.sleep(0)
        asking.cancel()
        done, _ = await asyncio.wait([asking], timeout=5)
        assert done, f"cancelled after {passes} passes of the loop it never ended"
        finished += not asking.cancelled()
    assert 0 < finished < 40, "some were given up, some had their answer"
    assert a.link._discovery.under_way == 0
    await settled(until, b)


async def test_over_tls(links, certificates) -> None:
    tls = certificates.mutual()
    a, b = await links.node("a", tls=tls), await links.node("b", tls=tls)
    assert (await a.link.discover(b.address)).node_id == "b"
    plain = await links.node("c")
    error = await why(plain.link, b.address)
    assert error.reason == "tls_mismatch"


async def test_a_strange_address_is_a_usage_error(links) -> None:
    a = await links.node("a")
    for address in (("", 1), ("127.0.0.1", 0), ("127.0.0.1", 70000)):
        with pytest.raises(LinkUsageError, match="HOST and PORT"):
            await a.link.discover(address)
