"""Who may send a snapshot now: a node sends only so many at a time. Pure.

Whoever waits longest comes first. Without that order a few groups could take every place that
becomes free, again and again, while the one on which the others depend never gets it: the snapshot
of a shard that was split off is refused until the shard it came from has arrived.

Nobody signs off: who waits says so in every turn, and who has not for `patience_s` waits no more.
"""

from __future__ import annotations

from raftgroups.transport import NodeId

Waiting = tuple[int, NodeId]
"""(group, the peer that needs its snapshot)"""


class SnapshotSlots:
    """Invariant: 0 <= taken <= limit."""

    def __init__(self, limit: int, patience_s: float) -> None:
        self.limit = limit
        self.taken = 0
        self._patience_s = patience_s
        self._line: dict[Waiting, float] = {}
        """When each has last said that it waits, in the order in which they came."""

    def wait(self, who: Waiting, now: float) -> None:
        self._line[who] = now

    def take(self, who: Waiting, now: float) -> bool:
        """A place, if one is free for it; `give_back` it then."""
        self.wait(who, now)
        self._leave_out(now)
        if list(self._line).index(who) >= self.limit - self.taken:
            return False
        del self._line[who]
        self.taken += 1
        return True

    def give_back(self, now: float) -> int | None:
        """The group that is next, if one waits."""
        self.taken -= 1
        self._leave_out(now)
        return next((group for group, _ in self._line), None)

    def _leave_out(self, now: float) -> None:
        since = now - self._patience_s
        self._line = {who: at for who, at in self._line.items() if at >= since}
