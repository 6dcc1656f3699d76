"""How the memory for records read or written lately is divided among the shards of a node."""

from __future__ import annotations

from kv.serving import RECENT_BYTES, RECENT_LEAST_BYTES, RECENT_MOST_BYTES, recent_share
from raftgroups.machine import ShardMachine
from raftgroups.machine_parts import ShardPlace
from storage.clock import ManualClock
from storage.latest import Latest
from storage.memory import MemoryEngine


def test_few_shards_have_the_most_and_many_share_what_a_node_may_hold() -> None:
    assert recent_share(0) == recent_share(1) == recent_share(3) == RECENT_MOST_BYTES
    for shards in range(4, 100):
        share = recent_share(shards)
        assert RECENT_LEAST_BYTES <= share <= RECENT_MOST_BYTES
        assert 2 * share * shards <= RECENT_BYTES
    assert recent_share(10_000) == RECENT_LEAST_BYTES


def test_a_share_outlives_a_state_that_is_replaced() -> None:
    machine = ShardMachine(Latest(MemoryEngine(), ManualClock()), ShardPlace(1, 1, 1, 1))
    machine.restored(0)
    machine.remember(1234)
    assert machine.shard.recent.generation_bytes == 1234
    machine.reset()
    machine.restored(0)
    assert machine.shard.recent.generation_bytes == 1234
