"""How a transaction over several shards is driven: who is asked what, in which order. Pure.

    PREPARE the anchor's part -> PREPARE the others, at once -> DECIDE at the anchor
        -> RESOLVE the others -> answered -> FINISH at the anchor, behind the answer
    blocked         SETTLE whoever is in the way, wounding the younger, and prepare again
    wounded, or cut anew by a split     ABORT, and begin anew under the same stamp
    deadline, refused, a condition      ABORT; nothing was done

raftgroups/twophase.py says why this is atomic. What is written here is a generator: it yields what
it wants and is sent what came of it, so the same code runs over sockets, in the simulation and in
tests by hand.

    yield (command, ...)    ask each of the shard that has its keys, all at once; sent a list of
                            results, each a Result or the JanusError that it ended with. A try that
                            may have been lost is made again by whoever drives, with the same token
    yield Pause(seconds)    sent an empty list
    yield Look()            go on by a newer map, if there is one; sent an empty list

Outcomes. Until DECIDE was asked nothing can have been done, whatever was lost. After that, what is
not known is asked at the anchor; if nobody answers there, the outcome is unknown.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any, Final, NamedTuple, Protocol, TypeVar

from kv.errors import OutcomeUnknownError, UnavailableError
from kv.router import CrossShardError
from kv.strong.parts import (
    Part,
    Plan,
    answer_of,
    branch_of,
    failed_batch,
    failure_of_branch,
    plan_of,
)
from raftgroups.commands import (
    BatchWrite,
    Bounds,
    Command,
    Decide,
    Finish,
    Prepare,
    Push,
    Resolve,
    Token,
    Txn,
)
from raftgroups.meta.view import ShardTable
from raftgroups.refusals import AnswerNotKeptError, TokenTooOldError, TooManyTransactionsError
from raftgroups.results import (
    CrossResult,
    DecideResult,
    Failure,
    PrepareResult,
    PushResult,
    ResolveResult,
    Result,
    TxnStatus,
    decode_result,
    encode_result,
    error_of,
)
from raftgroups.twophase import OLDEST, YOUNGEST
from raftgroups.txnref import TxnRef
from storage.errors import JanusError, Outcome, WrongShardError

PAUSE_S: Final = 0.01
PAUSE_MAX_S: Final = 0.1
BEYOND_DEADLINE_MS: Final = 1_000
"""How much longer than its request a transaction may hold its locks, whoever died."""
UNFINISHED_TRIES: Final = 20
"""How often an answer that another try of the client is about to have is waited for."""


class Pause(NamedTuple):
    seconds: float


class Look(NamedTuple):
    pass


Wanted = tuple[Command, ...] | Pause | Look
Answers = Sequence[Result | JanusError]
T = TypeVar("T")
Steps = Generator[Wanted, Answers, T]


class Ground(Protocol):
    """What the coordinator stands on; whoever drives gives it."""

    client: bytes
    """Its token client, unlike that of any other node or start."""

    def table(self) -> ShardTable:
        """Raises JanusError."""
        ...

    def number(self) -> int:
        """Never given before, not for a token either."""
        ...

    def over(self, number: int) -> None:
        """Nobody will ask for what is remembered under it any more."""
        ...

    def wall_ms(self) -> int: ...

    def left_ms(self) -> int:
        """Until the request's deadline."""
        ...


class _Again(Exception):  # noqa: N818 - no error: the attempt ends, the transaction goes on
    """Everything was given up; begin anew."""

    def __init__(self, why: str, *, look: bool = False) -> None:
        super().__init__(why)
        self.look = look


class _Stopped(Exception):  # noqa: N818 - as above
    """Nothing was done, and this is the answer."""

    def __init__(self, answer: Result | JanusError) -> None:
        super().__init__()
        self.answer = answer


