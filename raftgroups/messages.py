"""What replicas say to each other, and the frames that carry it. Values only.

A frame is cbor: [version, incarnation, boot, level, [[kind, group, term, ...], ...]]. The link says
which node sent it (authenticated); `incarnation` says which life of that node's disk, `boot` which
start of its process, `level` what its program supports (raftgroups/levels.py). Log entries travel
as opaque bytes; nothing here looks into them.

decode_frame trusts nothing: every field has a shape, and a frame or message that does not fit
raises MalformedError, which the receiver counts. Nothing that a peer sends is ever executed or
unpickled; a kind that is not in the table below does not exist.

`term` is the sender's current term, except in VoteRequest and PreVoteRequest, where it is the term
that the sender stands for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import cbor2

from raftgroups.smallcbor import (
    FALSE,
    SMALL,
    TRUE,
    array_head,
    bytes_head,
    number_bytes,
    write,
)
from storage.errors import JanusError
from storage.slices import Range

FRAME_VERSION: Final = 2
_INT_LIMIT: Final = 1 << 63
_new: Final = tuple.__new__
"""Makes a named tuple at a third of the price."""

WireEntry = tuple[int, bytes]
"""(term, command); its index follows from its place."""


class MalformedError(JanusError):
    """A peer sent bytes that are no frame or message of this protocol."""

    code = "malformed_frame"


class Append(NamedTuple):
    """Entries after `prev_index`, or none: a heartbeat. `prev_index` is None while the receiver
    waits for a snapshot: it then proves nothing about the receiver's log. `quiet`: no answer if
    all is well."""

    group: int
    term: int
    prev_index: int | None
    prev_term: int
    commit: int
    quiet: bool
    entries: Sequence[WireEntry]


class Ack(NamedTuple):
    """Success: the sender's log equals the leader's up to next_index - 1 and is on its disk.
    Reset: it does not fit; go on from next_index. Neither: only a sign of life."""

    group: int
    term: int
    next_index: int
    success: bool
    reset: bool


class VoteRequest(NamedTuple):
    group: int
    term: int
    last_index: int
    last_term: int
    transfer: bool
    """The old leader asked for this election, so its lease does not count."""


class Vote(NamedTuple):
    group: int
    term: int


class BlankVote(NamedTuple):
    """The vote of a replica that has heard nothing of its group yet (voting.py)."""

    group: int
    term: int


class PreVoteRequest(NamedTuple):
    group: int
    term: int
    last_index: int
    last_term: int
    round: int


class PreVote(NamedTuple):
    group: int
    term: int
    round: int
    granted: bool


class Stale(NamedTuple):
    """Answer to an Append of an older term."""

    group: int
    term: int


class TimeoutNow(NamedTuple):
    """The leader asks the receiver to stand for election at once."""

    group: int
    term: int


class Probe(NamedTuple):
    group: int
    term: int
    probe: int


class Echo(NamedTuple):
    group: int
    term: int
    probe: int


class ReadRequest(NamedTuple):
    group: int
    term: int
    request: int


class ReadIndex(NamedTuple):
    """`read_index` is None if the sender cannot say."""

    group: int
    term: int
    request: int
    read_index: int | None


class NotMember(NamedTuple):
    """The committed configuration of `config_index` does not have the receiver."""

    group: int
    term: int
    config_index: int


class Sleep(NamedTuple):
    """The leader stops its heartbeats: everything it has is committed and held by all."""

    group: int
    term: int
    last_index: int


class Beat(NamedTuple):
    """One for all sleeping groups of the sender (group 0 stands for the node, term is 0)."""

    group: int
    term: int


class Offer(NamedTuple):
    """A snapshot after `last_index`. Answered by OfferReply, and again by it when repeated."""

    group: int
    term: int
    snapshot: int
    last_index: int
    last_term: int
    config_index: int
    config: bytes
    ranges: Sequence[tuple[bytes, bytes]]


class LineageOffer(NamedTuple):
    """The same for a shard that was split or merged: a range may be a Slice (storage/slices.py),
    as [start, end, key_at, low, high]; `absorbed` are the groups that ended in this one."""

    group: int
    term: int
    snapshot: int
    last_index: int
    last_term: int
    config_index: int
    config: bytes
    ranges: Sequence[Range]
    absorbed: Sequence[int]


class OfferReply(NamedTuple):
    """`next_chunk` is the first chunk that is missing on the receiver's disk; None refuses."""

    group: int
    term: int
    snapshot: int
    next_chunk: int | None


