"""Transactions over several shards: two-phase commit, as entries of the shards' own logs. Pure.

Whoever coordinates (kv) proposes each command to the group whose shard has the keys, only where
`Group.feature_level` is TXN_LEVEL or above. The anchor is one of the keys that are written.

    1 anchor's shard:  Prepare(lifetime)     -> PrepareResult: locked, and the record is pending
    2 other shards:    Prepare               -> PrepareResult
    3 anchor's shard:  Decide(taken, ...)    -> DecideResult: committed, if it was still pending
    4 other shards:    Resolve(committed)    -> ResolveResult: executed, the locks are gone
    5 anchor's shard:  Finish                -> the record is gone
    give up            Push, as the oldest; then Resolve(not committed) to each shard prepared

Locks. A Prepare locks what its part reads (shared) and writes (exclusive), ranges as such, so what
appears in a compared range is locked out, too. It changes no record, revision or event. What meets
a lock is refused, as LockedError, if it is a command of one shard, or told who is there (`blocked`)
if it is another Prepare; nobody waits in the machine. Expiry passes locked keys by until later.

The decision is the record. It stands under the anchor KEY, in whichever shard has that now.

    pending      Decide commits it; Push aborts it if its time is over or the asker is older
    committed    for good; it stays until every part is resolved
    none         it will never be committed. Aborting is removing

1 comes before 2, so wherever a part is met while no record is there, the transaction was aborted,
or all its parts were resolved: either way what is met may be dropped. A lock is therefore no
obstacle for longer than `lifetime_ms`, whoever died: push at the anchor, resolve what was met.

Exactly once. Prepare and Decide carry an idempotency token of the coordinator, each try of Prepare
another one; so a late copy of one that was executed finds its answer, and none makes a record anew.
Resolve, Push and Finish may come as often as they like. What a part answered is remembered under
(client, number) of the transaction, whoever resolved it. Where one shard absorbs another, what
both remember of one transaction is joined, so that half an answer never passes for the whole.

A client's own token is looked up with the first Prepare. While the transaction holds its locks no
second try of the client gets past the anchor; Decide remembers that it was done, Finish the answer.

Deadlock. Whoever is blocked by a younger one pushes it away (wound); the younger one waits, and
holds what it has, until it is pushed away or the older one is done. An attempt that was pushed away
begins anew under the same `stamp_ms`, so it becomes the oldest at last.

Reads. A read that meets an exclusive lock has read what was there before; that is right unless the
transaction was committed when the read was made. So it asks at the anchor afterwards: if it is
pending even then, the answer stands. If not, resolve here and read again: also where it is gone,
since it may have been committed then, and finished since.

Strictly serializable: all locks are held at the Decide, and none is released before it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from raftgroups.commands import (
    Cas,
    Command,
    Decide,
    Delete,
    Expire,
    Finish,
    Increment,
    LeaseEnd,
    LeaseRevoke,
    Piece,
    Prepare,
    Push,
    Put,
    Range,
    Resolve,
    Token,
)
from raftgroups.dedupe import ANSWER_MAX_BYTES
from raftgroups.footprint import Span, spans_of, spans_of_part
from raftgroups.intents import Part, Record
from raftgroups.operations import ConditionFailedError, Operations
from raftgroups.ranges import check_bounds_key, find
from raftgroups.refusals import AnswerNotKeptError, LockedError, TooManyTransactionsError
from raftgroups.results import (
    REFUSALS,
    DecideResult,
    FinishResult,
    Found,
    PartAnswer,
    PartFailure,
    PartResponse,
    PrepareResult,
    PushResult,
    ResolveResult,
    TxnStatus,
    decode_result,
    encode_result,
    failure_of,
)
from raftgroups.txn import check_put, check_put_state, holds_for
from raftgroups.txnref import TxnRef
from storage.errors import InvalidOptionError, WrongShardError

if TYPE_CHECKING:
    from raftgroups.machine import ShardMachine

LIFETIME_MAX_MS: Final = 600_000
OLDEST: Final = (-1, b"", 0)
"""The age that pushes everybody away: to give up one's own."""
YOUNGEST: Final = (2**63 - 1, b"", 0)
"""The age that pushes nobody away before its time."""

_NO_LEASES: Final[frozenset[int]] = frozenset()


# --- commands of one shard that meet locks ------------------------------------------------------


def check_unlocked(machine: ShardMachine, command: Command) -> Command:
    """The command, or what is left of an Expire. Raises LockedError."""
    if isinstance(command, Expire):
        return _without_locked(machine, command)
    spans = spans_of(command)
    if isinstance(command, LeaseRevoke):
        spans += _spans_of_lease(machine, command.lease)
    elif isinstance(command, LeaseEnd):
        for lease in command.leases:
            spans += _spans_of_lease(machine, lease)
    holders = machine.intents.conflicts(spans)
    if holders:
        raise locked_by(holders)
    return command


