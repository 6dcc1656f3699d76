"""What replicas say to each other. Values only; frames.py has the bytes.

Log entries travel as opaque bytes; nothing here looks into them. Nothing that a peer sends is ever
executed or unpickled: every field has a shape, and a kind that is not in the table below does not
exist.

`term` is the sender's current term, except in VoteRequest and PreVoteRequest, where it is the term
that the sender stands for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from storage.errors import JanusError
from storage.slices import Range

INT_LIMIT: Final = 1 << 63
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


# --- shapes ----------------------------------------------------------------------------------


def _number(value: object) -> bool:
    return type(value) is int and 0 <= value < INT_LIMIT


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
        if type(term) is not int or not 0 <= term < INT_LIMIT or type(command) is not bytes:
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
KINDS: Final[dict[int, tuple[type[Any], int, tuple[_Shape, ...]]]] = {
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
    number: (kind, (int,) * numbers + shapes) for number, (kind, numbers, shapes) in KINDS.items()
}


def message_of(item: object) -> Message | None:
    """What a peer's array says, or None if it fits no kind."""
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
            if type(value) is not int or not 0 <= value < INT_LIMIT:
                return None
        elif shape is bool:
            if type(value) is not bool:
                return None
        elif not shape(value):
            return None
    message: Message = _new(kind, fields)
    return message
