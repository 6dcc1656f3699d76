"""The canonical bytes of sibling sets: exact both ways, and deaf to everything else."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage.siblings import (
    EMPTY_CLOCK,
    Actor,
    Clock,
    Dot,
    MalformedSetError,
    SiblingSet,
    Version,
    decode_set,
    encode_set,
    read_varint,
    write_varint,
)

A = Actor("a", 1, 2)
B = Actor("b", 1, 2)


def _set(*versions: Version, clock: Clock) -> SiblingSet:
    return SiblingSet(tuple(versions), clock)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data())
def test_a_set_comes_back_from_its_bytes(
    data: st.DataObject, any_set: st.SearchStrategy[SiblingSet]
) -> None:
    siblings = data.draw(any_set)
    encoded = encode_set(siblings)
    assert decode_set(encoded) == siblings
    assert encode_set(decode_set(encoded)) == encoded


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data())
def test_other_bytes_are_refused_or_are_another_set(
    data: st.DataObject, any_set: st.SearchStrategy[SiblingSet]
) -> None:
    """Canonical: whatever decodes encodes to exactly the same bytes."""
    encoded = bytearray(encode_set(data.draw(any_set)))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(encoded) - 1))
        encoded[place] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(encoded)))
    for damaged in (bytes(encoded), bytes(encoded[:cut]), bytes(encoded) + b"\x00"):
        try:
            decoded = decode_set(damaged)
        except MalformedSetError:
            continue
        assert encode_set(decoded) == damaged


@given(st.binary(max_size=60))
def test_garbage_raises_nothing_but_the_one_error(garbage: bytes) -> None:
    for data in (garbage, b"\x01" + garbage):
        with contextlib.suppress(MalformedSetError):
            assert encode_set(decode_set(data)) == data


def test_the_order_in_which_a_clock_was_built_does_not_show() -> None:
    assert encode_set(_set(clock=Clock({A: 1, B: 2}))) == encode_set(
        _set(clock=Clock({B: 2, A: 1}))
    )


def test_these_bytes_never_change() -> None:
    siblings = _set(
        Version(Dot("a", 1, 2, 3), b"v", 0x1_0000, 0),
        Version(Dot("b", 1, 2, 9), None, 0x2_0000, 5),
        clock=Clock({A: 3, B: 4}, {B: (7, 9)}),
    )
    assert encode_set(siblings).hex(" ") == (
        "01 02"
        " 01 61 00 00 00 00 00 00 00 01 02 03 00"
        " 01 62 00 00 00 00 00 00 00 01 02 04 02 01 01"
        " 02"
        " 00 03 00 00 00 00 00 00 01 00 00 01 76"
        " 01 09 03 00 00 00 00 00 02 00 00 00 00 00 00 00 00 00 05"
    )


@pytest.mark.parametrize(
    "siblings",
    [
        pytest.param(
            _set(Version(Dot(*A, 2), b"", 0), clock=Clock({A: 1})), id="version-not-covered"
        ),
        pytest.param(
            _set(Version(Dot(*A, 2), b"", 0), Version(Dot(*A, 1), b"", 0), clock=Clock({A: 2})),
            id="versions-out-of-order",
        ),
        pytest.param(_set(clock=Clock({A: 1}, {A: (2,)})), id="gap-that-is-none"),
        pytest.param(_set(clock=Clock({A: 1}, {A: (5, 4)})), id="falling-beyond"),
        pytest.param(_set(clock=Clock({A: 0})), id="actor-without-a-dot"),
        pytest.param(_set(clock=Clock({Actor("", 1, 1): 1})), id="no-node"),
        pytest.param(_set(clock=Clock({Actor("x" * 65, 1, 1): 1})), id="long-node"),
    ],
)
def test_a_set_out_of_normal_form_is_never_written(siblings: SiblingSet) -> None:
    with pytest.raises(AssertionError):
        encode_set(siblings)


def test_a_newer_format_says_which() -> None:
    with pytest.raises(MalformedSetError, match="format 2; this program reads 1"):
        decode_set(b"\x02\x00\x00")


@given(st.integers(0, (1 << 64) - 1))
def test_numbers_keep_their_value_and_have_one_form(number: int) -> None:
    out = bytearray()
    write_varint(out, number)
    assert read_varint(bytes(out), 0) == (number, len(out))
    out[-1] |= 0x80
    with pytest.raises(MalformedSetError, match="too wide"):
        read_varint(bytes(out) + b"\x00", 0)


def test_numbers_over_64_bits_are_refused() -> None:
    out = bytearray()
    write_varint(out, 1 << 64)
    with pytest.raises(MalformedSetError, match="too wide"):
        read_varint(bytes(out), 0)


def test_what_a_clock_covers() -> None:
    clock = Clock({A: 3}, {A: (5, 8), B: (2,)})
    covered = [n for n in range(1, 10) if clock.covers(Dot(*A, n))]
    assert covered == [1, 2, 3, 5, 8]
    assert [n for n in range(1, 5) if clock.covers(Dot(*B, n))] == [2]
    assert clock.highest(A) == 8
    assert clock.highest(Actor("c", 0, 0)) == 0
    assert not EMPTY_CLOCK.covers(Dot(*A, 1))
    assert not EMPTY_CLOCK


def test_a_set_is_reapable_once_nothing_in_it_lives() -> None:
    clock = Clock({A: 3})
    deleted = Version(Dot(*A, 1), None, 0)
    brief = Version(Dot(*A, 2), b"x", 0, expiry_ms=500)
    lasting = Version(Dot(*A, 3), b"x", 0)
    assert _set(deleted, clock=clock).reapable_from_ms() == 0
    assert _set(deleted, brief, clock=clock).reapable_from_ms() == 500
    assert _set(deleted, brief, lasting, clock=clock).reapable_from_ms() is None
    assert _set(clock=clock).reapable_from_ms() == 0
    assert not brief.dead(499)
    assert brief.dead(500)
    assert deleted.dead(0)
    assert not lasting.dead(1 << 60)


def test_a_part_of_a_counter_keeps_its_mark_and_must_be_a_number() -> None:
    part = _set(Version(Dot(*A, 1), b"-5", 9, part=True), clock=Clock({A: 1}))
    assert decode_set(encode_set(part)) == part
    plain = _set(Version(Dot(*A, 1), b"-5", 9), clock=Clock({A: 1}))
    assert encode_set(plain, for_digest=True) != encode_set(part, for_digest=True)
    with pytest.raises(MalformedSetError, match="no whole number"):
        decode_set(encode_set(part).replace(b"-5", b"xx"))
