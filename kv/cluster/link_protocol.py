"""The bytes of a peer link: channels, frames, and the decoder that cuts a stream into them. Pure.

A frame travels as one or more fragments, so that a large one never holds up a small one:

    0        4          8         9         10       12
    | crc32  | length   | version | channel | flags  | payload ... |

- crc32 covers everything after itself; length is the payload's, at most FRAGMENT_BYTES;
- the flag MORE says that the frame goes on in the next fragment of the same channel. Fragments of
  different channels interleave freely, those of one channel never do;
- channel 0 is the link's own: the handshake (link_handshake.py), pings and farewells.

The decoder reads into one buffer of fixed size that it owns, so no sequence of bytes makes it
hold more than that buffer and, per channel, one unfinished frame of at most the channel's limit.
Until `open_channels` is called it takes short messages of channel 0 and no more, in a buffer of
about a kilobyte: that is all the memory that an unauthenticated stranger can make us spend.

Invariant: any split of the same bytes gives the same frames and the same violation.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, NamedTuple
from zlib import crc32

from storage.errors import InvalidRequestError, JanusError

FRAME_VERSION: Final = 1
FRAGMENT_BYTES: Final = 64 * 1024
CONTROL: Final = 0
CONTROL_MAX_BYTES: Final = 1024
MORE: Final = 1

_CRC: Final = struct.Struct(">I")
_REST: Final = struct.Struct(">IBBH")
_HEADER: Final = struct.Struct(">IIBBH")
HEADER_BYTES: Final = _HEADER.size
CHANNEL_AT: Final = 9
"""Where a header names the channel."""
RECEIVE_BUFFER_BYTES: Final = 4 * FRAGMENT_BYTES
STRANGER_BUFFER_BYTES: Final = HEADER_BYTES + CONTROL_MAX_BYTES
assert RECEIVE_BUFFER_BYTES >= HEADER_BYTES + FRAGMENT_BYTES, "a full buffer has a whole fragment"

_TLS_RECORDS: Final = (b"\x15\x03", b"\x16\x03")
KIB: Final = 1024
MIB: Final = 1024 * 1024


class LinkError(JanusError):
    """The base of what the peer link raises."""

    code: ClassVar[str] = "link"


class LinkUsageError(LinkError, InvalidRequestError):
    """The link was asked for something that can never work; the message says what to change."""

    code = "link_usage"


@dataclass(frozen=True, slots=True)
class Channel:
    """One named stream of frames. The tuple of channels is ordered by urgency."""

    name: str
    id: int
    max_frame_bytes: int
    queue_bytes: int
    """What may wait to be sent to one peer; a frame beyond it is refused."""
    queue_frames: int
    share_bytes: int
    """What it may send in one round while other channels wait too."""

    def __post_init__(self) -> None:
        assert 0 < self.id < 256
        assert 0 < self.max_frame_bytes <= self.queue_bytes
        assert self.queue_frames > 0
        assert self.share_bytes > 0


CHANNELS: Final = (
    Channel("raft", 1, 16 * MIB, 32 * MIB, 65_536, 512 * KIB),
    Channel("gossip", 5, 1 * MIB, 2 * MIB, 1_024, 64 * KIB),
    Channel("forward", 4, 16 * MIB, 32 * MIB, 65_536, 256 * KIB),
    Channel("replica", 3, 16 * MIB, 32 * MIB, 65_536, 256 * KIB),
    Channel("look", 6, 8 * MIB, 16 * MIB, 4_096, 64 * KIB),
    Channel("snapshot", 2, 4 * MIB, 16 * MIB, 256, 64 * KIB),
)


class Violation(NamedTuple):
    """Why a stream of bytes cannot be trusted any further."""

    code: str
    sentence: str


def header(channel_id: int, flags: int, payload: bytes | memoryview) -> bytes:
    """What goes before a fragment's payload."""
    rest = _REST.pack(len(payload), FRAME_VERSION, channel_id, flags)
    return _CRC.pack(crc32(payload, crc32(rest))) + rest


def whole_frame(channel_id: int, frame: bytes) -> bytes:
    """A frame that is one fragment, with its header."""
    assert len(frame) <= FRAGMENT_BYTES
    covered = _REST.pack(len(frame), FRAME_VERSION, channel_id, 0) + frame
    return _CRC.pack(crc32(covered)) + covered


def control_frame(message: bytes) -> bytes:
    assert len(message) <= CONTROL_MAX_BYTES
    return whole_frame(CONTROL, message)


