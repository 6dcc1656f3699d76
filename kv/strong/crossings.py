"""Transactions over several shards, as one keyspace on this node drives them (crossing.py is pure).

    begin     a request that touches several shards: coordinated here, answered once
    clear     somebody's locks are in the way of a write here: see what becomes of them
    vouch     a read here has met locks: may its answer be given?
    look      every second, of the shards that this node leads: what nobody drives any more is
              pushed, and resolved if it was committed

What is asked of a shard goes the way of every write (routed.py): to its leader, by newer maps,
again until the deadline. All of these commands may be tried again, whatever became of a try.

For the node's loop only. Bounded: so many requests and so many clearings under way. A stop ends
what waits; what is under way is answered by what it asked.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from kv.errors import OverloadedError, StoppingError
from kv.model import WriteOptions
from kv.regime import Done
from kv.strong.crossing import Answers, Crossing, Look, Pause, Steps, clear, settle, vouch
from kv.strong.routed import RoutedWrite
from raftgroups.commands import BatchWrite, Command, Decide, Prepare, Token, Txn, encode
from raftgroups.levels import TXN_LEVEL
from raftgroups.meta.view import ShardTable
from raftgroups.results import Result
from raftgroups.twophase import YOUNGEST
from raftgroups.txnref import TxnId, TxnRef
from storage.clock import Clock, Timer
from storage.errors import JanusError

if TYPE_CHECKING:
    from kv.strong.keyspace import Keyspace
    from kv.strong.shard import StrongShard

_log = logging.getLogger(__name__)

REQUESTS_MAX: Final = 1_024
CLEARINGS_MAX: Final = 1_024
LOOK_S: Final = 1.0
LOOK_AGAIN_S: Final = 0.02
LOOKED_AT_MAX: Final = 16
"""Transactions of a shard that one look pushes."""
ABANDONED_MS: Final = 7_000
"""Longer than most hold their locks. Asking earlier does no harm."""
GRACE_S: Final = 1.0
"""Beyond the deadline of its request, for what decides and tidies up."""


class Book:
    """The numbers of this start of the node: of transactions and of their tokens."""

    def __init__(self, clock: Clock) -> None:
        began_ms = int(clock.wall() * 1000)
        self.client: Final = began_ms.to_bytes(8, "big") + secrets.token_bytes(8)
        self._last = 0
        self._open: dict[int, None] = {}

    def number(self) -> int:
        self._last += 1
        self._open[self._last] = None
        return self._last

    def over(self, number: int) -> None:
        self._open.pop(number, None)

    def token(self) -> Token:
        number = self.number()
        return Token(self.client, number, next(iter(self._open)))


class Standing:
    """crossing.py's Ground, of one request."""

    def __init__(self, keyspace: Keyspace, book: Book, clock: Clock, deadline_s: float) -> None:
        self._keyspace = keyspace
        self._book = book
        self._clock = clock
        self._deadline_s = deadline_s
        self.client = book.client
        self.number = book.number
        self.over = book.over

    def table(self) -> ShardTable:
        return self._keyspace.table

    def wall_ms(self) -> int:
        return int(self._clock.wall() * 1000)

    def left_ms(self) -> int:
        return int((self._deadline_s - self._clock.monotonic()) * 1000)


class RoutedPart(RoutedWrite):
    """One command of crossing.py on its way to the shard that has its keys."""

    def __init__(
        self,
        keyspace: Keyspace,
        done: Done[Any],
        deadline_s: float,
        command: Command,
        token: Token | None,
    ) -> None:
        payload = encode(command, token)
        super().__init__(keyspace, done, deadline_s, command, payload, WriteOptions(token))
        self.repeatable = True

    def hand_over(self, shard: StrongShard) -> None:
        if shard.group.feature_level < TXN_LEVEL:
            self.try_again(
                "not every node of this shard runs a version that knows transactions over several "
                "shards; upgrade them all"
            )
        else:
            super().hand_over(shard)


class _Drive:
    """Steps under way."""

    def __init__(
        self,
        crossings: Crossings,
        steps: Steps[Any],
        deadline_s: float,
        done: Callable[[Any], None],
    ) -> None:
        self._crossings = crossings
        self._steps = steps
        self.deadline_s = deadline_s
        self._done = done
        self._answers: dict[int, Any] = {}
        self._wanted = 0
        self.why = "it waits for a newer map of the shards"

    def go_on(self, answers: Answers | None = None) -> None:
        try:
            wanted = next(self._steps) if answers is None else self._steps.send(answers)
        except StopIteration as stop:
            self._done(stop.value)
            return
        if isinstance(wanted, Pause):
            self._crossings.pause(wanted.seconds, self)
        elif isinstance(wanted, Look):
            self._crossings.look_at_map(self)
        else:
            self._ask(wanted)

    def _ask(self, wanted: tuple[Command, ...]) -> None:
        self._answers, self._wanted = {}, len(wanted)
        for place, command in enumerate(wanted):
            self._crossings.ask(command, self.deadline_s, partial(self._answered, place))

    def _answered(self, place: int, answer: Any) -> None:
        self._answers[place] = answer
        if len(self._answers) == self._wanted:
            self.go_on([self._answers[each] for each in range(self._wanted)])

    def start(self) -> None:
        """As an operation that waited for a newer map."""
        self.go_on([])

    def give_up(self, error: JanusError) -> None:
        """While nothing was asked: nothing of it is decided, or it is, and this only tidied up."""
        self._steps.close()
        self._done(error)


