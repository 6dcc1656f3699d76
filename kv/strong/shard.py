"""One strong shard as this node serves it: writes, reads, watches, over the replica of its group.

    write --> admission --> this node leads? -- yes --> stamped with clock and wall time, proposed
                                 |  no
                                 |--> leader known and connected: forwarded (forward.py)
                                 '--> nobody to ask: parked, tried again until the deadline
    read  --> LINEARIZABLE: a read point of the group (leader or follower), then evaluated here
              SESSION: once this replica has seen what the token names
              EVENTUAL: at once

What comes back decides (raftgroups/outcomes.py): Applied is the answer; Refused is tried again
until the deadline and is then UnavailableError (surely not done), or OverloadedError at once if a
queue was full; Unknown is OutcomeUnknownError, unless the write has an idempotency token, with
which trying again is safe.

The rules here are those of one node; it takes part in the turn after the group host, only to see
what the turn applied. Invariants: `done` is called exactly once, from the loop, never from inside
the call; nothing waits without a deadline; what waits is bounded.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from kv.errors import OutcomeUnknownError, OverloadedError, StoppingError, UnavailableError
from kv.model import PLAIN_READ, PLAIN_WRITE, Level, ReadOptions, WriteOptions
from kv.regime import Done
from kv.strong.admission import LINEAGE, check
from kv.strong.duties import LeaderDuties
from kv.strong.forward import Forwarder
from kv.strong.gate import Gate
from kv.strong.joined import JoinedReads
from kv.strong.machine import ServedMachine
from kv.strong.operations import LocalRead, Operation, Read, SessionRead, Write
from kv.strong.reader import ReplicaReader
from kv.watch.messages import Encode
from kv.watch.shard_watches import ShardWatches
from kv.watch.watcher import WatchLimits
from raftgroups.commands import Command, decode, encode, stamp
from raftgroups.group import Group
from raftgroups.levels import LINEAGE_LEVEL
from raftgroups.outcomes import Applied, ProposeResult, Refused
from raftgroups.results import Failure, Result, error_of, failure_of
from raftgroups.transport import NodeId
from storage.clock import Clock, Scheduler, Timer
from storage.committer import Need
from storage.engine import Batch
from storage.errors import InvalidRequestError, JanusError, NoSpaceError, WrongShardError
from storage.mvcc_events import EventPage, read_events
from storage.mvcc_policy import CompactionPolicy

_log = logging.getLogger(__name__)

T = TypeVar("T")

RETRY_S: Final = 0.02
EXAMINED_A_STEP: Final = 1_000
NARROWED: Final = (
    "the shard was split or merged: go on behind the last revision received, in each of the shards "
    "that hold these keys now, or watch with GET /api/v1/watch, which follows them"
)


@dataclass(frozen=True, slots=True)
class ShardSettings:
    deadline_s: float = 5.0
    """Of a request that names none."""
    parked_max: int = 4096
    """Operations without a leader to take them; the next one is refused."""
    session_waits_max: int = 16_384
    compaction: CompactionPolicy = field(default_factory=CompactionPolicy)
    watch_limits: WatchLimits | None = None


class StrongShard:
    """kv/regime.py Strong, and a storage.committer.Participant that only looks."""

    def __init__(
        self,
        group: Group,
        machine: ServedMachine,
        forwarder: Forwarder,
        *,
        scheduler: Scheduler,
        clock: Clock,
        gate: Gate,
        settings: ShardSettings,
    ) -> None:
        self.group = group
        self.machine = machine
        self._forwarder = forwarder
        self._scheduler = scheduler
        self._clock = clock
        self._gate = gate
        self._settings = settings
        self.duties = LeaderDuties(
            machine,
            self._propose_duty,
            scheduler=scheduler,
            clock=clock,
            policy=settings.compaction,
        )
        self._reader = ReplicaReader(machine, machine.place.shard, self.duties.now_ms)
        self._joined = JoinedReads(
            group,
            self.local,
            self._go_on,
            self._move_joined,
            scheduler=scheduler,
            clock=clock,
            deadline_s=settings.deadline_s,
        )
        self._parked: deque[Operation] = deque()
        self._retry_timer: Timer | None = None
        self._session_waits: list[SessionRead] = []
        self._hubs: list[ShardWatches] = []
        self._compact_seen = machine.shard.state.compact_revision
        self._seen_end = machine.shard.view.segments.own.end
        self._stopped = False
        self._led_term = 0
        self._seen_leader: NodeId | None = None
        self.on_proposed: Callable[[ProposeResult], None] | None = None
        self.on_overload: Callable[[], None] | None = None
        """For metrics: how tries of writes ended, and operations that a full queue refused."""
        self.on_moved: Callable[[Operation, WrongShardError], None] | None = None
        """Its keys are another shard's now: whoever knows the map takes the operation over."""
        machine.on_restored = self._restored

    single = True

    def shard_of(self, key: bytes) -> int:
        return self.machine.place.shard

    def holds(self, keyspace: int, key: bytes) -> bool:
        own, state = self.machine.shard.view.segments.own, self.machine.shard.state
        return state.keyspace == keyspace and own.holds_key(key)

    # --- writes ---------------------------------------------------------------------------

    def write(
        self, command: Command, done: Done[Result], options: WriteOptions = PLAIN_WRITE
    ) -> None:
        token = options.token
        try:
            if self._stopped:
                raise StoppingError("this node is stopping; ask another one")
            check(command)
            payload = encode(command, token)
            self._gate.admit(command, len(payload))
        except JanusError as error:
            self._scheduler.call_soon(done, error)
            return
        deadline_s = self._deadline(options.deadline_s)
        write = Write(self, done, deadline_s, payload=payload, repeatable=token is not None)
        self._start(write, options.deadline_s)

    def take(
        self,
        payload: bytes,
        done: Done[Result],
        deadline_s: float,
        repeatable: bool,
        asked_s: float | None,
    ) -> None:
        """A write that was checked and admitted (kv/strong/keyspace.py)."""
        if self._stopped:
            error = StoppingError("this node is stopping; ask another one")
            self._scheduler.call_soon(done, error)
            return
        write = Write(self, done, deadline_s, payload=payload, repeatable=repeatable)
        self._start(write, asked_s)

    def _deadline(self, asked_s: float | None) -> float:
        return self._clock.monotonic() + (asked_s or self._settings.deadline_s)

    def _start(self, operation: Operation, asked_s: float | None) -> None:
        if asked_s is not None:
            operation.timer = self._scheduler.call_later(asked_s, self._too_late, operation)
        operation.start()

    def start_write(self, write: Write) -> None:
        group = self.group
        if group.leads:
            group.propose(self._stamped(write.payload), write.proposed)
            return
        leader = group.leader
        if leader is None:
            self._park(write, "no leader is known")
        else:
            self._forwarder.send(
                leader,
                group.group_id,
                write.payload,
                write.deadline_s,
                write.proposed,
                repeatable=write.repeatable,
            )

    def _stamped(self, payload: bytes) -> bytes:
        clock_ms = 0  # it stays where it is until this leader's duties have begun
        if self.duties.leading:
            clock_ms = self.duties.shard_clock.stamp(self._clock.monotonic())
        return stamp(payload, clock_ms, int(self._clock.wall() * 1000))

    def proposed(self, operation: Write, result: ProposeResult) -> None:
        if self.on_proposed is not None:
            self.on_proposed(result)
        if isinstance(result, Applied):
            answer: Any = result.result
            if type(answer) is Failure:
                answer = error_of(answer)
                if isinstance(answer, WrongShardError) and self._move(operation, answer):
                    return
            if isinstance(answer, NoSpaceError):  # perhaps the leader's, before its log
                self._give_up(operation, answer)
            else:
                self._answer(operation, answer)
        elif isinstance(result, Refused):
            self.refused(operation, result)
        elif operation.repeatable and self._clock.monotonic() < operation.deadline_s:
            operation.unsure = True
            self._park(operation, result.reason)
        else:
            self._answer(
                operation,
                OutcomeUnknownError(
                    f"it is not known whether this was done: {result.reason}; read to find out, "
                    "or give an idempotency token and ask again"
                ),
            )

    def refused(self, operation: Operation, refused: Refused) -> None:
        if refused.busy:
            if self.on_overload is not None:
                self.on_overload()
            self._give_up(operation, OverloadedError(f"nothing was done: {refused.reason}"))
        elif self._clock.monotonic() < operation.deadline_s:
            self._park(operation, refused.reason)
        else:
            self._give_up(operation, self._unavailable(operation, refused.reason))

    def _unavailable(self, operation: Operation, reason: str) -> UnavailableError:
        return UnavailableError(
            f"nothing was done: {reason or operation.why}; ask again, or another node"
        )

    def lead(self, payload: bytes, budget_s: float, done: Callable[[ProposeResult], None]) -> None:
        """A write that another node forwarded: propose it if this node leads, nothing else."""
        try:
            command, *_ = decode(payload)
            if isinstance(command, LINEAGE) and self.group.feature_level < LINEAGE_LEVEL:
                raise UnavailableError(
                    "not every node of this shard runs a version that can split and merge; upgrade "
                    "them all"
                )
            check(command)
            self._gate.admit(command, len(payload))
        except (InvalidRequestError, NoSpaceError) as error:
            refusal = failure_of(error, self.machine.revision)
            self._scheduler.call_soon(done, Applied(0, refusal))
        except JanusError as error:
            self._scheduler.call_soon(
                done, Refused(str(error), busy=isinstance(error, OverloadedError))
            )
        else:
            self.group.propose(self._stamped(payload), done)

    def _propose_duty(self, command: Command, done: Callable[[ProposeResult], None]) -> None:
        self.group.propose(self._stamped(encode(command)), done)

    # --- reads ----------------------------------------------------------------------------

    def read(
        self,
        evaluate: Callable[[ReplicaReader], T],
        done: Done[T],
        options: ReadOptions = PLAIN_READ,
    ) -> None:
        if self._stopped:
            self._scheduler.call_soon(done, StoppingError("this node is stopping"))
            return
        if options is PLAIN_READ:
            self._joined.read(evaluate, done)
            return
        level = options.level
        deadline_s = self._deadline(options.deadline_s)
        read: Read
        if level is Level.LINEARIZABLE:
            read = Read(self, done, deadline_s, evaluate=evaluate)
        elif level is Level.EVENTUAL:
            read = LocalRead(self, done, deadline_s, evaluate=evaluate)
        elif level is Level.SESSION:
            seen = options.session.revisions.get(self.machine.place.shard, 0)
            read = SessionRead(self, done, deadline_s, evaluate=evaluate, seen=seen)
        else:
            error = InvalidRequestError(
                f"a strong keyspace cannot be read at level {level}; ask for LINEARIZABLE, SESSION "
                "or EVENTUAL"
            )
            self._scheduler.call_soon(done, error)
            return
        self._start(read, options.deadline_s)

    def _go_on(
        self,
        evaluate: Callable[[ReplicaReader], Any],
        done: Done[Any],
        deadline_s: float,
        refused: Refused,
    ) -> None:
        """With a read that was refused among others."""
        self.refused(Read(self, done, deadline_s, evaluate=evaluate), refused)

    def evaluate(self, read: Read) -> None:
        if read.answered:
            return
        answer: Any
        try:
            answer = read.evaluate(self.local())
        except WrongShardError as error:
            if self._move(read, error):
                return
            answer = error
        except JanusError as error:
            answer = error
        self._answer(read, answer)

    def _move(self, operation: Operation, error: WrongShardError) -> bool:
        if self.on_moved is None or operation.answered:
            return False
        operation.answered = True
        if operation.timer is not None:
            operation.timer.cancel()
        self.on_moved(operation, error)
        return True

    def _move_joined(
        self,
        evaluate: Callable[[ReplicaReader], Any],
        done: Done[Any],
        deadline_s: float,
        error: WrongShardError,
    ) -> None:
        read = Read(self, done, deadline_s, evaluate=evaluate)
        if not self._move(read, error):
            self._answer(read, error)

    def evaluate_soon(self, read: Read) -> None:
        self._scheduler.call_soon(self.evaluate, read)

    def may_read_session(self, read: SessionRead) -> bool:
        """Else it waits, or is refused."""
        if self.machine.revision >= read.seen and self.group.readable:
            return True
        if len(self._session_waits) >= self._settings.session_waits_max:
            waiting = len(self._session_waits)
            error = OverloadedError(f"{waiting} reads wait for this replica to catch up already")
            self._scheduler.call_soon(self._answer, read, error)
        else:
            read.why = (
                f"this replica is at revision {self.machine.revision} and the session has seen "
                f"{read.seen}"
            )
            self._session_waits.append(read)
            self._retry_soon()
        return False

    def local(self) -> ReplicaReader:
        if not self.group.readable:
            raise UnavailableError(
                "a snapshot is being put in place on this node; ask again, or another node"
            )
        self._reader.term = self.group.term
        return self._reader

    # --- waiting and answering --------------------------------------------------------------

    def _give_up(self, operation: Operation, error: JanusError) -> None:
        """This try was surely not done; was an earlier one?"""
        if operation.unsure:
            error = OutcomeUnknownError(
                "it is not known whether this was done: an earlier try was lost on its way, and "
                f"the last one was refused ({error}); ask again with the same idempotency token"
            )
        self._answer(operation, error)

    def _answer(self, operation: Operation, answer: Any) -> None:
        if operation.answered:
            return
        operation.answered = True
        if operation.timer is not None:
            operation.timer.cancel()
        try:
            operation.done(answer)
        except Exception:  # noqa: BLE001 - a defect of one asker must not cost the others' answers
            _log.exception("a done callback raised; its defect, the node goes on")

    def _too_late(self, operation: Operation) -> None:
        """The deadline that the request named has passed. Whether a write is on its way is for
        nobody to know here, unless it is still parked."""
        if operation.answered:
            return
        if not operation.changes:
            why = operation.why or "no majority confirmed within the deadline given what is newest"
            self._give_up(operation, self._unavailable(operation, why))
        elif operation in self._parked:
            self._give_up(operation, self._unavailable(operation, operation.why))
        else:
            self._answer(operation, OutcomeUnknownError("no answer came within the deadline given"))

    def _park(self, operation: Operation, why: str) -> None:
        if self._stopped:
            self._give_up(operation, StoppingError(f"this node is stopping: {why}"))
            return
        if len(self._parked) >= self._settings.parked_max:
            waiting = len(self._parked)
            error = OverloadedError(f"{waiting} operations wait for a leader already")
            self._scheduler.call_soon(self._give_up, operation, error)
            return
        operation.why = why
        self._parked.append(operation)
        self._retry_soon()

    def _retry_soon(self) -> None:
        if self._retry_timer is None:
            self._retry_timer = self._scheduler.call_later(RETRY_S, self._retry)

    def _retry(self) -> None:
        self._retry_timer = None
        now_s = self._clock.monotonic()
        parked, self._parked = self._parked, deque()
        for operation in parked:
            if operation.answered:
                continue
            if operation.deadline_s <= now_s:
                self._give_up(operation, self._unavailable(operation, operation.why))
            else:
                operation.start()
        waits, self._session_waits = self._session_waits, []
        for read in waits:
            if read.answered:
                continue
            if read.deadline_s <= now_s:
                self._give_up(read, self._unavailable(read, read.why))
            else:
                self._session_waits.append(read)
        if self._parked or self._session_waits:
            self._retry_soon()

    # --- watches ----------------------------------------------------------------------------

    def watches(self, encode: Encode, first_identity: int = 0) -> ShardWatches:
        state = self.machine.shard.state
        hub = ShardWatches(
            encode,
            self._read_events,
            revision=state.revision,
            compact_revision=state.compact_revision,
            scheduler=self._scheduler,
            clock=self._clock,
            limits=self._settings.watch_limits,
            first_identity=first_identity,
        )
        self._hubs.append(hub)
        self.machine.observe(self._observe_revision)
        return hub

    def _read_events(
        self,
        from_revision: int,
        start: bytes,
        end: bytes | None,
        *,
        max_events: int,
        max_bytes: int,
    ) -> EventPage:
        return read_events(
            self.machine.shard.view,
            from_revision,
            start,
            end,
            max_events=max_events,
            max_bytes=max_bytes,
            max_examined=EXAMINED_A_STEP,
        )

    def _observe_revision(self, revision: int, bodies: Sequence[bytes]) -> None:
        for hub in self._hubs:
            hub.committed(revision, bodies)

    def _restored(self) -> None:
        state = self.machine.shard.state
        self._compact_seen = state.compact_revision
        for hub in self._hubs:
            hub.jumped(state.revision, state.compact_revision)

    # --- storage.committer.Participant --------------------------------------------------------

    def begin_turn(self) -> Need:
        group = self.group
        self._note_leadership(group)
        self.duties.observe(settled=group.settled)
        own = self.machine.shard.view.segments.own
        if own.end != self._seen_end and group.readable:
            self._seen_end = own.end
            for hub in self._hubs:
                hub.narrowed(own.start, own.end, NARROWED)
        compact_revision = self.machine.shard.state.compact_revision
        if compact_revision != self._compact_seen and group.readable:
            self._compact_seen = compact_revision
            for hub in self._hubs:
                hub.compacted(compact_revision)
        if self._session_waits and group.readable:
            self._wake_sessions()
        if self._parked and (group.leads or group.leader is not None):
            self._retry_soon()
        return Need.NOTHING

    def _note_leadership(self, group: Group) -> None:
        leader = group.leader
        if leader is not None and leader != self._seen_leader:
            self._seen_leader = leader
            self._forwarder.led_by_another(group.group_id, leader)
        term = group.term if group.leads else 0
        if term == self._led_term:
            return
        if term:
            _log.info("this node leads group %d in term %d", group.group_id, term)
        else:
            _log.info("this node leads group %d no longer", group.group_id)
        self._led_term = term

    def _wake_sessions(self) -> None:
        revision = self.machine.revision
        ready = [read for read in self._session_waits if read.seen <= revision]
        if ready:
            self._session_waits = [read for read in self._session_waits if read.seen > revision]
            for read in ready:
                read.start()

    def prepare(self, batch: Batch) -> None:
        """Nothing of its own."""

    def after_commit(self) -> None:
        """Answers come from the group."""

    def stalled(self, seconds: float) -> None:
        """The host stands down."""

    # --- status, end ------------------------------------------------------------------------

    @property
    def term(self) -> int:
        return self.group.term

    @property
    def hubs(self) -> Sequence[ShardWatches]:
        return self._hubs

    def drain(self, message: str) -> None:
        """No new work; watchers are told the end."""
        self._stopped = True
        for hub in self._hubs:
            hub.close(message)

    def stop(self) -> None:
        self._stopped = True
        self.duties.stop()
        if self._retry_timer is not None:
            self._retry_timer.cancel()
            self._retry_timer = None
        waiting = [*self._parked, *self._session_waits]
        self._parked.clear()
        self._session_waits.clear()
        for operation in waiting:
            self._give_up(operation, StoppingError("this node is stopping; ask another one"))
        for hub in self._hubs:
            hub.stop()
