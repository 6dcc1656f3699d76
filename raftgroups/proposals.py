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
_Appended = tuple[Done, float]
"""(done, deadline)"""


class Proposals:
    """Invariant: appended numbers rise in insertion order, and so do deadlines. Operations that
    were appended together are kept together: they are applied together, too."""

    def __init__(self, *, max_operations: int, max_bytes: int) -> None:
        self._max_operations = max_operations
        self._max_bytes = max_bytes
        self._queue: deque[_Waiting] = deque()
        self._queue_bytes = 0
        self._appended: dict[int, list[_Appended]] = {}
        """By the number of an entry's first operation. None of them is empty."""
        self._appended_count = 0
        self._next_seq = 1

    def __len__(self) -> int:
        return len(self._queue) + self._appended_count

    @property
    def queued(self) -> int:
        return len(self._queue)

    def queue(self, payload: bytes, done: Done, deadline: float) -> int:
        """Returns how many are queued now; 0 if there is no room for it."""
        queue, size = self._queue, self._queue_bytes + len(payload)
        count = len(queue) + 1
        if count + self._appended_count > self._max_operations or size > self._max_bytes:
            return 0
        queue.append((payload, done, deadline))
        self._queue_bytes = size
        return count

    def take(self, max_bytes: int) -> tuple[int, list[bytes]]:
        """The operations of one entry, at least one, now counted as appended; and the first one's
        number."""
        first, queue = self._next_seq, self._queue
        count, size = len(queue), self._queue_bytes
        taken: Sequence[_Waiting]
        if size <= max_bytes:
            taken, self._queue = queue, deque()
        else:
            count = size = 0
            for waiting in queue:
                larger = size + len(waiting[0])
                if count and larger > max_bytes:
                    break
                count, size = count + 1, larger
            taken = [queue.popleft() for _ in range(count)]
        self._queue_bytes -= size
        self._next_seq = first + count
        self._appended[first] = [waiting[1:] for waiting in taken]
        self._appended_count += count
        return first, [waiting[0] for waiting in taken]

    def applied(self, first: int, results: Sequence[object]) -> list[tuple[Done, object]]:
        """The operations of one entry, from this number on, were applied, with these results: whom
        to tell."""
        waiting = self._appended.pop(first, None)
        if waiting is None:
            return []
        self._appended_count -= len(waiting)
        # Those that have waited too long were the first ones.
        left = results[len(results) - len(waiting) :]
        return [(done, result) for (done, _), result in zip(waiting, left, strict=True)]

    def drop_queued(self) -> list[Done]:
        dropped = [done for _, done, _ in self._queue]
        self._queue.clear()
        self._queue_bytes = 0
        return dropped

    def drop_appended(self) -> list[Done]:
        dropped = [done for waiting in self._appended.values() for done, _ in waiting]
        self._appended.clear()
        self._appended_count = 0
        return dropped

    def deadline(self) -> float:
        """When the oldest operation will have waited too long; infinity if none waits."""
        for waiting in self._appended.values():
            return waiting[0][1]
        return self._queue[0][2] if self._queue else float("inf")

    def expire(self, now: float) -> tuple[list[Done], list[Done]]:
        """(queued, appended) operations that have waited too long."""
        appended: list[Done] = []
        for first, waiting in list(self._appended.items()):
            late = sum(deadline <= now for _, deadline in waiting)
            appended += [done for done, _ in waiting[:late]]
            del waiting[:late]
            if waiting:
                break
            del self._appended[first]
        self._appended_count -= len(appended)
        queued: list[Done] = []
        while self._queue and self._queue[0][2] <= now:
            payload, done, _ = self._queue.popleft()
            self._queue_bytes -= len(payload)
            queued.append(done)
        return queued, appended
