"""Read points: how a read finds an index that is new enough (hazard f). Pure.

On the leader:

    read arrives -> waits -> a probe leaves -> voters echo it -> a majority did -> the index is good
                             (takes the commit index and everything that waits NOW)

- At most one probe is in flight. It serves only reads that had arrived before it left: one that
  arrives later may have to see writes that the flying probe's index does not cover. It waits for
  the next probe, which leaves as soon as this one is done.
- The index is the commit index when the probe leaves, and only once an entry of the leader's own
  term is committed: before that a new leader does not know how far its predecessor had come.
- An echo counts for this probe's number, in this term, from a voter, once.
- Losing the leadership loses the probe and what waits for it.

On a follower the reads that wait travel as one request to the leader, at most one in flight, by the
same rule; the answer is an index. The request of a voter is an echo of itself: it was sent in its
term, after its reads had arrived. So with two or three voters the leader answers it at once, with
its commit index and without a probe (readpath.py): half the latency, a third of the messages.
Everywhere the last step is the same: the read is ready once the machine has applied that index.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from raftgroups.transport import NodeId

_NEVER: Final = float("inf")
NOTHING: Final = -1
"""As an applied index: no read is ready by it."""
_new: Final = tuple.__new__
"""Makes a named tuple at a third of the price."""


class Reader(NamedTuple):
    """Somebody who waits for an index. `remote` ones get it at once, local ones once applied."""

    answer: Callable[[int | None, str], None]
    """(index, "") or (None, why not)"""
    deadline: float
    remote: bool = False


class Flight(NamedTuple):
    """A probe (on the leader) or a request to the leader (on a follower) under way."""

    number: int
    term: int
    read_index: int
    readers: list[Reader]
    echoes: set[NodeId]


class ReadPoints:
    def __init__(self, first_number: int) -> None:
        self.waiting: list[Reader] = []
        self.flight: Flight | None = None
        self._number = first_number
        self._ready: list[tuple[int, Reader]] = []

    def __len__(self) -> int:
        return (
            len(self.waiting) + len(self._ready) + (len(self.flight.readers) if self.flight else 0)
        )

    def arrive(self, reader: Reader, *, join_flight: bool = False) -> None:
        """`join_flight` is the canary: the bug of letting a late read board a flying probe."""
        if join_flight and self.flight is not None:
            self.flight.readers.append(reader)
        else:
            self.waiting.append(reader)

    def depart(self, term: int, index: int) -> Flight | None:
        """Let everything that waits now leave with a new number, if nothing is in flight."""
        if self.flight is not None or not self.waiting:
            return None
        self._number += 1
        flight = self.flight = _new(Flight, (self._number, term, index, self.waiting, set()))
        self.waiting = []
        return flight

    def echo(self, voter: NodeId, term: int, number: int) -> int | None:
        """How many other voters have echoed; None if this echo is not of the probe in flight."""
        flight = self.flight
        if flight is None or flight.number != number or flight.term != term:
            return None
        flight.echoes.add(voter)
        return len(flight.echoes)

    def confirmed(self, index: int | None = None, applied: int = NOTHING) -> None:
        """The flight is good: its readers have their index (a follower learns it only now), and
        those of them go on at once for whom so much is applied."""
        flight = self.flight
        assert flight is not None
        if self._ready:
            self.applied(applied)  # they came first
        self.flight = None
        found = flight.read_index if index is None else index
        for reader in flight.readers:
            if reader.remote or found <= applied:
                reader.answer(found, "")
            else:
                self._ready.append((found, reader))

    def abandon(self, *, requeue: bool) -> list[Reader]:
        """The flight is lost. Local readers may wait for another one; the rest is returned."""
        flight = self.flight
        if flight is None:
            return []
        self.flight = None
        if requeue:
            self.waiting = [r for r in flight.readers if not r.remote] + self.waiting
            return [reader for reader in flight.readers if reader.remote]
        return flight.readers

    def applied(self, index: int) -> None:
        """Answer whoever waited for this index or a smaller one."""
        if not self._ready:
            return
        if len(self._ready) == 1 and self._ready[0][0] <= index:
            found, reader = self._ready.pop()
            reader.answer(found, "")
            return
        ready = [pair for pair in self._ready if pair[0] <= index]
        if not ready:
            return
        self._ready = [pair for pair in self._ready if pair[0] > index]
        for found, reader in ready:
            reader.answer(found, "")

    def drop_all(self) -> list[Reader]:
        dropped = self.abandon(requeue=False) + self.waiting + [r for _, r in self._ready]
        self.waiting = []
        self._ready = []
        return dropped

    def drop_remote(self) -> list[Reader]:
        """Those of other nodes, when this one leads no longer: they must ask elsewhere."""
        dropped = [reader for reader in self.waiting if reader.remote]
        self.waiting = [reader for reader in self.waiting if not reader.remote]
        return dropped

    @property
    def idle(self) -> bool:
        return not self.waiting and self.flight is None and not self._ready

    def deadline(self) -> float:
        """When the first one will have waited too long; infinity if nobody waits."""
        nearest = self.waiting[0].deadline if self.waiting else _NEVER
        if self.flight is not None and self.flight.readers:
            nearest = min(nearest, self.flight.readers[0].deadline)
        if self._ready:
            nearest = min(nearest, self._ready[0][1].deadline)
        return nearest

    def expire(self, now: float) -> list[Reader]:
        """Everyone who has waited too long. A flight whose readers all left is given up."""
        dropped = [r for r in self.waiting if r.deadline <= now]
        if dropped:
            self.waiting = [r for r in self.waiting if r.deadline > now]
        if self.flight is not None:
            late = [r for r in self.flight.readers if r.deadline <= now]
            if late:
                dropped += late
                self.flight.readers[:] = [r for r in self.flight.readers if r.deadline > now]
                if not self.flight.readers:
                    self.flight = None
        late_ready = [r for _, r in self._ready if r.deadline <= now]
        if late_ready:
            dropped += late_ready
            self._ready = [pair for pair in self._ready if pair[1].deadline > now]
        return dropped
