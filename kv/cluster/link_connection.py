"""One TCP connection of the peer link: bytes in, frames out, and the reverse. No decisions.

    RAW --TLS--> SHAKING --open()--> OPEN --drain()--> DRAINING --> OVER
     '------------ abort(), farewell(), the other side, the network -^

It owns a transport, a decoder and a handshake, and asks its owner (link.py) what an event means.
Reading: asyncio fills the decoder's fixed buffer, or, once open and without TLS, hands over what
came (link_inbound.py); frames go to the handlers at once, so a handler that is slow slows its
sender down through TCP and nothing piles up here.
Writing: frames wait in the peer's OutboundQueue. All that one pass of the loop offers leaves in one
write of at most `burst_bytes`, at its end, or with a frame that was sent "at once"; such a one goes
past the queue if nothing is in it. The transport's high-water mark is zero, so it says
`pause_writing` as soon as the kernel did not take everything, and the next burst is chosen when it
says `resume_writing`. With TCP_NOTSENT_LOWAT the kernel too holds little that has not left yet. So
what an urgent frame finds before it on the way out is bounded, whatever is queued.

May not know: peers, retries, who may connect. Invariant: `on_lost` is called exactly once for each
connection that `on_connected` was called for, and nothing after it.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Sequence
from typing import Final, Protocol, cast

from kv.cluster.link_config import LinkConfig
from kv.cluster.link_handshake import (
    Event,
    Handshake,
    HandshakeError,
    Message,
    decode_bye,
    decode_ping,
    encode_bye,
    encode_ping,
)
from kv.cluster.link_inbound import Inbound
from kv.cluster.link_protocol import (
    CONTROL,
    FRAGMENT_BYTES,
    Decoder,
    Violation,
    control_frame,
    whole_frame,
)
from kv.cluster.link_queue import OutboundQueue
from kv.cluster.link_state import State
from kv.cluster.link_tls import TlsError, TlsLayer
from raftgroups.transport import FrameHandler, NodeId
from storage.clock import Clock, Scheduler, Timer

_log = logging.getLogger(__name__)

NOT_SENT_LIMIT_BYTES: Final = 128 * 1024


_OPEN: Final = State.OPEN
_OVER: Final = State.OVER


class ConnectionOwner(Protocol):
    def on_connected(self, connection: Connection) -> None:
        """TCP is there. Calls `begin`, or `abort` if it is one too many."""
        ...

    def on_event(self, connection: Connection, event: Event) -> None: ...

    def on_handshake_error(self, connection: Connection, error: HandshakeError) -> None: ...

    def on_violation(self, connection: Connection, violation: Violation) -> None: ...

    def on_too_slow(self, connection: Connection) -> None: ...

    def on_farewell(self, connection: Connection, reason: str, sentence: str) -> None: ...

    def on_defect(self, connection: Connection, channel_id: int, error: Exception) -> None:
        """A handler raised; its frame is dropped."""
        ...

    def on_lost(self, connection: Connection, error: BaseException | None) -> None: ...


class Connection(asyncio.BufferedProtocol):
    def __init__(
        self,
        owner: ConnectionOwner,
        key: int,
        handshake: Handshake,
        *,
        dial: int | None,
        tls: TlsLayer | None,
        config: LinkConfig,
        clock: Clock,
        scheduler: Scheduler,
    ) -> None:
        self._owner = owner
        self.key = key
        self.handshake = handshake
        self.dial = dial
        """The number of our dial; None for an inbound connection."""
        self._tls = tls
        self._config = config
        self._clock = clock
        self._scheduler = scheduler
        self._decoder = Decoder()
        self._transport: asyncio.Transport | None = None
        self._deadline: Timer | None = None
        self.state = State.RAW
        self.remote = self.host = "?"
        # Once open:
        self.peer: NodeId | None = None
        self._queue = OutboundQueue(())
        self.handlers: Sequence[FrameHandler | None] = ()
        self._pumping: Timer | None = None
        """The call of `_pump` that will come."""
        self._paused = False
        self.opened_at = 0.0
        self.last_received_at = 0.0
        self.sent_bytes = 0
        self.received_bytes = 0
        self.received_frames: list[int] = []
        """By channel id."""
        self.unhandled_frames: list[int] = []
        self.rtt_s: float | None = None
        self._ping_number = 0
        self._ping_sent_at: float | None = None
        self._bye: bytes | None = None

    # --- the transport's side -------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if self.state is State.OVER:
            cast(asyncio.Transport, transport).abort()
            return
        self._transport = cast(asyncio.Transport, transport)
        name = transport.get_extra_info("peername")
        if name:
            self.host, self.remote = name[0], f"{name[0]}:{name[1]}"
        self.last_received_at = self._clock.monotonic()
        self._deadline = self._scheduler.call_later(
            self._config.handshake_timeout_s, self._owner.on_too_slow, self
        )
        self._owner.on_connected(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._decoder.free if self._tls is None else self._tls.buffer()

    def buffer_updated(self, nbytes: int) -> None:
        if self.state is _OVER:
            return
        self.last_received_at = self._clock.monotonic()
        self.received_bytes += nbytes
        if self._tls is None:
            self._take(nbytes)
            return
        try:
            self._take_tls(self._tls, nbytes)
        except TlsError as failure:
            if failure.violation.code == "tls_mismatch":
                self._tls = None  # so that the farewell is understood
            self._owner.on_violation(self, failure.violation)

    def _take_tls(self, tls: TlsLayer, nbytes: int) -> None:
        tls.feed(nbytes)
        try:
            begin = not tls.ready and tls.shake()
        finally:  # an alert must leave too
            self.transport.write(tls.outgoing())
        if begin:
            self._begin_handshake()
        while tls.ready and not self.over:
            count = tls.read_into(self._decoder.free)
            if not count:
                break
            self._take(count)
        if not self.over:
            self.transport.write(tls.outgoing())
            if tls.ended:
                self.transport.close()

    def _take(self, nbytes: int) -> None:
        """So many bytes were put into the decoder."""
        decoder = self._decoder
        if self.state is _OPEN or self.state is State.DRAINING:
            self._deliver(decoder.received(nbytes))
        else:
            frames = decoder.received(nbytes)
            while frames and not self.over:
                if self.state is State.SHAKING:
                    self._shake(frames[0][1])
                    frames = decoder.received(0)
                else:
                    self._deliver(frames)
                    break
        violation = decoder.violation
        if violation is not None and not self.over:
            self._owner.on_violation(self, violation)

    @property
    def over(self) -> bool:
        return self.state is State.OVER

    def eof_received(self) -> None:
        return None

    def connection_lost(self, exc: BaseException | None) -> None:
        if self.state is State.OVER and self._transport is None:
            return
        self.state = State.OVER
        self._transport = None
        if self._deadline is not None:
            self._deadline.cancel()
        self._owner.on_lost(self, exc)

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._pump()

    # --- the handshake --------------------------------------------------------------------

    @property
    def transport(self) -> asyncio.Transport:
        assert self._transport is not None
        return self._transport

    def begin(self) -> None:
        """The owner wants it: TLS where there is any, then the handshake."""
        transport = self.transport
        transport.set_write_buffer_limits(high=0)
        sock = transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if hasattr(socket, "TCP_NOTSENT_LOWAT"):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, NOT_SENT_LIMIT_BYTES)
        if self._tls is None:
            self._begin_handshake()
        elif self.dial is not None:
            self._tls.shake()
            transport.write(self._tls.outgoing())

    def _begin_handshake(self) -> None:
        assert self.state is State.RAW
        self.state = State.SHAKING
        if self.dial is not None:
            self.write_control(self.handshake.hello)

    def _shake(self, message: bytes) -> None:
        try:
            event = self.handshake.receive(message)
        except HandshakeError as error:
            self._owner.on_handshake_error(self, error)
        else:
            self._owner.on_event(self, event)

    def write_control(self, message: bytes) -> None:
        """Past the queue: only before `open` and as the last message."""
        self._write(control_frame(message))

    def _write(self, data: bytes) -> None:
        if self._tls is not None:
            try:
                data = self._tls.encrypt(data)
            except TlsError as failure:
                if not self.over:  # else it was a farewell, and nobody needs to know
                    self._owner.on_violation(self, failure.violation)
                return
        self.sent_bytes += len(data)
        assert self._transport is not None
        self._transport.write(data)

    def open(
        self, peer: NodeId, queue: OutboundQueue, handlers: Sequence[FrameHandler | None]
    ) -> None:
        """Both sides are proved: frames may flow."""
        assert self.state is State.SHAKING
        self.state = State.OPEN
        assert self._deadline is not None
        self._deadline.cancel()
        self._deadline = None
        self.peer = peer
        self._queue = queue
        self.handlers = handlers
        self.received_frames = [0] * len(handlers)
        self.unhandled_frames = [0] * len(handlers)
        self.opened_at = self._clock.monotonic()
        if self._tls is not None:
            self._tls.authenticated()
        self._decoder.open_channels([lane.channel for lane in queue.lanes.values()])
        if self._tls is None:
            self.transport.set_protocol(Inbound(self, self._decoder, self._clock))

    # --- frames ---------------------------------------------------------------------------

    def _deliver(self, frames: list[tuple[int, bytes]]) -> None:
        peer = self.peer
        assert peer is not None, "channels are open once both sides are proved"
        handlers, counts = self.handlers, self.received_frames
        for channel_id, frame in frames:
            if self.state is not _OPEN:
                return
            if channel_id == CONTROL:
                self._control(frame)
                continue
            counts[channel_id] += 1
            handler = handlers[channel_id]
            if handler is None:
                self.unhandled_frames[channel_id] += 1
                continue
            try:
                handler(peer, frame)
            except Exception as error:  # noqa: BLE001 - a handler's defect must not end the loop
                self.defect(channel_id, error)

    def defect(self, channel_id: int, error: Exception) -> None:
        self._owner.on_defect(self, channel_id, error)

    def brought(self, data: bytes) -> None:
        """So many bytes, whatever they are."""
        rest = memoryview(data)
        while rest and not self.over:
            room = self._decoder.free
            count = min(len(room), len(rest))
            room[:count] = rest[:count]
            rest = rest[count:]
            self._take(count)

    def _control(self, message: bytes) -> None:
        ping = decode_ping(message)
        if ping is not None:
            kind, number = ping
            if kind == Message.PING:
                self._queue.offer_control(encode_ping(Message.PONG, number))
                self.wake()
            elif number == self._ping_number and self._ping_sent_at is not None:
                self.rtt_s = self._clock.monotonic() - self._ping_sent_at
                self._ping_sent_at = None
        elif message[:1] == bytes((Message.BYE,)):
            self._owner.on_farewell(self, *decode_bye(message))
        else:
            self._owner.on_violation(
                self, Violation("bad_control", "a control message that means nothing here")
            )

    def wake(self) -> None:
        """Something was queued: write it after this pass of the loop has queued the rest."""
        if self._pumping is None and not self._paused:
            self._pumping = self._scheduler.call_soon(self._pump)

    def write_alone(self, channel_id: int, frame: bytes) -> bool:
        """Past the queue, which is empty. False: it is not, or the frame is too large for that."""
        queue, transport = self._queue, self._transport
        if queue.pending or self._paused or len(frame) > FRAGMENT_BYTES:
            return False
        queue.lanes[channel_id].sent_frames += 1
        data = whole_frame(channel_id, frame)
        if self._tls is None and transport is not None:  # else as `_write` does
            self.sent_bytes += len(data)
            transport.write(data)
        else:
            self._write(data)
        return True

    def push(self) -> None:
        """What was queued is written now, if it can be."""
        if self._pumping is not None:
            self._pumping.cancel()
            self._pump()

    def _pump(self) -> None:
        self._pumping = None  # of one more, called past the schedule, nothing is left
        if self._paused or self._transport is None or self.state < State.OPEN:
            return
        parts = self._queue.take(self._config.burst_bytes)
        if parts:
            self._write(b"".join(parts))
        if self._queue.pending:
            self.wake()
        elif self.state is State.DRAINING and self._bye is not None:
            self._finish(self._bye)

    def keepalive(self, now: float, config: LinkConfig) -> str | None:
        """Ping. Returns what is wrong if the connection must be taken for dead."""
        silent_s = now - self.last_received_at
        if silent_s > config.idle_timeout_s:
            return f"nothing came for {silent_s:.1f} s"
        if self._ping_sent_at is None:
            self._ping_number += 1
            self._ping_sent_at = now
            self._queue.offer_control(encode_ping(Message.PING, self._ping_number))
            self.wake()
        elif now - self._ping_sent_at > config.unanswered_timeout_s:
            return f"a ping was not answered for {now - self._ping_sent_at:.1f} s"
        return None

    def excuse_silence(self, now: float) -> None:
        """Our own process stood still, so nobody else's silence means anything yet."""
        self.last_received_at = now
        if self._ping_sent_at is not None:
            self._ping_sent_at = now

    # --- the end --------------------------------------------------------------------------

    def drain(self, reason: str, sentence: str) -> None:
        """Send what is queued, say goodbye, close; abort if that takes too long."""
        if self.state is not State.OPEN:
            self.farewell(reason, sentence)
            return
        self.state = State.DRAINING
        self._bye = encode_bye(reason, sentence)
        self._abort_later()
        self._pump()

    def farewell(self, reason: str, sentence: str) -> None:
        """Say why and close."""
        if self._transport is None or self.state is State.OVER:
            return
        self._abort_later()
        self._finish(encode_bye(reason, sentence))

    def _finish(self, bye: bytes) -> None:
        self.state = State.OVER
        if self._tls is None or self._tls.ready:
            self.write_control(bye)
        if self._tls is not None:
            self.transport.write(self._tls.farewell())
        self.transport.close()

    def _abort_later(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = self._scheduler.call_later(self._config.close_timeout_s, self.abort)

    def abort(self) -> None:
        """Close at once; what is under way is lost."""
        self.state = State.OVER
        if self._transport is not None:
            self._transport.abort()
