"""Golden answers of etcd cover the semantics (test_golden_etcd.py); here, each step by itself."""

from __future__ import annotations

from typing import Any

import pytest

from raftgroups.commands import Put, Range, SortOrder, SortTarget
from raftgroups.ranges import bounds, check_range
from raftgroups.refusals import InvalidSortError
from storage.errors import EmptyKeyError, FutureRevisionError


def test_the_end_of_a_range() -> None:
    assert bounds(b"a", b"") == (b"a", b"a\x00")
    assert bounds(b"a", b"\x00") == (b"a", None)
    assert bounds(b"a", b"c") == (b"a", b"c")


def test_what_cannot_be_read_is_refused() -> None:
    with pytest.raises(EmptyKeyError):
        check_range(Range(b""))
    for order, target in ((3, 0), (-1, 0), (0, 5)):
        with pytest.raises(InvalidSortError):
            check_range(Range(b"a", sort_order=order, sort_target=target))


@pytest.fixture
def filled(rig: Any) -> Any:
    """s1 (3 versions) = c, s2 (2) = b, s3 (1) = a."""
    for key, value in ((b"s1", b"x"), (b"s1", b"y"), (b"s2", b"x"), (b"s3", b"a"), (b"s2", b"b")):
        rig.do(Put(key, value))
    rig.do(Put(b"s1", b"c"))
    return rig.machine


def names(machine: Any, **options: Any) -> list[bytes]:
    return [item.key for item in machine.range(Range(b"s", b"t", **options)).items]


def test_sorted_then_cut(filled: Any) -> None:
    assert names(filled, sort_order=1, sort_target=SortTarget.VALUE) == [b"s3", b"s2", b"s1"]
    assert names(filled, sort_order=1, sort_target=SortTarget.VALUE, limit=1) == [b"s3"]
    assert names(filled, sort_order=SortOrder.DESCEND, limit=2) == [b"s3", b"s2"]
    # Without an order etcd sorts what it has fetched: the first keys.
    assert names(filled, sort_target=SortTarget.VALUE, limit=1) == [b"s2"]


def test_values_are_sorted_by_even_if_they_are_not_wanted(filled: Any) -> None:
    answer = filled.range(Range(b"s", b"t", sort_order=1, sort_target=4, keys_only=True))
    assert [(i.key, i.value) for i in answer.items] == [(b"s3", b""), (b"s2", b""), (b"s1", b"")]


def test_more_speaks_of_the_filtered_and_count_of_all(filled: Any) -> None:
    answer = filled.range(Range(b"s", b"t", min_mod_revision=6, limit=1))
    assert ([i.key for i in answer.items], answer.more, answer.count) == ([b"s1"], True, 3)
    answer = filled.range(Range(b"s", b"t", min_create_revision=5, limit=1))
    assert ([i.key for i in answer.items], answer.more, answer.count) == ([b"s3"], False, 3)


def test_a_revision_is_checked_where_nothing_is_read(filled: Any) -> None:
    with pytest.raises(FutureRevisionError):
        filled.range(Range(b"t", b"s", revision=99))
    with pytest.raises(FutureRevisionError):
        filled.range(Range(b"k" * 500, revision=99))
    assert filled.range(Range(b"s1", revision=3)).items[0].value == b"y"


@pytest.mark.parametrize("target", range(5))
@pytest.mark.parametrize("order", range(3))
def test_a_limit_is_a_prefix_of_the_whole(filled: Any, target: int, order: int) -> None:
    for limit in range(-1, 5):
        for least in range(9):
            if order == SortOrder.NONE and target and not least:
                continue  # sorted after the cut, as above
            options = {"sort_target": target, "sort_order": order, "min_mod_revision": least}
            whole = names(filled, **options)
            cut = filled.range(Range(b"s", b"t", limit=limit, **options))
            assert [i.key for i in cut.items] == (whole[:limit] if limit > 0 else whole)
            assert cut.more == (0 < limit < len(whole))
