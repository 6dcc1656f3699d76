"""HTTP/1.1 answers out of bytes, for a client that has one request in flight. Pure.

A reader holds what has arrived of one answer and says when it is whole. It reads the least that
tells where an answer ends: status, Content-Length, Transfer-Encoding; every other header is passed
over. What it cannot follow is an error, never a guess: an answer of unknown length, bytes after the
answer (nobody asked for more), an end in the middle.

Most answers arrive in one piece and their heads repeat (until the Date changes), so a parsed head
is kept by its bytes: a look-up instead of a parse, which is most of what a request costs here.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from storage.errors import JanusError

CHUNKED: Final = -1
HEAD_MAX_BYTES: Final = 64 * 1024
HEADS_KEPT: Final = 4_096


class MalformedAnswerError(JanusError):
    """The server sent what is not an answer, or ended in the middle of one."""

    code = "malformed_answer"


class Head(NamedTuple):
    status: int
    length: int
    """Bytes of the body, or CHUNKED."""


class Answer(NamedTuple):
    status: int
    body: bytes


class Heads:
    """Parsed heads, by their bytes. One for all connections of a run."""

    def __init__(self) -> None:
        self._known: dict[bytes, Head] = {}

    def of(self, block: bytes) -> Head:
        head = self._known.get(block)
        if head is None:
            head = parse_head(block)
            if len(self._known) >= HEADS_KEPT:
                self._known.clear()
            self._known[block] = head
        return head


class AnswerReader:
    def __init__(self, heads: Heads) -> None:
        self._heads = heads
        self._held = b""

    def feed(self, data: bytes) -> Answer | None:
        """The answer, once it is whole. Empty data is the end of the connection."""
        if not data:
            where = "in the middle of an answer" if self._held else "before the answer"
            raise MalformedAnswerError(f"the server closed the connection {where}")
        if self._held:
            data = self._held + data
        end = data.find(b"\r\n\r\n")
        if end < 0:
            if len(data) > HEAD_MAX_BYTES:
                raise MalformedAnswerError(f"the head of an answer exceeds {HEAD_MAX_BYTES} bytes")
            self._held = data
            return None
        head = self._heads.of(data[:end])
        start = end + 4
        if head.length == CHUNKED:
            return self._chunked(head, data, start)
        whole = start + head.length
        if len(data) < whole:
            self._held = data
            return None
        return self._whole(head, data[start:whole], data, whole)

    def _chunked(self, head: Head, data: bytes, start: int) -> Answer | None:
        read = read_chunks(data, start)
        if read is None:
            self._held = data
            return None
        body, end = read
        return self._whole(head, body, data, end)

    def _whole(self, head: Head, body: bytes, data: bytes, end: int) -> Answer:
        self._held = b""
        if len(data) > end:
            raise MalformedAnswerError(f"{len(data) - end} bytes after the end of an answer")
        return Answer(head.status, body)


def parse_head(block: bytes) -> Head:
    """Of the status line and the headers, without the empty line that ends them."""
    status_line, *lines = block.split(b"\r\n")
    version, _, rest = status_line.partition(b" ")
    code = rest[:3]
    if version not in (b"HTTP/1.1", b"HTTP/1.0") or len(code) != 3 or not code.isdigit():
        raise MalformedAnswerError(f"not the status line of an answer: {status_line[:80]!r}")
    status = int(code)
    length: int | None = 0 if status in (204, 304) else None
    for line in lines:
        name, _, value = line.partition(b":")
        match name.strip().lower():
            case b"content-length":
                length = _number(value.strip(), 10)
            case b"transfer-encoding":
                if value.strip().lower() != b"chunked":
                    raise MalformedAnswerError(f"unknown transfer encoding {value.strip()!r}")
                return Head(status, CHUNKED)
    if length is None:
        raise MalformedAnswerError("an answer with neither Content-Length nor chunks")
    return Head(status, length)


def read_chunks(data: bytes, at: int) -> tuple[bytes, int] | None:
    """The body of chunks that begin at `at`, and where they end; None while more must come."""
    parts: list[bytes] = []
    while True:
        end = data.find(b"\r\n", at)
        if end < 0:
            return None
        size = _number(data[at:end].partition(b";")[0].strip(), 16)
        at = end + 2
        if size == 0:
            return _trailers(parts, data, at)
        if len(data) < at + size + 2:
            return None
        parts.append(data[at : at + size])
        at += size
        if data[at : at + 2] != b"\r\n":
            raise MalformedAnswerError("a chunk longer than it says")
        at += 2


def _trailers(parts: list[bytes], data: bytes, at: int) -> tuple[bytes, int] | None:
    while True:
        end = data.find(b"\r\n", at)
        if end < 0:
            return None
        if end == at:
            return b"".join(parts), end + 2
        at = end + 2


def _number(text: bytes, base: int) -> int:
    # int() takes signs, blanks and underscores, which HTTP does not.
    if not text.isalnum():
        raise MalformedAnswerError(f"not a length: {text[:80]!r}")
    try:
        return int(text, base)
    except ValueError:
        raise MalformedAnswerError(f"not a length: {text[:80]!r}") from None
