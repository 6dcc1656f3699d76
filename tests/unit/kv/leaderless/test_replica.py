"""One node's store: what is told when, what shares a batch, who it is after a restart."""

from __future__ import annotations

from typing import Any

import pytest

from chaos.sim.disk import DiskSettings, SimWriter
from chaos.sim.world import NodeClock, NodeScheduler, Process, World
from kv.errors import OverloadedError
from kv.leaderless import get_core
from kv.leaderless.dvv import Context, context_of, merge
from kv.leaderless.keyspace import Keyspace
from kv.leaderless.put_core import Failed, Stored
from kv.leaderless.replica import Minted, Replica, ReplicaLimits
from kv.leaderless.rules import Increment, Rule, SetLimits, Write
from raftgroups.transport import NodeId
from storage.committer import Committer
from storage.engine import Batch, iterate
from storage.errors import CorruptRecordError
from storage.faulty import FaultyEngine
from storage.hints import HintLimits, usage_key
from storage.memory import MemoryEngine
from storage.objects import compute_leaves, index_leaves, object_key
from storage.siblings import Actor, Clock, Dot, SiblingSet, Version, encode_set
from storage.space import SpaceGuard

SPACE = Keyspace()
OWNERS = (NodeId("b"), NodeId("c"), NodeId("d"))


class Machine:
    """A replica on a simulated disk that takes 10 ms a write."""

    def __init__(self, directory: int = 7, **limits: Any) -> None:
        self.world = World(1)
        self.clock = NodeClock(self.world)
        self.engine = FaultyEngine(MemoryEngine(clock=self.clock), rng=self.world.rng("disk"))
        self.limits = ReplicaLimits(**limits)
        self.guard: SpaceGuard | None = None
        self.start(directory)

    def start(self, directory: int = 7) -> None:
        self.process = Process("a")
        scheduler = NodeScheduler(self.world, self.process, self.clock)
        settings = DiskSettings(sync_s=(0.01, 0.01), spike_p=0.0)
        self.writer = SimWriter(
            self.world,
            self.process,
            settings,
            self.world.rng("sync"),
            inline=False,
            on_hang=lambda _: None,
        )
        self.fatal: list[BaseException] = []
        self.committer = Committer(
            self.engine, self.writer, scheduler, self.clock, on_fatal=self.fatal.append
        )
        self.replica = Replica(
            self.engine,
            self.committer,
            node=NodeId("a"),
            directory_incarnation=directory,
            clock=self.clock,
            scheduler=scheduler,
            rng=self.world.rng(f"dice/{self.world.now}"),
            guard=self.guard,
            limits=self.limits,
        )

    def power_cut(self) -> None:
        self.process.alive = False
        self.writer.crash(keep=False)
        self.engine.power_cut()
        self.engine.recover()

    def settle(self) -> None:
        self.world.run(self.world.now + 2.0)
        assert not self.fatal

    def put(self, key: bytes, value: bytes | None, context: Context | None = None, **more: Any):
        answers: list[Any] = []
        self.replica.mint(SPACE, key, Write(value, context), answers.append, **more)
        self.settle()
        (answer,) = answers
        return answer

    def store(self, key: bytes, siblings: SiblingSet, **more: Any):
        answers: list[Any] = []
        self.replica.store(1, key, siblings, encode_set(siblings), answers.append, **more)
        self.settle()
        (answer,) = answers
        return answer

    def values(self, key: bytes) -> list[bytes | None]:
        found = self.replica.read(1, key)
        assert isinstance(found, get_core.Found)
        return [version.value for version in found.siblings.versions]


def foreign(value: bytes, n: int = 1, node: str = "z") -> SiblingSet:
    dot = Dot(node, 1, 1, n)
    return SiblingSet((Version(dot, value, n),), Clock({dot.actor: n}))


def test_nothing_is_told_or_read_before_the_batch_is_on_the_disk() -> None:
    machine = Machine()
    answers: list[Any] = []
    machine.replica.mint(SPACE, b"k", Write(b"1"), answers.append)
    machine.world.run(machine.world.now + 0.009)
    assert machine.committer.in_flight_since is not None
    assert answers == []
    assert machine.replica.read(1, b"k") == get_core.Nothing()
    machine.world.run(machine.world.now + 0.01)
    assert [answer.dot.n for answer in answers] == [1]
    assert machine.values(b"k") == [b"1"]