class Crossings:
    def __init__(self, keyspace: Keyspace, clock: Clock, scheduler: Any) -> None:
        self._keyspace = keyspace
        self._clock = clock
        self._scheduler = scheduler
        self._book = Book(clock)
        self._requests = 0
        self._clearing: set[TxnId] = set()
        self._timer: Timer | None = None
        self._stopped = False

    # --- requests -------------------------------------------------------------------------------

    def begin(
        self,
        command: Txn | BatchWrite,
        done: Done[Result],
        token: Token | None,
        deadline_s: float,
    ) -> None:
        if self._requests >= REQUESTS_MAX:
            error = OverloadedError(
                f"nothing was done: {self._requests} transactions over several shards are under "
                "way at this node already; ask again in a second, or another node"
            )
            self._keyspace.soon(done, error)
            return
        self._requests += 1
        ground = Standing(self._keyspace, self._book, self._clock, deadline_s)
        crossing = Crossing(command, token, ground)

        def ended(answer: Any) -> None:
            self._requests -= 1
            if crossing.after is not None:
                _Drive(self, crossing.after, deadline_s, _nobody).go_on()
            done(answer)

        drive = _Drive(self, crossing.run(), deadline_s, ended)
        self._keyspace.soon(_go_on, drive)

    # --- for drives -----------------------------------------------------------------------------

    def ask(self, command: Command, deadline_s: float, done: Callable[[Any], None]) -> None:
        token = self._book.token() if isinstance(command, Prepare | Decide) else None
        if not isinstance(command, Prepare):
            deadline_s = max(deadline_s, self._clock.monotonic() + GRACE_S)

        def answered(answer: Any) -> None:
            if token is not None:
                self._book.over(token.sequence)
            done(answer)

        RoutedPart(self._keyspace, answered, deadline_s, command, token).start()

    def pause(self, seconds: float, drive: _Drive) -> None:
        if self._stopped:
            self._keyspace.soon(drive.give_up, StoppingError("this node is stopping"))
        else:
            self._scheduler.call_later(seconds, drive.go_on, [])

    def look_at_map(self, drive: _Drive) -> None:
        self._keyspace.later(LOOK_AGAIN_S, drive, look=True)

    # --- locks that are met ---------------------------------------------------------------------

    def clear(self, holders: Sequence[TxnRef], key: bytes) -> None:
        """Whoever was refused tries again in a moment, whatever comes of this."""
        for txn in holders:
            if txn.id in self._clearing or len(self._clearing) >= CLEARINGS_MAX:
                continue
            self._clearing.add(txn.id)
            self._drive_soon(settle(txn, key, YOUNGEST), partial(self._cleared, txn.id))

    def _cleared(self, txn: TxnId, _: Any) -> None:
        self._clearing.discard(txn)

    def vouch(
        self, met: Sequence[TxnRef], key: bytes, deadline_s: float, done: Callable[[bool], None]
    ) -> None:
        drive = _Drive(self, vouch(met, key), deadline_s, lambda good: done(good is True))
        self._keyspace.soon(_go_on, drive)

    def _drive_soon(self, steps: Steps[Any], done: Callable[[Any], None]) -> None:
        drive = _Drive(self, steps, self._clock.monotonic() + GRACE_S, done)
        self._keyspace.soon(_go_on, drive)

    # --- what was abandoned ---------------------------------------------------------------------

    def watch(self) -> None:
        if self._timer is None and not self._stopped:
            self._timer = self._scheduler.call_later(LOOK_S, self._look)

    def _look(self) -> None:
        self._timer = None
        for shard in self._keyspace.local_shards:
            if shard.group.settled:
                self._look_at(shard)
        self.watch()

    def _look_at(self, shard: StrongShard) -> None:
        intents = shard.machine.intents
        if not (intents.parts or intents.records):
            return
        now_ms = shard.duties.now_ms()
        old = {
            part.txn.id: part.txn
            for part in intents.parts.values()
            if part.since_ms + ABANDONED_MS < now_ms
        }
        old |= {
            record.txn.id: record.txn
            for record in intents.records.values()
            if record.deadline_ms + ABANDONED_MS < now_ms
        }
        start = shard.machine.shard.view.segments.own.start
        for txn in list(old.values())[:LOOKED_AT_MAX]:
            if txn.id not in self._clearing and len(self._clearing) < CLEARINGS_MAX:
                self._clearing.add(txn.id)
                self._drive_soon(clear(txn, start, YOUNGEST), partial(self._cleared, txn.id))

    def stop(self) -> None:
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _go_on(drive: _Drive) -> None:
    drive.go_on()


def _nobody(answer: Any) -> None:
    """Of what follows an answer: others tidy up what it could not."""
