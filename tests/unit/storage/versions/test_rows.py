"""Rows longer than an engine's value, and a turn that reads its own changes."""

from __future__ import annotations

import pytest

from storage.codec import seal
from storage.engine import ENGINE_VALUE_MAX_BYTES, Batch
from storage.errors import CorruptRecordError
from storage.memory import MemoryEngine
from storage.rows import PART_BYTES, RowChanges, part_key, put_row, read_row

KEY = b"\x30row"


def _write(engine: MemoryEngine, changes: RowChanges) -> None:
    batch = Batch()
    changes.collect(batch)
    engine.write(batch, sync=True)


def _body(size: int) -> bytes:
    return (b"0123456789abcdef" * (size // 16 + 1))[:size]


@pytest.mark.parametrize(
    ("size", "rows"),
    [(0, 1), (1, 1), (PART_BYTES, 1), (PART_BYTES + 1, 2), (2 * PART_BYTES, 2), (7_000_000, 3)],
)
def test_a_body_of_any_length_comes_back(size: int, rows: int) -> None:
    engine = MemoryEngine()
    changes = RowChanges(engine.snapshot())
    changes.put(KEY, _body(size))
    _write(engine, changes)
    assert len(engine.keys) == rows
    assert all(len(value) <= ENGINE_VALUE_MAX_BYTES for value in engine.values.values())
    assert read_row(engine.snapshot(), KEY) == _body(size)


def test_no_part_of_an_older_body_stays() -> None:
    engine = MemoryEngine()
    for size in (7_000_000, 4_000_000, 5, 7_000_000, 0):
        changes = RowChanges(engine.snapshot())
        changes.put(KEY, _body(size))
        _write(engine, changes)
        assert read_row(engine.snapshot(), KEY) == _body(size)
        assert len(engine.keys) == 1 + max(0, size - 1) // PART_BYTES
    changes = RowChanges(engine.snapshot())
    changes.put(KEY, _body(7_000_000))
    _write(engine, changes)
    changes = RowChanges(engine.snapshot())
    changes.delete(KEY)
    _write(engine, changes)
    assert engine.keys == []


def test_a_turn_sees_its_own_changes_and_others_do_not() -> None:
    engine = MemoryEngine()
    batch = Batch()
    put_row(batch, KEY, b"old")
    engine.write(batch, sync=True)
    changes = RowChanges(engine.snapshot())
    assert changes.get(KEY) == b"old"
    changes.put(KEY, b"new")
    changes.put_new(b"\x30other", b"x")
    assert changes.get(KEY) == b"new"
    assert changes.get(b"\x30other") == b"x"
    changes.delete(KEY)
    assert changes.get(KEY) is None
    assert read_row(engine.snapshot(), KEY) == b"old"
    assert bool(changes)
    _write(engine, changes)
    assert read_row(engine.snapshot(), KEY) is None
    assert read_row(engine.snapshot(), b"\x30other") == b"x"


@pytest.mark.parametrize("how", ["missing", "flipped", "of another key"])
def test_a_bad_part_is_an_error_that_names_the_row(how: str) -> None:
    engine = MemoryEngine()
    batch = Batch()
    put_row(batch, KEY, _body(4_000_000))
    rest = part_key(KEY, 1)
    put_row(batch, b"\x30twin", _body(4_000_000))
    engine.write(batch, sync=True)
    batch = Batch()
    if how == "missing":
        batch.delete(rest)
    elif how == "flipped":
        batch.put(rest, engine.values[rest][:-1] + b"!")
    else:
        batch.put(rest, engine.values[part_key(b"\x30twin", 1)])
    engine.write(batch, sync=True)
    with pytest.raises(CorruptRecordError, match="its part 1 of 1 is") as caught:
        read_row(engine.snapshot(), KEY)
    assert caught.value.key == KEY


def test_an_empty_row_is_cut_short() -> None:
    engine = MemoryEngine()
    batch = Batch()
    batch.put(KEY, seal(KEY, b""))
    engine.write(batch, sync=True)
    with pytest.raises(CorruptRecordError, match="cut short"):
        read_row(engine.snapshot(), KEY)