def test_all_changes_of_a_turn_are_one_batch_and_see_each_other() -> None:
    machine = Machine()
    answers: list[Minted] = []
    for number in range(50):
        machine.replica.mint(SPACE, b"k", Write(b"%d" % number), answers.append)
    machine.settle()
    assert machine.committer.commits == 1
    assert [answer.dot.n for answer in answers] == list(range(1, 51))
    assert len(machine.values(b"k")) == 50
    refused = machine.put(b"k", b"one more")
    assert "limits are 50" in str(refused)


def test_objects_leaves_hints_and_epoch_are_in_the_same_batch() -> None:
    machine = Machine()
    machine.put(b"k", b"1", hint_for=OWNERS[0])
    with machine.engine.snapshot() as rows:
        leaves = index_leaves(rows, 1)
        assert leaves == compute_leaves(rows, 1)
    (hint,) = machine.replica.hints(OWNERS[0], after=0, limit=9, max_bytes=1 << 20).hints
    assert hint.siblings == machine.replica.read(1, b"k").siblings
    assert machine.writer.writes == 1


def test_a_context_replaces_what_it_covers_and_nothing_else() -> None:
    machine = Machine()
    first = machine.put(b"k", b"1")
    machine.put(b"k", b"2")
    machine.put(b"k", b"3", context_of(first.siblings))
    assert machine.values(b"k") == [b"2", b"3"]


def test_a_restart_goes_on_under_its_incarnation_and_reuses_no_dot() -> None:
    machine = Machine()
    before = machine.put(b"k", b"1")
    machine.power_cut()
    machine.start()
    after = machine.put(b"k", b"2")
    assert after.dot == before.dot._replace(n=2)
    assert machine.put(b"other", b"1").dot.epoch == 2


def test_a_dot_that_a_power_cut_took_was_shown_to_nobody() -> None:
    machine = Machine()
    shown: list[Any] = []
    machine.replica.mint(SPACE, b"k", Write(b"lost"), shown.append)
    machine.world.run(machine.world.now + 0.005)
    machine.power_cut()
    machine.start()
    machine.settle()
    assert shown == []
    assert machine.replica.read(1, b"k") == get_core.Nothing()


def test_a_directory_that_was_restored_is_a_new_incarnation() -> None:
    machine = Machine()
    before = machine.put(b"k", b"1")
    machine.power_cut()
    machine.start(directory=8)
    after = machine.put(b"k", b"2")
    assert after.dot.incarnation != before.dot.incarnation
    assert machine.values(b"k") in ([b"1", b"2"], [b"2", b"1"])
    machine.power_cut()
    machine.start(directory=8)
    assert machine.put(b"k", b"3").dot == after.dot._replace(n=2)


def test_others_that_know_more_of_its_dots_make_it_a_new_incarnation() -> None:
    machine = Machine()
    own = machine.put(b"k", b"1").dot
    ahead = SiblingSet((Version(own._replace(n=5), b"5", 5),), Clock({own.actor: 5}))
    assert machine.store(b"k", ahead) == Stored()
    assert machine.replica.alarms["new_incarnation"] == 1
    assert machine.put(b"k", b"2").dot.incarnation != own.incarnation
    assert machine.values(b"k") in ([b"5", b"2"], [b"2", b"5"])


def test_a_context_with_dots_it_never_minted_makes_it_a_new_incarnation() -> None:
    machine = Machine()
    own = machine.put(b"k", b"1").dot
    answer = machine.put(b"k", b"2", Context(Clock({own.actor: 9}), 9))
    assert answer.dot.incarnation != own.incarnation
    assert machine.values(b"k") == [b"2"]


def test_copies_of_others_are_merged() -> None:
    machine = Machine()
    assert machine.store(b"k", foreign(b"x")) == Stored()
    assert machine.store(b"k", foreign(b"y", node="y")) == Stored()
    assert sorted(machine.values(b"k")) == [b"x", b"y"]
    assert machine.put(b"k", b"1").dot.actor == Actor("a", machine.replica.incarnation, 1)


def test_a_hint_that_does_not_fit_refuses_the_copy_too() -> None:
    machine = Machine(hints=HintLimits(count=1))
    assert machine.store(b"k", foreign(b"x"), hint_for=OWNERS[0]) == Stored()
    answer = machine.store(b"other", foreign(b"x"), hint_for=OWNERS[0])
    assert isinstance(answer, Failed)
    assert machine.replica.read(1, b"other") == get_core.Nothing()
    assert isinstance(machine.put(b"third", b"1", hint_for=OWNERS[0]), OverloadedError)
    assert machine.replica.read(1, b"third") == get_core.Nothing()
    assert machine.replica.hint_usages()["b"].overflowed == 2


