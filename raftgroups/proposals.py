"""Who is to be answered for which operation (hazard n4). Pure; pysyncobj's callbacks are not used.

An operation is first queued, then appended as part of an entry, then applied. It is known by a
sequence number that travels in the entry together with the node and boot that proposed it.

- Queued and then not appended: surely not done, Refused.
- Appended and then anything but applied here: Unknown.
- Each `done` is handed out exactly once; a result for a number that is not waiting is ignored.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from raftgroups.outcomes import ProposeResult

Done = Callable[[ProposeResult], None]


_Waiting = tuple[bytes, Done, float]
"""(payload, done, deadline)"""


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

    def queue(self, payload: bytes, done: Done, deadline: float) -> int:
        """Returns how many are queued now; 0 if there is no room for it."""
        queue, size = self._queue, self._queue_bytes + len(payload)
        count = len(queue) + 1
        if count + len(self._appended) > self._max_operations or size > self._max_bytes:
            return 0
        queue.append((payload, done, deadline))
        self._queue_bytes = size
        return count

    def take(self, max_bytes: int) -> tuple[int, list[bytes]]:
        """The operations of one entry, at least one, now counted as appended; and the first one's
        number."""
        first, queue = self._next_seq, self._queue
        count, size = len(queue), self._queue_bytes
        if size > max_bytes:
            count = size = 0
            for waiting in queue:
                larger = size + len(waiting[0])
                if count and larger > max_bytes:
                    break
                count, size = count + 1, larger
        taken = [queue.popleft() for _ in range(count)]
        self._queue_bytes -= size
        self._next_seq = first + count
        payloads = [payload for payload, _, _ in taken]
        waiting_for = [(done, deadline) for _, done, deadline in taken]
        self._appended.update(zip(range(first, first + count), waiting_for, strict=True))
        return first, payloads

    def applied(self, first: int, results: Sequence[object]) -> list[tuple[Done, object]]:
        """Operations from this number on were applied, with these results: whom to tell."""
        pop = self._appended.pop
        found = [(pop(seq, None), result) for seq, result in enumerate(results, first)]
        return [(waiting[0], result) for waiting, result in found if waiting is not None]

    def drop_queued(self) -> list[Done]:
        dropped = [done for _, done, _ in self._queue]
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
        return self._queue[0][2] if self._queue else float("inf")

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
        while self._queue and self._queue[0][2] <= now:
            payload, done, _ = self._queue.popleft()
            self._queue_bytes -= len(payload)
            queued.append(done)
        return queued, appended
