"""The bytes of forwarded calls: what nodes say to each other on the "forward" channel. Pure.

    frame     msgpack [version, kind, items]
    request   [number, group, budget in ms, command]      kind 1: lead this, and tell me
    reply     [number, status, body]                       kind 2
              APPLIED  body: the result (raftgroups/results.py)
              REFUSED  body: msgpack [reason, leader or nil, busy]; surely not done
              UNKNOWN  body: the reason as text
              FAILED   body: a Failure as a result has it; of a question
    question  [number, group, budget in ms, level, seen, query]   kind 3: read this for me; its
                                                           answer is a reply whose body is what the
                                                           query's kind makes of it (queries.py)

Numbers are the asker's and mean nothing to anybody else. All that waits for one peer travels in one
frame a pass of the loop. A frame that is none of these is malformed: dropped and counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from enum import IntEnum
from operator import attrgetter
from typing import Final, TypeVar

import msgspec

from raftgroups.outcomes import Refused
from raftgroups.transport import NodeId
from storage.errors import JanusError

T = TypeVar("T")

VERSION: Final = 1
FRAME_BYTES: Final = 1024 * 1024
"""A frame is cut once it is so large; the largest command is a little larger."""


class MalformedFrameError(JanusError):
    code = "malformed_frame"


class Status(IntEnum):
    APPLIED = 0
    REFUSED = 1
    UNKNOWN = 2
    FAILED = 3


class Request(msgspec.Struct, frozen=True, array_like=True, gc=False, forbid_unknown_fields=True):
    number: int
    group: int
    budget_ms: int
    """How long the asker still waits. Nobody looks at it: a leader gives up proposals in the order
    in which they came (raftgroups/proposals.py), and until then one may be done."""
    command: bytes


class Question(msgspec.Struct, frozen=True, array_like=True, gc=False, forbid_unknown_fields=True):
    number: int
    group: int
    budget_ms: int
    level: str
    seen: int
    """The revision that the replica must have, at the level SESSION."""
    query: bytes


class Reply(msgspec.Struct, frozen=True, array_like=True, gc=False, forbid_unknown_fields=True):
    number: int
    status: Status
    body: bytes


class Requests(msgspec.Struct, array_like=True, gc=False, tag=1, forbid_unknown_fields=True):
    version: int
    items: Sequence[Request]


class Replies(msgspec.Struct, array_like=True, gc=False, tag=2, forbid_unknown_fields=True):
    version: int
    items: Sequence[Reply]


class Questions(msgspec.Struct, array_like=True, gc=False, tag=3, forbid_unknown_fields=True):
    version: int
    items: Sequence[Question]


class _Refusal(msgspec.Struct, array_like=True, gc=False, forbid_unknown_fields=True):
    reason: str
    leader: str | None
    busy: bool


_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(Requests | Replies | Questions).decode
_command: Final[Callable[[Request], bytes]] = attrgetter("command")
_query: Final[Callable[[Question], bytes]] = attrgetter("query")
_body: Final[Callable[[Reply], bytes]] = attrgetter("body")
_decode_refusal: Final = msgspec.msgpack.Decoder(_Refusal).decode


def encode_requests(items: Sequence[Request]) -> list[tuple[bytes, int]]:
    """As few frames as their sizes allow, each with the number of requests in it."""
    if len(items) == 1:
        return [(_encode(Requests(VERSION, items)), 1)]
    parts = _cut(items, _command)
    return [(_encode(Requests(VERSION, part)), len(part)) for part in parts]


def encode_questions(items: Sequence[Question]) -> list[tuple[bytes, int]]:
    parts = _cut(items, _query)
    return [(_encode(Questions(VERSION, part)), len(part)) for part in parts]


def encode_replies(items: Sequence[Reply]) -> list[bytes]:
    if len(items) == 1:
        return [_encode(Replies(VERSION, items))]
    return [_encode(Replies(VERSION, part)) for part in _cut(items, _body)]


def decode_frame(frame: bytes) -> Requests | Replies | Questions:
    """Raises MalformedFrameError, and nothing else, for any bytes."""
    try:
        decoded: Requests | Replies | Questions = _decode(frame)
    except (msgspec.DecodeError, RecursionError) as error:
        raise MalformedFrameError(f"a frame of {len(frame)} bytes is none of ours") from error
    if decoded.version != VERSION:
        raise MalformedFrameError(f"a frame of version {decoded.version}; this program has 1")
    return decoded


def refusal_body(refused: Refused) -> bytes:
    return _encode(_Refusal(refused.reason, refused.leader, refused.busy))


def refused_of(body: bytes) -> Refused:
    """Raises MalformedFrameError."""
    try:
        said = _decode_refusal(body)
    except (msgspec.DecodeError, RecursionError) as error:
        raise MalformedFrameError("a refusal that cannot be read") from error
    return Refused(said.reason, None if said.leader is None else NodeId(said.leader), said.busy)


def _cut(items: Sequence[T], body: Callable[[T], bytes]) -> Iterator[Sequence[T]]:
    if items and sum(map(len, map(body, items))) < FRAME_BYTES:  # nearly always
        yield items
        return
    part: list[T] = []
    size = 0
    for item in items:
        part.append(item)
        size += len(body(item))
        if size >= FRAME_BYTES:
            yield part
            part, size = [], 0
    if part:
        yield part
