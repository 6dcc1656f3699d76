"""What every node does for whoever plans: it reports, makes and gives up replicas, obeys orders.

    asked       how each replica here is                                         -> Report
    invited     make an empty replica of a shard, unless one is here
    ordered     if this node leads the group, under the configuration that the order names: begin
                the change. Nobody waits for what becomes of it: the next report shows it
    tidy        a replica that was removed from its group, and that the map does not list any more,
                is erased; so is one that was invited and never admitted

Erasing is safe: a replica that knows it was removed has acknowledged nothing since, one that was
never admitted has acknowledged nothing at all, and a leader promotes nobody for what was
acknowledged before it admitted him (raftgroups/changes.py). The map must agree, so that data that
was put back under a new incarnation, whose replicas stand still as removed ones do, is not erased
while nobody has it but this node.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Protocol

import msgspec

from kv.cluster.mail import Notes
from kv.cluster.said_once import SaidOnce
from kv.placement.messages import (
    DISMISS,
    REPORT_VERSION,
    Ask,
    Filling,
    Invite,
    Order,
    ReplicaReport,
    ReplicaRole,
    Report,
    decode_ask,
    decode_invite,
    decode_order,
    encode,
)
from kv.placement.plan import Kind
from raftgroups.changes import CAUGHT_UP_ENTRIES
from raftgroups.errors import GroupExistsError
from raftgroups.group import Group
from raftgroups.host import GroupHost
from raftgroups.meta.records import ShardRecord
from raftgroups.meta.view import MetaView
from raftgroups.outcomes import ChangeResult, Done
from raftgroups.status import Role
from raftgroups.transport import NodeId
from storage.clock import Clock, Scheduler, Timer

_log = logging.getLogger(__name__)

ASK: Final = "placement-ask"
REPORT: Final = "placement-report"
INVITE: Final = "placement-invite"
ORDER: Final = "placement-order"
TIDY_S: Final = 1.0
UNCLAIMED_S: Final = 60.0
"""An invited replica that nobody admitted for so long goes."""
_ROLES: Final = {
    Role.FOLLOWER: ReplicaRole.FOLLOWER,
    Role.CANDIDATE: ReplicaRole.FOLLOWER,
    Role.LEADER: ReplicaRole.LEADER,
    Role.LEARNER: ReplicaRole.LEARNER,
    Role.REMOVED: ReplicaRole.REMOVED,
}


class Replicas(Protocol):
    """What the rest of the node does with a group that comes and goes."""

    def admit(self, shard: ShardRecord) -> None:
        """Make an empty replica and serve it."""
        ...

    def release(self, group: int) -> None:
        """Stop serving a replica, and erase it."""
        ...

    def size_of(self, group: int) -> tuple[int, int]:
        """(keys, rows of a snapshot, about)"""
        ...


class Attendant:
    """For the node's loop only."""

    def __init__(
        self,
        *,
        host: GroupHost,
        notes: Notes,
        replicas: Replicas,
        view: Callable[[], MetaView],
        full: Callable[[], bool],
        scheduler: Scheduler,
        clock: Clock,
    ) -> None:
        self._host = host
        self._notes = notes
        self._replicas = replicas
        self._view = view
        self._full = full
        self._scheduler = scheduler
        self._clock = clock
        self._said = SaidOnce(_log)
        self._unclaimed: dict[int, float] = {}
        """Blank replicas, and since when."""
        self._timer: Timer | None = None
        notes.on(ASK, self._asked)
        notes.on(INVITE, self._invited)
        notes.on(ORDER, self._ordered)

    def start(self) -> None:
        self._tidy()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    # --- reports ------------------------------------------------------------------------------

    def report(self, number: int) -> Report:
        return Report(
            REPORT_VERSION,
            number,
            self._host.incarnation,
            self._full(),
            tuple(self._replica(group) for _, group in sorted(self._host.groups.items())),
        )

    def _replica(self, group: Group) -> ReplicaReport:
        if group.blank:
            return ReplicaReport(group.group_id, ReplicaRole.BLANK, group.term)
        role = group.role
        if role is not Role.LEADER:
            return ReplicaReport(group.group_id, _ROLES[role], group.term)
        status = group.status()
        incarnations = status.incarnations
        near = [
            node
            for node, peer in status.peers.items()
            if peer.connected
            and not peer.snapshot
            and peer.match_index
            and peer.lag <= CAUGHT_UP_ENTRIES
        ]
        keys, rows = self._replicas.size_of(group.group_id)
        return ReplicaReport(
            group.group_id,
            ReplicaRole.LEADER,
            status.term,
            tuple((node, incarnations[node]) for node in status.voters),
            tuple((node, incarnations[node]) for node in status.learners),
            status.config_index,
            group.settled and not group.changing,
            tuple(sorted((self._host.node_id, *near))),
            tuple(
                Filling(node, peer.lag, peer.snapshot, peer.snapshot_rows, peer.snapshot_bytes)
                for node, peer in sorted(status.peers.items())
                if node in status.learners
            ),
            rows,
            keys,
        )

    def _asked(self, peer: NodeId, body: bytes) -> None:
        try:
            ask = decode_ask(body)
        except msgspec.DecodeError as error:
            self._malformed(peer, "question", error)
            return
        self._notes.tell(peer, REPORT, encode(self.report(ask.number)))

    def _malformed(self, peer: NodeId, what: str, error: Exception) -> None:
        self._said.warn(f"peer {peer}", f"malformed_{what}", f"its {what} cannot be read: {error}")

    # --- replicas come ------------------------------------------------------------------------

    def _invited(self, peer: NodeId, body: bytes) -> None:
        try:
            invite = decode_invite(body)
        except msgspec.DecodeError as error:
            self._malformed(peer, "invitation", error)
        else:
            self.invited(invite)

    def invited(self, invite: Invite) -> None:
        if invite.shard.shard not in self._host.groups:
            _log.info("this node is invited to hold a replica of shard %d", invite.shard.shard)
            with suppress(GroupExistsError):  # an earlier replica is being erased: asked again
                self._replicas.admit(invite.shard)

    # --- changes ------------------------------------------------------------------------------

    def _ordered(self, peer: NodeId, body: bytes) -> None:
        try:
            order = decode_order(body)
        except msgspec.DecodeError as error:
            self._malformed(peer, "order", error)
        else:
            self.ordered(order)

    def ordered(self, order: Order) -> None:
        group = self._host.groups.get(order.group)
        if group is None or not group.settled or group.changing:
            return
        if group.config_index != order.config_index:
            return  # it was made for another configuration
        node = NodeId(order.node)
        call = {
            Kind.ADD.value: group.add_learner,
            Kind.PROMOTE.value: group.promote,
            Kind.REMOVE.value: group.remove,
            Kind.TRANSFER.value: group.transfer,
        }.get(order.kind)
        if order.kind == DISMISS:
            group.dismiss(node)
            return
        if call is None:
            self._said.warn(f"group {order.group}", "unknown_order", f"is told to {order.kind}")
            return

        def done(result: ChangeResult) -> None:
            how = "done" if isinstance(result, Done) else result.reason
            _log.info("group %d: %s %s: %s", order.group, order.kind, node, how)

        call(node, done)

    # --- replicas go --------------------------------------------------------------------------

    def _tidy(self) -> None:
        self._timer = self._scheduler.call_later(TIDY_S, self._tidy)
        self.tidy()

    def tidy(self) -> None:
        view, now_s, own = self._view(), self._clock.monotonic(), self._host.node_id
        for group_id, group in list(self._host.groups.items()):
            shard = view.shards.get(group_id)
            if shard is None or own in shard.replicas:
                continue
            if group.blank:
                since_s = self._unclaimed.setdefault(group_id, now_s)
                gone = now_s - since_s >= UNCLAIMED_S
            else:
                self._unclaimed.pop(group_id, None)
                gone = group.role is Role.REMOVED and group.readable
            if gone:
                _log.info("the replica of shard %d here was removed, and is erased", group_id)
                self._unclaimed.pop(group_id, None)
                self._replicas.release(group_id)


def question(number: int) -> bytes:
    return encode(Ask(number))
