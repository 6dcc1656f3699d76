"""Linearizable reads that name nothing of their own (deadline, session): nearly all there are.

    read --> a place in what waits here --(one read point for all of it)--> each evaluated, answered
    get  -->                                         '--> Refused: each goes on alone (`refused`)
    a key that is another shard's now: that read goes on elsewhere (`moved`)

They wait as tuples in the list that the group's next read point takes along, so a read costs no
object, timer or call below this file. What most of them are, gets of one key, are looked up and
answered all at once; if that raises, or somebody has to vouch for them, each is a read by itself.
Invariants: as regime.py says of `read` and `get`; each is answered, or handed to `refused` or
`moved`, exactly once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from kv.division.meter import Meter
from kv.errors import StoppingError
from kv.regime import Done, Give
from kv.strong.noting import key_of_read
from kv.strong.reader import ReplicaReader
from raftgroups.group import Group
from raftgroups.outcomes import ReadResult, Refused
from raftgroups.readpath import Together
from storage.clock import Clock, Scheduler
from storage.errors import JanusError, WrongShardError
from storage.mvcc_records import KeyValue

_log = logging.getLogger(__name__)

Evaluate = Callable[[ReplicaReader], Any]
Pair = tuple[Evaluate, Done[Any]]
Get = tuple[bytes, Any, Give]
"""(key, asker, who answers it)"""
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
        stopped: Callable[[], bool],
        *,
        scheduler: Scheduler,
        clock: Clock,
        deadline_s: float,
        meter: Meter,
    ) -> None:
        """`local` gives the replica's state, or raises a JanusError; `guard` gives None while
        nothing in the shard is locked; `stopped`: no new reads are taken."""
        self._stopped = stopped
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
            self._open((evaluate, done))

    def get(self, key: bytes, asker: Any, give: Give) -> None:
        together = self._together
        if together is not None and not together.left and len(together.reads) < together.most:
            together.reads.append((key, asker, give))
        elif self._stopped():
            self._scheduler.call_soon(give, [asker], _stopping(), 0, 0)
        else:
            self._open((key, asker, give))

    def _open(self, read: Pair | Get) -> None:
        tell = partial(self._tell, self._clock.monotonic() + self._deadline_s)
        opened: Together | Refused
        if self._together is not None and not self._together.left:
            opened = self._group.too_many_reads()
        else:
            opened = self._group.read_together(tell)
        if isinstance(opened, Together):
            self._together = opened
            if opened.most:
                opened.reads.append(read)
                return
            opened = self._group.too_many_reads()
        self._scheduler.call_soon(tell, [read], opened)

    def _tell(self, deadline_s: float, reads: Sequence[Pair | Get], result: ReadResult) -> None:
        if isinstance(result, Refused):
            for evaluate, done in map(alone, reads):
                self._refused(evaluate, done, deadline_s, result)
            return
        try:
            reader = self._local()
        except JanusError as error:
            for _, done in map(alone, reads):
                _answer(done, error)
            return
        vouch = self._guard()
        if self._meter.read(len(reads)):
            self._meter.note_read(_key(reads[-1]))
        if vouch is None:
            reads = _left_of(reads, reader)
        if reads:
            self._tell_pairs([alone(read) for read in reads], reader, vouch, deadline_s)

    def _tell_pairs(
        self, reads: list[Pair], reader: ReplicaReader, vouch: Vouch | None, deadline_s: float
    ) -> None:
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


# --- gets -------------------------------------------------------------------------------------


def _left_of(reads: Sequence[Pair | Get], reader: ReplicaReader) -> list[Pair | Get]:
    """Look the gets up and have them answered. Returns what it did not come to: each is to be
    tried by itself."""
    gets: Sequence[Any] = reads
    left: list[Pair | Get] = []
    if sum(map(len, reads)) < 3 * len(reads):  # they mostly are gets only
        gets = [read for read in reads if len(read) == 3]
        left = [read for read in reads if len(read) == 2]
        if not gets:
            return left
    keys, askers, gives = zip(*gets, strict=True)
    give = gives[0]
    if gives.count(give) < len(gives):  # of the one face that there mostly is
        for each in dict.fromkeys(gives):
            left += _left_of([get for get in gets if get[-1] == each], reader)
        return left
    view = reader.view
    try:
        found = view.get_each(keys)
    except Exception:  # noqa: BLE001 - whoever raises it by itself answers for it
        return [*left, *gets]
    give(askers, found, view.state.revision, reader.term)
    return left


def alone(read: Pair | Get) -> Pair:
    """As a read by itself."""
    if len(read) == 2:
        return read
    key, _, _ = read
    return partial(_look_up, key), partial(_give_one, read)


def _look_up(key: bytes, reader: ReplicaReader) -> tuple[KeyValue | None, int, int]:
    found = reader.get(key)  # first: it is what names the key (kv/strong/noting.py)
    return found, reader.revision, reader.term


def _give_one(get: Get, answer: tuple[KeyValue | None, int, int] | JanusError) -> None:
    _, asker, give = get
    if isinstance(answer, JanusError):
        give([asker], answer, 0, 0)
    else:
        found, revision, term = answer
        give([asker], [found], revision, term)


def _key(read: Pair | Get) -> bytes:
    return read[0] if len(read) == 3 else key_of_read(read[0])


def _stopping() -> StoppingError:
    return StoppingError("this node is stopping")
