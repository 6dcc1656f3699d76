"""Keys sort as what they stand for; records prove themselves."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.codec import (
    FORMAT_VERSION,
    KEY_MAX_BYTES,
    VALUE_MAX_BYTES,
    Table,
    check_key,
    check_value,
    group_bytes,
    key_u32,
    key_u32_u64,
    key_u64,
    key_u64_u64,
    key_u64_u64_u32,
    prefix_end,
    seal,
    seal_all,
    table_range,
    ungroup_bytes,
    unseal,
)
from storage.engine import ENGINE_KEY_MAX_BYTES
from storage.errors import (
    CorruptRecordError,
    EmptyKeyError,
    KeyTooLongError,
    UnknownFormatError,
    ValueTooLargeError,
)

U32 = st.integers(0, 2**32 - 1)
U64 = st.integers(0, 2**64 - 1)
# Zero and 0xff bytes, and lengths around the groups of eight, are where an encoding goes wrong.
RAW = st.one_of(
    st.binary(max_size=40),
    st.lists(st.sampled_from([b"\x00", b"\xff", b"a"]), max_size=34).map(b"".join),
    st.sampled_from([b"\x00" * 432, b"\xff" * 432, b"\x00" * 431, b"\xff" * 431, b"\x00" * 8]),
)
TABLES = st.sampled_from(Table)


def test_tags_are_distinct_and_leave_room_above() -> None:
    assert len(Table.__members__) == len({int(table) for table in Table})
    assert all(0 < table < 0xFF for table in Table)


@given(TABLES, TABLES, RAW, RAW)
def test_no_key_of_a_table_lies_in_the_range_of_another(
    mine: Table, other: Table, raw: bytes, more: bytes
) -> None:
    start, end = table_range(mine)
    assert start <= key_u32(mine, 2**32 - 1, raw) < end
    assert start <= mine.to_bytes(1, "big") + more < end
    assert (start <= key_u64(other, 0, raw) < end) == (mine is other)


@given(st.tuples(U32, RAW), st.tuples(U32, RAW))
def test_a_keyspace_and_raw_bytes_sort_as_a_pair(
    a: tuple[int, bytes], b: tuple[int, bytes]
) -> None:
    assert (key_u32(Table.CURRENT, *a) < key_u32(Table.CURRENT, *b)) == (a < b)


@given(st.tuples(U64, U64, U32), st.tuples(U64, U64, U32))
def test_numbers_sort_as_numbers(a: tuple[int, int, int], b: tuple[int, int, int]) -> None:
    assert (key_u64_u64_u32(Table.EVENT, *a) < key_u64_u64_u32(Table.EVENT, *b)) == (a < b)
    assert key_u64_u64(Table.JOURNAL, *a[:2]) == key_u64_u64_u32(Table.JOURNAL, *a)[:-4]


@given(st.tuples(U32, U64, RAW), st.tuples(U32, U64, RAW))
def test_a_lease_key_sorts_as_a_triple(
    a: tuple[int, int, bytes], b: tuple[int, int, bytes]
) -> None:
    assert (key_u32_u64(Table.LEASE_KEY, *a) < key_u32_u64(Table.LEASE_KEY, *b)) == (a < b)


def followed(raw: bytes, number: int) -> bytes:
    """The longest kind of key: tag, keyspace, grouped key, revision."""
    return key_u32(Table.CURRENT, 2**32 - 1, group_bytes(raw) + number.to_bytes(8, "big"))


@given(st.tuples(RAW, U64), st.tuples(RAW, U64))
def test_grouped_bytes_keep_their_order_before_what_follows(
    a: tuple[bytes, int], b: tuple[bytes, int]
) -> None:
    assert (followed(*a) < followed(*b)) == (a < b)
    assert (group_bytes(a[0]) < group_bytes(b[0])) == (a[0] < b[0])


@given(RAW, st.binary(max_size=20), st.binary(max_size=9))
def test_grouped_bytes_come_back_wherever_they_stand(
    raw: bytes, behind: bytes, before: bytes
) -> None:
    key = before + group_bytes(raw) + behind
    assert ungroup_bytes(key, len(before)) == (raw, len(key) - len(behind))


@given(RAW, RAW)
def test_no_grouped_bytes_are_a_prefix_of_others(a: bytes, b: bytes) -> None:
    assert a == b or not group_bytes(b).startswith(group_bytes(a))


@pytest.mark.parametrize("byte", [b"\x00", b"\xff"])
def test_the_longest_key_fits_the_engine(byte: bytes) -> None:
    longest = byte * KEY_MAX_BYTES
    check_key(longest)
    assert len(group_bytes(longest)) == 495
    assert len(followed(longest, 2**64 - 1)) == 508 <= ENGINE_KEY_MAX_BYTES
    assert ungroup_bytes(group_bytes(longest)) == (longest, 495)
    shorter = longest[:-1]
    assert followed(shorter, 2**64 - 1) < followed(longest, 0)


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        b"abc",
        group_bytes(b"abc")[:-1],
        b"abc\x00\x00\x00\x00\x01\xfa",  # padding that is not zero
        b"abcdefgh\xff",  # says that another group follows
        b"abcdefgh\x00",  # a marker that means nothing
    ],
)
def test_bytes_that_are_not_grouped_are_refused(broken: bytes) -> None:
    with pytest.raises(CorruptRecordError, match="not well formed"):
        ungroup_bytes(broken)


@given(RAW, RAW)
def test_prefix_end_is_the_tightest_bound(prefix: bytes, rest: bytes) -> None:
    end = prefix_end(prefix)
    if end is None:
        assert not prefix.strip(b"\xff")
        return
    assert prefix + rest < end
    assert not end.startswith(prefix)
    # Nothing without the prefix lies between.
    assert end[:-1] + bytes((end[-1] - 1,)) == prefix[: len(end)]


def test_limits_are_named() -> None:
    check_key(b"a")
    check_value(b"")
    check_value(bytes(VALUE_MAX_BYTES))
    with pytest.raises(EmptyKeyError, match="1 to 432 bytes"):
        check_key(b"")
    with pytest.raises(KeyTooLongError, match="433 bytes is over the limit of 432"):
        check_key(b"a" * 433)
    with pytest.raises(ValueTooLargeError, match=r"1048577 bytes .* limit of 1048576"):
        check_value(bytes(VALUE_MAX_BYTES + 1))


@given(st.binary(min_size=1, max_size=60), st.binary(max_size=300))
def test_a_sealed_record_comes_back(key: bytes, body: bytes) -> None:
    assert unseal(key, seal(key, body)) == body


@given(st.binary(min_size=1, max_size=30), st.binary(max_size=60), st.data())
def test_any_change_of_record_or_key_is_noticed(
    key: bytes, body: bytes, data: st.DataObject
) -> None:
    record = seal(key, body)
    at = data.draw(st.integers(0, len(record) - 1))
    flip = data.draw(st.integers(1, 255))
    damaged = record[:at] + bytes((record[at] ^ flip,)) + record[at + 1 :]
    with pytest.raises(CorruptRecordError) as refused:
        unseal(key, damaged)
    assert refused.value.key == key
    assert repr(key) in str(refused.value)
    for shorter in (record[:at], record[at + 1 :]):
        with pytest.raises(CorruptRecordError):
            unseal(key, shorter)
    other = bytes((key[0] ^ flip,)) + key[1:]
    with pytest.raises(CorruptRecordError):
        unseal(other, record)


def test_a_newer_format_is_told_from_damage() -> None:
    from struct import pack
    from zlib import crc32

    version = FORMAT_VERSION + 1
    checksum = crc32(b"body", crc32(b"key", crc32(bytes((version,)))))
    record = pack(">BI", version, checksum) + b"body"
    with pytest.raises(UnknownFormatError, match=r"b'key' has format version 2 .* reads 1"):
        unseal(b"key", record)
    with pytest.raises(CorruptRecordError):
        unseal(b"key", record[:-1] + b"x")


def test_many_rows_are_sealed_as_one_by_one() -> None:
    rows = {b"%d" % number: bytes(number) for number in range(20)}
    assert seal_all(list(rows), rows.values()) == [seal(key, body) for key, body in rows.items()]
    with pytest.raises(ValueError, match="zip"):
        seal_all([b"key"], [])
