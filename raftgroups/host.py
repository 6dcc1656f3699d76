"""All Raft groups of one node: a participant of the committer, and the turn that keeps them safe.

Which groups there are, and how they begin and end, is roster.py's.

    link frames --> inbox --+                                +--> late: acks, votes, requests
    propose() ---> queues --+--> begin_turn                  |
    timer ---> deadlines ---+     1 messages -> core         |  after_commit
                                  2 tick: commit, apply      |      ^
                                  3 append ONE entry a group |      |
                                  4 AppendEntries -----------|------|---> early, before the sync
                                                             |      |
                                  prepare: journals, hard state, applied data and indexes
                                  of ALL groups -> one batch -> one sync

- Nothing is ticked or delivered to a core while the sync is in flight: frames wait in the inbox.
  So a tick counts only entries that are on this node's own disk. But acknowledgements are heard
  then, too, and commit what that disk had before (Group.receive_ack_beside_sync).
- Early leave AppendEntries only (and reads, which need no turn at all). Everything that promises
  something waits for the sync; if a turn has nothing to write, it leaves at once.
- A turn serves only groups that have something to do. One timer waits for the nearest deadline of
  all groups; heartbeats of all groups fall due at the same moment and share a frame.
- A group whose rules are broken, or an exception out of a machine, is fatal for the node: nothing
  is acknowledged, the committer stops, `on_fatal` is told.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from raftgroups import identity
from raftgroups.config import HostConfig
from raftgroups.deadlines import Deadlines
from raftgroups.errors import GroupExistsError, NoSuchGroupError
from raftgroups.frames import Opening, decode_frame, frame_opening, read_plain
from raftgroups.group import Group
from raftgroups.hibernation import Hibernation
from raftgroups.levels import NOT_HEARD
from raftgroups.machine_api import StateMachine
from raftgroups.messages import Ack, Append, Beat, MalformedError, Message
from raftgroups.roster import Roster
from raftgroups.services import Counters
from raftgroups.snapshot_slots import SnapshotSlots
from raftgroups.soon import Soon
from raftgroups.status import HostStatus, Role
from raftgroups.transport import RAFT, SNAPSHOT, Link, NodeId, Outbox
from storage.clock import Clock, Rng, Scheduler
from storage.committer import Committer, Need
from storage.engine import Batch, Engine

__all__ = ["GroupExistsError", "GroupHost", "HostConfig", "NoSuchGroupError"]

_logger = logging.getLogger(__name__)

_NEVER: Final = float("inf")
PAST_MAX: Final = 16
"""Of so many messages that wait for a turn it is looked whose they are."""
SLOT_PATIENCE_BEATS: Final = 10
"""A group that waits to send a snapshot has a turn with every heartbeat."""


class GroupHost:
    def __init__(
        self,
        *,
        node_id: NodeId,
        incarnation: int,
        boot_id: str,
        engine: Engine,
        committer: Committer,
        link: Link,
        clock: Clock,
        rng: Rng,
        scheduler: Scheduler,
        config: HostConfig,
        machines: Callable[[int], StateMachine],
    ) -> None:
        """Registers itself with the committer and subscribes "raft" and "snapshot" on the link;
        make it before the link connects. `incarnation` is the data directory's; `boot_id` differs
        in every start of the process. If the engine's Raft state is of another incarnation, its
        replicas never vote again until they are removed and added (raftgroups/identity.py).
        `machines` makes the machine of a group."""
        self.node_id = node_id
        self.config = config
        self.clock = clock
        self._now = clock.monotonic
        self.rng = rng
        self.counters = Counters()
        self.origin = f"{node_id}/{boot_id}"
        self.engine = engine
        self.snapshot_slots = SnapshotSlots(
            config.snapshot_streams_max, SLOT_PATIENCE_BEATS * config.heartbeat_s
        )
        self._committer = committer
        self._link = link
        self._scheduler = scheduler
        self.incarnation = incarnation
        identity.adopt(engine, incarnation)
        level = config.feature_level
        self._soon = soon = Soon(scheduler, self._reads_depart)
        self._outbox = Outbox(link, self.incarnation, boot_id, level, self._not_sent, soon)
        soon.flush = self._outbox.flush_now
        # Of Services, and asked for so often that no method of ours stands around them.
        self.send = self._outbox.add
        self.send_now = self._outbox.send_now
        self.connected = link.connected
        self.answer = soon.answer
        self._openings: dict[NodeId, Opening] = {}
        """What the last frame of each node began with, and said of its process and program."""
        self.roster = roster = Roster(
            self, engine, config, machines, opened=self.wake, gone=self._gone, write=self._write
        )
        # The roster's, as part of what this host is to others.
        self.start = roster.start
        self.create = roster.create
        self.join = roster.join
        self.group = roster.group
        self.forget = roster.forget
        self.retire = roster.retire
        self.awaited = roster.awaited
        self.bear = roster.bear
        self.end = roster.end
        self.other_ranges = roster.other_ranges
        self._groups = roster.groups
        self._dirty: dict[int, None] = {}
        self._inbox: list[tuple[NodeId, int, Message]] = []
        self._to_write: dict[int, Need] = {}
        """Groups that have something to write, and how soon: found at the end of their part in a
        turn, kept until a batch leaves nothing."""
        self._prepared: list[Group] = []
        self._unwritten = Need.NOTHING
        """What groups that take no part in a turn have left to be written with a later one."""
        self._turn_need = Need.NOTHING
        """Of the turn whose batch comes next."""
        self._fold_at = float("-inf")
        """From then on a batch takes along what was applied."""
        self._deadlines = Deadlines(scheduler, clock, deadline_of=self._deadline_of, due=self.wake)
        self._turns = self._commits = 0
        self._stopped = False
        self._logged: set[str] = set()
        self._hibernation = Hibernation(self, scheduler.call_later)
        self.asleep = self._hibernation.asleep
        self._heard_at = self._hibernation.heard_at
        self.on_unknown_group: Callable[[int, NodeId], None] = _nothing_known
        """Told that a peer speaks of a group that is not here: whoever knows that this node is a
        member of it may `join` it. Often called; it must be cheap, and not raise."""
        committer.add(self)
        link.subscribe(RAFT, self._on_frame)
        link.subscribe(SNAPSHOT, self._on_frame)
        link.on_peer_change(self._on_peer_change)

    @property
    def groups(self) -> Mapping[int, Group]:
        return self._groups

    def stop(self) -> None:
        """Unsubscribe, cancel timers, answer everything pending Unknown."""
        self._stopped = True
        self._link.subscribe(RAFT, _ignore)
        self._link.subscribe(SNAPSHOT, _ignore)
        self._deadlines.stop()
        self._hibernation.stop()
        for group in self._groups.values():
            group.stop()

    # --- raftgroups.services.Services ----------------------------------------------------

    def level_of(self, peer: NodeId) -> int:
        opening = self._openings.get(peer)
        return NOT_HEARD if opening is None else opening.level

    def drop(self, peer: NodeId, group_id: int, reason: str) -> None:
        dropped = self.counters.dropped
        dropped[reason] = dropped.get(reason, 0) + 1
        if reason not in self._logged:
            self._logged.add(reason)
            _logger.info(
                "a message of node %s for group %s was not delivered: %s "
                "(logged once; the status counts them)",
                peer,
                group_id,
                reason,
            )

    def wake(self, group_id: int) -> None:
        if self.asleep(group_id):
            self._hibernation.wake(group_id)
        self._dirty[group_id] = None
        self._committer.kick()

    def _gone(self, group_id: int) -> None:
        self._dirty.pop(group_id, None)
        self._hibernation.wake(group_id)

    def _write(self) -> None:
        self._unwritten = Need.NOW
        self._committer.kick()

    def hibernate(self, group_id: int, leader: NodeId) -> None:
        self._hibernation.sleep(self._groups[group_id], leader)

    def reads_arrived(self, group_id: int) -> None:
        if self._hibernation.asleep(group_id):
            self.wake(group_id)
        self._soon.reads_arrived(group_id)

    def _reads_depart(self, group_ids: Iterable[int]) -> None:
        known = self._deadlines.known
        for group_id in group_ids:
            group = self._groups.get(group_id)
            if group is not None and not self._stopped:
                deadline = group.replica.reads.depart()
                if deadline < known.get(group_id, _NEVER):  # mostly something else comes sooner
                    self._deadlines.watch(group_id, deadline)

    def on_answered(self, call: Callable[[], None]) -> None:
        """Have `call` told whenever the answers of a pass of the loop were given: what they made
        somebody write to peers leaves with the entries of the same turn. It must not raise."""
        self._soon.on_answered = call

    def on_pass(self, begins: Callable[[], None], ends: Callable[[], None]) -> None:
        """Have these told when this host gives the answers of a pass of the loop, and when it has
        written to its peers after that: whoever writes answers to clients does so then, in the same
        pass and behind the peers, who have work to do. They must not raise."""
        self._soon.on_pass, self._soon.on_passed = begins, ends

    def next_beat(self) -> float:
        beat = self.config.heartbeat_s
        return (self.clock.monotonic() // beat + 1) * beat

    # --- frames --------------------------------------------------------------------------

    def _on_frame(self, peer: NodeId, frame: bytes) -> None:
        now = self._now()
        opening = self._openings.get(peer)
        messages = None if opening is None else read_plain(frame, opening)
        if messages is None or opening is None:
            found = self._read(peer, frame, opening, now)
            if found is None:
                return
            opening, messages = found
        self._heard_at[peer] = now
        incarnation = opening[1]
        self.counters.messages_in += len(messages)
        groups, inbox = self._groups, self._inbox
        waited = bool(inbox)  # then a turn is coming
        for message in messages:
            if type(message) is Beat:
                continue
            group = groups.get(message.group)
            if group is None:
                self._unknown_group(peer, message.group)
                continue
            handle = group.replica.read_handlers.get(type(message))
            if handle is not None:
                handle(peer, incarnation, message)
            elif type(message) is Ack and (
                # The answer to the last heartbeat before a sleep is no reason to wake.
                (message.success and self.asleep(message.group))
                or self._receive_ack(group, peer, incarnation, message, now)
            ):
                continue
            else:
                inbox.append((peer, incarnation, message))
        if inbox and not waited:
            self._committer.kick()

    def _receive_ack(
        self, group: Group, peer: NodeId, incarnation: int, ack: Ack, now: float
    ) -> bool:
        """Without a turn, if it needs none or none can begin now. False: it waits for one."""
        inbox = self._inbox
        if inbox and (len(inbox) > PAST_MAX or any(each[0] == peer for each in inbox)):
            return False  # never past another one of the same peer: the newest must be taken last
        if group.receive_late_ack(peer, incarnation, ack, now):
            return True
        if self._committer.in_flight_since is None:
            return False
        try:
            return group.receive_ack_beside_sync(peer, incarnation, ack, now)
        except Exception as error:  # noqa: BLE001 - whatever broke, this node must not go on
            self._fail(error)
            return True

    def _read(
        self, peer: NodeId, frame: bytes, known: Opening | None, now: float
    ) -> tuple[Opening, list[Message]] | None:
        """Any frame, with what it says of its sender's process and program."""
        try:
            incarnation, boot, level, messages, malformed = decode_frame(frame, known)
        except MalformedError as error:
            self.drop(peer, 0, "malformed-frame")
            _logger.debug("malformed frame of %s: %s", peer, error)
            return None
        for _ in range(malformed):
            self.drop(peer, 0, "malformed-message")
        if known is None or known.boot is not boot:  # nothing was read anew, else
            octets = frame_opening(incarnation, boot, level)
            known = self._openings[peer] = Opening(octets, incarnation, boot, level)
            self._hibernation.boot_heard(peer, boot, now)
        return known, messages

    def _unknown_group(self, peer: NodeId, group_id: int) -> None:
        self.drop(peer, group_id, "no-such-group")
        if not self.roster.changes_now(group_id):
            self.on_unknown_group(group_id, peer)

    def _not_sent(self, peer: NodeId, message: Message) -> None:
        self.drop(peer, message.group, "link-full-or-down")
        group = self._groups.get(message.group)
        if group is not None and isinstance(message, Append):
            group.replica.replication.not_sent(peer, message)

    def _on_peer_change(self, peer: NodeId, connected: bool) -> None:
        if connected and not self._stopped:
            # Whoever is no member of anything has nothing to say, but must be known to be admitted.
            self.send_now(peer, Beat(0, 0))
        for group_id, group in self._groups.items():
            replica = group.replica
            if connected and replica.raft.leads and peer in replica.replication.progress:
                replica.replication.peer_connected(peer)
                self.wake(group_id)
            elif not connected and replica.raft.leader == peer:
                self.wake(group_id)
                replica.voting.leader_lost()
            elif not connected:
                replica.reads.peer_lost()

    def _deadline_of(self, group_id: int) -> float:
        group = self._groups.get(group_id)
        return float("inf") if group is None else group.next_deadline()

    # --- storage.committer.Participant ---------------------------------------------------

    def begin_turn(self) -> Need:
        if self._stopped:
            return Need.NOTHING
        soon = self._soon
        soon.held = True
        try:
            need = self._turn()
        except Exception as error:  # noqa: BLE001 - whatever broke, this node must not go on
            self._fail(error)
            need = Need.NOTHING
        soon.held = False
        answered = bool(soon.answers)
        if answered:
            # The turn is done: whoever is answered now may ask anything of this host.
            soon.give()
        self._link.push()
        return Need.AT_ONCE if need is Need.NOW and not answered else need

    def _turn(self) -> Need:
        self._turns += 1
        now = self.clock.monotonic()
        inbox, self._inbox = self._inbox, []
        for peer, incarnation, message in inbox:
            group = self._groups.get(message.group)
            if group is None:
                continue
            if self.asleep(message.group):
                self._hibernation.wake(message.group)
            elif group.receive_quietly(peer, incarnation, message, now):
                continue
            self._dirty[message.group] = None
            group.replica.handlers[type(message)](peer, incarnation, message)
        dirty, self._dirty = self._dirty, {}
        need = self._unwritten
        for group_id in dirty:
            group = self._groups.get(group_id)
            if group is None:  # it has ended in this turn
                continue
            self._deadlines.watch(group_id, group.step(now))
            own = group.replica.need()
            if own is not Need.NOTHING:
                self._to_write[group_id] = own
                need = max(need, own)
        if self.roster.changes:
            need = Need.NOW
        # Answers may be for peers, too: then all of it leaves together, after them.
        at_once, outbox = not self._soon.answers, self._outbox
        if outbox.now:
            outbox.flush_now(at_once=False)
        if outbox.early:
            outbox.flush_early(at_once=at_once)
        self._unwritten = min(need, Need.LAZY)
        self._turn_need = need
        if outbox.late and (need is not Need.NOW or "no-write-barrier" in self.config.canaries):
            outbox.flush_late(at_once=at_once)
        return need

    def prepare(self, batch: Batch) -> None:
        self._unwritten = Need.NOTHING
        try:
            self._prepare_groups(batch)
            self.roster.prepare(batch)
        except Exception as error:
            self._fail(error)
            raise

    def _prepare_groups(self, batch: Batch) -> None:
        """Applied data does not go with every batch: the log has it, so it waits for company, and
        rows that change again are written once."""
        now = self.clock.monotonic()
        all_fold = now >= self._fold_at or self._turn_need is not Need.NOW
        if all_fold:
            self._fold_at = now + self.config.fold_after_s
        self._prepared = prepared = []
        to_write, self._to_write = self._to_write, {}
        for group_id, need in to_write.items():
            group = self._groups.get(group_id)
            if group is None:  # it has ended
                continue
            replica = group.replica
            fold = all_fold or replica.must_fold()
            if fold or need is Need.NOW:
                prepared.append(group)
                replica.prepare(batch, fold=fold)
            left = replica.need()
            if left is not Need.NOTHING:
                self._to_write[group_id] = left
                self._unwritten = Need.LAZY

    def after_commit(self) -> None:
        self._commits += 1
        prepared, self._prepared = self._prepared, []
        try:
            for group in prepared:
                group.after_commit()
            self.roster.complete()
            self._outbox.flush_late(at_once=True)
        except Exception as error:  # noqa: BLE001 - whatever broke, this node must not go on
            self._fail(error)

    def stalled(self, seconds: float) -> None:
        self.counters.stalls += 1
        _logger.warning("the disk stood still for %.3f s; this node leads no group now", seconds)
        for group_id, group in self._groups.items():
            if group.replica.raft.leads:
                group.replica.stand_down()
                self.wake(group_id)

    def _fail(self, error: BaseException) -> None:
        self._stopped = True
        _logger.critical("raft groups stop this node: %s", error)
        self._committer.fail(error)

    # --- numbers -------------------------------------------------------------------------

    def status(self) -> HostStatus:
        roles = [group.role for group in self._groups.values()]
        return HostStatus(
            groups=len(roles),
            leading=sum(role is Role.LEADER for role in roles),
            hibernating=len(self._hibernation),
            turns=self._turns,
            commits=self._commits,
            stalls=self.counters.stalls,
            messages_in=self.counters.messages_in,
            messages_out=self._outbox.messages,
            entries_appended=self.counters.entries_appended,
            entries_applied=self.counters.entries_applied,
            dropped=dict(sorted(self.counters.dropped.items())),
        )


def _ignore(peer: NodeId, frame: bytes) -> None:
    pass


def _nothing_known(group_id: int, *_: NodeId) -> None:
    pass
