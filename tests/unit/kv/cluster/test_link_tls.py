"""The link inside TLS: mutual certificates, and what mismatches look like."""

from __future__ import annotations

import asyncio
import ssl

import pytest

from kv.cluster.link_tls import LinkTls, TlsError
from raftgroups.transport import NodeId


async def test_mutual_tls_carries_everything(links, until, certificates) -> None:
    a, b = await links.pair(tls=certificates.mutual())
    connection = a.link._peers.get(b.id).connection
    assert connection._tls._tls.version() == "TLSv1.3"
    sent = [bytes([n % 256]) * (n * 1000) for n in range(300)]
    for frame in sent:
        await until(lambda frame=frame: a.link.send(b.id, "snapshot", frame), "there is room")
        b.link.send(a.id, "raft", b"back")
    await until(lambda: len(b.of("snapshot")) == len(sent), "all of it arrived")
    assert b.of("snapshot") == sent
    await until(lambda: len(a.of("raft")) == 300, "and the other way")
    await a.link.close()
    await until(lambda: b.changes == [("a", True), ("a", False)], "a said goodbye")


@pytest.mark.parametrize("turn", range(4))
async def test_simultaneous_dials_inside_tls(links, until, certificates, turn: int) -> None:
    tls = certificates.mutual()
    names = ("a", "b") if turn % 2 else ("b", "a")
    first, second = await links.node(names[0], tls=tls), await links.node(names[1], tls=tls)
    first.link.set_peer(second.id, second.address)
    second.link.set_peer(first.id, first.address)
    await until(lambda: first.knows(second) and second.knows(first), "they are connected")
    await until(
        lambda: first.link.status().connections == second.link.status().connections == 1,
        "one connection is left",
    )
    assert first.changes == [(second.id, True)]
    assert second.changes == [(first.id, True)]


async def test_a_snapshot_flood_inside_tls_does_not_delay_raft(links, until, certificates) -> None:
    a, b = await links.pair(tls=certificates.mutual())
    waiting: list[int] = []
    chunk = bytes(512 * 1024)

    def refill(_peer: NodeId, _frame: bytes) -> None:
        while a.link.send(b.id, "snapshot", chunk):
            pass
        a.link.send(b.id, "raft", b"heartbeat")

    b.link.subscribe("snapshot", refill)
    b.link.subscribe(
        "raft",
        lambda _peer, _frame: waiting.append(a.peer(b).channels["snapshot"].queued_bytes),
    )
    refill(b.id, b"")
    await until(lambda: len(waiting) > 30, "30 heartbeats passed through the flood")
    b.link.subscribe("snapshot", lambda _peer, _frame: None)
    waiting.sort()
    assert waiting[len(waiting) // 2] > 6 * 1024 * 1024


async def test_a_dialer_without_tls_is_refused_by_a_side_with_it(
    links, until, certificates
) -> None:
    a = await links.node("a", tls=certificates.mutual())
    b = await links.node("b")
    b.link.set_peer(a.id, a.address)
    await until(lambda: b.peer(a).failed_dials >= 2, "b tried twice")
    assert a.problems()["tls_mismatch"] >= 2
    assert "one side of this link speaks TLS and the other does not" in b.peer(a).last_problem
    assert a.changes == b.changes == []


async def test_a_dialer_with_tls_is_refused_by_a_side_without(links, until, certificates) -> None:
    a = await links.node("a")
    b = await links.node("b", tls=certificates.mutual())
    b.link.set_peer(a.id, a.address)
    await until(lambda: b.peer(a).failed_dials >= 2, "b tried twice")
    assert a.problems()["tls_mismatch"] >= 2
    assert b.problems()["tls_mismatch"] >= 2
    assert "one side of this link speaks TLS and the other does not" in b.peer(a).last_problem
    assert a.changes == b.changes == []


async def test_a_side_without_a_certificate_is_refused(links, until, certificates) -> None:
    a = await links.node("a", tls=certificates.mutual())
    b = await links.node("b", tls=certificates.mutual(None))
    b.link.set_peer(a.id, a.address)
    await until(lambda: b.peer(a).failed_dials >= 2, "b tried twice")
    await until(lambda: a.problems().get("tls", 0) >= 2, "a counted it")
    assert a.changes == b.changes == []


async def test_a_certificate_of_another_authority_is_refused(links, until, certificates) -> None:
    good, foreign = certificates.mutual(), certificates.mutual("foreign")
    a = await links.node("a", tls=LinkTls(foreign.server, good.client, "januskv.test"))
    b = await links.node("b", tls=good)
    b.link.set_peer(a.id, a.address)
    await until(lambda: b.peer(a).failed_dials >= 2, "b tried twice")
    assert "unable to get local issuer certificate" in b.peer(a).last_problem
    assert b.problems()["tls"] >= 2
    assert a.changes == b.changes == []


async def test_a_tls_handshake_that_never_ends_has_a_deadline(links, until, certificates) -> None:
    a = await links.node("a", tls=certificates.mutual(), handshake_timeout_s=1.0, max_strangers=4)
    writers = [(await asyncio.open_connection(*a.address))[1] for _ in range(10)]
    assert a.link.status().strangers <= 4

    def ends() -> int:
        problems = a.problems()
        return problems.get("too_many_strangers", 0) + problems.get("handshake_timeout", 0)

    await until(lambda: ends() == 10, "some were turned away, the others ran out of time")
    assert a.problems()["handshake_timeout"] >= 4
    await until(lambda: a.link.status().connections == 0, "nothing is left of them")
    for writer in writers:
        writer.close()
    b = await links.node("b", tls=certificates.mutual())
    b.link.set_peer(a.id, a.address)
    await until(lambda: a.knows(b), "a real peer came in")


async def test_tls_and_a_secret_allow_an_outside_address(links, certificates) -> None:
    node = await links.node("a", tls=certificates.mutual(), listen=("0.0.0.0", 0))
    assert node.address[0] == "0.0.0.0"
    # Mutual TLS proves membership as well as the secret does.
    assert certificates.mutual().mutual
    assert not LinkTls(
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
    ).mutual
    await links.node("b", tls=certificates.mutual(), secret=None, listen=("0.0.0.0", 0))


def test_tls_that_comes_byte_by_byte_is_recognised_and_anything_else_is_not(certificates) -> None:
    tls = certificates.mutual()
    client = tls.dial("localhost")
    client.shake()
    hello = client.outgoing()
    server = tls.accept()
    for byte in hello:
        server.buffer()[0] = byte
        server.feed(1)
        server.shake()
    assert server.outgoing(), "it answered"
    for stranger in (b"\x16\x01", b"\x17\x03", b"GE", b"\x00"):
        server = tls.accept()
        server.buffer()[: len(stranger)] = stranger
        with pytest.raises(TlsError, match="one side of this link speaks TLS"):
            server.feed(len(stranger))


def test_a_tls_handshake_without_end_is_cut_off(certificates) -> None:
    server = certificates.mutual().accept()
    record = b"\x16\x03\x01\x40\x00" + b"\x01\x00\xff\xff" + bytes(4096 - 9)

    def go_on_for_ever() -> None:
        for _ in range(1000):
            server.buffer()[: len(record)] = record
            server.feed(len(record))
            server.shake()

    with pytest.raises(TlsError):
        go_on_for_ever()
