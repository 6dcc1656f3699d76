"""The bytes of records and events, and where jumps lead."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.codec import KEY_MAX_BYTES, VALUE_MAX_BYTES
from storage.engine import ENGINE_VALUE_MAX_BYTES
from storage.mvcc_records import (
    Event,
    KeyValue,
    event_key_of,
    event_of,
    head_of,
    is_tombstone,
    jumps_of,
    key_value,
    lease_of,
    mod_of,
    pack_event,
    put_record,
    tombstone_record,
    unpack_event,
    value_size,
)

U64 = st.integers(0, 2**64 - 1)


@given(st.binary(max_size=40), U64, U64, st.integers(0, 2**32 - 1))
def test_a_first_put(value: bytes, lease: int, mod: int, sub: int) -> None:
    body = put_record(None, value, lease, mod, sub, -1)
    assert key_value(b"k", body) == KeyValue(b"k", mod, mod, 1, lease, value)
    assert key_value(b"k", body, keys_only=True).value == b""
    assert head_of(body).depth == 1
    assert head_of(body).sub == sub
    assert (mod_of(body), lease_of(body), value_size(body)) == (mod, lease, len(value))
    assert not is_tombstone(body)
    assert jumps_of(body) == []


def test_version_and_create_revision_begin_again_after_a_delete() -> None:
    first = put_record(None, b"1", 9, 5, 0, -1)
    second = put_record(first, b"2", 0, 6, 3, -1)
    assert key_value(b"k", second) == KeyValue(b"k", 5, 6, 2, 0, b"2")
    gone = tombstone_record(second, 8, 1, -1)
    assert is_tombstone(gone)
    assert key_value(b"k", gone) == KeyValue(b"k", 0, 8, 0, 0, b"")
    again = put_record(gone, b"3", 0, 9, 0, -1)
    assert key_value(b"k", again) == KeyValue(b"k", 9, 9, 1, 0, b"3")
    assert head_of(again).depth == 4


@given(st.integers(0, 20), st.sampled_from([-1, 10]), U64, U64)
def test_when_a_record_was_made(depth: int, compacted: int, put_ms: int, deleted_ms: int) -> None:
    """Whatever stands before it: nothing, few versions, many, or compacted ones."""
    body = None
    for revision in range(1, depth + 1):
        body = put_record(body, b"old", 0, revision, 0, -1, 77)
    new = put_record(body, b"value", 3, 30, 1, compacted, put_ms)
    assert key_value(b"k", new) == KeyValue(
        b"k", 1 if depth else 30, 30, depth + 1, 3, b"value", put_ms
    )
    assert key_value(b"k", new, keys_only=True).modified_ms == head_of(new).modified_ms == put_ms
    for compacted_later in (compacted, 30):
        gone = tombstone_record(new, 31, 0, compacted_later, deleted_ms)
        assert event_of(pack_event(b"k", gone, new)) == Event(
            True, KeyValue(b"k", 0, 31, 0, 0, b"", deleted_ms), key_value(b"k", new)
        )
    assert key_value(b"k", put_record(gone, b"", 0, 32, 0, compacted)).modified_ms == 0


def test_jumps_lead_to_the_nearest_multiples() -> None:
    """The record of depth d has mod 10 * d, so a jump says which depth it leads to."""
    body = put_record(None, b"v", 0, 10, 1, -1)
    for depth in range(2, 5_000):
        make = tombstone_record if depth % 7 == 0 else put_record
        arguments = () if depth % 7 == 0 else (b"v", 0)
        body = make(body, *arguments, 10 * depth, depth % 3, -1)
        if depth % 7:
            assert key_value(b"k", body).value == b"v"
        before = depth - 1
        expected = []
        for level in (16, 256, 4096):
            at = before - before % level
            if at:
                expected.append((10 * at, at % 3))
        assert jumps_of(body) == expected
        assert head_of(body).depth == depth


@given(st.binary(min_size=1, max_size=50), st.binary(max_size=50), st.binary(max_size=50))
def test_an_event_comes_back(key: bytes, old: bytes, new: bytes) -> None:
    first = put_record(None, old, 4, 2, 0, -1)
    second = put_record(first, new, 0, 7, 5, -1)
    body = pack_event(key, second, first)
    assert unpack_event(body) == (key, second, first)
    assert event_key_of(body) == key
    assert event_of(body) == Event(
        False, KeyValue(key, 2, 7, 2, 0, new), KeyValue(key, 2, 2, 1, 4, old)
    )
    assert unpack_event(pack_event(key, first, None)) == (key, first, None)


def test_a_tombstone_is_no_previous_record_to_callers() -> None:
    gone = tombstone_record(put_record(None, b"1", 0, 2, 0, -1), 3, 0, -1)
    event = event_of(pack_event(b"k", put_record(gone, b"2", 0, 4, 0, -1), gone))
    assert event == Event(False, KeyValue(b"k", 4, 4, 1, 0, b"2"), None)


def test_the_largest_event_fits_the_engine() -> None:
    value = bytes(VALUE_MAX_BYTES)
    body = put_record(None, value, 1, 1, 0, -1)
    for revision in range(2, 300):
        body = put_record(body, value, 1, revision, 0, -1)
    event = pack_event(b"k" * KEY_MAX_BYTES, put_record(body, value, 1, 300, 0, -1), body)
    assert len(event) < ENGINE_VALUE_MAX_BYTES - 1024


@pytest.mark.parametrize("depth", [15, 16, 17, 255, 256, 257])
def test_a_value_stands_behind_any_number_of_jumps(depth: int) -> None:
    body = None
    for revision in range(1, depth + 2):
        body = put_record(body, b"value", 0, revision, 0, -1)
    assert body is not None
    assert key_value(b"k", body).value == b"value"
    assert value_size(body) == 5


def test_a_chain_begins_again_behind_compaction() -> None:
    """So that a key's record does not grow, nor its depth overflow, however often it is written."""
    body = put_record(None, b"v", 0, 1, 0, -1)
    for revision in range(2, 300):
        body = put_record(body, b"v", 0, revision, 0, -1)
    assert len(jumps_of(body)) == 2
    assert head_of(put_record(body, b"v", 0, 400, 0, 298)).depth == 300
    for new in (put_record(body, b"v", 0, 400, 0, 299), tombstone_record(body, 400, 0, 299)):
        assert head_of(new).depth == 2
        assert jumps_of(new) == []
    assert key_value(b"k", put_record(body, b"w", 3, 400, 0, 299)) == KeyValue(
        b"k", 1, 400, 300, 3, b"w"
    )
