"""The answers of the lane as bytes on the wire: the heads that aiohttp would write. Pure.

A head is made of pieces that are put together once; only the length, the date and what a reply
says of itself (level, session, version) come with each answer. Same status line, same headers in
the same order as the aiohttp lane: the differential test compares them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Final

from kv.api.reply import JSON, Headers, Reply, reply_headers
from kv.model import Level, SessionToken

NO_BODY: Final = 304
OWN_MAX: Final = 16
HEADS_MAX: Final = 256


def status_line(status: int) -> bytes:
    return b"HTTP/1.1 %d %b\r\n" % (status, HTTPStatus(status).phrase.encode())


def lines(headers: Iterable[tuple[str, str]]) -> bytes:
    return "".join([f"{name}: {value}\r\n" for name, value in headers]).encode()


class Answers:
    """`good`, `bad`: what the etcd gateway sends with 200 and with anything else. `shared`: what
    every answer has beside (CORS). `date` is to be renewed once a second."""

    __slots__ = ("_bad", "_good_json", "_own", "_server", "_shared", "good", "heads", "tail")

    def __init__(
        self,
        *,
        server: str,
        good: Mapping[str, str],
        bad: Mapping[str, str],
        shared: Iterable[tuple[str, str]],
    ) -> None:
        added = dict(shared)
        self._server: Final = server.encode()
        self._shared: Final = lines(added.items())
        length = b"Content-Length: "
        self.good: Final = status_line(200) + lines({**good, **added}.items()) + length
        self._bad: Final = lines({**bad, **added}.items()) + length
        self._good_json: Final = b"Content-Type: application/json\r\n" + self._shared + length
        self._own: Final[dict[Headers, bytes]] = {}
        self.tail = b""
        """`good`, the length of the body, `tail`, the body: an answer of the gateway with 200."""
        self.heads: Final[dict[int, bytes]] = {}
        """`good_head` of lengths that were asked for since the date was set."""

    def set_date(self, date: str) -> None:
        """As HTTP writes it."""
        self.heads.clear()
        self.tail = b"\r\nDate: %b\r\nServer: %b\r\n\r\n" % (date.encode(), self._server)

    def good_head(self, length: int) -> bytes:
        """What stands before a body of this length."""
        if len(self.heads) >= HEADS_MAX:
            self.heads.clear()
        head = self.heads[length] = b"%b%d%b" % (self.good, length, self.tail)
        return head

    def etcd(self, status: int, body: bytes) -> bytes:
        if status == 200:
            return b"%b%d%b%b" % (self.good, len(body), self.tail, body)
        return b"%b%b%d%b%b" % (status_line(status), self._bad, len(body), self.tail, body)

    def rest(self, reply: Reply, level: Level | None, session: SessionToken) -> bytes:
        status, body, content_type, version, shard, revision, headers = reply
        if (
            status == 200
            and level is Level.LINEARIZABLE
            and shard
            and version
            and not (session.revisions or headers)
        ):  # what nearly every answer is: 0.6 us instead of 2.9
            return (
                b"HTTP/1.1 200 OK\r\nConsistency-Level: LINEARIZABLE\r\nSession-Token: %d:%d\r\n"
                b'ETag: "%d"\r\nRevision: %d\r\n%b%d%b%b'
                % (
                    shard,
                    revision,
                    version,
                    revision,
                    self._good_json,
                    len(body),
                    self.tail,
                    body,
                )
            )
        if level is None and not (version or shard or revision or session.revisions):
            own = self._own.get(headers) or self._lines(headers)
        else:
            own = lines(reply_headers(reply, level, session))
        if status == 200 and content_type == JSON and body:
            return b"HTTP/1.1 200 OK\r\n%b%b%d%b%b" % (
                own,
                self._good_json,
                len(body),
                self.tail,
                body,
            )
        if status == NO_BODY:
            tail = self.tail.removeprefix(b"\r\n")
            return b"%b%b%b%b" % (status_line(status), own, self._shared, tail)
        kind = f"Content-Type: {content_type}\r\n".encode() if body else b""
        return b"%b%b%b%bContent-Length: %d%b%b" % (
            status_line(status),
            own,
            kind,
            self._shared,
            len(body),
            self.tail,
            body,
        )

    def _lines(self, headers: Headers) -> bytes:
        own = lines(headers)
        if len(headers) == 1 and len(self._own) < OWN_MAX:
            self._own[headers] = own  # a leaderless level: there are three
        return own

    def closing(self, reply: Reply) -> bytes:
        """The last answer of a connection."""
        return b"%b%bContent-Type: %b\r\nContent-Length: %d\r\nConnection: close%b%b" % (
            status_line(reply.status),
            lines(reply.headers),
            reply.content_type.encode(),
            len(reply.body),
            self.tail,
            reply.body,
        )