class Crossing:
    """One request. `run` ends with its answer; `after` is what is left to do then, or None."""

    def __init__(self, command: Txn | BatchWrite, asked: Token | None, ground: Ground) -> None:
        self.command = command
        self._asked = None if asked is None else (asked.client, asked.sequence, asked.settled)
        self._ground = ground
        self._pause_s = PAUSE_S
        self.after: Steps[None] | None = None
        self.attempts = 0
        self._done_before: JanusError | None = None
        """What to say instead of "nothing was done": another try of the client has done it."""

    def run(self) -> Steps[Result | JanusError]:
        ground = self._ground
        stamp_ms = ground.wall_ms()
        while True:
            self.attempts += 1
            try:
                plan = plan_of(self.command, ground.table())
            except JanusError as error:
                return error
            number = ground.number()
            txn = TxnRef(ground.client, number, stamp_ms, plan.anchor)
            try:
                return (yield from self._attempt(txn, plan))
            except _Stopped as stopped:
                return self._true(stopped.answer)
            except _Again as again:
                if ground.left_ms() <= 0:
                    return self._true(_too_late(str(again)))
                yield Look() if again.look else Pause(self._next_pause())
            finally:
                if self.after is None:
                    ground.over(number)

    def _true(self, answer: Result | JanusError) -> Result | JanusError:
        none = isinstance(answer, JanusError) and answer.outcome is Outcome.NONE
        return self._done_before if none and self._done_before is not None else answer

    def _next_pause(self) -> float:
        self._pause_s = min(2 * self._pause_s, PAUSE_MAX_S)
        return self._pause_s

    # --- one attempt ----------------------------------------------------------------------------

    def _attempt(self, txn: TxnRef, plan: Plan) -> Steps[Result | JanusError]:
        tried: list[Part] = []
        try:
            first = yield from self._prepare_all(txn, plan.parts[:1], tried, anchor=True)
            others = yield from self._prepare_all(txn, plan.parts[1:], tried, anchor=False)
            prepared = [*first, *others]
            taken = branch_of(plan, prepared)
            self._check_branch(prepared, taken)
        except (_Again, _Stopped):
            yield from abort(txn, [part.bounds[0] for part in tried])
            raise
        return (yield from self._decide(txn, plan, taken))

    def _check_branch(self, prepared: Sequence[PrepareResult], taken: bool) -> None:
        failure = failure_of_branch(prepared, taken)
        if failure is None:
            return
        if failure.failure is not None:
            raise _Stopped(error_of(failure.failure))
        raise _Stopped(CrossResult(0, failed_batch(failure), ()))

    def _prepare_all(
        self, txn: TxnRef, parts: Sequence[Part], tried: list[Part], *, anchor: bool
    ) -> Steps[list[PrepareResult]]:
        """Raises _Again, _Stopped."""
        tried += parts
        prepared: dict[int, PrepareResult] = {}
        waiting, unfinished = list(range(len(parts))), 0
        while waiting:
            answers = yield tuple(self._prepare(txn, parts[place], anchor) for place in waiting)
            blocked: list[tuple[Part, TxnRef]] = []
            for place, answer in zip(waiting, answers, strict=True):
                good = _prepared(answer)
                if good.known is not None:
                    unfinished += 1
                    self._known(good.known, unfinished)
                elif good.blocked:
                    blocked += [(parts[place], holder) for holder in good.blocked]
                else:
                    prepared[place] = good
            waiting = [place for place in waiting if place not in prepared]
            if waiting and self._ground.left_ms() <= 0:
                raise _Stopped(_too_late("other transactions hold some of these keys"))
            cleared = yield from self._settle_all(txn, blocked)
            if waiting and not cleared:
                yield Pause(self._next_pause())
        return [prepared[place] for place in range(len(parts))]

    def _prepare(self, txn: TxnRef, part: Part, anchor: bool) -> Prepare:
        if not anchor:
            return Prepare(txn, part.pieces, part.compares)
        lifetime_ms = max(0, self._ground.left_ms()) + BEYOND_DEADLINE_MS
        return Prepare(txn, part.pieces, part.compares, lifetime_ms, self._asked)

    def _known(self, known: bytes, tries: int) -> None:
        """The client's token was executed. Returns if its answer may be there in a moment."""
        answer = decode_result(known)
        if isinstance(answer, Failure):
            if answer.code == AnswerNotKeptError.code and tries < UNFINISHED_TRIES:
                self._done_before = error_of(answer)
                return
            raise _Stopped(error_of(answer))
        raise _Stopped(answer)

    def _settle_all(self, txn: TxnRef, blocked: Sequence[tuple[Part, TxnRef]]) -> Steps[bool]:
        """Whether all who were in the way are gone."""
        if not blocked:
            return False
        cleared = True
        for part, holder in dict.fromkeys((part.bounds[0], holder) for part, holder in blocked):
            status = yield from settle(holder, part, txn.age)
            cleared &= status is not None and status != TxnStatus.PENDING
        return cleared

    # --- the decision and what follows ----------------------------------------------------------

    def _decide(self, txn: TxnRef, plan: Plan, taken: bool) -> Steps[Result | JanusError]:
        participants = tuple(part.bounds for part in plan.parts)
        (answer,) = yield (Decide(txn, taken, participants),)
        if isinstance(answer, DecideResult):
            if not answer.committed:
                yield from abort(txn, [bounds[0] for bounds in participants])
                raise _Again("an older transaction went first")
            here = [answer.here] if answer.here is not None else []
        elif isinstance(answer, JanusError) and answer.outcome is Outcome.NONE:
            yield from abort(txn, [bounds[0] for bounds in participants])
            return answer
        else:
            here = []
            (pushed,) = yield (Push(txn, OLDEST),)
            if not (isinstance(pushed, PushResult) and pushed.status == TxnStatus.COMMITTED):
                return _not_known(answer)
        rest = list(participants)
        if here:
            rest = [left for bounds in participants for left in beyond(bounds, here[0])]
        resolved, left = yield from resolve_all(txn, taken, rest)
        answered = None if left else answer_of(plan, taken, [*here, *resolved])
        self.after = self._finish(txn, taken, left, answered)
        if answered is not None:
            return answered
        return AnswerNotKeptError(
            "this was done, but what it answers could not be got in time; read what you need"
        )

    def _finish(
        self, txn: TxnRef, taken: bool, left: Sequence[Bounds], answered: CrossResult | None
    ) -> Steps[None]:
        try:
            if left:
                _, left = yield from resolve_all(txn, taken, left)
            if not left:
                kept = b"" if self._asked is None or answered is None else encode_result(answered)
                yield (Finish(txn, self._asked if kept else None, kept),)
        finally:
            self._ground.over(txn.number)


