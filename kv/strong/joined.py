"""Linearizable reads that name nothing of their own (deadline, session): nearly all there are.

    read --> a place in what waits here --(one read point for all of it)--> each evaluated, answered
                                                     '--> Refused: each goes on alone (`refused`)
    a key that is another shard's now: that read goes on elsewhere (`moved`)

They wait as pairs in the list that the group's next read point takes along, so a read costs no
object, timer or call below this file. Invariants: as regime.py says of `read`; each is answered, or
handed to `refused` or `moved`, exactly once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from kv.division.meter import Meter
from kv.regime import Done
from kv.strong.noting import key_of_read
from kv.strong.reader import ReplicaReader
from raftgroups.group import Group
from raftgroups.outcomes import ReadResult, Refused
from raftgroups.readpath import Together
from storage.clock import Clock, Scheduler
from storage.errors import JanusError, WrongShardError

_log = logging.getLogger(__name__)

Evaluate = Callable[[ReplicaReader], Any]
Pair = tuple[Evaluate, Done[Any]]
GoOn = Callable[[Evaluate, Done[Any], float, Refused], None]
"""(evaluate, done, deadline, why not now)"""
Vouch = Callable[[Evaluate, Done[Any], float, Any], bool]
"""(evaluate, done, deadline, answer): whether somebody else gives the answer, once it is known to
be good, or reads again."""
Move = Callable[[Evaluate, Done[Any], float, WrongShardError], None]


class JoinedReads:
    def __init__(
        self,
        group: Group,
        local: Callable[[], ReplicaReader],
        refused: GoOn,
        moved: Move,
        guard: Callable[[], Vouch | None],
        *,
        scheduler: Scheduler,
        clock: Clock,
        deadline_s: float,
        meter: Meter,
    ) -> None:
        """`local` gives the replica's state, or raises a JanusError; `guard` gives None while
        nothing in the shard is locked."""
        self._meter = meter
        self._group = group
        self._local = local
        self._refused = refused
        self._moved = moved
        self._guard = guard
        self._scheduler = scheduler
        self._clock = clock
        self._deadline_s = deadline_s
        self._together: Together | None = None

    def read(self, evaluate: Evaluate, done: Done[Any]) -> None:
        together = self._together
        if together is not None and not together.left and len(together.reads) < together.most:
            together.reads.append((evaluate, done))
        else:
            self._open(evaluate, done)

    def _open(self, evaluate: Evaluate, done: Done[Any]) -> None:
        tell = partial(self._tell, self._clock.monotonic() + self._deadline_s)
        opened: Together | Refused
        if self._together is not None and not self._together.left:
            opened = self._group.too_many_reads()
        else:
            opened = self._group.read_together(tell)
        if isinstance(opened, Together):
            self._together = opened
            if opened.most:
                opened.reads.append((evaluate, done))
                return
            opened = self._group.too_many_reads()
        self._scheduler.call_soon(tell, [(evaluate, done)], opened)

    def _tell(self, deadline_s: float, reads: Sequence[Pair], result: ReadResult) -> None:
        if isinstance(result, Refused):
            for evaluate, done in reads:
                self._refused(evaluate, done, deadline_s, result)
            return
        try:
            reader = self._local()
        except JanusError as error:
            for _, done in reads:
                _answer(done, error)
            return
        vouch = self._guard()
        if self._meter.read(len(reads)):
            self._meter.note_read(key_of_read(reads[-1][0]))
        for evaluate, done in reads:
            try:
                answer = evaluate(reader)
                if vouch is not None and vouch(evaluate, done, deadline_s, answer):
                    continue
            except WrongShardError as error:
                self._moved(evaluate, done, deadline_s, error)
                continue
            except JanusError as error:
                answer = error
            except Exception:  # noqa: BLE001 - as below
                _log.exception("the evaluation of a read raised; its defect, the node goes on")
                continue
            try:
                done(answer)
            except Exception:  # noqa: BLE001 - a defect of one asker must not cost the others' answers
                _log.exception("a done callback raised; its defect, the node goes on")


def _answer(done: Done[Any], answer: Any) -> None:
    try:
        done(answer)
    except Exception:  # noqa: BLE001 - as above
        _log.exception("a done callback raised; its defect, the node goes on")
