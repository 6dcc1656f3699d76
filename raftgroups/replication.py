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
        self._made: tuple[Append, int] | None = None
        """Entries that this turn has sent to one peer, and their size: others get the same."""

    def adopt(self, peers: list[NodeId]) -> None:
        now, node = self._replica.now(), self._replica.raft.node
        self.progress = {
            peer: self.progress.get(peer) or Progress(now, node(peer)) for peer in peers
        }

    def restart(self) -> None:
        """A new leadership: nothing is known, nothing is under way."""
        now, node = self._replica.now(), self._replica.raft.node
        self.progress = {peer: Progress(now, node(peer)) for peer in self.progress}
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
        raft, now = self._replica.raft, self._replica.now()
        for progress in self.progress.values():
            raft.heard(progress.node, now)
        raft.heartbeat_deadline = now - 1.0

    def peer_connected(self, peer: NodeId) -> None:
        progress = self.progress.get(peer)
        if progress is not None and self._replica.raft.leads:
            progress.lost()
            raft = self._replica.raft
            match = raft.matched[progress.node]
            if match:  # else nothing is known: go on
                raft.following[progress.node] = match + 1

    # --- out -----------------------------------------------------------------------------

    def send(self, now: float) -> None:
        heartbeat, self.heartbeat = self.heartbeat, False
        notice_at, self.notice_at = self.notice_at, _NEVER
        replica = self._replica
        raft, journal, connected = replica.raft, replica.journal, replica.services.connected
        following, last, commit = raft.following, journal.last_index, raft.commit_index
        early = journal.durable_term == raft.term
        untold = False
        for peer, progress in self.progress.items():
            due = heartbeat or following[progress.node] <= last or progress.snapshot
            if not due and (untold or progress.commit_sent >= commit):
                continue
            if connected(peer):
                if due:
                    self._send_to(peer, progress, heartbeat, early)
                untold = untold or (progress.commit_sent < commit and self._untold(progress))
        self._made = None
        if not untold:
            return
        if notice_at == _NEVER:
            notice_at = now + replica.services.config.commit_notice_s
        if notice_at > now:
            self.notice_at = notice_at
            return
        for peer, progress in self.progress.items():
            if self._untold(progress) and connected(peer):
                replica.services.send(peer, self._notice(progress), early=early)

    def _untold(self, progress: Progress) -> bool:
        """There is a commit index that this peer could use, and nothing on its way says it."""
        replica = self._replica
        return (
            progress.commit_sent < replica.raft.commit_index
            and not progress.paused
            and not progress.snapshot
            and replica.raft.following[progress.node] > replica.journal.base_index
        )

    def _notice(self, progress: Progress) -> Append:
        raft = self._replica.raft
        progress.commit_sent = raft.commit_index
        return self._message(raft.following[progress.node] - 1, [], quiet=True)

    def tell_commit(self, peer: NodeId) -> None:
        """Now, past the turn: this peer is about to be told a read point. What it refers to has
        left: entries of the turn under way would have told the commit index themselves."""
        replica, progress = self._replica, self.progress.get(peer)
        if (
            progress is not None
            and progress.commit_sent < replica.raft.commit_index  # else all is told, and mostly is
            and replica.journal.durable_term == replica.raft.term
            and self._untold(progress)
        ):
            replica.services.send_now(peer, self._notice(progress))

    def _send_to(self, peer: NodeId, progress: Progress, heartbeat: bool, early: bool) -> None:
        """What entries it misses, if it misses any, or what a heartbeat is."""
        replica = self._replica
        raft, journal, config = replica.raft, replica.journal, replica.services.config
        following = raft.following[progress.node]
        if progress.snapshot or following <= journal.base_index:
            replica.sender.want(peer)
            if heartbeat:
                sign_of_life = self._message(None, [], quiet=False)
                replica.services.send(peer, sign_of_life, early=early)
            return
        sent = False
        while following <= journal.last_index and progress.may_send(config.inflight_max_bytes):
            message, size = self._entries_from(following)
            replica.services.send(peer, message, early=early)
            following += len(message.entries)
            progress.sent(following - 1, size)
            sent = True
        if sent:
            raft.following[progress.node] = following
        if heartbeat and not sent:
            message = self._message(following - 1, [], quiet=False)
            replica.services.send(peer, message, early=early)
        if heartbeat or sent:
            progress.commit_sent = raft.commit_index

    def _entries_from(self, first: int) -> tuple[Append, int]:
        """And how large they are. Within one `send` the same are not made twice."""
        if self._made is None or self._made[0].prev_index != first - 1:
            replica, size = self._replica, 0
            entries: list[WireEntry] = []
            max_bytes = replica.services.config.append_max_bytes
            for command, _, term in replica.journal.window.read(first, max_bytes):
                entries.append((term, command))
                size += len(command)
            self._made = (self._message(first - 1, entries, quiet=False), size)
        return self._made

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
            following = replica.raft.following
            following[progress.node] = min(following[progress.node], append.prev_index + 1)

    # --- back ----------------------------------------------------------------------------

    def hear(self, peer: NodeId, incarnation: int, ack: Ack, now: float) -> bool:
        """Take the answer to a heartbeat of somebody who has all that was sent, as `on_ack` would,
        without the core and a tick. False: it says more than that."""
        raft, progress = self._replica.raft, self._follows(peer, incarnation, ack)
        if (
            progress is None
            or progress.under_way
            or ack.next_index != raft.following[progress.node]
            or ack.next_index != raft.matched[progress.node] + 1
        ):
            return False
        raft.heard(progress.node, now)
        progress.heard_at = now
        return True

    def hear_late(self, peer: NodeId, incarnation: int, ack: Ack, now: float) -> bool:
        """Take the acknowledgement of somebody who has now what a majority had before, as `on_ack`
        would: it commits nothing and frees nothing that waits, so it needs no turn, and may come
        while a sync is in flight. False: it says more than that."""
        replica = self._replica
        raft, progress = replica.raft, self._follows(peer, incarnation, ack)
        if (
            progress is None
            or not raft.matched[progress.node] < ack.next_index - 1 <= raft.commit_index
            or raft.following[progress.node] <= replica.journal.last_index
        ):
            return False
        raft.matched[progress.node] = ack.next_index - 1
        self._heard(progress, ack, now)
        return True

    def hear_beside_sync(self, peer: NodeId, incarnation: int, ack: Ack, now: float) -> bool:
        """Take an acknowledgement, as `on_ack` would, while a sync is in flight; what it means is
        for `commit_beside_sync` and for the turn that follows. False: it says more than that."""
        replica, index = self._replica, ack.next_index - 1
        raft, progress = replica.raft, self._follows(peer, incarnation, ack)
        if (
            progress is None
            or not raft.matched[progress.node] <= index <= replica.journal.last_index
        ):
            return False
        raft.has(progress.node, index)
        self._heard(progress, ack, now)
        return True

    def commit_beside_sync(self) -> bool:
        """Commit, as a tick would, what a majority has of the entries that our own disk had before
        the sync in flight, if it is to be applied beside that: then it was made in this leadership,
        so it is of this term. False: there is nothing of that."""
        replica = self._replica
        raft, journal, config = replica.raft, replica.journal, replica.journal.config
        me, last = replica.services.node_id, journal.last_index
        known = (last if each == me else raft.match_index(each) for each in config.voters)
        index = sorted(known, reverse=True)[config.majority() - 1]
        if "commit-beside-sync-unsynced" not in replica.services.config.canaries:
            index = min(index, journal.durable_index)
        if (
            index <= raft.commit_index
            or not replica.is_voter()
            or not replica.applying.may_apply_beside_sync(index)
        ):
            return False
        raft.commit_index = index
        return True

    def _follows(self, peer: NodeId, incarnation: int, ack: Ack) -> Progress | None:
        """Of a member that acknowledges what this leader of this term has sent it, if nothing is
        wrong with that."""
        replica, progress = self._replica, self.progress.get(peer)
        if (
            progress is None
            or not replica.raft.leads
            or ack.term != replica.raft.term
            or not ack.success
            or ack.reset
            or progress.incarnation != incarnation
            or progress.paused
            or progress.snapshot
            or not replica.journal.config.is_member(peer, incarnation)
        ):
            return None
        return progress

    def _heard(self, progress: Progress, ack: Ack, now: float) -> None:
        self._replica.raft.heard(progress.node, now)
        progress.heard_at = now
        progress.acknowledged(ack.next_index - 1)

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
                raft.matched[progress.node] = 0  # it is on another disk now
                progress.lost()
            progress.incarnation = incarnation
        following = raft.following[progress.node]
        raft.receive_ack(peer, ack)
        progress.heard_at = replica.now()
        if ack.success:
            raft.following[progress.node] = max(following, ack.next_index)
            progress.acknowledged(ack.next_index - 1)
        elif ack.reset:
            progress.lost()
