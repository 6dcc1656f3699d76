"""Tables over a tree, compared with a plain dict."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from storage.engine import Op, Operation, size_of
from storage.memtable import Table, changed, merged, overlaid, stack

keys = st.lists(st.integers(0, 7), min_size=1, max_size=2).map(bytes)
values = st.binary(max_size=3)
operations: st.SearchStrategy[Operation] = st.one_of(
    st.tuples(st.just(Op.PUT), keys, values),
    st.tuples(st.just(Op.DELETE), keys, st.none()),
    st.tuples(st.just(Op.DELETE_RANGE), keys, st.none() | keys),
)
batches = st.lists(st.lists(operations, max_size=6), max_size=8)
bounds = st.tuples(st.just(b"") | keys, st.none() | keys)


def apply(state: dict[bytes, bytes], batch: list[Operation]) -> None:
    for op, key, value in batch:
        if op is Op.PUT:
            assert value is not None
            state[key] = value
        elif op is Op.DELETE:
            state.pop(key, None)
        else:
            for gone in [k for k in state if k >= key and (value is None or k < value)]:
                del state[gone]


def read(tables: list[Table], tree: dict[bytes, bytes], key: bytes) -> bytes | None:
    for table in tables:
        if key in table.rows:
            return table.rows[key]
        if table.covers(key):
            return None
    return tree.get(key)


def fold(table: Table, tree: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """As LmdbEngine.fold does: the ranges, then the rows."""
    state = dict(tree)
    apply(state, [(Op.DELETE_RANGE, start, end) for start, end in table.ranges])
    for key in table.sorted_keys():
        value = table.rows[key]
        apply(state, [(Op.DELETE, key, None) if value is None else (Op.PUT, key, value)])
    return state


@given(st.dictionaries(keys, values), batches, bounds, st.booleans())
def test_tables_over_a_tree_read_as_what_they_did(
    tree: dict[bytes, bytes],
    written: list[list[Operation]],
    asked: tuple[bytes, bytes | None],
    reverse: bool,
) -> None:
    wanted = dict(tree)
    tables: list[Table] = []
    for batch in written:
        apply(wanted, batch)
        table = Table()
        table.apply(batch, size_of(batch))
        tables.insert(0, table)
    start, end = asked
    inside = sorted(
        (pair for pair in wanted.items() if pair[0] >= start and (end is None or pair[0] < end)),
        reverse=reverse,
    )
    below = sorted(
        (pair for pair in tree.items() if pair[0] >= start and (end is None or pair[0] < end)),
        reverse=reverse,
    )
    assert list(overlaid(tables, iter(below), start, end, reverse=reverse)) == inside
    one = merged(tables)
    assert list(overlaid([one], iter(below), start, end, reverse=reverse)) == inside
    assert one.sorted_keys() == sorted(one.rows)
    assert fold(one, tree) == wanted
    if not reverse:
        assert changed(tables, below, start, end) == changed([one], below, start, end) == inside
    assert one.ranges == sorted(one.ranges, key=lambda pair: pair[0])
    for key in {*wanted, *tree, start or b"\x00"}:
        assert read(tables, tree, key) == read([one], tree, key) == wanted.get(key)
    if not any(table.touches(start, end) for table in tables):
        assert below == inside


@given(batches)
def test_one_table_for_many_batches_is_the_same_as_one_for_each(
    written: list[list[Operation]],
) -> None:
    single, wanted = Table(), {b"\x03": b"old", b"\x05\x01": b"old"}
    tree = dict(wanted)
    stacked: tuple[Table, ...] = ()
    for batch in written:
        single.apply(batch, size_of(batch))
        apply(wanted, batch)
        table = Table()
        table.apply(batch, size_of(batch))
        if table:
            stacked = stack(stacked, table)
            assert all(each.sorted_keys() == sorted(each.rows) for each in stacked)
    assert fold(single, tree) == fold(merged(stacked), tree) == wanted


def test_a_stack_stays_low_however_many_tables_come() -> None:
    tables: tuple[Table, ...] = ()
    for number in range(1_000):
        table = Table()
        table.apply([(Op.PUT, b"%04d" % number, b"")], 4)
        tables = stack(tables, table)
    assert len(tables) <= 10
    assert len(merged(tables).rows) == 1_000


def test_a_table_counts_what_was_written_into_it() -> None:
    """So that a log of overwrites of one key comes to its end, too."""
    table = Table()
    for _ in range(10):
        table.apply([(Op.PUT, b"key", bytes(97))], 100)
    assert len(table.rows) == 1
    assert table.size_bytes >= 10 * 100
