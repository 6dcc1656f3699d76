"""Objects, index, reap rows and leaves change together; damage is named and can be healed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from storage.buckets import DIGEST_BYTES, EMPTY_LEAF, bucket_of, set_digest
from storage.codec import KEY_MAX_BYTES, Table, seal, unseal
from storage.engine import Batch
from storage.errors import CorruptRecordError, EmptyKeyError, KeyTooLongError
from storage.hints import Merge, read_hints
from storage.memory import MemoryEngine
from storage.objects import (
    Record,
    compute_leaves,
    index_leaves,
    object_key,
    read_digest,
    read_record,
    reap_key,
    scan_index,
    scan_objects,
    scan_reapable,
    token_key,
)
from storage.siblings import SiblingSet
from storage.versions import StorageCanary, Turn

WriteOf = Callable[..., SiblingSet]
LAST_BUCKET = (1 << 20) - 1


class Store:
    def __init__(self, merge: Merge) -> None:
        self.engine = MemoryEngine()
        self.merge = merge
        self.canaries: frozenset[StorageCanary] = frozenset()

    @contextmanager
    def turn(self) -> Iterator[Turn]:
        turn = Turn(self.engine.snapshot(), self.merge, canaries=self.canaries)
        yield turn
        batch = Batch()
        turn.collect(batch)
        self.engine.write(batch, sync=True)

    def put(self, key: bytes, siblings: SiblingSet, *, keyspace: int = 1, epoch: int = 0) -> None:
        with self.turn() as turn:
            turn.put(keyspace, key, Record(siblings, epoch))

    def drop(self, key: bytes, *, keyspace: int = 1) -> None:
        with self.turn() as turn:
            turn.drop(keyspace, key)

    def read(self, key: bytes, *, keyspace: int = 1) -> Record | None:
        return read_record(self.engine.snapshot(), keyspace, key)

    def rows(self, table: Table) -> int:
        return sum(key[0] == table for key in self.engine.keys)

    def exact(self, *, keyspace: int = 1) -> None:
        reader = self.engine.snapshot()
        assert index_leaves(reader, keyspace) == compute_leaves(reader, keyspace)
        objects = scan_objects(reader, keyspace).items
        page = scan_index(reader, keyspace, 0, LAST_BUCKET)
        assert [(bucket, key) for bucket, key, _ in page.items] == sorted(
            (bucket_of(key), key) for key, _ in objects
        )
        assert (page.next, page.damaged) == (None, [])
        due = [(record.siblings.reapable_from_ms(), key) for key, record in objects]
        assert scan_reapable(reader, keyspace, 1 << 60).items == sorted(
            (at, key) for at, key in due if at is not None
        )

    def damage(self, row_key: bytes) -> None:
        batch = Batch()
        stored = self.engine.values[row_key]
        batch.put(row_key, stored[:-1] + bytes((stored[-1] ^ 0x40,)))
        self.engine.write(batch, sync=True)


@pytest.fixture
def store(merge: Merge) -> Store:
    return Store(merge)


def _neighbours(count: int) -> list[bytes]:
    """Keys of one bucket."""
    found: dict[int, list[bytes]] = {}
    number = 0
    while True:
        key = b"%d" % number
        number += 1
        same = found.setdefault(bucket_of(key), [])
        same.append(key)
        if len(same) == count:
            return same


def test_a_record_comes_back_with_its_epoch(store: Store, write_of: WriteOf) -> None:
    siblings = write_of("a", 3, b"value")
    store.put(b"k", siblings, epoch=12)
    assert store.read(b"k") == Record(siblings, 12)
    assert store.read(b"k", keyspace=2) is None
    assert store.read(b"l") is None
    reader = store.engine.snapshot()
    assert read_digest(reader, 1, b"k") == set_digest(b"k", siblings)
    assert read_digest(reader, 1, b"l") is None
    store.exact()


def test_dropping_the_last_key_leaves_nothing(store: Store, write_of: WriteOf) -> None:
    store.put(b"k", write_of("a", 1, None))
    assert store.rows(Table.REAP) == 1
    store.drop(b"k")
    store.drop(b"never there")
    assert store.engine.keys == []


def test_a_turn_sees_its_own_changes_and_writes_each_key_once(
    store: Store, write_of: WriteOf
) -> None:
    with store.turn() as turn:
        for n in range(1, 6):
            before = turn.get(1, b"k")
            assert before is None or before.siblings == write_of("a", n - 1, b"v")
            turn.put(1, b"k", Record(write_of("a", n, b"v")))
        assert store.read(b"k") is None
        batch = Batch()
        Turn(store.engine.snapshot(), store.merge).collect(batch)
        assert len(batch) == 0
    assert store.read(b"k") == Record(write_of("a", 5, b"v"))
    with store.turn() as turn:
        turn.put(1, b"k", Record(write_of("a", 6, b"v")))
        turn.drop(1, b"k")
        assert turn.get(1, b"k") is None
        turn.put(1, b"k", Record(write_of("a", 1, b"again", epoch=2), 2))
    assert store.read(b"k") == Record(write_of("a", 1, b"again", epoch=2), 2)
    store.exact()


def test_putting_what_is_there_writes_nothing(store: Store, write_of: WriteOf) -> None:
    store.put(b"k", write_of("a", 1, b"v"), epoch=3)
    turn = Turn(store.engine.snapshot(), store.merge)
    turn.put(1, b"k", Record(write_of("a", 1, b"v"), 3))
    batch = Batch()
    turn.collect(batch)
    assert len(batch) == 0


def test_a_key_that_comes_and_goes_in_one_turn_writes_no_object(
    store: Store, write_of: WriteOf
) -> None:
    with store.turn() as turn:
        turn.put(1, b"k", Record(write_of("a", 1, b"v")))
        turn.drop(1, b"k")
    assert store.engine.keys == []


def test_what_one_turn_did_is_one_batch(store: Store, write_of: WriteOf) -> None:
    """Object, index, hint and epoch reach the disk together or not at all."""
    turn = Turn(store.engine.snapshot(), store.merge)
    epoch = turn.next_epoch()
    turn.put(1, b"k", Record(write_of("a", 1, b"v"), epoch))
    turn.hints.add("t", 1, b"k", write_of("a", 1, b"v"), 5)
    batch = Batch()
    turn.collect(batch)
    tables = {Table(key[0]) for _, key, _ in batch.operations}
    assert tables == {
        Table.OBJECT,
        Table.TOKEN_INDEX,
        Table.HINT,
        Table.HINT_INDEX,
        Table.HINT_USAGE,
        Table.COUNTER,
    }
    assert store.engine.keys == []
    store.engine.write(batch, sync=True)
    assert len(read_hints(store.engine.snapshot(), "t").hints) == 1


def test_a_turn_is_collected_once_and_then_closed(store: Store, write_of: WriteOf) -> None:
    with store.turn() as turn:
        pass
    with pytest.raises(AssertionError, match="collected"):
        turn.collect(Batch())
    with pytest.raises(AssertionError, match="collected"):
        turn.put(1, b"k", Record(write_of("a", 1, b"v")))
    with pytest.raises(AssertionError, match="collected"):
        turn.drop(1, b"k")


def test_epochs_are_never_given_twice(store: Store) -> None:
    seen = []
    for _ in range(3):
        with store.turn() as turn:
            seen += [turn.next_epoch(), turn.next_epoch()]
    assert seen == [1, 2, 3, 4, 5, 6]


def test_canary_an_epoch_that_is_not_kept_comes_again(store: Store) -> None:
    store.canaries = frozenset({StorageCanary.EPOCH_NOT_KEPT})
    seen = []
    for _ in range(2):
        with store.turn() as turn:
            seen.append(turn.next_epoch())
    assert len(set(seen)) == 1


def test_canary_a_leaf_that_is_not_updated_is_caught_by_the_recount(
    store: Store, write_of: WriteOf
) -> None:
    store.put(b"k", write_of("a", 1, b"v"))
    store.exact()
    store.canaries = frozenset({StorageCanary.LEAF_NOT_UPDATED})
    store.put(b"k", write_of("a", 2, b"w"))
    with pytest.raises(AssertionError):
        store.exact()


def test_equal_sets_make_equal_leaves_whatever_came_between(
    store: Store, merge: Merge, write_of: WriteOf
) -> None:
    keys = _neighbours(3)
    other = Store(merge)
    for key in keys:
        store.put(key, write_of("a", 5, b"v"), epoch=9)
    for n in range(1, 6):
        for key in reversed(keys):
            other.put(key, write_of("a", n, b"v"))
    ours = index_leaves(store.engine.snapshot(), 1)
    assert ours == index_leaves(other.engine.snapshot(), 1)
    assert [leaf.keys for leaf in ours.values()] == [3]
    other.drop(keys[0])
    assert ours != index_leaves(other.engine.snapshot(), 1)


def test_a_turn_tells_what_it_did_to_leaves(store: Store, write_of: WriteOf) -> None:
    """Sums over leaves are kept in memory from this, and equal a recount."""
    total = EMPTY_LEAF
    keys = [*_neighbours(2), b"x"]
    for n, dropped in ((1, b""), (2, keys[0]), (3, b"x")):
        with store.turn() as turn:
            for key in keys:
                turn.put(1, key, Record(write_of("a", n, key)))
            if dropped:
                turn.drop(1, dropped)
        for change in turn.leaf_changes:
            assert change.keyspace == 1
            total = total.plus(change.keys, change.total)
        assert not turn.unsummed
        recount = EMPTY_LEAF
        for leaf in compute_leaves(store.engine.snapshot(), 1).values():
            recount += leaf
        assert total == recount


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data())
def test_leaves_updated_step_by_step_equal_leaves_from_nothing(
    data: st.DataObject, any_set: st.SearchStrategy[SiblingSet], merge: Merge
) -> None:
    store = Store(merge)
    keys = [*_neighbours(2), b"x", b"y"]
    for _ in range(data.draw(st.integers(1, 4))):
        with store.turn() as turn:
            for _ in range(data.draw(st.integers(1, 4))):
                key = data.draw(st.sampled_from(keys))
                if data.draw(st.booleans()):
                    turn.put(1, key, Record(data.draw(any_set), data.draw(st.integers(0, 9))))
                else:
                    turn.drop(1, key)
        store.exact()


def test_a_set_over_the_engines_limit_comes_back(store: Store, write_of: WriteOf) -> None:
    big = write_of("a", 1, b"v" * 9_000_000)
    store.put(b"k", big)
    assert store.read(b"k") == Record(big)
    assert scan_objects(store.engine.snapshot(), 1).items == [(b"k", Record(big))]
    assert read_digest(store.engine.snapshot(), 1, b"k") == set_digest(b"k", big)
    store.exact()
    store.put(b"k", write_of("a", 2, b"small"))
    assert store.rows(Table.PART) == 0
    store.put(b"k", big)
    store.drop(b"k")
    assert store.engine.keys == []


def test_objects_are_listed_in_key_order_within_their_keyspace(
    store: Store, write_of: WriteOf
) -> None:
    keys = [b"\x00", b"\x00\x00", b"a", b"a\xff", b"b", b"\xff" * KEY_MAX_BYTES]
    for key in reversed(keys):
        store.put(key, write_of("a", 1, key[:5]))
        store.put(key, write_of("a", 1, b"other"), keyspace=2)
    reader = store.engine.snapshot()
    assert [key for key, _ in scan_objects(reader, 1).items] == keys
    assert [key for key, _ in scan_objects(reader, 1, reverse=True).items] == keys[::-1]
    assert [key for key, _ in scan_objects(reader, 1, b"a", b"b").items] == [b"a", b"a\xff"]
    page = scan_objects(reader, 1, b"a", limit=2)
    assert ([key for key, _ in page.items], page.more) == ([b"a", b"a\xff"], True)
    assert scan_objects(reader, 3).items == []


@pytest.mark.parametrize("limit", [1, 2, 3, 100])
def test_the_index_is_read_in_whole_buckets(store: Store, write_of: WriteOf, limit: int) -> None:
    together = sorted(_neighbours(3))
    keys = sorted([*together, *(b"x%d" % number for number in range(20))], key=_place)
    for key in keys:
        store.put(key, write_of("a", 1, b"v"))
    reader = store.engine.snapshot()
    found: list[bytes] = []
    following: int | None = 0
    while following is not None:
        page = scan_index(reader, 1, following, LAST_BUCKET, limit=limit)
        assert page.items
        assert page.next is None or page.items[-1].bucket < page.next
        found += [key for _, key, _ in page.items]
        following = page.next
    assert found == keys
    bucket = bucket_of(together[0])
    alone = scan_index(reader, 1, bucket, bucket, limit=limit)
    assert ([key for _, key, _ in alone.items], alone.next) == (together, None)
    assert alone.items[0].digest == read_digest(reader, 1, together[0])
    assert scan_index(reader, 1, bucket ^ 1, bucket ^ 1).items == []


def _place(key: bytes) -> tuple[int, bytes]:
    return bucket_of(key), key


def test_keys_that_will_be_dead_are_found_when_due(store: Store, write_of: WriteOf) -> None:
    store.put(b"deleted", write_of("a", 1, None))
    store.put(b"lives", write_of("a", 1, b"v"))
    store.put(b"late", write_of("a", 1, b"v", expiry_ms=900))
    store.put(b"soon", write_of("a", 1, b"v", expiry_ms=500))
    reader = store.engine.snapshot()
    assert scan_reapable(reader, 1, 499).items == [(0, b"deleted")]
    assert scan_reapable(reader, 1, 500).items == [(0, b"deleted"), (500, b"soon")]
    after = scan_reapable(reader, 1, 900, after=(0, b"deleted"))
    assert after.items == [(500, b"soon"), (900, b"late")]
    store.put(b"soon", write_of("a", 2, b"again"))
    store.put(b"late", write_of("a", 2, None))
    assert scan_reapable(store.engine.snapshot(), 1, 1 << 60).items == [
        (0, b"deleted"),
        (0, b"late"),
    ]
    store.exact()


def test_empty_and_long_keys_are_refused_before_anything_is_written(
    store: Store, write_of: WriteOf
) -> None:
    turn = Turn(store.engine.snapshot(), store.merge)
    with pytest.raises(EmptyKeyError):
        turn.put(1, b"", Record(write_of("a", 1, b"v")))
    with pytest.raises(KeyTooLongError, match="432"):
        turn.put(1, b"k" * (KEY_MAX_BYTES + 1), Record(write_of("a", 1, b"v")))
    with pytest.raises(AssertionError, match="without a clock"):
        turn.put(1, b"k", Record(SiblingSet()))
    longest = b"k" * KEY_MAX_BYTES
    turn.put(1, longest, Record(write_of("z" * 64, 1, None)))
    turn.hints.add("z" * 64, 1, longest, write_of("z" * 64, 1, None), 5)
    batch = Batch()
    turn.collect(batch)
    store.engine.write(batch, sync=True)
    assert store.read(longest) is not None


def test_a_damaged_record_is_an_error_that_names_the_key(store: Store, write_of: WriteOf) -> None:
    store.put(b"first", write_of("a", 1, b"v"))
    store.put(b"second", write_of("a", 1, b"v"))
    store.damage(object_key(1, b"first"))
    turn = Turn(store.engine.snapshot(), store.merge)
    for read in (
        lambda: store.read(b"first"),
        lambda: turn.get(1, b"first"),
        lambda: turn.put(1, b"first", Record(write_of("a", 2, b"w"))),
        lambda: read_digest(store.engine.snapshot(), 1, b"first"),
    ):
        with pytest.raises(CorruptRecordError, match="first") as caught:
            read()
        assert caught.value.key == object_key(1, b"first")
    page = scan_objects(store.engine.snapshot(), 1)
    assert page.damaged == [b"first"]
    assert [key for key, _ in page.items] == [b"second"]


def test_a_record_under_another_key_is_not_believed(store: Store, write_of: WriteOf) -> None:
    store.put(b"first", write_of("a", 1, b"v"))
    batch = Batch()
    batch.put(object_key(1, b"second"), store.engine.values[object_key(1, b"first")])
    store.engine.write(batch, sync=True)
    with pytest.raises(CorruptRecordError, match="second"):
        store.read(b"second")


@pytest.mark.parametrize("then", ["nothing", "a new record"])
def test_a_damaged_record_can_be_discarded(store: Store, write_of: WriteOf, then: str) -> None:
    first, second, third = _neighbours(3)
    for key in (first, second, third):
        store.put(key, write_of("a", 1, b"v"))
    (before,) = index_leaves(store.engine.snapshot(), 1).values()
    store.damage(object_key(1, first))
    with store.turn() as turn:
        turn.put(1, second, Record(write_of("a", 2, b"w")))
        turn.discard_damaged(1, first)
        assert turn.get(1, first) is None
        if then == "a new record":
            turn.put(1, first, Record(write_of("b", 1, b"from a replica")))
    assert (store.read(first) is not None) == (then == "a new record")
    store.exact()
    assert not turn.unsummed, "the index tells what it was counted with"
    total = EMPTY_LEAF
    for leaf in index_leaves(store.engine.snapshot(), 1).values():
        total += leaf
    for change in turn.leaf_changes:
        before = before.plus(change.keys, change.total)
    assert total == before


@pytest.mark.parametrize("how", ["damaged", "of an earlier version"])
@pytest.mark.parametrize("then", ["mended", "written", "dropped"])
def test_an_index_row_without_a_digest_is_read_off_its_object(
    store: Store, write_of: WriteOf, how: str, then: str
) -> None:
    first, second = sorted(_neighbours(2))
    store.put(first, write_of("a", 1, b"v"))
    store.put(second, write_of("a", 1, b"v"))
    before = index_leaves(store.engine.snapshot(), 1)
    row_key = token_key(1, bucket_of(first), first)
    if how == "damaged":
        store.damage(row_key)
    else:
        batch = Batch()
        batch.put(row_key, seal(row_key, b""))
        store.engine.write(batch, sync=True)
    page = scan_index(store.engine.snapshot(), 1, 0, LAST_BUCKET)
    assert page.damaged == ([first] if how == "damaged" else [])
    assert index_leaves(store.engine.snapshot(), 1) == before
    with store.turn() as turn:
        if then == "mended":
            turn.mend_index(1, first)
        elif then == "written":
            turn.put(1, first, Record(write_of("a", 2, b"w")))
        else:
            turn.drop(1, first)
    assert not turn.unsummed
    assert bool(turn.leaf_changes) == (then != "mended")
    if then == "mended":
        assert index_leaves(store.engine.snapshot(), 1) == before
    stored = store.engine.values.get(row_key)
    assert (stored is None) == (then == "dropped")
    assert stored is None or len(unseal(row_key, stored)) == DIGEST_BYTES
    store.exact()


def test_of_a_key_that_cannot_be_read_at_all_nobody_knows_the_share(
    store: Store, write_of: WriteOf
) -> None:
    """It is left out of lists, so another node sends it; sums are then added up anew."""
    first, second = _neighbours(2)
    for key in (first, second):
        store.put(key, write_of("a", 1, b"v"))
    store.damage(token_key(1, bucket_of(first), first))
    store.damage(object_key(1, first))
    page = scan_index(store.engine.snapshot(), 1, 0, LAST_BUCKET)
    assert ([key for _, key, _ in page.items], page.damaged) == ([second], [first])
    with pytest.raises(CorruptRecordError):
        Turn(store.engine.snapshot(), store.merge).mend_index(1, first)
    with store.turn() as turn:
        turn.discard_damaged(1, first)
        turn.put(1, first, Record(write_of("a", 2, b"w")))
    assert turn.unsummed == {1}
    store.exact()


def test_a_stale_reap_row_can_be_forgotten(store: Store, write_of: WriteOf) -> None:
    """After damage nobody knows which row the lost record had."""
    store.put(b"k", write_of("a", 1, None))
    store.damage(object_key(1, b"k"))
    with store.turn() as turn:
        turn.discard_damaged(1, b"k")
    assert scan_reapable(store.engine.snapshot(), 1, 0).items == [(0, b"k")]
    with store.turn() as turn:
        turn.forget_reapable(1, 0, b"k")
    assert store.engine.keys == []
    store.put(b"k", write_of("a", 1, None))
    with store.turn() as turn:
        turn.forget_reapable(1, 0, b"k")
    assert store.rows(Table.REAP) == 1
    assert reap_key(1, 0, b"k") in store.engine.keys


def test_an_expired_value_is_shed_without_a_change_of_the_leaf(
    store: Store, write_of: WriteOf
) -> None:
    whole = write_of("a", 1, b"v" * 1_000, expiry_ms=500)
    store.put(b"k", whole)
    before = index_leaves(store.engine.snapshot(), 1)
    shed = SiblingSet((replace(whole.versions[0], value=None),), whole.clock)
    store.put(b"k", shed)
    assert store.read(b"k") == Record(shed)
    assert index_leaves(store.engine.snapshot(), 1) == before
    store.exact()


def test_the_rows_of_one_object_never_change(store: Store, write_of: WriteOf) -> None:
    """The bytes that FORMAT-versions.md describes."""
    store.put(b"k", write_of("a", 1, None), epoch=300)
    rows = {key.hex(): value.hex() for key, value in store.engine.values.items()}
    assert rows == {
        "30 00000001 6b".replace(" ", ""): "01ca5fa131 00 ac02 e8ec800917bdcb87a9301f075996395b"
        "01 01 01 61 0000000000000007 01 01 00 01 00 01 01 0000000000010000".replace(" ", ""),
        "31 00000001 000499ad 6b".replace(" ", ""): "01abc63a56e8ec800917bdcb87a9301f075996395b",
        "35 00000001 0000000000000000 6b".replace(" ", ""): "0174ff2138",
    }
