"""The handshake of a peer link: who are you, and do you hold the cluster's secret? Pure.

    dialer                                   acceptor
      HELLO(versions, cluster, node, boot, nonce_d) ->
                                          <- HELLO(versions, cluster, node, boot, nonce_a)
      PROOF(dial, seen, MAC_d)                      ->
                                          <- WELCOME(serial, MAC_a)

and from then on frames of the channels. Either side may say BYE(code, sentence) instead and close.

- MAC = HMAC-SHA256(cluster secret, role, both HELLOs whole, the numbers beside the MAC). Both sides
  prove the secret; both nonces are in it, so nothing recorded can be replayed; the roles differ, so
  nothing can be reflected; the HELLOs are in it whole, so nobody in between can change a name or
  talk two nodes down to an older version unnoticed.
- The dialer proves first, and an acceptor says nothing about itself to a HELLO that does not fit: a
  scanner learns neither the cluster id nor a MAC to guess secrets against.
- Without a cluster secret the key is empty: whoever knows the cluster id is let in. A side with a
  secret and a side without refuse each other.
- The MACs protect the handshake. What follows is only checksummed: against somebody who can change
  bytes on the way, configure TLS. The secret says "a node of this cluster", not which one.
- `dial`, `seen` and `serial` settle which of two connections of a pair stays (link_pair.py).
  Dial number ASKING is no dial: the dialer only wants to know who is here (link_discovery.py).

The machine does no I/O and takes no decision about duplicates: `receive` returns an event, and the
shell answers with `prove`, `welcome` or a farewell. A message that does not fit raises
HandshakeError with a sentence for the other side and one for our own log.
"""

from __future__ import annotations

import hmac
import struct
from dataclasses import dataclass, field
from enum import IntEnum
from typing import ClassVar, Final, NamedTuple

from kv.cluster.link_protocol import CONTROL_MAX_BYTES, LinkError, LinkUsageError
from raftgroups.transport import NodeId

PROTOCOL_VERSION: Final = 1
OLDEST_VERSION: Final = 1
NONCE_BYTES: Final = 32
NAME_MAX_BYTES: Final = 64
SENTENCE_MAX_BYTES: Final = 400
MAC_BYTES: Final = 32
ASKING: Final = 0
"""Real dials are numbered from 1."""

_MAGIC: Final = b"JKVL"
_HELLO: Final = struct.Struct(f">B4sHHB{NONCE_BYTES}s")
_PROOF: Final = struct.Struct(f">BQQ{MAC_BYTES}s")
_WELCOME: Final = struct.Struct(f">BQ{MAC_BYTES}s")
_PING: Final = struct.Struct(">BQ")
_HAS_SECRET: Final = 1


class Message(IntEnum):
    HELLO = 1
    PROOF = 2
    WELCOME = 3
    BYE = 4
    PING = 5
    PONG = 6


