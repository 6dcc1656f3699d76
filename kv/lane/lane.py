"""What the connections of one port share: heads, answers, the sweep, the limit, the end.

    make_protocol() is the factory of the listening server; `server()` makes aiohttp's handlers.

Once a second (a tick) every connection of both lanes is looked at, instead of a timer an operation;
the date in the answers is renewed then, too. Answers of one pass of the loop leave together.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from email.utils import formatdate
from itertools import groupby
from math import ceil
from operator import itemgetter
from typing import Any, Final, NamedTuple

from kv.api.failures import error_reply
from kv.errors import UnavailableError
from kv.lane.answers import Answers
from kv.lane.connection import Connection
from kv.lane.handed import Handed
from kv.lane.heads import Head, Heads, Writes
from kv.lane.operation import Arrived, Operation, begin_together
from kv.metrics.metrics import Endpoint
from storage.clock import Clock

_log = logging.getLogger(__name__)

_call: Final = itemgetter(0)
Given = tuple[Sequence[Operation], Sequence[bytes]]
"""(gets of one read point, their bodies)"""
REFUSED_MAX: Final = 256
"""Connections over the limit that are still told so; more are dropped."""


class Ticks(NamedTuple):
    """Limits of time, in sweeps."""

    head: int
    body: int
    idle: int


@dataclass(frozen=True, slots=True)
class LaneLimits:
    connections: int = 10_000
    head_s: float = 10.0
    body_s: float = 30.0
    idle_s: float = 75.0
    tick_s: float = 1.0

    @property
    def ticks(self) -> Ticks:
        return Ticks(
            *(ceil(time_s / self.tick_s) for time_s in (self.head_s, self.body_s, self.idle_s))
        )


class Lane:
    """Used from its loop only."""

    def __init__(
        self,
        *,
        loop: asyncio.AbstractEventLoop,
        clock: Clock,
        server: Callable[[], Any],
        heads: Heads,
        answers: Answers,
        limits: LaneLimits,
    ) -> None:
        """`server` makes aiohttp's handler for a connection (AppRunner.server)."""
        self.heads: Final = heads
        self.answers: Final = answers
        self.limits: Final = limits
        self.ticks: Final = limits.ticks
        self.monotonic: Final = clock.monotonic
        self.tick = 0
        self.last_head: Head | None = None
        """Of a request that was all that came: the next one mostly has the same."""
        self._held = False
        self._loop = loop
        self._clock = clock
        self._server = server
        self._fast: set[Connection] = set()
        self._handed: set[Handed] = set()
        self._refused: set[Connection] = set()
        self.dirty: list[Connection] = []
        """They have something to write. Whoever adds the first one calls `flush_soon`."""
        self.given: list[Given] = []
        """Gets that leave with the next flush."""
        self.unwritten: list[Writes] = []
        """Whose results wait to be encoded."""
        self.leaving: list[Endpoint] = []
        """Of what leaves with the next flush: how long it took is known then."""
        self.arrived: list[Arrived] = []
        """Writes of the gateway, to be begun together. Whoever adds the first one calls
        `begin_soon`."""
        self.on_begun: Callable[[], None] = _nothing
        """Told when they were: what that made somebody write to peers is to leave."""
        self.hurry: Callable[[], None] = _nothing
        """Begins the turn that waits for the next pass, if there is one. Neither may raise."""
        self._no_fast = asyncio.Event()
        self._no_fast.set()
        self._timer: asyncio.TimerHandle | None = None
        self.refused_total = 0

    def start(self) -> None:
        self._look()

    def make_protocol(self) -> asyncio.Protocol:
        return Connection(self)

    @property
    def connections(self) -> int:
        return len(self._fast) + len(self._handed)

    # --- by the connections ---------------------------------------------------------------------

    def opened(self, connection: Connection) -> None:
        limit = self.limits.connections
        if self.connections < limit:
            self._fast.add(connection)
            self._no_fast.clear()
            return
        self.refused_total += 1
        assert connection.transport is not None
        if len(self._refused) >= REFUSED_MAX:
            connection.transport.abort()
            return
        self._refused.add(connection)
        error = UnavailableError(
            f"this node has {limit} client connections, its limit (limits.connections); close some "
            "of yours, or ask another node"
        )
        connection.refuse(self.answers.closing(error_reply(error)))

    def lost(self, connection: Connection | Handed) -> None:
        if isinstance(connection, Handed):
            self._handed.discard(connection)
            return
        self._refused.discard(connection)
        self._fast.discard(connection)
        if not self._fast:
            self._no_fast.set()

    def hand_over(
        self, connection: Connection, transport: asyncio.Transport, data: bytes, *, paused: bool
    ) -> None:
        handed = Handed(self, transport, self._server())
        self._handed.add(handed)
        self.lost(connection)
        handed.begin(data, paused=paused)

    def begin_soon(self) -> None:
        self._loop.call_soon(self._begin)

    def _begin(self) -> None:
        if self.arrived:  # else a turn that came before this has begun them
            self.begin()
            self.on_begun()
            self.hurry()

    def begin_for_turn(self) -> None:
        """One is about to begin."""
        if self.arrived:
            self.begin()
            self.on_begun()

    def begin(self) -> None:
        """What has arrived; nothing later may begin before it."""
        arrived, self.arrived = self.arrived, []
        for writes, run in groupby(arrived, _call):  # in the order in which they came
            begin_together(writes, list(run))

    def give(self, operations: Sequence[Operation], bodies: Sequence[bytes]) -> None:
        """Answers of gets, with 200."""
        if not self.given:
            self.flush_soon()
        self.given.append((operations, bodies))

    def flush_soon(self) -> None:
        if not self._held:
            self._loop.call_soon(self.flush)

    def hold(self) -> None:
        """Whoever answers now calls `flush` once all is answered."""
        self._held = True

    def flush(self) -> None:
        self._held = False
        if self.unwritten:
            self._write_answers()
        if self.dirty:
            dirty, self.dirty = self.dirty, []
            Connection.flush(dirty)
        if self.given:  # after the others: one may be of a connection's request before the get
            given, self.given = self.given, []
            for operations, bodies in given:
                began = Connection.write_gets(operations, bodies, self.answers)
                if began:
                    met = operations[0].head.met
                    if not met.leaving:
                        self.leaving.append(met)
                    met.leaving += began
        if self.leaving:
            leaving, self.leaving = self.leaving, []
            now_s = self.monotonic()
            for endpoint in leaving:
                endpoint.left(now_s)

    def _write_answers(self) -> None:
        """Of writes that leave now, all of a call at once."""
        unwritten, self.unwritten = self.unwritten, []
        good, tail = self.answers.good, self.answers.tail
        for writes in unwritten:
            operations = writes.waiting.copy()
            writes.waiting.clear()
            try:
                bodies = writes.call.encode_each([each.answer for each in operations])
            except Exception:  # noqa: BLE001 - the last edge: logged, and answered as a defect
                _log.exception("a defect in answers of the fast lane")
                for operation in operations:
                    operation.answer = operation.last_answer()
                continue
            for operation, body in zip(operations, bodies, strict=True):
                operation.answer = b"%b%d%b%b" % (good, len(body), tail, body)

    # --- time and the end -------------------------------------------------------------------------

    def _look(self) -> None:
        self.sweep()
        self._timer = self._loop.call_later(self.limits.tick_s, self._look)

    def sweep(self) -> None:
        """One tick."""
        self.tick += 1
        self.answers.set_date(formatdate(self._clock.wall(), usegmt=True))
        everyone: list[Connection | Handed] = [*self._fast, *self._handed, *self._refused]
        for connection in everyone:
            connection.sweep(self.tick)

    async def stop(self, drain_s: float) -> None:
        """Close what is idle; let what is under way finish, so long. Connections that aiohttp has
        are its runner's to close."""
        for connection in (*self._fast, *self._refused):
            connection.drain()
        try:
            await asyncio.wait_for(self._no_fast.wait(), max(drain_s, 0.05))
        except TimeoutError:
            for connection in tuple(self._fast):
                if connection.transport is not None:
                    connection.transport.abort()
        if self._timer is not None:
            self._timer.cancel()


def _nothing() -> None:
    pass
