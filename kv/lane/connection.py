"""One client connection in the fast lane: bytes in, calls begun, answers out in order.

    data --> find the head's end --> Head --> whole body? --> call --> queue of operations
                   |                                              |
                   '--> not ours, nothing pending: handed over    '--> answers leave in order,
                        with every byte not consumed yet               all of a pass in one write

Order: writes that follow each other are begun at once and answered first-in first-out. A read or a
transaction begins when nothing is under way and nothing begins beside it; so does the hand-over.
(Writes under way together are concurrent to each other, as if sent on several connections.)

Bounded: so many operations under way, and only one once answers are large; while nothing may begin,
at most KEPT_MAX_BYTES are kept and then reading pauses; nothing begins while the client does not
read its answers. No task, future or timer an operation: the lane sweeps once a second.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import deque
from collections.abc import Iterable
from enum import IntEnum
from typing import TYPE_CHECKING, Final, cast

from kv.lane.answers import Answers
from kv.lane.heads import Head
from kv.lane.operation import Operation

if TYPE_CHECKING:
    from kv.lane.lane import Lane

_log = logging.getLogger(__name__)

HEAD_END: Final = b"\r\n\r\n"
WINDOW: Final = 32
KEPT_MAX_BYTES: Final = 64 * 1024
LARGE_ANSWER_BYTES: Final = 16 * 1024
LARGE_BODY_BYTES: Final = 64 * 1024
"""One that is larger and not here whole is aiohttp's (kv/app.py bounds all of them together)."""


class Waits(IntEnum):
    """What for, with bytes kept."""

    NOTHING = 0
    HEAD = 1
    BODY = 2
    TURN = 3


NOTHING: Final = Waits.NOTHING
"""(A member that is looked up in its class costs as much as a call.)"""


