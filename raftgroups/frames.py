"""The frames that carry what replicas say to each other. Pure.

A frame is cbor: [version, incarnation, boot, level, [[kind, group, term, ...], ...]]. The link says
which node sent it (authenticated); `incarnation` says which life of that node's disk, `boot` which
start of its process, `level` what its program supports (raftgroups/levels.py).

decode_frame trusts nothing: a frame or message that does not fit raises MalformedError, or is left
out, which the receiver counts.

The messages of reads, acknowledgements and entries are nearly all there are. Their numbers are
written at full width, nine bytes each whatever they are (cbor allows it, so every version reads
them): then one call writes a message and one reads it (`read_plain`). Whatever is not exactly of
this form, or not sane, is left to decode_frame, which reads it all the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from struct import error as StructError  # noqa: N812 - it is a class
from typing import Any, Final, NamedTuple

import cbor2

from raftgroups.messages import (
    INT_LIMIT,
    KINDS,
    Ack,
    Append,
    Echo,
    MalformedError,
    Message,
    Probe,
    ReadIndex,
    ReadRequest,
    message_of,
)
from raftgroups.smallcbor import (
    FALSE,
    SMALL,
    TRUE,
    array_head,
    bytes_head,
    number_bytes,
    write,
)

FRAME_VERSION: Final = 2
_new: Final = tuple.__new__
"""Makes a named tuple at a third of the price."""


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


_OPENINGS: Final = {
    kind: array_head(1 + numbers + len(shapes)) + number_bytes(number)
    for number, (kind, numbers, shapes) in KINDS.items()
}
"""A message up to its fields."""
_ONE, _PAIR = array_head(1), array_head(2)

_WIDE: Final = 0x1B
"""What stands before the eight bytes of a number."""
_WIDE_OPENINGS: Final = {
    kind: _OPENINGS[kind] + bytes((_WIDE,))
    for kind in (Probe, Echo, ReadRequest, ReadIndex, Ack, Append)
}
_THREE: Final = Struct(">3sQBQBQ")
_FOUR: Final = Struct(">3sQBQBQBQ")
_ACK: Final = Struct(">3sQBQBQBB")
_APPEND: Final = Struct(">3sQBQBQBQBQBB")
"""Of an Append all that stands before its entries; the last byte is the head of their array."""
_THREES: Final[dict[type[Any], bytes]] = {
    kind: _WIDE_OPENINGS[kind] for kind in (Probe, Echo, ReadRequest)
}
_KIND_OF: Final[dict[bytes, type[Any]]] = {octets: kind for kind, octets in _WIDE_OPENINGS.items()}
_FALSE, _TRUE = FALSE[0], TRUE[0]
_FLAGS: Final = (_FALSE, _TRUE)
_ARRAY, _BYTES = array_head(0)[0], bytes_head(0)[0]
_SHORT_ARRAY: Final = 24
"""Arrays of fewer items have a head of one byte."""
_WIDTHS: Final = {24: 1, 25: 2, 26: 4, 27: 8}
"""How many bytes of a number follow a head of so much."""


# --- out -------------------------------------------------------------------------------------


def encode_frame(incarnation: int, boot: str, level: int, messages: Sequence[Message]) -> bytes:
    return encode_messages(frame_opening(incarnation, boot, level), messages)


def frame_opening(incarnation: int, boot: str, level: int) -> bytes:
    """What all frames of a sender begin with."""
    parts = [array_head(5)]
    for value in (FRAME_VERSION, incarnation, boot, level):
        write(value, parts.append)
    return b"".join(parts)


def encode_messages(opening: bytes, messages: Sequence[Message]) -> bytes:
    count = len(messages)
    parts = [opening, _ONE if count == 1 else array_head(count)]
    for message in messages:
        kind = type(message)
        octets = _THREES.get(kind)
        if octets is not None:
            parts.append(_THREE.pack(octets, message[0], _WIDE, message[1], _WIDE, message[2]))  # type: ignore[misc]
        elif type(message) is ReadIndex and message.read_index is not None:
            group, term, number, index = message
            octets = _WIDE_OPENINGS[ReadIndex]
            parts.append(_FOUR.pack(octets, group, _WIDE, term, _WIDE, number, _WIDE, index))
        elif type(message) is Ack:
            group, term, number, success, reset = message
            flags = _TRUE if success else _FALSE, _TRUE if reset else _FALSE
            octets = _WIDE_OPENINGS[Ack]
            parts.append(_ACK.pack(octets, group, _WIDE, term, _WIDE, number, *flags))
        elif type(message) is Append and message.prev_index is not None:
            _encode_append(message, parts)
        else:
            parts.append(_OPENINGS[kind])
            for value in message:
                if type(value) is int:  # nearly all of them
                    parts.append(SMALL[value] if 0 <= value < 256 else number_bytes(value))
                else:
                    write(value, parts.append)
    return b"".join(parts)


def _encode_append(message: Append, parts: list[bytes]) -> None:
    group, term, prev_index, prev_term, commit, quiet, entries = message
    head = array_head(len(entries))
    parts.append(
        _APPEND.pack(
            _WIDE_OPENINGS[Append],
            group,
            _WIDE,
            term,
            _WIDE,
            prev_index,
            _WIDE,
            prev_term,
            _WIDE,
            commit,
            _TRUE if quiet else _FALSE,
            head[0],
        )
    )
    if len(head) > 1:
        parts.append(head[1:])
    for term, command in entries:
        number = SMALL[term] if 0 <= term < 256 else number_bytes(term)
        parts += (_PAIR, number, bytes_head(len(command)), command)


# --- in --------------------------------------------------------------------------------------


def read_plain(frame: bytes, opening: Opening) -> list[Message] | None:
    """The messages of a frame that begins with its sender's opening, if they are all of the form at
    full width. None: decode_frame says what it is."""
    octets = opening[0]
    start, size = len(octets), len(frame)
    if start >= size or not frame.startswith(octets):
        return None
    messages: list[Message] = []
    at = start + 1
    try:
        while at < size:
            kind = _KIND_OF.get(frame[at : at + 3])
            if kind is ReadIndex:
                _, group, a, term, b, number, c, index = _FOUR.unpack_from(frame, at)
                if not a == b == c == _WIDE or group | term | number | index >= INT_LIMIT:
                    return None
                messages.append(_new(ReadIndex, (group, term, number, index)))
                at += _FOUR.size
            elif kind is Ack:
                at = _read_ack(frame, at, messages)
            elif kind is Append:
                at = _read_append(frame, at, messages)
            elif kind is None:
                return None
            else:
                _, group, a, term, b, number = _THREE.unpack_from(frame, at)
                if not a == b == _WIDE or group | term | number >= INT_LIMIT:
                    return None
                messages.append(_new(kind, (group, term, number)))
                at += _THREE.size
    except (StructError, IndexError):  # it ends too early
        return None
    count = len(messages)
    if at > size or count >= _SHORT_ARRAY or frame[start] != _ARRAY | count:
        return None
    return messages


def _read_ack(frame: bytes, at: int, messages: list[Message]) -> int:
    """Add the Ack that begins there, and return where it ends. If it is none of this form, that is
    behind the frame's end."""
    _, group, a, term, b, number, success, reset = _ACK.unpack_from(frame, at)
    if not a == b == _WIDE or success not in _FLAGS or reset not in _FLAGS:
        return len(frame) + 1
    if group | term | number >= INT_LIMIT:
        return len(frame) + 1
    messages.append(_new(Ack, (group, term, number, success == _TRUE, reset == _TRUE)))
    return at + _ACK.size