class Decoder:
    """Bytes in (into `free`, then `received`), whole frames out.

    Before the channels are open `received` returns one message at a time, because the answer to it
    may open them: call `received(0)` until it returns nothing.
    Once `violation` is set it stays so: the frames before it were returned, and nothing after it is
    looked at.
    """

    __slots__ = (
        "_buffer",
        "_end",
        "_fragment_limit",
        "_limits",
        "_open",
        "_unfinished",
        "_view",
        "free",
        "violation",
    )

    def __init__(self) -> None:
        self.violation: Violation | None = None
        self._limits: dict[int, int] = {CONTROL: CONTROL_MAX_BYTES}
        self._fragment_limit = CONTROL_MAX_BYTES
        self._open = False
        self._unfinished: dict[int, bytearray] = {}
        self._buffer = bytearray(STRANGER_BUFFER_BYTES)
        self._view = self.free = memoryview(self._buffer)
        """`free` is where the next bytes go. Never empty: a full buffer would hold a whole
        fragment."""
        self._end = 0
        """Bytes [0, _end) of the buffer are received and belong to an unfinished fragment."""

    def open_channels(self, channels: Sequence[Channel]) -> None:
        """The other side is authenticated: from now on frames of these channels are accepted."""
        self._limits.update((channel.id, channel.max_frame_bytes) for channel in channels)
        self._fragment_limit = FRAGMENT_BYTES
        self._open = True
        kept = bytes(self._view[: self._end])
        self._buffer = bytearray(RECEIVE_BUFFER_BYTES)
        self._buffer[: len(kept)] = kept
        self._view = memoryview(self._buffer)
        self.free = self._view[self._end :]

    def received(self, count: int) -> list[tuple[int, bytes]]:
        """`count` bytes were put into `free`: the (channel id, frame) that they complete."""
        frames: list[tuple[int, bytes]] = []
        start, end = 0, self._end + count
        buffer, view = self._buffer, self._view
        limits, fragment_limit = self._limits, self._fragment_limit
        at_most = end if self._open else 1
        while end - start >= HEADER_BYTES and self.violation is None and len(frames) < at_most:
            crc, length, version, channel_id, flags = _HEADER.unpack_from(buffer, start)
            limit = limits.get(channel_id)
            if (
                version != FRAME_VERSION
                or limit is None
                or length > limit
                or length > fragment_limit
            ):
                self.violation = self._why_refused(start, version, channel_id, length)
                break
            stop = start + HEADER_BYTES + length
            if stop > end:
                break
            if crc32(view[start + _CRC.size : stop]) != crc:
                self.violation = Violation(
                    "bad_checksum", f"a fragment of {length} bytes failed its checksum"
                )
                break
            payload = view[start + HEADER_BYTES : stop]
            start = stop
            if flags or channel_id in self._unfinished:
                whole = self._append(channel_id, flags, payload, limit)
                if whole is not None:
                    frames.append((channel_id, whole))
            else:
                frames.append((channel_id, bytes(payload)))
        if start == end:
            if self._end:
                self._end = 0
                self.free = view
            return frames
        if start:
            view[: end - start] = view[start:end]
        self._end = end - start
        self.free = view[self._end :]
        return frames

    def whole(self, data: bytes) -> bytes | None:
        """The one frame that these bytes are, if `received` would make just that of them and keep
        nothing; then they need not be put into `free`. It only looks."""
        size = len(data)
        if size < HEADER_BYTES or self._end or self.violation is not None:
            return None
        crc, length, version, channel_id, flags = _HEADER.unpack_from(data)
        if (
            length != size - HEADER_BYTES
            or flags
            or version != FRAME_VERSION
            or channel_id in self._unfinished
            or length > self._fragment_limit
            or length > self._limits.get(channel_id, -1)
        ):
            return None
        frame = data[HEADER_BYTES:]
        return frame if crc32(frame, crc32(data[_CRC.size : HEADER_BYTES])) == crc else None

    def _append(self, channel_id: int, flags: int, payload: memoryview, limit: int) -> bytes | None:
        """A fragment of a frame of several. Returns the frame when this was its last."""
        if flags & ~MORE or channel_id == CONTROL:
            self.violation = Violation("bad_flags", f"flags {flags:#x} mean nothing here")
            return None
        parts = self._unfinished.setdefault(channel_id, bytearray())
        if len(parts) + len(payload) > limit:
            self.violation = Violation(
                "too_large", f"a frame of channel {channel_id} is over its limit of {limit} bytes"
            )
            return None
        parts += payload
        if flags & MORE:
            return None
        del self._unfinished[channel_id]
        return bytes(parts)

    def _why_refused(self, start: int, version: int, channel_id: int, length: int) -> Violation:
        if bytes(self._buffer[start : start + 2]) in _TLS_RECORDS:
            return Violation(
                "tls_mismatch",
                "one side of this link speaks TLS and the other does not; configure [tls] on both "
                "or on none",
            )
        if version != FRAME_VERSION:
            return Violation(
                "bad_version", f"these bytes are no frame of format {FRAME_VERSION}: {version}"
            )
        if channel_id not in self._limits:
            return Violation("bad_channel", f"channel {channel_id} is unknown or not open yet")
        limit = min(self._limits[channel_id], self._fragment_limit)
        return Violation("too_large", f"a fragment of {length} bytes is over {limit} bytes")
