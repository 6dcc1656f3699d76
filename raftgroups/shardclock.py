"""The clock of a shard: milliseconds that pass only while the shard can commit.

The replicated clock is the largest stamp of the entries applied; leases and times to live end by
it, on every replica at the same entry. ShardClock is the leader's side of it, which makes stamps:

    lead(now, clock)     once a new leader has applied everything its predecessors committed: go on
                         from the last shard clock, by this node's own monotonic time
    stamp(now)           for an entry that is proposed now
    observe(clock)       the machine has applied this
    tick_due(now, alive) something with a deadline lives and no stamp was made for a while: propose
                         a Tick

Invariants
- Stamps never go back, and never below the clock applied.
- A stamp is at most MAX_LEAD_MS beyond the clock applied. Without a quorum nothing is applied, so
  the clock stands still there and later goes on from there: the time in between never happened. So
  it is with the time of an idle shard, where nothing has a deadline.
- A wait longer than MAX_LEAD_MS between two entries of a shard with a deadline means that the
  leader could not commit, because it proposes a Tick every TICK_MS.

`now_s` is the node's monotonic time; only differences of it mean something.
"""

from __future__ import annotations

from typing import Final

TICK_MS: Final = 800
"""Below the second that is promised, so that a late turn of the loop does not break the promise."""
MAX_LEAD_MS: Final = 3_000


class ShardClock:
    __slots__ = ("_applied_ms", "_base_ms", "_base_s", "_last_ms", "_stamped_s")

    def __init__(self, now_s: float, clock_ms: int) -> None:
        self.lead(now_s, clock_ms)

    def lead(self, now_s: float, clock_ms: int) -> None:
        """Leadership begins, and the machine stands at this clock."""
        self._applied_ms = clock_ms
        self._last_ms = clock_ms
        self._base_s = now_s
        self._base_ms = clock_ms
        self._stamped_s = now_s

    def now(self, now_s: float) -> int:
        """The shard's time as the leader sees it, for answers and for what is due."""
        clock_ms = self._base_ms + int((now_s - self._base_s) * 1000)
        limit_ms = self._applied_ms + MAX_LEAD_MS
        if clock_ms > limit_ms:
            # Stand still here: what passed since is left out for good.
            clock_ms = self._base_ms = limit_ms
            self._base_s = now_s
        if clock_ms > self._last_ms:
            self._last_ms = clock_ms
        return self._last_ms

    def stamp(self, now_s: float) -> int:
        """The clock for an entry that is proposed now."""
        self._stamped_s = now_s
        return self.now(now_s)

    def observe(self, clock_ms: int) -> None:
        """The machine's clock after applying entries."""
        if clock_ms > self._applied_ms:
            self._applied_ms = clock_ms
        self._last_ms = max(self._last_ms, clock_ms)

    def tick_due(self, now_s: float, *, alive: bool) -> bool:
        """Whether to propose a Tick. alive: a lease or a TTL lives in the shard."""
        return alive and now_s >= self.next_tick_s()

    def next_tick_s(self) -> float:
        """When tick_due will be true if nothing is stamped before."""
        return self._stamped_s + TICK_MS / 1000
