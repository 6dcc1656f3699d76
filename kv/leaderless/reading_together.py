"""Reads that need nothing special, all of a pass of the loop together: one message a peer.

    add --> waiting --(one pass)--> read here; Reads to each peer --> all answers equal? answer
                                                 |-- not equal, failed, late
                                                 '--> reading.py, which begins the read anew

Nearly every read is of R owners that hold the same bytes. Then there is nothing to merge, to repair
or to decode, and this is all that happens. Whatever else is found, or a hedge is due, the read is
handed to a GetOperation that knows nothing of this one's answers: a read has no effect, and nothing
that was learned here is sent on to anybody (so the ledger of reap.py need not know of it).

Some reads ask all owners, so that repair sees those that R leaves out: they are answered with the
first R, and one that then holds something else has the read begun anew, for its repair alone.

Invariants: each read is answered once, here or by the operation it was handed to; `over` is told of
it once, when nothing is waited for here, unless it was handed over.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from kv.leaderless.frames import (
    MalformedFrameError,
    Reads,
    Reply,
    Status,
    decode_body,
    read_decoder,
)
from kv.leaderless.get_core import Failed, GetResult
from kv.leaderless.hedging import HedgeBudget
from kv.leaderless.keyspace import Keyspace
from kv.leaderless.messenger import Outcome
from kv.leaderless.parts import Parts
from kv.leaderless.quorum import Quorum, level_met
from kv.leaderless.view import Place
from kv.regime import Done
from raftgroups.transport import NodeId
from storage.clock import Timer
from storage.errors import JanusError
from storage.plain import plain_of
from storage.siblings import MalformedSetError, SiblingSet, decode_set

READS_MAX: Final = 512
"""In one message."""
_NOBODY: Final = object()


class SimpleRead:
    """One read. `left`: how many have not answered yet; 0 once it is over here."""

    __slots__ = (
        "answered",
        "deadline_s",
        "done",
        "found",
        "heard",
        "hedged",
        "key",
        "keyspace",
        "left",
        "needed",
        "nodes",
        "of_all",
        "place",
        "quorum",
    )

    def __init__(
        self,
        keyspace: Keyspace,
        key: bytes,
        quorum: Quorum,
        place: Place,
        deadline_s: float,
        done: Done[GetResult],
        of_all: bool,
    ) -> None:
        self.of_all = of_all
        self.answered = False
        self.needed = quorum.nodes
        """So many answers more, and it is answered."""
        self.keyspace = keyspace
        self.key = key
        self.quorum = quorum
        self.place = place
        self.deadline_s = deadline_s
        self.done = done
        self.nodes: tuple[NodeId, ...] = ()
        self.heard: tuple[NodeId, ...] = ()
        """Who has answered, in this order."""
        self.found: object = _NOBODY
        self.left = 0
        self.hedged = False


Slow = Callable[[SimpleRead, Done[GetResult], bool], None]
"""Begin it anew as a GetOperation; true: ask every owner at once."""


class _Batch:
    """The reads of one pass, for the one timer that they share."""

    __slots__ = ("reads", "timer", "under_way")

    def __init__(self, reads: list[SimpleRead]) -> None:
        self.reads = reads
        self.timer: Timer | None = None
        self.under_way = 0
        """Messages without an answer."""


class ReadingTogether:
    def __init__(self, parts: Parts, slow: Slow, over: Callable[[], None]) -> None:
        """`over` is told of each read that was answered here."""
        self._parts = parts
        self._slow = slow
        self._over = over
        self._waiting: list[SimpleRead] = []
        self.budget = HedgeBudget()

    def add(self, read: SimpleRead) -> None:
        """Begins with the next pass."""
        self._waiting.append(read)
        if len(self._waiting) == 1:
            self._parts.scheduler.call_soon(self._begin)

    # --- asking ---------------------------------------------------------------------------

    def _begin(self) -> None:
        reads, self._waiting = self._waiting, []
        self.budget.earn(len(reads))
        parts = self._parts
        chosen: dict[tuple[int, int], tuple[NodeId, ...]] = {}
        outbox: dict[tuple[NodeId, int], list[SimpleRead]] = {}
        for read in reads:
            count = len(read.place.owners) if read.of_all else read.needed
            choice = id(read.place), count  # a view gives the same place again
            nodes = chosen.get(choice)
            if nodes is None:
                nodes = chosen[choice] = self._choose(read.place, count)
            if len(nodes) < read.needed:
                self._hand_over(read, False)
                continue
            read.nodes = nodes
            read.left = len(nodes)
            number = read.keyspace.number
            for node in nodes:
                if node != parts.node:
                    place = node, number
                    if place in outbox:
                        outbox[place].append(read)
                    else:
                        outbox[place] = [read]
            if nodes[0] == parts.node:
                self._read_here(read)
        batch = _Batch(reads)
        parts.messenger.hold()
        for (node, number), asked in outbox.items():
            for at in range(0, len(asked), READS_MAX):
                self._ask(batch, node, number, asked[at : at + READS_MAX])
        parts.messenger.release()
        if batch.under_way:
            hedge_s = parts.settings.hedge_s
            batch.timer = parts.scheduler.call_later(hedge_s, self._hedge, batch)

    def _choose(self, place: Place, count: int) -> tuple[NodeId, ...]:
        """This node if it is an owner, then the nearest ones in reach."""
        here = self._parts.node
        owners = [node for node in place.owners if self._parts.reachable(node)]
        if here in owners:
            owners.remove(here)
            owners.insert(0, here)
        return tuple(owners[:count])

    def _read_here(self, read: SimpleRead) -> None:
        parts, number = self._parts, read.keyspace.number
        if parts.may_read(number, read.key):
            answer = parts.replica.read_encoded(number, read.key)
            if not isinstance(answer, Failed):
                self._answer_of(read, parts.node, answer)
                return
        self._hand_over(read, False)

    def _ask(self, batch: _Batch, node: NodeId, number: int, reads: list[SimpleRead]) -> None:
        parts = self._parts
        asked = [read for read in reads if read.left]
        if asked:
            batch.under_way += 1
            parts.messenger.ask(
                node,
                Reads(0, number, [read.key for read in asked]),
                min(
                    parts.clock.monotonic() + parts.settings.replica_timeout_s, asked[0].deadline_s
                ),
                partial(self._told, batch, node, asked),
            )

    # --- answers --------------------------------------------------------------------------

    def _told(self, batch: _Batch, node: NodeId, reads: list[SimpleRead], outcome: Outcome) -> None:
        batch.under_way -= 1
        if not batch.under_way and batch.timer is not None:
            batch.timer.cancel()
            batch.timer = None
        for read, answer in zip(reads, _answers(outcome, len(reads)), strict=True):
            if isinstance(answer, tuple):
                self._failed(read)
            else:
                self._answer_of(read, node, answer)

    def _answer_of(self, read: SimpleRead, node: NodeId, encoded: bytes | None) -> None:
        if not read.left:
            return  # handed over
        if read.found is _NOBODY:
            read.found = encoded
        elif read.found != encoded:
            self._hand_over(read, False)
            return
        read.heard += (node,)
        read.needed -= 1
        if not (read.needed or read.hedged):
            try:
                result = _result(read, encoded)
            except MalformedSetError:
                self._hand_over(read, False)
                return
            read.answered = True
            read.done(result)
        self._answer_came(read)

    def _answer_came(self, read: SimpleRead) -> None:
        read.left -= 1
        if not (read.left or read.hedged):
            self._over()

    # --- what is not simple ---------------------------------------------------------------

    def _hand_over(self, read: SimpleRead, hedge: bool) -> None:
        if read.hedged:
            read.left = 0
            return
        if hedge:
            read.hedged = True
            self._slow(read, partial(self._hedged, read), True)
        elif read.left or not read.nodes:
            read.left = 0
            self._slow(read, _nobody if read.answered else read.done, read.of_all)

    def _failed(self, read: SimpleRead) -> None:
        if read.answered and read.left:
            self._answer_came(read)  # one more than was needed
        else:
            self._hand_over(read, False)

    def _hedge(self, batch: _Batch) -> None:
        batch.timer = None
        for read in batch.reads:
            if read.left and not (read.answered or read.hedged) and self.budget.take():
                self._parts.counts["hedged"] += 1
                self._hand_over(read, True)

    def _hedged(self, read: SimpleRead, answer: GetResult | JanusError) -> None:
        if read.left:
            self.budget.paid_off()
        read.left = 0
        read.done(answer)


def _nobody(answer: GetResult | JanusError) -> None:
    """It was answered already."""


def _result(read: SimpleRead, encoded: bytes | None) -> GetResult:
    nodes = read.heard
    level = level_met(read.quorum.n, len(nodes))
    if encoded is None:
        return GetResult(SiblingSet(), nodes, (), level)
    plain = plain_of(encoded)
    if plain is None:
        return GetResult(decode_set(encoded), nodes, (), level)
    return GetResult(None, nodes, (), level, encoded, plain)


def _answers(outcome: Outcome, count: int) -> list[bytes | tuple[str] | None]:
    if not isinstance(outcome, Reply):
        return [(outcome.reason,)] * count
    try:
        if outcome.status is Status.READ:
            answers = decode_body(read_decoder, outcome.body)
            if len(answers) == count:
                return answers
    except MalformedFrameError:
        pass
    return [(outcome.status.name,)] * count
