"""One replica of one Raft group: proposals and reads in, outcomes out.

Nothing here blocks and nothing is answered from inside the call that asked: outcomes come from the
loop, each exactly once. A group belongs to its host; it is made by GroupHost.create, join or start.

Its part of a turn (`step`), after the messages: tick the core, move changes on, append everything
that waits as ONE entry, send, answer reads, and tell whoever serves it (`on_turn`).

What is proposed together is checked, queued and told together; one operation is a run of one.

Invariant: what is Refused was never appended.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from operator import attrgetter
from typing import Any, cast

from raftgroups.changes import Changes
from raftgroups.journal import GroupJournal
from raftgroups.machine_api import StateMachine
from raftgroups.messages import Ack, Append, Message, NotMember
from raftgroups.outcomes import (
    Applied,
    AppliedEach,
    ChangeResult,
    DoneEach,
    EachResult,
    ProposeResult,
    ReadResult,
    Refused,
    Unknown,
)
from raftgroups.proposals import Asked, Proposals, Told
from raftgroups.readpath import Tell, Together
from raftgroups.replica import Replica
from raftgroups.seams import CANDIDATE
from raftgroups.services import Services
from raftgroups.status import GroupStatus, LogRecord, PeerStatus, Role
from raftgroups.transport import NodeId

_logger = logging.getLogger(__name__)


Done = Callable[[ProposeResult], None]


def nobody() -> None:
    """Serves the group."""


def as_they_are(payloads: list[bytes]) -> list[bytes]:
    """Whoever proposes has stamped them, or nobody does."""
    return payloads


def tell_each(dones: Sequence[Done], result: EachResult) -> None:
    """A DoneEach whose askers are callbacks, each of its own operation."""
    outcomes: Sequence[ProposeResult]
    if isinstance(result, AppliedEach):
        outcomes = [Applied(result.index, each) for each in result.results]
    else:
        outcomes = [result] * len(dones)
    for done, outcome in zip(dones, outcomes, strict=True):
        try:
            done(outcome)
        except Exception:
            # A defect of whoever asked must not take the answers of all others with it.
            _logger.exception("a done callback raised; its defect, the node goes on")


class Group:
    """Use the public methods from the node's loop only."""

    def __init__(
        self, services: Services, group_id: int, journal: GroupJournal, machine: StateMachine
    ) -> None:
        self.group_id = group_id
        self._services = services
        self._stopped = False
        self._seen_last = 0
        self._idle_since = 0.0
        config = services.config
        self._proposals = Proposals(
            max_operations=config.queue_max_operations, max_bytes=config.queue_max_bytes
        )
        self.replica = Replica(services, group_id, journal, machine, self)
        self.changes = Changes(self.replica)
        self.on_turn: Callable[[], None] = nobody
        """Told at the end of each part that this group takes in a turn, by when what it applied can
        be read. Whatever it raises stops the node; what it begins, it begins from the loop."""
        self.stamped: Callable[[list[bytes]], list[bytes]] = as_they_are
        """What it makes of the operations of an entry in the moment before this is appended; it
        must not make them longer."""

    # --- what users call -----------------------------------------------------------------

    def propose(self, payload: bytes, done: Done) -> None:
        """Replicate and apply. Only the leader takes it; elsewhere it is Refused with a hint."""
        self.propose_each((payload,), (done,), tell_each)

    def propose_each(
        self, payloads: Sequence[bytes], askers: Sequence[Any], done: DoneEach
    ) -> None:
        """The same for operations that come together, each asked for by one of `askers`."""
        services, config = self._services, self._services.config
        if (
            self._stopped
            or not self.replica.raft.leads
            or self.changes.transfer is not None
            or not self.replica.journal.config.formed
        ):
            self._refuse(done, askers, self._why_not())
            return
        size = sum(map(len, payloads))
        if size > config.entry_max_bytes:
            payloads, askers = self._within_limit(payloads, askers, done)
            if not payloads:
                return
            size = sum(map(len, payloads))
        proposals = self._proposals
        before = proposals.queued
        deadline = services.clock.monotonic() + config.propose_timeout_s
        full = proposals.queue(payloads, size, askers, done, deadline)
        if full:
            reason = f"{len(proposals)} operations wait already; slow down"
            services.answer(partial(done, full, Refused(reason, busy=True)))
        if not before and proposals.queued:
            services.wake(self.group_id)  # else it is awake for those before

    def _refuse(self, done: DoneEach, askers: Sequence[Any], reason: str) -> None:
        refused = Refused(reason, self.replica.leader_hint())
        self._services.answer(partial(done, askers, refused))

    def _why_not(self) -> str:
        """Why nothing can be proposed now."""
        if self._stopped:
            return "this node stops"
        if not self.replica.raft.leads:
            return "this node does not lead the group"
        reason = self.changes.why_no_proposals()
        assert reason is not None
        return reason

    def _within_limit(
        self, payloads: Sequence[bytes], askers: Sequence[Any], done: DoneEach
    ) -> tuple[list[bytes], list[Any]]:
        """Those that an entry has room for; the others are refused."""
        limit = self._services.config.entry_max_bytes
        fit: tuple[list[bytes], list[Any]] = [], []
        for payload, asker in zip(payloads, askers, strict=True):
            size = len(payload)
            if size > limit:
                reason = f"an operation of {size} bytes is over the limit of {limit}; split it"
                self._refuse(done, (asker,), reason)
            else:
                fit[0].append(payload)
                fit[1].append(asker)
        return fit

    def read(self, done: Callable[[ReadResult], None]) -> None:
        """Ask for a linearizable read point, on any replica (a follower asks the leader)."""
        refused = self._why_no_reads()
        if refused is not None:
            self._services.answer(partial(done, refused))
        else:
            self.replica.reads.read(done)

    def read_together(self, tell: Tell) -> Together | Refused:
        """The same for many reads at once, which cost nothing more than their place in a list."""
        return self._why_no_reads() or self.replica.reads.open(tell)

    def too_many_reads(self) -> Refused:
        """Why a Together is full."""
        return self.replica.reads.too_many()

    def _why_no_reads(self) -> Refused | None:
        replica = self.replica
        if self._stopped:
            reason = "this node stops"
        elif replica.receiver.incoming is not None and replica.installing:
            reason = "a snapshot is being put in place here; try again or ask another node"
        elif not replica.is_member():
            reason = "this node is no member of the group"
        else:
            return None
        return Refused(reason, replica.leader_hint())

    def transfer(self, target: NodeId, done: Callable[[ChangeResult], None]) -> None:
        """Hand the leadership over: proposals pause, the target catches up, then is told."""
        self.changes.hand_over(target, done)

    def add_learner(self, node: NodeId, done: Callable[[ChangeResult], None]) -> None:
        """Admit a node that gets the log but does not vote."""
        self.changes.add_learner(node, done)

    def promote(self, node: NodeId, done: Callable[[ChangeResult], None]) -> None:
        """Make a learner a voter, once it has caught up."""
        self.changes.promote(node, done)

    def remove(self, node: NodeId, done: Callable[[ChangeResult], None]) -> None:
        """Remove a voter or learner. A leader asked to remove itself transfers first, then the
        call is Refused with the new leader as a hint: ask there again."""
        self.changes.remove(node, done)

    def dismiss(self, node: NodeId) -> None:
        """Tell a node that was removed that it was: it may have been away then, and a replica that
        neither votes nor stands never asks. Nothing is done unless this node leads, and the
        committed configuration does not have the other. It is told as of everything committed:
        configurations in its log up to there that say otherwise never were."""
        raft, config = self.replica.raft, self.replica.journal.config
        if self.settled and not self.changing and config.incarnation(node) is None:
            message = NotMember(self.group_id, raft.term, raft.commit_index)
            self._services.send(node, message)
            self._services.wake(self.group_id)

    def compact(self, keep: int) -> int:
        """Drop applied entries but the last `keep`; returns the new first index."""
        self.replica.compact(keep)
        return self.replica.journal.base_index + 1

    # --- the turn ------------------------------------------------------------------------

    def receive_quietly(self, peer: NodeId, incarnation: int, message: Message, now: float) -> bool:
        """Take a heartbeat, or the answer to one, that says nothing but that its sender is there.
        True: that was all, and the group needs no part in this turn."""
        replica = self.replica
        if type(message) is Append:
            return not message.entries and replica.hear_leader(peer, message, now)
        return type(message) is Ack and replica.replication.hear(peer, incarnation, message, now)

    def receive_late_ack(self, peer: NodeId, incarnation: int, ack: Ack, now: float) -> bool:
        """Take an acknowledgement that nobody waits for. True: that was all."""
        return not self.changes.busy() and self.replica.replication.hear_late(
            peer, incarnation, ack, now
        )

    def receive_ack_beside_sync(self, peer: NodeId, incarnation: int, ack: Ack, now: float) -> bool:
        """Take an acknowledgement while a sync is in flight, and apply what it commits: whoever
        waits for that is answered by the next pass of the loop. True: all else that it means is for
        the turn after the sync."""
        replica = self.replica
        replication = replica.replication
        if replication.hear(peer, incarnation, ack, now):
            return True  # a sign of life, and no more: the group needs no part in that turn
        if self.changes.busy() or not replication.hear_beside_sync(peer, incarnation, ack, now):
            return False
        if replication.commit_beside_sync():
            replica.apply_committed()
            self.on_turn()
        self._services.wake(self.group_id)
        return True

    def step(self, now: float) -> float:
        """Returns when the next turn is due though nothing happens."""
        replica = self.replica
        if replica.sender.wanted:
            replica.sender.begin()
        replica.tick()
        changes, reads = self.changes, replica.reads
        changes.step(now)
        if replica.raft.leads:
            if self._proposals.queued and not changes.transfer:
                self._append()
            if replica.sender.streams:
                replica.sender.step(now)
            replica.replication.send(now)
        elif self._proposals.queued:
            self._refuse_queued("this node does not lead the group")
        reading = not reads.points.idle
        if reading:
            reads.after_tick()
            reading = not reads.points.idle
        self._sleep_if_idle(now, reading=reading)
        deadline = self._deadline(reading=reading)
        if deadline <= now:
            self._expire(now)
            deadline = self.next_deadline()
        self.on_turn()
        return deadline

    def _append(self) -> None:
        services = self._services
        first_seq, payloads = self._proposals.take(services.config.entry_max_bytes)
        operations = services.origin, first_seq, self.stamped(payloads)
        self.replica.applying.append(operations)
        services.counters.entries_appended += 1
        if self._proposals.queued:
            services.wake(self.group_id)

    def _expire(self, now: float) -> None:
        queued, appended = self._proposals.expire(now)
        self._answer_all(queued, Refused("no majority took it in time", None))
        self._answer_all(appended, Unknown("no majority confirmed it in time"))
        self.replica.reads.expire(now)

    def _sleep_if_idle(self, now: float, *, reading: bool) -> None:
        replica = self.replica
        last = replica.journal.last_index
        if last != self._seen_last or reading or self._proposals or self.changes.busy():
            self._seen_last = last
            self._idle_since = now
            return
        limit = self._services.config.hibernate_after_s
        if limit and now - self._idle_since >= limit and replica.say_good_night():
            self._services.hibernate(self.group_id, self._services.node_id)

    def awake(self, heard_at: float, *, leader_lost: bool) -> None:
        """Something is to be done after a sleep."""
        self._idle_since = self.replica.now()
        self.replica.awake(heard_at, leader_lost=leader_lost)

    def after_commit(self) -> None:
        """This turn's batch is on the disk."""
        replica = self.replica
        replica.after_commit()
        alone = replica.raft.leads and replica.journal.config.majority() == 1
        if alone and replica.raft.commit_index < replica.journal.durable_index:
            self._services.wake(self.group_id)

    def next_deadline(self) -> float:
        """When this group needs a turn though nothing happens; infinity: never."""
        return self._deadline(reading=not self.replica.reads.points.idle)

    def _deadline(self, *, reading: bool) -> float:
        if self._services.asleep(self.group_id):
            return float("inf")
        replica, changes = self.replica, self.changes
        raft, nearest = replica.raft, self._proposals.deadline()
        if raft.leads:
            nearest = min(nearest, raft.heartbeat_deadline, replica.replication.notice_at)
        elif replica.may_campaign():
            nearest = min(nearest, raft.election_deadline)
        if changes.change is not None or changes.transfer is not None:
            nearest = min(nearest, changes.deadline())
        if reading:
            nearest = min(nearest, replica.reads.deadline())
        if replica.sender.streams:
            nearest = min(nearest, replica.sender.deadline())
        return nearest

    # --- raftgroups.services.Owner -------------------------------------------------------

    def applied(self, index: int, origin: str, first_seq: int, results: Sequence[object]) -> None:
        if origin != self._services.origin:
            return
        told = self._proposals.applied(first_seq, results)
        if told:
            self._services.answer(partial(_tell, index, told))

    def leadership_won(self) -> None:
        self._services.wake(self.group_id)

    def leadership_lost(self) -> None:
        self._refuse_queued("this node does not lead the group any more")
        self._answer_all(
            self._proposals.drop_appended(), Unknown("the leader changed before it was applied")
        )
        self.changes.leadership_lost()

    def _refuse_queued(self, reason: str) -> None:
        self._answer_all(self._proposals.drop_queued(), Refused(reason, self.replica.leader_hint()))

    def _answer_all(self, waiting: list[Asked], result: Refused | Unknown) -> None:
        for done, askers in waiting:
            self._services.answer(partial(done, askers, result))

    def stop(self, why: str = "this node stops") -> None:
        self._stopped = True
        self.replica.sender.stop()
        self._answer_all(self._proposals.drop_queued(), Unknown(why))
        self._answer_all(self._proposals.drop_appended(), Unknown(why))
        for reader in self.replica.reads.points.drop_all():
            reader.answer(None, why)
        self.changes.stop()

    # --- numbers -------------------------------------------------------------------------

    @property
    def term(self) -> int:
        return self.replica.raft.term

    @property
    def leader(self) -> NodeId | None:
        return self.replica.raft.leader

    leads = cast(bool, property(attrgetter("replica.raft.leads")))
    """Not a method: each write asks."""

    @property
    def settled(self) -> bool:
        """Leads, and has applied everything that leaders before it committed."""
        raft = self.replica.raft
        noop = raft.noop_index
        return noop is not None and raft.commit_index >= noop and raft.applied_index >= noop

    @property
    def standing(self) -> tuple[int, int, bool, NodeId | None, bool]:
        """(applied, term, leads, leader, readable): as long as it is the same, so is everything
        else that a turn may change for whoever serves the group."""
        replica = self.replica
        raft = replica.raft
        return raft.applied_index, raft.term, raft.leads, raft.leader, not replica.installing

    @property
    def formed(self) -> bool:
        """Every initial voter was heard once: from now on a majority of them will do."""
        return self.replica.journal.config.formed

    @property
    def readable(self) -> bool:
        """No snapshot is being put in place: the machine has a state."""
        return not self.replica.installing

    @property
    def changing(self) -> bool:
        """A change of members or a hand-over is under way, or the group is not formed."""
        journal = self.replica.journal
        return self.changes.busy() or journal.config_index > self.replica.raft.applied_index

    @property
    def config_index(self) -> int:
        """Where the configuration in force stands in the log."""
        return self.replica.journal.config_index

    @property
    def blank(self) -> bool:
        """It joined, and has heard nothing of its group yet: it has acknowledged nothing."""
        return self.replica.blank()

    @property
    def feature_level(self) -> int:
        """What every member's program supports (raftgroups/levels.py): ask it before proposing what
        older programs would not know. Within the life of a replica in a process it only rises."""
        journal = self.replica.journal
        return journal.config_at(journal.applied_index)[1].level

    @property
    def machine(self) -> StateMachine:
        return self.replica.machine

    def log(self, first: int, last: int) -> list[LogRecord]:
        """What this replica's log holds of first..last. For checkers and people, never hot."""
        journal = self.replica.journal
        span = range(max(first, journal.base_index + 1), min(last, journal.last_index) + 1)
        entries = [journal.entry(index) for index in span]
        return [LogRecord(number, term, command) for command, number, term in entries]

    @property
    def role(self) -> Role:
        """By the configuration: a voter stays one while a snapshot is put in its place, though it
        does not stand for election then (`readable`)."""
        replica = self.replica
        if replica.removed:
            return Role.REMOVED
        if replica.raft.leads:
            return Role.LEADER
        if not replica.is_voter():
            return Role.LEARNER
        return Role.CANDIDATE if replica.raft.role == CANDIDATE else Role.FOLLOWER

    def status(self) -> GroupStatus:
        replica = self.replica
        journal, raft = replica.journal, replica.raft
        config = journal.config
        return GroupStatus(
            group_id=self.group_id,
            role=self.role,
            term=raft.term,
            voted_for=journal.hard.vote,
            leader=raft.leader,
            commit_index=raft.commit_index,
            applied_index=0 if replica.installing else raft.applied_index,
            durable_applied_index=0 if replica.installing else journal.durable_applied,
            last_index=journal.last_index,
            first_index=journal.base_index + 1,
            voters=tuple(sorted(config.voters)),
            learners=tuple(sorted(config.learners)),
            incarnations={**config.voters, **config.learners},
            config_index=journal.config_index,
            feature_level=self.feature_level,
            peers=self._peers() if raft.leads else {},
            elections=replica.voting.election.started,
            snapshots_sent=replica.sender.finished,
            snapshots_received=replica.receiver.installed,
            installing=replica.installing,
            pending=len(self._proposals),
            hibernating=self._services.asleep(self.group_id),
            leader_changes=replica.voting.leader_changes,
        )

    def _peers(self) -> dict[NodeId, PeerStatus]:
        replica = self.replica
        now = replica.now()
        return {
            peer: PeerStatus(
                match_index=replica.raft.match_index(peer),
                lag=replica.journal.last_index - replica.raft.match_index(peer),
                feature_level=self._services.level_of(peer),
                silent_s=now - progress.heard_at,
                connected=self._services.connected(peer),
                snapshot=progress.snapshot,
                snapshot_rows=replica.sender.there(peer)[0],
                snapshot_bytes=replica.sender.there(peer)[1],
            )
            for peer, progress in replica.replication.progress.items()
        }


def _tell(index: int, told: list[Told]) -> None:
    """Everybody who waited for an operation of one entry."""
    for done, askers, results in told:
        try:
            done(askers, AppliedEach(index, results))
        except Exception:
            # A defect of whoever asked must not take the answers of all others with it.
            _logger.exception("a done callback raised; its defect, the node goes on")
