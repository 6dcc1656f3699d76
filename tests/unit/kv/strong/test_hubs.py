"""A shard tells of its revisions only while somebody watches, and no watcher misses one of its."""

from __future__ import annotations

import pytest

from kv.strong.hubs import ShardHubs
from kv.strong.machine import ServedMachine
from kv.watch.hub import Created
from kv.watch.index import EVERYTHING
from kv.watch.messages import EventBatch
from kv.watch.shard_watches import ShardWatches
from kv.watch.watcher import WatchRequest
from raftgroups.commands import Put, encode
from raftgroups.machine_parts import ShardPlace
from storage.codec import Table
from storage.engine import Batch
from storage.latest import Latest
from storage.memory import MemoryEngine
from storage.mvcc_records import Event

from .conftest import Loop

Row = tuple[bytes, bytes]


def shown(event: Event, with_prev: bool) -> bytes:
    return b"%d:%s" % (event.kv.mod_revision, event.kv.key)


class Rig:
    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.engine = MemoryEngine()
        self.whole = True
        self._index = 0
        self.start()

    def start(self) -> None:
        latest = Latest(self.engine, self.loop.clock)
        self.machine = ServedMachine(latest, ShardPlace(1, 1, 1, 1))
        self.serve()

    def serve(self) -> None:
        self.hubs = ShardHubs(
            self.machine,
            readable=lambda: self.whole,
            scheduler=self.loop,
            clock=self.loop.clock,
            limits=None,
        )
        self.one = self.hubs.make(shown, 0)
        self.other = self.hubs.make(shown, 0)

    def turn(self, *keys: bytes) -> None:
        for key in keys:
            self._index += 1
            self.machine.apply(self._index, encode(Put(key, b"")))
        self.hubs.after_turn()
        self.loop.run()

    def fold(self) -> None:
        batch = Batch()
        self.machine.prepare(batch)
        self.engine.write(batch, sync=True)
        self.machine.after_commit()

    def rows(self) -> list[Row]:
        """What a snapshot would carry."""
        with self.engine.snapshot() as snapshot:
            return [
                row
                for start, end in self.machine.owned_ranges()
                for row in snapshot.scan(start, end).items
            ]

    def put_in_place(self, rows: list[Row]) -> None:
        """Of another replica's, instead of the own ones."""
        batch = Batch()
        for start, end in self.machine.owned_ranges():
            batch.delete_range(start, end)
        batch.put_rows(rows)
        self.engine.write(batch, sync=True)
        self.machine.after_commit()

    def watch(self, hub: ShardWatches, start_revision: int = 0) -> Created:
        made = hub.create(WatchRequest(EVERYTHING, start_revision), lambda: None)
        assert isinstance(made, Created)
        return made

    def taken(self, hub: ShardWatches, watcher: Created) -> list[bytes]:
        self.loop.run()
        batches = hub.take(watcher.identity)
        return [part for each in batches if isinstance(each, EventBatch) for part in each.parts]


@pytest.fixture
def rig(loop: Loop) -> Rig:
    return Rig(loop)


def test_without_watchers_a_put_tells_nobody_and_the_hubs_are_not_behind(rig: Rig) -> None:
    assert rig.machine.observer is None
    rig.turn(b"a", b"b")
    assert rig.machine.observer is None
    assert rig.one.revision == rig.other.revision == rig.machine.revision == 3


def test_a_watcher_gets_all_after_its_beginning_and_nothing_before(rig: Rig) -> None:
    rig.turn(b"a", b"b")
    watcher = rig.watch(rig.one)
    assert watcher.revision == 3
    rig.turn(b"c", b"d")
    rig.turn()
    rig.turn(b"e")
    assert rig.taken(rig.one, watcher) == [b"4:c", b"5:d", b"6:e"]
    assert rig.other.revision == rig.machine.revision == 6


def test_once_the_last_one_is_gone_nobody_is_told_and_a_later_one_misses_nothing(rig: Rig) -> None:
    first = rig.watch(rig.one)
    second = rig.watch(rig.other)
    rig.turn(b"a")
    rig.one.cancel(first.identity)
    rig.turn(b"b")
    assert rig.machine.observer is not None, "the other face still has one"
    rig.other.cancel(second.identity)
    rig.turn(b"c")
    assert rig.machine.observer is None
    rig.turn(b"d")
    third = rig.watch(rig.other, start_revision=3)
    rig.turn(b"e")
    assert rig.taken(rig.other, third) == [b"3:b", b"4:c", b"5:d", b"6:e"]


def test_one_that_begins_in_the_future_is_told_from_there(rig: Rig) -> None:
    watcher = rig.watch(rig.one, start_revision=4)
    rig.turn(b"a", b"b", b"c", b"d")
    assert rig.taken(rig.one, watcher) == [b"4:c", b"5:d"]


def test_a_shard_that_is_served_again_tells_its_new_watchers(rig: Rig) -> None:
    """A node may leave a shard and serve it again later, with the same machine: watchers of before
    had it told, and those after must not wait for what only they would be told."""
    rig.watch(rig.one)
    rig.turn(b"a")
    rig.hubs.close("this node does not serve the shard now")
    rig.hubs.stop()
    rig.serve()
    watcher = rig.watch(rig.one)
    rig.turn(b"b", b"c")
    assert rig.taken(rig.one, watcher) == [b"3:b", b"4:c"]


def test_nobody_catches_up_from_a_snapshot_that_is_half_in_place(rig: Rig, loop: Loop) -> None:
    """A node that ends meanwhile starts with a machine that says how far it has come, and has not
    all events up to there."""
    leader = Rig(loop)
    leader.turn(*[b"e"] * 300)
    leader.fold()
    rows = leader.rows()
    events = [row for row in rows if row[0][0] == Table.EVENT]
    rig.put_in_place([row for row in rows if row not in events[100:]])
    rig.whole = False
    rig.start()
    watcher = rig.watch(rig.one, start_revision=2)
    assert rig.taken(rig.one, watcher) == []
    rig.put_in_place(rows)
    rig.whole = True
    rig.machine.restored(300)
    rig.hubs.after_turn()
    assert len(rig.taken(rig.one, watcher)) == 300
