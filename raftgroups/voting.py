"""Votes and pre-votes of one replica: what it asks, what it grants, what it counts.

The state is in election.py, the rules are in filters.py; this joins them with the core and the
network. Who may do what:

    stand      a voter of its own configuration, with its own disk, with its state complete
    grant      a member of its own configuration (a learner may be a voter already and not know it);
               a blank replica, if none of its group was ever erased here
    be granted anyone whose log is good enough: our own configuration may be the older one
    be counted voters of the candidate's configuration, of the incarnation that was admitted; blank
               ones only if they are bound to one, in a group whose level says that all leave marks

A blank replica joined, and has no configuration and no log yet. It never stands. Its vote is that
of an empty log, so it must not be one that had more and lost it. A wiped directory under an old
name has another incarnation, which does not count until it was removed and added again; a replica
that was erased in the same directory has left a mark (journal.py). What remains are those that
never had anything, though the candidate's configuration has them: members of a shard by its split
that came past the split by a snapshot of the parent. Without their votes a shard that was born
while its members were being changed could have too few voters, and nobody to send the others a
snapshot.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from raftgroups.election import Election
from raftgroups.filters import blank_vote_counts, e2_vote_counts, e_pre_vote, e_undisturbed
from raftgroups.messages import (
    BlankVote,
    PreVote,
    PreVoteRequest,
    Stale,
    TimeoutNow,
    Vote,
    VoteRequest,
)
from raftgroups.seams import CANDIDATE
from raftgroups.transport import NodeId

if TYPE_CHECKING:
    from raftgroups.replica import Replica

NEVER: Final = float("-inf")


class Voting:
    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self.election = Election(round=replica.services.rng.randrange(0, 1 << 32))
        self.leader_heard_at = NEVER
        """When a leader of our term last proved to be there."""
        self.leader_changes = 0
        """Terms in which this replica came to know a leader, itself included."""
        self._led_term = 0

    def _silence_s(self) -> float:
        return self._replica.now() - self.leader_heard_at

    # --- standing ------------------------------------------------------------------------

    def may_stand(self) -> bool:
        """The election gate of pysyncobj; see raftgroups/election.py."""
        replica, election = self._replica, self.election
        raft = replica.raft
        if not replica.may_campaign():
            election.cancel()
            raft.election_deadline = replica.now() + raft.timeout_s()
            return False
        config = replica.journal.config
        if election.enter() or config.majority() == 1:
            election.started += 1
            self.leader_heard_at = NEVER
            return True
        number = election.begin_round(replica.now())
        raft.election_deadline = replica.now() + raft.timeout_s() / 2
        raft.forget_leader()
        request = PreVoteRequest(
            replica.group_id,
            raft.term + 1,
            replica.journal.last_index,
            replica.journal.last_term,
            number,
        )
        for voter in config.voters:
            if voter != replica.services.node_id:
                replica.services.send(voter, request)
        return False

    def ask(self, node: NodeId, term: int, last_index: int, last_term: int) -> None:
        """pysyncobj stands and asks this voter."""
        election = self.election
        if election.counted_term != term:
            election.begin_counting(term)
        self._replica.services.send(
            node,
            VoteRequest(
                self._replica.group_id, term, last_index, last_term, election.stands_by_order
            ),
        )

    def leader_heard(self, now: float) -> None:
        self.leader_heard_at = now
        if self.election.asking or self.election.won:
            self.election.cancel()
        if self._replica.raft.term != self._led_term:
            self.leader_known()

    def leader_known(self) -> None:
        """Count the leader of this term once."""
        term = self._replica.raft.term
        if term != self._led_term:
            self._led_term = term
            self.leader_changes += 1

    def leader_lost(self) -> None:
        """The connection to the leader is gone: find out soon whether the leader is, too."""
        replica = self._replica
        self.leader_heard_at = NEVER
        soon = replica.services.rng.uniform(1.0, 3.0) * replica.services.config.heartbeat_s
        replica.raft.election_deadline = min(replica.raft.election_deadline, replica.now() + soon)

    # --- messages ------------------------------------------------------------------------

    def on_pre_vote_request(self, peer: NodeId, incarnation: int, request: PreVoteRequest) -> None:
        replica = self._replica
        raft, journal = replica.raft, replica.journal
        if not journal.config.is_member(peer, incarnation):
            replica.tell_not_member(peer)
        if raft.leader == peer and request.term > raft.term:
            # A leader that asks for votes leads no longer; nobody else is to be waited for.
            raft.forget_leader()
            self.leader_heard_at = NEVER
        if not replica.may_vote():
            return replica.drop(peer, "not-voting")
        granted = e_pre_vote(
            proposed_term=request.term,
            candidate=(request.last_term, request.last_index),
            own_term=raft.term,
            own=(journal.last_term, journal.last_index),
            leads=raft.leads,
            silence_s=self._silence_s(),
            election_timeout_s=replica.services.config.election_timeout_s[0],
        )
        granted = granted and self._gives_way(peer)
        return replica.services.send(
            peer, PreVote(replica.group_id, raft.term, request.round, granted)
        )

    def _gives_way(self, peer: NodeId) -> bool:
        """Two that ask at the same moment would split the votes: the greater name goes first."""
        replica, election = self._replica, self.election
        heartbeat_s = replica.services.config.heartbeat_s
        if not election.asking or replica.now() - election.asked_at > heartbeat_s:
            return True
        if peer < replica.services.node_id:
            return False
        election.cancel()
        return True

    def on_pre_vote(self, peer: NodeId, incarnation: int, answer: PreVote) -> None:
        replica = self._replica
        if not answer.granted:
            self._follow_term(peer, incarnation, answer.term)
        elif self.election.pre_vote(replica.journal.config, peer, incarnation, answer.round):
            replica.raft.election_deadline = NEVER

    def on_vote_request(self, peer: NodeId, _: int, request: VoteRequest) -> None:
        replica = self._replica
        if not replica.may_vote():
            return replica.drop(peer, "not-voting")
        reason = e_undisturbed(
            request,
            leads=replica.raft.leads,
            silence_s=self._silence_s(),
            election_timeout_s=replica.services.config.election_timeout_s[0],
        )
        if reason is not None:
            return replica.drop(peer, reason)
        return replica.raft.receive_vote_request(
            peer, request.term, request.last_index, request.last_term
        )

    def grant(self, node: NodeId, term: int) -> None:
        """pysyncobj votes for this node."""
        replica = self._replica
        early = "vote-before-sync" in replica.services.config.canaries
        kind = BlankVote if replica.blank() else Vote
        replica.services.send(node, kind(replica.group_id, term), early=early)

    def on_blank_vote(self, peer: NodeId, incarnation: int, vote: BlankVote) -> None:
        reason = blank_vote_counts(self._replica.journal.config, peer)
        if reason is not None:
            return self._replica.drop(peer, reason)
        return self.on_vote(peer, incarnation, Vote(vote.group, vote.term))

    def on_vote(self, peer: NodeId, incarnation: int, vote: Vote) -> None:
        replica, election = self._replica, self.election
        raft = replica.raft
        if raft.role != CANDIDATE or vote.term != raft.term:
            return replica.drop(peer, "late-vote")
        if "duplicate-votes" not in replica.services.config.canaries:
            config = replica.journal.config
            reason = e2_vote_counts(config, peer, incarnation, election.counted)
            if reason is not None:
                return replica.drop(peer, reason)
        election.counted.add(peer)
        return raft.receive_vote(peer, vote.term)

    def on_stale(self, peer: NodeId, incarnation: int, answer: Stale) -> None:
        self._follow_term(peer, incarnation, answer.term)

    def _follow_term(self, peer: NodeId, incarnation: int, term: int) -> None:
        """Rule e: a voter whose term is ahead would refuse us for ever, so we catch up with its
        term; a leader steps down by that and stands again."""
        replica = self._replica
        if term > replica.raft.term and replica.journal.config.is_voter(peer, incarnation):
            self.election.cancel()
            replica.raft.raise_term(peer, term)

    def on_timeout_now(self, peer: NodeId, _: int, order: TimeoutNow) -> None:
        replica = self._replica
        raft = replica.raft
        if order.term != raft.term or raft.leader != peer or not replica.may_campaign():
            return replica.drop(peer, "late-timeout-now")
        self.election.ordered = True
        return raft.receive_timeout_now(peer, order.term)
