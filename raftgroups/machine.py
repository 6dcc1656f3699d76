"""The machine of a shard: commands in, in the order of the log; results and events out.

    payload --- commands.py ---> token known? --- dedupe.py ---> the answer of the first try
                                     | no
                                 execute: Shard (storage/mvcc.py), leases, keys' own TTLs
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

What applying changed waits in the parts (shard, leases, TTLs, dedupe) and goes with `prepare` into
one batch, together with the machine's own record:

    MACHINE   group u64, "head" -> clock u64, TTL count u64, next token order u64, forgotten id

The parts read from `source`: the newest committed state, which `after_commit` renews.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from functools import partial
from struct import Struct
from typing import Any, Final, Protocol, TypeVar

from raftgroups import lineage, twophase
from raftgroups import txn as txns
from raftgroups.commands import (
    Absorb,
    BatchWrite,
    Cas,
    Command,
    Compact,
    Decide,
    Delete,
    Expire,
    Finish,
    Freeze,
    Increment,
    LeaseEnd,
    LeaseForget,
    LeaseGrant,
    LeaseKeepAlive,
    LeaseRevoke,
    MergeAbort,
    MergeBegin,
    Prepare,
    Push,
    Put,
    Range,
    Resolve,
    SetTtl,
    Split,
    Thaw,
    Tick,
    Token,
    Txn,
    UnderLease,
    decode_body,
    open_envelope,
)
from raftgroups.dedupe import ANSWER_MAX_BYTES, Dedupe, Limits
from raftgroups.intents import Intents
from raftgroups.keyttl import KeyTtls
from raftgroups.lease import Leases, lease_missing
from raftgroups.lineage import Change, Neighbours, nobody
from raftgroups.machine_api import StateMachine
from raftgroups.operations import ConditionFailedError, Operations, run_batch, set_ttl
from raftgroups.ranges import read
from raftgroups.refusals import (
    AnswerNotKeptError,
    LeaseFencedError,
    LockedError,
    ReplicaAheadError,
    UnknownCommandError,
)
from raftgroups.results import (
    REFUSALS,
    BatchResult,
    CasResult,
    CompactResult,
    DeleteResult,
    ExpireResult,
    IncrementResult,
    KeepAliveResult,
    LeaseEndResult,
    LeaseResult,
    PutResult,
    RangeAnswer,
    Result,
    TickResult,
    TtlResult,
    TxnResult,
    decode_result,
    encode_result,
    failure_of,
)
from storage.codec import Table, key_u64, seal, unseal
from storage.engine import Batch, Reader
from storage.errors import WrongShardError
from storage.mvcc import Divided, Shard
from storage.mvcc_scope import WriteScope
from storage.mvcc_view import View
from storage.slices import Range as RowRange

T = TypeVar("T")

HEAD: Final = b"head"
EPOCH: Final = b"lease"
NO_KEYSPACE: Final = 0
_HEAD: Final = Struct(">QQQ")

ENDED_LIMIT: Final = 256


class _EveryLease:
    def __contains__(self, lease: object) -> bool:
        return True


EVERY_LEASE: Final = _EveryLease()

Observer = Callable[[int, Sequence[bytes]], None]
"""(revision, its events in order, as storage/mvcc_records.py event_of reads them), once for each
revision, in order, after it was applied. It must not raise, and not call the machine's apply."""


class CommittedState(Protocol):
    """storage/latest.py."""

    def __call__(self) -> Reader: ...

    def renew(self) -> None: ...


@dataclass(frozen=True, slots=True)
class ShardPlace:
    """Which shard of which group; the rest is for a shard that is new: one that the engine holds
    is as it stands there."""

    group: int
    shard: int
    keyspace: int
    segment: int
    start: bytes = b""
    end: bytes | None = None

    @classmethod
    def stored(cls, shard: int) -> ShardPlace:
        """A shard whose group has the same number, and that is never formed here: it was, or it was
        born by a split, or it joins and waits for its snapshot. Until then it holds no key, and its
        machine owns no rows of any keyspace."""
        return cls(shard, shard, NO_KEYSPACE, 0, b"", b"")


