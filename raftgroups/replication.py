"""The leader's way of getting its log to the others: what to send to whom, and what came back.

Once a turn, after the tick, for every peer (hazard n5):

    entries from `next` on, while less than `inflight_max_bytes` is under way
    else, if heartbeats are due, an empty Append        its previous entry finds out about losses
    else, if the commit index has moved, a quiet one    so that followers apply without delay:
                                                        after `commit_notice_s`, because the next
                                                        entries often come sooner and tell it too
    a peer that needs entries from before the base gets a snapshot, and signs of life meanwhile

AppendEntries may leave before our own disk has the entries, because no tick counts them before it
does; but not before our disk has the TERM: a node that forgot it could lead the same term again and
put another entry at the same place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from raftgroups.filters import a_ack_of_this_term, ack_within_log, l2_member
from raftgroups.messages import Ack, Append, WireEntry
from raftgroups.progress import Progress
from raftgroups.transport import NodeId

if TYPE_CHECKING:
    from raftgroups.replica import Replica


_NEVER: Final = float("inf")


class Replication:
    """Invariant: `progress` has exactly the other members of the configuration in force."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self.progress: dict[NodeId, Progress] = {}
        self.heartbeat = False
        """Heartbeats are due: set by the tick, cleared by `send`."""
        self.notice_at = _NEVER
        """When a commit index that no entries have told is due to be told; infinity: never."""

    def adopt(self, peers: list[NodeId]) -> None:
        now = self._replica.now()
        self.progress = {peer: self.progress.get(peer) or Progress(now) for peer in peers}

    def restart(self) -> None:
        """A new leadership: nothing is known, nothing is under way."""
        now = self._replica.now()
        self.progress = {peer: Progress(now) for peer in self.progress}
        self.heartbeat = True
        self.notice_at = _NEVER

    def complete_peers(self) -> list[NodeId] | None:
        """Who is connected, or None if one of them does not have the whole log."""
        replica = self._replica
        last = replica.journal.last_index
        connected = [peer for peer in self.progress if replica.services.connected(peer)]
        if all(replica.raft.match_index(peer) == last for peer in connected):
            return connected
        return None

    def awake(self) -> None:
        """After a sleep nobody is late with an answer, and heartbeats are due."""
        raft = self._replica.raft
        for peer in self.progress:
            raft.heard(peer)
        raft.heartbeat_deadline = self._replica.now() - 1.0

    def peer_connected(self, peer: NodeId) -> None:
        progress = self.progress.get(peer)
        if progress is not None and self._replica.raft.leads:
            progress.lost()
            self._replica.raft.set_next_index(peer, self._first_missing(peer))

    def _first_missing(self, peer: NodeId) -> int:
        """What is surely not there yet, as far as is known: before anything is, go on."""
        match = self._replica.raft.match_index(peer)
        return match + 1 if match else self._replica.raft.next_index(peer)

    # --- out -----------------------------------------------------------------------------

    def send(self) -> None:
        heartbeat, self.heartbeat = self.heartbeat, False
        replica = self._replica
        early = replica.journal.durable_term == replica.raft.term
        notice_at, self.notice_at = self.notice_at, _NEVER
        raft, last = replica.raft, replica.journal.last_index
        untold = False
        for peer, progress in self.progress.items():
            if replica.services.connected(peer):
                following = raft.next_index(peer)
                if heartbeat or following <= last or progress.snapshot:
                    self._send_to(peer, progress, following, heartbeat, early)
                if progress.commit_sent < raft.commit_index:
                    untold = untold or self._untold(peer, progress)
        if not untold:
            return
        now = replica.now()
        if notice_at == _NEVER:
            notice_at = now + replica.services.config.commit_notice_s
        if notice_at > now:
            self.notice_at = notice_at
            return
        for peer, progress in self.progress.items():
            if replica.services.connected(peer) and self._untold(peer, progress):
                replica.services.send(peer, self._notice(peer, progress), early=early)

    def _untold(self, peer: NodeId, progress: Progress) -> bool:
        """There is a commit index that this peer could use, and nothing on its way says it."""
        replica = self._replica
        return (
            progress.commit_sent < replica.raft.commit_index
            and not progress.paused
            and not progress.snapshot
            and replica.raft.next_index(peer) > replica.journal.base_index
        )

    def _notice(self, peer: NodeId, progress: Progress) -> Append:
        progress.commit_sent = self._replica.raft.commit_index
        return self._message(self._replica.raft.next_index(peer) - 1, [], quiet=True)

    def tell_commit(self, peer: NodeId) -> None:
        """Now, past the turn: this peer is about to be told a read point. What it refers to has
        left: entries of the turn under way would have told the commit index themselves."""
        replica, progress = self._replica, self.progress.get(peer)
        if (
            progress is not None
            and progress.commit_sent < replica.raft.commit_index  # else all is told, and mostly is
            and replica.journal.durable_term == replica.raft.term
            and self._untold(peer, progress)
        ):
            replica.services.send_now(peer, self._notice(peer, progress))

    def _send_to(
        self, peer: NodeId, progress: Progress, following: int, heartbeat: bool, early: bool
    ) -> None:
        """Entries from `following` on, if there are any, or what a heartbeat is."""
        replica = self._replica
        raft, journal, config = replica.raft, replica.journal, replica.services.config
        if progress.snapshot or following <= journal.base_index:
            replica.sender.want(peer)
            if heartbeat:
                sign_of_life = self._message(None, [], quiet=False)
                replica.services.send(peer, sign_of_life, early=early)
            return
        sent = False
        while following <= journal.last_index and progress.may_send(config.inflight_max_bytes):
            entries = journal.window.read(following, config.append_max_bytes)
            wire = [(term, command) for command, _, term in entries]
            message = self._message(following - 1, wire, quiet=False)
            replica.services.send(peer, message, early=early)
            following += len(entries)
            progress.sent(following - 1, sum(len(command) for _, command in wire))
            raft.set_next_index(peer, following)
            sent = True
        if heartbeat and not sent:
            message = self._message(following - 1, [], quiet=False)
            replica.services.send(peer, message, early=early)
        if heartbeat or sent:
            progress.commit_sent = raft.commit_index

    def _message(self, prev_index: int | None, entries: list[WireEntry], *, quiet: bool) -> Append:
        raft = self._replica.raft
        prev_term = 0 if prev_index is None else self._replica.journal.term_at(prev_index)
        commit = raft.commit_index
        return Append(
            self._replica.group_id, raft.term, prev_index, prev_term, commit, quiet, entries
        )

    def not_sent(self, peer: NodeId, append: Append) -> None:
        """The link refused it: heartbeats go on, and the first answer ends the pause."""
        progress = self.progress.get(peer)
        replica = self._replica
        if progress is None or not replica.raft.leads or append.term != replica.raft.term:
            return
        progress.lost()
        progress.paused = True
        if append.prev_index is not None and append.entries:
            following = min(replica.raft.next_index(peer), append.prev_index + 1)
            replica.raft.set_next_index(peer, following)

    # --- back ----------------------------------------------------------------------------

    def hear(self, peer: NodeId, incarnation: int, ack: Ack, now: float) -> bool:
        """Take the answer to a heartbeat of somebody who has all that was sent, as `on_ack` would,
        without the core and a tick. False: it says more than that."""
        replica = self._replica
        raft, progress = replica.raft, self.progress.get(peer)
        if (
            progress is None
            or not raft.leads
            or ack.term != raft.term
            or not ack.success
            or ack.reset
            or progress.incarnation != incarnation
            or progress.under_way
            or progress.paused
            or progress.snapshot
            or ack.next_index != raft.next_index(peer)
            or ack.next_index != raft.match_index(peer) + 1
            or not replica.journal.config.is_member(peer, incarnation)
        ):
            return False
        raft.heard(peer)
        progress.heard_at = now
        return True

    def hear_late(self, peer: NodeId, incarnation: int, ack: Ack) -> bool:
        """Take the acknowledgement of somebody who has now what a majority had before, as `on_ack`
        would: it commits nothing and frees nothing that waits, so it needs no turn, and may come
        while a sync is in flight. False: it says more than that."""
        replica = self._replica
        raft, progress = replica.raft, self.progress.get(peer)
        if (
            progress is None
            or not raft.leads
            or ack.term != raft.term
            or not ack.success
            or ack.reset
            or progress.incarnation != incarnation
            or progress.paused
            or progress.snapshot
            or not raft.match_index(peer) < ack.next_index - 1 <= raft.commit_index
            or raft.next_index(peer) <= replica.journal.last_index
            or not replica.journal.config.is_member(peer, incarnation)
        ):
            return False
        raft.set_match(peer, ack.next_index - 1)
        raft.heard(peer)
        progress.heard_at = replica.now()
        progress.acknowledged(ack.next_index - 1)
        return True

    def on_ack(self, peer: NodeId, incarnation: int, ack: Ack) -> None:
        replica = self._replica
        raft, canaries = replica.raft, replica.services.config.canaries
        if not raft.leads:
            return
        reason = None
        if "no-ack-term-check" not in canaries:
            reason = a_ack_of_this_term(ack, raft.term)
        reason = reason or l2_member(replica.journal.config, peer, incarnation)
        reason = reason or ack_within_log(ack, replica.journal.last_index)
        if reason is not None:
            replica.drop(peer, reason)
            if reason in ("l2-not-a-member", "foreign-incarnation"):
                replica.tell_not_member(peer)
            return
        progress = self.progress[peer]
        if progress.incarnation != incarnation:
            if progress.incarnation is not None:
                raft.forget_match(peer)
                progress.lost()
            progress.incarnation = incarnation
        following = raft.next_index(peer)
        raft.receive_ack(peer, ack)
        progress.heard_at = replica.now()
        if ack.success:
            raft.set_next_index(peer, max(following, ack.next_index))
            progress.acknowledged(ack.next_index - 1)
        elif ack.reset:
            progress.lost()
