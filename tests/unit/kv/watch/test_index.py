"""Finding the watched ranges of a key: against asking each range."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from kv.watch.index import (
    ABOVE_ALL_KEYS,
    EVERYTHING,
    KeyRange,
    RangeIndex,
    key_range,
    one_key,
    with_prefix,
)
from kv.watch.interval_tree import IntervalTree

keys = st.binary(min_size=1, max_size=3).map(lambda raw: bytes(b"\x00ab\xff"[c % 4] for c in raw))
ranges = st.one_of(
    keys.map(one_key),
    st.binary(max_size=2).map(with_prefix),
    st.builds(key_range, keys, st.one_of(st.none(), keys)),
).filter(lambda keys: not keys.is_empty)


@given(st.lists(st.tuples(st.booleans(), ranges), max_size=60), st.lists(keys, min_size=1))
def test_it_finds_what_asking_each_range_finds(
    changes: list[tuple[bool, KeyRange]], asked: list[bytes]
) -> None:
    index: RangeIndex[KeyRange] = RangeIndex()
    present: set[KeyRange] = set()
    for wanted, watched in changes:
        if watched in present:
            present.remove(watched)
            index.remove(watched)
        elif wanted:
            present.add(watched)
            index.add(watched, watched)
        assert len(index) == len(present)
        for key in asked:
            found = index.find(key)
            assert len(found) == len(set(found))
            assert set(found) == {each for each in present if each.holds(key)}


def test_equal_sets_of_keys_are_equal_ranges() -> None:
    assert key_range(b"\x00", None) == EVERYTHING == with_prefix(b"") == key_range(b"", None)
    assert key_range(b"a", b"b") == with_prefix(b"a")
    assert key_range(b"a", b"a\x00") == one_key(b"a")
    assert key_range(b"\xff", None) == with_prefix(b"\xff") == key_range(b"\xff", ABOVE_ALL_KEYS)
    assert one_key(b"\x00") == KeyRange(b"\x00", b"\x00\x00")
    assert key_range(b"b", b"a").is_empty
    assert key_range(b"\x00", b"\x00").is_empty
    assert not EVERYTHING.is_empty


def test_the_tree_stays_flat_whatever_the_order() -> None:
    for order in ("rising", "falling", "shuffled"):
        names = [b"%05d" % number for number in range(4_000)]
        if order == "falling":
            names.reverse()
        if order == "shuffled":
            random.Random(3).shuffle(names)
        tree: IntervalTree[bytes] = IntervalTree()
        for name in names:
            tree.add(name, name + b"9", name)
        assert tree.height() < 45, order  # 12 is perfect; a list would be 4,000
        for name in names[:3_900]:
            tree.remove(name, name + b"9")
        found: list[bytes] = []
        tree.collect(names[3_950] + b"5", found)
        assert found == [names[3_950]]
        assert len(tree) == 100
        assert tree.height() < 25
