"""Many watchers of one prefix in one process, which count what they are sent.

A watcher is one connection with one stream, of `/v3/watch` or of JanusKV's own interface. Counting
is by the mark that stands once in each event of either; a message is never cut by a chunk's edge,
but may be cut between two reads, so the end of a read is kept. A sample of the watchers also reads
the time at which an event was written out of its value (one clock for all processes of a machine),
of the first one of each read, which waited longest.

As a program it talks in lines: its plan comes first, it says `ready` once all watchers are there,
and each line with a number is the question "have all had so many events?", answered when they
have, or when it waited long enough, with a report in JSON of what came since the last one.
"""

from __future__ import annotations

import json
import os
import resource
import select
import socket
import sys
from base64 import b64decode, b64encode
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from time import perf_counter_ns, process_time
from typing import Any, Final, NamedTuple, Self

from kv.load.generator import connect
from kv.load.histogram import Histogram

WATCHED: Final = b"watched/"
WATCHED_END: Final = b"watched0"
VALUE: Final = b'"value":"'
STAMP_CHARACTERS: Final = 16
SAMPLED: Final = 16
"""One in so many watchers reads times."""
CREATE_MAX_S: Final = 60.0
RECEIVE_BYTES: Final = 64 * 1024
"""From 128 KiB on the C library maps memory anew for each read: 8.3 us a read, not 0.6."""
SPARE_FILES: Final = 64


class Face(StrEnum):
    """What the watchers talk."""

    ETCD = "etcd"
    REST = "rest"


class Form(NamedTuple):
    created: bytes
    """Stands in the first message."""
    mark: bytes
    """Stands once in each event."""
    stamp_characters: int
    """How much of a value has the time in it,"""
    stamp_of: Callable[[bytes], bytes]
    """and what is read out of that."""


FORMS: Final = {
    Face.ETCD: Form(b'"created":true', b'"mod_revision"', 24, b64decode),
    Face.REST: Form(b'"type":"created"', b'"version"', STAMP_CHARACTERS, bytes),
}


@dataclass(frozen=True, slots=True)
class Watching:
    endpoints: Sequence[tuple[str, int]]
    watchers: int
    patience_s: float
    """How long a question waits for events that have not come."""
    face: str = Face.ETCD


@dataclass(slots=True)
class Deliveries:
    """Since the last report. `least` and `most` are of one watcher, since its beginning."""

    delivered: int = 0
    seconds: float = 0.0
    """From the first to the last delivery."""
    least: int = 0
    most: int = 0
    lost_streams: int = 0
    cpu_s: float = 0.0
    histogram: Histogram = field(default_factory=Histogram)

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "histogram": self.histogram.pairs()}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Self:
        return cls(**{**document, "histogram": Histogram(document["histogram"])})


def stamp(now_ns: int) -> str:
    """A value that says when it was written: base64, as it travels."""
    return b64encode(b"%0*x" % (STAMP_CHARACTERS, now_ns) + b"." * 84).decode()


def request_of(face: str, host: str, port: int) -> bytes:
    """To watch what is WATCHED."""
    if face == Face.REST:
        return (
            f"GET /api/v1/watch?prefix={WATCHED.decode()} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n"
        ).encode()
    body = json.dumps({"create_request": {"key": _text(WATCHED), "range_end": _text(WATCHED_END)}})
    return (
        f"POST /v3/watch HTTP/1.1\r\nHost: {host}:{port}\r\n"
        "Content-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n{body}"
    ).encode()


class Watcher:
    __slots__ = ("events", "sampled", "socket", "tail")

    def __init__(self, opened: socket.socket, sampled: bool) -> None:
        self.socket = opened
        self.sampled = sampled
        self.events = 0
        self.tail = b""


