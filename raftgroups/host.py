"""All Raft groups of one node: a participant of the committer. Stub: the turn comes next."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from raftgroups.config import HostConfig
from raftgroups.group import Group
from raftgroups.machine_api import StateMachine
from raftgroups.status import HostStatus
from raftgroups.transport import Link, NodeId
from storage.clock import Clock, Rng, Scheduler
from storage.committer import Committer, Need
from storage.engine import Batch, Engine

__all__ = ["GroupHost", "HostConfig"]


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
        committer.add(self)

    def start(self) -> None:
        """Reopen every group that the engine holds and begin."""
        raise NotImplementedError

    def create(self, group_id: int, voters: Sequence[NodeId]) -> Group:
        """Form a new group once: the same call on each initial voter. Refused (GroupExistsError)
        if the engine knows the group, whatever became of it."""
        raise NotImplementedError

    def join(self, group_id: int) -> Group:
        """An empty replica that waits to be added as a learner and to be sent a snapshot."""
        raise NotImplementedError

    def group(self, group_id: int) -> Group:
        raise NotImplementedError

    @property
    def groups(self) -> Mapping[int, Group]:
        raise NotImplementedError

    def stop(self) -> None:
        """Unsubscribe, cancel timers, answer everything pending Unknown."""
        raise NotImplementedError

    def status(self) -> HostStatus:
        raise NotImplementedError

    # storage.committer.Participant

    def begin_turn(self) -> Need:
        raise NotImplementedError

    def prepare(self, batch: Batch) -> None:
        raise NotImplementedError

    def after_commit(self) -> None:
        raise NotImplementedError

    def stalled(self, seconds: float) -> None:
        raise NotImplementedError
