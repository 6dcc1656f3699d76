"""One request under way on a connection: begun by connection.py, answered once by its call.

Its answer leaves in the order of the connection, with the next flush of the lane.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec

from kv.api.reply import Reply
from kv.etcd.hot import refusal
from kv.lane.heads import Head, Writes
from kv.metrics.metrics import Endpoint
from kv.model import NO_SESSION, Level, SessionToken
from raftgroups.results import Result
from storage.errors import JanusError

if TYPE_CHECKING:
    from kv.lane.connection import Connection

_log = logging.getLogger(__name__)

DEFECT: Final = Reply(
    500,
    b"500 Internal Server Error\n\nServer got itself in trouble",
    "text/plain; charset=utf-8",
)
GONE: Final = 499


class Operation(msgspec.Struct, eq=False):
    """One request under way. `etcd`, `rest` and `answered` are what its call answers with, once.
    (A Struct: it is made in a quarter of the time.)"""

    connection: Connection
    head: Head
    started_s: float
    answer: Any = None
    """HTTP, or what a write came to, until it leaves."""

    def etcd(self, status: int, body: bytes, level: Level = Level.LINEARIZABLE) -> None:
        answers = self.connection.lane.answers
        if status == 200:
            endpoint = self.head.met if level is Level.LINEARIZABLE else self.endpoint(level)
            answer = b"%b%d%b%b" % (answers.good, len(body), answers.tail, body)
            self.answered(answer, 200, endpoint)
        else:
            self.answered(answers.etcd(status, body), status, self.head.endpoint)

    def rest(
        self, reply: Reply, level: Level | None = None, session: SessionToken = NO_SESSION, /
    ) -> None:
        answer = self.connection.lane.answers.rest(reply, level, session)
        endpoint = self.head.endpoint if level is None else self.endpoint(level)
        self.answered(answer, reply.status, endpoint)

    def answered(
        self,
        answer: bytes | Result | JanusError,
        status: int = 200,
        endpoint: Endpoint | None = None,
    ) -> None:
        """By HTTP, or by what a write came to."""
        assert self.answer is None, "an operation was answered twice"
        head, connection = self.head, self.connection
        lane, queue, transport = connection.lane, connection.queue, connection.transport
        if endpoint is None:
            writes = head.writes
            assert writes is not None
            if type(answer) is not writes.call.kind:
                self.etcd(*refusal(cast("Result | JanusError", answer)))
                return
            endpoint = head.met
            if transport is not None:
                if not writes.waiting:
                    lane.unwritten.append(writes)
                writes.waiting.append(self)
        self.answer = answer
        if queue[0] is not self or status != 200 or transport is None:
            took_s = lane.monotonic() - self.started_s
            endpoint.ended(GONE if transport is None else status, took_s)
            if queue[0] is not self:
                return  # it waits for those before it
        else:
            if not endpoint.leaving:
                lane.leaving.append(endpoint)
            endpoint.leaving.append(self.started_s)
        out = connection.out
        out.append(self)
        queue.popleft()
        while queue and queue[0].answer is not None:
            out.append(queue.popleft())
        if not connection.is_dirty:
            connection.is_dirty = True
            if not lane.dirty:
                lane.flush_soon()
            lane.dirty.append(connection)

    def endpoint(self, level: Level) -> Endpoint:
        head = self.head
        return head.met if level is Level.LINEARIZABLE else head.endpoint.at(level.lower())

    def failed(self) -> None:
        """By a defect."""
        if self.answer is None:
            self.answered(self.last_answer(), DEFECT.status, self.head.endpoint)

    def last_answer(self) -> bytes:
        """Its connection closes with that, and nothing follows."""
        connection = self.connection
        answer = b"" if connection.ends else connection.lane.answers.closing(DEFECT)
        connection.drain()
        return answer


Arrived = tuple[Writes, Operation, bytes]
"""(call, who asks, body)"""


def begin_together(writes: Writes, run: Sequence[Arrived]) -> None:
    """What has arrived of one call."""
    try:
        writes.call.begin_each([body for _, _, body in run], [each.answered for _, each, _ in run])
    except Exception:  # noqa: BLE001 - the last edge: logged, and answered as a defect
        _log.exception("a defect in a call of the fast lane")
        for _, each, _ in run:
            each.failed()