class Watchers:
    def __init__(self, plan: Watching) -> None:
        _allow_files(plan.watchers)
        self._plan = plan
        self._form = FORMS[Face(plan.face)]
        self._epoll = select.epoll()
        self._watchers: dict[int, Watcher] = {}
        self._report = Deliveries()
        self._total = 0
        self._first_ns = self._last_ns = 0
        self._cpu_s = process_time()

    def create(self) -> None:
        for number in range(self._plan.watchers):
            host, port = self._plan.endpoints[number % len(self._plan.endpoints)]
            opened = connect((host, port))
            opened.settimeout(CREATE_MAX_S)
            opened.sendall(request_of(self._plan.face, host, port))
            self._watchers[opened.fileno()] = Watcher(opened, number % SAMPLED == 0)
        for watcher in self._watchers.values():
            seen = b""
            while self._form.created not in seen:
                data = watcher.socket.recv(RECEIVE_BYTES)
                if not data or len(seen) > RECEIVE_BYTES:
                    raise ConnectionError(f"a watch was not created: {seen[-200:]!r}")
                seen += data
            watcher.socket.settimeout(None)
            self._epoll.register(watcher.socket, select.EPOLLIN)

    def serve(self, questions: int, answers: int) -> None:
        """Read events, and answer questions until there are no more."""
        self._epoll.register(questions, select.EPOLLIN)
        asked: int | None = None
        deadline_ns, pending = 0, b""
        while True:
            for descriptor, _ in self._epoll.poll(0.05, 1_024):
                if descriptor != questions:
                    self._read(self._watchers[descriptor])
                    continue
                data = os.read(questions, 4_096)
                if not data:
                    return
                pending += data
            if asked is None and b"\n" in pending:
                line, _, pending = pending.partition(b"\n")
                asked = int(line)
                deadline_ns = perf_counter_ns() + round(self._plan.patience_s * 1e9)
            if asked is not None and (self._have(asked) or perf_counter_ns() > deadline_ns):
                os.write(answers, json.dumps(self._take().as_json()).encode() + b"\n")
                asked = None

    def _have(self, events: int) -> bool:
        return self._total >= events * self._plan.watchers and self._least() >= events

    def _least(self) -> int:
        return min(watcher.events for watcher in self._watchers.values())

    def _read(self, watcher: Watcher) -> None:
        try:
            data = watcher.socket.recv(RECEIVE_BYTES)
        except OSError:
            data = b""
        if not data:
            self._epoll.unregister(watcher.socket)
            self._report.lost_streams += 1
            return
        data = watcher.tail + data
        mark = self._form.mark
        watcher.tail = data[1 - len(mark) :]
        count = data.count(mark)
        if not count:
            return
        watcher.events += count
        self._total += count
        self._report.delivered += count
        self._last_ns = perf_counter_ns()
        self._first_ns = self._first_ns or self._last_ns
        if watcher.sampled:
            self._sample(data)

    def _sample(self, data: bytes) -> None:
        at = data.find(VALUE)
        size = self._form.stamp_characters
        text = data[at + len(VALUE) : at + len(VALUE) + size]
        if at >= 0 and len(text) == size:
            written_ns = int(self._form.stamp_of(text)[:STAMP_CHARACTERS], 16)
            self._report.histogram.add((self._last_ns - written_ns) // 1_000)

    def _take(self) -> Deliveries:
        report, self._report = self._report, Deliveries()
        report.seconds = (self._last_ns - self._first_ns) / 1e9
        report.least = self._least()
        report.most = max(watcher.events for watcher in self._watchers.values())
        report.cpu_s, self._cpu_s = process_time() - self._cpu_s, process_time()
        self._first_ns = 0
        return report


def _allow_files(count: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = count + SPARE_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(needed, hard), hard))


def _text(data: bytes) -> str:
    return b64encode(data).decode()


def main() -> int:
    plan = Watching(**json.loads(_line(sys.stdin.fileno())))
    watchers = Watchers(plan)
    try:
        watchers.create()
    except OSError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    os.write(sys.stdout.fileno(), b"ready\n")
    watchers.serve(sys.stdin.fileno(), sys.stdout.fileno())
    return 0


def _line(descriptor: int) -> bytes:
    """Not through a buffer, which would swallow what epoll must see."""
    read = b""
    while not read.endswith(b"\n"):
        byte = os.read(descriptor, 1)
        if not byte:
            break
        read += byte
    return read


if __name__ == "__main__":
    raise SystemExit(main())
