"""One replica of one Raft group: proposals and reads in, outcomes out.

Nothing here blocks and nothing is answered from inside the call that asked: outcomes come from the
loop, each exactly once. A group belongs to its host; it is made by GroupHost.create, join or start.
"""

from __future__ import annotations

from collections.abc import Callable

from raftgroups.outcomes import ChangeResult, ProposeResult, ReadResult
from raftgroups.status import GroupStatus
from raftgroups.transport import NodeId


class Group:
    group_id: int

    def propose(self, payload: bytes, done: Callable[[ProposeResult], None]) -> None:
        """Replicate and apply. Only the leader takes it; elsewhere it is Refused with a hint."""
        raise NotImplementedError

    def read(self, done: Callable[[ReadResult], None]) -> None:
        """Ask for a linearizable read point, on any replica (a follower asks the leader)."""
        raise NotImplementedError

    def transfer(self, target: NodeId, done: Callable[[ChangeResult], None]) -> None:
        """Hand the leadership over: proposals pause, the target catches up, then is told."""
        raise NotImplementedError

    def add_learner(self, node: NodeId, done: Callable[[ChangeResult], None]) -> None:
        """Admit a node that gets the log but does not vote."""
        raise NotImplementedError

    def promote(self, node: NodeId, done: Callable[[ChangeResult], None]) -> None:
        """Make a learner a voter, once it has caught up."""
        raise NotImplementedError

    def remove(self, node: NodeId, done: Callable[[ChangeResult], None]) -> None:
        """Remove a voter or learner. A leader asked to remove itself transfers first, then the
        call is Refused with the new leader as a hint: ask there again."""
        raise NotImplementedError

    def compact(self, keep: int) -> int:
        """Drop applied entries but the last `keep`; returns the new first index."""
        raise NotImplementedError

    def status(self) -> GroupStatus:
        raise NotImplementedError
