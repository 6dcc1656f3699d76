"""The bugs of splits that HostConfig.canaries puts back: what the rule prevents, seen to happen."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.raftgroups.lineage.conftest import ShardCluster, read_all


def member_after_a_split(canaries: frozenset[str]) -> tuple[dict[bytes, bytes], dict[bytes, bytes]]:
    """(what the child's leader has, what a fourth node has that joined the child)."""
    shards = ShardCluster(canaries=canaries)
    for key in (b"a", b"m", b"x"):
        shards.put(1, key, b"1")
    shards.split(1, b"m", 2)
    shards.until(lambda: bool(shards.leaders(2)))
    fourth = shards.start("d")  # type: ignore[arg-type]
    shards.run(0.5)
    fourth.host.join(2)
    results: list[Any] = []
    shards.lead(2).host.group(2).add_learner(fourth.id, results.append)
    shards.until(lambda: bool(results))
    shards.put(2, b"y", b"2")
    shards.run(3.0)
    machine = shards.shard(fourth, 2)
    known = machine.shard.state.keyspace != 0
    found = machine.view.range(b"m", None).items if known else []
    leader = read_all(shards.shard(shards.lead(2), 2))
    return leader, {item.key: item.value for item in found}


@pytest.mark.parametrize("bug", ["", "birth-without-base"])
def test_birth_without_base(bug: str) -> None:
    """A child whose log began before its first entry would let a new member begin with the log:
    without anything that the parent had given it."""
    leader, fourth = member_after_a_split(frozenset({bug} - {""}))
    assert leader[b"x"] == b"1"
    assert (fourth == leader) is not bool(bug)


@pytest.mark.parametrize("bug", ["", "accept-overlap"])
def test_accept_overlap(bug: str) -> None:
    """A child's snapshot put under a parent that has not applied its split: the parent gets there,
    and its node finds the child where it is to begin."""
    shards = ShardCluster(canaries=frozenset({bug} - {""}))
    for key in (b"a", b"m", b"x"):
        shards.put(1, key, b"1")
    late = shards.followers()[0]
    shards.network.isolate(late.id, shards.ids)
    shards.split(1, b"m", 2)
    shards.until(lambda: bool(shards.leaders(2)))
    for number in range(20):
        shards.put(2, b"x%d" % number)
    late.host.join(2)
    shards.network.tap = lambda source, target, message: (
        [] if target == late.id and message.group == 1 else [message]
    )
    shards.network.heal()
    shards.run(3.0)
    assert (late.host.status().dropped.get("snapshot-overlaps", 0) > 0) is not bool(bug)
    assert late.host.group(2).replica.waiting is not bool(bug)
    shards.network.tap = None
    shards.run(3.0)
    assert (late.fatal is not None) is bool(bug)
