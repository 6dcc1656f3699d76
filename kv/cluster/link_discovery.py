"""Who lives behind an address? A dial that asks for an identity and leaves again.

A node that starts is told addresses; links are between node ids. So it asks each address with the
whole handshake: both sides prove the secret, and the answer is the other's identity. The PROOF
says dial number ASKING, which no real dial has; the acceptor answers with its WELCOME and says
goodbye, whether it ever heard of the caller or not, and keeps nothing (link.py, `_proved`). So
asking never touches a connection that the two nodes hold, and `set_peer` follows as ever.

One attempt a call. DiscoveryError.reason says why not: `unreachable`, `timeout`, `closed` and
`closing` may pass by waiting (`may_pass`), everything else asks for a corrected setting; among it
`self`, this node's own address, which a list that is the same on every node always has.

Invariant: when `ask` returns or raises, its connection is gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ClassVar, Final

from kv.cluster.link_config import Address, LinkConfig
from kv.cluster.link_connection import Connection
from kv.cluster.link_handshake import (
    ASKING,
    NONCE_BYTES,
    Event,
    Handshake,
    HandshakeError,
    Identity,
    Met,
    Peer,
    Refused,
    Welcomed,
)
from kv.cluster.link_protocol import LinkError, LinkUsageError, Violation
from kv.cluster.link_tls import LinkTls
from storage.clock import Clock, Scheduler

PASSING: Final = frozenset({"unreachable", "timeout", "closed", "closing"})


class DiscoveryError(LinkError):
    """Nobody was identified behind the address."""

    code: ClassVar[str] = "discovery_failed"

    def __init__(self, address: Address, reason: str, sentence: str) -> None:
        super().__init__(f"{address[0]}:{address[1]}: {sentence}")
        self.address = address
        self.reason = reason

    @property
    def may_pass(self) -> bool:
        """Asking again later may help, with nothing changed here."""
        return self.reason in PASSING


class Discovery:
    def __init__(
        self,
        identity: Identity,
        config: LinkConfig,
        *,
        next_number: Callable[[], int],
        loop: asyncio.AbstractEventLoop,
        clock: Clock,
        entropy: Callable[[int], bytes],
        scheduler: Scheduler,
        tls: LinkTls | None,
    ) -> None:
        self._identity = identity
        self._config = config
        self._next_number = next_number
        self._loop = loop
        self._clock = clock
        self._entropy = entropy
        self._scheduler = scheduler
        self._tls = tls
        self._under_way: set[_Inquiry] = set()
        self._quiet = asyncio.Event()

    @property
    def under_way(self) -> int:
        return len(self._under_way)

    async def ask(self, address: Address, timeout_s: float) -> Peer:
        host, port = address
        if not (host and 0 < port < 65536):
            raise LinkUsageError(f"{address} cannot be dialed: give HOST and PORT")
        inquiry = _Inquiry(address, self._loop)
        try:
            inquiry.connection = self._connection(inquiry, host)
        except (ValueError, TypeError) as error:  # no certificate is for such a name
            raise DiscoveryError(address, "bad_name", f"{host!r}: {error}") from error
        self._under_way.add(inquiry)
        try:
            return await self._reach(inquiry, timeout_s)
        finally:
            try:
                await inquiry.gone()
            finally:
                self._under_way.discard(inquiry)
                if not self._under_way:
                    self._quiet.set()

    async def close(self) -> None:
        """Every inquiry fails with `closing`; returns when their connections are gone."""
        for inquiry in self._under_way:
            inquiry.fail("closing", "this node is stopping")
        while self._under_way:
            self._quiet.clear()
            await self._quiet.wait()

    def _connection(self, inquiry: _Inquiry, host: str) -> Connection:
        return Connection(
            inquiry,
            self._next_number(),
            Handshake(self._identity, self._entropy(NONCE_BYTES), dialer=True),
            dial=ASKING,
            tls=self._tls.dial(host) if self._tls else None,
            config=self._config,
            clock=self._clock,
            scheduler=self._scheduler,
        )

    async def _reach(self, inquiry: _Inquiry, timeout_s: float) -> Peer:
        address, connection = inquiry.address, inquiry.connection
        step = "accept a connection"
        try:
            async with asyncio.timeout(timeout_s):
                await self._loop.create_connection(lambda: connection, *address)
                inquiry.reached = True
                step = "finish the handshake"
                return await inquiry.answer
        except TimeoutError as error:
            sentence = f"did not {step} in {timeout_s:g} s"
            raise DiscoveryError(address, "timeout", sentence) from error
        except (OSError, ValueError, OverflowError) as error:  # the last two: a strange address
            raise DiscoveryError(address, "unreachable", f"cannot be reached: {error}") from error


class _Inquiry:
    """The owner of one such connection (link_connection.ConnectionOwner)."""

    def __init__(self, address: Address, loop: asyncio.AbstractEventLoop) -> None:
        self.address = address
        self.connection: Connection
        self.answer: asyncio.Future[Peer] = loop.create_future()
        self.reached = False
        self._lost = asyncio.Event()

    def fail(self, reason: str, sentence: str) -> None:
        if not self.answer.done():
            self.answer.set_exception(DiscoveryError(self.address, reason, sentence))

    async def gone(self) -> None:
        if self.answer.done() and not self.answer.cancelled():
            self.answer.exception()  # it was looked at, also when a timeout came first
        connection = self.connection
        if not connection.over:
            connection.abort()
        if not self.reached:
            # It may have ended after `connection_made` and before we were told that it succeeded;
            # then a loop may close the transport and tell nobody (uvloop does).
            connection.connection_lost(None)
            return
        try:
            await self._lost.wait()
        except asyncio.CancelledError:
            connection.abort()
            raise

    # --- what the connection tells ----------------------------------------------------------

    def on_connected(self, connection: Connection) -> None:
        if self.answer.done():
            connection.abort()
        else:
            connection.begin()

    def on_event(self, connection: Connection, event: Event) -> None:
        match event:
            case Met():
                connection.write_control(connection.handshake.prove(ASKING, 0))
            case Welcomed():
                if not self.answer.done():
                    self.answer.set_result(event.peer)
                connection.farewell("asked", "thank you")
            case Refused():
                sentence = f"the node there refused us ({event.reason}): {event.sentence}"
                self.fail(event.reason, sentence)
                connection.abort()
            case _:
                raise AssertionError(f"{event} is an acceptor's")

    def on_handshake_error(self, connection: Connection, error: HandshakeError) -> None:
        self.fail(error.reason, str(error))
        connection.farewell(error.reason, error.told)

    def on_violation(self, connection: Connection, violation: Violation) -> None:
        self.fail(violation.code, f"is no peer address of a JanusKV node: {violation.sentence}")
        connection.farewell(violation.code, violation.sentence)

    def on_too_slow(self, connection: Connection) -> None:
        self.fail("timeout", "did not finish the handshake in time")
        connection.abort()

    def on_farewell(self, connection: Connection, reason: str, sentence: str) -> None:
        connection.abort()

    def on_defect(self, connection: Connection, channel_id: int, error: Exception) -> None:
        raise AssertionError("no frame is delivered on this connection") from error

    def on_lost(self, connection: Connection, error: BaseException | None) -> None:
        self.fail("closed", f"closed the connection during the handshake: {error or 'no reason'}")
        self._lost.set()
