"""The machine of a shard: commands in, in the order of the log; results and events out.

    payloads of an entry --- putrun.py ---> plain puts that follow one another: all at once
       | any other
       '-------- commands.py ---> token known? --- dedupe.py ---> the answer of the first try
                                     | no
                                 execute (handlers.py): Shard (storage/mvcc.py), leases, TTLs
                                     |                       |
                                  result                  observer(revision, events)

It is deterministic: the same payloads at the same indexes give the same results, events and rows on
every replica, wherever turns and crashes fall between them. Time comes with the payload (its clock
only ever raises the machine's), ids with the command, and the messages of refusals say nothing
about this replica.

The wall time of a payload is for people, and no rule looks at it: what the entry writes and answers
carries it as it stands there, even if it is before that of the entry before.

A client's error is a Failure. Whatever else is raised means that this replica cannot go on: a
damaged record, or a command of a version that it does not know (NewerCommandError); to pass that
one over would make it differ from the replicas that know it.

What it consists of, and its way to the disk and back: machine_parts.py.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from typing import Final, TypeVar

from raftgroups import lineage, twophase
from raftgroups import txn as txns
from raftgroups.commands import (
    FIRST_VERSION,
    Command,
    Expire,
    Freeze,
    LeaseEnd,
    Put,
    Range,
    Thaw,
    Token,
    Txn,
    decode_body,
    open_envelope,
)
from raftgroups.dedupe import ANSWER_MAX_BYTES, Limits
from raftgroups.handlers import HANDLERS, transact
from raftgroups.lease import lease_missing
from raftgroups.lineage import Neighbours, nobody
from raftgroups.machine_api import StateMachine
from raftgroups.machine_parts import CommittedState, MachineParts, ShardPlace
from raftgroups.operations import Operations
from raftgroups.putrun import plain_puts
from raftgroups.ranges import read
from raftgroups.refusals import (
    AnswerNotKeptError,
    LeaseFencedError,
    LockedError,
    UnknownCommandError,
)
from raftgroups.results import (
    REFUSALS,
    PutResult,
    RangeAnswer,
    Result,
    TxnResult,
    decode_result,
    encode_result,
    failure_of,
)
from storage.errors import WrongShardError
from storage.mvcc import PlainPut
from storage.mvcc_scope import WriteScope
from storage.mvcc_view import View

T = TypeVar("T")

ENDED_LIMIT: Final = 256
_FIRST: Final = bytes((FIRST_VERSION,))


class _EveryLease:
    def __contains__(self, lease: object) -> bool:
        return True


EVERY_LEASE: Final = _EveryLease()

Observer = Callable[[int, Sequence[bytes]], None]
"""(revision, its events in order, as storage/mvcc_records.py event_of reads them), once for each
revision, in order, after it was applied; revisions of plain puts behind it in the same entry may
have been applied already. It must not raise, and not call the machine's apply."""


