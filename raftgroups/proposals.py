"""Who is to be answered for which operation (hazard n4). Pure; pysyncobj's callbacks are not used.

An operation is first queued, then appended as part of an entry, then applied. It is known by a
sequence number that travels in the entry together with the node and boot that proposed it.

- Queued and then not appended: surely not done, Refused.
- Appended and then anything but applied here: Unknown.
- Each `done` is handed out exactly once; a result for a number that is not waiting is ignored.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from raftgroups.outcomes import ProposeResult

Done = Callable[[ProposeResult], None]


class _Waiting(NamedTuple):
    payload: bytes
    done: Done
    deadline: float


class Proposals:
    """Invariant: appended numbers rise in insertion order, and so do deadlines."""

    def __init__(self, *, max_operations: int, max_bytes: int) -> None:
        self._max_operations = max_operations
        self._max_bytes = max_bytes
        self._queue: deque[_Waiting] = deque()
        self._queue_bytes = 0
        self._appended: dict[int, tuple[Done, float]] = {}
        self._next_seq = 1

    def __len__(self) -> int:
        return len(self._queue) + len(self._appended)

    @property
    def queued(self) -> int:
        return len(self._queue)

    def full(self, payload: bytes) -> bool:
        return (
            len(self) >= self._max_operations or self._queue_bytes + len(payload) > self._max_bytes
        )

    def queue(self, payload: bytes, done: Done, deadline: float) -> None:
        self._queue.append(_Waiting(payload, done, deadline))
        self._queue_bytes += len(payload)

    def take(self, max_bytes: int) -> tuple[int, list[bytes]]:
        """The operations of one entry, at least one, now counted as appended; and the first one's
        number."""
        first = self._next_seq
        payloads: list[bytes] = []
        size = 0
        while self._queue:
            waiting = self._queue[0]
            size += len(waiting.payload)
            if payloads and size > max_bytes:
                break
            self._queue.popleft()
            self._queue_bytes -= len(waiting.payload)
            payloads.append(waiting.payload)
            self._appended[self._next_seq] = (waiting.done, waiting.deadline)
            self._next_seq += 1
        return first, payloads

    def applied(self, seq: int) -> Done | None:
        waiting = self._appended.pop(seq, None)
        return None if waiting is None else waiting[0]

    def drop_queued(self) -> list[Done]:
        dropped = [waiting.done for waiting in self._queue]
        self._queue.clear()
        self._queue_bytes = 0
        return dropped

    def drop_appended(self) -> list[Done]:
        dropped = [done for done, _ in self._appended.values()]
        self._appended.clear()
        return dropped

    def deadline(self) -> float:
        """When the oldest operation will have waited too long; infinity if none waits."""
        if self._appended:
            return next(iter(self._appended.values()))[1]
        return self._queue[0].deadline if self._queue else float("inf")

    def expire(self, now: float) -> tuple[list[Done], list[Done]]:
        """(queued, appended) operations that have waited too long."""
        appended: list[Done] = []
        while self._appended:
            seq = next(iter(self._appended))
            done, deadline = self._appended[seq]
            if deadline > now:
                break
            del self._appended[seq]
            appended.append(done)
        queued: list[Done] = []
        while self._queue and self._queue[0].deadline <= now:
            waiting = self._queue.popleft()
            self._queue_bytes -= len(waiting.payload)
            queued.append(waiting.done)
        return queued, appended