class ShardMachine:
    """A StateMachine (machine_api.py). Invariant: between two calls no write scope is open."""

    def __init__(
        self,
        source: CommittedState,
        place: ShardPlace,
        *,
        observer: Observer | None = None,
        limits: Limits | None = None,
    ) -> None:
        """As the engine holds it, or empty; `restored` reads it again."""
        self._source = source
        self._place = place
        self._limits = limits
        self.observer = observer
        self._head_key: Final = key_u64(Table.MACHINE, place.group, HEAD)
        self._epoch_key: Final = key_u64(Table.MACHINE, place.group, EPOCH)
        self._written_epoch = 0
        self._head = b""
        """The body of the head as written last."""
        self._trusting = False
        """The command that is being executed was checked at the home of its leases."""
        self._wall_ms = 0
        """Of the entry that is being applied; means nothing between two entries."""
        self._ranges: tuple[RowRange, ...] = ()
        self.neighbours: Neighbours = nobody
        self._births: list[Batch] = []
        """The rows of the shards that were divided off or absorbed since the last prepare."""
        self._change: Change | None = None
        self._gated = False
        """Frozen, or something is locked (twophase.py): entries are looked at more closely."""
        self._load()

    def _load(self) -> None:
        place, source = self._place, self._source
        reader = source()
        self.shard = Shard.load(source, place.shard) or self._new_shard()
        keyspace = self.shard.state.keyspace
        self.leases = Leases(keyspace)
        if self.is_home:
            self.leases.load(reader)
        self.ttls = KeyTtls(source, keyspace)
        self._bound()
        self.dedupe = Dedupe(place.shard, self._limits)
        self.dedupe.load(reader)
        self.intents = Intents(place.shard)
        self.intents.load(reader)
        self.gate()
        self.clock_ms = 0
        self._head = b""
        record = reader.get(self._epoch_key)
        if record is not None:
            self.leases.epoch = int.from_bytes(unseal(self._epoch_key, record), "big")
        self._written_epoch = self.leases.epoch
        record = reader.get(self._head_key)
        if record is not None:
            self._head = body = unseal(self._head_key, record)
            self.clock_ms, self.ttls.count, self.dedupe.next_order = _HEAD.unpack_from(body)
            self.dedupe.forgotten = body[_HEAD.size :]

    @property
    def is_home(self) -> bool:
        """The keyspace's first shard has its leases."""
        own = self.shard.view.segments.own
        return own.start == b"" != own.end

    def _bound(self) -> None:
        own = self.shard.view.segments.own
        self.ttls.bound(own.start, own.end)

    def _new_shard(self) -> Shard:
        place = self._place
        return Shard.create(
            self._source,
            shard=place.shard,
            keyspace=place.keyspace,
            segment=place.segment,
            start=place.start,
            end=place.end,
        )

    # --- the log ---

    def apply(self, index: int, payload: bytes) -> Result:
        state = self.shard.state
        if index != state.applied_index:
            self.shard.mark_applied(index)
        try:
            clock_ms, self._wall_ms, token, body = open_envelope(payload)
            if self._gated:
                return self._apply_gated(clock_ms, token, body, payload[0])
            if clock_ms > self.clock_ms:
                self.clock_ms = clock_ms
            if token is not None:
                return self._apply_once(token, body, payload[0])
            return self._execute(decode_body(body, payload[0]))
        except REFUSALS as error:
            return failure_of(error, state.revision)

    def gate(self) -> None:
        """After what may have changed whether it is frozen, or anything locked."""
        self._gated = bool(self.shard.state.frozen_by) or bool(self.intents)

    def _apply_gated(self, clock_ms: int, token: Token | None, body: bytes, version: int) -> Result:
        if self.shard.state.frozen_by:
            return self._thaw_only(decode_body(body, version))
        self.clock_ms = max(self.clock_ms, clock_ms)
        if token is not None:
            return self._apply_once(token, body, version)
        return self._execute_unlocked(decode_body(body, version))

    def _execute_unlocked(self, command: Command) -> Result:
        result = self._execute(twophase.check_unlocked(self, command))
        self.gate()
        return result

    def _thaw_only(self, command: Command) -> Result:
        """What a frozen shard is and remembers stays as it is, its clock too: every replica is
        absorbed as it stood at the same entry."""
        if isinstance(command, Thaw | Freeze):
            return self._execute(command)
        raise self.shard.view.wrong_shard("this command is")

    def _apply_once(self, token: Token, body: bytes, version: int) -> Result:
        dedupe = self.dedupe
        dedupe.prune(self.clock_ms)
        known = dedupe.answer(token)
        if known is not None:
            return decode_result(known)
        try:
            command = decode_body(body, version)
            execute = self._execute_unlocked if self._gated else self._execute
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

    def _execute(self, command: Command) -> Result:
        if type(command) is Put:  # by far the most frequent
            return self._put(command)
        return _HANDLERS[type(command)](self, command)

    def _emit(self) -> None:
        """Tell the observer of the revision that was just made."""
        if self.observer is not None:
            layer = self.shard.view.layers[0]
            self.observer(layer.last_revision, layer.events[layer.starts[-1] :])

    # --- splits and merges (lineage.py) ---

    def born(self, right: Divided, ttls: int) -> None:
        """By a split, from what this machine is now."""
        batch = Batch()
        right.write(batch)
        shard = right.state.shard
        rows = self.intents.divide(right.segments.own.start, shard)
        for key, record in (*self.dedupe.rows_for(shard), *rows):
            batch.put(key, record)
        key = key_u64(Table.MACHINE, shard, EPOCH)
        batch.put(key, seal(key, self.leases.epoch.to_bytes(8, "big")))
        key = key_u64(Table.MACHINE, shard, HEAD)
        batch.put(key, seal(key, self._head_body(ttls)))
        self._births.append(batch)
        self._changed(Change(born=(shard,)))
        self._bound()

    def ended(self, right: ShardMachine) -> None:
        """By a merge: what was that shard's alone goes with this one's next batch."""
        batch = Batch()
        Divided(right.shard.state, right.shard.view.segments).erase(batch)
        batch.delete_range(*right.dedupe.owned_range())
        batch.delete_range(*right.intents.owned_range())
        batch.delete(right._head_key)
        batch.delete(right._epoch_key)
        self._births.append(batch)
        self.leases.epoch = max(self.leases.epoch, right.leases.epoch)
        self._changed(Change(ended=(right.shard.state.shard,)))
        self._bound()

    def _changed(self, more: Change) -> None:
        before = self._change or Change()
        self._change = Change((*before.born, *more.born), (*before.ended, *more.ended))

    def take_change(self) -> Change | None:
        change, self._change = self._change, None
        return change

    @property
    def absorbed(self) -> Sequence[int]:
        return self.shard.state.absorbed

    @property
    def frozen(self) -> bool:
        return bool(self.shard.state.frozen_by)

    def may_absorb(self, right: StateMachine) -> bool:
        return isinstance(right, ShardMachine) and lineage.may_absorb(self, right)

    def why_no_change(self) -> str | None:
        state = self.shard.state
        if not (state.frozen_by or state.merging_with):
            return None
        return f"shard {state.shard} takes part in a merge; finish or abort that first"

    def close(self) -> None:
        self._source.renew()

    # --- writes ---

    def _put(self, command: Put) -> PutResult:
        if command.ignore_value or command.ignore_lease or command.ttl_ms or command.lease:
            txns.check_put(command)
            if command.lease and command.lease not in self._attachable:
                raise lease_missing(command.lease)
            txns.check_put_state(self.shard.view, command, self._attachable)
            return self._in_scope(lambda operations: operations.put(command))
        wall_ms = self._wall_ms
        previous = self.shard.put(
            command.key, command.value, wall_ms, want_previous=command.want_previous
        )
        if self.observer is not None:
            self._emit()
        return PutResult(self.shard.state.revision, previous, wall_ms)

    def _in_scope(self, act: Callable[[Operations], T]) -> T:
        """Several operations as one revision; if one raises, none."""
        shard = self.shard
        before = shard.state.revision
        with shard.begin(self._wall_ms) as scope:
            operations = self._operations(scope.view, scope)
            result = act(operations)
        if shard.state.revision != before:
            operations.set_ttls(shard.state.revision)
            self._emit()
        return result

    def open_scope(self) -> tuple[WriteScope, Operations]:
        """For who closes it within the same call: by `close_scope`, or the scope's abort."""
        scope = self.shard.begin(self._wall_ms)
        return scope, self._operations(scope.view, scope)

    def close_scope(self, scope: WriteScope, operations: Operations) -> None:
        before = self.shard.state.revision
        scope.commit()
        if self.shard.state.revision != before:
            operations.set_ttls(self.shard.state.revision)
            self._emit()

    def _operations(self, view: View, scope: WriteScope | None = None) -> Operations:
        return Operations(view, scope, self._attachable, self.ttls, self.clock_ms)

    def _delete(self, command: Delete) -> DeleteResult:
        return self._in_scope(lambda operations: operations.delete(command))

    def _increment(self, command: Increment) -> IncrementResult:
        return self._in_scope(lambda operations: operations.increment(command))

    def _cas(self, command: Cas) -> CasResult:
        return self._in_scope(lambda operations: operations.compare_and_set(command))

    def _txn(self, command: Txn) -> TxnResult:
        txns.validate(command)
        view = self.shard.view
        path = txns.choose(view, command)
        txns.check(view, command, path, self._attachable)
        if all(isinstance(taken, Range) for taken in txns.taken_operations(command, path)):
            return txns.run(self._operations(view), command, path)
        return self._in_scope(lambda operations: txns.run(operations, command, path))

    def _batch(self, command: BatchWrite) -> BatchResult:
        try:
            return self._in_scope(lambda operations: run_batch(operations, command))
        except ConditionFailedError as failed:
            revision = self.shard.state.revision
            answer = CasResult(revision, False, failed.answer.current)
            return BatchResult(revision, failed.place, (answer,))

    def _compact(self, command: Compact) -> CompactResult:
        self.shard.compact(command.revision)
        return CompactResult(self.shard.state.revision)

    # --- time ---

    def _grant(self, command: LeaseGrant) -> LeaseResult:
        lease = self.leases.grant(command.lease, command.ttl_s, self.clock_ms)
        return LeaseResult(self.shard.state.revision, command.lease, lease.ttl_s)

    def _revoke(self, command: LeaseRevoke) -> LeaseResult:
        if command.lease not in self.leases:
            raise lease_missing(command.lease)
        self._end_lease(command.lease)
        return LeaseResult(self.shard.state.revision, command.lease, 0)

    def _keep_alive(self, command: LeaseKeepAlive) -> KeepAliveResult:
        ttls_s = tuple(self.leases.keep_alive(lease, self.clock_ms) for lease in command.leases)
        return KeepAliveResult(self.shard.state.revision, ttls_s)

    def _tick(self, command: Tick) -> TickResult:
        self.dedupe.prune(self.clock_ms)
        return TickResult(self.shard.state.revision, self.clock_ms)

    def _expire(self, command: Expire) -> ExpireResult:
        """Each lease is one revision, as in etcd; the keys with a TTL of their own are another."""
        over = [lease for lease in command.leases if self.leases.is_over(lease, self.clock_ms)]
        ended = list(dict.fromkeys(over))
        for lease in ended:
            self._end_lease(lease)
        keys = self._expire_keys(sorted(set(command.keys)))
        return ExpireResult(self.shard.state.revision, len(ended), keys)

    def _expire_keys(self, keys: list[bytes]) -> int:
        """Those still bound to their TTL are deleted; what others left of theirs is removed."""
        over: list[bytes] = []
        bound: list[Delete] = []
        for key in keys:
            ttl = self.ttls.get(key)
            if ttl is None or ttl.deadline_ms > self.clock_ms:
                continue
            over.append(key)
            record = self.shard.view.get(key)
            if record is not None and record.mod_revision == ttl.mod_revision:
                bound.append(Delete(key))
        self._in_scope(lambda operations: [operations.delete(each) for each in bound])
        for key in over:
            self.ttls.remove(key)
        return len(bound)

    def _end_lease(self, lease: int) -> None:
        self._in_scope(lambda operations: self._delete_attached(operations, lease))
        if self.shard.view.segments.own.end is None:
            self.leases.remove(lease)
        else:
            self.leases.remove_everywhere(lease)

    # --- leases of other shards (lease.py) ---

    def _lease_end(self, command: LeaseEnd) -> LeaseEndResult:
        own, state = self.shard.view.segments.own, self.shard.state
        keys = 0
        for lease in command.leases:
            if lease not in self.leases:  # at home, it may have been granted again
                attached = len(self.lease_keys(lease))
                self._in_scope(partial(self._delete_attached, lease=lease))
                keys += attached
        self.leases.epoch = max(self.leases.epoch, command.epoch)
        return LeaseEndResult(state.revision, keys, own.start, own.end)

    def _lease_forget(self, command: LeaseForget) -> KeepAliveResult:
        for lease in command.leases:
            self.leases.forget(lease)
        return KeepAliveResult(self.shard.state.revision, ())

    def _under_lease(self, command: UnderLease) -> Result:
        if self.is_home:
            return self._execute(command.command)
        if command.epoch < self.leases.epoch:
            raise LeaseFencedError(
                f"the leases were looked at in epoch {command.epoch}, and some have ended by epoch "
                f"{self.leases.epoch}; look again, and try again"
            )
        self._trusting = True
        try:
            return self._execute(command.command)
        finally:
            self._trusting = False

    @property
    def _attachable(self) -> Container[int]:
        """The leases to which keys may be attached now."""
        return EVERY_LEASE if self._trusting else self.leases

    def ended_elsewhere(self) -> LeaseEnd | None:
        """What to propose to every shard of the keyspace, this one included, until the whole of it
        has answered; then LeaseForget here. Named again until then."""
        ended = sorted(self.leases.ended)[:ENDED_LIMIT]
        return LeaseEnd(tuple(ended), self.leases.epoch) if ended else None

    def _delete_attached(self, operations: Operations, lease: int) -> None:
        for key in self.lease_keys(lease):
            operations.delete(Delete(key))

    def _set_ttl(self, command: SetTtl) -> TtlResult:
        version = set_ttl(self.shard.view, self.ttls, command.key, command.ttl_ms, self.clock_ms)
        return TtlResult(self.shard.state.revision, version, command.ttl_ms if version else 0)

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
        return self._txn(txn)

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

    # --- the turn, snapshots ---

    def prepare(self, batch: Batch) -> None:
        self.shard.prepare(batch)
        self.leases.write(batch)
        self.ttls.write(batch)
        self.dedupe.write(batch)
        self.intents.write(batch)
        for birth in self._births:
            batch.extend(birth)
        self._births.clear()
        epoch = self.leases.epoch
        if epoch != self._written_epoch:
            batch.put(self._epoch_key, seal(self._epoch_key, epoch.to_bytes(8, "big")))
            self._written_epoch = epoch
        head = self._head_body(self.ttls.count)
        if head != self._head:
            batch.put(self._head_key, seal(self._head_key, head))
            self._head = head

    def _head_body(self, ttls: int) -> bytes:
        dedupe = self.dedupe
        return _HEAD.pack(self.clock_ms, ttls, dedupe.next_order) + dedupe.forgotten

    def after_commit(self) -> None:
        self._source.renew()
        self.shard.after_commit()
        self.ttls.after_commit()

    def owned_ranges(self) -> Sequence[RowRange]:
        if self._ranges:
            return self._ranges
        if self.shard.state.keyspace == NO_KEYSPACE:
            return []
        head_end = self._head_key + b"\x00"
        ranges = [*self.shard.owned_ranges(), *self.ttls.owned_ranges()]
        if self.is_home:
            ranges += self.leases.owned_ranges()
        ranges.append((self._epoch_key, self._epoch_key + b"\x00"))
        own = (self.dedupe.owned_range(), self.intents.owned_range(), (self._head_key, head_end))
        return sorted([*ranges, *own])

    def reset(self) -> None:
        """Until `restored` there is nothing here to read; owned_ranges are those of the old data,
        which is about to be removed."""
        self._ranges = tuple(self.owned_ranges())
        place = self._place
        self.shard = self._new_shard()
        self.leases = Leases(place.keyspace)
        self.ttls = KeyTtls(self._source, place.keyspace)
        self._bound()
        self.dedupe = Dedupe(place.shard, self._limits)
        self.intents = Intents(place.shard)
        self.gate()
        self.clock_ms = 0
        self._births.clear()
        self._change = None

    def restored(self, index: int) -> None:
        self._ranges = ()
        self._source.renew()
        self._load()
        if self.shard.state.applied_index > index:
            raise ReplicaAheadError(
                f"shard {self._place.shard} holds entry {self.shard.state.applied_index} of the "
                f"log, but its group only {index}; restore this replica from another one"
            )


_HANDLERS: Final[dict[type, Callable[[ShardMachine, Any], Result]]] = {
    Delete: ShardMachine._delete,
    Txn: ShardMachine._txn,
    Compact: ShardMachine._compact,
    LeaseGrant: ShardMachine._grant,
    LeaseRevoke: ShardMachine._revoke,
    LeaseKeepAlive: ShardMachine._keep_alive,
    Tick: ShardMachine._tick,
    Expire: ShardMachine._expire,
    SetTtl: ShardMachine._set_ttl,
    Increment: ShardMachine._increment,
    Cas: ShardMachine._cas,
    BatchWrite: ShardMachine._batch,
    Split: lineage.split,
    MergeBegin: lineage.begin_merge,
    Freeze: lineage.freeze,
    Absorb: lineage.absorb,
    MergeAbort: lineage.abort_merge,
    Thaw: lineage.thaw,
    LeaseEnd: ShardMachine._lease_end,
    LeaseForget: ShardMachine._lease_forget,
    UnderLease: ShardMachine._under_lease,
    Prepare: twophase.prepare,
    Decide: twophase.decide,
    Resolve: twophase.resolve,
    Push: twophase.push,
    Finish: twophase.finish,
}