class Chunk(NamedTuple):
    group: int
    term: int
    snapshot: int
    number: int
    last: bool
    checksum: int
    rows: bytes


Message = (
    Append
    | Ack
    | VoteRequest
    | Vote
    | BlankVote
    | PreVoteRequest
    | PreVote
    | Stale
    | TimeoutNow
    | Probe
    | Echo
    | ReadRequest
    | ReadIndex
    | NotMember
    | Sleep
    | Beat
    | Offer
    | LineageOffer
    | OfferReply
    | Chunk
)


class Opening(NamedTuple):
    """What all frames of one sender begin with, and what it says."""

    octets: bytes
    incarnation: int
    boot: str
    level: int


class Frame(NamedTuple):
    incarnation: int
    boot: str
    level: int
    messages: list[Message]
    malformed: int
    """Messages of the frame that were left out because they did not fit."""


# --- shapes ----------------------------------------------------------------------------------


def _number(value: object) -> bool:
    return type(value) is int and 0 <= value < _INT_LIMIT


def _number_or_none(value: object) -> bool:
    return value is None or _number(value)


def _octets(value: object) -> bool:
    return type(value) is bytes


def _entries(value: object) -> bool:
    if type(value) is not list:
        return False
    for entry in value:
        if type(entry) is not list or len(entry) != 2:
            return False
        term, command = entry
        if type(term) is not int or not 0 <= term < _INT_LIMIT or type(command) is not bytes:
            return False
    return True


def _pairs(value: object) -> bool:
    return type(value) is list and all(
        type(pair) is list and len(pair) == 2 and type(pair[0]) is bytes and type(pair[1]) is bytes
        for pair in value
    )


def _ranges(value: object) -> bool:
    return type(value) is list and all(_pairs([part]) or _slice(part) for part in value)


def _slice(value: object) -> bool:
    if type(value) is not list or len(value) != 5:
        return False
    start, end, key_at, low, high = value
    octets = all(type(part) is bytes for part in (start, end, low, b"" if high is None else high))
    return octets and type(key_at) is int and 0 <= key_at < 1 << 16


def _numbers(value: object) -> bool:
    return type(value) is list and all(map(_number, value))


_Shape = Callable[[object], bool] | type[int]
"""`int` stands for what `_number` accepts; `bool` for itself."""
_KINDS: Final[dict[int, tuple[type[Any], int, tuple[_Shape, ...]]]] = {
    # kind: (class, how many fields at the beginning are numbers, shapes of the others)
    1: (Append, 2, (_number_or_none, int, int, bool, _entries)),
    2: (Ack, 3, (bool, bool)),
    3: (VoteRequest, 4, (bool,)),
    4: (Vote, 2, ()),
    5: (PreVoteRequest, 5, ()),
    6: (PreVote, 3, (bool,)),
    7: (Stale, 2, ()),
    8: (TimeoutNow, 2, ()),
    9: (Probe, 3, ()),
    10: (Echo, 3, ()),
    11: (ReadRequest, 3, ()),
    12: (ReadIndex, 3, (_number_or_none,)),
    13: (NotMember, 3, ()),
    14: (Sleep, 3, ()),
    15: (Beat, 2, ()),
    16: (Offer, 6, (_octets, _pairs)),
    17: (OfferReply, 3, (_number_or_none,)),
    18: (Chunk, 4, (bool, int, _octets)),
    19: (LineageOffer, 6, (_octets, _ranges, _numbers)),
    20: (BlankVote, 2, ()),
}
_SHAPES: Final = {
    number: (kind, (int,) * numbers + shapes) for number, (kind, numbers, shapes) in _KINDS.items()
}
_OPENINGS: Final = {
    kind: array_head(1 + numbers + len(shapes)) + number_bytes(number)
    for number, (kind, numbers, shapes) in _KINDS.items()
}
"""A message up to its fields."""
_PAIR: Final = array_head(2)