class ShardMachine(MachineParts):
    """A StateMachine (machine_api.py). Invariant: between two calls no write scope is open."""

    def __init__(
        self,
        source: CommittedState,
        place: ShardPlace,
        *,
        observer: Observer | None = None,
        limits: Limits | None = None,
    ) -> None:
        super().__init__(source, place, limits)
        self.observer = observer
        self.neighbours: Neighbours = nobody
        self.trusting = False
        """The command that is being executed was checked at the home of its leases."""
        self._wall_ms = 0
        """Of the entry that is being applied; means nothing between two entries."""

    # --- the log ---

    def apply(self, index: int, payload: bytes) -> Result:
        return self.apply_each(index, (payload,))[0]

    def apply_each(self, index: int, payloads: Sequence[bytes]) -> list[Result]:
        """Plain puts that follow one another are one run, unless they must be looked at closely."""
        shard = self.shard
        if payloads and index != shard.state.applied_index:
            shard.mark_applied(index)
        results: list[Result] = []
        wanted = len(payloads)
        while (done := len(results)) < wanted:
            if not self._gated:
                puts, clock_ms = plain_puts(payloads, done)
                if puts:
                    if clock_ms > self.clock_ms:
                        self.clock_ms = clock_ms
                    self._put_each(puts, results)
                    continue
            results.append(self._apply_one(payloads[done]))
        return results

    def _apply_one(self, payload: bytes) -> Result:
        try:
            clock_ms, self._wall_ms, token, body = open_envelope(payload)
            if self._gated:
                return self._apply_gated(clock_ms, token, body, payload[0])
            if clock_ms > self.clock_ms:
                self.clock_ms = clock_ms
            if token is not None:
                return self._apply_once(token, body, payload[0])
            return self.execute(decode_body(body, payload[0]))
        except REFUSALS as error:
            return failure_of(error, self.shard.state.revision)

    def _apply_gated(self, clock_ms: int, token: Token | None, body: bytes, version: int) -> Result:
        if self.shard.state.frozen_by:
            return self._thaw_only(decode_body(body, version))
        self.clock_ms = max(self.clock_ms, clock_ms)
        if token is not None:
            return self._apply_once(token, body, version)
        return self._execute_unlocked(decode_body(body, version))

    def _execute_unlocked(self, command: Command) -> Result:
        result = self.execute(twophase.check_unlocked(self, command))
        self.gate()
        return result

    def _thaw_only(self, command: Command) -> Result:
        """What a frozen shard is and remembers stays as it is, its clock too: every replica is
        absorbed as it stood at the same entry."""
        if isinstance(command, Thaw | Freeze):
            return self.execute(command)
        raise self.shard.view.wrong_shard("this command is")

    def _apply_once(self, token: Token, body: bytes, version: int) -> Result:
        dedupe = self.dedupe
        dedupe.prune(self.clock_ms)
        known = dedupe.answer(token)
        if known is not None:
            return decode_result(known)
        try:
            command = decode_body(body, version)
            execute = self._execute_unlocked if self._gated else self.execute
            result = execute(command)
        except (UnknownCommandError, WrongShardError, LeaseFencedError, LockedError):
            raise  # nothing that a retry could repeat; it may go to the right shard
        except REFUSALS as error:
            result = failure_of(error, self.shard.state.revision)
        answer = encode_result(result)
        if len(answer) > ANSWER_MAX_BYTES:
            note = AnswerNotKeptError(
                f"this was done once, by revision {result.revision}; its answer of {len(answer)} "
                f"bytes is over the {ANSWER_MAX_BYTES} that are remembered; read what you need"
            )
            answer = encode_result(failure_of(note, result.revision))
        dedupe.remember(token, self.clock_ms, answer)
        return result

    def execute(self, command: Command) -> Result:
        if type(command) is Put:
            return self._put(command)
        return HANDLERS[type(command)](self, command)

    def _emit(self, before: int) -> None:
        """Tell the observer of the revisions that were made since this one."""
        if self.observer is not None:
            layer = self.shard.view.layers[0]
            for revision in range(before + 1, layer.last_revision + 1):
                self.observer(revision, layer.events_of(revision))

    # --- writes ---

    def _put_each(self, puts: list[PlainPut], results: list[Result]) -> None:
        """Add the answers of all of them, or of those up to the first that is refused."""
        state = self.shard.state
        before = state.revision
        try:
            self.shard.put_each(puts, results, PutResult)
        except REFUSALS as error:
            results.append(failure_of(error, state.revision))
        if self.observer is not None:
            self._emit(before)

    def _put(self, command: Put) -> PutResult:
        if command.ignore_value or command.ignore_lease or command.ttl_ms or command.lease:
            txns.check_put(command)
            if command.lease and command.lease not in self.attachable:
                raise lease_missing(command.lease)
            txns.check_put_state(self.shard.view, command, self.attachable)
            return self.in_scope(lambda operations: operations.put(command))
        shard, wall_ms = self.shard, self._wall_ms
        before = shard.state.revision
        previous = shard.put(command.key, command.value, wall_ms, command.want_previous)
        self._emit(before)
        return PutResult(before + 1, previous, wall_ms)

    def in_scope(self, act: Callable[[Operations], T]) -> T:
        """Several operations as one revision; if one raises, none."""
        shard = self.shard
        before = shard.state.revision
        with shard.begin(self._wall_ms) as scope:
            operations = self.operations(scope.view, scope)
            result = act(operations)
        if shard.state.revision != before:
            operations.set_ttls(shard.state.revision)
            self._emit(before)
        return result

    def open_scope(self) -> tuple[WriteScope, Operations]:
        """For who closes it within the same call: by `close_scope`, or the scope's abort."""
        scope = self.shard.begin(self._wall_ms)
        return scope, self.operations(scope.view, scope)

    def close_scope(self, scope: WriteScope, operations: Operations) -> None:
        before = self.shard.state.revision
        scope.commit()
        if self.shard.state.revision != before:
            operations.set_ttls(self.shard.state.revision)
            self._emit(before)

    def operations(self, view: View, scope: WriteScope | None = None) -> Operations:
        return Operations(view, scope, self.attachable, self.ttls, self.clock_ms)

    @property
    def attachable(self) -> Container[int]:
        """The leases to which keys may be attached now."""
        return EVERY_LEASE if self.trusting else self.leases

    def may_divide(self, payloads: Sequence[bytes]) -> bool:
        """What makes or ends groups was never of the first version."""
        return any(payload[:1] != _FIRST for payload in payloads)

    def may_absorb(self, right: StateMachine) -> bool:
        return isinstance(right, ShardMachine) and lineage.may_absorb(self, right)

    # --- reads, at any time between two calls ---

    @property
    def revision(self) -> int:
        return self.shard.state.revision

    @property
    def view(self) -> View:
        """For single keys, pages, events and digests: everything applied."""
        return self.shard.view

    def range(self, operation: Range) -> RangeAnswer:
        """Raises InvalidRequestError, CompactedError, FutureRevisionError, WrongShardError."""
        return read(self.shard.view, operation)

    def read_txn(self, txn: Txn) -> TxnResult:
        """A transaction that cannot write (txn.py: is_read_only), without the log."""
        assert txns.is_read_only(txn)
        return transact(self, txn)

    def lease_keys(self, lease: int) -> list[bytes]:
        """All keys of this shard that hang on a lease, in order."""
        keys: list[bytes] = []
        while page := self.shard.view.lease_keys(lease, keys[-1] if keys else None):
            keys += page
        return keys

    def ttl_remaining_ms(self, key: bytes, clock_ms: int) -> int | None:
        """What is left of a key's own time at this clock; None if it has none."""
        ttl = self.ttls.get(key)
        record = None if ttl is None else self.shard.view.get(key)
        if ttl is None or record is None or record.mod_revision != ttl.mod_revision:
            return None
        return max(0, ttl.deadline_ms - clock_ms)

    # --- for the leader ---

    @property
    def alive(self) -> bool:
        """Whether something has a deadline, so that the clock must go on."""
        return bool(len(self.leases) or self.ttls.count)

    def due(self, clock_ms: int) -> Expire | None:
        """What to propose at this clock; it is named again until it was applied. A full answer may
        not be all: ask again afterwards."""
        leases, keys = self.leases.due(clock_ms), self.ttls.due(clock_ms)
        return Expire(tuple(leases), tuple(keys)) if leases or keys else None

    def next_deadline_ms(self) -> int | None:
        deadlines = (self.leases.next_deadline_ms(), self.ttls.next_deadline_ms())
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    def ended_elsewhere(self) -> LeaseEnd | None:
        """What to propose to every shard of the keyspace, this one included, until the whole of it
        has answered; then LeaseForget here. Named again until then."""
        ended = sorted(self.leases.ended)[:ENDED_LIMIT]
        return LeaseEnd(tuple(ended), self.leases.epoch) if ended else None
