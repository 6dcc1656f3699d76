"""The real peer link: one TCP connection for each pair of nodes, with named channels.

It is the Link of raftgroups/transport.py over asyncio. The rules stand in pure files: the bytes in
link_protocol.py, who is let in in link_handshake.py, which connection stays in link_pair.py, what
leaves first in link_queue.py. Here they meet:

    set_peer -> Dialer --.                                        .-> open: frames, keepalive
                          >-- Connection -- handshake -- Pair ----+-> refused: a sentence, close
    strangers -> Listener '                                       '-> lost: the Dialer's backoff

A node that is told only addresses asks each with `discover` for the identity behind it, then names
it with `set_peer`. Whoever completes the handshake is answered and let in, known here or not:
membership is the business of those who read the frames.

Safe by default: loopback, or TLS and a cluster secret, or an explicit `insecure = true`. WITHOUT A
SECRET WHOEVER KNOWS THE CLUSTER ID IS LET IN; the log says so at the start. TLS contexts come from
outside; a server context that requires client certificates makes it mutual (link_tls.py).

A malformed or hostile other side is counted, logged once and disconnected; nothing it sends raises
into the loop. Strangers are bounded in number, bytes and time (link_listener.py). A handler that
raises is counted, logged once with its traceback, and its frame dropped.

All methods are called on the loop. Tasks exist only while TCP connects.
When one connection replaces another, handlers hear (peer, False) and then (peer, True): each True
is a new connection, and what the old one held is lost.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable
from typing import Final

from kv.cluster.link_config import Address, LinkConfig, LinkStatus, check_listen
from kv.cluster.link_connection import Connection
from kv.cluster.link_dialer import Dialer
from kv.cluster.link_discovery import Discovery
from kv.cluster.link_handshake import (
    ASKING,
    NONCE_BYTES,
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
)
from kv.cluster.link_listener import Listener
from kv.cluster.link_pair import Denied
from kv.cluster.link_peer import PeerRecord, Peers
from kv.cluster.link_protocol import LinkUsageError, Violation
from kv.cluster.link_state import State
from kv.cluster.link_tls import LinkTls, TlsLayer
from kv.cluster.said_once import SaidOnce
from kv.cluster.tasks import TaskOwner
from raftgroups.transport import FrameHandler, NodeId, PeerHandler
from storage.clock import Clock, Rng, Scheduler, Timer

_log = logging.getLogger(__name__)

ACCEPT_PASSES: Final = 5
"""Passes of the loop after which a connection that was just accepted is known to us (asyncio needs
three), so that it can be closed before the listening socket is."""
STOOD_STILL_FACTOR: Final = 2.0
"""A keepalive round that comes after so many intervals means that we ourselves stood still."""


class PeerLink:
    """`entropy` gives bytes that nobody can predict (os.urandom): the nonces rest on it, and never
    on `rng`, which only spreads retries."""

    def __init__(
        self,
        identity: Identity,
        *,
        loop: asyncio.AbstractEventLoop,
        tasks: TaskOwner,
        clock: Clock,
        rng: Rng,
        entropy: Callable[[int], bytes],
        scheduler: Scheduler | None = None,
        config: LinkConfig | None = None,
        tls: LinkTls | None = None,
    ) -> None:
        self.identity = identity
        self._clock = clock
        self._entropy = entropy
        self._scheduler: Scheduler = scheduler or loop
        self._config = config = config or LinkConfig()
        self._tls = tls
        self._channel_ids = {channel.name: channel.id for channel in config.channels}
        self._largest = {channel.id: channel.max_frame_bytes for channel in config.channels}
        self._handlers: list[FrameHandler | None] = [None] * (max(self._largest) + 1)
        self._next_number = itertools.count(1).__next__
        self._said = SaidOnce(_log)
        self._peers = Peers(identity.node_id, config, rng, self._next_number, self._said)
        self._connections: dict[int, Connection] = {}
        """Every connection whose transport is there."""
        self._woken: dict[Connection, None] = {}
        """What was queued for them since the last push may not have left yet."""
        self._emptied = asyncio.Event()
        self._keepalive: Timer | None = None
        self._keepalive_at = 0.0
        self._listener = Listener(config, self._stranger, loop=loop, said=self._said)
        self._dialer = Dialer(
            config,
            self._outbound,
            self._peers.peer_problem,
            loop=loop,
            tasks=tasks,
            scheduler=self._scheduler,
        )
        self._discovery = Discovery(
            identity,
            config,
            next_number=self._next_number,
            loop=loop,
            clock=clock,
            entropy=entropy,
            scheduler=self._scheduler,
            tls=tls,
        )

    # --- life -----------------------------------------------------------------------------

    async def start(self) -> Address:
        """Listen, and begin to dial. Returns the address that peers reach."""
        config, tls, secret = self._config, self._tls, self.identity.secret
        authenticated = secret is not None or (tls is not None and tls.mutual)
        check_listen(config, authenticated=authenticated, encrypted=tls is not None)
        address = await self._listener.start()
        if secret is None:
            _log.warning(
                "no cluster secret is configured: every process that reaches %s:%d and knows the "
                "cluster id %r is let in as a peer; configure secret_file",
                *address,
                self.identity.cluster_id,
            )
        self._dialer.running = True
        self._keepalive_at = self._clock.monotonic()
        self._keepalive = self._scheduler.call_later(config.keepalive_s, self._keepalive_round)
        for record in list(self._peers):
            self._dialer.dial(record)
        return address

    async def close(self) -> None:
        """Let what is queued leave within close_timeout_s, say goodbye, end. Safe to call twice."""
        self._dialer.running = False
        self._listener.close()
        if self._keepalive is not None:
            self._keepalive.cancel()
        for record in self._peers:
            record.forget_dial()
        for connection in list(self._connections.values()):
            connection.drain("closing", f"node {self.identity.node_id!r} is stopping")
        await self._discovery.close()
        for _ in range(ACCEPT_PASSES):
            while self._connections:
                self._emptied.clear()
                await self._emptied.wait()
            await asyncio.sleep(0)
        await self._listener.closed()

    async def discover(self, address: Address, timeout_s: float | None = None) -> Peer:
        """Who answers at this address, both sides proved? One attempt; raises DiscoveryError.

        `timeout_s` defaults to what a dial gets. Needs no `set_peer` and no `start`."""
        config = self._config
        limit_s = config.connect_timeout_s + config.handshake_timeout_s
        return await self._discovery.ask(address, limit_s if timeout_s is None else timeout_s)

    # --- the Link protocol ----------------------------------------------------------------

    def send(self, peer: NodeId, channel: str, frame: bytes, *, at_once: bool = False) -> bool:
        channel_id = self._channel_ids.get(channel)
        if channel_id is None:
            raise self._no_channel(channel)
        record = self._peers.get(peer)
        if record is None:
            self._said.counts["send_to_unknown_peer"] += 1
            return False
        connection = record.connection
        if connection is None or connection.state is not State.OPEN:
            record.dropped[channel_id]["not_connected"] += 1
            return False
        if len(frame) > self._largest[channel_id]:
            record.dropped[channel_id]["too_large"] += 1
            self._said.warn(
                f"channel {channel}",
                "frame_too_large",
                f"a frame of {len(frame)} bytes to {peer!r} is over the limit of "
                f"{self._largest[channel_id]} bytes and was not sent",
            )
            return False
        if at_once and connection.write_alone(channel_id, frame):
            return True
        if not record.queue.offer(channel_id, frame):
            record.dropped[channel_id]["full"] += 1
            return False
        connection.wake()
        self._woken[connection] = None
        if at_once:
            connection.push()
        return True

    def push(self) -> None:
        woken = self._woken
        while woken:
            woken.popitem()[0].push()

    def connected(self, peer: NodeId) -> bool:
        record = self._peers.get(peer)
        connection = None if record is None else record.connection
        return connection is not None and connection.state is State.OPEN

    def subscribe(self, channel: str, handler: FrameHandler) -> None:
        channel_id = self._channel_ids.get(channel)
        if channel_id is None:
            raise self._no_channel(channel)
        self._handlers[channel_id] = handler

    def on_peer_change(self, handler: PeerHandler) -> None:
        self._peers.handlers.append(handler)

    def set_peer(self, peer: NodeId, address: Address) -> None:
        if peer == self.identity.node_id:
            raise LinkUsageError(f"node {peer!r} cannot be a peer of itself; name the others only")
        address = self._config.address_overrides.get(peer, address)
        if not (address[0] and 0 < address[1] < 65536):
            raise LinkUsageError(f"peer {peer!r} cannot be dialed at {address}: give HOST and PORT")
        record = self._peers.make(peer)
        if record.address == address:
            return
        record.address = address
        if record.connection is None:
            record.backoff.reset()
            record.forget_dial()
            self._dialer.dial(record)

    def remove_peer(self, peer: NodeId) -> None:
        record = self._peers.get(peer)
        if record is None:
            return
        record.address = None
        record.forget_dial()
        if record.connection is None:
            self._peers.drop_if_unused(record)
        else:
            record.connection.drain("removed", f"you are no peer of {self.identity.node_id!r}")

    def status(self) -> LinkStatus:
        now = self._clock.monotonic()
        return LinkStatus(
            listening=self._listener.address,
            connections=len(self._connections),
            strangers=self._listener.strangers,
            problems=dict(self._said.counts),
            peers={record.node_id: record.status(now) for record in self._peers},
        )

    def _no_channel(self, channel: str) -> LinkUsageError:
        return LinkUsageError(
            f"there is no channel {channel!r}; the channels are {', '.join(self._channel_ids)}"
        )

    # --- connections come -----------------------------------------------------------------

    def _stranger(self) -> Connection:
        nonce = self._entropy(NONCE_BYTES)
        tls = self._tls.accept() if self._tls else None
        return self._connection(Handshake(self.identity, nonce, dialer=False), None, tls)

    def _outbound(self, peer: NodeId, dial: int, host: str) -> Connection:
        nonce = self._entropy(NONCE_BYTES)
        tls = self._tls.dial(host) if self._tls else None
        handshake = Handshake(self.identity, nonce, dialer=True, expected=peer)
        return self._connection(handshake, dial, tls)

    def _connection(
        self, handshake: Handshake, dial: int | None, tls: TlsLayer | None
    ) -> Connection:
        return Connection(
            self,
            self._next_number(),
            handshake,
            dial=dial,
            tls=tls,
            config=self._config,
            clock=self._clock,
            scheduler=self._scheduler,
        )

    def on_connected(self, connection: Connection) -> None:
        self._connections[connection.key] = connection
        if connection.dial is None:
            self._listener.connected(connection, len(self._connections))
        else:
            connection.begin()

    def on_event(self, connection: Connection, event: Event) -> None:
        match event:
            case Reply(message):
                connection.write_control(message)
            case Met():
                self._met(connection, event)
            case Proved():
                self._proved(connection, event)
            case Welcomed():
                self._welcomed(connection, event)
            case Refused():
                self._refused(connection, event)

    def _met(self, connection: Connection, event: Met) -> None:
        record = self._peers.dialed_by(connection)
        assert record is not None, "a dial that was given up is aborted, so nothing arrives on it"
        assert connection.dial is not None
        answer = record.pair.met(connection.dial, event.peer.boot_id)
        if isinstance(answer, Denied):
            self._deny(connection, event.peer.node_id, answer)
        else:
            connection.write_control(connection.handshake.prove(*answer))

    def _proved(self, connection: Connection, event: Proved) -> None:
        if event.dial == ASKING:
            connection.write_control(connection.handshake.welcome(0))
            connection.farewell("asked", "you know now who is here")
            return
        record = self._peers.make(event.peer.node_id)
        answer = record.pair.proved(connection.key, event.peer.boot_id, event.dial, event.seen)
        if isinstance(answer, Denied):
            self._deny(connection, record.node_id, answer)
            self._peers.drop_if_unused(record)
            return
        self._listener.forget(connection)
        record.forget_dial()
        connection.write_control(connection.handshake.welcome(answer.serial))
        old = record.connection
        assert (old.key if old else None) == answer.replaced
        if old is not None:
            record.ended()
            old.abort()
            self._peers.tell(record.node_id, up=False)
        self._open(record, connection)

    def _welcomed(self, connection: Connection, event: Welcomed) -> None:
        record = self._peers.dialed_by(connection)
        assert record is not None, "a dial that was given up is aborted, so nothing arrives on it"
        assert connection.dial is not None
        welcome = record.pair.welcomed(
            connection.key, connection.dial, event.peer.boot_id, event.serial
        )
        assert welcome, "a dial that was given up is no longer `dialing`"
        record.dialing = record.dial_task = None
        self._open(record, connection)

    def _open(self, record: PeerRecord, connection: Connection) -> None:
        record.began(connection)
        connection.open(record.node_id, record.queue, self._handlers)
        _log.info("connected with %s (%s)", record.node_id, connection.remote)
        self._peers.tell(record.node_id, up=True)

    # --- connections go -------------------------------------------------------------------

    def _deny(self, connection: Connection, peer: NodeId, answer: Denied) -> None:
        if answer.reason == "duplicate":
            self._said.counts["duplicate"] += 1
        else:
            self._peers.peer_problem(peer, answer.reason, answer.sentence)
        connection.farewell(answer.reason, answer.sentence)

    def _refused(self, connection: Connection, event: Refused) -> None:
        """The other side would not have us."""
        record = self._peers.dialed_by(connection)
        if event.reason == "duplicate":
            self._said.counts["refused_as_duplicate"] += 1
        elif record is not None:
            self._peers.peer_problem(
                record.node_id,
                "refused_by_peer",
                f"{connection.remote} refused us ({event.reason}): {event.sentence}",
            )
        connection.abort()

    def on_handshake_error(self, connection: Connection, error: HandshakeError) -> None:
        if error.reason == "self" and self._discovery.under_way:
            self._said.counts["self"] += 1  # a list of addresses names every node, us too
            connection.farewell(error.reason, error.told)
            return
        self._peers.problem(connection, error.reason, f"refused {connection.remote}: {error}")
        connection.farewell(error.reason, error.told)

    def on_violation(self, connection: Connection, violation: Violation) -> None:
        self._peers.problem(
            connection,
            violation.code,
            f"{connection.remote} is disconnected: {violation.sentence}",
        )
        connection.farewell(violation.code, violation.sentence)

    def on_too_slow(self, connection: Connection) -> None:
        limit = self._config.handshake_timeout_s
        self._peers.problem(
            connection,
            "handshake_timeout",
            f"{connection.remote} did not finish its handshake in {limit:g} s",
        )
        connection.abort()

    def on_farewell(self, connection: Connection, reason: str, sentence: str) -> None:
        _log.info("%s said goodbye (%s): %s", connection.peer, reason, sentence)
        connection.abort()

    def on_defect(self, connection: Connection, channel_id: int, error: Exception) -> None:
        self._said.warn(
            f"channel {channel_id}",
            "handler_defect",
            f"the handler of channel {channel_id} raised {error!r} over a frame of "
            f"{connection.peer}; the frame was dropped",
            error=error,
        )

    def on_lost(self, connection: Connection, error: BaseException | None) -> None:
        self._connections.pop(connection.key, None)
        self._woken.pop(connection, None)
        self._listener.forget(connection)
        if not self._connections:
            self._emptied.set()
        record = self._peers.dialed_by(connection)
        if record is not None:
            record.last_problem = record.last_problem or (
                f"{connection.remote} closed the connection during the handshake"
            )
            self._dialer.ended(record, connection)
            return
        record = self._peers.get(connection.peer) if connection.peer is not None else None
        if record is None or record.connection is not connection:
            return
        record.pair.lost(connection.key)
        record.ended()
        if self._clock.monotonic() - connection.opened_at >= self._config.stable_after_s:
            record.backoff.reset()
            self._said.forget(f"peer {record.node_id}")
        _log.info("lost %s (%s): %s", record.node_id, connection.remote, error or "closed")
        self._peers.drop_if_unused(record)
        self._peers.tell(record.node_id, up=False)
        self._dialer.dial_later(record)

    # --- keepalive ------------------------------------------------------------------------

    def _keepalive_round(self) -> None:
        config = self._config
        now = self._clock.monotonic()
        stood_still = now - self._keepalive_at > STOOD_STILL_FACTOR * config.keepalive_s
        self._keepalive_at = now
        for connection in list(self._connections.values()):
            if connection.state is not State.OPEN:
                continue
            if stood_still:
                connection.excuse_silence(now)
            wrong = connection.keepalive(now, config)
            if wrong is not None:
                self._peers.problem(
                    connection, "dead", f"{connection.remote} is taken for dead: {wrong}"
                )
                connection.abort()
        self._keepalive = self._scheduler.call_later(config.keepalive_s, self._keepalive_round)
