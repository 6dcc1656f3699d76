"""The bytes on the "replica" channel: what leaderless nodes ask each other, and the answers. Pure.

    frame    msgpack [version, ring, messages]
             ring: the sender's ring epoch, 16 bytes, compared for equality only
    read     [1, number, keyspace, key]
    store    [2, number, keyspace, key, set, hint for, replayed]     set: storage/siblings.py
    compare  [5, number, ring, keyspace, segments, sums]        sums of shared buckets (merkle.py)
    list     [6, number, ring, keyspace, segments]              keys and digests of these buckets
    fetch    [7, number, keyspace, keys]                        the sets of these keys
    holds    [8, number, keyspace, keys, digests]               which of these it holds exactly so
    prove    [9, number, ring, phase, boot, keys]               a phase of reaping (reap.py)
    settled  [10, number, ring]                                 has it all that it is to have?
    mend     [11, number]                                       repair yourself with everybody
    reads    [12, number, keyspace, keys]                       the reads of one pass
    copies   [13, number, keyspace, keys, sets]                 the copies of one turn
    put      [3, number, budget ms, keyspace, key, ...]   mint it there and see to the quorum
    reply    [4, number, status, body]
             FOUND    the set          NOTHING  empty           STORED  empty
             FAILED   the reason       LATER    milliseconds to wait before more hints, as digits
             WRITTEN  msgpack [context, replicas, stand-ins] and, if owners lack it, [[node, why]]
             ERROR    msgpack [code, message, got, required]
             REFUSED  the reason; nothing was done: no room
             COMPARED msgpack [own number of keys, or null where the sums are equal]
             LISTED   msgpack [[key, digest], ...], first segment number that is not in it
             FETCHED  msgpack [set or nothing, ...], as many as fit, in order
             HOLDS    msgpack [0 or 1, ...]        PROVED  msgpack [boot, [mark or null, ...]]
             SETTLED  msgpack [lacks something, hints that it holds for the asker, its keyspaces]
             OTHER_RING  the sender goes by another ring; nothing was done
             READ     msgpack [set, or null, or [why not], ...], as many as keys
             TAKEN    msgpack [null, or why not, ...], as many as keys; STORED: all of them

Numbers are the asker's and mean nothing to anybody else. All that waits for one peer travels in as
few frames a pass of the loop as their sizes allow, questions and answers together. A context is a
timestamp u64 and a clock; empty bytes are none. A frame that is none of these is malformed: dropped
and counted.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from enum import IntEnum
from typing import Annotated, Final, TypeVar

import msgspec

from kv.leaderless.dvv import Context
from storage.errors import JanusError
from storage.siblings import MalformedSetError, read_clock, write_clock

VERSION: Final = 2
FRAME_BYTES: Final = 1024 * 1024
"""A frame is cut once it is so large; one set may be larger."""
_U64: Final = struct.Struct(">Q")

Number = Annotated[int, msgspec.Meta(ge=1, le=(1 << 63) - 1)]
KeyspaceNumber = Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)]
Bucket = Annotated[int, msgspec.Meta(ge=0, le=1 << 20)]
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
    OTHER_RING = 8
    COMPARED = 9
    LISTED = 10
    FETCHED = 11
    HOLDS = 12
    PROVED = 13
    SETTLED = 14
    READ = 15
    TAKEN = 16


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


class Compare(msgspec.Struct, array_like=True, gc=False, tag=5, forbid_unknown_fields=True):
    number: Number
    ring: bytes
    keyspace: KeyspaceNumber
    segments: list[tuple[Bucket, Bucket]]
    sums: list[bytes]


class ListKeys(msgspec.Struct, array_like=True, gc=False, tag=6, forbid_unknown_fields=True):
    number: Number
    ring: bytes
    keyspace: KeyspaceNumber
    segments: list[tuple[Bucket, Bucket]]


class Fetch(msgspec.Struct, array_like=True, gc=False, tag=7, forbid_unknown_fields=True):
    number: Number
    keyspace: KeyspaceNumber
    keys: list[bytes]


class Holds(msgspec.Struct, array_like=True, gc=False, tag=8, forbid_unknown_fields=True):
    number: Number
    keyspace: KeyspaceNumber
    keys: list[bytes]
    digests: list[bytes]


class Prove(msgspec.Struct, array_like=True, gc=False, tag=9, forbid_unknown_fields=True):
    number: Number
    ring: bytes
    phase: Count
    boot: Millis
    """In DROP: the boot in which the receiver confirmed."""
    keys: list[tuple[KeyspaceNumber, bytes, bytes]]
    """keyspace, key, digest"""


class Settled(msgspec.Struct, array_like=True, gc=False, tag=10, forbid_unknown_fields=True):
    number: Number
    ring: bytes


class Mend(msgspec.Struct, array_like=True, gc=False, tag=11, forbid_unknown_fields=True):
    number: Number


class Reads(msgspec.Struct, array_like=True, gc=False, tag=12, forbid_unknown_fields=True):
    number: Number
    keyspace: KeyspaceNumber
    keys: list[bytes]


class Copies(msgspec.Struct, array_like=True, gc=False, tag=13, forbid_unknown_fields=True):
    """Owners' copies, none of them a hint."""

    number: Number
    keyspace: KeyspaceNumber
    keys: list[bytes]
    sets: list[bytes]
    """As many as keys."""


