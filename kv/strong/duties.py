"""What the leader of a shard does unasked: keep its clock, end what is over, compact its history.

    settled (leads and has applied what came before) --> lead the clock
        a lease or TTL lives:  a Tick at least every second; Expire what is due
        history is too long:   Compact

A replica that does not lead only follows the clock, so that it can tell remaining times. Proposals
made here are nobody's: what comes of them is seen when they are applied, and until then they are
not made again (one Expire and one Compact under way at a time). A shard in which nothing has a
deadline has no timer, but for the one of its history while it changes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from raftgroups.commands import Command, Compact, Tick
from raftgroups.machine import ShardMachine
from raftgroups.outcomes import Applied, ProposeResult
from raftgroups.results import ExpireResult
from raftgroups.shardclock import ShardClock
from storage.clock import Clock, Scheduler, Timer
from storage.mvcc_policy import AutoCompaction, CompactionPolicy

LOOK_AGAIN_S: Final = 0.1
"""New deadlines are looked at no later than this after they were applied."""
COMPACTION_LOOK_S: Final = 1.0

Propose = Callable[[Command, Callable[[ProposeResult], None]], None]


class LeaderDuties:
    def __init__(
        self,
        machine: ShardMachine,
        propose: Propose,
        *,
        scheduler: Scheduler,
        clock: Clock,
        policy: CompactionPolicy,
    ) -> None:
        self._machine = machine
        self._propose = propose
        self._scheduler = scheduler
        self._clock = clock
        self._policy = policy
        self._compaction = AutoCompaction(policy)
        self.shard_clock = ShardClock(clock.monotonic(), machine.clock_ms)
        self._seen_clock_ms = -1
        self._seen_revision = 0
        self.leading = False
        """This node leads and its clock goes on from where the shard's stood."""
        self._timer: Timer | None = None
        self._timer_at_s = 0.0
        self._compaction_timer: Timer | None = None
        self._expiring = self._compacting = False
        self._stopped = False
        self.expired_proposals = 0
        self.compact_proposals = 0

    def now_ms(self) -> int:
        """The shard's time as this node knows it."""
        return self.shard_clock.now(self._clock.monotonic())

    def observe(self, *, settled: bool) -> None:
        """After every turn of its group."""
        machine = self._machine
        clock_ms = machine.clock_ms
        if settled != self.leading:
            self.leading = settled
            self.shard_clock.lead(self._clock.monotonic(), clock_ms)
            self._compaction = AutoCompaction(self._policy)
        changed = clock_ms != self._seen_clock_ms
        if changed:
            self._seen_clock_ms = clock_ms
            if settled:
                self.shard_clock.observe(clock_ms)
            else:
                self.shard_clock.lead(self._clock.monotonic(), clock_ms)
        if not settled:
            if self._timer is not None or self._compaction_timer is not None:
                self._disarm()
            return
        if (changed or self._timer is None) and machine.alive:
            self._arm(self._clock.monotonic() + LOOK_AGAIN_S)
        revision = machine.shard.state.revision
        if revision != self._seen_revision:
            self._seen_revision = revision
            if self._compaction_timer is None and self._policy_is_on:
                self._compaction_timer = self._scheduler.call_later(
                    COMPACTION_LOOK_S, self._look_at_history
                )

    @property
    def _policy_is_on(self) -> bool:
        return self._policy.max_age_s is not None or self._policy.max_revisions is not None

    # --- deadlines ---

    def _arm(self, at_s: float) -> None:
        if self._stopped or (self._timer is not None and self._timer_at_s <= at_s):
            return
        if self._timer is not None:
            self._timer.cancel()
        delay_s = max(0.0, at_s - self._clock.monotonic())
        self._timer_at_s = at_s
        self._timer = self._scheduler.call_later(delay_s, self._look_at_deadlines)

    def _look_at_deadlines(self) -> None:
        self._timer = None
        machine = self._machine
        if not (self.leading and machine.alive):
            return
        now_s = self._clock.monotonic()
        clock_ms = self.shard_clock.now(now_s)
        due = None if self._expiring else machine.due(clock_ms)
        if due is not None:
            self._expiring = True
            self.expired_proposals += 1
            self.shard_clock.stamp(now_s)  # it will be, and no Tick is due until then
            self._propose(due, self._expired)
        elif self.shard_clock.tick_due(now_s, alive=True):
            self.shard_clock.stamp(now_s)
            self._propose(Tick(), _ignore)
        next_s = self.shard_clock.next_tick_s()
        deadline_ms = machine.next_deadline_ms()
        if deadline_ms is not None and not self._expiring:
            next_s = min(next_s, now_s + (deadline_ms - clock_ms) / 1000)
        self._arm(max(next_s, now_s + 0.001))

    def _expired(self, result: ProposeResult) -> None:
        """Done or not: what is still over is named again."""
        self._expiring = False
        if self.leading and self._machine.alive:
            delay_s = 0.0 if _ended_something(result) else LOOK_AGAIN_S
            self._arm(self._clock.monotonic() + delay_s)

    # --- history ---

    def _look_at_history(self) -> None:
        self._compaction_timer = None
        machine = self._machine
        if not self.leading or self._stopped:
            return
        now_s, revision = self._clock.monotonic(), machine.revision
        self._compaction.sample(now_s, revision)
        compact_revision = machine.shard.state.compact_revision
        target = self._compaction.target(now_s, revision, compact_revision)
        if target is not None and not self._compacting:
            self._compacting = True
            self.compact_proposals += 1
            self._propose(Compact(target), self._compacted)
        if revision > compact_revision + 1:
            self._compaction_timer = self._scheduler.call_later(
                COMPACTION_LOOK_S, self._look_at_history
            )

    def _compacted(self, _: ProposeResult) -> None:
        self._compacting = False

    def _disarm(self) -> None:
        for timer in (self._timer, self._compaction_timer):
            if timer is not None:
                timer.cancel()
        self._timer = self._compaction_timer = None

    def stop(self) -> None:
        self._stopped = True
        self._disarm()


def _ended_something(result: ProposeResult) -> bool:
    """Not if all that is over is locked."""
    if not isinstance(result, Applied):
        return False
    answer = result.result
    return isinstance(answer, ExpireResult) and answer.leases + answer.keys > 0


def _ignore(_: ProposeResult) -> None:
    """A Tick that is lost is made up for by the next one."""
