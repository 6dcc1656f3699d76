"""A merged watch over real machines that split and merge under it, against a plain list of what was
committed: nothing lost, doubled or out of order per key, each revision of a shard whole, from any
cursor that was ever given.

One node with all shards, without Raft: commands are applied at once. `far` shards have no replica
here as far as the watch can see, so they are read page by page.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import pytest

from kv.api.watch_queries import page_of
from kv.api.watching import REVISION_BYTES, encode_event
from kv.division.meter import Meter
from kv.errors import UnavailableError
from kv.strong.machine import ServedMachine
from kv.strong.shard import ShardSettings, StrongShard
from kv.watch.index import EVERYTHING, KeyRange, key_range, one_key, with_prefix
from kv.watch.keyspace_watches import KeyspaceWatches
from kv.watch.merged import Hub, MergedWatch, Pulled, Reached, Told
from kv.watch.messages import Cancelled, CancelReason
from kv.watch.position import Feed, Holding, Position
from kv.watch.watcher import WatchLimits, WatchRequest
from raftgroups.commands import (
    Absorb,
    BatchWrite,
    Command,
    Compact,
    Delete,
    Freeze,
    MergeBegin,
    Put,
    Split,
    encode,
)
from raftgroups.lineage import Neighbour
from raftgroups.machine_parts import ShardPlace
from raftgroups.results import Failure
from storage.clock import ManualClock
from storage.engine import Batch
from storage.errors import JanusError
from storage.latest import Latest
from storage.memory import MemoryEngine
from storage.mvcc_policy import CompactionPolicy
from tests.unit.kv.strong.conftest import Loop

KEYSPACE = 3
KEYS = [b"%c%d" % (letter, number) for letter in b"abcdefghij" for number in range(2)]
LIMITS = WatchLimits(outbox_events=4, outbox_bytes=600, message_events=3)
POLICY = CompactionPolicy(max_age_s=None, max_revisions=None)


class Commit(NamedTuple):
    """`order`: of all commits and splits."""

    order: int
    shard: int
    revision: int
    events: frozenset[tuple[bytes, str | None]]


class FollowedGroup:
    """Whoever leads it is elsewhere, and not known."""

    feature_level, term, leads, leader, readable, settled = 2, 1, False, None, True, False

    def __init__(self, machine: ServedMachine) -> None:
        self.group_id = machine.place.shard
        self._machine = machine

    @property
    def standing(self) -> tuple[int, int, bool, None, bool]:
        return self._machine.shard.state.applied_index, self.term, False, None, True


class Node:
    """All shards of a keyspace, a Ground for watches, and what was ever committed."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.engine = MemoryEngine()
        self.clock = ManualClock()
        self.loop = Loop(self.clock)
        self.shards: dict[int, StrongShard] = {}
        self.commits: list[Commit] = []
        self.splits: list[tuple[int, bytes]] = []
        self.far: set[int] = set()
        self.numbers = 1
        self.values = 0
        self.order = 0
        self.watches = KeyspaceWatches(lambda keys: Cancelled(CancelReason.SPLIT, ""))
        self._serve(ServedMachine(self._latest(), ShardPlace(1, 1, KEYSPACE, 1)))

    def _latest(self) -> Latest:
        return Latest(self.engine, self.clock)

    def _serve(self, machine: ServedMachine) -> None:
        shard = StrongShard(
            cast(Any, FollowedGroup(machine)),
            machine,
            cast(Any, None),
            scheduler=self.loop,
            clock=self.clock,
            gate=cast(Any, None),
            settings=ShardSettings(compaction=POLICY, watch_limits=LIMITS),
            meter=Meter(self.rng),
        )
        machine.neighbours = self._neighbour
        self.shards[machine.place.shard] = shard
        self.watches.attach(machine.place.shard, lambda first: shard.watches(encode_event, first))

    def _neighbour(self, shard: int) -> Neighbour:
        machine = self.shards[shard].machine
        return Neighbour(machine, machine.shard.state.applied_index)

    # --- what happens -------------------------------------------------------------------------

    def do(self, shard: int, command: Command) -> Any:
        machine = self.shards[shard].machine
        index = machine.shard.state.applied_index + 1
        answer = machine.apply(index, encode(command))
        assert not isinstance(answer, Failure), answer
        return answer

    def turn(self) -> None:
        """What was applied is written, and seen."""
        for shard in list(self.shards.values()):
            shard.after_turn()
        batch = Batch()
        for shard in self.shards.values():
            shard.machine.prepare(batch)
        self.engine.write(batch, sync=True)
        for shard in self.shards.values():
            shard.machine.after_commit()

    def holder(self, key: bytes) -> int:
        for number, shard in self.shards.items():
            if shard.machine.view.segments.own.holds_key(key):
                return number
        raise AssertionError(key)

    def write(self) -> None:
        first = self.rng.choice(KEYS)
        shard = self.holder(first)
        machine = self.shards[shard].machine
        own = machine.view.segments.own
        near = [key for key in KEYS if own.holds_key(key)]
        chosen = sorted(set(self.rng.choices(near, k=self.rng.randrange(1, 4))))
        events: list[tuple[bytes, str | None]] = []
        operations: list[Put | Delete] = []
        for key in chosen:
            self.values += 1
            if self.rng.random() < 0.2 and machine.view.get(key) is not None:
                operations.append(Delete(key))
                events.append((key, None))
            else:
                operations.append(Put(key, b"%d" % self.values))
                events.append((key, str(self.values)))
        answer = self.do(shard, BatchWrite(tuple(operations)))
        self.order += 1
        self.commits.append(Commit(self.order, shard, answer.revision, frozenset(events)))

    def split(self) -> None:
        key = self.rng.choice(KEYS)
        shard = self.holder(key)
        if key == self.shards[shard].machine.view.segments.own.start or len(self.shards) > 5:
            return
        right, low, high = (self._number() for _ in range(3))
        self.do(shard, Split(key, right, low, high))
        self.order += 1
        self.splits.append((self.order, key))
        for _ in range(self.rng.randrange(3)):  # in the same turn
            self._write_left(shard)
        self.turn()
        machine = ServedMachine(self._latest(), ShardPlace.stored(right))
        machine.place = ShardPlace.stored(right)
        self._serve(machine)
        if shard in self.far or self.rng.random() < 0.2:
            self.far.add(right)

    def _write_left(self, shard: int) -> None:
        own = self.shards[shard].machine.view.segments.own
        key = next((each for each in KEYS if own.holds_key(each)), None)
        if key is not None:
            self.values += 1
            answer = self.do(shard, Put(key, b"%d" % self.values))
            event = (key, str(self.values))
            self.order += 1
            self.commits.append(Commit(self.order, shard, answer.revision, frozenset([event])))

    def _number(self) -> int:
        self.numbers += 1
        return self.numbers

    def merge(self) -> None:
        ordered = sorted(self.shards, key=lambda each: self.shards[each].machine.view.place.start)
        if len(ordered) < 2:
            return
        place = self.rng.randrange(len(ordered) - 1)
        left, right = ordered[place : place + 2]
        attempt = self.do(left, MergeBegin(right)).merge
        index = self.do(right, Freeze(left, attempt)).index
        self.turn()
        start = self.shards[right].machine.view.segments.own.start
        self.do(left, Absorb(right, attempt, index, self._number(), KEYSPACE, start))
        for _ in range(self.rng.randrange(3)):
            self._write_left(left)
        gone = self.shards.pop(right)
        self.turn()
        self.watches.detach(right)
        gone.drain("gone")
        gone.stop()
        self.far.discard(right)

    def move(self) -> None:
        """A replica comes, or goes: then its watchers are told."""
        shard = self.rng.choice(list(self.shards))
        if shard in self.far:
            self.far.discard(shard)
            return
        self.far.add(shard)
        hub = self.watches.hub_of(shard)
        assert hub is not None
        hub.close("moved")

    def compact(self) -> None:
        shard = self.rng.choice(list(self.shards))
        state = self.shards[shard].machine.shard.state
        if state.revision > state.compact_revision + 1:
            self.do(shard, Compact(state.revision))
            self.turn()

    # --- Ground -------------------------------------------------------------------------------

    keyspace = KEYSPACE
    closed = ""

    def holdings(self, keys: KeyRange) -> list[Holding]:
        if self.rng.random() < 0.05:
            raise UnavailableError("not now")
        return self.mapped(keys)

    def mapped(self, keys: KeyRange) -> list[Holding]:
        own = [(number, each.machine.view.segments.own) for number, each in self.shards.items()]
        return [Holding(number, source.start, source.end) for number, source in own]

    def hub(self, shard: int, keys: KeyRange) -> Hub | None:
        return None if shard in self.far else self.watches.hub_of(shard)

    def pull(
        self, feed: Feed, wanted: WatchRequest, done: Callable[[Pulled | JanusError], None]
    ) -> None:
        def answer() -> None:
            found = self.shards.get(feed.shard)
            try:
                if found is None or self.rng.random() < 0.1:
                    raise UnavailableError("lost on its way")
                done(page_of(feed, wanted)(cast(Any, found.local())))
            except JanusError as error:
                done(error)

        self.loop.call_later(self.rng.choice((0.001, 0.05)), answer)


