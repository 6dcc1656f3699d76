"""What a shard notes of its group's turns, and that it looks no further when there is no news."""

from __future__ import annotations

from random import Random
from typing import Any, cast

import pytest

from kv.division.meter import Meter
from kv.strong.gate import Gate
from kv.strong.machine import ServedMachine
from kv.strong.shard import ShardSettings, StrongShard
from kv.watch.messages import Encode
from raftgroups.commands import Put, encode
from raftgroups.machine_parts import ShardPlace
from storage.latest import Latest
from storage.memory import MemoryEngine


class Group:
    """`standing`, as the tests set it."""

    group_id, feature_level = 1, 2

    def __init__(self) -> None:
        self.applied, self.term, self.leads, self.readable = 0, 1, False, True
        self.leader: Any = None
        self.on_turn: Any = None

    @property
    def standing(self) -> tuple[int, int, bool, Any, bool]:
        return self.applied, self.term, self.leads, self.leader, self.readable

    @property
    def settled(self) -> bool:
        return self.leads and self.applied > 0


class Rig:
    def __init__(self, loop: Any) -> None:
        self.machine = ServedMachine(Latest(MemoryEngine(), loop.clock), ShardPlace(1, 1, 3, 1))
        self.group = Group()
        self.lost: list[Any] = []
        self.shard = StrongShard(
            cast(Any, self.group),
            self.machine,
            cast(Any, self),
            scheduler=loop,
            clock=loop.clock,
            gate=cast(Gate, None),
            settings=ShardSettings(),
            meter=Meter(Random(1)),
        )
        self.hub = self.shard.watches(cast(Encode, None))
        self.looked = 0
        observe = self.shard.duties.observe

        def counted(*, settled: bool) -> None:
            self.looked += 1
            observe(settled=settled)

        cast(Any, self.shard.duties).observe = counted

    def led_by_another(self, group: int, leader: Any) -> None:
        self.lost.append(leader)

    def turn(self, **changes: Any) -> int:
        """How often it looked further."""
        before = self.looked
        for name, value in changes.items():
            setattr(self.group, name, value)
        self.group.on_turn()
        return self.looked - before

    def leading(self) -> bool:
        return self.shard.duties.leading

    def apply(self) -> int:
        index = self.group.applied + 1
        self.machine.apply(index, encode(Put(b"key", b"%d" % index)))
        return index


@pytest.fixture
def rig(loop: Any) -> Rig:
    return Rig(loop)


def test_without_news_nothing_is_looked_at(rig: Rig) -> None:
    assert [rig.turn(), rig.turn(), rig.turn()] == [1, 0, 0]
    assert rig.turn(applied=rig.apply()) == 1
    assert rig.hub.revision == rig.machine.revision == 2
    assert rig.turn() == 0


def test_every_change_of_who_leads_is_noted(rig: Rig) -> None:
    assert rig.turn(leader="b", term=2) == 1
    assert rig.turn(leads=True, term=3, leader="a") == 1
    assert not rig.leading(), "it has not applied what came before"
    assert rig.turn(applied=rig.apply()) == 1
    assert rig.leading()
    assert rig.turn() == 0
    assert rig.turn(leads=False) == 1, "in the same term, and nobody else leads yet"
    assert not rig.leading()
    assert rig.lost == ["b", "a"]


def test_watchers_are_told_of_a_snapshot_once_it_is_in_place(rig: Rig) -> None:
    rig.turn()
    index = rig.apply()
    assert rig.turn(applied=index, readable=False) == 1
    assert rig.hub.revision == 1
    assert rig.turn(readable=True) == 1
    assert rig.hub.revision == 2


def test_ended_leases_are_named_in_every_turn_until_they_are_gone(rig: Rig) -> None:
    named: list[StrongShard] = []
    rig.shard.on_lease_ends = named.append
    rig.turn(leads=True, applied=rig.apply())
    rig.machine.leases.ended[7] = 1
    for _ in range(3):
        rig.turn()
    assert len(named) == 3
    rig.machine.leases.ended.clear()
    rig.turn()
    assert len(named) == 3
