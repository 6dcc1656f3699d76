"""One strong shard as this node serves it: writes, reads, watches, over the replica of its group.

    write --> admission --> this node leads? -- yes --> stamped with clock and wall time, proposed
                                 |  no
                                 |--> leader known and connected: forwarded (forward.py)
                                 '--> nobody to ask: parked, tried again until the deadline
    read  --> shard_reads.py, by its level

What comes back decides (raftgroups/outcomes.py): Applied is the answer; Refused is tried again
until the deadline (waiting.py) and is then UnavailableError (surely not done), or OverloadedError
at once if a queue was full; Unknown is OutcomeUnknownError, unless the write has an idempotency
token, with which trying again is safe.

The rules here are those of one node. Its group tells it of each turn that it had a part in
(`after_turn`), so a shard in which nothing happens costs nothing. Invariants: `done` is called
exactly once, from the loop, never from inside the call; nothing waits without a deadline; what
waits is bounded.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import TYPE_CHECKING, Any, cast

from kv.division.meter import Meter
from kv.errors import OutcomeUnknownError, StoppingError, UnavailableError
from kv.model import PLAIN_WRITE, ReadOptions, WriteOptions
from kv.regime import Done
from kv.router import Scope
from kv.size_limits import WIDEST, SizeLimits
from kv.strong.admission import PLAIN_BYTES, check
from kv.strong.duties import LeaderDuties
from kv.strong.forward import Forwarder
from kv.strong.forwarded import ForwardedWrites
from kv.strong.gate import Gate
from kv.strong.hubs import ShardHubs
from kv.strong.machine import ServedMachine
from kv.strong.operations import Operation, Write
from kv.strong.reader import ReplicaReader
from kv.strong.shard_reads import ShardReads
from kv.strong.waiting import WaitingRoom
from kv.watch.messages import Encode
from kv.watch.shard_watches import ShardWatches
from kv.watch.watcher import WatchLimits
from kv.watch.watches import Watches
from raftgroups.commands import Command, Put, encode, encode_puts, stamp_each
from raftgroups.group import Group, nobody
from raftgroups.outcomes import Applied, AppliedEach, EachResult, ProposeResult, Refused
from raftgroups.refusals import LockedError
from raftgroups.results import Failure, Result, error_of
from raftgroups.transport import NodeId
from storage.clock import Clock, Scheduler
from storage.errors import JanusError, NoSpaceError, WrongShardError
from storage.mvcc_policy import CompactionPolicy

if TYPE_CHECKING:
    from kv.metrics.metrics import Proposals
    from kv.strong.crossings import Crossings

_log = logging.getLogger(__name__)

_REFUSALS = (Failure, NoSpaceError)
"""Results of a write that was not done; the second is perhaps the leader's, before its log."""


@dataclass(frozen=True, slots=True)
class ShardSettings:
    deadline_s: float = 5.0
    """Of a request that names none."""
    parked_max: int = 4096
    """Operations without a leader to take them; the next one is refused."""
    session_waits_max: int = 16_384
    compaction: CompactionPolicy = field(default_factory=CompactionPolicy)
    watch_limits: WatchLimits | None = None
    sizes: SizeLimits = WIDEST


