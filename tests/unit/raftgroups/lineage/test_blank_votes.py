"""Who joined a group and heard nothing of it yet votes like an empty log, if it never had more."""

from __future__ import annotations

from typing import Any

import pytest

from raftgroups.filters import blank_vote_counts
from raftgroups.levels import BLANK_VOTES_LEVEL
from raftgroups.membership import UNBOUND, Config
from raftgroups.messages import BlankVote, Vote, VoteRequest
from raftgroups.outcomes import Done
from raftgroups.status import Role
from raftgroups.transport import NodeId
from tests.unit.raftgroups.lineage.conftest import ShardCluster, read_all, value

A, B, C, D = (NodeId(name) for name in "abcd")


class Shards(ShardCluster):
    """Of programs whose replicas leave marks; messages of `silent` groups are lost."""

    def __init__(self, size: int, **settings: Any) -> None:
        self.silent: set[int] = set()
        super().__init__(size, feature_level=BLANK_VOTES_LEVEL, **settings)
        self.network.tap = lambda _, __, message: [] if message.group in self.silent else [message]

    def changed(self, change: str, node: NodeId, group_id: int = 1) -> None:
        results: list[Any] = []
        getattr(self.lead(group_id).host.group(group_id), change)(node, results.append)
        self.until(lambda: bool(results))
        assert isinstance(results[0], Done), results

    def lead_by(self, node: NodeId) -> None:
        results: list[Any] = []
        if self.lead(1).id != node:
            self.lead(1).host.group(1).transfer(node, results.append)
            self.until(lambda: self.lead(1).id == node)

    def forget(self, node: NodeId, group_id: int) -> None:
        done: list[bool] = []
        self[node].host.forget(group_id, lambda: done.append(True))
        self.until(lambda: bool(done))

    def compact(self, nodes: str) -> None:
        """Nothing that is applied stays in the log of shard 1."""
        groups = [self[node].host.group(1) for node in nodes]
        for group in groups:
            self.until(
                lambda group=group: (
                    group.status().durable_applied_index == group.status().last_index
                )
            )
            group.compact(0)
        self.run(0.1)


def cut_with_two_members_left_behind() -> Shards:
    """Shard 2 has four voters. c had the entry of the split and not applied it, d did not have it:
    both came past it by a snapshot of shard 1, and shard 2 was silent meanwhile."""
    shards = Shards(4)
    for key in (b"a", b"x"):
        shards.put(1, key, b"1")
    shards.settle(1)
    shards.lead_by(A)
    shards.settle(1)
    shards.silent.add(2)
    shards.network.isolate(D, shards.ids)
    shards.network.tap = lambda source, target, message: (
        [message._replace(commit=0)]
        if target == C and hasattr(message, "commit")
        else []
        if message.group in shards.silent
        else [message]
    )
    shards.split(1, b"m", 2)
    shards.until(lambda: 2 in shards["b"].host.groups)
    shards.crash(C)
    shards.compact("ab")
    shards.network.heal()
    shards.settle(1, "abd")
    shards.put(1, b"b", b"1")
    shards.settle(1, "abd")
    shards.compact("abd")
    shards.network.tap = lambda _, __, message: [] if message.group in shards.silent else [message]
    shards.start(C, shards.nodes[C].engine)
    shards.until(lambda: shards.settled(1))
    for node in (A, B):
        shards.crash(node)
    for node in (A, B):
        shards.start(node, shards.nodes[node].engine)
    shards.run(1.0)
    for node in (C, D):
        assert 2 not in shards[node].host.groups
        shards[node].host.join(2)
        assert shards[node].host.group(2).blank
    return shards


def test_a_shard_whose_members_came_past_its_split_gets_a_leader() -> None:
    shards = cut_with_two_members_left_behind()
    shards.silent.clear()
    shards.put(2, b"z", b"2")
    shards.settle(2)
    for node in "abcd":
        assert read_all(shards.shard(node, 2)) == {b"x": b"1", b"z": b"2"}
        assert shards[node].fatal is None
    assert shards.sent(BlankVote), "without them two of four are no majority"


def test_a_blank_one_keeps_its_vote() -> None:
    shards = cut_with_two_members_left_behind()
    asked = VoteRequest(2, 9, 1, 0, True)
    shards.inject("a", "c", asked)
    shards.run(0.1)
    assert shards.sent(BlankVote, "c", "a") == [BlankVote(2, 9)]
    shards.restart(C)
    assert shards["c"].host.group(2).blank
    for node in "ab":
        shards.inject(node, "c", asked)
    shards.run(0.1)
    assert len(shards.sent(BlankVote, "c")) == 1
    assert [vote for vote in shards.sent(Vote, "c") if vote.group == 2] == []


def test_one_that_was_erased_does_not_vote_when_it_is_blank_again() -> None:
    """a knows of a, b and c; b and d have gone on without it, and c forgot what it had held."""
    shards = Shards(3)
    shards.put(1, b"a", b"1")
    shards.settle(1)
    shards.lead_by(B)
    shards.settle(1)
    shards.network.isolate(A, shards.ids)
    shards.start(D)
    shards.run(0.5)
    shards.network.isolate(A, shards.ids)
    shards["d"].host.join(1)
    shards.changed("add_learner", D)
    shards.changed("promote", D)
    shards.changed("remove", A)
    shards.changed("remove", C)
    shards.until(lambda: shards["c"].host.group(1).role is Role.REMOVED)
    shards.forget(C, 1)
    shards.put(1, b"a", b"2")
    shards["c"].host.join(1)
    shards.run(0.1)
    restarted = shards.restart(C)
    assert restarted.host.group(1).blank
    shards.network.heal()
    for node in (B, D):
        shards.network.isolate(node, shards.ids)
    shards.run(10.0)
    assert shards["a"].host.group(1).role is not Role.LEADER, "it lacks what was acknowledged"
    assert shards.sent(BlankVote) == []
    assert value(shards.shard("a", 1), b"a") == b"1"


def test_one_that_was_never_told_anything_and_forgotten_leaves_a_mark_too() -> None:
    """It may have voted."""
    shards = cut_with_two_members_left_behind()
    shards.inject("a", "c", VoteRequest(2, 9, 1, 0, True))
    shards.run(0.1)
    shards.forget(C, 2)
    shards["c"].host.join(2)
    shards.inject("b", "c", VoteRequest(2, 9, 1, 0, True))
    shards.run(0.1)
    assert len(shards.sent(BlankVote, "c")) == 1


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (Config({A: 1, B: 2}, level=BLANK_VOTES_LEVEL), None),
        (Config({A: 1, B: 2}, level=BLANK_VOTES_LEVEL - 1), "blank-vote-below-level"),
        (Config({A: 1, B: UNBOUND}, level=BLANK_VOTES_LEVEL), "blank-vote-of-any-disk"),
        (Config({A: 1}, {B: 2}, level=BLANK_VOTES_LEVEL), "blank-vote-of-any-disk"),
    ],
)
def test_whose_blank_vote_counts(config: Config, reason: str | None) -> None:
    assert blank_vote_counts(config, B) == reason
