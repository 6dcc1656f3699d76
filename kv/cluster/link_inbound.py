"""What an open connection without TLS brings: nearly always one frame in one piece, taken here.

A loop hands bytes to a protocol without buffers of its own in one call instead of two, and they
need not be copied. Strangers and TLS keep the buffers that bound what is read of them at a time;
whatever is not just one frame of a channel goes through the decoder (`Connection.brought`).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from kv.cluster.link_protocol import CHANNEL_AT, Decoder
from kv.cluster.link_state import State
from storage.clock import Clock

if TYPE_CHECKING:
    from kv.cluster.link_connection import Connection

_OPEN: Final = State.OPEN


class Inbound(asyncio.Protocol):
    """Stands before its connection once that is open."""

    def __init__(self, connection: Connection, decoder: Decoder, clock: Clock) -> None:
        assert connection.peer is not None, "channels are open once both sides are proved"
        self._connection = connection
        self._peer = connection.peer
        self._handlers = connection.handlers
        self._counts = connection.received_frames
        self._whole = decoder.whole
        self._now = clock.monotonic

    def data_received(self, data: bytes) -> None:
        connection = self._connection
        connection.last_received_at = self._now()
        connection.received_bytes += len(data)
        frame = self._whole(data) if connection.state is _OPEN else None
        channel_id = 0 if frame is None else data[CHANNEL_AT]
        handler = self._handlers[channel_id]
        if frame is None or handler is None:
            connection.brought(data)
            return
        self._counts[channel_id] += 1
        try:
            handler(self._peer, frame)
        except Exception as error:  # noqa: BLE001 - a handler's defect must not end the loop
            connection.defect(channel_id, error)

    def eof_received(self) -> None:
        return None

    def connection_lost(self, exc: BaseException | None) -> None:
        self._connection.connection_lost(exc)

    def pause_writing(self) -> None:
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        self._connection.resume_writing()
