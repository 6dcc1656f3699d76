"""What the leader of a shard does unasked, on a machine without a group."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kv.strong.duties import LeaderDuties
from raftgroups.commands import Command, Compact, Expire, LeaseGrant, Put, Tick, encode
from raftgroups.machine import ShardMachine
from raftgroups.machine_parts import ShardPlace
from raftgroups.outcomes import Applied, ProposeResult, Refused
from storage.engine import Batch
from storage.latest import Latest
from storage.memory import MemoryEngine
from storage.mvcc_policy import OFF, CompactionPolicy


class Shard:
    """A machine whose proposals are applied in the next pass, unless `lost`."""

    def __init__(self, loop: Any, policy: CompactionPolicy = OFF) -> None:
        self.loop = loop
        self.engine = MemoryEngine(clock=loop.clock)
        self.machine = ShardMachine(
            Latest(self.engine, loop.clock), ShardPlace(group=1, shard=1, keyspace=1, segment=1)
        )
        self.proposed: list[Command] = []
        self.lost = False
        self.settled = True
        self.index = 0
        self.duties = LeaderDuties(
            self.machine, self._propose, scheduler=loop, clock=loop.clock, policy=policy
        )
        self.turn()

    def _propose(self, command: Command, done: Callable[[ProposeResult], None]) -> None:
        self.proposed.append(command)
        clock_ms = self.duties.shard_clock.stamp(self.loop.clock.monotonic())
        if self.lost:
            self.loop.call_later(5.0, done, Refused("no majority took it in time"))
        else:
            self.loop.call_soon(self._apply, command, clock_ms, done)

    def _apply(
        self, command: Command, clock_ms: int, done: Callable[[ProposeResult], None]
    ) -> None:
        result = self.do(command, clock_ms)
        done(Applied(self.index, result))

    def do(self, command: Command, clock_ms: int = 0) -> Any:
        self.index += 1
        result = self.machine.apply(self.index, encode(command, clock_ms=clock_ms))
        batch = Batch()
        self.machine.prepare(batch)
        self.engine.write(batch, sync=True)
        self.machine.after_commit()
        self.turn()
        return result

    def turn(self) -> None:
        self.duties.observe(settled=self.settled)

    def of(self, kind: type) -> int:
        return sum(type(command) is kind for command in self.proposed)


def test_an_idle_shard_has_no_timer(loop: Any) -> None:
    shard = Shard(loop)
    shard.do(Put(b"k", b"v"))
    loop.advance(60)
    assert shard.proposed == []
    assert loop.later == []


def test_the_clock_is_carried_on_at_least_every_second_while_a_lease_lives(loop: Any) -> None:
    shard = Shard(loop)
    shard.do(LeaseGrant(7, 3600))
    for second in range(1, 11):
        loop.advance(1)
        assert shard.of(Tick) >= second
        assert 1000 * second - 1000 <= shard.machine.clock_ms <= 1000 * second
    assert shard.of(Tick) <= 14, "and not much more often"


def test_a_lease_ends_when_its_time_is_over_and_then_all_is_quiet(loop: Any) -> None:
    shard = Shard(loop)
    shard.do(LeaseGrant(7, 5))
    shard.do(Put(b"k", b"v", lease=7))
    loop.advance(4.9)
    assert shard.machine.view.get(b"k") is not None
    loop.advance(0.3)
    assert shard.machine.view.get(b"k") is None
    assert shard.of(Expire) == 1
    before = len(shard.proposed)
    loop.advance(60)
    assert len(shard.proposed) == before


def test_short_times_to_live_are_seen_soon(loop: Any) -> None:
    shard = Shard(loop)
    loop.advance(10)
    shard.do(Put(b"k", b"v", ttl_ms=50))
    loop.advance(0.3)
    assert shard.machine.view.get(b"k") is None


def test_one_expiry_is_under_way_at_a_time_and_a_lost_one_is_named_again(loop: Any) -> None:
    shard = Shard(loop)
    shard.do(LeaseGrant(7, 2))
    shard.lost = True
    loop.advance(4)
    assert shard.of(Expire) == 1
    shard.lost = False
    loop.advance(10)
    assert shard.of(Expire) >= 2
    assert 7 not in shard.machine.leases


def test_without_a_quorum_the_clock_stands_still(loop: Any) -> None:
    shard = Shard(loop)
    shard.do(LeaseGrant(7, 60))
    shard.lost = True
    loop.advance(100)
    assert shard.duties.now_ms() <= 5_000
    lease = shard.machine.leases.get(7)
    assert lease is not None
    assert lease.deadline_ms - shard.duties.now_ms() >= 55_000


def test_whoever_does_not_lead_only_follows_the_clock(loop: Any) -> None:
    shard = Shard(loop)
    shard.settled = False
    shard.do(LeaseGrant(7, 60))
    shard.do(Tick(), clock_ms=10_000)
    loop.advance(1)
    assert shard.proposed == []
    assert shard.duties.now_ms() == 11_000


def test_a_new_leader_goes_on_from_where_the_clock_stood(loop: Any) -> None:
    shard = Shard(loop)
    shard.settled = False
    shard.do(LeaseGrant(7, 60))
    shard.do(Tick(), clock_ms=10_000)
    loop.advance(30)
    shard.settled = True
    shard.turn()
    assert shard.duties.now_ms() == 10_000
    loop.advance(1)
    assert 10_700 <= shard.machine.clock_ms <= 11_000


def test_history_is_compacted_by_count(loop: Any) -> None:
    shard = Shard(loop, CompactionPolicy(max_age_s=None, max_revisions=100))
    for number in range(250):
        shard.do(Put(b"k", b"%d" % number))
    loop.advance(3)
    assert shard.of(Compact) >= 1
    assert shard.machine.shard.state.compact_revision == 251 - 100


def test_history_is_compacted_by_age_although_nothing_more_is_written(loop: Any) -> None:
    shard = Shard(loop, CompactionPolicy(max_age_s=60.0, max_revisions=None))
    for number in range(10):
        shard.do(Put(b"k", b"%d" % number))
    loop.advance(30)
    assert shard.of(Compact) == 0
    loop.advance(60)
    assert shard.machine.shard.state.compact_revision == shard.machine.revision
    before = len(shard.proposed)
    loop.advance(600)
    assert len(shard.proposed) == before
    assert loop.later == [], "nothing is left to look at"


def test_stop_leaves_no_timer(loop: Any) -> None:
    shard = Shard(loop)
    shard.do(LeaseGrant(7, 60))
    shard.duties.stop()
    loop.advance(10)
    assert shard.proposed == []