class Watcher:
    """One client that comes back with the cursors it was given."""

    def __init__(self, node: Node, keys: KeyRange) -> None:
        self.node = node
        self.keys = keys
        self.seen: list[tuple[int, frozenset[tuple[bytes, str | None]]]] = []
        """(revision, events)"""
        self.cursors: list[tuple[str, int]] = [(Position.begin(keys).cursor(KEYSPACE), 0)]
        """With how much was seen then."""
        self.woken = True
        self.end: Cancelled | None = None
        self._open(Position.begin(keys))

    def _open(self, position: Position) -> None:
        self.watch = MergedWatch(
            self.node,
            WatchRequest(self.keys),
            position,
            self._wake,
            scheduler=self.node.loop,
            progress_s=0.4,
        )

    def _wake(self) -> None:
        self.woken = True

    def come_back(self, rng: random.Random, *, to_the_last: bool) -> None:
        """From a cursor of the past; what was seen since is forgotten."""
        self.watch.close()
        cursor, count = self.cursors[-1] if to_the_last else rng.choice(self.cursors)
        del self.seen[count:]
        self.cursors = [each for each in self.cursors if each[1] <= count]
        self._open(Position.of_cursor(cursor, KEYSPACE, self.keys))

    def read(self, *, all_of_it: bool = True) -> None:
        if not self.woken:
            return
        self.watch.room()
        while messages := self.watch.take(200):
            for message in messages:
                self._take(message)
            if not all_of_it:
                return  # nothing said about room: a slow reader
            self.watch.room()
        self.woken = False

    def _take(self, message: Told | Reached | Cancelled) -> None:
        if isinstance(message, Cancelled):
            self.end = message
            return
        if isinstance(message, Told):
            events = set()
            for part in message.parts:
                revision = int.from_bytes(part[:REVISION_BYTES], "big")
                line = json.loads(part[REVISION_BYTES:])
                assert revision == line["version"] == message.revision
                events.add((line["key"].encode(), line.get("value")))
            assert len(events) == len(message.parts)
            self.seen.append((message.revision, frozenset(events)))
        self.cursors.append((message.cursor, len(self.seen)))


