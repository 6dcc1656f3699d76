"""The leaderless tables against plain dicts, with crashes and reopening in between.

The machine keeps what is committed and what the open turn would make of it. Any turn may be
committed, or lost with the power before its batch was written; the store is reopened then. After
every commit the derived tables (leaves, index, reap rows, hint usage) must follow from the objects
and hints alone.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from storage.buckets import bucket_of
from storage.engine import Batch, Engine
from storage.hints import HintLimits, HintOutcome, HintUsage, hint_usages, read_hints
from storage.lmdb_engine import LmdbEngine
from storage.memory import MemoryEngine
from storage.objects import (
    Record,
    compute_leaves,
    index_leaves,
    scan_index,
    scan_objects,
    scan_reapable,
)
from storage.rocks_engine import RocksEngine
from storage.siblings import Actor, Clock, Dot, SiblingSet, Version
from storage.system_clock import SystemClock
from storage.versions import Turn

KEYSPACES = (0, 1)
TARGETS = ("t", "t1")
LIMITS = HintLimits(count=4, size_bytes=2_000)


def _neighbours(count: int) -> list[bytes]:
    found: dict[int, list[bytes]] = {}
    number = 0
    while True:
        key = b"%d" % number
        number += 1
        found.setdefault(bucket_of(key), []).append(key)
        if len(found[bucket_of(key)]) == count:
            return found[bucket_of(key)]


KEYS = (*_neighbours(3), b"k", b"\x00" * 432)


def join(a: SiblingSet, b: SiblingSet) -> SiblingSet:
    """One actor a set in this model: the larger clock wins."""
    return max(a, b, key=lambda s: max(s.clock.base.values()))


@st.composite
def sets(draw: st.DrawFn) -> SiblingSet:
    n = draw(st.integers(1, 30))
    actor = Actor(draw(st.sampled_from(["a", "b"])), 1, draw(st.integers(1, 3)))
    value = draw(st.one_of(st.none(), st.binary(max_size=40), st.just(b"v" * 600)))
    expiry_ms = draw(st.sampled_from([0, 0, 500, 900])) if value is not None else 0
    return SiblingSet((Version(Dot(*actor, n), value, n, expiry_ms),), Clock({actor: n}))


class TablesMachine(RuleBasedStateMachine):
    open_engine: ClassVar[Callable[[Path], Engine]]

    @initialize()
    def start(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="janus-versions-"))
        self.engine = type(self).open_engine(self.directory)
        self.objects: dict[tuple[int, bytes], Record] = {}
        self.hinted: dict[tuple[str, int, bytes], SiblingSet] = {}
        self.overflowed = dict.fromkeys(TARGETS, 0)
        self.epoch = 0
        self._begin()

    def _begin(self) -> None:
        self.snapshot = self.engine.snapshot()
        self.turn = Turn(self.snapshot, join, hint_limits=LIMITS)
        self.next_objects = dict(self.objects)
        self.next_hinted = dict(self.hinted)
        self.next_overflowed = dict(self.overflowed)
        self.next_epoch = self.epoch

    @rule(space=st.sampled_from(KEYSPACES), key=st.sampled_from(KEYS), siblings=sets())
    def put(self, space: int, key: bytes, siblings: SiblingSet) -> None:
        self.next_epoch += 1
        assert self.turn.next_epoch() == self.next_epoch
        record = Record(siblings, self.next_epoch)
        self.turn.put(space, key, record)
        self.next_objects[space, key] = record

    @rule(space=st.sampled_from(KEYSPACES), key=st.sampled_from(KEYS))
    def drop(self, space: int, key: bytes) -> None:
        self.turn.drop(space, key)
        self.next_objects.pop((space, key), None)

    @rule(space=st.sampled_from(KEYSPACES), key=st.sampled_from(KEYS))
    def get(self, space: int, key: bytes) -> None:
        assert self.turn.get(space, key) == self.next_objects.get((space, key))

    @rule(name=st.sampled_from(TARGETS), key=st.sampled_from(KEYS), siblings=sets())
    def add_hint(self, name: str, key: bytes, siblings: SiblingSet) -> None:
        place = name, 1, key
        held = self.next_hinted.get(place)
        outcome = self.turn.hints.add(name, 1, key, siblings, 5)
        if outcome is HintOutcome.OVERFLOWED:
            self.next_overflowed[name] += 1
        elif held is None:
            assert outcome is HintOutcome.STORED
            self.next_hinted[place] = siblings
        else:
            merged = join(held, siblings)
            assert outcome is (HintOutcome.UNCHANGED if merged == held else HintOutcome.MERGED)
            self.next_hinted[place] = merged
        count = sum(1 for held_for, _, _ in self.next_hinted if held_for == name)
        assert self.turn.hints.usage(name).count == count <= LIMITS.count

    @rule(name=st.sampled_from(TARGETS), key=st.sampled_from(KEYS))
    def deliver_hint(self, name: str, key: bytes) -> None:
        hint = self.turn.hints.held(name, 1, key)
        held = self.next_hinted.pop((name, 1, key), None)
        assert (hint and hint.siblings) == held
        if hint is not None:
            assert self.turn.hints.remove(name, hint.sequence)
            assert not self.turn.hints.remove(name, hint.sequence)

    @rule(name=st.sampled_from(TARGETS))
    def repair(self, name: str) -> None:
        self.turn.hints.clear_overflow(name, self.next_overflowed[name])
        self.next_overflowed[name] = 0

    @rule()
    def commit(self) -> None:
        batch = Batch()
        self.turn.collect(batch)
        self.snapshot.close()
        self.engine.write(batch, sync=True)
        self.objects, self.hinted = self.next_objects, self.next_hinted
        self.overflowed, self.epoch = self.next_overflowed, self.next_epoch
        self._check()
        self._begin()

    @rule()
    def crash(self) -> None:
        """The power goes before the batch was written."""
        self.turn.collect(Batch())
        self.snapshot.close()
        self._reopen()
        self._check()
        self._begin()

    def _reopen(self) -> None:
        if isinstance(self.engine, MemoryEngine):
            copy = self.directory / "copy"
            shutil.rmtree(copy, ignore_errors=True)
            self.engine.checkpoint(copy)
            self.engine.close()
            self.engine = MemoryEngine.load(copy)
        else:
            self.engine.close()
            self.engine = type(self).open_engine(self.directory)

    def _check(self) -> None:
        with self.engine.snapshot() as reader:
            for space in KEYSPACES:
                expected = {key: r for (s, key), r in self.objects.items() if s == space}
                page = scan_objects(reader, space)
                assert page.items == sorted(expected.items())
                assert page.damaged == []
                leaves = index_leaves(reader, space)
                assert leaves == compute_leaves(reader, space)
                buckets = {bucket_of(key) for key in expected}
                assert set(leaves) == buckets
                for bucket in buckets:
                    keys = sorted(key for key in expected if bucket_of(key) == bucket)
                    found = scan_index(reader, space, bucket, bucket).items
                    assert [key for _, key, _ in found] == keys
                due = [(r.siblings.reapable_from_ms(), key) for key, r in expected.items()]
                assert scan_reapable(reader, space, 1 << 50).items == sorted(
                    (at, key) for at, key in due if at is not None
                )
            for target in TARGETS:
                hints = read_hints(reader, target).hints
                assert {(target, h.keyspace, h.key): h.siblings for h in hints} == {
                    place: held for place, held in self.hinted.items() if place[0] == target
                }
                size_bytes = sum(hint.size_bytes for hint in hints)
                usage = HintUsage(len(hints), size_bytes, self.overflowed[target])
                assert hint_usages(reader).get(target, HintUsage()) == usage

    @invariant()
    def nothing_leaks_before_the_commit(self) -> None:
        if hasattr(self, "engine"):
            with self.engine.snapshot() as reader:
                present = sum(len(scan_objects(reader, space).items) for space in KEYSPACES)
            assert present == len(self.objects)

    def teardown(self) -> None:
        if hasattr(self, "engine"):
            self.engine.close()
        if hasattr(self, "directory"):
            shutil.rmtree(self.directory, ignore_errors=True)


def _memory(_: Path) -> Engine:
    return MemoryEngine()


def _lmdb(directory: Path) -> Engine:
    return LmdbEngine(directory / "lmdb", clock=SystemClock(), map_size_bytes=1 << 26)


def _rocks(directory: Path) -> Engine:
    return RocksEngine(directory / "rocks", clock=SystemClock())


@pytest.mark.parametrize(
    ("open_engine", "examples"),
    [
        pytest.param(_memory, None, id="memory"),
        pytest.param(_lmdb, 12, id="lmdb"),
        pytest.param(_rocks, 12, id="rocksdb"),
    ],
)
def test_the_tables_follow_the_model(
    open_engine: Callable[[Path], Engine], examples: int | None, rounds: int
) -> None:
    machine = type("Machine", (TablesMachine,), {"open_engine": staticmethod(open_engine)})
    bounded = {"max_examples": examples * rounds} if examples else {}
    machine.TestCase.settings = settings(stateful_step_count=30, **bounded)
    machine.TestCase().runTest()