def _read_append(frame: bytes, at: int, messages: list[Message]) -> int:
    """The same of an Append."""
    beyond = len(frame) + 1
    found = _APPEND.unpack_from(frame, at)
    _, group, a, term, b, prev_index, c, prev_term, d, commit, quiet, head = found
    if not a == b == c == d == _WIDE or quiet not in _FLAGS:
        return beyond
    if group | term | prev_index | prev_term | commit >= INT_LIMIT:
        return beyond
    if not _ARRAY <= head < _ARRAY | _SHORT_ARRAY:
        return beyond
    at += _APPEND.size
    entries: list[Any] = []
    for _ in range(head - _ARRAY):
        if frame[at] != _PAIR[0]:
            return beyond
        number, at = _read_head(frame, at + 1, 0)
        length, at = _read_head(frame, at, _BYTES)
        command = frame[at : at + length]
        if number >= INT_LIMIT or len(command) < length:
            return beyond
        entries.append([number, command])
        at += length
    flag = quiet == _TRUE
    messages.append(_new(Append, (group, term, prev_index, prev_term, commit, flag, entries)))
    return at


def _read_head(frame: bytes, at: int, major: int) -> tuple[int, int]:
    """The number or length of an item of this type, and where what follows begins. If it is another
    item, that is a length that no frame has."""
    first = frame[at] - major
    if 0 <= first < _SHORT_ARRAY:
        return first, at + 1
    width = _WIDTHS.get(first)
    if width is None or at + 1 + width > len(frame):
        return INT_LIMIT, at
    return int.from_bytes(frame[at + 1 : at + 1 + width], "big"), at + 1 + width


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
        message = message_of(item)
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
        or not 0 <= incarnation < INT_LIMIT
        or type(boot) is not str
        or type(level) is not int
        or not 0 < level < INT_LIMIT
    ):
        raise MalformedError(f"the head of a frame of {len(frame)} bytes does not fit")
    return incarnation, boot, level, body
