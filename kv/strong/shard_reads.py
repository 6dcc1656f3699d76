"""Reads of one strong shard on this node, by their level.

    LINEARIZABLE  a read point of the group (leader or follower), then evaluated here; nearly all of
                  them share one (joined.py)
    SESSION       once this replica has seen what the token names
    EVENTUAL      at once

What meets the locks of a transaction over several shards is answered once it is known to be good
(`_vouch`); what another shard has now is moved there. Invariant: as shard.py says of `done`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from kv.division.meter import Meter
from kv.errors import StoppingError, UnavailableError
from kv.model import PLAIN_READ, Level, ReadOptions
from kv.regime import Done
from kv.router import EVERYWHERE
from kv.strong.joined import JoinedReads, Vouch
from kv.strong.noting import key_of_read
from kv.strong.operations import LocalRead, Read, SessionRead
from kv.strong.queries import Query
from kv.strong.reader import ReplicaReader
from raftgroups.outcomes import Refused
from raftgroups.txnref import TxnRef
from storage.clock import Clock, Scheduler
from storage.errors import InvalidRequestError, JanusError, WrongShardError

if TYPE_CHECKING:
    from kv.strong.shard import StrongShard

T = TypeVar("T")


class ShardReads:
    def __init__(
        self, shard: StrongShard, *, scheduler: Scheduler, clock: Clock, meter: Meter
    ) -> None:
        self._shard = shard
        self._scheduler = scheduler
        self._meter = meter
        machine = shard.machine
        self._reader = ReplicaReader(machine, machine.place.shard, shard.duties.now_ms)
        self._joined = JoinedReads(
            shard.group,
            self.local,
            self._go_on,
            self._move_joined,
            self._guard,
            lambda: shard.waiting.stopped,
            scheduler=scheduler,
            clock=clock,
            deadline_s=shard.settings.deadline_s,
            meter=meter,
        )
        self.get = self._joined.get

    def read(
        self,
        evaluate: Callable[[ReplicaReader], T],
        done: Done[T],
        options: ReadOptions = PLAIN_READ,
    ) -> None:
        shard = self._shard
        if shard.waiting.stopped:
            self._scheduler.call_soon(done, StoppingError("this node is stopping"))
            return
        if options is PLAIN_READ:
            self._joined.read(evaluate, done)
            return
        level = options.level
        deadline_s = shard.deadline(options.deadline_s)
        read: Read
        if level is Level.LINEARIZABLE:
            read = Read(shard, done, deadline_s, evaluate=evaluate)
        elif level is Level.EVENTUAL:
            read = LocalRead(shard, done, deadline_s, evaluate=evaluate)
        elif level is Level.SESSION:
            if shard.on_session is not None and shard.on_session(evaluate, done, options):
                return
            seen = options.session.revisions.get(shard.machine.place.shard, 0)
            read = SessionRead(shard, done, deadline_s, evaluate=evaluate, seen=seen)
        else:
            error = InvalidRequestError(
                f"a strong keyspace cannot be read at level {level}; ask for LINEARIZABLE, SESSION "
                "or EVENTUAL"
            )
            self._scheduler.call_soon(done, error)
            return
        if options.deadline_s is not None:
            shard.waiting.limit(read, options.deadline_s)
        read.start()

    def _go_on(
        self,
        evaluate: Callable[[ReplicaReader], Any],
        done: Done[Any],
        deadline_s: float,
        refused: Refused,
    ) -> None:
        """With a read that was refused among others."""
        self._shard.waiting.refused(Read(self._shard, done, deadline_s, evaluate=evaluate), refused)

    def evaluate(self, read: Read) -> None:
        if read.answered:
            return
        if self._meter.read(1):
            self._meter.note_read(key_of_read(read.evaluate))
        answer: Any
        try:
            answer = read.evaluate(self.local())
        except WrongShardError as error:
            if self._shard.move(read, error):
                return
            answer = error
        except JanusError as error:
            answer = error
        else:
            if type(read) is Read and self._shard.machine.intents and self._vouch(read, answer):
                return
        read.answer(answer)

    def _met_by(self, evaluate: Callable[[ReplicaReader], Any]) -> list[TxnRef]:
        """Whose locks this read has met; of one that does not name its keys, all there are."""
        bounds = evaluate.reads() if isinstance(evaluate, Query) else EVERYWHERE
        return self._shard.machine.intents.written_in(bounds)

    def _vouch(self, read: Read, answer: Any) -> bool:
        """Whether the answer has to wait until it is known to be good: its keys are locked, and it
        may be that what they are about to become is committed already (raftgroups/twophase.py)."""
        met = self._met_by(read.evaluate)
        if not met or self._shard.crossings is None:
            return False

        def vouched(good: bool) -> None:
            if good:
                read.answer(answer)
            elif not read.answered:
                self._shard.waiting.refused(read, Refused("other transactions hold what it reads"))

        start = self._shard.machine.shard.view.segments.own.start
        self._shard.crossings.vouch(met, start, read.deadline_s, vouched)
        return True

    def _guard(self) -> Vouch | None:
        return self._vouch_joined if self._shard.machine.intents else None

    def _vouch_joined(
        self,
        evaluate: Callable[[ReplicaReader], Any],
        done: Done[Any],
        deadline_s: float,
        answer: Any,
    ) -> bool:
        return self._vouch(Read(self._shard, done, deadline_s, evaluate=evaluate), answer)

    def _move_joined(
        self,
        evaluate: Callable[[ReplicaReader], Any],
        done: Done[Any],
        deadline_s: float,
        error: WrongShardError,
    ) -> None:
        read = Read(self._shard, done, deadline_s, evaluate=evaluate)
        if not self._shard.move(read, error):
            read.answer(error)

    def evaluate_soon(self, read: Read) -> None:
        self._scheduler.call_soon(self.evaluate, read)

    def may_read_session(self, read: SessionRead) -> bool:
        """Else it waits, or is refused."""
        if self._shard.machine.revision >= read.seen and self._shard.group.readable:
            return True
        self._shard.waiting.wait_for_session(read, self._shard.machine.revision)
        return False

    def local(self) -> ReplicaReader:
        if not self._shard.group.readable:
            raise UnavailableError(
                "a snapshot is being put in place on this node; ask again, or another node"
            )
        self._reader.term = self._shard.group.term
        return self._reader
