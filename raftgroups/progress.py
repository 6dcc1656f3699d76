"""What a leader knows of the way of its entries to one peer: flow control (hazard n5). Pure.

pysyncobj keeps `next` (the first entry to send) and `match` (the last one known to be there); this
adds what is under way, so that a slow peer costs at most `inflight_max_bytes`, and nothing is sent
twice without a reason.

- An acknowledgement only ever frees; `next` never goes back because of one (pysyncobj sets it to
  the acknowledged index, which would send everything under way again).
- Loss shows as a refusal: the next heartbeat's previous entry is missing there. A refusal, or a
  new connection, empties the books: what was under way is taken as lost.
- A full link pauses the peer until its next answer, which a heartbeat will bring.
"""

from __future__ import annotations

from collections import deque


class Progress:
    __slots__ = (
        "appended_at",
        "commit_sent",
        "heard_at",
        "incarnation",
        "inflight_bytes",
        "node",
        "paused",
        "snapshot",
        "under_way",
    )

    def __init__(self, now: float, node: int) -> None:
        self.node = node
        """The number by which the core knows this peer."""
        self.under_way: deque[tuple[int, int]] = deque()
        """(last index, bytes) of each Append with entries, oldest first"""
        self.inflight_bytes = 0
        self.paused = False
        self.snapshot = False
        """It needs one, or one is under way: no entries are sent."""
        self.commit_sent = 0
        self.appended_at = now
        self.heard_at = now
        self.incarnation: int | None = None

    def may_send(self, max_bytes: int) -> bool:
        return not self.paused and not self.snapshot and self.inflight_bytes < max_bytes

    def sent(self, last_index: int, size_bytes: int) -> None:
        self.under_way.append((last_index, size_bytes))
        self.inflight_bytes += size_bytes

    def acknowledged(self, match_index: int) -> None:
        self.paused = False
        under_way = self.under_way
        while under_way and under_way[0][0] <= match_index:
            self.inflight_bytes -= under_way.popleft()[1]

    def lost(self) -> None:
        """What was under way may be gone."""
        self.under_way.clear()
        self.inflight_bytes = 0
        self.paused = False