# --- frames ----------------------------------------------------------------------------------


def encode_frame(incarnation: int, boot: str, level: int, messages: Sequence[Message]) -> bytes:
    return encode_messages(frame_opening(incarnation, boot, level), messages)


def frame_opening(incarnation: int, boot: str, level: int) -> bytes:
    """What all frames of a sender begin with."""
    parts = [array_head(5)]
    for value in (FRAME_VERSION, incarnation, boot, level):
        write(value, parts.append)
    return b"".join(parts)


def encode_messages(opening: bytes, messages: Sequence[Message]) -> bytes:
    parts = [opening, array_head(len(messages))]
    for message in messages:
        parts.append(_OPENINGS[type(message)])
        for value in message:
            if type(value) is int:  # nearly all of them
                parts.append(SMALL[value] if 0 <= value < 256 else number_bytes(value))
            elif type(value) is bool:
                parts.append(TRUE if value else FALSE)
            elif type(message) is Append and type(value) is list:
                parts.append(array_head(len(value)))
                for term, command in value:
                    number = SMALL[term] if 0 <= term < 256 else number_bytes(term)
                    parts += (_PAIR, number, bytes_head(len(command)), command)
            else:
                write(value, parts.append)
    return b"".join(parts)


def decode_frame(frame: bytes, opening: Opening | None = None) -> Frame:
    """Raises MalformedError, and nothing else, for any bytes. With the opening of its sender's
    frames, what it says need not be read again."""
    if opening is not None and frame.startswith(opening.octets):
        octets, incarnation, boot, level = opening
        try:
            body = cbor2.loads(frame[len(octets) :])
        except Exception as error:  # noqa: BLE001 - the decoder raises many things on hostile bytes
            raise MalformedError(f"a frame of {len(frame)} bytes is not cbor: {error}") from None
    else:
        incarnation, boot, level, body = _decode_parts(frame)
    if type(body) is not list:
        raise MalformedError(f"the messages of a frame of {len(frame)} bytes are no array")
    messages = []
    for item in body:
        message = _decode_message(item)
        if message is not None:
            messages.append(message)
    return _new(Frame, (incarnation, boot, level, messages, len(body) - len(messages)))


def _decode_parts(frame: bytes) -> tuple[int, str, int, object]:
    try:
        decoded = cbor2.loads(frame)
    except Exception as error:  # noqa: BLE001 - the decoder raises many things on hostile bytes
        raise MalformedError(f"a frame of {len(frame)} bytes is not cbor: {error}") from None
    if type(decoded) is not list or not decoded:
        raise MalformedError(f"a frame of {len(frame)} bytes is not an array")
    if decoded[0] != FRAME_VERSION:
        raise MalformedError(
            f"a frame of version {decoded[0]!r} arrived and this program speaks {FRAME_VERSION}; "
            "upgrade the older node"
        )
    if len(decoded) != 5:
        raise MalformedError(f"a frame of {len(frame)} bytes does not have five parts")
    _, incarnation, boot, level, body = decoded
    if (
        type(incarnation) is not int
        or not 0 <= incarnation < _INT_LIMIT
        or type(boot) is not str
        or type(level) is not int
        or not 0 < level < _INT_LIMIT
    ):
        raise MalformedError(f"the head of a frame of {len(frame)} bytes does not fit")
    return incarnation, boot, level, body


def _decode_message(item: object) -> Message | None:
    if type(item) is not list or not item or type(item[0]) is not int:
        return None
    known = _SHAPES.get(item[0])
    if known is None:
        return None
    kind, shapes = known
    fields = item[1:]
    if len(fields) != len(shapes):
        return None
    for shape, value in zip(shapes, fields, strict=True):
        if shape is int:  # most of them, and a call spared
            if type(value) is not int or not 0 <= value < _INT_LIMIT:
                return None
        elif shape is bool:
            if type(value) is not bool:
                return None
        elif not shape(value):
            return None
    message: Message = _new(kind, fields)
    return message
