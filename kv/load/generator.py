"""The generator itself: one thread, one epoll, sockets, no event loop above them.

Closed loop: a connection sends its next request when it has the answer to the one before. So the
load follows the server, as wrk's does, and latencies are those of a client that waits; a server
that stalls is asked less while it stalls.

The run: connect everything; warm up; measure; then send no more and wait for what is under way.
Time is read once an answer: that moment ends one request and begins the next. Errors (a status
other than 200, an answer without its mark, a lost connection, no answer) are counted by what they
were; a lost connection is opened again; after ERRORS_MAX of them the run ends.

Sockets block, on purpose: epoll says that there is something to read, a request fits into the
socket's buffer, and a blocking socket costs one system call where one with a timeout costs two.
"""

from __future__ import annotations

import gc
import select
import socket
from collections.abc import Callable, Iterator
from itertools import cycle
from time import perf_counter_ns, process_time
from typing import Final

from kv.load import rest
from kv.load.answers import AnswerReader, Heads, MalformedAnswerError
from kv.load.histogram import LINEAR_US, Histogram, bucket_of
from kv.load.plan import MARKS, Load, Outcome, Speech
from kv.load.requests import make_head, make_tails
from storage.clock import Rng
from storage.errors import JanusError

ERRORS_MAX: Final = 100
CONNECT_MAX_S: Final = 5.0
ANSWER_MAX_S: Final = 10.0
IDLE_POLL_S: Final = 0.05
RECEIVE_BYTES: Final = 16 * 1024


class UnreachableError(JanusError):
    """A server that must take connections took none."""

    code = "unreachable"
    retryable = True


class Connection:
    __slots__ = ("address", "busy", "following", "head", "reader", "sent_ns", "socket")

    def __init__(self, address: tuple[str, int], head: bytes, heads: Heads) -> None:
        self.address = address
        self.head = head
        self.reader = AnswerReader(heads)
        self.following = self
        """Where the next request goes: here, or to the next node in turn."""
        self.sent_ns = 0
        self.busy = False
        self.socket = connect(address)

    def reopen(self, heads: Heads) -> None:
        self.socket.close()
        self.reader = AnswerReader(heads)
        self.busy = False
        self.socket = connect(self.address)

    def send(self, tail: bytes, now_ns: int) -> None:
        self.sent_ns = now_ns
        self.busy = True
        self.socket.sendall(self.head + tail)