class Reply(msgspec.Struct, array_like=True, gc=False, tag=4, forbid_unknown_fields=True):
    number: Number
    status: Status
    body: bytes


Ringed = Compare | ListKeys | Prove | Settled
"""They mean something only under the ring they name, so they are never sent again under another."""
RINGED: Final = (Compare, ListKeys, Prove, Settled)
OfRequests = Read | Reads | Store | Copies | Put
Request = OfRequests | Compare | ListKeys | Fetch | Holds | Prove | Settled | Mend
Message = Request | Reply


class _Frame(msgspec.Struct, array_like=True, gc=False, forbid_unknown_fields=True):
    version: int
    ring: bytes
    messages: list[Message]


class WrittenBody(msgspec.Struct, array_like=True, gc=False, forbid_unknown_fields=True):
    context: bytes
    replicas: list[str]
    stand_ins: list[str]
    missed: list[tuple[str, str]] = []
    """Not sent if it is empty: then an older peer can read the answer, too."""


class ErrorBody(msgspec.Struct, array_like=True, gc=False, forbid_unknown_fields=True):
    code: str
    message: str
    got: int
    required: int


class SettledBody(msgspec.Struct, array_like=True, gc=False, forbid_unknown_fields=True):
    lacks: bool
    hints: int
    keyspaces: list[KeyspaceNumber] | None = None
    """None: of a version that does not tell."""


_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(_Frame).decode
_decode_written: Final = msgspec.msgpack.Decoder(WrittenBody).decode
compared_decoder: Final = msgspec.msgpack.Decoder(list[int | None])
listed_decoder: Final = msgspec.msgpack.Decoder(tuple[list[tuple[bytes, bytes]], Bucket])
fetched_decoder: Final = msgspec.msgpack.Decoder(list[bytes])
holds_decoder: Final = msgspec.msgpack.Decoder(list[int])
proved_decoder: Final = msgspec.msgpack.Decoder(tuple[int, list[int | None]])
read_decoder: Final = msgspec.msgpack.Decoder(list[bytes | tuple[str] | None])
taken_decoder: Final = msgspec.msgpack.Decoder(list[str | None])
settled_decoder: Final = msgspec.msgpack.Decoder(SettledBody)
_T = TypeVar("_T")
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
        raise MalformedFrameError(
            f"a frame of version {decoded.version}; this program has {VERSION}"
        )
    return decoded.ring, decoded.messages


def encode_body(body: object) -> bytes:
    return _encode(body)


def decode_body(decoder: msgspec.msgpack.Decoder[_T], body: bytes) -> _T:
    """Raises MalformedFrameError."""
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, RecursionError) as error:
        raise MalformedFrameError(f"an answer of {len(body)} bytes cannot be read") from error


def encode_written(body: WrittenBody) -> bytes:
    return _encode(body if body.missed else [body.context, body.replicas, body.stand_ins])


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
    if isinstance(message, Copies):
        return sum(map(len, message.keys)) + sum(map(len, message.sets))
    if isinstance(message, Read):
        return len(message.key)
    if isinstance(message, Compare):
        return 32 * len(message.sums)
    if isinstance(message, Fetch | Holds | Reads):
        return sum(map(len, message.keys)) + 20 * len(message.keys)
    if isinstance(message, Prove):
        return sum(len(key) + 24 for _, key, _ in message.keys)
    return 64


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