# --- parts of it, and what others do about transactions that they meet --------------------------


def settle(txn: TxnRef, key: bytes, age: tuple[int, bytes, int]) -> Steps[int | None]:
    """A TxnStatus: PENDING if it goes on, else its part in the shard of `key` is resolved now. None
    if that could not be found out or done."""
    (pushed,) = yield (Push(txn, age),)
    if not isinstance(pushed, PushResult):
        return None
    if pushed.status == TxnStatus.PENDING:
        return TxnStatus.PENDING
    committed = pushed.status == TxnStatus.COMMITTED
    (resolved,) = yield (Resolve(txn, committed, pushed.taken, key),)
    return pushed.status if isinstance(resolved, ResolveResult) else None


def vouch(met: Sequence[TxnRef], key: bytes) -> Steps[bool]:
    """Whether a read of the shard of `key`, which has met these, is good as it was made: none of
    them was committed then. Else they are out of its way now, as far as that could be done: read
    again. One that is gone may have been committed then, and finished since."""
    good = True
    for txn in met:
        status = yield from settle(txn, key, YOUNGEST)
        good &= status == TxnStatus.PENDING
    return good


def clear(txn: TxnRef, key: bytes, age: tuple[int, bytes, int]) -> Steps[None]:
    """Of one that nobody seems to drive any more: the same, and all of it if it is committed."""
    (pushed,) = yield (Push(txn, age),)
    if not isinstance(pushed, PushResult) or pushed.status == TxnStatus.PENDING:
        return
    if pushed.status == TxnStatus.GONE:
        yield (Resolve(txn, False, False, key),)
        return
    _, left = yield from resolve_all(txn, pushed.taken, pushed.participants)
    if not left:
        yield (Finish(txn),)


def resolve_all(
    txn: TxnRef, taken: bool, participants: Sequence[Bounds]
) -> Steps[tuple[list[ResolveResult], list[Bounds]]]:
    """Every part of a committed one, in whichever shards they lie by now: what they answered, and
    where somebody still has to."""
    resolved: list[ResolveResult] = []
    waiting, left = list(participants), []
    while waiting:
        answers = yield tuple(Resolve(txn, True, taken, start) for start, _ in waiting)
        following: list[Bounds] = []
        for (start, end), answer in zip(waiting, answers, strict=True):
            if not isinstance(answer, ResolveResult):
                left.append((start, end))
                continue
            resolved.append(answer)
            if answer.end is not None and answer.end > start and (end is None or answer.end < end):
                following.append((answer.end, end))
        waiting = following
    return resolved, left


def beyond(bounds: Bounds, done: ResolveResult) -> list[Bounds]:
    """What of it lies outside of the shard where this was done: it may have been split since."""
    start, end = bounds
    left: list[Bounds] = []
    if start < done.start:
        left.append((start, done.start if end is None else min(end, done.start)))
    if done.end is not None and (end is None or end > done.end):
        left.append((max(start, done.end), end))
    return left


def abort(txn: TxnRef, keys: Sequence[bytes]) -> Steps[None]:
    """One's own, before it was decided. What does not get there in time is cleared by others."""
    if keys:
        yield (Push(txn, OLDEST), *(Resolve(txn, False, False, key) for key in keys))


def _prepared(answer: Result | JanusError) -> PrepareResult:
    """Raises _Again, _Stopped."""
    if isinstance(answer, PrepareResult):
        return answer
    if isinstance(answer, WrongShardError | CrossShardError):
        raise _Again(str(answer), look=True)
    if isinstance(answer, TooManyTransactionsError):
        raise _Again(str(answer))
    if isinstance(answer, TokenTooOldError) or not isinstance(answer, JanusError):
        strange = UnavailableError("nothing was done: a shard's answer cannot be read here")
        raise _Stopped(answer if isinstance(answer, JanusError) else strange)
    if answer.outcome is Outcome.UNKNOWN:  # of a lock, which nobody will ever use
        raise _Stopped(UnavailableError(f"nothing was done: {answer}"))
    raise _Stopped(answer)


def _too_late(why: str) -> UnavailableError:
    return UnavailableError(f"nothing was done: {why}, and the time for it is over; ask again")


def _not_known(answer: Any) -> OutcomeUnknownError:
    return OutcomeUnknownError(
        f"it is not known whether this transaction was done: {answer}; read to find out, or give "
        "an idempotency token and ask again"
    )
