"""A damaged byte in a stored record is an error that names the key, never a wrong value."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from storage.codec import Table, key_u32, key_u32_u64, key_u64, key_u64_u64_u32
from storage.engine import Batch
from storage.errors import CorruptRecordError
from storage.mvcc import Shard
from storage.mvcc_events import read_events
from storage.mvcc_hash import ShardHash

from .conftest import Bench


def damage_each_byte(bench: Bench, key: bytes, read: Callable[[], object]) -> None:
    """Every byte, several bits, and every shortening; then the record is whole again."""
    record = bench.engine.snapshot().get(key)
    assert record is not None
    read()
    damaged = [
        record[:at] + bytes((record[at] ^ flip,)) + record[at + 1 :]
        for at in range(len(record))
        for flip in (0x01, 0x80, 0xFF)
    ]
    damaged += [record[:at] for at in range(len(record))]
    damaged += [record + b"\x00", b"\x00" * len(record)]
    for wrong in damaged:
        store(bench, key, wrong)
        with pytest.raises(CorruptRecordError) as refused:
            read()
        assert refused.value.key == key
        assert repr(key) in str(refused.value)
    store(bench, key, record)
    read()


def store(bench: Bench, key: bytes, record: bytes) -> None:
    batch = Batch()
    batch.put(key, record)
    bench.engine.write(batch, sync=True)
    bench.shard.recent.forget()  # what was read once is not read again


@pytest.fixture
def filled(bench: Bench) -> Bench:
    for nth in range(20):
        bench.put(b"hot", b"value %d" % nth, lease=6)
    bench.put(b"gone", b"x")
    bench.delete(b"gone")
    bench.commit()
    return bench


@pytest.mark.parametrize("name", [b"hot", b"gone"])
def test_a_current_record(filled: Bench, name: bytes) -> None:
    key = key_u32(Table.CURRENT, 7, name)
    view = filled.shard.view
    damage_each_byte(filled, key, lambda: view.get(name))
    damage_each_byte(filled, key, lambda: view.read_range(b"", None))
    damage_each_byte(filled, key, lambda: view.count(b"", None))
    damage_each_byte(filled, key, lambda: ShardHash(view).step(view))


def test_a_current_record_that_is_to_be_overwritten(filled: Bench) -> None:
    def overwrite() -> None:
        scope = filled.shard.begin()
        try:
            scope.put(b"hot", b"next")
        finally:
            scope.abort()

    damage_each_byte(filled, key_u32(Table.CURRENT, 7, b"hot"), overwrite)


def test_an_event(filled: Bench) -> None:
    view = filled.shard.view
    last = key_u64_u64_u32(Table.EVENT, 11, 21, 0)
    damage_each_byte(filled, last, lambda: view.get(b"hot", 20))
    damage_each_byte(filled, last, lambda: view.read_range(b"", None, 20))
    damage_each_byte(filled, last, lambda: read_events(view, 2))
    jumped_to = key_u64_u64_u32(Table.EVENT, 11, 17, 0)
    damage_each_byte(filled, jumped_to, lambda: view.get(b"hot", 5))


def test_an_event_that_compaction_examines(filled: Bench) -> None:
    filled.shard.compact(23)
    key = key_u64_u64_u32(Table.EVENT, 11, 23, 0)
    damage_each_byte(filled, key, lambda: filled.shard.prepare(Batch()) or reset(filled))


def reset(bench: Bench) -> None:
    """Forget a prepare whose batch is not written."""
    bench.crash()
    bench.shard.compact(23)


def test_a_lease_row(filled: Bench) -> None:
    key = key_u32_u64(Table.LEASE_KEY, 7, 6, b"hot")
    damage_each_byte(filled, key, lambda: filled.shard.view.lease_keys(6))


@pytest.mark.parametrize(("table", "number"), [(Table.SHARD, 1), (Table.SEGMENT, 11)])
def test_the_shards_own_records(filled: Bench, table: Table, number: int) -> None:
    damage_each_byte(filled, key_u64(table, number), lambda: Shard.load(filled.source, 1))


def test_a_missing_segment_record(filled: Bench) -> None:
    key = key_u64(Table.SEGMENT, 11)
    batch = Batch()
    batch.delete(key)
    filled.engine.write(batch, sync=True)
    with pytest.raises(CorruptRecordError, match="shard 1 has no segment record") as refused:
        Shard.load(filled.source, 1)
    assert refused.value.key == key


def test_a_record_under_another_key(filled: Bench) -> None:
    """Two whole records that changed places."""
    filled.put(b"pot", b"another")
    filled.commit()
    hot, pot = (key_u32(Table.CURRENT, 7, name) for name in (b"hot", b"pot"))
    snapshot = filled.engine.snapshot()
    records = snapshot.get(hot), snapshot.get(pot)
    assert records[0] is not None
    assert records[1] is not None
    store(filled, hot, records[1])
    store(filled, pot, records[0])
    for name, key in ((b"hot", hot), (b"pot", pot)):
        with pytest.raises(CorruptRecordError) as refused:
            filled.get(name)
        assert refused.value.key == key
