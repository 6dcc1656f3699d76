"""Strangers and broken peers: counted, said once, disconnected; never harm."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import struct

import pytest

from kv.cluster.link_handshake import (
    NONCE_BYTES,
    Handshake,
    Identity,
    Met,
    Refused,
    Welcomed,
    decode_bye,
)
from kv.cluster.link_protocol import (
    CHANNELS,
    HEADER_BYTES,
    MORE,
    Decoder,
    control_frame,
    header,
)
from raftgroups.transport import NodeId

SECRET = b"the cluster secret"
MALLORY = Identity("c1", NodeId("mallory"), "boot-m", SECRET)


class Stranger:
    """A client that speaks whatever it likes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.decoder = Decoder()
        self.frames: list[tuple[int, bytes]] = []

    @classmethod
    async def at(cls, address: tuple[str, int]) -> Stranger:
        return cls(*await asyncio.open_connection(*address))

    def say(self, *data: bytes) -> None:
        self.writer.write(b"".join(data))

    async def heard(self) -> bytes:
        """Everything until the other side closes (or resets) the connection."""
        data = b""
        try:
            async with asyncio.timeout(5):
                while piece := await self.reader.read(65536):
                    data += piece
        except ConnectionError:
            pass
        return data

    async def farewell(self) -> Refused:
        """What we were told before we were thrown out."""
        data = await self.heard()
        assert data, "we were told why"
        return decode_bye(data[HEADER_BYTES:])

    async def message(self) -> bytes:
        while not self.frames:
            async with asyncio.timeout(5):
                data = await self.reader.read(self.decoder.free.nbytes)
            assert data, "the connection was closed"
            self.decoder.free[: len(data)] = data
            self.frames += self.decoder.received(len(data))
        return self.frames.pop(0)[1]

    async def shake(self, identity: Identity = MALLORY) -> None:
        """Come in as a peer that holds the secret."""
        handshake = Handshake(identity, os.urandom(NONCE_BYTES), dialer=True)
        self.say(control_frame(handshake.hello))
        assert isinstance(handshake.receive(await self.message()), Met)
        self.say(control_frame(handshake.prove(1, 0)))
        assert isinstance(handshake.receive(await self.message()), Welcomed)
        self.decoder.open_channels(CHANNELS)

    async def leave(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()


@pytest.fixture
async def stranger():
    made: list[Stranger] = []

    async def make(address: tuple[str, int]) -> Stranger:
        made.append(await Stranger.at(address))
        return made[-1]

    yield make
    for one in made:
        await one.leave()


def hello(**changes: object) -> bytes:
    values = {"cluster_id": "c1", "node_id": NodeId("x"), "boot_id": "b", "secret": SECRET}
    return Handshake(Identity(**{**values, **changes}), bytes(NONCE_BYTES), dialer=True).hello


HOSTILE = {
    "http": (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", "bad_version"),
    "tls": (b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03" + bytes(40), "tls_mismatch"),
    "zeros": (bytes(64), "bad_version"),
    "ones": (b"\xff" * 5000, "bad_version"),
    "a frame at once": (header(1, 0, b"raft") + b"raft", "bad_channel"),
    "a huge length": (struct.pack(">IIBBH", 0, 0xFFFFFFFF, 1, 0, 0), "too_large"),
    "a length over the limit": (struct.pack(">IIBBH", 0, 1025, 1, 0, 0), "too_large"),
    "no hello": (control_frame(b"\x01 no hello"), "bad_hello"),
    "nothing": (control_frame(b""), "out_of_order"),
    "a ping": (control_frame(b"\x05" + bytes(8)), "out_of_order"),
    "another cluster": (control_frame(hello(cluster_id="c2")), "cluster"),
    "another cluster, twice": (control_frame(hello(cluster_id="c2")) * 2, "cluster"),
    "no secret": (control_frame(hello(secret=None)), "secret"),
    "two hellos": (control_frame(hello()) * 2, "out_of_order"),
    "a frame behind the hello": (
        control_frame(hello()) + header(1, 0, b"x" * 900) + b"x" * 900,
        "bad_channel",
    ),
}


TURNED = {
    "garbage": (b"garbage that is long enough for a header", "bad_version"),
    "an unknown channel": (header(99, 0, b"x") + b"x", "bad_channel"),
    "damage": (header(1, 0, b"good")[:8] + b"\x01\x01\x00\x00" + b"evil", "bad_checksum"),
    "a huge length": (struct.pack(">IIBBH", 0, 0x7FFFFFFF, 1, 1, 0), "too_large"),
    "an endless frame": (header(5, MORE, bytes(65536)) + bytes(65536), "too_large"),
    "strange flags": (header(1, 0x80, b"x") + b"x", "bad_flags"),
    "a second hello": (control_frame(b"\x01 a second hello"), "bad_control"),
}


@pytest.mark.parametrize(("data", "reason"), HOSTILE.values(), ids=HOSTILE)
async def test_a_stranger_that_does_not_fit_is_told_why_and_thrown_out(
    links, until, stranger, caplog: pytest.LogCaptureFixture, data: bytes, reason: str
) -> None:
    a, b = await links.pair()
    for number in (1, 2, 3):
        one = await stranger(a.address)
        one.say(data)
        heard = await one.heard()
        if len(data) < 1000:  # else the rest of it is in the way of the farewell
            assert reason.encode() in heard
        await until(
            lambda n=number: a.problems().get(reason) == n, f"{reason} was counted {number} times"
        )
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 1, "said once"
    assert a.link.status().strangers == 0
    assert a.link.send(b.id, "raft", b"still well")
    await until(lambda: b.of("raft") == [b"still well"], "the real peer noticed nothing")
    assert a.changes == [("b", True)]


async def test_half_a_handshake_has_a_deadline(links, until, stranger) -> None:
    a = await links.node("a", handshake_timeout_s=0.2)
    hello_message = control_frame(hello())
    silent, half, met = [await stranger(a.address) for _ in range(3)]
    half.say(hello_message[:20])
    met.say(hello_message)
    await until(lambda: a.link.status().strangers == 3, "three wait at the door")
    for one in (silent, half, met):
        await one.heard()
    assert a.problems()["handshake_timeout"] == 3
    await until(lambda: a.link.status().connections == 0, "nothing is left of them")


async def test_a_trickle_does_not_extend_the_deadline(links, until, stranger) -> None:
    a = await links.node("a", handshake_timeout_s=0.3)
    one = await stranger(a.address)
    loop = asyncio.get_running_loop()
    began = loop.time()
    for byte in control_frame(hello()):
        one.say(bytes((byte,)))
        await asyncio.sleep(0.01)
        if a.problems().get("handshake_timeout"):
            break
    assert a.problems()["handshake_timeout"] == 1
    assert loop.time() - began < 2


async def test_a_crowd_at_the_door_is_bounded_and_keeps_no_peer_out(links, until, stranger) -> None:
    a = await links.node("a", max_strangers=8)
    crowd = [await stranger(a.address) for _ in range(40)]
    await until(lambda: a.problems().get("too_many_strangers") == 32, "32 were turned away")
    assert a.link.status().strangers == 8
    b = await links.node("b")
    b.link.set_peer(a.id, a.address)
    await until(lambda: a.knows(b) and b.knows(a), "a real peer came in")
    assert a.link.status().strangers == 7, "the oldest had to go for it"
    gone = await asyncio.gather(*(one.heard() for one in crowd[:32]))
    assert gone == [b""] * 32, "the oldest went first"


async def test_connections_are_bounded(links, until, stranger) -> None:
    a = await links.node("a", max_connections=4, max_strangers=4)
    for number in range(4):
        one = await stranger(a.address)
        await one.shake(Identity("c1", NodeId(f"peer-{number}"), "boot", SECRET))
    late = await stranger(a.address)
    assert await late.heard() == b""
    assert a.problems() == {"too_many_connections": 1}
    assert len(a.link.status().peers) == 4


async def test_a_flood_before_authentication_costs_a_kilobyte(links, until, stranger) -> None:
    a = await links.node("a")
    one = await stranger(a.address)
    connection = next(iter(a.link._connections.values())) if a.link._connections else None
    await until(lambda: a.link.status().strangers == 1, "it is at the door")
    connection = next(iter(a.link._connections.values()))
    one.say(control_frame(hello()), bytes(16 * 1024 * 1024))
    await one.heard()
    assert connection.received_bytes <= 4 * 1100
    assert len(connection._decoder._buffer) <= 1100


@pytest.mark.parametrize(("data", "reason"), TURNED.values(), ids=TURNED)
async def test_a_peer_that_turns_hostile_is_disconnected(
    links, until, stranger, data: bytes, reason: str
) -> None:
    a = await links.node("a")
    mallory = await stranger(a.address)
    await mallory.shake()
    await until(lambda: a.changes == [("mallory", True)], "it came in")
    mallory.say(header(1, 0, b"good") + b"good", *[data] * 20)
    await mallory.heard()
    await until(lambda: a.changes == [("mallory", True), ("mallory", False)], "it was thrown out")
    assert a.problems() == {reason: 1}
    assert a.of("raft") == [b"good"], "what came before was whole"
    assert a.link.status().connections == 0


async def test_a_peer_that_provokes_answers_and_reads_none_is_bounded(
    links, until, stranger
) -> None:
    a = await links.node("a", idle_timeout_s=0.5, unanswered_timeout_s=0.5)
    mallory = await stranger(a.address)
    mallory.writer.transport.pause_reading()
    await until(lambda: True, "")
    mallory.writer.transport.resume_reading()
    await mallory.shake()
    mallory.writer.transport.pause_reading()
    ping = control_frame(b"\x05" + bytes(8))
    record = a.link._peers.get(NodeId("mallory"))
    most = 0
    for _ in range(300):
        mallory.say(ping * 500)
        await asyncio.sleep(0)
        most = max(most, record.queue.pending)
        if a.problems().get("dead"):
            break
    assert most <= 40, "a peer gets no more pongs queued than a few"
    await until(lambda: a.problems().get("dead") == 1, "it was given up: it answers no ping")


@pytest.mark.parametrize(
    ("ours", "theirs", "reason", "sentence"),
    [
        ({"cluster": "c1"}, {"cluster": "c2"}, "cluster", "does not belong to cluster 'c2'"),
        ({}, {"secret": b"another"}, "secret", "your cluster secret differs"),
        ({}, {"secret": None}, "secret", "this node has one and you have none"),
        ({"versions": (2, 2)}, {}, "version", "upgrade the older one"),
        ({}, {"name": "a", "boot": "twin"}, "twin", "another process runs as node 'a'"),
    ],
)
async def test_a_misfit_hears_a_sentence_and_both_sides_log_it_once(
    links, until, caplog: pytest.LogCaptureFixture, ours, theirs, reason: str, sentence: str
) -> None:
    a = await links.node("a", **ours)
    b = await links.node(**{"name": "b", **theirs})
    b.link.set_peer(NodeId("a2" if reason == "twin" else "a"), a.address)
    peer = next(iter(b.link.status().peers))
    await until(lambda: b.link.status().peers[peer].failed_dials >= 4, "b tried four times")
    assert sentence in b.link.status().peers[peer].last_problem
    assert b.problems()["refused_by_peer"] >= 4
    assert a.problems()[reason] >= 4
    told = [record.getMessage() for record in caplog.records if "refused" in record.getMessage()]
    assert len(told) == 2, told
    assert a.changes == b.changes == []


async def test_a_dialer_that_finds_somebody_else_goes_away(links, until) -> None:
    a = await links.node("a")
    b = await links.node("b")
    a.link.set_peer(NodeId("c"), b.address)
    await until(lambda: a.link.status().peers[NodeId("c")].failed_dials >= 2, "a tried")
    sentence = "node 'c' was expected here and 'b' answered"
    assert sentence in a.link.status().peers[NodeId("c")].last_problem
    assert a.changes == b.changes == []


async def test_without_a_secret_the_log_says_what_that_means(
    links, until, caplog: pytest.LogCaptureFixture
) -> None:
    a = await links.node("a", secret=None)
    assert "no cluster secret is configured" in caplog.text
    b = await links.node("b", secret=None)
    b.link.set_peer(a.id, a.address)
    await until(lambda: a.knows(b) and b.knows(a), "the cluster id alone lets b in")


async def test_a_recorded_dial_played_again_is_refused(links, until, stranger) -> None:
    a = await links.node("a")
    handshake = Handshake(MALLORY, os.urandom(32), dialer=True)
    first = await stranger(a.address)
    first.say(control_frame(handshake.hello))
    handshake.receive(await first.message())
    proof = handshake.prove(1, 0)
    first.say(control_frame(proof))
    assert isinstance(handshake.receive(await first.message()), Welcomed)
    await first.leave()
    await until(lambda: a.changes == [("mallory", True), ("mallory", False)], "it came and went")
    again = await stranger(a.address)
    again.say(control_frame(handshake.hello))
    await again.message()
    again.say(control_frame(proof))
    assert (await again.farewell()).reason == "secret"
    assert a.changes == [("mallory", True), ("mallory", False)]
