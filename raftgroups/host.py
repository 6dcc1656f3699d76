"""All Raft groups of one node: a participant of the committer, and the turn that keeps them safe.

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
  So a tick counts only entries that are on this node's own disk.
- Early leave AppendEntries only (and reads, which need no turn at all). Everything that promises
  something waits for the sync; if a turn has nothing to write, it leaves at once.
- A turn serves only groups that have something to do. One timer waits for the nearest deadline of
  all groups; heartbeats of all groups fall due at the same moment and share a frame.
- A group whose rules are broken, or an exception out of a machine, is fatal for the node: nothing
  is acknowledged, the committer stops, `on_fatal` is told.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from raftgroups.config import HostConfig
from raftgroups.group import Group
from raftgroups.journal import GroupJournal
from raftgroups.machine_api import StateMachine
from raftgroups.membership import Config
from raftgroups.messages import Append, MalformedError, Message, decode_frame
from raftgroups.records import INCARNATION_KEY
from raftgroups.services import Counters
from raftgroups.status import HostStatus, Role
from raftgroups.transport import RAFT, SNAPSHOT, Link, NodeId, Outbox
from storage.clock import Clock, Rng, Scheduler, Timer
from storage.codec import Table, seal, table_range, unseal
from storage.committer import Committer, Need
from storage.engine import Batch, Engine, iterate
from storage.errors import InvalidRequestError

__all__ = ["GroupExistsError", "GroupHost", "HostConfig", "NoSuchGroupError"]

_logger = logging.getLogger(__name__)
_SLACK_S: Final = 0.0005
"""Deadlines count as reached when they have passed, so a timer comes this much later."""


class GroupExistsError(InvalidRequestError):
    """The engine knows this group already: it is formed or joined once and never again."""

    code = "group_exists"


class NoSuchGroupError(InvalidRequestError):
    code = "no_such_group"


class GroupHost:
    def __init__(
        self,
        *,
        node_id: NodeId,
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
        """Registers itself with the committer and subscribes "raft" and "snapshot" on the link.
        `boot_id` differs in every start of the process. `machines` makes the machine of a group."""
        self.node_id = node_id
        self.config = config
        self.clock = clock
        self.rng = rng
        self.counters = Counters()
        self.origin = f"{node_id}/{boot_id}"
        self.engine = engine
        self.snapshot_streams = 0
        self._committer = committer
        self._link = link
        self._scheduler = scheduler
        self._machines = machines
        self.incarnation = self._read_incarnation()
        self._outbox = Outbox(link, self.incarnation, boot_id, self._not_sent)
        self._groups: dict[int, Group] = {}
        self._dirty: dict[int, None] = {}
        self._inbox: list[tuple[NodeId, int, Message]] = []
        self._prepared: list[Group] = []
        self._readers: dict[int, None] = {}
        self._readers_scheduled = False
        self._answers: list[Callable[[], None]] = []
        self._timer: Timer | None = None
        self._timer_at = float("inf")
        self._turns = self._commits = 0
        self._stopped = False
        self._logged: set[str] = set()
        committer.add(self)
        link.subscribe(RAFT, self._on_frame)
        link.subscribe(SNAPSHOT, self._on_frame)
        link.on_peer_change(self._on_peer_change)

    def _read_incarnation(self) -> int:
        """The random number of this engine, made when it is first used."""
        with self.engine.snapshot() as rows:
            record = rows.get(INCARNATION_KEY)
        if record is None:
            body = b"\x01" + self.rng.randbytes(6)
            batch = Batch()
            batch.put(INCARNATION_KEY, seal(INCARNATION_KEY, body))
            self.engine.write(batch, sync=True)
        else:
            body = unseal(INCARNATION_KEY, record)
        return int.from_bytes(body, "big")

    # --- groups --------------------------------------------------------------------------

    def start(self) -> None:
        """Reopen every group that the engine holds and begin."""
        with self.engine.snapshot() as rows:
            known = [key for key, _ in iterate(rows, *table_range(Table.HARD_STATE))]
        for key in known:
            group_id = int.from_bytes(key[1:9], "big")
            journal = self._journal(group_id)
            if journal.load():
                self._open(group_id, journal)

    def create(
        self,
        group_id: int,
        voters: Sequence[NodeId],
        incarnations: Mapping[NodeId, int] | None = None,
    ) -> Group:
        """Form a new group once: the same call on each initial voter. Refused (GroupExistsError)
        if the engine knows the group, whatever became of it. Without `incarnations` of all voters
        the group takes proposals once every voter was heard (raftgroups/membership.py)."""
        if self.node_id not in voters:
            raise InvalidRequestError(
                f"node {self.node_id} is no initial voter of group {group_id}; let it join"
            )
        return self._form(group_id, Config.initial(voters, incarnations or {}))

    def join(self, group_id: int) -> Group:
        """An empty replica that waits to be added as a learner and to be sent a snapshot."""
        return self._form(group_id, None)

    def _form(self, group_id: int, config: Config | None) -> Group:
        if group_id in self._groups:
            raise GroupExistsError(
                f"group {group_id} is in this data directory already; a group is formed or joined "
                "once"
            )
        journal = self._journal(group_id)
        journal.form(config)
        return self._open(group_id, journal)

    def _journal(self, group_id: int) -> GroupJournal:
        return GroupJournal(
            self.engine,
            group_id,
            window_entries=self.config.window_entries,
            window_bytes=self.config.window_bytes,
        )

    def _open(self, group_id: int, journal: GroupJournal) -> Group:
        machine = self._machines(group_id)
        group = self._groups[group_id] = Group(self, group_id, journal, machine)
        if not group.replica.installing:
            machine.restored(journal.applied_index)
        self.wake(group_id)
        return group

    def group(self, group_id: int) -> Group:
        found = self._groups.get(group_id)
        if found is None:
            raise NoSuchGroupError(f"this node has no replica of group {group_id}")
        return found

    @property
    def groups(self) -> Mapping[int, Group]:
        return self._groups

    def stop(self) -> None:
        """Unsubscribe, cancel timers, answer everything pending Unknown."""
        self._stopped = True
        self._link.subscribe(RAFT, _ignore)
        self._link.subscribe(SNAPSHOT, _ignore)
        if self._timer is not None:
            self._timer.cancel()
        for group in self._groups.values():
            group.stop()

    # --- raftgroups.services.Services ----------------------------------------------------

    def send(self, peer: NodeId, message: Message, *, early: bool = False) -> None:
        self._outbox.add(peer, message, early=early)

    def send_now(self, peer: NodeId, message: Message) -> None:
        self.counters.messages_out += 1
        self._outbox.send(peer, [message])

    def connected(self, peer: NodeId) -> bool:
        return self._link.connected(peer)

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

    def other_ranges(self, group_id: int) -> list[tuple[bytes, bytes]]:
        return [
            (start, end)
            for other, group in self._groups.items()
            if other != group_id
            for start, end in group.replica.machine.owned_ranges()
        ]

    def wake(self, group_id: int) -> None:
        self._dirty[group_id] = None
        self._committer.kick()

    def reads_arrived(self, group_id: int) -> None:
        self._readers[group_id] = None
        if not self._readers_scheduled:
            self._readers_scheduled = True
            self._scheduler.call_soon(self._reads_depart)

    def _reads_depart(self) -> None:
        self._readers_scheduled = False
        if self._stopped:
            return
        readers, self._readers = self._readers, {}
        for group_id in readers:
            group = self._groups[group_id]
            group.replica.reads.depart()
            self._watch(group)

    def answer(self, call: Callable[[], None]) -> None:
        if not self._answers:
            self._scheduler.call_soon(self._give_answers)
        self._answers.append(call)

    def _give_answers(self) -> None:
        answers, self._answers = self._answers, []
        for call in answers:
            try:
                call()
            except Exception:
                # A defect of whoever asked must not take the answers of all others with it.
                _logger.exception("a done callback raised; its defect, the node goes on")

    def next_beat(self) -> float:
        beat = self.config.heartbeat_s
        return (self.clock.monotonic() // beat + 1) * beat

    # --- frames --------------------------------------------------------------------------

    def _on_frame(self, peer: NodeId, frame: bytes) -> None:
        try:
            incarnation, _, messages, malformed = decode_frame(frame)
        except MalformedError as error:
            self.drop(peer, 0, "malformed-frame")
            _logger.debug("malformed frame of %s: %s", peer, error)
            return
        for _ in range(malformed):
            self.drop(peer, 0, "malformed-message")
        self.counters.messages_in += len(messages)
        for message in messages:
            group = self._groups.get(message.group)
            if group is None:
                self.drop(peer, message.group, "no-such-group")
            elif not group.replica.receive_read(peer, incarnation, message):
                self._inbox.append((peer, incarnation, message))
        if self._inbox:
            self._committer.kick()

    def _not_sent(self, peer: NodeId, message: Message) -> None:
        self.drop(peer, message.group, "link-full-or-down")
        group = self._groups.get(message.group)
        if group is not None and isinstance(message, Append):
            group.replica.replication.not_sent(peer, message)

    def _on_peer_change(self, peer: NodeId, connected: bool) -> None:
        for group_id, group in self._groups.items():
            replica = group.replica
            if connected and replica.raft.leads and peer in replica.replication.progress:
                replica.replication.peer_connected(peer)
                self.wake(group_id)
            elif not connected and replica.raft.leader == peer:
                replica.voting.leader_lost()
                self.wake(group_id)

    # --- the timer -----------------------------------------------------------------------

    def _watch(self, group: Group) -> None:
        """Let the timer come in time for this group."""
        deadline = group.next_deadline()
        if deadline is not None and deadline < self._timer_at:
            self._arm(deadline)

    def _arm(self, deadline: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = deadline
        delay = max(0.0, deadline - self.clock.monotonic()) + _SLACK_S
        self._timer = self._scheduler.call_later(delay, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._timer_at = float("inf")
        if self._stopped:
            return
        now = self.clock.monotonic()
        nearest = float("inf")
        for group_id, group in self._groups.items():
            deadline = group.next_deadline()
            if deadline is None:
                continue
            if deadline < now:
                self.wake(group_id)
            else:
                nearest = min(nearest, deadline)
        if nearest != float("inf"):
            self._arm(nearest)

    # --- storage.committer.Participant ---------------------------------------------------

    def begin_turn(self) -> Need:
        if self._stopped:
            return Need.NOTHING
        try:
            return self._turn()
        except Exception as error:  # noqa: BLE001 - whatever broke, this node must not go on
            self._fail(error)
            return Need.NOTHING

    def _turn(self) -> Need:
        self._turns += 1
        inbox, self._inbox = self._inbox, []
        for peer, incarnation, message in inbox:
            self._dirty[message.group] = None
            self._groups[message.group].replica.receive(peer, incarnation, message)
        now = self.clock.monotonic()
        dirty, self._dirty = self._dirty, {}
        need = Need.NOTHING
        for group_id in dirty:
            group = self._groups[group_id]
            group.step(now)
            self._watch(group)
            need = max(need, group.replica.need())
        self.counters.messages_out += self._outbox.flush_early()
        if need is not Need.NOW or "no-write-barrier" in self.config.canaries:
            self.counters.messages_out += self._outbox.flush_late()
        return need

    def prepare(self, batch: Batch) -> None:
        try:
            self._prepared = [
                group for group in self._groups.values() if group.replica.need() is not Need.NOTHING
            ]
            for group in self._prepared:
                group.replica.prepare(batch)
        except Exception as error:
            self._fail(error)
            raise

    def after_commit(self) -> None:
        self._commits += 1
        prepared, self._prepared = self._prepared, []
        try:
            for group in prepared:
                group.after_commit()
        except Exception as error:  # noqa: BLE001 - whatever broke, this node must not go on
            self._fail(error)
            return
        self.counters.messages_out += self._outbox.flush_late()

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
            hibernating=0,
            turns=self._turns,
            commits=self._commits,
            stalls=self.counters.stalls,
            messages_in=self.counters.messages_in,
            messages_out=self.counters.messages_out,
            entries_appended=self.counters.entries_appended,
            entries_applied=self.counters.entries_applied,
            dropped=dict(sorted(self.counters.dropped.items())),
        )


def _ignore(peer: NodeId, frame: bytes) -> None:
    pass
