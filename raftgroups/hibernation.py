"""Groups without work cost next to nothing: they sleep, and one beat a pair of nodes watches over
all of them.

    leader    idle for a while, everybody has everything -> Sleep to the members, no more heartbeats
    follower  agrees (same term, same end of the log, all committed) -> no more election timer
    both      every message of the group, every call, wakes it

What a heartbeat told a follower, the Beat of the leader's NODE tells it now, once for all groups:
that process is alive. So a sleeping follower wakes, and finds out by a pre-vote,
- when the beats stay away for an election timeout, or the connection breaks;
- when they come from another boot: that process has forgotten that it led;
and a follower that did not agree, or did not hear, asks for votes as usual, which wakes the leader.
A leader that loses its office while asleep does so by a message, or wakes by itself (a stalled
disk), and then asks for votes; either wakes the others.

A sleeping follower is as sticky as an awake one: the last beat counts as the leader's sign of life.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from raftgroups.messages import Beat
from raftgroups.transport import NodeId
from storage.clock import Timer

if TYPE_CHECKING:
    from raftgroups.group import Group
    from raftgroups.host import GroupHost


@dataclass(slots=True)
class Sleeper:
    group: Group
    leader: NodeId
    boot: str
    """Of the leader's process when it said good night; "" if that is this node."""


class Hibernation:
    """Invariant: a group is in `_sleepers` exactly while it neither ticks nor has a deadline."""

    def __init__(self, host: GroupHost, call_later: Callable[..., Timer]) -> None:
        self._host = host
        self._call_later = call_later
        self._sleepers: dict[int, Sleeper] = {}
        self.heard_at: dict[NodeId, float] = {}
        """When each node's process last gave a sign of life: any frame is one."""
        self._boots: dict[NodeId, str] = {}
        """And which boot it is."""
        self._timer: Timer | None = None
        self.asleep = self._sleepers.__contains__
        """Of a group. (Asked for so often that no method of ours stands around it.)"""

    def __len__(self) -> int:
        return len(self._sleepers)

    def sleep(self, group: Group, leader: NodeId) -> None:
        boot = ""
        if leader != self._host.node_id:
            if leader not in self._boots:
                return
            boot = self._boots[leader]
        self._sleepers[group.group_id] = Sleeper(group, leader, boot)
        if self._timer is None:
            self._timer = self._call_later(self._host.config.heartbeat_s, self._on_timer)

    def wake(self, group_id: int, *, leader_lost: bool = False) -> None:
        """It takes up its timers where a heartbeat would have left them."""
        sleeper = self._sleepers.pop(group_id, None)
        if sleeper is None:
            return
        heard_at = self.heard_at.get(sleeper.leader, float("-inf"))
        sleeper.group.awake(heard_at, leader_lost=leader_lost)

    def boot_heard(self, peer: NodeId, boot: str, now: float) -> None:
        """A frame named this start of its sender's process, which may be another one."""
        known = self._boots.get(peer)
        self.heard_at[peer] = now
        self._boots[peer] = boot
        if known is not None and known != boot:
            self.leader_lost(peer)

    def leader_lost(self, peer: NodeId) -> None:
        """This node's process is gone, or silent for too long."""
        lost = [number for number, s in self._sleepers.items() if s.leader == peer]
        for group_id in lost:
            self.wake(group_id, leader_lost=True)
            self._host.wake(group_id)

    def _on_timer(self) -> None:
        self._timer = None
        if not self._sleepers:
            return
        self._timer = self._call_later(self._host.config.heartbeat_s, self._on_timer)
        me = self._host.node_id
        listeners: dict[NodeId, None] = {}
        leaders: dict[NodeId, None] = {}
        for sleeper in self._sleepers.values():
            if sleeper.leader == me:
                listeners.update(dict.fromkeys(sleeper.group.replica.replication.progress))
            else:
                leaders[sleeper.leader] = None
        self._beat(listeners)
        limit = self._host.clock.monotonic() - self._host.config.election_timeout_s[0]
        for leader in leaders:
            if self.heard_at[leader] < limit:
                self.leader_lost(leader)

    def _beat(self, listeners: Iterable[NodeId]) -> None:
        for peer in listeners:
            if self._host.connected(peer):
                self._host.send_now(peer, Beat(0, 0))

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