class Generator:
    def __init__(self, load: Load, rng: Rng) -> None:
        self.load = load
        self.outcome = Outcome()
        if load.speech is Speech.ETCD:
            mark = MARKS[load.operation]
            self._good: Callable[[bytes], bool] = lambda body: mark in body
            self._tails: Iterator[bytes] = cycle(make_tails(load, rng))
        else:
            self._good = rest.check_of(load)
            self._tails = rest.make_tails(load, rng)
        self._heads = Heads()
        self._epoll = select.epoll()
        self._connections: dict[int, Connection] = {}
        self._first: list[Connection] = []
        """Those that begin: one a request in flight."""

    def run(self) -> Outcome:
        load, outcome = self.load, self.outcome
        try:
            self._connect()
            gc.collect()
            gc.disable()  # nothing here makes cycles, and a collection is a stall
            started = perf_counter_ns()
            for connection in self._first:
                self._send(connection, started)
            self._pump(started + round(load.warm_up_s * 1e9))
            outcome.histogram = Histogram()
            begun, cpu_s = perf_counter_ns(), process_time()
            outcome.answered = self._pump(begun + round(load.seconds * 1e9))
            outcome.seconds = (perf_counter_ns() - begun) / 1e9
            outcome.cpu_s = process_time() - cpu_s
            self._finish()
        finally:
            gc.enable()
            self._close()
        return outcome

    def _connect(self) -> None:
        load = self.load
        places = [((host, port), _head(load, host, port)) for host, port in load.endpoints]
        if load.connections >= len(places):
            self._first = [
                self._open(*places[number % len(places)]) for number in range(load.connections)
            ]
            return
        for number in range(load.connections):
            ring = [self._open(*place) for place in places]
            for at, connection in enumerate(ring):
                connection.following = ring[(at + 1) % len(ring)]
            self._first.append(ring[number % len(ring)])

    def _open(self, address: tuple[str, int], head: bytes) -> Connection:
        connection = Connection(address, head, self._heads)
        self._register(connection)
        return connection

    def _register(self, connection: Connection) -> None:
        self._connections[connection.socket.fileno()] = connection
        self._epoll.register(connection.socket, select.EPOLLIN)

    def _send(self, connection: Connection, now_ns: int) -> None:
        try:
            connection.send(next(self._tails), now_ns)
        except OSError as error:
            self._lost(connection, error)

    def _pump(self, end_ns: int) -> int:
        """Keep all requests in flight until then; how many were answered well."""
        poll, connections, tails = self._epoll.poll, self._connections, self._tails
        counts, good, clock = self.outcome.histogram.counts, self._good, perf_counter_ns
        answered = received = 0
        while clock() < end_ns and connections:
            for descriptor, _ in poll(IDLE_POLL_S, 1_024):
                connection = connections.get(descriptor)
                if connection is None:
                    continue  # lost earlier in this turn
                try:
                    data = connection.socket.recv(RECEIVE_BYTES)
                    received += len(data)
                    answer = connection.reader.feed(data)
                except (OSError, MalformedAnswerError) as error:
                    self._lost(connection, error)
                    continue
                if answer is None:
                    continue
                now = clock()
                if answer.status == 200 and good(answer.body):
                    answered += 1
                    us = (now - connection.sent_ns) // 1_000
                    counts[us if us < LINEAR_US else bucket_of(us)] += 1
                else:
                    self._refused(answer.status)
                connection.busy = False
                connection = connection.following
                try:
                    connection.send(next(tails), now)
                except OSError as error:
                    self._lost(connection, error)
            if self.outcome.failed > ERRORS_MAX:
                break
        self.outcome.acknowledged += answered
        self.outcome.answer_bytes = received / answered if answered else 0.0
        return answered

    def _finish(self) -> None:
        """Take the answers of what is under way; send nothing more."""
        deadline = perf_counter_ns() + round(ANSWER_MAX_S * 1e9)
        waiting = {fd for fd, connection in self._connections.items() if connection.busy}
        while waiting and perf_counter_ns() < deadline:
            for descriptor, _ in self._epoll.poll(IDLE_POLL_S, 1_024):
                if descriptor in waiting and self._last_answer(self._connections[descriptor]):
                    waiting.discard(descriptor)
        for _ in waiting:
            self.outcome.unsettled += 1
            self.outcome.count_error(f"no answer within {ANSWER_MAX_S:.0f} s")

    def _last_answer(self, connection: Connection) -> bool:
        try:
            answer = connection.reader.feed(connection.socket.recv(RECEIVE_BYTES))
        except (OSError, MalformedAnswerError) as error:
            self.outcome.unsettled += 1
            self.outcome.count_error(_what(error))
            return True
        if answer is None:
            return False
        if answer.status == 200 and self._good(answer.body):
            self.outcome.acknowledged += 1
            self.outcome.histogram.add((perf_counter_ns() - connection.sent_ns) // 1_000)
        else:
            self._refused(answer.status)
        return True

    def _refused(self, status: int) -> None:
        self.outcome.unsettled += 1
        self.outcome.count_error(
            f"status {status}" if status != 200 else "an answer without what was asked for"
        )

    def _lost(self, connection: Connection, error: Exception) -> None:
        """Count it, open the connection again and let it go on."""
        self.outcome.count_error(_what(error))
        self.outcome.unsettled += 1
        descriptor = connection.socket.fileno()
        self._connections.pop(descriptor, None)
        if descriptor >= 0:
            self._epoll.unregister(descriptor)
        if self.outcome.failed > ERRORS_MAX:
            return
        try:
            connection.reopen(self._heads)
            self._register(connection)
            connection.send(next(self._tails), perf_counter_ns())
        except (OSError, UnreachableError) as failed:
            self._connections.pop(connection.socket.fileno(), None)
            connection.socket.close()
            self.outcome.count_error(_what(failed))

    def _close(self) -> None:
        for connection in self._connections.values():
            connection.socket.close()
        self._epoll.close()


def _head(load: Load, host: str, port: int) -> bytes:
    if load.speech is Speech.ETCD:
        return make_head(load.operation, host, port)
    return rest.make_head(load.operation)


def connect(address: tuple[str, int]) -> socket.socket:
    try:
        opened = socket.create_connection(address, CONNECT_MAX_S)
    except OSError as error:
        raise UnreachableError(
            f"cannot connect to {address[0]}:{address[1]} ({error}); is it still running?"
        ) from error
    opened.settimeout(None)
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return opened


def _what(error: Exception) -> str:
    """Few different texts: they are counted by text."""
    if isinstance(error, ConnectionError):
        return type(error).__name__
    return str(error)
