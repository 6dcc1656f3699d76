"""A shard's machine against a model of plain dicts: transactions, leases, TTLs, tokens, crashes.

The model keeps the whole map of every revision, leases and TTLs as dicts, and every answer to a
token for ever; it knows nothing of overlays, rows and turns. Which transactions are malformed it
takes from validate, which is held to the real etcd elsewhere.

The steps of a turn are rules of their own, so that crashes fall between them; after a crash the
entries behind the written index are applied again and must answer as they did. At the end a fresh
replica applies the whole log with other turns: equal answers, equal digest, equal rows.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from raftgroups.commands import (
    BatchWrite,
    Cas,
    Command,
    Compact,
    Compare,
    Delete,
    Expire,
    Increment,
    LeaseGrant,
    LeaseKeepAlive,
    LeaseRevoke,
    Put,
    Range,
    SetTtl,
    Tick,
    Token,
    Txn,
    decode,
    encode,
)
from raftgroups.machine import ShardMachine
from raftgroups.machine_parts import ShardPlace
from raftgroups.results import (
    BatchResult,
    CasResult,
    CompactResult,
    DeleteResult,
    ExpireResult,
    Failure,
    IncrementResult,
    KeepAliveResult,
    LeaseResult,
    PutResult,
    RangeAnswer,
    TickResult,
    TtlResult,
    TxnResult,
)
from raftgroups.txn import validate
from storage.clock import ManualClock
from storage.engine import Batch
from storage.errors import InvalidRequestError
from storage.latest import Latest
from storage.memory import MemoryEngine
from storage.mvcc_hash import ShardHash
from storage.mvcc_records import Event, KeyValue, event_of

PLACE = ShardPlace(group=4, shard=2, keyspace=7, segment=3)
RETENTION_MS = 600_000
NOTHING = KeyValue(b"", 0, 0, 0, 0, b"")


class RefusedError(Exception):
    pass


def need(condition: object, code: str) -> None:
    if not condition:
        raise RefusedError(code)


@dataclass
class Model:
    at: dict[int, dict[bytes, KeyValue]] = field(default_factory=lambda: {1: {}})
    events: dict[int, list[Event]] = field(default_factory=dict)
    compacted: int = -1
    clock: int = 0
    wall: int = 0
    """Of the entry that is applied."""
    leases: dict[int, tuple[int, int]] = field(default_factory=dict)
    ttls: dict[bytes, int] = field(default_factory=dict)
    """Key -> deadline; gone as soon as the key changes."""
    answers: dict[tuple[bytes, int], tuple[int, Any]] = field(default_factory=dict)
    settled: dict[bytes, int] = field(default_factory=dict)
    now: dict[bytes, KeyValue] = field(default_factory=dict)
    """The map inside the revision that is being made."""
    made: list[Event] = field(default_factory=list)

    @property
    def revision(self) -> int:
        return max(self.at)

    @property
    def seen(self) -> int:
        return self.revision + bool(self.made)

    @property
    def modified(self) -> int:
        """Of the revision that is being made."""
        return self.wall if self.made else 0

    # --- one command ---

    def apply(self, command: Command, token: Token | None, clock: int, wall: int) -> Any:
        self.clock, self.wall = max(self.clock, clock), wall
        if token is None:
            return self.attempt(command)
        settled = self.settled.get(token.client, 0)
        if token.sequence < settled:
            return "token_too_old"
        known = self.answers.get(token[:2])
        if known is not None:
            answered_at, answer = known
            if answered_at > self.clock - RETENTION_MS:
                return answer
            return "token_too_old"
        forgotten = [
            sequence
            for (client, sequence), (then, _) in self.answers.items()
            if client == token.client and then <= self.clock - RETENTION_MS
        ]
        if forgotten and token.sequence < max(forgotten):
            return "token_too_old"
        answer = self.attempt(command)
        self.answers[token[:2]] = (self.clock, answer)
        self.settled[token.client] = max(settled, token.settled)
        return answer

    def do(self, command: Any) -> Any:
        return getattr(self, "on_" + type(command).__name__.lower())(command)

    def attempt(self, command: Command) -> Any:
        """The result, or the code of a refusal, which changes nothing."""
        self.now, self.made = dict(self.at[self.revision]), []
        ttls = dict(self.ttls)
        try:
            result = self.do(command)
        except RefusedError as refused:
            self.ttls, self.made = ttls, []
            return refused.args[0]
        self.commit()
        return result

    def commit(self) -> None:
        if self.made:
            revision = self.revision + 1
            self.at[revision], self.events[revision] = dict(self.now), self.made
            self.made = []

    # --- writes ---

    def set(self, key: bytes, value: bytes, lease: int = 0, ttl_ms: int = 0) -> None:
        old, revision = self.now.get(key), self.revision + 1
        create, version = (old.create_revision, old.version + 1) if old else (revision, 1)
        self.now[key] = new = KeyValue(key, create, revision, version, lease, value, self.wall)
        self.made.append(Event(False, new, old))
        self.ttls.pop(key, None)
        if ttl_ms:
            self.ttls[key] = self.clock + ttl_ms

    def drop(self, key: bytes) -> None:
        old = self.now.pop(key)
        gone = KeyValue(key, 0, self.revision + 1, 0, 0, b"", self.wall)
        self.made.append(Event(True, gone, old))
        self.ttls.pop(key, None)

    def inside(self, key: bytes, range_end: bytes, source: Any = None) -> list[KeyValue]:
        source = self.now if source is None else source
        if not range_end:
            return [source[key]] if key in source else []
        everything = range_end == b"\x00"
        return [source[k] for k in sorted(source) if k >= key and (everything or k < range_end)]

    def check_put(self, put: Put) -> None:
        need(not put.lease or put.lease in self.leases, "lease_not_found")
        keeps = put.ignore_value or put.ignore_lease
        need(not keeps or put.key in self.now, "key_not_found")

    def on_put(self, put: Put) -> PutResult:
        self.check_put(put)
        old = self.now.get(put.key)
        value, lease = put.value, put.lease
        if put.ignore_value or put.ignore_lease:
            need(old, "key_not_found")
            value = old.value if put.ignore_value else value
            lease = old.lease if put.ignore_lease else lease
        self.set(put.key, value, lease, put.ttl_ms)
        return PutResult(self.seen, old if put.want_previous else None, self.modified)

    def on_delete(self, delete: Delete) -> DeleteResult:
        found = self.inside(delete.key, delete.range_end)
        for record in found:
            self.drop(record.key)
        previous = tuple(found) if delete.want_previous else ()
        return DeleteResult(self.seen, len(found), previous, self.modified)

    def on_range(self, read: Range) -> RangeAnswer:
        source = self.at[read.revision] if read.revision > 0 else self.now
        found = self.inside(read.key, read.range_end, source)
        kept = found[: read.limit] if read.limit > 0 else found
        return RangeAnswer(self.seen, tuple(kept), len(kept) < len(found), len(found))

    def on_increment(self, command: Increment) -> IncrementResult:
        old = self.now.get(command.key)
        need(old is None or re.fullmatch(rb"-?[0-9]+", old.value), "not_an_integer")
        number = command.delta + int(old.value if old else 0)
        left = self.ttls.get(command.key)
        self.set(command.key, str(number).encode(), old.lease if old else 0)
        if left is not None:
            self.ttls[command.key] = left
        return IncrementResult(self.seen, number, self.modified)

    def on_cas(self, command: Cas) -> CasResult:
        need(not command.lease or command.lease in self.leases, "lease_not_found")
        old = self.now.get(command.key)
        version = old.mod_revision if old else 0
        if command.expected_revision not in (-1, version) or (
            command.expected_value is not None
            and (old is None or old.value != command.expected_value)
        ):
            return CasResult(self.seen, False, old, self.modified)
        if command.value is not None:
            self.set(command.key, command.value, command.lease, command.ttl_ms)
        elif old:
            self.drop(command.key)
        return CasResult(self.seen, True, old, self.modified)

    def on_batchwrite(self, batch: BatchWrite) -> BatchResult:
        results: list[Any] = []
        ttls = dict(self.ttls)
        for place, operation in enumerate(batch.operations):
            answer = self.do(operation)
            if isinstance(answer, CasResult) and not answer.succeeded:
                self.ttls, self.made = ttls, []
                failed = CasResult(self.revision, False, answer.current)
                return BatchResult(self.revision, place, (failed,))
            results.append(answer)
        return BatchResult(self.seen, -1, tuple(results), self.modified)

    # --- transactions ---

    def on_txn(self, txn: Txn) -> TxnResult:
        try:
            validate(txn)
        except InvalidRequestError as error:
            raise RefusedError(error.code) from error
        before = dict(self.now)
        self.check_taken(txn, before)
        return self.run(txn, before)

    def holds(self, compare: Compare, before: dict[bytes, KeyValue]) -> bool:
        found = self.inside(compare.key, compare.range_end, before)
        if not found and compare.target == 3:
            return False
        place = (3, 1, 2, 5, 4)[compare.target]
        for record in found or [NOTHING]:
            left: Any = record[place]
            right: Any = compare.operand
            if (left == right, left > right, left < right, left != right)[compare.result] is False:
                return False
        return True

    def taken(self, txn: Txn, before: dict[bytes, KeyValue]) -> tuple[bool, tuple[Any, ...]]:
        succeeded = all(self.holds(compare, before) for compare in txn.compares)
        return succeeded, txn.then if succeeded else txn.otherwise

    def check_taken(self, txn: Txn, before: dict[bytes, KeyValue]) -> None:
        for operation in self.taken(txn, before)[1]:
            if isinstance(operation, Txn):
                self.check_taken(operation, before)
            elif isinstance(operation, Put):
                need(not operation.ignore_value or operation.key in before, "key_not_found")
                need(not operation.ignore_lease or operation.key in before, "key_not_found")
                need(not operation.lease or operation.lease in self.leases, "lease_not_found")
            elif isinstance(operation, Range):
                need(operation.revision <= self.revision, "future_revision")
                read = operation.revision
                need(not read or read >= self.compacted, "compacted")

    def run(self, txn: Txn, before: dict[bytes, KeyValue]) -> TxnResult:
        succeeded, operations = self.taken(txn, before)
        answers = tuple(
            self.run(operation, before) if isinstance(operation, Txn) else self.do(operation)
            for operation in operations
        )
        return TxnResult(self.seen, succeeded, answers, self.modified)

    # --- the rest ---

    def on_compact(self, command: Compact) -> CompactResult:
        need(command.revision > self.compacted, "compacted")
        need(command.revision <= self.revision, "future_revision")
        self.compacted = command.revision
        return CompactResult(self.revision)

    def on_leasegrant(self, command: LeaseGrant) -> LeaseResult:
        need(command.lease not in self.leases, "lease_exists")
        self.leases[command.lease] = (command.ttl_s, self.clock + 1000 * command.ttl_s)
        return LeaseResult(self.revision, command.lease, command.ttl_s)

    def end_lease(self, lease: int) -> None:
        for record in [self.now[key] for key in sorted(self.now)]:
            if record.lease == lease:
                self.drop(record.key)
        del self.leases[lease]
        self.commit()

    def on_leaserevoke(self, command: LeaseRevoke) -> LeaseResult:
        need(command.lease in self.leases, "lease_not_found")
        self.end_lease(command.lease)
        return LeaseResult(self.revision, command.lease, 0)

    def on_leasekeepalive(self, command: LeaseKeepAlive) -> KeepAliveResult:
        ttls = []
        for lease in command.leases:
            ttl_s, deadline = self.leases.get(lease, (0, 0))
            if deadline <= self.clock:
                ttls.append(0)
            else:
                ttls.append(ttl_s)
                self.leases[lease] = (ttl_s, self.clock + 1000 * ttl_s)
        return KeepAliveResult(self.revision, tuple(ttls))

    def on_tick(self, command: Tick) -> TickResult:
        return TickResult(self.revision, self.clock)

    def on_expire(self, command: Expire) -> ExpireResult:
        over = [x for x in command.leases if x in self.leases and self.leases[x][1] <= self.clock]
        for lease in over:
            self.end_lease(lease)
        keys = [key for key in sorted(command.keys) if self.ttls.get(key, 2**63) <= self.clock]
        for key in keys:
            self.drop(key)
        self.commit()
        return ExpireResult(self.revision, len(over), len(keys))

    def on_setttl(self, command: SetTtl) -> TtlResult:
        record = self.now.get(command.key)
        if record is None:
            return TtlResult(self.revision, 0, 0)
        self.ttls.pop(command.key, None)
        if command.ttl_ms:
            self.ttls[command.key] = self.clock + command.ttl_ms
        return TtlResult(self.revision, record.mod_revision, command.ttl_ms)


# --- commands ---

NUMBERS = (b"-1", b"0", b"7")
KEYS = st.sampled_from([b"a", b"a\x00", b"b", b"c", b"d" * 432])
ENDS = st.sampled_from([b"", b"", b"", b"\x00", b"b", b"c", b"e"])
VALUES = st.sampled_from([b"", b"x", *NUMBERS])
LEASES = st.sampled_from([1, 2, 3])
TTLS = st.sampled_from([0, 0, 1, 700, 3_000])
FLAGS = st.booleans()
PLAIN_PUTS = st.builds(Put, KEYS, VALUES, st.sampled_from([0, 0, 1, 2]), FLAGS, ttl_ms=TTLS)
KEEPING = st.builds(Put, KEYS, want_previous=FLAGS, ignore_value=st.just(True)) | st.builds(
    Put, KEYS, VALUES, ignore_lease=st.just(True), ttl_ms=TTLS
)
PUTS = PLAIN_PUTS | PLAIN_PUTS | KEEPING
DELETES = st.builds(Delete, KEYS, ENDS, FLAGS)
RANGES = st.builds(
    Range, KEYS, ENDS, limit=st.sampled_from([0, 1]), revision=st.sampled_from([0, 0, 0, 3, 9])
)
COMPARES = st.one_of(
    st.builds(Compare, KEYS, ENDS, st.just(3), st.integers(0, 3), VALUES),
    st.builds(
        Compare, KEYS, ENDS, st.sampled_from([0, 1, 2, 4]), st.integers(0, 3), st.integers(0, 6)
    ),
)


def txns(nested: st.SearchStrategy[Any]) -> st.SearchStrategy[Txn]:
    operations = st.lists(PUTS | DELETES | RANGES | nested, max_size=3).map(tuple)
    return st.builds(Txn, st.lists(COMPARES, max_size=2).map(tuple), operations, operations)


TXNS = txns(txns(DELETES))
CAS = st.builds(
    Cas,
    KEYS,
    st.none() | VALUES,
    st.sampled_from([-1, 0, 2, 5]),
    st.none() | VALUES,
    st.sampled_from([0, 1]),
    TTLS,
)
INCREMENTS = st.builds(Increment, KEYS, st.integers(-2, 2))
BATCHES = st.builds(
    BatchWrite,
    st.lists(PLAIN_PUTS | DELETES | CAS | INCREMENTS, min_size=1, max_size=4).map(tuple),
)
TIMED = st.one_of(
    st.builds(LeaseGrant, LEASES, st.integers(1, 4)),
    st.builds(LeaseRevoke, LEASES),
    st.builds(LeaseKeepAlive, st.lists(LEASES, max_size=3).map(tuple)),
    st.builds(SetTtl, KEYS, TTLS),
    st.builds(
        Expire,
        st.lists(LEASES, unique=True).map(tuple),
        st.lists(KEYS, unique=True).map(tuple),
    ),
    st.just(Tick()),
)
WRITES = PUTS | DELETES | TXNS | CAS | INCREMENTS | BATCHES
TOKENS = st.builds(
    lambda client, sequence, settled: Token(client, sequence, min(sequence, settled)),
    st.sampled_from([b"c", b"d"]),
    st.integers(0, 6),
    st.sampled_from([0, 0, 0, 2, 4]),
)


def same(result: Any, expected: Any) -> bool:
    return (result.code if isinstance(result, Failure) else result) == expected


class Replica:
    def __init__(self) -> None:
        self.engine = MemoryEngine()
        self.events: list[tuple[int, list[Event]]] = []
        self.open()

    def open(self) -> None:
        latest = Latest(self.engine, ManualClock())
        self.machine = ShardMachine(latest, PLACE, observer=self.observe)

    def observe(self, revision: int, bodies: Any) -> None:
        self.events.append((revision, [event_of(body) for body in bodies]))

    def turn(self) -> None:
        batch = Batch()
        self.machine.prepare(batch)
        self.engine.write(batch, sync=True)
        self.machine.after_commit()

    def finish(self) -> None:
        self.turn()
        while self.machine.shard.sweep_pending or self.machine.shard.dirty:
            self.turn()

    def rows(self) -> list[tuple[bytes, bytes]]:
        with self.engine.snapshot() as snapshot:
            return snapshot.scan().items


class ShardMachineModel(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.replica = Replica()
        self.log: list[bytes] = []
        self.results: list[Any] = []
        self.clock = self.wall = 0
        self.batch: Batch | None = None
        self.written = False

    # --- the log ---

    def propose(self, command: Command, token: Token | None = None) -> None:
        payload = encode(command, token, self.clock, self.wall)
        self.log.append(payload)
        result = self.replica.machine.apply(len(self.log), payload)
        self.results.append(result)
        expected = self.model.apply(command, token, self.clock, self.wall)
        assert same(result, expected), (command, token)

    @precondition(lambda self: self.batch is None)
    @rule(command=WRITES, token=st.none() | TOKENS)
    def write(self, command: Command, token: Token | None) -> None:
        self.propose(command, token)

    @precondition(lambda self: self.batch is None)
    @rule(command=TIMED, token=st.none() | TOKENS)
    def timed(self, command: Command, token: Token | None) -> None:
        self.propose(command, token)

    @precondition(lambda self: self.batch is None)
    @rule(data=st.data())
    def retry(self, data: st.DataObject) -> None:
        """The same bytes again, as a client that heard nothing sends them."""
        tokened = [payload for payload in self.log if decode(payload)[1] is not None]
        if tokened:
            command, token, *_ = decode(data.draw(st.sampled_from(tokened)))
            self.propose(command, token)

    @precondition(lambda self: self.batch is None)
    @rule(back=st.integers(-1, 5))
    def compact(self, back: int) -> None:
        self.propose(Compact(self.model.revision - back))

    @rule(
        step_ms=st.sampled_from([1, 600, 1_000, 5_000, RETENTION_MS]),
        wall=st.sampled_from([0, 7, 2**41, 2**41 - 9]),
    )
    def time_passes(self, step_ms: int, wall: int) -> None:
        """Wall clocks jump."""
        self.clock += step_ms
        self.wall = wall

    @precondition(lambda self: self.batch is None)
    @rule()
    def leader_expires_what_is_due(self) -> None:
        due = self.replica.machine.due(self.clock)
        leases = [x for x, (_, end) in self.model.leases.items() if end <= self.clock]
        keys = {key for key, end in self.model.ttls.items() if end <= self.clock}
        assert sorted(due.leases if due else ()) == sorted(leases)
        assert keys <= set(due.keys if due else ())
        if due:
            self.propose(due)
            assert self.replica.machine.due(self.clock) is None

    # --- turns and crashes ---

    @precondition(lambda self: self.batch is None)
    @rule()
    def prepare(self) -> None:
        self.batch, self.written = Batch(), False
        self.replica.machine.prepare(self.batch)

    @precondition(lambda self: self.batch is not None and not self.written)
    @rule()
    def commit(self) -> None:
        assert self.batch is not None
        self.replica.engine.write(self.batch, sync=True)
        self.written = True

    @precondition(lambda self: self.written)
    @rule()
    def after_commit(self) -> None:
        self.replica.machine.after_commit()
        self.batch, self.written = None, False

    @precondition(lambda self: self.batch is None)
    @rule()
    def turn(self) -> None:
        self.replica.turn()

    @rule()
    def crash(self) -> None:
        """Memory is gone; the log is applied again from what was written, with equal answers."""
        self.batch, self.written = None, False
        self.replica.open()
        machine = self.replica.machine
        written = machine.shard.state.applied_index
        machine.restored(written)
        self.replica.events = [e for e in self.replica.events if e[0] <= machine.revision]
        for index in range(written, len(self.log)):
            assert machine.apply(index + 1, self.log[index]) == self.results[index]

    # --- reading ---

    @rule(read=RANGES)
    def read(self, read: Range) -> None:
        model = self.model
        if read.revision > model.revision or 0 < read.revision < model.compacted:
            return
        model.now, model.made = model.at[model.revision], []
        assert self.replica.machine.range(read) == model.on_range(read)

    @invariant()
    def everything_agrees(self) -> None:
        machine, model = self.replica.machine, self.model
        now = model.at[model.revision]
        assert machine.revision == model.revision
        assert machine.view.read_range(b"\x00", None).items == [now[key] for key in sorted(now)]
        assert machine.clock_ms == model.clock
        assert {lease: machine.leases.get(lease) for lease in machine.leases.ids()} == model.leases
        for key in now:
            left = model.ttls.get(key)
            expected = None if left is None else max(0, left - model.clock)
            assert machine.ttl_remaining_ms(key, model.clock) == expected
        for lease in model.leases:
            attached = sorted(key for key, record in now.items() if record.lease == lease)
            assert machine.lease_keys(lease) == attached

    def teardown(self) -> None:
        if self.batch is not None:
            self.crash()
        assert self.replica.events == sorted(self.model.events.items())
        self.replica.finish()
        other = Replica()
        for index, payload in enumerate(self.log, 1):
            assert other.machine.apply(index, payload) == self.results[index - 1]
            if index % 3 == 0:
                other.turn()
        other.finish()
        digests = [ShardHash(r.machine.view).step(r.machine.view) for r in (self.replica, other)]
        assert digests[0] == digests[1]
        assert other.rows() == self.replica.rows()


def test_the_machine_is_the_model() -> None:
    run_state_machine_as_test(ShardMachineModel, settings=settings(stateful_step_count=30))
