"""The handshake: who is let in, what a misfit is told, and that nothing can be replayed."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kv.cluster.link_handshake import (
    NONCE_BYTES,
    SENTENCE_MAX_BYTES,
    Event,
    Handshake,
    HandshakeError,
    Identity,
    Met,
    Peer,
    Proved,
    Refused,
    Reply,
    Welcomed,
    decode_bye,
    encode_bye,
)
from kv.cluster.link_protocol import CONTROL_MAX_BYTES, LinkUsageError
from raftgroups.transport import NodeId

SECRET = b"the secret of the cluster"
A = Identity("c1", NodeId("node-a"), "boot-a", SECRET)
B = Identity("c1", NodeId("node-b"), "boot-b", SECRET)


def nonce(text: str) -> bytes:
    return text.encode().ljust(NONCE_BYTES, b".")


class Talk:
    """A handshake between a dialer and an acceptor, one message at a time."""

    def __init__(
        self,
        dialer: Identity = A,
        acceptor: Identity = B,
        *,
        expected: str | None = None,
        nonces: tuple[str, str] = ("d", "a"),
    ) -> None:
        node = NodeId(expected) if expected else None
        self.dialer = Handshake(dialer, nonce(nonces[0]), dialer=True, expected=node)
        self.acceptor = Handshake(acceptor, nonce(nonces[1]), dialer=False)

    def run(self, tamper: tuple[int, int, int] | None = None) -> tuple[list[bytes], list[Event]]:
        """The messages and the events of it; `tamper` = (message, position, bits to flip)."""
        messages: list[bytes] = []
        events: list[Event] = []

        def carry(message: bytes) -> bytes:
            if tamper is not None and tamper[0] == len(messages):
                at = tamper[1] % len(message)
                message = message[:at] + bytes((message[at] ^ tamper[2],)) + message[at + 1 :]
            messages.append(message)
            return message

        reply = self.acceptor.receive(carry(self.dialer.hello))
        events.append(reply)
        if not isinstance(reply, Reply):
            return messages, events
        met = self.dialer.receive(carry(reply.message))
        events.append(met)
        if not isinstance(met, Met):
            return messages, events
        proved = self.acceptor.receive(carry(self.dialer.prove(7, 3)))
        events.append(proved)
        if not isinstance(proved, Proved):
            return messages, events
        events.append(self.dialer.receive(carry(self.acceptor.welcome(11))))
        return messages, events


@pytest.mark.parametrize("secret", [SECRET, None], ids=["secret", "no secret"])
def test_both_learn_who_the_other_is(secret: bytes | None) -> None:
    talk = Talk(replace(A, secret=secret), replace(B, secret=secret), expected="node-b")
    _, events = talk.run()
    assert events[1:] == [
        Met(Peer(B.node_id, "boot-b", 1)),
        Proved(Peer(A.node_id, "boot-a", 1), 7, 3),
        Welcomed(Peer(B.node_id, "boot-b", 1), 11),
    ]


def test_two_versions_agree_on_the_older_one_if_both_speak_it() -> None:
    newer = replace(B, version=3, oldest_version=1)
    _, events = Talk(A, newer).run()
    assert events[-1] == Welcomed(Peer(B.node_id, "boot-b", 1), 11)


@pytest.mark.parametrize(
    ("dialer", "acceptor", "expected", "reason", "told"),
    [
        (replace(A, cluster_id="c2"), B, None, "cluster", "does not belong to cluster 'c2'"),
        (replace(A, secret=b"another"), B, None, "secret", "your cluster secret differs"),
        (replace(A, secret=None), B, None, "secret", "has one and you have none"),
        (A, replace(B, secret=None), None, "secret", "has none and you have one"),
        (
            replace(A, version=3, oldest_version=2),
            B,
            None,
            "version",
            "you speak link versions 2 to 3 and this node speaks 1 to 1; upgrade",
        ),
        (A, replace(B, version=5, oldest_version=4), None, "version", "upgrade the older one"),
        (A, A, None, "self", "reached itself"),
        (A, replace(A, boot_id="other"), None, "twin", "another process runs as node 'node-a'"),
        (A, B, "node-c", "wrong_node", "'node-c' was expected here and 'node-b' answered"),
    ],
)
def test_a_misfit_is_refused_with_a_sentence(
    dialer: Identity, acceptor: Identity, expected: str | None, reason: str, told: str
) -> None:
    with pytest.raises(HandshakeError) as refusal:
        Talk(dialer, acceptor, expected=expected).run()
    assert refusal.value.reason == reason
    assert told in refusal.value.told


def test_a_stranger_learns_neither_our_cluster_id_nor_a_proof() -> None:
    talk = Talk(replace(A, cluster_id="guess"))
    with pytest.raises(HandshakeError) as refusal:
        talk.run()
    assert "'c1'" not in refusal.value.told
    assert "'c1'" in str(refusal.value), "our own log says both"
    # And what an acceptor says before the dialer proved anything does not depend on the secret.
    guessing = Handshake(A, nonce("d"), dialer=True)
    other = Handshake(replace(B, secret=b"any other"), nonce("a"), dialer=False)
    reply = Handshake(B, nonce("a"), dialer=False).receive(guessing.hello)
    assert reply == other.receive(guessing.hello)


@pytest.mark.parametrize("secret", [SECRET, None], ids=["secret", "no secret"])
@given(message=st.integers(0, 3), position=st.integers(0, 500), bits=st.integers(1, 255))
def test_any_mutation_of_any_message_is_refused(
    secret: bytes | None, message: int, position: int, bits: int
) -> None:
    talk = Talk(replace(A, secret=secret), replace(B, secret=secret))
    events: list[Event] = []
    try:
        _, events = talk.run((message, position, bits))
    except HandshakeError:
        return
    # A message may have been turned into a farewell; nobody is let in by that either.
    assert isinstance(events[-1], Refused)


@given(message=st.integers(0, 3), cut=st.integers(1, 200))
def test_a_shortened_or_lengthened_message_is_refused(message: int, cut: int) -> None:
    messages, _ = Talk().run()
    for changed in (messages[message][:-cut], messages[message] + bytes(cut)):
        talk = Talk()
        receiver = talk.acceptor if message in (0, 2) else talk.dialer
        if message == 2:
            receiver.receive(messages[0])
        elif message == 3:
            receiver.receive(messages[1])
            talk.dialer.prove(7, 3)
        with pytest.raises(HandshakeError):
            receiver.receive(changed)


def test_a_recorded_handshake_opens_nothing() -> None:
    messages, _ = Talk().run()
    # The dialer's messages against a later acceptor: its nonce is another one.
    acceptor = Handshake(B, nonce("fresh"), dialer=False)
    assert isinstance(acceptor.receive(messages[0]), Reply)
    with pytest.raises(HandshakeError, match="proof"):
        acceptor.receive(messages[2])
    # The acceptor's messages against a later dialer.
    dialer = Handshake(A, nonce("fresh"), dialer=True)
    assert isinstance(dialer.receive(messages[1]), Met)
    dialer.prove(8, 3)
    with pytest.raises(HandshakeError, match="proof"):
        dialer.receive(messages[3])


def test_a_proof_cannot_be_reflected() -> None:
    """Somebody without the secret dials A and answers with what A itself said as a dialer."""
    victim = Handshake(A, nonce("1"), dialer=True)
    liar = Handshake(replace(B, secret=b"unknown"), nonce("2"), dialer=True)
    target = Handshake(A, nonce("1"), dialer=False)
    victim.receive(liar.hello)
    stolen = victim.prove(1, 0)
    assert isinstance(target.receive(liar.hello), Reply)
    with pytest.raises(HandshakeError, match="proof"):
        target.receive(stolen)


@pytest.mark.parametrize("order", [(1,), (2,), (3,), (0, 0), (0, 3), (0, 1)])
def test_messages_out_of_order_are_refused(order: tuple[int, ...]) -> None:
    messages, _ = Talk().run()
    acceptor = Handshake(B, nonce("a"), dialer=False)
    for number in order[:-1]:
        acceptor.receive(messages[number])
    if order == (1,):
        with pytest.raises(HandshakeError, match="reached itself"):
            acceptor.receive(messages[1])
    else:
        with pytest.raises(HandshakeError, match="not expected"):
            acceptor.receive(messages[order[-1]])


@given(message=st.binary(max_size=CONTROL_MAX_BYTES))
def test_noise_is_refused_and_never_raises_anything_else(message: bytes) -> None:
    for side in (Handshake(A, nonce("n"), dialer=True), Handshake(A, nonce("n"), dialer=False)):
        try:
            event = side.receive(message)
        except HandshakeError:
            continue
        assert isinstance(event, Refused)


@given(start=st.integers(0, 4), noise=st.binary(max_size=300))
def test_noise_behind_a_hello_is_refused(start: int, noise: bytes) -> None:
    hello = Handshake(B, nonce("n"), dialer=True).hello
    acceptor = Handshake(A, nonce("m"), dialer=False)
    changed = hello[: 42 + start] + noise
    if changed == hello:
        return
    try:
        assert isinstance(acceptor.receive(changed), Reply)
    except HandshakeError:
        return
    # It happened to be a well-formed HELLO of another node; it still proves nothing.
    with pytest.raises(HandshakeError):
        acceptor.receive(Talk().run()[0][2])


@pytest.mark.parametrize("name", ["", "x" * 65, "two\nlines", "\x00", "ü" * 33])
@pytest.mark.parametrize("what", ["cluster_id", "node_id", "boot_id"])
def test_unusable_names_are_refused_before_anything_is_sent(what: str, name: str) -> None:
    with pytest.raises(LinkUsageError, match="1 to 64 bytes of printable text"):
        replace(A, **{what: name})


def test_an_empty_secret_is_no_secret() -> None:
    with pytest.raises(LinkUsageError, match="secret is empty"):
        replace(A, secret=b"")
    assert "secret" not in repr(A).replace("secret of", "")


@given(message=st.binary(max_size=CONTROL_MAX_BYTES))
def test_a_farewell_of_a_stranger_is_short_and_printable(message: bytes) -> None:
    reason, sentence = decode_bye(message)
    assert reason.isprintable()
    assert sentence.isprintable()
    assert len(sentence) <= SENTENCE_MAX_BYTES


def test_a_farewell_arrives_as_it_was_said() -> None:
    assert decode_bye(encode_bye("cluster", "wrong one: ü")) == Refused("cluster", "wrong one: ü")
    assert len(encode_bye("r" * 500, "s" * 5000)) <= CONTROL_MAX_BYTES