def locked_by(holders: list[TxnRef]) -> LockedError:
    first = holders[0]
    return LockedError(
        f"nothing was done: a transaction over several shards holds these keys (decided at key "
        f"{first.anchor!r}); ask again in a moment",
        holders,
    )


def _spans_of_lease(machine: ShardMachine, lease: int) -> list[Span]:
    return [(key, key + b"\x00", True) for key in machine.lease_keys(lease)]


def _without_locked(machine: ShardMachine, command: Expire) -> Expire:
    """The leader names again what is still over."""
    conflicts = machine.intents.conflicts
    leases = [e for e in command.leases if not conflicts(_spans_of_lease(machine, e))]
    keys = [key for key in command.keys if not conflicts([(key, key + b"\x00", True)])]
    return Expire(tuple(leases), tuple(keys))


# --- 1, 2 ---------------------------------------------------------------------------------------


def prepare(machine: ShardMachine, command: Prepare) -> PrepareResult:
    """Raises InvalidRequestError, WrongShardError."""
    state, intents = machine.shard.state, machine.intents
    spans = spans_of_part(command)
    _check(machine, command, spans)
    if command.asked is not None:
        known = machine.dedupe.answer(Token(*command.asked))
        if known is not None:
            return PrepareResult(state.revision, known=known)
    blocked = intents.conflicts(spans, command.txn.id)
    if blocked:
        return PrepareResult(state.revision, tuple(blocked))
    if intents.is_full:
        raise TooManyTransactionsError(
            f"shard {state.shard} holds locks of {len(intents.parts)} transactions over several "
            "shards already; ask again in a moment"
        )
    view = machine.shard.view
    compares = []
    for placed in command.compares:
        compare = placed.compare
        found = find(view, compare.key, compare.range_end)
        holds = Found.TRUE if holds_for(compare, found) else Found.FALSE
        compares.append((placed.place, int(holds if found else Found.NOTHING)))
    failures = [_try(machine, command, taken) for taken in (True, False)]
    part = Part(command.txn, tuple(spans), command.pieces, machine.clock_ms)
    before = intents.parts.get(command.txn.id)  # of a shard that was merged into this one
    intents.add(part if before is None else before.joined(part))
    machine.gate()
    if command.lifetime_ms:
        deadline_ms = machine.clock_ms + command.lifetime_ms
        intents.record(Record(command.txn, deadline_ms, command.asked))
    return PrepareResult(
        state.revision,
        compares=tuple(compares),
        failures=tuple(each for each in failures if each is not None),
    )


def _check(machine: ShardMachine, command: Prepare, spans: list[Span]) -> None:
    view = machine.shard.view
    for start, end, _ in spans:
        view.check_owns(start, end)
    if command.lifetime_ms:
        view.check_owned(command.txn.anchor)
    if not 0 <= command.lifetime_ms <= LIFETIME_MAX_MS or not spans:
        raise InvalidOptionError(
            f"a part of a transaction needs something to do and a lifetime of 0 to "
            f"{LIFETIME_MAX_MS} ms, not {command.lifetime_ms}"
        )
    for piece in command.pieces:
        operation = piece.operation
        if isinstance(operation, Put | Cas) and operation.lease:
            raise InvalidOptionError(
                "a transaction over several shards attaches no key to a lease; give the key a ttl "
                "of its own, or write it by itself"
            )
        if isinstance(operation, Range) and operation.revision:
            raise InvalidOptionError(
                "a transaction over several shards reads what is there now, not at a revision: "
                "each shard counts its own"
            )


def _try(machine: ShardMachine, command: Prepare, taken: bool) -> PartFailure | None:
    """Whether this branch can be executed. What it needs is locked, so it can be later, too."""
    pieces = [piece for piece in command.pieces if piece.taken == taken]
    if not any(_may_fail(piece) for piece in pieces):
        return None
    revision = machine.shard.state.revision
    scope, operations = machine.open_scope()
    place = 0
    try:
        for piece in pieces:
            place = piece.place
            _execute(operations, piece)
    except ConditionFailedError as failed:
        return PartFailure(taken, place, failed.answer.current)
    except WrongShardError:
        raise
    except REFUSALS as error:
        return PartFailure(taken, place, failure=failure_of(error, revision))
    finally:
        scope.abort()
    return None


def _may_fail(piece: Piece) -> bool:
    operation = piece.operation
    if isinstance(operation, Put):
        check_put(operation)
        return operation.ignore_value or operation.ignore_lease
    if isinstance(operation, Delete):
        check_bounds_key(operation.key)
        return False
    return not isinstance(operation, Range)


def _execute(operations: Operations, piece: Piece) -> PartResponse:
    operation = piece.operation
    if isinstance(operation, Range):
        return operations.range(operation)
    if isinstance(operation, Put):
        check_put_state(operations.view, operation, _NO_LEASES)
        return operations.put(operation)
    if isinstance(operation, Delete):
        return operations.delete(operation)
    if isinstance(operation, Increment):
        return operations.increment(operation)
    answer = operations.compare_and_set(operation)
    if not answer.succeeded:
        raise ConditionFailedError(piece.place, answer)
    return answer


