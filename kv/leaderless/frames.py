"""The bytes on the "replica" channel: what leaderless nodes ask each other, and the answers. Pure.

    frame    msgpack [version, ring, messages]
             ring: the sender's ring epoch, 16 bytes, compared for equality only
    read     [1, number, keyspace, key]
    store    [2, number, keyspace, key, set, hint for, replayed]     set: storage/siblings.py
    put      [3, number, budget ms, keyspace, key, ...]   mint it there and see to the quorum
    reply    [4, number, status, body]
             FOUND    the set          NOTHING  empty           STORED  empty
             FAILED   the reason       LATER    milliseconds to wait before more hints, as digits
             WRITTEN  msgpack [context, replicas, stand-ins]
             ERROR    msgpack [code, message, got, required]
             REFUSED  the reason; nothing was done: another ring, no room

Numbers are the asker's and mean nothing to anybody else. All that waits for one peer travels in as
few frames a pass of the loop as their sizes allow, questions and answers together. A context is a
timestamp u64 and a clock; empty bytes are none. A frame that is none of these is malformed: dropped
and counted.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from enum import IntEnum
from typing import Annotated, Final

import msgspec

from kv.leaderless.dvv import Context
from storage.errors import JanusError
from storage.siblings import MalformedSetError, read_clock, write_clock

VERSION: Final = 1
FRAME_BYTES: Final = 1024 * 1024
"""A frame is cut once it is so large; one set may be larger."""
_U64: Final = struct.Struct(">Q")

Number = Annotated[int, msgspec.Meta(ge=1, le=(1 << 63) - 1)]
KeyspaceNumber = Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)]
Count = Annotated[int, msgspec.Meta(ge=0, lt=1 << 16)]
Millis = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]


class MalformedFrameError(JanusError):
    code = "malformed_frame"


class Status(IntEnum):
    FOUND = 0
    NOTHING = 1
    STORED = 2
    FAILED = 3
    LATER = 4
    WRITTEN = 5
    ERROR = 6
    REFUSED = 7


class Read(msgspec.Struct, array_like=True, gc=False, tag=1, forbid_unknown_fields=True):
    number: Number
    keyspace: KeyspaceNumber
    key: bytes


class Store(msgspec.Struct, array_like=True, gc=False, tag=2, forbid_unknown_fields=True):
    number: Number
    keyspace: KeyspaceNumber
    key: bytes
    siblings: bytes
    hint_for: str
    """A node id; empty: as an owner's copy."""
    replayed: bool
    """It was a hint: the receiver may say LATER."""


class Put(msgspec.Struct, array_like=True, gc=False, tag=3, forbid_unknown_fields=True):
    number: Number
    budget_ms: Millis
    keyspace: KeyspaceNumber
    key: bytes
    value: bytes | None
    delta: int | None
    """An increment; `value` and `context` are not looked at then."""
    context: bytes
    expiry_ms: Millis
    nodes: Count
    owners: Count
    strict: bool


class Reply(msgspec.Struct, array_like=True, gc=False, tag=4, forbid_unknown_fields=True):
    number: Number
    status: Status
    body: bytes


Request = Read | Store | Put
Message = Read | Store | Put | Reply


class _Frame(msgspec.Struct, array_like=True, gc=False, forbid_unknown_fields=True):
    version: int
    ring: bytes
    messages: list[Message]


class WrittenBody(msgspec.Struct, array_like=True, gc=False, forbid_unknown_fields=True):
    context: bytes
    replicas: list[str]
    stand_ins: list[str]


class ErrorBody(msgspec.Struct, array_like=True, gc=False, forbid_unknown_fields=True):
    code: str
    message: str
    got: int
    required: int


_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(_Frame).decode
_decode_written: Final = msgspec.msgpack.Decoder(WrittenBody).decode
_decode_error: Final = msgspec.msgpack.Decoder(ErrorBody).decode
_UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def encode_frames(ring: bytes, messages: Sequence[Message]) -> list[tuple[bytes, list[Message]]]:
    """As few frames as their sizes allow, each with what is in it."""
    return [(_encode(_Frame(VERSION, ring, part)), part) for part in _cut(messages)]


def decode_frame(frame: bytes) -> tuple[bytes, list[Message]]:
    """The sender's ring and its messages. Raises MalformedFrameError, and nothing else."""
    try:
        decoded = _decode(frame)
    except _UNREADABLE as error:
        raise MalformedFrameError(f"a frame of {len(frame)} bytes is none of ours") from error
    if decoded.version != VERSION:
        raise MalformedFrameError(f"a frame of version {decoded.version}; this program has 1")
    return decoded.ring, decoded.messages


def encode_body(body: WrittenBody | ErrorBody) -> bytes:
    return _encode(body)


def decode_written(body: bytes) -> WrittenBody:
    """Raises MalformedFrameError."""
    try:
        return _decode_written(body)
    except _UNREADABLE as error:
        raise MalformedFrameError("the answer to a write cannot be read") from error


def decode_error(body: bytes) -> ErrorBody:
    """Raises MalformedFrameError."""
    try:
        return _decode_error(body)
    except _UNREADABLE as error:
        raise MalformedFrameError("an error cannot be read") from error


def encode_context(context: Context | None) -> bytes:
    if context is None:
        return b""
    out = bytearray(_U64.pack(context.timestamp))
    write_clock(out, context.clock)
    return bytes(out)


def decode_context(body: bytes) -> Context | None:
    """Raises MalformedFrameError."""
    if not body:
        return None
    try:
        (timestamp,) = _U64.unpack_from(body)
        clock, _, end = read_clock(body, _U64.size)
    except (MalformedSetError, IndexError, struct.error, UnicodeDecodeError) as error:
        raise MalformedFrameError(f"a context cannot be read: {error}") from error
    if end != len(body):
        raise MalformedFrameError("a context is longer than its clock")
    return Context(clock, timestamp)


def _size(message: Message) -> int:
    if isinstance(message, Store):
        return len(message.key) + len(message.siblings)
    if isinstance(message, Reply):
        return len(message.body)
    if isinstance(message, Put):
        return len(message.key) + len(message.value or b"") + len(message.context)
    return len(message.key)


def _cut(messages: Sequence[Message]) -> Iterator[list[Message]]:
    part: list[Message] = []
    size = 0
    for message in messages:
        weight = _size(message)
        if part and size + weight > FRAME_BYTES:
            yield part
            part, size = [], 0
        part.append(message)
        size += weight
    if part:
        yield part
