"""Which requests the lane takes: those whose head aiohttp's own parser accepts and that are plain.

    block (request line and headers, to the blank line) --> known? --> Head
                                                        '--> not known: parsed by HttpRequestParser
                                                             with the limits of the aiohttp lane

Clients repeat their heads byte by byte, so most requests cost one look into a dict. For
`/api/v1/keys/{key}` the raw key is cut out before the look, if it has only characters that are
themselves in a target; what is left repeats. Its query may be `keyspace=` and a plain name, nothing
else.

Invariants
- A block is taken only if aiohttp's parser makes exactly one whole head of exactly these bytes, so
  that both lanes agree where its body ends. There is no parser of our own to be smuggled past.
- Plain: HTTP/1.1, one Host that the guard lets in, no Origin, one Content-Length where a body may
  be, and nothing that changes framing, coding, or who asks (REFUSED).
- A Head says what was parsed, never what anybody may do.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import HttpRequestParser, HttpVersion11
from aiohttp.http_exceptions import HttpProcessingError

from kv.api.guard import Access
from kv.api.table import ROUTES
from kv.api.target import decode_path
from kv.etcd.hot import GetCall, HotCall, WriteCall
from kv.lane.gets import Gets
from kv.lane.keys import (
    CAS,
    GET,
    NO_OPTIONS,
    POST,
    PREFIX,
    PUT,
    TEMPLATE,
    KeyCall,
    ParseOptions,
    parse_options,
)
from kv.metrics.metrics import Endpoint
from kv.model import Level
from storage.errors import JanusError

BLOCK_MAX_BYTES: Final = 4096
"""A longer head is aiohttp's."""
KNOWN_MAX: Final = 1024
REFUSED: Final = (
    "Authorization",
    "Content-Encoding",
    "Expect",
    "Origin",
    "TE",
    "Trailer",
    "Transfer-Encoding",
    "Upgrade",
    "Sec-WebSocket-Key",
    "Sec-WebSocket-Key1",
    "HTTP2-Settings",
)
_PLAIN: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_~!$&'()*+,;=:@./%"
KEYSPACE: Final = b"keyspace="
_KEYSPACE: Final = re.compile(rb"keyspace=[A-Za-z0-9_.-]{1,64}")
_ETCD_METHOD: Final = "POST"
MET: Final = Level.LINEARIZABLE.lower()
WRITES: Final = frozenset({"/v3/kv/put", "/v3/kv/deleterange"})
"""Calls of the gateway that surely write: several of one connection may be under way."""


class NamedCalls(NamedTuple):
    """Of a keyspace that a query names, by method, and how its heads are read."""

    calls: Mapping[str, KeyCall]
    parse: ParseOptions


KeysOf = Callable[[str, Callable[[], None]], NamedCalls | None]
"""(name, what to call when it is not that keyspace any more)"""


@dataclass(frozen=True, slots=True, eq=False)
class Writes:
    """One call of the gateway that writes: what it came to is encoded when it leaves."""

    call: WriteCall
    waiting: list[Any] = field(default_factory=list)
    """Operations (operation.py) whose answers leave with the next flush and are results yet."""


@dataclass(frozen=True, slots=True)
class Head:
    block: bytes
    """What it was made of; empty if a key was cut out of that."""
    length: int
    """Of the body."""
    alone: bool
    """Begins only when nothing before it is under way, and nothing begins beside it."""
    endpoint: Endpoint
    """Of answers for which nothing was read or written."""
    met: Endpoint
    """Of those at the level LINEARIZABLE: nearly all."""
    call: HotCall | None = None
    writes: Writes | None = None
    gets: Gets | None = None
    key_call: KeyCall | None = None
    options: object = NO_OPTIONS


@dataclass(frozen=True, slots=True)
class ParserLimits:
    """Those of the aiohttp lane."""

    line_bytes: int
    field_bytes: int
    headers: int


