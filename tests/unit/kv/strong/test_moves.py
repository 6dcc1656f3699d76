"""A shard that is being merged, or is not served here any more: what it was asked goes on
elsewhere, or comes back to whoever asked, if that one wants to know."""

from __future__ import annotations

from random import Random
from types import SimpleNamespace
from typing import Any, cast

import pytest

from kv.division.meter import Meter
from kv.strong.machine import ServedMachine
from kv.strong.operations import Write
from kv.strong.shard import ShardSettings, StrongShard
from raftgroups.commands import Command, LeaseEnd, Put, UnderLease, encode
from raftgroups.machine_parts import ShardPlace
from storage.errors import WrongShardError
from storage.latest import Latest
from storage.memory import MemoryEngine

PUT = Put(b"a", b"1")
OF_LEASES = (LeaseEnd((7,), 3), UnderLease(3, PUT))
"""Nobody routes these by their keys: whoever made them does."""


class Rig:
    def __init__(self, loop: Any) -> None:
        self.machine = ServedMachine(Latest(MemoryEngine(), loop.clock), ShardPlace(1, 1, 3, 1))
        self.proposed: list[bytes] = []
        self.group: Any = SimpleNamespace(group_id=1, leader=None, leads=True, feature_level=2)
        self.group.propose = lambda payload, done: self.proposed.append(payload)
        self.shard = StrongShard(
            self.group,
            self.machine,
            cast(Any, None),
            scheduler=loop,
            clock=loop.clock,
            gate=cast(Any, None),
            settings=ShardSettings(),
            meter=Meter(Random(1)),
        )
        self.moved: list[Any] = []
        self.shard.on_moved = lambda operation, error: self.moved.append(operation)
        self.answers: list[Any] = []

    def take(self, command: Command, *, stays: bool) -> None:
        self.shard.take(encode(command), self.answers.append, 5.0, False, None, stays=stays)

    def freeze(self) -> None:
        """As by Freeze, for a merge with its left neighbour."""
        self.machine.shard.state.frozen_by = 9


@pytest.fixture
def rig(loop: Any) -> Rig:
    return Rig(loop)


def test_a_plain_write_to_a_frozen_shard_goes_on_elsewhere(rig: Rig) -> None:
    rig.freeze()
    rig.take(PUT, stays=False)
    assert (len(rig.moved), rig.answers, rig.proposed) == (1, [], [])


@pytest.mark.parametrize("command", OF_LEASES)
def test_what_stays_is_told_that_the_shard_is_frozen(rig: Rig, command: Command) -> None:
    rig.freeze()
    rig.take(command, stays=True)
    assert [type(answer) for answer in rig.answers] == [WrongShardError]
    assert (rig.moved, rig.proposed) == ([], [])


def test_what_stays_is_told_when_the_shard_is_served_here_no_more(rig: Rig) -> None:
    rig.group.leads = False  # parked, until there is a leader
    rig.take(OF_LEASES[0], stays=True)
    rig.take(PUT, stays=False)
    rig.shard.leave("it was moved away")
    assert [type(answer) for answer in rig.answers] == [WrongShardError]
    assert [cast(Write, each).stays for each in rig.moved] == [False]