@pytest.mark.parametrize("own", [False, True])
def test_a_stand_in_gives_up_its_copy_with_its_last_hint_of_the_key(own: bool) -> None:
    machine = Machine()
    owners = (*OWNERS, NodeId("a")) if own else OWNERS
    siblings = foreign(b"x")
    for target in OWNERS[:2]:
        machine.store(b"k", siblings, hint_for=target)
    pages = [machine.replica.hints(t, after=0, limit=9, max_bytes=1 << 20) for t in OWNERS[:2]]
    first, second = (page.hints[0].sequence for page in pages)
    machine.replica.remove_hint(OWNERS[0], first, owners=owners)
    machine.settle()
    assert machine.values(b"k") == [b"x"]
    machine.replica.remove_hint(OWNERS[1], second, owners=owners)
    machine.settle()
    assert (machine.replica.read(1, b"k") == get_core.Nothing()) is not own
    assert machine.replica.hint_usages() == {}


def test_a_hint_that_was_merged_meanwhile_stays() -> None:
    machine = Machine()
    machine.store(b"k", foreign(b"x"), hint_for=OWNERS[0])
    (old,) = machine.replica.hints(OWNERS[0], after=0, limit=9, max_bytes=1 << 20).hints
    newer = merge(foreign(b"x"), foreign(b"y", node="y"))
    machine.store(b"k", newer, hint_for=OWNERS[0])
    machine.replica.remove_hint(OWNERS[0], old.sequence, owners=OWNERS)
    machine.settle()
    (left,) = machine.replica.hints(OWNERS[0], after=0, limit=9, max_bytes=1 << 20).hints
    assert left.siblings == newer
    assert len(machine.values(b"k")) == 2


def test_a_damaged_record_fails_reads_and_is_replaced_by_the_next_write() -> None:
    machine = Machine()
    machine.put(b"k", b"1")
    row = object_key(1, b"k")
    with machine.engine.snapshot() as rows:
        broken = bytearray(dict(iterate(rows))[row])
    broken[-1] ^= 1
    batch = Batch()
    batch.put(row, bytes(broken))
    machine.engine.write(batch, sync=True)
    machine.power_cut()
    machine.start()
    assert isinstance(machine.replica.read(1, b"k"), get_core.Failed)
    assert machine.store(b"k", foreign(b"x")) == Stored()
    assert machine.values(b"k") == [b"x"]
    assert machine.replica.alarms == {"unreadable_record": 1, "damaged_record": 1}


def test_what_waits_is_bounded() -> None:
    machine = Machine(pending_max=3)
    answers: list[Any] = []
    for _ in range(5):
        machine.replica.mint(SPACE, b"k", Write(b"1"), answers.append)
    assert answers == []
    machine.settle()
    kinds = [type(answer) for answer in answers]
    assert kinds.count(Minted) == 3
    assert kinds.count(OverloadedError) == 2


def test_a_full_disk_refuses_what_grows_and_takes_deletes() -> None:
    machine = Machine()
    guard = SpaceGuard(1 << 63)
    assert guard.observe(machine.engine.statistics()), "no disk has so much"
    machine.power_cut()
    machine.guard = guard
    machine.start()
    assert "reserve" in str(machine.put(b"k", b"1"))
    assert isinstance(machine.store(b"k", foreign(b"x")), Failed)
    assert isinstance(machine.put(b"k", None), Minted)


def test_a_counter_adds_up_at_its_minter() -> None:
    machine = Machine()
    space = Keyspace(rule=Rule.COUNTER, limits=SetLimits())
    answers: list[Any] = []
    for _ in range(3):
        machine.replica.mint(space, b"k", Increment(2), answers.append)
    machine.settle()
    assert machine.values(b"k") == [b"6"]


def test_damaged_rows_of_the_hints_fail_what_needs_them_and_nothing_else() -> None:
    machine = Machine()
    machine.store(b"k", foreign(b"x"), hint_for=OWNERS[0])
    row = usage_key(OWNERS[0])
    batch = Batch()
    batch.put(row, b"garbage")
    machine.engine.write(batch, sync=True)
    machine.power_cut()
    machine.start()
    assert isinstance(machine.store(b"k2", foreign(b"x"), hint_for=OWNERS[0]), Failed)
    assert isinstance(machine.put(b"k3", b"1", hint_for=OWNERS[0]), CorruptRecordError)
    assert machine.store(b"k2", foreign(b"x")) == Stored()
    assert machine.replica.read(1, b"k3") == get_core.Nothing()
    assert machine.replica.alarms["damaged_row"] == 2
