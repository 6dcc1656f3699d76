"""Places for snapshots: bounded, in order of waiting, and never kept for who has gone."""

from __future__ import annotations

from raftgroups.snapshot_slots import SnapshotSlots
from raftgroups.transport import NodeId

A, B = NodeId("a"), NodeId("b")


def test_no_more_than_the_limit() -> None:
    slots = SnapshotSlots(2, 1.0)
    assert [slots.take((1, peer), 0.0) for peer in (A, B)] == [True, True]
    assert not slots.take((2, A), 0.0)
    assert slots.give_back(0.0) == 2
    assert slots.take((2, A), 0.0)
    assert slots.taken == 2


def test_whoever_waits_longest_comes_first() -> None:
    """Nine groups whose snapshots are refused at once come back for each place that is free."""
    slots = SnapshotSlots(1, 1.0)
    assert slots.take((2, A), 0.0)
    slots.wait((1, A), 0.0)
    for group in range(3, 12):
        slots.wait((group, A), 0.0)
    assert slots.give_back(0.1) == 1
    assert not any(slots.take((group, A), 0.1) for group in range(2, 12))
    assert slots.take((1, A), 0.1)
    assert slots.give_back(0.2) == 3


def test_who_says_nothing_any_more_does_not_wait() -> None:
    slots = SnapshotSlots(1, 1.0)
    assert slots.take((1, A), 0.0)
    slots.wait((2, A), 0.0)
    slots.wait((3, A), 0.9)
    assert slots.give_back(1.5) == 3
    assert slots.take((3, A), 1.5)
    assert not slots.take((2, A), 1.5)
