"""One replica of one group: its core, its journal, its machine, and the way of a message in.

    frame -> host -> Replica.handlers -> rules (filters.py) -> pysyncobj (raftcore.py)
                                                                 |
             journal <- entries, term, vote                      | hooks
             machine <- committed entries                        |
             outbox  <- answers, votes, entries  <---------------+

A replica holds no queue of its own and starts no work: the host calls a handler and `tick`, in a
turn, and never while a sync is in flight. Whatever it wants to say goes to the host's outbox.

What is committed goes into the machine in applying.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from raftgroups.applying import Applying
from raftgroups.errors import BrokenLogError
from raftgroups.filters import Placed, b_place, d2_back_up, n1_snapshot_phase, n3_j_entries
from raftgroups.journal import GroupJournal
from raftgroups.levels import refuse_below
from raftgroups.lineage import BIRTH_TERM, DividingMachine
from raftgroups.machine_api import StateMachine
from raftgroups.messages import (
    Ack,
    Append,
    BlankVote,
    Chunk,
    Echo,
    LineageOffer,
    Message,
    NotMember,
    Offer,
    OfferReply,
    PreVote,
    PreVoteRequest,
    Probe,
    ReadIndex,
    ReadRequest,
    Sleep,
    Stale,
    TimeoutNow,
    Vote,
    VoteRequest,
)
from raftgroups.raftcore import Raft
from raftgroups.readpath import ReadPath
from raftgroups.replication import Replication
from raftgroups.seams import LEADER
from raftgroups.services import Owner, Services
from raftgroups.snapshot import meta_row
from raftgroups.snapshot_receive import SnapshotReceiver
from raftgroups.snapshot_send import SnapshotSender
from raftgroups.transport import NodeId
from raftgroups.voting import Voting
from storage.committer import Need
from storage.engine import Batch
from storage.slices import Range, remove

Handler = Callable[[NodeId, int, Any], None]
"""(sender, the incarnation that its frame names, message of the kind it is listed for)"""

RUSH_S: Final = 0.3
RUSH_BEAT_S: Final = 0.01
"""A leader from birth sends heartbeats so often, for so long at most, until a majority answers."""


class Replica:
    """Invariant: the core's members are those of the journal's configuration in force."""

    def __init__(
        self,
        services: Services,
        group_id: int,
        journal: GroupJournal,
        machine: StateMachine,
        owner: Owner,
    ) -> None:
        self.services = services
        self.now = services.clock.monotonic
        self.group_id = group_id
        self.journal = journal
        self.machine = machine
        self._dividing = machine if isinstance(machine, DividingMachine) else None
        self._birthright = False
        self._rush_until = 0.0
        """This group was born a moment ago, and its leader is not heard by a majority yet."""
        self._owner = owner
        self.applying = Applying(self, self._dividing, owner)
        self.apply_committed = self.applying.apply_committed
        self._ack_next: int | None = None
        self._quiet = False
        self.raft = Raft(services.node_id, journal, services, services.config, self)
        self.voting = Voting(self)
        self.replication = Replication(self)
        self.reads = ReadPath(self)
        self.sender = SnapshotSender(self)
        self.receiver = SnapshotReceiver(self)
        self.receiver.load()
        self.read_handlers: Final[dict[type[Message], Handler]] = {
            Probe: self.reads.on_probe,
            Echo: self.reads.on_echo,
            ReadRequest: self.reads.on_request,
            ReadIndex: self.reads.on_read_index,
        }
        """Of messages that need no turn."""
        self.handlers: Final[dict[type[Message], Handler]] = {
            Append: self._on_append,
            Ack: self.replication.on_ack,
            VoteRequest: self.voting.on_vote_request,
            Vote: self.voting.on_vote,
            BlankVote: self.voting.on_blank_vote,
            PreVoteRequest: self.voting.on_pre_vote_request,
            PreVote: self.voting.on_pre_vote,
            Stale: self.voting.on_stale,
            TimeoutNow: self.voting.on_timeout_now,
            NotMember: self._on_not_member,
            Sleep: self._on_sleep,
            Offer: self.receiver.on_offer,
            LineageOffer: self.receiver.on_offer,
            OfferReply: self.sender.on_reply,
            Chunk: self.receiver.on_chunk,
        }
        """Of one message, in a turn."""
        journal.on_config = self.adopt
        self.adopt()

    # --- who we are ----------------------------------------------------------------------

    def adopt(self) -> None:
        """The journal's configuration in force is another one."""
        config, me = self.journal.config, self.services.node_id
        refuse_below(self.group_id, config.level, self.services.config.feature_level)
        self.raft.adopt(
            (node for node in config.voters if node != me),
            (node for node in config.learners if node != me),
        )
        self.replication.adopt(config.peers(me))
        self._voter = config.is_voter(me, self.services.incarnation)
        self._member = config.is_member(me, self.services.incarnation)

    @property
    def removed(self) -> bool:
        """A committed configuration told us to stop, and none since then has us."""
        removed_at = self.journal.hard.removed_at
        return removed_at > 0 and removed_at >= self.journal.config_index

    @property
    def installing(self) -> bool:
        """A snapshot is being put in place: the machine's state is not whole."""
        return self.receiver.incoming is not None and self.receiver.moving

    @property
    def waiting(self) -> bool:
        """It has joined and waits for its first snapshot: it has no state at all."""
        return self.journal.base_index == 0 and not self.installing

    def owned_ranges(self) -> list[Range]:
        """What of the engine is this replica's: the machine's rows, and those that a snapshot is
        about to put in their places."""
        if self.waiting:
            return list(self.receiver.placed_ranges)
        owned = list(self.machine.owned_ranges())
        if self.receiver.incoming is not None and self.installing:
            owned += self.receiver.incoming.ranges
        return owned

    @property
    def frozen(self) -> bool:
        return self._dividing is not None and self._dividing.frozen and not self.installing

    def may_absorb(self, right: StateMachine) -> bool:
        """This frozen machine of another group of this node may be what an entry refers to that is
        still to be applied here."""
        if self.installing:
            return True
        return self._dividing is not None and self._dividing.may_absorb(right)

    def why_no_change(self) -> str | None:
        """Why the members must stay as they are, or None."""
        if self._dividing is None:
            return None
        if self.raft.applied_index < (self.raft.noop_index or 0):
            return "the leader has not applied yet what came before it; try again"
        return self._dividing.why_no_change()

    def is_voter(self) -> bool:
        return self._voter and not self.removed

    def may_campaign(self) -> bool:
        return self.is_voter() and not self.installing

    def is_member(self) -> bool:
        return self._member and not self.removed

    def blank(self) -> bool:
        """It joined, and has heard nothing of its group yet: it has acknowledged nothing."""
        return not self.journal.config.voters

    def may_vote(self) -> bool:
        """A blank one does not know whether it is a member; the candidate does."""
        if self.blank():
            return not self.journal.erased_before
        return self.is_member()

    def own_term_committed(self) -> bool:
        noop = self.raft.noop_index
        return noop is not None and self.raft.commit_index >= noop

    def leader_hint(self) -> NodeId | None:
        leader = self.raft.leader
        return None if leader == self.services.node_id else leader

    def drop(self, peer: NodeId, reason: str) -> None:
        self.services.drop(peer, self.group_id, reason)

    def tell_not_member(self, peer: NodeId) -> None:
        """Rule l2: pysyncobj never tells a removed node; only a committed removal counts."""
        journal = self.journal
        if journal.config_index <= self.raft.commit_index and journal.config.voters:
            message = NotMember(self.group_id, self.raft.term, journal.config_index)
            self.services.send(peer, message)

    # --- in ------------------------------------------------------------------------------

    def _on_append(self, peer: NodeId, _: int, append: Append) -> None:
        raft = self.raft
        if append.term < raft.term:
            self.services.send(peer, Stale(self.group_id, raft.term))
            return self.drop(peer, "old-term")
        reason = n3_j_entries(append)
        if reason is not None:
            return self.drop(peer, reason)
        if raft.leads and append.term == raft.term:
            raise BrokenLogError(
                f"group {self.group_id} has two leaders in term {raft.term}: {peer} and this node"
            )
        self._quiet = append.quiet
        if append.prev_index is None:
            raft.receive_append(peer, n1_snapshot_phase(append))
            sign_of_life = Ack(self.group_id, raft.term, 1, success=False, reset=False)
            self.services.send(peer, sign_of_life)
        else:
            placed = self._place(append)
            self._ack_next = None if placed.matched is None else placed.matched + 1
            raft.receive_append(peer, placed.append)
        return self.voting.leader_heard(self.now())

    def hear_leader(self, peer: NodeId, append: Append, now: float) -> bool:
        """Do what `_on_append` does with an Append that changes nothing but the election timer,
        without the core and a tick: 64 awake groups hear 640 a second. False: it is not one."""
        raft, journal = self.raft, self.journal
        last = journal.last_index
        if (
            append.entries
            or append.prev_index != last
            or append.prev_term != journal.last_term
            or append.commit > raft.applied_index
            or not raft.follows(peer, append.term)
            or not self.reads.points.idle
            or self.installing
        ):
            return False
        raft.election_deadline = now + raft.timeout_s()
        self.voting.leader_heard(now)
        if not append.quiet:
            ack = Ack(self.group_id, append.term, last + 1, success=True, reset=False)
            self.services.send(peer, ack)
        return True

    def _place(self, append: Append) -> Placed:
        assert append.prev_index is not None
        if "no-suffix-filter" in self.services.config.canaries:
            return Placed(append, append.prev_index + len(append.entries), None)
        placed = b_place(append, self.journal)
        conflict = placed.truncate_from
        if placed.matched is None and append.prev_index <= self.journal.last_index:
            conflict = append.prev_index
        if conflict is not None and conflict <= self.raft.commit_index:
            raise BrokenLogError(
                f"group {self.group_id}: the leader's entry {conflict} of term {append.term} is "
                f"not ours, but everything up to {self.raft.commit_index} is committed here"
            )
        return placed

    def _on_not_member(self, peer: NodeId, _: int, message: NotMember) -> None:
        if message.config_index >= self.journal.config_index:
            self.journal.set_removed_at(message.config_index)
            if self.raft.leads:
                self.raft.step_down()

    # --- sleeping (raftgroups/hibernation.py) ----------------------------------------------

    def say_good_night(self) -> bool:
        """On a leader: if everyone who can be reached has everything, tell them."""
        if not self.raft.leads or not self._all_applied() or self.sender.streams:
            return False
        present = self.replication.complete_peers()
        config, me = self.journal.config, self.services.node_id
        voters = sum(1 for peer in present or () if peer in config.voters)
        if present is None or voters + (me in config.voters) < config.majority():
            return False
        for peer in present:
            self.services.send(peer, Sleep(self.group_id, self.raft.term, self.journal.last_index))
        return True

    def _on_sleep(self, peer: NodeId, _: int, message: Sleep) -> None:
        raft = self.raft
        same = message.term == raft.term and raft.leader == peer
        if same and message.last_index == self.journal.last_index and self._all_applied():
            self.services.hibernate(self.group_id, peer)
        else:
            self.drop(peer, "not-tired")

    def _all_applied(self) -> bool:
        last = self.journal.last_index
        written = last == self.journal.durable_index == self.raft.applied_index
        return written and not self.installing

    def awake(self, heard_at: float, *, leader_lost: bool) -> None:
        if self.raft.leads:
            self.replication.awake()
            return
        self.voting.leader_heard_at = max(self.voting.leader_heard_at, heard_at)
        self.raft.election_deadline = self.now() + self.raft.timeout_s()
        if leader_lost:
            self.voting.leader_lost()

    # --- the tick ------------------------------------------------------------------------

    def born(self) -> None:
        """A split has made this replica, a moment ago: the founder leads without an election."""
        hard, me = self.journal.hard, self.services.node_id
        self._birthright = (hard.term, hard.vote) == (BIRTH_TERM, me)

    def tick(self) -> None:
        if self._birthright:
            self._birthright = False
            idle = self.raft.leader is None and not self.raft.leads
            if self.raft.term == BIRTH_TERM and idle and self.may_campaign():
                self.raft.lead_from_birth()
                self._rush_until = self.now() + RUSH_S
        self.applying.commit_floor = self.raft.commit_index
        self.raft.tick()
        if self.receiver.incoming is not None:
            self.receiver.step()
        if self._rush_until:
            self._rush()

    def _rush(self) -> None:
        """What the others were sent before they had made their replicas was dropped; a heartbeat
        later would be a long time for the keys of a shard that was split."""
        now = self.now()
        if now >= self._rush_until or not self.raft.leads or self.own_term_committed():
            self._rush_until = 0.0
        else:
            soon = now + RUSH_BEAT_S
            self.raft.heartbeat_deadline = min(self.raft.heartbeat_deadline, soon)

    def stand_down(self) -> None:
        """Our disk stood still: somebody else should lead."""
        if self.raft.leads:
            self.raft.step_down()

    def need(self) -> Need:
        own = self.journal.need()
        if own is Need.NOW or self.applying.divided or self.receiver.must_write:
            return Need.NOW
        return Need.NOW if self.sender.wanted and self.sender.waits_for_write else own

    def must_fold(self) -> bool:
        """What was applied must go with the next batch."""
        return (
            self.applying.must_fold()
            or self.journal.must_fold
            or bool(self.sender.wanted)
            or self.receiver.must_write
        )

    def prepare(self, batch: Batch, *, fold: bool = True) -> None:
        """`fold`: with what was applied, else that waits for a later batch."""
        if fold and not (self.installing or self.receiver.placing):
            self.applying.prepare(batch)
        self.journal.prepare(batch, fold=fold)
        self.receiver.prepare(batch)

    def erase(self, batch: Batch) -> None:
        """Nothing of it stays but the mark that the journal leaves."""
        self.erase_log(batch)
        with self.services.engine.snapshot() as rows:
            remove(batch, rows, self.owned_ranges())

    def erase_log(self, batch: Batch) -> None:
        """All but the rows of the machine."""
        self.journal.erase(batch)
        batch.delete_range(meta_row(self.group_id), meta_row(self.group_id + 1))

    def after_commit(self) -> None:
        self.applying.after_commit()
        self.journal.after_commit()
        if self.receiver.incoming is not None:
            self.receiver.after_commit()
        self._compact_if_long()

    def _compact_if_long(self) -> None:
        journal, config = self.journal, self.services.config
        long = journal.durable_applied - journal.base_index
        if long > config.compact_after_entries + config.keep_entries or (
            journal.grown_bytes > config.compact_after_bytes
        ):
            self.compact(journal.window.tail(config.keep_entries, config.keep_bytes))

    def compact(self, keep: int) -> None:
        """Hazard h: by index, never a dump, and not past what a snapshot under way needs."""
        journal = self.journal
        bound, base = journal.durable_applied - keep, journal.base_index
        held = self.sender.holds()
        journal.compact(bound if held is None else min(bound, held))
        if journal.base_index != base:
            self.services.wake(self.group_id)  # there is something to write

    # --- raftgroups.seams.Hooks ----------------------------------------------------------

    def may_stand(self) -> bool:
        return self.voting.may_stand()

    def heartbeat_is_due(self) -> float:
        self.replication.heartbeat = True
        return self.services.next_beat()

    def request_votes(self, node: NodeId, term: int, last_index: int, last_term: int) -> None:
        self.voting.ask(node, term, last_index, last_term)

    def grant_vote(self, node: NodeId, term: int) -> None:
        self.voting.grant(node, term)

    def acknowledge(
        self, node: NodeId, *, reset: bool, next_index: int | None, success: bool
    ) -> None:
        if success:
            if self._quiet:
                return
            wanted = next_index if self._ack_next is None else self._ack_next
        else:
            wanted = next_index
        if wanted is None:
            wanted = self.journal.last_index + 1
        if reset and "no-backup-rule" not in self.services.config.canaries:
            wanted = d2_back_up(wanted, self.raft.commit_index)
        ack = Ack(self.group_id, self.raft.term, wanted, success=success, reset=reset)
        self.services.send(node, ack)

    def role_changed(self, old: int, new: int) -> None:
        self.voting.election.cancel()
        if new == LEADER:
            self.voting.leader_known()
            self.replication.restart()
            self._owner.leadership_won()
        elif old == LEADER:
            self.reads.leadership_changed()
            self.sender.stop()
            self.applying.leadership_lost()
            self._owner.leadership_lost()
