"""What a replica asks of the node that hosts it, and what it tells its group. Protocols only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from raftgroups.config import HostConfig
from raftgroups.membership import Config
from raftgroups.messages import Message
from raftgroups.snapshot_slots import SnapshotSlots
from raftgroups.transport import NodeId
from storage.clock import Clock, Rng
from storage.engine import Engine
from storage.slices import Range


class Counters:
    """Plain numbers of a host; they only grow."""

    __slots__ = (
        "dropped",
        "entries_appended",
        "entries_applied",
        "messages_in",
        "stalls",
    )

    def __init__(self) -> None:
        self.messages_in = 0
        self.entries_appended = 0
        self.entries_applied = 0
        self.stalls = 0
        self.dropped: dict[str, int] = {}


class Birth(NamedTuple):
    """A group that a split makes, on each replica of the parent."""

    group: int
    config: Config
    founder: NodeId | None
    """Who leads its first term: the node that proposed the split."""


class Services(Protocol):
    """Implemented by GroupHost."""

    node_id: NodeId
    incarnation: int
    origin: str
    """Names this node and this start of its process, in entries (hazard n4)."""
    config: HostConfig
    counters: Counters
    snapshot_slots: SnapshotSlots
    """For the snapshots that all groups of this node are sending."""

    @property
    def engine(self) -> Engine: ...

    def other_ranges(self, group_id: int) -> dict[int, Sequence[Range]]:
        """What the replicas of all other groups of this engine own."""
        ...

    def bear(self, birth: Birth) -> None:
        """A split was applied: this group is formed in the batch of this turn."""
        ...

    def end(self, group_id: int, *, with_data: bool) -> None:
        """This group is at its end: it goes in the batch of this turn. `with_data`: with its rows;
        else the shard that has absorbed it has them."""
        ...

    @property
    def clock(self) -> Clock: ...

    @property
    def rng(self) -> Rng: ...

    def send(self, peer: NodeId, message: Message, *, early: bool = False) -> None:
        """`early` leaves in this turn; anything else after what it depends on is on the disk."""
        ...

    def send_now(self, peer: NodeId, message: Message) -> None:
        """Outside of turns: only for what depends on nothing that is not on the disk (reads)."""
        ...

    def connected(self, peer: NodeId) -> bool: ...

    def level_of(self, peer: NodeId) -> int:
        """The feature level that its last frame told; levels.NOT_HEARD if there was none."""
        ...

    def drop(self, peer: NodeId, group_id: int, reason: str) -> None:
        """Count a message that was not delivered; log the first of its kind."""
        ...

    def wake(self, group_id: int) -> None:
        """This group has work: it takes part in the next turn."""
        ...

    def hibernate(self, group_id: int, leader: NodeId) -> None:
        """This group ticks no more until something wakes it (raftgroups/hibernation.py)."""
        ...

    def asleep(self, group_id: int) -> bool: ...

    def reads_arrived(self, group_id: int) -> None:
        """This group has reads that want to leave, soon and without waiting for a turn."""
        ...

    def answer(self, call: Callable[[], None]) -> None:
        """Call this from the loop, after the work under way."""
        ...

    def next_beat(self) -> float:
        """When the next heartbeats are due: one moment for all groups of a node."""
        ...


class Owner(Protocol):
    """What a replica tells its group."""

    def applied(
        self, index: int, origin: str, first_seq: int, results: Sequence[object]
    ) -> None: ...

    def leadership_lost(self) -> None: ...

    def leadership_won(self) -> None: ...