class HandshakeError(LinkError):
    """The other side is refused. `told` is what it is told, the message is for our own log."""

    code: ClassVar[str] = "handshake_refused"

    def __init__(self, reason: str, told: str, logged: str | None = None) -> None:
        super().__init__(logged or told)
        self.reason = reason
        self.told = told


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a node is on its links."""

    cluster_id: str
    node_id: NodeId
    boot_id: str
    """Random, new with every start of the process."""
    secret: bytes | None = field(default=None, repr=False)
    version: int = PROTOCOL_VERSION
    oldest_version: int = OLDEST_VERSION

    def __post_init__(self) -> None:
        names = (
            ("cluster id", self.cluster_id),
            ("node id", self.node_id),
            ("boot id", self.boot_id),
        )
        for what, name in names:
            if not _usable(name):
                raise LinkUsageError(
                    f"the {what} {name!r} cannot be used on a link: give 1 to {NAME_MAX_BYTES} "
                    "bytes of printable text"
                )
        if self.secret is not None and not self.secret:
            raise LinkUsageError(
                "the cluster secret is empty; give at least one byte, or no secret"
            )


class Peer(NamedTuple):
    """Who the other side says it is; proved once the handshake is through."""

    node_id: NodeId
    boot_id: str
    version: int
    """The version that both speak."""


class Reply(NamedTuple):
    """Acceptor: their HELLO fits; send this and wait."""

    message: bytes


class Met(NamedTuple):
    """Dialer: their HELLO fits; `prove`, or go away if the connection is no longer wanted."""

    peer: Peer


class Proved(NamedTuple):
    """Acceptor: they hold the secret; `welcome`, or say why not."""

    peer: Peer
    dial: int
    seen: int


class Welcomed(NamedTuple):
    """Dialer: they hold the secret too and took us."""

    peer: Peer
    serial: int


class Refused(NamedTuple):
    """They said BYE."""

    reason: str
    sentence: str


Event = Reply | Met | Proved | Welcomed | Refused


class _State(IntEnum):
    HELLO_EXPECTED = 0
    DECISION_EXPECTED = 1
    PROOF_EXPECTED = 2
    WELCOME_EXPECTED = 3
    OVER = 4


class Handshake:
    """One side of one handshake. `expected` is the node that a dialer means to reach."""

    def __init__(
        self, local: Identity, nonce: bytes, *, dialer: bool, expected: NodeId | None = None
    ) -> None:
        assert len(nonce) == NONCE_BYTES
        self._local = local
        self._dialer = dialer
        self._expected = expected
        self._state = _State.HELLO_EXPECTED
        self.hello = _encode_hello(local, nonce)
        self._their_hello = b""
        self.peer: Peer | None = None

    def receive(self, message: bytes) -> Event:
        kind = message[0] if message else 0
        if kind == Message.BYE:
            self._state = _State.OVER
            return decode_bye(message)
        state = self._state
        if state is _State.HELLO_EXPECTED and kind == Message.HELLO:
            return self._hello(message)
        if state is _State.PROOF_EXPECTED and kind == Message.PROOF:
            return self._proof(message)
        if state is _State.WELCOME_EXPECTED and kind == Message.WELCOME:
            return self._welcome(message)
        raise self._refuse("out_of_order", f"message {kind} was not expected in this handshake")

    def prove(self, dial: int, seen: int) -> bytes:
        """Dialer, after Met."""
        assert self._dialer
        assert self._state is _State.DECISION_EXPECTED
        self._state = _State.WELCOME_EXPECTED
        mac = self._mac(b"dialer", struct.pack(">QQ", dial, seen))
        return _PROOF.pack(Message.PROOF, dial, seen, mac)

    def welcome(self, serial: int) -> bytes:
        """Acceptor, after Proved."""
        assert not self._dialer
        assert self._state is _State.DECISION_EXPECTED
        self._state = _State.OVER
        return _WELCOME.pack(
            Message.WELCOME, serial, self._mac(b"acceptor", struct.pack(">Q", serial))
        )

    def _hello(self, message: bytes) -> Event:
        theirs = _decode_hello(message)
        if theirs is None:
            raise self._refuse("bad_hello", "this is no HELLO of a JanusKV node")
        version, oldest, has_secret, cluster_id, node_id, boot_id = theirs
        self._check_version(version, oldest, node_id)
        self._check_cluster(cluster_id, has_secret, node_id)
        self._check_node(node_id, boot_id)
        self._their_hello = message
        self.peer = Peer(node_id, boot_id, min(version, self._local.version))
        if self._dialer:
            self._state = _State.DECISION_EXPECTED
            return Met(self.peer)
        self._state = _State.PROOF_EXPECTED
        return Reply(self.hello)

    def _check_version(self, version: int, oldest: int, node_id: str) -> None:
        local = self._local
        if version < local.oldest_version or local.version < oldest:
            raise self._refuse(
                "version",
                f"you speak link versions {oldest} to {version} and this node speaks "
                f"{local.oldest_version} to {local.version}; upgrade the older one",
                f"node {node_id!r} speaks link versions {oldest} to {version} and this node speaks "
                f"{local.oldest_version} to {local.version}; upgrade the older one",
            )

    def _check_cluster(self, cluster_id: str, has_secret: bool, node_id: str) -> None:
        local = self._local
        if cluster_id != local.cluster_id:
            raise self._refuse(
                "cluster",
                f"this node does not belong to cluster {cluster_id!r}; check [cluster] id and the "
                "addresses of the peers",
                f"node {node_id!r} is of cluster {cluster_id!r} and this one of "
                f"{local.cluster_id!r}; check [cluster] id and the addresses of the peers",
            )
        if has_secret != (local.secret is not None):
            mine, yours = ("none", "one") if has_secret else ("one", "none")
            raise self._refuse(
                "secret",
                f"this node has {mine} and you have {yours} of the cluster secret; give every node "
                "the same secret_file",
                f"node {node_id!r} has {yours} and this node {mine} of the cluster secret; give "
                "every node the same secret_file",
            )

    def _check_node(self, node_id: NodeId, boot_id: str) -> None:
        local = self._local
        if node_id == local.node_id:
            if boot_id == local.boot_id:
                raise self._refuse(
                    "self", f"node {node_id!r} reached itself; correct the address of the peer"
                )
            raise self._refuse(
                "twin",
                f"another process runs as node {node_id!r}; a data directory was copied: stop one "
                "of the two and wipe its directory",
            )
        if self._expected is not None and node_id != self._expected:
            raise self._refuse(
                "wrong_node",
                f"node {self._expected!r} was expected here and {node_id!r} answered; correct the "
                "address of the peer",
            )

    def _proof(self, message: bytes) -> Event:
        if len(message) != _PROOF.size:
            raise self._refuse("bad_proof", "a PROOF of a wrong length")
        _, dial, seen, mac = _PROOF.unpack(message)
        self._check_mac(mac, b"dialer", struct.pack(">QQ", dial, seen))
        self._state = _State.DECISION_EXPECTED
        assert self.peer is not None
        return Proved(self.peer, dial, seen)

    def _welcome(self, message: bytes) -> Event:
        if len(message) != _WELCOME.size:
            raise self._refuse("bad_welcome", "a WELCOME of a wrong length")
        _, serial, mac = _WELCOME.unpack(message)
        self._check_mac(mac, b"acceptor", struct.pack(">Q", serial))
        self._state = _State.OVER
        assert self.peer is not None
        return Welcomed(self.peer, serial)

    def _check_mac(self, mac: bytes, role: bytes, numbers: bytes) -> None:
        if not hmac.compare_digest(mac, self._mac(role, numbers)):
            assert self.peer is not None
            raise self._refuse(
                "secret",
                "the proof does not fit: your cluster secret differs from this node's, or the "
                "handshake was changed on its way; give every node the same secret_file",
                f"the proof of node {self.peer.node_id!r} does not fit: its cluster secret differs "
                "from this node's, or the handshake was changed on its way",
            )

    def _mac(self, role: bytes, numbers: bytes) -> bytes:
        """Every part has its length before it or a fixed one, so no two inputs read alike."""
        ours, theirs = self.hello, self._their_hello
        first, second = (ours, theirs) if self._dialer else (theirs, ours)
        text = b"".join(
            (
                b"januskv link\x00",
                bytes((len(role),)),
                role,
                struct.pack(">HH", len(first), len(second)),
                first,
                second,
                numbers,
            )
        )
        return hmac.digest(self._local.secret or b"", text, "sha256")

    def _refuse(self, reason: str, told: str, logged: str | None = None) -> HandshakeError:
        self._state = _State.OVER
        return HandshakeError(reason, told, logged)


def _usable(name: str) -> bool:
    return name.isprintable() and 0 < len(name.encode()) <= NAME_MAX_BYTES


def _encode_hello(local: Identity, nonce: bytes) -> bytes:
    parts = [
        _HELLO.pack(
            Message.HELLO,
            _MAGIC,
            local.version,
            local.oldest_version,
            _HAS_SECRET if local.secret is not None else 0,
            nonce,
        )
    ]
    for name in (local.cluster_id, local.node_id, local.boot_id):
        text = name.encode()
        parts.append(bytes((len(text),)) + text)
    return b"".join(parts)


def _decode_hello(message: bytes) -> tuple[int, int, bool, str, NodeId, str] | None:
    """None for anything that `_encode_hello` would not have written."""
    if len(message) < _HELLO.size:
        return None
    _, magic, version, oldest, flags, _ = _HELLO.unpack_from(message)
    names: list[str] = []
    at = _HELLO.size
    while at < len(message):
        stop = at + 1 + message[at]
        try:
            name = message[at + 1 : stop].decode()
        except UnicodeDecodeError:
            return None
        if stop > len(message) or not _usable(name):
            return None
        names.append(name)
        at = stop
    if magic != _MAGIC or len(names) != 3 or flags & ~_HAS_SECRET or oldest > version:
        return None
    return version, oldest, bool(flags & _HAS_SECRET), names[0], NodeId(names[1]), names[2]


def encode_bye(reason: str, sentence: str) -> bytes:
    word = reason.encode()[:NAME_MAX_BYTES]
    text = sentence.encode()[:SENTENCE_MAX_BYTES]
    message = bytes((Message.BYE, len(word))) + word + text
    assert len(message) <= CONTROL_MAX_BYTES
    return message


def decode_bye(message: bytes) -> Refused:
    """What a stranger says is only ever shown: it is cut and made printable."""
    size = message[1] if len(message) > 1 else 0
    reason = _printable(message[2 : 2 + size])[:NAME_MAX_BYTES]
    return Refused(reason or "unknown", _printable(message[2 + size :])[:SENTENCE_MAX_BYTES])


def _printable(text: bytes) -> str:
    return "".join(c if c.isprintable() else "?" for c in text.decode(errors="replace"))


def encode_ping(kind: Message, number: int) -> bytes:
    return _PING.pack(kind, number)


def decode_ping(message: bytes) -> tuple[int, int] | None:
    """(PING or PONG, number), or None if it is neither."""
    if len(message) != _PING.size:
        return None
    kind, number = _PING.unpack(message)
    return (kind, number) if kind in (Message.PING, Message.PONG) else None