def check(watcher: Watcher, *, whole: bool = True) -> None:
    """`whole`: to the end, else a prefix for each key."""
    node, keys = watcher.node, watcher.keys
    due: dict[bytes, list[str | None]] = {}
    of_event: dict[tuple[bytes, str | None, int], Commit] = {}
    for commit in node.commits:
        for key, value in sorted(commit.events):
            if keys.holds(key):
                due.setdefault(key, []).append(value)
                of_event[key, value, commit.revision] = commit
    seen: dict[bytes, list[str | None]] = {}
    for revision, events in watcher.seen:
        commits = {of_event[key, value, revision] for key, value in events}
        assert len({each.order for each in commits}) == 1, "events of two revisions together"
        (commit,) = commits
        wanted = frozenset(event for event in commit.events if keys.holds(event[0]))
        if events != wanted:
            touched = sorted(key for key, _ in wanted)
            assert any(
                order > commit.order and touched[0] < edge <= touched[-1]
                for order, edge in node.splits
            ), f"revision {revision} of shard {commit.shard} was told in parts"
        for key, value in events:
            seen.setdefault(key, []).append(value)
    for key, values in seen.items():
        assert values == due[key][: len(values)], key
    if whole:
        assert seen == due


RANGES = (EVERYTHING, with_prefix(b"c"), key_range(b"b1", b"h"), one_key(b"e0"))


def walk(seed: int, steps: int, *, compactions: bool = False) -> tuple[Node, list[Watcher]]:
    rng = random.Random(seed)
    node = Node(rng)
    watchers = [Watcher(node, keys) for keys in RANGES]
    acts: list[tuple[Callable[[], object], int]] = [
        (node.write, 30),
        (node.turn, 10),
        (node.split, 3),
        (node.merge, 2),
        (node.move, 2),
        (lambda: node.loop.advance(rng.choice((0.0, 0.0, 0.03, 0.3))), 20),
        (lambda: rng.choice(watchers).read(), 15),
        (lambda: rng.choice(watchers).read(all_of_it=False), 5),
        (lambda: rng.choice(watchers).come_back(rng, to_the_last=rng.random() < 0.5), 1),
    ]
    if compactions:
        acts.append((node.compact, 2))
    for act in rng.choices([act for act, _ in acts], [weight for _, weight in acts], k=steps):
        act()
        if compactions:
            for watcher in watchers:
                if watcher.end is not None:
                    return node, watchers
    return node, watchers


def settle(node: Node, watchers: list[Watcher]) -> None:
    node.turn()
    for _ in range(200):
        node.loop.advance(0.1)
        for watcher in watchers:
            watcher.read()


@pytest.mark.parametrize("seed", range(8))
def test_every_event_once_in_order_and_whole(seed: int) -> None:
    node, watchers = walk(seed, 350)
    settle(node, watchers)
    for watcher in watchers:
        assert watcher.end is None
        check(watcher)
    for watcher in watchers:  # each cursor ever given is as good as having watched on
        for _ in range(3):
            watcher.come_back(node.rng, to_the_last=False)
            settle(node, [watcher])
            check(watcher)


def test_who_is_passed_by_compaction_is_told_and_has_seen_no_gap() -> None:
    ends = 0
    for seed in range(100, 106):
        _, watchers = walk(seed, 300, compactions=True)
        for watcher in watchers:
            check(watcher, whole=False)
            if watcher.end is not None:
                ends += 1
                assert watcher.end.reason is CancelReason.COMPACTED
    assert ends