# --- 3 to 5 -------------------------------------------------------------------------------------


def decide(machine: ShardMachine, command: Decide) -> DecideResult:
    intents, revision = machine.intents, machine.shard.state.revision
    txn = command.txn
    machine.shard.view.check_owned(txn.anchor)
    record = intents.records.get(txn.id)
    if record is None:
        return DecideResult(revision, False)
    if record.committed:
        return DecideResult(revision, True, record.taken)
    intents.record(
        Record(txn, record.deadline_ms, record.asked, True, command.taken, command.participants)
    )
    here = _resolve_here(machine, txn, True, command.taken)
    if record.asked is not None:
        note = AnswerNotKeptError(
            "this was done once, as a transaction over several shards; its answer is not kept "
            "(yet): ask again in a moment, or read what you need"
        )
        token = Token(*record.asked)
        answer = encode_result(failure_of(note, here.revision))
        machine.dedupe.remember_if_new(token, machine.clock_ms, answer)
    return DecideResult(here.revision, True, command.taken, here)


def resolve(machine: ShardMachine, command: Resolve) -> ResolveResult:
    machine.shard.view.check_owned(command.key)
    return _resolve_here(machine, command.txn, command.committed, command.taken)


def _resolve_here(
    machine: ShardMachine, txn: TxnRef, committed: bool, taken: bool
) -> ResolveResult:
    own = machine.shard.view.segments.own
    token = Token(txn.client, txn.number)
    part = machine.intents.remove(txn.id)
    if part is None:
        known = machine.dedupe.kept(token)
        if known is not None:
            remembered = decode_result(known)
            if isinstance(remembered, ResolveResult):
                return replace(remembered, start=own.start, end=own.end)
        return ResolveResult(machine.shard.state.revision, own.start, own.end, False)
    if not committed:
        return ResolveResult(machine.shard.state.revision, own.start, own.end, True)
    pieces = [piece for piece in part.pieces if piece.taken == taken]
    scope, operations = machine.open_scope()
    try:
        answers = tuple(_answer(operations, piece) for piece in pieces)
        modified_ms = operations.modified_ms
    except BaseException:
        scope.abort()
        raise
    machine.close_scope(scope, operations)
    revision = machine.shard.state.revision
    result = ResolveResult(revision, own.start, own.end, True, answers, modified_ms)
    before = machine.dedupe.kept(token)
    if before is None:
        machine.dedupe.remember_if_new(token, machine.clock_ms, _kept(result))
        return result
    # A part of a shard that was merged into this one was resolved there, before.
    machine.dedupe.replace(token, joined_answers(_kept(result), before))
    earlier = decode_result(before)
    return result.joined(earlier) if isinstance(earlier, ResolveResult) else result


def _answer(operations: Operations, piece: Piece) -> PartAnswer:
    operation = piece.operation
    range_end = operation.range_end if isinstance(operation, Range | Delete) else b""
    return PartAnswer(piece.place, operation.key, _execute(operations, piece), range_end)


def _kept(result: ResolveResult) -> bytes:
    """What is remembered of it: of one that is too large, that it was done. Whoever joins answers
    sees that some are missing."""
    data = encode_result(result)
    return data if len(data) <= ANSWER_MAX_BYTES else encode_result(replace(result, answers=()))


def joined_answers(own: bytes, other: bytes) -> bytes:
    """For Dedupe.unite: both halves of a transaction's part were resolved, each in its shard."""
    first, second = decode_result(own), decode_result(other)
    if isinstance(first, ResolveResult) and isinstance(second, ResolveResult):
        return _kept(first.joined(second))
    return own


def push(machine: ShardMachine, command: Push) -> PushResult:
    intents, revision = machine.intents, machine.shard.state.revision
    txn = command.txn
    machine.shard.view.check_owned(txn.anchor)
    record = intents.records.get(txn.id)
    if record is None:
        return PushResult(revision, TxnStatus.GONE)
    if record.committed:
        return PushResult(revision, TxnStatus.COMMITTED, record.taken, record.participants)
    if record.deadline_ms > machine.clock_ms and command.age >= record.txn.age:
        return PushResult(revision, TxnStatus.PENDING)
    intents.forget(txn.id)
    intents.remove(txn.id)
    return PushResult(revision, TxnStatus.GONE)


def finish(machine: ShardMachine, command: Finish) -> FinishResult:
    intents = machine.intents
    machine.shard.view.check_owned(command.txn.anchor)
    record = intents.records.get(command.txn.id)
    if record is not None and record.committed:
        intents.forget(command.txn.id)
    if command.asked is not None and 0 < len(command.answer) <= ANSWER_MAX_BYTES:
        machine.dedupe.replace(Token(*command.asked), command.answer)
    return FinishResult(machine.shard.state.revision)
