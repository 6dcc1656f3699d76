"""Who is to be answered for which operation (hazard n4). Pure; pysyncobj's callbacks are not used.

An operation is first queued, then appended as part of an entry, then applied. It is known by a
sequence number that travels in the entry together with the node and boot that proposed it.

- Queued and then not appended: surely not done, Refused.
- Appended and then anything but applied here: Unknown.
- Each asker is handed out exactly once; a result for a number that is not waiting is ignored.

What was proposed together is a run: it is queued, appended and told as one, unless the bounds let
only a part of it in, or an entry has no room for all of it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any, Final

from raftgroups.outcomes import DoneEach

_Run = tuple[Sequence[bytes], Sequence[Any], DoneEach, float]
"""(payloads, askers, done, deadline)"""
_Appended = tuple[Sequence[Any], DoneEach, float]
"""The same without its payloads."""
Asked = tuple[DoneEach, Sequence[Any]]
"""Whom to tell."""
Told = tuple[DoneEach, Sequence[Any], Sequence[object]]
"""Whom to tell of which results."""

_done_of: Final = itemgetter(1)


class Proposals:
    """Invariant: appended numbers rise in insertion order, and so do deadlines. Operations that
    were appended together are kept together: they are applied together, too."""

    def __init__(self, *, max_operations: int, max_bytes: int) -> None:
        self._max_operations = max_operations
        self._max_bytes = max_bytes
        self._queue: deque[_Run] = deque()
        self._queue_bytes = 0
        self.queued = 0
        """Operations that no entry has yet."""
        self._appended: dict[int, list[_Appended]] = {}
        """By the number of an entry's first operation. None of them is empty."""
        self._appended_count = 0
        self._next_seq = 1

    def __len__(self) -> int:
        return self.queued + self._appended_count

    def queue(
        self,
        payloads: Sequence[bytes],
        size_bytes: int,
        askers: Sequence[Any],
        done: DoneEach,
        deadline: float,
    ) -> Sequence[Any]:
        """`size_bytes`: of all of them. Returns the askers for whom there is no room."""
        queued, size = self.queued + len(payloads), self._queue_bytes + size_bytes
        if queued + self._appended_count <= self._max_operations and size <= self._max_bytes:
            self._queue.append((payloads, askers, done, deadline))
            self.queued, self._queue_bytes = queued, size
            return ()
        if len(payloads) == 1:
            return askers
        return [
            left
            for payload, asker in zip(payloads, askers, strict=True)
            for left in self.queue((payload,), len(payload), (asker,), done, deadline)
        ]

    def take(self, max_bytes: int) -> tuple[int, list[bytes]]:
        """The operations of one entry, at least one, now counted as appended; and the first one's
        number."""
        first = self._next_seq
        runs: Iterable[_Run]
        if self._queue_bytes <= max_bytes:
            runs, self._queue = self._queue, deque()
            self._queue_bytes = 0
        else:
            runs = self._cut(max_bytes)
        payloads = [payload for run in runs for payload in run[0]]
        self._appended[first] = [run[1:] for run in runs]
        count = len(payloads)
        self._next_seq = first + count
        self._appended_count += count
        self.queued -= count
        return first, payloads

    def _cut(self, max_bytes: int) -> list[_Run]:
        queue, cut, size = self._queue, list[_Run](), 0
        while queue:
            payloads, askers, done, deadline = queue[0]
            count = 0
            for payload in payloads:
                if size + len(payload) > max_bytes and (cut or count):
                    break
                size += len(payload)
                count += 1
            if count == len(payloads):
                cut.append(queue.popleft())
                continue
            if count:
                cut.append((payloads[:count], askers[:count], done, deadline))
                queue[0] = payloads[count:], askers[count:], done, deadline
            break
        self._queue_bytes -= size
        return cut

    def applied(self, first: int, results: Sequence[object]) -> list[Told]:
        """The operations of one entry, from this number on, were applied, with these results: whom
        to tell."""
        runs = self._appended.pop(first, None)
        if runs is None:
            return []
        asked = [
            (done, [asker for run in together for asker in run[0]])
            for done, together in groupby(runs, _done_of)
        ]
        count = sum([len(askers) for _, askers in asked])
        self._appended_count -= count
        end = len(results) - count  # those that have waited too long were the first ones
        told: list[Told] = []
        for done, askers in asked:
            start, end = end, end + len(askers)
            told.append((done, askers, results[start:end]))
        return told

    def drop_queued(self) -> list[Asked]:
        dropped = [(done, askers) for _, askers, done, _ in self._queue]
        self._queue.clear()
        self.queued = self._queue_bytes = 0
        return dropped

    def drop_appended(self) -> list[Asked]:
        dropped = [(done, askers) for runs in self._appended.values() for askers, done, _ in runs]
        self._appended.clear()
        self._appended_count = 0
        return dropped

    def deadline(self) -> float:
        """When the oldest operation will have waited too long; infinity if none waits."""
        for runs in self._appended.values():
            return runs[0][2]
        return self._queue[0][3] if self._queue else float("inf")

    def expire(self, now: float) -> tuple[list[Asked], list[Asked]]:
        """(queued, appended) operations that have waited too long."""
        appended: list[Asked] = []
        for first, runs in list(self._appended.items()):
            late = sum(deadline <= now for _, _, deadline in runs)
            appended += [(done, askers) for askers, done, _ in runs[:late]]
            del runs[:late]
            if runs:
                break
            del self._appended[first]
        self._appended_count -= sum(len(askers) for _, askers in appended)
        queued: list[Asked] = []
        while self._queue and self._queue[0][3] <= now:
            payloads, askers, done, _ = self._queue.popleft()
            self._queue_bytes -= sum(map(len, payloads))
            self.queued -= len(payloads)
            queued.append((done, askers))
        return queued, appended