class Heads:
    def __init__(
        self,
        *,
        loop: asyncio.AbstractEventLoop,
        access: Access,
        parser: ParserLimits,
        etcd: Mapping[str, HotCall],
        etcd_body_max_bytes: int,
        keys: Mapping[str, KeyCall],
        parse: ParseOptions = parse_options,
        keys_of: KeysOf | None = None,
        key_body_max_bytes: int,
        endpoint: Callable[[str, str], Endpoint],
    ) -> None:
        """`keys_of`: the calls of a keyspace that a query names, or None: they are aiohttp's."""
        self._loop = loop
        self._access = access
        self._keys_of = keys_of
        self._limits = parser
        self._protocol = BaseProtocol(loop)
        self._etcd = etcd
        self._writes = {
            path: Writes(call) for path, call in etcd.items() if isinstance(call, WriteCall)
        }
        self._gets = {path: Gets(call) for path, call in etcd.items() if isinstance(call, GetCall)}
        self._etcd_body_max_bytes = etcd_body_max_bytes
        self._keys = keys
        self._parse_options = parse
        self._key_body_max_bytes = key_body_max_bytes
        self._endpoint = endpoint
        self.known: Final[dict[bytes, Head]] = {}
        """By block, of those that have no key."""
        self.shapes: Final[dict[bytes, Head]] = {}
        """Of those that have one, by the block without it. Apart from the others, because a block
        without a key may be what somebody sends."""
        self.block_max_bytes: Final = min(BLOCK_MAX_BYTES, parser.line_bytes, parser.field_bytes)
        key_starts = [f"{method} {PREFIX}".encode() for method in keys]
        self._key_starts: Final = tuple(key_starts)
        self._starts: Final = (*key_starts, b"POST /v3/kv/")
        self._suffixes: Final = {
            method: tuple(
                route.suffix.encode()
                for route in ROUTES
                if route.method == method and route.prefix == PREFIX and route.suffix
            )
            for method in keys
        }

    # --- a whole head -----------------------------------------------------------------------

    def look(self, block: bytes) -> tuple[Head, bytes] | None:
        """For a block that is not in `known`: its head and its key. None: aiohttp's."""
        if len(block) > self.block_max_bytes:
            return None
        if block.startswith(self._key_starts):
            return self._look_for_key(block)
        if not block.startswith(self._starts):
            return None
        message = self._parse(block)
        if message is None or message.method != _ETCD_METHOD:
            return None
        call = self._etcd.get(message.path)
        length = _length(message)
        if call is None or length is None or length > self._etcd_body_max_bytes:
            return None
        path = message.path
        endpoint = self._endpoint(path, _ETCD_METHOD)
        head = Head(
            block,
            length,
            path not in WRITES,
            endpoint,
            endpoint.at(MET),
            call,
            self._writes.get(path),
            self._gets.get(path),
        )
        _remember(self.known, block, head)
        return head, b""

    def _look_for_key(self, block: bytes) -> tuple[Head, bytes] | None:
        gap = block.index(b" ")
        start = gap + 1 + len(PREFIX)
        end = block.find(b" ", start)
        raw = block[start:end]
        raw, asks, query = raw.partition(b"?")
        if end < 0 or not raw or not _is_plain(raw) or (asks and not _KEYSPACE.fullmatch(query)):
            return None
        if asks and self._keys_of is None:
            return None
        method = block[:gap].decode()
        if raw.endswith(self._suffixes[method]):
            if method != POST or not raw.endswith(CAS.encode()):
                return None
            raw = raw[: -len(CAS)]
            if not raw or raw.endswith(self._suffixes[method]):
                return None
        elif method == POST:
            return None
        try:
            key = decode_path(raw)
        except JanusError:
            return None
        shape = block[:gap] + asks + query + block[end:]
        head = self.shapes.get(shape)
        if head is None:
            head = self._parse_for_key(block, method, block[gap + 1 : end], query)
            if head is None:
                return None
            _remember(self.shapes, shape, head)
        return head, key

    def _parse_for_key(self, block: bytes, method: str, target: bytes, query: bytes) -> Head | None:
        message = self._parse(block)
        if message is None or message.method != method or message.path != target.decode():
            return None
        has_body = method in (PUT, POST)
        length = _length(message) if has_body else 0
        if not has_body and "Content-Length" in message.headers:
            return None
        if length is None or length > self._key_body_max_bytes:
            return None
        calls, parse = self._keys, self._parse_options
        if query:
            assert self._keys_of is not None
            found = self._keys_of(query.removeprefix(KEYSPACE).decode(), self.shapes.clear)
            if found is None:
                return None
            calls, parse = found
        call = calls.get(method)
        if call is None:
            return None
        try:
            options = parse(method, message.headers)
        except JanusError:
            return None  # aiohttp's lane says what is wrong
        template = TEMPLATE + CAS if method == POST else TEMPLATE
        endpoint = self._endpoint(template, method)
        alone = method == GET
        return Head(b"", length, alone, endpoint, endpoint.at(MET), key_call=call, options=options)

    # --- aiohttp's word on it -----------------------------------------------------------------

    def _parser(self) -> HttpRequestParser:
        limits = self._limits
        return HttpRequestParser(
            self._protocol,
            self._loop,
            2**16,
            max_line_size=limits.line_bytes,
            max_field_size=limits.field_bytes,
            max_headers=limits.headers,
        )

    def _parse(self, block: bytes) -> Any | None:
        """The message, if this is one whole plain head and nothing else."""
        breaks = block.count(b"\r\n")
        if block.count(b"\n") != breaks or block.count(b"\r") != breaks:
            return None
        try:
            messages, upgraded, tail = self._parser().feed_data(block)
        except HttpProcessingError:
            return None
        if len(messages) != 1 or upgraded or tail:
            return None
        message, payload = messages[0]
        headers = message.headers
        if (
            message.version != HttpVersion11
            or message.should_close
            or message.upgrade
            or message.chunked
            or message.compression
            or payload.total_bytes
            or any(name in headers for name in REFUSED)
            or headers.get("Connection", "keep-alive").lower() != "keep-alive"
        ):
            return None
        hosts = headers.getall("Host", ())
        if len(hosts) != 1 or len(headers.getall("Connection", ())) > 1:
            return None
        try:
            self._access.check_host(hosts[0])
        except JanusError:
            return None
        return message

    # --- a piece of a head --------------------------------------------------------------------

    def may_become_hot(self, piece: bytes) -> bool:
        """Whether a head that is not complete yet can still be one of ours. If not, aiohttp must
        have it at once: it may have an answer already."""
        if len(piece) > self.block_max_bytes:
            return False
        if not any(piece.startswith(start) or start.startswith(piece) for start in self._starts):
            return False
        try:
            messages, upgraded, _ = self._parser().feed_data(piece)
        except HttpProcessingError:
            return False
        return not messages and not upgraded


def _length(message: Any) -> int | None:
    """None if it is not said, or not plainly."""
    lengths = message.headers.getall("Content-Length", ())
    if len(lengths) != 1 or not (lengths[0].isascii() and lengths[0].isdigit()):
        return None
    return int(lengths[0]) if len(lengths[0]) < 16 else None


def _is_plain(raw: bytes) -> bool:
    """Characters that stand for themselves, and nothing that a URL's reader might resolve."""
    if raw.translate(None, _PLAIN):
        return False
    if raw[0] in b"./" or b"/." in raw or b"//" in raw:
        parts = raw.split(b"/")
        return b"" not in parts[:-1] and b"." not in parts and b".." not in parts
    return True


def _remember(known: dict[bytes, Head], block: bytes, head: Head) -> None:
    if len(known) >= KNOWN_MAX:
        known.clear()  # whoever repeats his heads is back at once
    known[block] = head
