"""What a leader does to its group on request: change its members, hand over; and forming it.

One change at a time, from proposal to applied (hazard l; the rules are in membership.py), and one
hand-over at a time (hazard m). Each request is answered exactly once: Done, Refused (surely not
done) or Unknown (proposed, or the target was told, and then the outcome was lost sight of).

    add      propose [learner]                          -> applied
    promote  wait until it has caught up, propose       -> applied
    remove   propose                                    -> applied, then tell the removed node
    level    once every member's program supports it, propose, unasked (levels.py)
    transfer pause proposals -> all committed and applied, the target has it all -> tell it
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Final

from raftgroups.election import Transfer
from raftgroups.levels import NOT_HEARD, level_of_all, why_not_admitted
from raftgroups.membership import UNBOUND, Config, why_not_now
from raftgroups.messages import NotMember, TimeoutNow
from raftgroups.outcomes import ChangeResult, Done, Refused, Unknown
from raftgroups.records import config_command
from raftgroups.transport import NodeId

if TYPE_CHECKING:
    from raftgroups.replica import Replica

CAUGHT_UP_ENTRIES: Final = 64

Answer = Callable[[ChangeResult], None]


@dataclass(slots=True)
class Change:
    node: NodeId
    done: Answer
    deadline: float
    promotes: bool = False
    removes: bool = False
    index: int | None = None
    """Where it was proposed; None while a promotion waits for its node to catch up."""


class Changes:
    """Invariant: at most one change and at most one hand-over under way."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self.change: Change | None = None
        self.transfer: Transfer | None = None

    def why_no_proposals(self) -> str | None:
        if not self._replica.journal.config.formed:
            return "the group is forming: not every initial voter was heard yet; try again"
        return "the leadership is being handed over; try again" if self.transfer else None

    def busy(self) -> bool:
        return (
            self.change is not None
            or self.transfer is not None
            or not self._replica.journal.config.formed
        )

    def deadline(self) -> float:
        change = float("inf") if self.change is None else self.change.deadline
        return change if self.transfer is None else min(change, self.transfer.deadline)

    def _answer(self, done: Answer, result: ChangeResult) -> None:
        self._replica.services.answer(partial(done, result))

    # --- requests ------------------------------------------------------------------------

    def _refusal(self, *, removal: bool = False) -> str | None:
        """Why no change may begin now. A founder may be removed while the group is forming: if it
        is lost for good, it would never be heard, and the group never be formed."""
        replica = self._replica
        if not replica.raft.leads:
            return "this node does not lead the group"
        if self.change is not None:
            return f"the change of {self.change.node} is under way; one change at a time"
        if self.transfer is not None or not (replica.journal.config.formed or removal):
            return self.why_no_proposals()
        return replica.why_no_change() or why_not_now(
            config_index=replica.journal.config_index,
            applied_index=replica.raft.applied_index,
            noop_index=replica.raft.noop_index,
            commit_index=replica.raft.commit_index,
        )

    def _begin(self, change: Change, wrong: str | None, config: Callable[[], Config]) -> None:
        reason = self._refusal(removal=change.removes) or wrong
        if reason is not None:
            self._answer(change.done, Refused(reason, self._replica.leader_hint()))
            return
        self.change = change
        if not change.promotes:
            change.index = self._propose(config())

    def _propose(self, config: Config) -> int:
        index = self._replica.raft.append(config_command(config))
        self._replica.services.wake(self._replica.group_id)
        return index

    def _new(self, node: NodeId, done: Answer) -> Change:
        return Change(
            node, done, self._replica.now() + self._replica.services.config.change_timeout_s
        )

    def add_learner(self, node: NodeId, done: Answer) -> None:
        config = self._replica.journal.config
        wrong = None if config.incarnation(node) is None else f"{node} is a member already"
        level = self._replica.services.level_of(node)
        wrong = wrong or why_not_admitted(node, level, config.level)
        self._begin(self._new(node, done), wrong, lambda: config.with_learner(node))

    def promote(self, node: NodeId, done: Answer) -> None:
        change = self._new(node, done)
        change.promotes = True
        config = self._replica.journal.config
        wrong = None if node in config.learners else f"{node} is no learner of this group"
        self._begin(change, wrong, lambda: config)
        self._replica.services.wake(self._replica.group_id)

    def remove(self, node: NodeId, done: Answer) -> None:
        config = self._replica.journal.config
        if node == self._replica.services.node_id and self._replica.raft.leads:
            self._leave(done)
            return
        change = self._new(node, done)
        change.removes = True
        wrong = None if config.incarnation(node) is not None else f"{node} is no member"
        self._begin(change, wrong, lambda: config.without(node))

    def _leave(self, done: Answer) -> None:
        """A leader is not removed while it leads: it hands over, and the next one removes it."""
        replica = self._replica
        others = [n for n in replica.journal.config.voters if n != replica.services.node_id]
        if not others:
            self._answer(done, Refused("this node is the only voter; add another one first"))
            return

        def handed_over(result: ChangeResult) -> None:
            if isinstance(result, Done):
                reason = "this node led and has handed over; ask the new leader"
                result = Refused(reason, replica.leader_hint())
            done(result)

        best = max(others, key=lambda n: (replica.raft.match_index(n), n))
        self.hand_over(best, handed_over)

    def hand_over(self, target: NodeId, done: Answer) -> None:
        replica = self._replica
        reason = self._refusal()
        if reason is None and target == replica.services.node_id:
            reason = "this node leads already"
        if reason is None and target not in replica.journal.config.voters:
            reason = f"{target} is no voter of this group"
        if reason is not None:
            self._answer(done, Refused(reason, replica.leader_hint()))
            return
        deadline = replica.now() + replica.services.config.transfer_timeout_s
        self.transfer = Transfer(target, done, deadline)
        replica.services.wake(replica.group_id)

    # --- the turn ------------------------------------------------------------------------

    def step(self, now: float) -> None:
        """After each tick."""
        if not self._replica.journal.config.formed and self._replica.raft.leads:
            self._form()
        if self.change is not None:
            self._step_change(self.change, now)
        if self.transfer is not None:
            self._step_transfer(self.transfer, now)
        if self._replica.journal.config.level < self._replica.services.config.feature_level:
            self._raise_level()

    def _form(self) -> None:
        replica = self._replica
        journal, raft, me = replica.journal, replica.raft, replica.services.node_id
        config = journal.config
        if why_not_now(
            config_index=journal.config_index if journal.config_index > journal.base_index else 0,
            applied_index=raft.applied_index,
            noop_index=raft.noop_index,
            commit_index=raft.commit_index,
        ):
            return
        others = [node for node in config.voters if node != me]
        if UNBOUND in config.voters.values():
            heard = {me: replica.services.incarnation}
            for node in others:
                incarnation = replica.replication.progress[node].incarnation
                if incarnation is not None:
                    heard[node] = incarnation
            if len(heard) == len(config.voters):
                self._propose(config.bind(heard))
        elif all(raft.match_index(node) >= journal.config_index for node in others):
            self._propose(replace(config, formed=True))

    def _raise_level(self) -> None:
        """By one change for itself, once every member was heard in this leadership."""
        replica = self._replica
        config, services = replica.journal.config, replica.services
        own = services.config.feature_level
        if self._refusal() is not None:
            return
        level = level_of_all(
            own,
            (
                NOT_HEARD if progress.incarnation is None else services.level_of(peer)
                for peer, progress in replica.replication.progress.items()
            ),
        )
        if "level-before-all" in services.config.canaries:
            level = own
        if level > config.level:
            self._propose(config.raised(level))

    def _step_change(self, change: Change, now: float) -> None:
        replica = self._replica
        if change.index is not None:
            if replica.raft.applied_index >= change.index:
                self.change = None
                self._answer(change.done, Done(change.index))
                if change.removes:
                    self._tell_removed(change.node, change.index)
            elif now >= change.deadline:
                self.change = None
                self._answer(change.done, Unknown("the change was proposed and not committed yet"))
        elif now >= change.deadline:
            self.change = None
            reason = f"{change.node} did not catch up in time"
            self._answer(change.done, Refused(reason, replica.leader_hint()))
        elif replica.raft.leads:
            self._promote_if_caught_up(change)

    def _promote_if_caught_up(self, change: Change) -> None:
        replica = self._replica
        progress = replica.replication.progress.get(change.node)
        if progress is None or progress.incarnation is None:
            return
        match = replica.raft.match_index(change.node)
        # An acknowledgement from before it was admitted may be of an earlier replica there, which
        # was removed and has forgotten it. Nothing from its admission on was ever sent to that one.
        if match < replica.journal.config_index:
            return
        if replica.journal.last_index - match <= CAUGHT_UP_ENTRIES:
            config = replica.journal.config.promoted(change.node, progress.incarnation)
            change.index = self._propose(config)

    def _tell_removed(self, node: NodeId, index: int) -> None:
        replica = self._replica
        replica.services.send(node, NotMember(replica.group_id, replica.raft.term, index))

    def _step_transfer(self, transfer: Transfer, now: float) -> None:
        replica = self._replica
        raft = replica.raft
        if not raft.leads:
            self._step_handed_over(transfer, now)
        elif now >= transfer.deadline:
            self.transfer = None
            if transfer.told:
                result: ChangeResult = Unknown(f"{transfer.target} was told and did not answer")
            else:
                result = Refused(f"{transfer.target} did not catch up in time")
            self._answer(transfer.done, result)
        elif not transfer.told:
            last = replica.journal.last_index
            drained = raft.applied_index == last and raft.match_index(transfer.target) == last
            if drained:
                transfer.told = True
                replica.services.send(transfer.target, TimeoutNow(replica.group_id, raft.term))

    def _step_handed_over(self, transfer: Transfer, now: float) -> None:
        leader = self._replica.raft.leader
        if leader == transfer.target:
            result: ChangeResult = Done(self._replica.journal.last_index)
        elif leader is not None:
            result = Refused(f"{leader} took over instead", leader)
        elif now >= transfer.deadline:
            result = Unknown("nobody is known to lead yet")
        else:
            return
        self.transfer = None
        self._answer(transfer.done, result)

    def leadership_lost(self) -> None:
        change, self.change = self.change, None
        if change is None:
            return
        if change.index is None:
            self._answer(change.done, Refused("the leader changed; ask the new one"))
        else:
            self._answer(change.done, Unknown("the leader changed before the change was applied"))

    def stop(self) -> None:
        self.leadership_lost()
        transfer, self.transfer = self.transfer, None
        if transfer is not None:
            self._answer(transfer.done, Unknown("this node stops"))
