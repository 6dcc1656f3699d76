"""What need not be read again: never another body than the engine's, and never without bound."""

from __future__ import annotations

from storage.codec import Table, key_u32
from storage.engine import Batch
from storage.mvcc_recent import BODY_MAX_BYTES, ENTRY_BYTES, GENERATION_BYTES, Recent

from .conftest import Bench


def known(recent: Recent, key: bytes) -> bytes | None:
    return recent.young.get(key) or recent.old.get(key)


def test_a_record_is_read_once_and_not_again_after_it_was_written(bench: Bench) -> None:
    bench.put(b"a", b"1")
    bench.commit()
    before = bench.source.reads
    assert bench.shard.view.get(b"a") is not None
    bench.put(b"a", b"2")
    bench.commit()
    found = bench.shard.view.get(b"a")
    assert found is not None
    assert found.value == b"2"
    assert bench.source.reads == before, "what a layer held is known once the layer is dropped"
    bench.shard.recent.forget()
    assert bench.shard.view.get(b"a") == found
    assert bench.shard.view.get(b"a") == found
    assert bench.source.reads == before + 1


def test_a_key_that_is_not_there_is_asked_for_again(bench: Bench) -> None:
    assert bench.shard.view.get(b"a") is None
    bench.put(b"a", b"1")
    bench.commit()
    assert bench.shard.view.get(b"a") is not None


def test_a_tombstone_behind_compaction_is_no_record(bench: Bench) -> None:
    bench.put(b"a", b"1")
    bench.commit()
    bench.delete(b"a")
    bench.commit()
    bench.put(b"b", b"1")
    bench.shard.compact(bench.shard.state.revision)
    bench.commit()
    assert bench.shard.view.newest(b"a") is None


def test_other_keys_are_learned_anew(bench: Bench) -> None:
    """After a split the rows of the right side are another shard's to change."""
    bench.put(b"b", b"mine")
    bench.commit()
    assert known(bench.shard.recent, b"b") is not None
    bench.shard.divide(b"a", 2, (21, 22))
    assert known(bench.shard.recent, b"b") is None


def test_a_layer_of_both_sides_of_a_split_is_forgotten_with_the_next_merge(bench: Bench) -> None:
    bench.put(b"b", b"mine")
    bench.shard.divide(b"a", 2, (21, 22))
    bench.commit()  # the sealed layer holds a key that is the other shard's now
    stored = key_u32(Table.CURRENT, 7, b"b")
    assert bench.engine.snapshot().get(stored) is not None
    bench.shard._enter(bench.shard.view.segments)  # what an absorb does last
    assert known(bench.shard.recent, b"b") is None


def test_memory_is_bounded_and_the_newest_stays() -> None:
    recent = Recent()
    body = bytes(100)
    size = ENTRY_BYTES + 4 + len(body)
    for nth in range(5 * GENERATION_BYTES // size):
        recent.learn(nth.to_bytes(4, "big"), body)
        assert (len(recent.young) + len(recent.old)) * size <= 2 * GENERATION_BYTES + size
    assert known(recent, nth.to_bytes(4, "big")) == body
    assert known(recent, bytes(4)) is None


def test_a_larger_generation_keeps_more() -> None:
    def known_of(generation_bytes: int) -> int:
        recent = Recent()
        recent.generation_bytes = generation_bytes
        for nth in range(3000):
            recent.learn(nth.to_bytes(4, "big"), bytes(100))
        return len(recent.young) + len(recent.old)

    assert known_of(128 * 1024) < 1200
    assert known_of(1024 * 1024) == 3000


def test_a_smaller_generation_gives_back_what_was_kept() -> None:
    recent = Recent()
    recent.written({b"a": b"old"})
    recent.written({b"b": bytes(1000)})
    recent.limit(2 * GENERATION_BYTES)
    assert known(recent, b"a") == b"old"
    recent.limit(GENERATION_BYTES)
    assert known(recent, b"a") is None
    assert known(recent, b"b") is None


def test_of_a_layer_with_large_values_only_the_small_ones_stay() -> None:
    recent = Recent()
    large = bytes(3 * BODY_MAX_BYTES)
    recent.written({b"a": b"old", b"b": b"old"})
    recent.written({b"a": large, b"b": b"new"})
    assert known(recent, b"a") is None
    assert known(recent, b"b") == b"new"
    recent.learn(b"c", large)
    assert known(recent, b"c") is None


def test_what_is_written_later_wins_over_the_older_generation() -> None:
    recent = Recent()
    recent.written({b"a": b"first"})
    filler = bytes(BODY_MAX_BYTES)
    for nth in range(GENERATION_BYTES // BODY_MAX_BYTES):
        recent.learn(b"f%d" % nth, filler)
    assert recent.old.get(b"a") == b"first"
    recent.written({b"a": b"second"})
    assert known(recent, b"a") == b"second"


def test_an_empty_batch_of_rows_is_none(bench: Bench) -> None:
    batch = Batch()
    batch.put_rows([])
    assert not batch.operations
    assert batch.size_bytes == 0
