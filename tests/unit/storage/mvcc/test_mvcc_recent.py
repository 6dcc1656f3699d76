"""What need not be read again: never another body than the newest, and never without bound."""

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


def test_puts_without_a_scope_are_counted_as_any_others(bench: Bench) -> None:
    recent = bench.shard.recent
    recent.limit(64 * 1024)
    large, small = bytes(BODY_MAX_BYTES), bytes(1000)
    for nth in range(500):
        bench.shard.put(b"%d" % (nth % 20), small[: nth % 1000], 1)
    assert len(recent.young) == 20
    assert not recent.old
    bench.shard.put(b"1", large, 1)
    assert known(recent, b"1") is None
    for nth in range(100):
        bench.shard.put(b"more%d" % nth, small, 1)
        assert len(recent.young) * 1000 < 64 * 1024
    assert recent.old
    twin = Recent()
    for key, body in recent.young.items():
        twin.know(key, body)
    assert twin._size_bytes == recent._size_bytes


def test_what_a_scope_takes_back_is_not_known(bench: Bench) -> None:
    bench.put(b"a", b"1")
    scope = bench.shard.begin()
    scope.put(b"a", b"2")
    scope.put(b"b", b"2")
    inside = bench.shard.view.get(b"a")
    assert inside is not None
    assert inside.value == b"2"
    scope.abort()
    after = bench.shard.view.get(b"a")
    assert after is not None
    assert after.value == b"1"
    assert bench.shard.view.get(b"b") is None


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
        recent.know(nth.to_bytes(4, "big"), body)
        assert (len(recent.young) + len(recent.old)) * size <= 2 * GENERATION_BYTES + size
    assert known(recent, nth.to_bytes(4, "big")) == body
    assert known(recent, bytes(4)) is None


def test_a_larger_generation_keeps_more() -> None:
    def known_of(generation_bytes: int) -> int:
        recent = Recent()
        recent.generation_bytes = generation_bytes
        for nth in range(3000):
            recent.know(nth.to_bytes(4, "big"), bytes(100))
        return len(recent.young) + len(recent.old)

    assert known_of(128 * 1024) < 1200
    assert known_of(1024 * 1024) == 3000


def test_a_smaller_generation_gives_back_what_was_kept() -> None:
    recent = Recent()
    recent.know(b"a", b"old")
    recent.know(b"b", bytes(1000))
    recent.limit(2 * GENERATION_BYTES)
    assert known(recent, b"a") == b"old"
    recent.limit(GENERATION_BYTES)
    assert known(recent, b"a") is None
    assert known(recent, b"b") is None


def test_a_large_value_does_not_stay_and_nor_does_what_it_replaced() -> None:
    recent = Recent()
    large = bytes(BODY_MAX_BYTES + 1)
    recent.know(b"a", b"old")
    recent.know(b"a", large)
    assert known(recent, b"a") is None
    recent.know(b"a", b"new")
    assert known(recent, b"a") == b"new"


def test_a_key_that_is_written_again_takes_no_more_room() -> None:
    recent = Recent()
    for nth in range(10 * GENERATION_BYTES // 1000):
        recent.know(b"%d" % (nth % 10), bytes(1000 - nth % 7))
    assert len(recent.young) == 10
    assert not recent.old
    for nth in range(10):
        recent.drop(b"%d" % nth)
    recent.grow(GENERATION_BYTES)
    assert not recent.old, "what was dropped does not count"


def test_what_is_written_later_wins_over_the_older_generation() -> None:
    recent = Recent()
    recent.know(b"a", b"first")
    filler = bytes(BODY_MAX_BYTES)
    for nth in range(GENERATION_BYTES // BODY_MAX_BYTES):
        recent.know(b"f%d" % nth, filler)
    assert recent.old.get(b"a") == b"first"
    recent.know(b"a", b"second")
    assert known(recent, b"a") == b"second"


def test_an_empty_batch_of_rows_is_none(bench: Bench) -> None:
    batch = Batch()
    batch.put_rows([])
    assert not batch.operations
    assert batch.size_bytes == 0
