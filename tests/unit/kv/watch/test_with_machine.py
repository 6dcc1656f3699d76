"""The hub behind a real machine: its observer, its view, its compaction."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from kv.watch.hub import WatchHub
from kv.watch.index import with_prefix
from kv.watch.messages import Cancelled, EventBatch
from kv.watch.watcher import WatchRequest
from raftgroups.commands import Command, Compact, Delete, Put, encode
from raftgroups.machine import ShardMachine
from raftgroups.machine_parts import ShardPlace
from storage.clock import ManualClock
from storage.engine import Batch
from storage.latest import Latest
from storage.memory import MemoryEngine
from storage.mvcc_events import read_events

from .conftest import encode as shown


def test_live_and_from_the_log_are_the_same() -> None:
    engine = MemoryEngine()
    machine = ShardMachine(Latest(engine, ManualClock()), ShardPlace(1, 1, 1, 1))
    hub = WatchHub(shown, revision=machine.revision)
    machine.observer = hub.committed
    live = hub.create(WatchRequest(with_prefix(b"k"), prev_kv=True), 0.0)
    index = 0

    def apply(command: Command) -> None:
        nonlocal index
        index += 1
        machine.apply(index, encode(command))

    def turn() -> None:
        batch = Batch()
        machine.prepare(batch)
        engine.write(batch, sync=True)
        machine.after_commit()

    for number in range(6):
        apply(Put(b"k%d" % (number % 3), b"%d" % number))
        apply(Put(b"other", b""))
        if number == 2:
            turn()
    apply(Delete(b"k0", b"k9"))
    late = hub.create(WatchRequest(with_prefix(b"k"), 1, prev_kv=True), 0.0)
    _settle(hub, machine)
    expected = [b"%d:k%d=%d" % (2 * n + 2, n, n) for n in range(3)]
    expected += [b"%d:k%d=%d[%d]" % (2 * n + 8, n, n + 3, n) for n in range(3)]
    expected += [b"14:k%d=X[%d]" % (n, n + 3) for n in range(3)]
    for watcher in (live, late):
        assert not isinstance(watcher, Cancelled)
        batches = hub.take(watcher.identity)
        parts = [part for each in batches if isinstance(each, EventBatch) for part in each.parts]
        assert parts == expected
    turn()
    apply(Compact(10))
    below = hub.create(WatchRequest(with_prefix(b"k"), 9), 0.0)
    at = hub.create(WatchRequest(with_prefix(b"k"), 10), 0.0)
    _settle(hub, machine)
    assert not isinstance(below, Cancelled)
    assert not isinstance(at, Cancelled)
    (end,) = hub.take(below.identity)
    assert isinstance(end, Cancelled)
    assert end.compact_revision == 10
    (batch,) = hub.take(at.identity)
    assert isinstance(batch, EventBatch)
    assert (batch.first_revision, batch.revision) == (10, 14)
    engine.close()


def _settle(hub: WatchHub, machine: ShardMachine) -> None:
    read: Callable[..., object] = partial(read_events, machine.view)
    while hub.step(read):
        pass