class Connection(asyncio.Protocol):
    """Used from its loop only. Invariant: `out` leaves with the next flush, which is scheduled
    whenever it is not empty."""

    __slots__ = (
        "_closing",
        "_eof",
        "_kept",
        "_need",
        "_paused",
        "_reading_paused",
        "_refused",
        "_seen",
        "_since",
        "_waits",
        "_window",
        "is_dirty",
        "lane",
        "out",
        "queue",
        "transport",
    )

    def __init__(self, lane: Lane) -> None:
        self.lane = lane
        self.transport: asyncio.Transport | None = None
        self.queue: deque[Operation] = deque()
        """Those under way, and those answered that wait for one before them."""
        self.out: list[Operation] = []
        """Those that leave with the next flush."""
        self.is_dirty = False
        """It is among those that the next flush is for."""
        self._kept = bytearray()
        self._need = 0
        self._waits = NOTHING
        self._since = 0
        self._seen = lane.tick
        self._window = WINDOW
        self._paused = False
        self._reading_paused = False
        self._closing = False
        self._eof = False
        self._refused = False

    # --- asyncio.Protocol -------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's are of no such class
        opened = transport.get_extra_info("socket")
        if opened is not None and opened.family != socket.AF_UNIX:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self.lane.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self._kept.clear()
        self.lane.lost(self)

    def data_received(self, data: bytes) -> None:
        lane = self.lane
        self._seen = lane.tick
        if self._waits is NOTHING:
            if not (self.queue or self._paused or self._closing):
                head = lane.last_head
                if head is None or not data.startswith(head.block):
                    head = lane.heads.known.get(data[: data.find(HEAD_END) + 4])
                if head is not None:
                    end = len(head.block)
                    if end + head.length == len(data):  # one whole request: nearly all are
                        lane.last_head = head
                        self._begin(head, b"", data[end:])
                        return
            self._advance(data)
        elif self._refused and self.transport is not None:
            self.transport.close()
        elif not self._closing:
            self._keep_more(data)

    def eof_received(self) -> bool:
        """What was asked is answered first, where the transport can be half closed."""
        self._eof = True
        transport = self.transport
        half = transport is not None and transport.get_extra_info("sslcontext") is None
        return half and bool(self.queue or self.out)

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._go_on()

    # --- in -----------------------------------------------------------------------------------

    def _advance(self, data: bytes) -> None:
        heads = self.lane.heads
        known, queue = heads.known, self.queue
        at, size = 0, len(data)
        while at < size:
            if (
                (queue and queue[-1].head.alone)
                or self._paused
                or self._closing
                or len(queue) >= self._window
            ):
                self._keep(data, at, Waits.TURN)
                return
            end = data.find(HEAD_END, at) + 4
            if end < 4:
                piece = data[at:]
                if heads.may_become_hot(piece):
                    self._keep(data, at, Waits.HEAD)
                else:
                    self._hand_over(data, at)
                return
            block, key = data[at:end], b""
            head = known.get(block)
            if head is None:
                found = heads.look(block)
                if found is None:
                    self._hand_over(data, at)
                    return
                head, key = found
            stop = end + head.length
            if stop > size:
                if head.length > LARGE_BODY_BYTES:
                    self._hand_over(data, at)  # where large bodies share a budget
                    return
                self._need = stop - at
                self._keep(data, at, Waits.BODY)
                return
            if head.alone and queue:
                self._keep(data, at, Waits.TURN)
                return
            at = stop
            self._begin(head, key, data[end:stop])
        self._waits = NOTHING

    def _begin(self, head: Head, key: bytes, body: bytes) -> None:
        lane = self.lane
        operation = Operation(self, head, lane.monotonic())
        self.queue.append(operation)
        head.endpoint.in_flight.value += 1
        arrived = lane.arrived
        if head.writes is not None:
            if not arrived:
                lane.begin_soon()
            arrived.append((head.writes, operation, body))
            return
        if arrived:
            lane.begin()
        gets = head.gets
        try:
            if gets is not None and gets.strong.single:
                wanted = gets.key_of(body)
                if wanted is not None:
                    gets.strong.get(wanted, operation, gets.give)
                else:
                    gets.other(body, operation.etcd)
            elif head.call is not None:
                head.call(body, operation.etcd)
            else:
                assert head.key_call is not None
                head.key_call(key, body, head.options, operation.rest)
        except Exception:  # noqa: BLE001 - the last edge: logged, and answered as a defect
            _log.exception("a defect in a call of the fast lane")
            operation.failed()

    def _keep(self, data: bytes, at: int, waits: Waits) -> None:
        if waits is not self._waits:
            self._waits = waits
            self._since = self.lane.tick
        self._kept += data[at:] if at else data
        self._limit_kept()

    def _keep_more(self, data: bytes) -> None:
        self._kept += data
        if self._waits is Waits.TURN:
            self._limit_kept()
        elif self._waits is Waits.HEAD or len(self._kept) >= self._need:
            self._go_on()

    def _limit_kept(self) -> None:
        wants_pause = self._waits is Waits.TURN and len(self._kept) > KEPT_MAX_BYTES
        if wants_pause is not self._reading_paused and self.transport is not None:
            self._reading_paused = wants_pause
            if wants_pause:
                self.transport.pause_reading()
            else:
                self.transport.resume_reading()

    def _go_on(self) -> None:
        """With what was kept, if there is something."""
        if not self._kept or self.transport is None:
            return
        data = bytes(self._kept)
        self._kept.clear()
        self._advance(data)
        self._limit_kept()

    def _hand_over(self, data: bytes, at: int) -> None:
        """To aiohttp, for good, as soon as everything before it was answered."""
        if self.queue or self.out:
            self._keep(data, at, Waits.TURN)
            return
        transport = self.transport
        assert transport is not None
        if self._eof:
            transport.close()
            return
        if self._reading_paused:
            self._reading_paused = False
            transport.resume_reading()
        self.transport = None
        self.lane.hand_over(self, transport, data[at:] if at else data, paused=self._paused)

    # --- out ------------------------------------------------------------------------------------

    @staticmethod
    def flush(connections: Iterable[Connection]) -> None:
        """Write what each has to say."""
        for each in connections:
            each.is_dirty = False
            out, transport = each.out, each.transport
            if transport is None:
                out.clear()
                continue
            data = out[0].answer if len(out) == 1 else b"".join([it.answer for it in out])
            out.clear()
            transport.write(data)
            each._window = WINDOW if len(data) <= LARGE_ANSWER_BYTES else 1
            if each._kept:
                each._go_on()
            if (each._closing or each._eof) and not (each.queue or each.out):
                transport.close()

    @staticmethod
    def write_gets(
        operations: Iterable[Operation], bodies: Iterable[bytes], answers: Answers
    ) -> list[float]:
        """What `Operation.etcd` and `flush` do of each answer with 200, for gets: they are alone in
        their queues, and what was answered before them is written. Returns when they began, but
        of those whose clients are gone: these are counted here."""
        began = []
        heads = answers.heads
        for operation, body in zip(operations, bodies, strict=True):
            each = operation.connection
            queue, transport = each.queue, each.transport
            if transport is None or not queue or queue[0] is not operation:
                _not_written(operation, body)
                continue
            queue.popleft()
            size = len(body)
            transport.write((heads.get(size) or answers.good_head(size)) + body)
            began.append(operation.started_s)
            each._window = WINDOW if size <= LARGE_ANSWER_BYTES else 1
            if each._waits is not NOTHING:
                each._go_on()
            if (each._closing or each._eof) and not (queue or each.out):
                transport.close()
        return began

    # --- by the lane ----------------------------------------------------------------------------

    def refuse(self, answer: bytes) -> None:
        """There are too many connections. It is closed once the client has spoken, or soon: a
        socket closed with bytes unread would take the answer back."""
        assert self.transport is not None
        self._refused = self._closing = True
        self._waits = Waits.TURN
        self.transport.write(answer)

    @property
    def ends(self) -> bool:
        """It closes once what is under way is answered."""
        return self._closing

    def drain(self) -> None:
        """Finish what is under way, then close."""
        self._closing = True
        if self.transport is not None and not (self.queue or self.out):
            self.transport.close()

    def sweep(self, tick: int) -> None:
        """Close it if it was silent, or slow, for too long."""
        transport, limits = self.transport, self.lane.ticks
        if transport is None or self.queue:
            return
        if self._paused:
            if tick - self._seen > limits.idle:
                transport.abort()
        elif self._refused or (
            (self._waits is Waits.NOTHING and tick - self._seen > limits.idle)
            or (self._waits is Waits.HEAD and tick - self._since > limits.head)
            or (self._waits is Waits.BODY and tick - self._since > limits.body)
        ):
            transport.close()


def _not_written(operation: Operation, body: bytes) -> None:
    """The answer of a get."""
    if operation in operation.connection.queue:
        operation.etcd(200, body)  # its client is gone: it is counted
    else:
        _log.error("a get was answered twice; a defect, the node goes on")
