"""What waits to be sent to one peer: bounded per channel, shared fairly, urgent first. Pure.

`offer` refuses a frame when its channel is full, so a slow peer costs a fixed amount of memory and
a full channel takes nothing from another. `take(budget)` gives the next bytes for the wire: the
link hands over a bounded burst at a time, so a frame that was offered just now waits for one burst
at most, whatever else is queued.

Shares: channels are served in order of urgency, each until it is empty or has used up its share of
the round (share_bytes of the channel); when all that have frames have used theirs, a new round
begins. So raft goes before snapshot in every burst, a flood of snapshot delays raft by one
fragment, and a flood of raft still leaves snapshot its share. A frame over FRAGMENT_BYTES leaves in
fragments, which count one by one.

Messages of the link itself (pongs, farewells) go before everything; there are few of them, and a
peer that provokes more than CONTROL_LIMIT is not answered.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

from kv.cluster.link_protocol import (
    FRAGMENT_BYTES,
    HEADER_BYTES,
    MORE,
    Channel,
    control_frame,
    header,
)

CONTROL_LIMIT: Final = 32


class Lane:
    """One channel's frames. Invariant: `queued_bytes` is the sum of the lengths of `frames`, the
    partly sent first one counted whole, and never over the channel's limit."""

    __slots__ = ("channel", "credit_bytes", "frames", "offset", "queued_bytes", "sent_frames")

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.frames: deque[bytes] = deque()
        self.queued_bytes = 0
        self.sent_frames = 0
        self.offset = 0
        """How much of the first frame has left."""
        self.credit_bytes = channel.share_bytes


class OutboundQueue:
    """Invariant: `pending` is the number of frames in all lanes and of control messages."""

    __slots__ = ("_control", "_lanes", "lanes", "pending")

    def __init__(self, channels: Sequence[Channel]) -> None:
        self._lanes = [Lane(channel) for channel in channels]
        self.lanes = {lane.channel.id: lane for lane in self._lanes}
        self._control: deque[bytes] = deque()
        self.pending = 0

    def offer(self, channel_id: int, frame: bytes) -> bool:
        """Queue a frame, or refuse it because its channel is full."""
        lane = self.lanes[channel_id]
        size = lane.queued_bytes + len(frame)
        if size > lane.channel.queue_bytes or len(lane.frames) >= lane.channel.queue_frames:
            return False
        lane.frames.append(frame)
        lane.queued_bytes = size
        self.pending += 1
        return True

    def offer_control(self, message: bytes) -> bool:
        if len(self._control) >= CONTROL_LIMIT:
            return False
        self._control.append(message)
        self.pending += 1
        return True

    def clear(self) -> dict[int, int]:
        """The connection is gone: forget everything. Returns the frames lost, by channel id."""
        lost: dict[int, int] = {}
        for lane in self._lanes:
            if lane.frames:
                lost[lane.channel.id] = len(lane.frames)
                lane.frames.clear()
            lane.queued_bytes = lane.offset = 0
            lane.credit_bytes = lane.channel.share_bytes
        self._control.clear()
        self.pending = 0
        return lost

    def take(self, budget_bytes: int) -> list[bytes | memoryview]:
        """The next parts for the wire, in order; at most one fragment over the budget."""
        parts: list[bytes | memoryview] = []
        while self._control:
            frame = control_frame(self._control.popleft())
            parts.append(frame)
            budget_bytes -= len(frame)
            self.pending -= 1
        while self.pending and budget_bytes > 0:
            for lane in self._lanes:
                if lane.frames and lane.credit_bytes > 0:
                    budget_bytes = self._serve(lane, parts, budget_bytes)
                    if budget_bytes <= 0 or not self.pending:
                        return parts
            for lane in self._lanes:
                share = lane.channel.share_bytes
                lane.credit_bytes = min(share, lane.credit_bytes + share)
        return parts

    def _serve(self, lane: Lane, parts: list[bytes | memoryview], budget_bytes: int) -> int:
        """Send from this lane until it is empty, its credit is used or the budget is. Returns what
        is left of the budget."""
        channel_id, frames = lane.channel.id, lane.frames
        credit_bytes = lane.credit_bytes
        while frames and budget_bytes > 0 and credit_bytes > 0:
            frame = frames[0]
            size = len(frame)
            if size <= FRAGMENT_BYTES:
                parts.append(header(channel_id, 0, frame))
                parts.append(frame)
                cost = size + HEADER_BYTES
                done = True
            else:
                piece = memoryview(frame)[lane.offset : lane.offset + FRAGMENT_BYTES]
                lane.offset += len(piece)
                done = lane.offset == size
                parts.append(header(channel_id, 0 if done else MORE, piece))
                parts.append(piece)
                cost = len(piece) + HEADER_BYTES
            if done:
                frames.popleft()
                lane.queued_bytes -= size
                lane.sent_frames += 1
                lane.offset = 0
                self.pending -= 1
            credit_bytes -= cost
            budget_bytes -= cost
        lane.credit_bytes = credit_bytes
        return budget_bytes