class StrongShard:
    """kv/regime.py Strong. Serves its group from the beginning to `stop`."""

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
        meter: Meter,
    ) -> None:
        self.group = group
        group.on_turn, group.stamped = self.after_turn, self.stamped
        self.meter = meter
        self.machine = machine
        self._forwarder = forwarder
        self._scheduler = scheduler
        self._clock = clock
        self._gate = gate
        self.settings = settings
        self._sizes = settings.sizes.narrowed()
        self.duties = LeaderDuties(
            machine,
            self._propose_duty,
            scheduler=scheduler,
            clock=clock,
            policy=settings.compaction,
        )
        self.reads = reads = ShardReads(self, scheduler=scheduler, clock=clock, meter=meter)
        self.read, self.get, self.local = reads.read, reads.get, reads.local
        """Of Strong, with nothing in between: one of them is called for every read."""
        self.lead_each = ForwardedWrites(group, machine, gate, scheduler).lead_each
        """(payloads, askers, done): writes that other nodes forwarded."""
        self.waiting = WaitingRoom(
            scheduler=scheduler,
            clock=clock,
            parked_max=settings.parked_max,
            session_waits_max=settings.session_waits_max,
        )
        self._watched = ShardHubs(
            machine,
            readable=lambda: group.readable,
            scheduler=scheduler,
            clock=clock,
            limits=settings.watch_limits,
        )
        self._led_term = 0
        self._seen_leader: NodeId | None = None
        self._seen: tuple[int, int, bool, NodeId | None, bool] | None = None
        """Group.standing after the last turn."""
        self.tries: Proposals | None = None
        """For metrics: how tries of writes ended. (waiting.py has `on_overload`.)"""
        self.on_lease_ends: Callable[[StrongShard], None] | None = None
        """Leases have ended here that other shards may have keys of, and this node leads."""
        self.on_session: (
            Callable[[Callable[[ReplicaReader], Any], Done[Any], ReadOptions], bool] | None
        ) = None
        """Takes over reads of sessions that know more of the shards than this node does."""
        self.on_moved: Callable[[Operation, WrongShardError], None] | None = None
        """Its keys are another shard's now: whoever knows the map takes the operation over."""
        self.crossings: Crossings | None = None
        """Of its keyspace: who finds out about locks that are met here."""

    single = True

    def shard_of(self, key: bytes) -> int:
        return self.machine.place.shard

    def holds(self, keyspace: int, key: bytes) -> bool:
        own, state = self.machine.shard.view.segments.own, self.machine.shard.state
        return state.keyspace == keyspace and own.holds_key(key)

    def serves(self, scope: Scope) -> bool:
        """All of these keys, at this moment."""
        place = self.machine.view.place
        within = place.end is None or (scope[1] is not None and scope[1] <= place.end)
        return scope[0] >= place.start and within and not place.frozen and self.group.readable

    # --- writes ---------------------------------------------------------------------------

    def write(
        self, command: Command, done: Done[Result], options: WriteOptions = PLAIN_WRITE
    ) -> None:
        token = options.token
        try:
            if self.waiting.stopped:
                raise StoppingError("this node is stopping; ask another one")
            check(command)
            if self._sizes is not None:
                self._sizes.check(command)
            payload = encode(command, token)
            self._gate.admit(command, len(payload))
        except JanusError as error:
            self._scheduler.call_soon(done, error)
            return
        asked_s = options.deadline_s
        write = Write(
            self,
            done,
            self.deadline(asked_s),
            payload=payload,
            repeatable=token is not None,
            across=options.across,
        )
        if asked_s is not None:
            self.waiting.limit(write, asked_s)
        self.start_each((write,))

    def write_each(self, commands: Sequence[Command], dones: Sequence[Done[Result]]) -> None:
        payloads = self._plain(commands)
        if payloads is None:
            for command, done in zip(commands, dones, strict=True):
                self.write(command, done)
            return
        deadline_s = self.deadline(None)
        self.start_each(
            [
                Write(self, done, deadline_s, payload=payload, repeatable=False)
                for payload, done in zip(payloads, dones, strict=True)
            ]
        )

    def _plain(self, commands: Sequence[Command]) -> list[bytes] | None:
        """As payloads, if all are puts that nothing stands against; they are admitted then."""
        if self.waiting.stopped or self._sizes is not None:
            return None
        for command in commands:
            if type(command) is not Put or not 0 < len(command.key) <= PLAIN_BYTES - len(
                command.value
            ):
                return None
        payloads = encode_puts(cast(Sequence[Put], commands))
        if payloads is None or not self._gate.takes(sum(map(len, payloads))):
            return None
        return payloads

    def take(
        self,
        payload: bytes,
        done: Done[Result],
        deadline_s: float,
        repeatable: bool,
        asked_s: float | None,
        across: bool = False,
        *,
        stays: bool = False,
    ) -> None:
        """A write that was checked and admitted (kv/strong/keyspace.py)."""
        if self.waiting.stopped:
            error = StoppingError("this node is stopping; ask another one")
            self._scheduler.call_soon(done, error)
            return
        write = Write(
            self,
            done,
            deadline_s,
            payload=payload,
            repeatable=repeatable,
            across=across,
            stays=stays,
        )
        if asked_s is not None:
            self.waiting.limit(write, asked_s)
        self.start_each((write,))

    def deadline(self, asked_s: float | None) -> float:
        return self._clock.monotonic() + (asked_s or self.settings.deadline_s)

    def start_each(self, writes: Sequence[Write]) -> None:
        """Those that began together: they have one deadline, and all are repeatable or none."""
        group = self.group
        if self.machine.shard.state.frozen_by:  # they would be refused, by an entry of the log
            error = self.machine.view.wrong_shard("this is")
            writes = [write for write in writes if not self.move(write, error)]
            if not writes:
                return
        payloads = [write.payload for write in writes]
        if group.leads:
            group.propose_each(payloads, writes, self.proposed_each)
            return
        leader = group.leader
        if leader is None:
            for write in writes:
                self.waiting.park(write, "no leader is known")
        else:
            self._forwarder.send_each(
                leader,
                group.group_id,
                payloads,
                writes,
                writes[0].deadline_s,
                self.proposed_each,
                repeatable=writes[0].repeatable,
            )

    def stamped(self, payloads: list[bytes]) -> list[bytes]:
        """The operations of an entry that is appended now, with the shard's clock as this node
        leads it, and the wall time."""
        clock_ms = 0  # it stays where it is until this leader's duties have begun
        if self.duties.leading:
            clock_ms = self.duties.shard_clock.stamp(self._clock.monotonic())
        return stamp_each(payloads, clock_ms, int(self._clock.wall() * 1000))

    def proposed_each(self, writes: Sequence[Write], result: EachResult) -> None:
        """Tries have ended: nearly always it was done."""
        if not isinstance(result, AppliedEach):
            for write in writes:
                self._ended(write, result)
            return
        done = 0
        for write, answer in zip(writes, result.results, strict=True):
            if type(answer) in _REFUSALS:
                self._ended(write, Applied(result.index, answer))
            else:
                done += 1
                write.answer(answer)
        if self.tries is not None:
            self.tries.applied.value += done

    def _ended(self, write: Write, result: ProposeResult) -> None:
        try:
            self._not_done(write, result)
        except Exception:  # noqa: BLE001 - a defect of one write must not cost the others' answers
            _log.exception("the end of a write raised; its defect, the node goes on")

    def _not_done(self, operation: Write, result: ProposeResult) -> None:
        """A try has ended, and not as it should."""
        if self.tries is not None:
            self.tries.ended(result)
        if isinstance(result, Applied):
            answer: Any = result.result
            if type(answer) is Failure:
                answer = error_of(answer)
                if isinstance(answer, WrongShardError) and self.move(operation, answer):
                    return
                if isinstance(answer, LockedError):
                    self._wait_for_locks(operation, answer)
                    return
            if isinstance(answer, NoSpaceError):  # perhaps the leader's, before its log
                self.waiting.give_up(operation, answer)
            else:
                operation.answer(answer)
        elif isinstance(result, Refused):
            self.waiting.refused(operation, result)
        elif operation.repeatable and self._clock.monotonic() < operation.deadline_s:
            operation.unsure = True
            self.waiting.park(operation, result.reason)
        else:
            operation.answer(
                OutcomeUnknownError(
                    f"it is not known whether this was done: {result.reason}; read to find out, "
                    "or give an idempotency token and ask again"
                )
            )

    def _wait_for_locks(self, operation: Write, error: LockedError) -> None:
        if self._clock.monotonic() >= operation.deadline_s:
            self.waiting.give_up(operation, UnavailableError(str(error)))
            return
        if self.crossings is not None:
            own = self.machine.shard.view.segments.own
            self.crossings.clear(error.holders, own.start)
        self.waiting.park(operation, str(error))

    def move(self, operation: Operation, error: WrongShardError) -> bool:
        """Whether it is taken care of."""
        if isinstance(operation, Write) and operation.stays:
            operation.answer(error)
            return True
        if self.on_moved is None or not self.waiting.take(operation):
            return False
        self.on_moved(operation, error)
        return True

    def _propose_duty(self, command: Command, done: Callable[[ProposeResult], None]) -> None:
        self.group.propose(encode(command), done)

    # --- watches ----------------------------------------------------------------------------

    def watches(self, encode: Encode, first_identity: int = 0) -> ShardWatches:
        return self._watched.make(encode, first_identity)

    def ground(self, watches: Watches, page: object) -> None:
        """A shard by itself is never more than one."""

    # --- the turn -----------------------------------------------------------------------------

    def after_turn(self) -> None:
        """The group's part in it: see what it applied, and who leads. In every second turn of a
        leader neither is news."""
        group = self.group
        standing = group.standing
        if standing == self._seen and not self.machine.leases.ended:
            return
        self._seen = standing
        _, term, leads, leader, readable = standing
        settled = group.settled
        if not leads:
            term = 0
        if leader != self._seen_leader or term != self._led_term:
            self._note_leadership(leader, term)
        self.duties.observe(settled=settled)
        if readable:
            self._watched.after_turn()
            if self.waiting.sessions:
                self.waiting.wake_sessions(self.machine.revision)
        if self.machine.leases.ended and settled and self.on_lease_ends is not None:
            self.on_lease_ends(self)

    def _note_leadership(self, leader: NodeId | None, term: int) -> None:
        """`term`: the one that this node leads, or 0."""
        number = self.group.group_id
        if leader is not None and leader != self._seen_leader:
            self._seen_leader = leader
            self._forwarder.led_by_another(number, leader)
        if term == self._led_term:
            return
        if term:
            _log.info("this node leads group %d in term %d", number, term)
        else:
            _log.info("this node leads group %d no longer", number)
        self._led_term = term

    # --- status, end ------------------------------------------------------------------------

    term = cast(int, property(attrgetter("group.replica.raft.term")))
    """Not a method, nor the group's: each answer asks."""

    @property
    def hubs(self) -> Sequence[ShardWatches]:
        return self._watched.hubs

    def drain(self, message: str) -> None:
        """No new work; watchers are told the end."""
        self.waiting.stopped = True
        self._watched.close(message)

    def leave(self, message: str) -> None:
        """It is not served here any more. What it was asked goes on where its keys are now."""
        self._watched.close(message)
        self.waiting.leave(lambda each: self.move(each, WrongShardError(message)))
        self.stop()

    def stop(self) -> None:
        self.group.on_turn = nobody
        self.duties.stop()
        self.waiting.stop()
        self._watched.stop()
