"""MVCC against a model that is too plain to be wrong (mvcc_model.py).

Three shards share one environment: two halves of one keyspace and another keyspace. A log holds
every entry that was applied, as a group's log would. The steps of a turn (prepare, write,
after_commit) are rules of their own, so that operations, reads, crashes and reopenings fall between
them. After a crash the entries behind each shard's persisted applied index are applied again.

At the end a fresh replica applies the whole log with other turns and must agree, and after a last
sweep the environment must hold exactly the rows that the compact revisions leave.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from storage.codec import Table, key_u32, key_u64, unseal
from storage.engine import Batch, Engine
from storage.errors import CompactedError, FutureRevisionError
from storage.latest import Latest
from storage.lmdb_engine import LmdbEngine
from storage.memory import MemoryEngine
from storage.mvcc import Shard
from storage.mvcc_events import read_events
from storage.mvcc_hash import ShardHash
from storage.mvcc_records import Event, KeyValue, is_tombstone, mod_of
from storage.system_clock import SystemClock

from .mvcc_model import (
    BACK,
    CHANGES,
    LEASES,
    PLACES,
    SMALL,
    Changes,
    Entry,
    Model,
    Operation,
    Place,
    Transaction,
    apply,
    inside,
    place_and_bounds,
    run,
    wall_ms,
)


class MvccMachine(RuleBasedStateMachine):
    def __init__(self, open_engine: Callable[[Engine | None], Engine]) -> None:
        super().__init__()
        self.open_engine = open_engine
        self.engine = open_engine(None)
        self.latest = Latest(self.engine, SystemClock())
        self.models = {place.shard: Model() for place in PLACES}
        self.log: dict[int, list[Entry]] = {place.shard: [] for place in PLACES}
        self.batch: Batch | None = None
        self.written = False
        self.shards: dict[int, Shard] = {}
        for place in PLACES:
            self.shards[place.shard] = Shard.create(
                self.latest,
                shard=place.shard,
                keyspace=place.keyspace,
                segment=10 + place.shard,
                start=place.start,
                end=place.end,
            )

    @initialize(changes=CHANGES)
    def first_turn(self, changes: Changes) -> None:
        self.turn([], 3, 1, False)
        self.change(changes)

    # --- writing ---

    @rule(changes=CHANGES)
    def change(self, changes: Changes) -> None:
        for place, (kind, argument) in changes:
            getattr(self, kind)(place, argument)

    def log_and_apply(self, place: Place, entry: Entry) -> list[Any]:
        self.log[place.shard].append(entry)
        return apply(self.shards[place.shard], len(self.log[place.shard]), entry)

    def write(self, place: Place, operations: list[Operation]) -> None:
        transaction = Transaction(self.models[place.shard])
        expected = [run(transaction, operation) for operation in operations]
        transaction.commit()
        assert self.log_and_apply(place, ("write", operations)) == expected

    def abort(self, place: Place, operations: list[Operation]) -> None:
        self.log_and_apply(place, ("abort", operations))

    def write_and_look(self, place: Place, operations: list[Operation]) -> None:
        """Operations see the ones before them; the scope is then committed like any other."""
        shard, model = self.shards[place.shard], self.models[place.shard]
        transaction = Transaction(model)
        scope = shard.begin(wall_ms(transaction.revision))
        for operation in operations:
            assert run(scope, operation) == run(transaction, operation)
            assert [scope.view.get(key) for key in place.keys] == [
                transaction.map.get(key) for key in place.keys
            ]
            seen = scope.view.read_range(place.start, place.end)
            assert seen.items == inside(transaction.map, place.start, place.end)
            before = scope.view.read_range(place.start, place.end, model.revision)
            assert before.items == inside(model.now, place.start, place.end)
            assert scope.changed == bool(transaction.events)
        with pytest.raises(FutureRevisionError):
            scope.view.get(place.keys[0], scope.revision)
        transaction.commit()
        assert scope.commit() == model.revision
        self.log[place.shard].append(("write", operations))
        shard.mark_applied(len(self.log[place.shard]))

    def overwrite(self, place: Place, times: int) -> None:
        """A hot key, so that its chain of versions grows jumps."""
        for nth in range(times):
            self.write(place, [("put", place.keys[times % 2], b"%d" % nth, 0)])

    def compact(self, place: Place, back: int) -> None:
        model, shard = self.models[place.shard], self.shards[place.shard]
        revision = model.revision - back
        if revision > model.revision:
            with pytest.raises(FutureRevisionError):
                shard.compact(revision)
        elif revision <= model.compacted:
            with pytest.raises(CompactedError) as refused:
                shard.compact(revision)
            assert refused.value.compact_revision == model.compacted
        else:
            self.log_and_apply(place, ("compact", revision))
            model.compacted = revision

    # --- the turn, its crashes ---

    @rule(changes=CHANGES, steps=st.integers(1, 4), sweep_events=SMALL, renew_at_once=st.booleans())
    def turn(self, changes: Changes, steps: int, sweep_events: int, renew_at_once: bool) -> None:
        """The next steps of turns: prepare, write, after_commit; with changes in between."""
        for step in range(steps):
            self.change(changes[step::steps])
            if self.batch is None:
                self.batch = Batch()
                for shard in self.shards.values():
                    shard.prepare(self.batch, sweep_events=sweep_events)
            elif not self.written:
                self.engine.write(self.batch, sync=True)
                self.written = True
                if renew_at_once:
                    self.latest.renew()
            else:
                self.latest.renew()
                for shard in self.shards.values():
                    shard.after_commit()
                self.batch, self.written = None, False
            self.look()

    @rule(cleanly=st.booleans())
    def restart(self, cleanly: bool) -> None:
        """Memory is gone, what was written stays, the log is replayed from the applied index.
        After a clean stop there is nothing to replay."""
        while cleanly and (
            self.batch is not None
            or any(shard.dirty or shard.sweep_pending for shard in self.shards.values())
        ):
            self.turn([], 1, 100, False)
        self.batch, self.written = None, False
        self.latest.renew()
        self.engine = self.open_engine(self.engine)
        self.latest = Latest(self.engine, SystemClock())
        for place in PLACES:
            shard = Shard.load(self.latest, place.shard)
            assert shard is not None
            self.shards[place.shard] = shard
            log = self.log[place.shard]
            applied = shard.state.applied_index
            assert applied == len(log) if cleanly else applied <= len(log)
            assert not (cleanly and shard.sweep_pending)
            for index in range(applied + 1, len(log) + 1):
                apply(shard, index, log[index - 1])
        self.look()

    # --- reading ---

    def look(self) -> None:
        """What every shard shows now and what happened last."""
        for place in PLACES:
            model, view = self.models[place.shard], self.shards[place.shard].view
            everything = (place.start, place.end)
            assert view.read_range(*everything).items == inside(model.now, *everything)
            recent = max(model.revision - 20, model.compacted)
            found = read_events(view, recent)
            assert found == (model.happened(recent), model.revision + 1)

    def pick(self, place: Place, back: int) -> tuple[int, dict[bytes, KeyValue] | None]:
        """A revision argument and the map that it names; None if reading it must fail."""
        model, shard = self.models[place.shard], self.shards[place.shard]
        revision = model.revision - back if back < 60 else 0
        if revision <= 0:
            return revision, model.now
        if revision > model.revision:
            with pytest.raises(FutureRevisionError):
                shard.view.get(place.keys[0], revision)
            with pytest.raises(FutureRevisionError):
                shard.view.read_range(place.start, place.end, revision)
            return revision, None
        if revision < model.compacted:
            with pytest.raises(CompactedError) as refused:
                shard.view.get(place.keys[0], revision)
            assert refused.value.compact_revision == model.compacted
            with pytest.raises(CompactedError):
                shard.view.count(place.start, place.end, revision)
            return revision, None
        return revision, model.at[revision]

    @rule(
        case=place_and_bounds(),
        back=BACK,
        limit=st.integers(0, 4),
        max_bytes=st.sampled_from([1, 20, 1_000, 100_000]),
        max_examined=st.integers(0, 3),
        reverse=st.booleans(),
        keys_only=st.booleans(),
    )
    def read(
        self,
        case: tuple[Place, tuple[bytes, bytes | None]],
        back: int,
        limit: int,
        max_bytes: int,
        max_examined: int,
        reverse: bool,
        keys_only: bool,
    ) -> None:
        place, bounds = case
        self.get(place, back)
        self.read_range(case, back, limit, reverse, keys_only)
        self.range_in_pages(case, back, limit, max_bytes, max_examined, reverse)
        self.events((place, bounds), back, limit + 1, max_bytes, max_examined + 1)
        self.events((place, bounds), back, 1_000, 100_000, 1_000)
        self.lease_keys(place, limit + 1)

    def get(self, place: Place, back: int) -> None:
        revision, expected = self.pick(place, back)
        if expected is not None:
            view = self.shards[place.shard].view
            for key in place.keys:
                assert view.get(key, revision) == expected.get(key)

    def read_range(
        self,
        case: tuple[Place, tuple[bytes, bytes | None]],
        back: int,
        limit: int,
        reverse: bool,
        keys_only: bool,
    ) -> None:
        place, (start, end) = case
        revision, records = self.pick(place, back)
        if records is None:
            return
        expected = self.expected_range(records, start, end, reverse, keys_only)
        view = self.shards[place.shard].view
        found = view.read_range(
            start, end, revision, limit=limit, reverse=reverse, keys_only=keys_only
        )
        cut = expected[:limit] if limit else expected
        assert found == (cut, len(expected) > len(cut), len(expected))
        counted = view.read_range(start, end, revision, count_only=True)
        assert counted == ([], False, len(expected))

    def range_in_pages(
        self,
        case: tuple[Place, tuple[bytes, bytes | None]],
        back: int,
        limit: int,
        max_bytes: int,
        max_examined: int,
        reverse: bool,
    ) -> None:
        place, (start, end) = case
        revision, records = self.pick(place, back)
        if records is None:
            return
        expected = self.expected_range(records, start, end, reverse, False)
        view = self.shards[place.shard].view
        found: list[KeyValue] = []
        low, high = start, end
        while True:
            page = view.range(
                low,
                high,
                revision,
                limit=limit,
                max_bytes=max_bytes,
                max_examined=max_examined,
                reverse=reverse,
            )
            assert not limit or len(page.items) <= limit
            size = sum(len(item.key) + len(item.value) for item in page.items)
            assert size <= max_bytes or len(page.items) == 1
            found += page.items
            assert page.more == (page.resume is not None)
            if page.resume is None:
                break
            if reverse:
                high = page.resume
            else:
                low = page.resume
        assert found == expected
        total, resume = 0, start
        while resume is not None:
            counted, resume = view.count(resume, end, revision, max_examined=max_examined)
            total += counted
        assert total == len(expected)

    @staticmethod
    def expected_range(
        records: dict[bytes, KeyValue],
        start: bytes,
        end: bytes | None,
        reverse: bool,
        keys_only: bool,
    ) -> list[KeyValue]:
        found = inside(records, start, end)
        if reverse:
            found.reverse()
        return [item._replace(value=b"") for item in found] if keys_only else found

    def events(
        self,
        case: tuple[Place, tuple[bytes, bytes | None]],
        back: int,
        max_events: int,
        max_bytes: int,
        max_examined: int,
    ) -> None:
        place, (start, end) = case
        model, view = self.models[place.shard], self.shards[place.shard].view
        revision = first = model.revision - back
        if revision < model.compacted:
            with pytest.raises(CompactedError):
                read_events(view, revision)
            return
        found: list[Event] = []
        while True:
            page = read_events(
                view,
                revision,
                start,
                end,
                max_events=max_events,
                max_bytes=max_bytes,
                max_examined=max_examined,
            )
            revisions = {event.kv.mod_revision for event in page.events}
            assert all(revision <= found_at < page.next_revision for found_at in revisions)
            assert len(page.events) <= max_events or len(revisions) == 1
            found += page.events
            if page.next_revision > model.revision:
                break
            assert page.next_revision > revision
            revision = page.next_revision
        assert found == [
            event
            for event in model.happened(first)
            if event.kv.key >= start and (end is None or event.kv.key < end)
        ]

    def lease_keys(self, place: Place, limit: int) -> None:
        view, now = self.shards[place.shard].view, self.models[place.shard].now
        for lease in LEASES[2:]:
            found: list[bytes] = []
            while True:
                page = view.lease_keys(lease, found[-1] if found else None, limit=limit)
                found += page
                if len(page) < limit:
                    break
            assert found == [key for key in sorted(now) if now[key].lease == lease]

    @invariant()
    def counters(self) -> None:
        for place in PLACES:
            state, model = self.shards[place.shard].state, self.models[place.shard]
            assert (state.revision, state.compact_revision) == (model.revision, model.compacted)
            assert state.applied_index == len(self.log[place.shard])
            assert state.keys == len(model.now)

    def check_nothing_is_left_over(self) -> None:
        """After the last sweep the rows are those that the compact revisions call for."""
        self.restart(True)
        for place in PLACES:
            model = self.models[place.shard]
            segment = 10 + place.shard
            rows = self.latest().scan(
                key_u64(Table.EVENT, segment), key_u64(Table.EVENT, segment + 1)
            )
            stored = [
                (int.from_bytes(key[9:17], "big"), int.from_bytes(key[17:21], "big"))
                for key, _ in rows.items
            ]
            assert stored == [
                (revision, sub)
                for revision in sorted(model.events)
                for sub in range(len(model.events[revision]))
                if revision >= model.compacted
            ]
            prefix = key_u32(Table.CURRENT, place.keyspace)
            for key in place.keys:
                record = self.latest().get(prefix + key)
                if record is not None:
                    body = unseal(prefix + key, record)
                    assert not is_tombstone(body) or mod_of(body) > model.compacted

    def teardown(self) -> None:
        """A replica that made other turns agrees, byte for byte where it matters."""
        replica = MemoryEngine()
        latest = Latest(replica, SystemClock())
        for place in PLACES:
            shard = Shard.create(
                latest,
                shard=place.shard,
                keyspace=place.keyspace,
                segment=10 + place.shard,
                start=place.start,
                end=place.end,
            )
            for index, entry in enumerate(self.log[place.shard], start=1):
                apply(shard, index, entry)
                if index % 3 == 0:
                    batch = Batch()
                    shard.prepare(batch, sweep_events=index % 5)
                    replica.write(batch, sync=True)
                    latest.renew()
                    shard.after_commit()
            original = self.shards[place.shard]
            assert digest(shard) == digest(original)
            for key in place.keys:
                assert shard.view.newest(key) == original.view.newest(key)
        self.check_nothing_is_left_over()
        self.latest.renew()
        self.engine.close()


def digest(shard: Shard) -> Any:
    walk = ShardHash(shard.view)
    while True:
        found = walk.step(shard.view, max_keys=2)
        if found is not None:
            return found


SETTINGS = settings(stateful_step_count=25, suppress_health_check=list(HealthCheck))


def test_mvcc_on_memory() -> None:
    def open_engine(before: Engine | None) -> Engine:
        return before or MemoryEngine()

    run_state_machine_as_test(lambda: MvccMachine(open_engine), settings=SETTINGS)


def test_mvcc_on_lmdb() -> None:
    root = Path(tempfile.mkdtemp(prefix="januskv-mvcc-"))
    count = 0

    def open_engine(before: Engine | None) -> Engine:
        nonlocal count
        if before is None:
            count += 1
            shutil.rmtree(root / str(count - 1), ignore_errors=True)
        else:
            before.close()
        return LmdbEngine(root / str(count), clock=SystemClock())

    try:
        run_state_machine_as_test(lambda: MvccMachine(open_engine), settings=SETTINGS)
    finally:
        shutil.rmtree(root)
